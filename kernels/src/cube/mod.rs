//! Bodies for GPUs, in CubeCL: one source for WGSL, SPIR-V, CUDA and HIP.

mod attention;
mod layout;

pub(crate) use attention::{attention, fusable};
pub(crate) use layout::Kept;
