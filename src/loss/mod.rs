//! Losses, each a function of a batch and its trace.

pub mod cross_entropy;

pub use cross_entropy::cross_entropy;
