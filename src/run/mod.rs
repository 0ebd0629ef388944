//! A run's folder: every file format once, with its writer and its reader.
//!
//! - [`RunFolder`]: where each of them lies.
//! - [`MetricsLog`]: one record a step and an evaluation, as JSON lines, CSV, and what TensorBoard and
//!   Weights & Biases read.
//! - [`Results`]: `results.json`, a row an evaluation.
//! - [`Sample`]: `samples.jsonl`, a line a question.

pub(crate) mod file;
mod folder;
mod leveldb;
mod machine;
mod metrics;
mod protobuf;
mod record;
mod results;
pub(crate) mod samples;
mod tensorboard;
mod tracker;
mod wandb;

pub use crate::stats::wilson_interval;
pub use folder::RunFolder;
pub use metrics::{MetricsLog, read_metrics};
pub use record::{Record, StepMetrics};
pub use results::{Results, Row};
pub use samples::{Sample, append_samples};
