//! Bodies for the CPU, on the storage of Burn's Flex backend.
//!
//! Each takes operands that were found [`fusable`] (a matrix: [`readable`]) and fit, and is the operation
//! of the same name in the crate's root. [`bridge`] is the way to Burn and back.

mod adamw;
mod attention;
mod bridge;
mod conv1d;
mod cross_entropy;
mod deferred;
mod embedding;
mod gelu;
mod linear;
mod matrix;
mod norm;
mod pick;
mod rotary;
pub mod simd;
mod swiglu;
mod weight;

pub(crate) use adamw::{adamw, squared_norm};
pub(crate) use attention::attention;
pub(crate) use bridge::fusable;
pub(crate) use conv1d::conv1d;
pub(crate) use cross_entropy::cross_entropy;
pub use deferred::Deferred;
pub(crate) use deferred::defer;
pub(crate) use embedding::embedding;
pub(crate) use gelu::gelu;
pub(crate) use linear::linear;
pub(crate) use norm::{layer_norm, rms_norm};
pub(crate) use pick::pick;
pub(crate) use rotary::{head_norm, rotary};
pub(crate) use swiglu::swiglu;
pub(crate) use weight::readable;
