//! Language models that reason in a continuous latent space: train, evaluate, open up.
//!
//! Instead of writing its reasoning as words, such a model feeds a hidden state, a *thought*, back as its next
//! input embedding. Every formula is in `docs/method.md`, the words and the map in `ARCHITECTURE.md`.
//!
//! # The flow
//!
//! ```text
//! config ──► data: Example ─► Encoded ─► Curriculum ─► Sequence      text to token ids, no tensors
//!                                                         │
//!            latent: Batch (rows as passes) ◄─────────────┘
//!                      │
//!            latent::forward ─► Trace (hidden states, thoughts, cache)
//!                      │                    │
//!            objective: losses        eval: generate, judge, measure
//!                      │                    │
//!            train: gradients, AdamW  ──►  checkpoint, run, report
//! ```
//!
//! | to … | begin with |
//! | --- | --- |
//! | open a trained model | [`checkpoint::Checkpoint::load`] |
//! | run it, and look inside | [`latent::forward()`], [`latent::Trace`] |
//! | let it answer | [`eval::generate()`] |
//! | train a recipe | [`config::RunConfig::load`], [`train::Trainer`] |
//! | use the transformer alone | [`model::Transformer`] |
//!
//! # Example
//!
//! A question goes through a checkpoint in one pass a thought; `examples/thoughts.rs` goes on from here.
//!
//! ```no_run
//! use coconut::{checkpoint::Checkpoint, device, latent::{self, ReadSet, batch::{Batch, Row}}};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let folder = "runs/quickstart/checkpoints/latest".as_ref();
//! let Checkpoint { model, tokenizer, .. } = Checkpoint::load(folder, &device::cpu())?;
//! let markers = tokenizer.special_tokens();
//!
//! let mut ids = tokenizer.encode("3+5*2-7+1\n", true)?.ids;
//! ids.push(markers.start_latent);
//! ids.extend([markers.latent; 8]); // eight thoughts
//! ids.push(markers.end_latent);
//!
//! let batch = Batch::new(&[Row::unlabelled(&ids)], &model.config.plan(markers.latent, 0))?;
//! let trace = latent::forward(&model, &batch, ReadSet::ALL);
//! assert_eq!(trace.thoughts_in_order(&batch).len(), 8); // each [batch, 1, d_model]
//! let logits = trace.ends(&batch).map(|hidden| model.transformer.logits(hidden)); // [batch, vocab]
//! # Ok(())
//! # }
//! ```

pub mod audit;
pub mod checkpoint;
pub mod config;
pub mod data;
pub mod device;
pub mod error;
pub mod eval;
pub mod hub;
pub mod import;
pub mod latent;
pub mod linalg;
pub mod memory;
pub mod model;
pub mod objective;
pub mod optim;
mod quiet;
pub mod report;
pub mod rng;
pub mod run;
pub mod stats;
pub mod sweep;
pub mod train;

pub use error::{Error, Result};
