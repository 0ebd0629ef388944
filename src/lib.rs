//! Language models that reason in a continuous latent space: train, evaluate, open up.

pub mod data;
pub mod error;
pub mod latent;
pub mod log;
pub mod loss;
pub mod model;
pub mod report;
pub mod rng;

pub use error::{Error, Result};
