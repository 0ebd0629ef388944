//! Language models that reason in a continuous latent space: train, evaluate, open up.

pub mod checkpoint;
pub mod config;
pub mod data;
pub mod device;
pub mod error;
pub mod eval;
pub mod hub;
pub mod latent;
pub mod memory;
pub mod model;
pub mod objective;
pub mod optim;
pub mod report;
pub mod rng;
pub mod run;
pub mod stats;
pub mod sweep;
pub mod train;

pub use error::{Error, Result};
