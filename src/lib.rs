//! Language models that reason in a continuous latent space: train, evaluate, open up.

pub mod config;
pub mod data;
pub mod device;
pub mod error;
pub mod eval;
pub mod hub;
pub mod latent;
pub mod log;
pub mod loss;
pub mod model;
pub mod report;
pub mod rng;
pub mod sweep;
pub mod train;

pub use error::{Error, Result};
