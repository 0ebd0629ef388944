//! Language models that reason in a continuous latent space: train, evaluate, open up.

pub mod error;

pub use error::{Error, Result};
