//! The transformer. It knows nothing of latents: it takes input embeddings, position ids and a
//! cache, and returns hidden states.

pub mod cache;
pub mod cells;
pub mod config;
mod context;
pub mod gpt2;
pub mod init;
pub mod json;
pub mod layers;
pub mod llama;
pub mod lora;
pub mod parameters;
pub mod positions;
pub mod tensors;
pub mod transformer;
pub mod weights;

pub use cache::Cache;
pub use cells::{Cells, Layout, Reads};
pub use config::ModelConfig;
pub use lora::Lora;
pub use positions::Positions;
pub use transformer::{HiddenStates, Transformer};
