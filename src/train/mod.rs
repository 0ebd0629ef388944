//! Training: a recipe's data, its first model, the loop.

pub mod data;
pub mod event;
pub mod group;
pub mod start;
pub mod step;
pub mod steps;
pub mod trainer;

pub use data::Data;
pub use event::Event;
pub use group::{Group, Network, Share};
pub use start::{Beginning, agree_on_data, agree_on_recipe, initial_model, model_config};
pub use step::{StepOptions, StepReport, step};
pub use steps::{EpochSteps, StepBatches};
pub use trainer::Trainer;
