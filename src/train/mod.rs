//! Training: the loop and what it is made of.

pub mod checkpoint;
pub mod dataset;
pub mod optim;
pub mod trainer;

pub use trainer::Trainer;
