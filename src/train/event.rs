//! What a trainer tells whoever watches; the library itself draws nothing.

use std::path::Path;

use crate::{
    data::{Method, Stage},
    run::Row,
};

/// Something that happened in a run.
#[derive(Clone, Copy, Debug)]
pub enum Event<'a> {
    /// Training begins or goes on.
    Begun {
        /// Optimizer steps done before.
        done: usize,
        /// Optimizer steps of the whole run.
        total: usize,
    },
    /// An epoch begins, or what is left of it.
    Epoch {
        /// The method that is trained.
        method: Method,
        /// The epoch's stage.
        stage: Stage,
        /// The epoch, from 0.
        epoch: usize,
    },
    /// An optimizer step is done.
    Step {
        /// Mean cross entropy over its labels, in nats.
        loss: f64,
        /// Tokens per second, padding not counted.
        tokens_per_s: f64,
    },
    /// An evaluation begins.
    Evaluating {
        /// The number of its questions.
        questions: usize,
    },
    /// An evaluation is done and written.
    Evaluated(&'a Row),
    /// A checkpoint is written.
    Saved(&'a Path),
}
