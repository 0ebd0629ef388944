//! The transformer. It knows nothing of latents: it takes input embeddings, position ids and a
//! cache, and returns hidden states.

pub mod cache;
pub mod config;
pub mod layers;
pub mod parameters;
pub mod transformer;
pub mod weights;

pub use cache::Cache;
pub use config::ModelConfig;
pub use transformer::{HiddenStates, Transformer};
