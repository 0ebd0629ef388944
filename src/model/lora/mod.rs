//! Low-rank adapters (Hu et al. 2021, arXiv 2106.09685): the output `W x` of each chosen linear layer becomes
//! `W x + α/r · B A x`, and only `A`, `B` and the rows of a few tokens are trained. Files are PEFT's:
//! `adapter_config.json` and `adapter_model.safetensors`.

mod attach;
mod config;
mod files;
mod merge;

pub use config::{
    ADAPTER_FILE, ALL_LINEAR, Base, CONFIG_FILE, FrozenDtype, Lora, Pattern, Targets, Tokens,
};
