//! The transformer. It knows nothing of latents: it takes input embeddings, position ids and a
//! cache, and returns hidden states.

pub mod cache;
pub mod config;
mod context;
pub mod gpt2;
pub mod hidden;
pub mod init;
pub mod json;
pub mod layers;
pub mod layout;
pub mod llama;
pub mod lora;
pub mod parameters;
pub mod positions;
pub mod rotary;
pub mod tensors;
pub mod transformer;
pub mod weights;

pub use cache::{Cache, NewColumns};
pub use config::ModelConfig;
pub use hidden::HiddenStates;
pub use layout::{LastReads, PassLayout, SharedPrefix, TokenInts, TokenLayout};
pub use lora::Lora;
pub use positions::Positions;
pub use transformer::Transformer;
