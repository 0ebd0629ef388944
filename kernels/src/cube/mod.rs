//! Bodies for GPUs, as CubeCL kernels on the storage of Burn's Cube backend: one source for WGSL, SPIR-V, Metal, CUDA
//! and HIP.
//!
//! Each takes operands that were found [`fusable`] and fit, and is the operation of the same name in the crate's root.
//! [`bridge`] is the way to Burn and back.

mod attention;
mod bridge;
mod cells;

pub(crate) use attention::attention;
pub(crate) use bridge::fusable;
pub(crate) use cells::CellTable;
