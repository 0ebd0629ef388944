//! What a step trains: a weighted sum of terms, each a function of a batch and its trace.
//!
//! - [`Objective`]: the sum. It says which rows an example becomes, what the forward pass must keep, and
//!   what the losses are. A new objective is a new [`Term`].
//! - [`mod@cross_entropy`], [`SeqVcr`]: what a term computes.
//! - [`ObjectiveParameters`]: what terms learn themselves; [`Learner`]: a model together with them.

pub mod cross_entropy;
pub mod decoder;
pub mod distil;
pub mod kv;
pub mod learner;
pub mod parameters;
pub mod seq_vcr;
pub mod terms;

pub use cross_entropy::cross_entropy;
pub use decoder::{DecoderSettings, DecoderStyle, StepDecoder};
pub use distil::{DistilLayers, distil};
pub use kv::{KvDistance, KvSettings, kv_distance};
pub use learner::Learner;
pub use parameters::ObjectiveParameters;
pub use seq_vcr::SeqVcr;
pub use terms::{Denominators, LOSS, Losses, Objective, StepsAt, Term};
