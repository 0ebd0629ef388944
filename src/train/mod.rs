//! Training: a recipe's data, its first model, the loop.

pub mod data;
pub mod event;
pub mod start;
pub mod steps;
pub mod trainer;

pub use data::Data;
pub use event::Event;
pub use start::{initial_model, model_config};
pub use steps::EpochSteps;
pub use trainer::Trainer;
