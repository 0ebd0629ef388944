//! Losses, each a function of a batch and its trace.

pub mod cross_entropy;
pub mod seq_vcr;

pub use cross_entropy::cross_entropy;
pub use seq_vcr::SeqVcr;
