//! What a trainer tells whoever watches it; the library itself draws nothing.

use std::path::Path;

use crate::{
    data::{Method, Stage},
    run::Row,
};

/// Something that happened in a run.
#[derive(Clone, Copy, Debug)]
pub enum Event<'a> {
    /// Something that a reader of the run should know; a paragraph.
    Warning(&'a str),
    /// Training begins or goes on.
    Begun {
        /// Optimizer steps done before.
        done: usize,
        /// Optimizer steps of the whole run.
        total: usize,
    },
    /// A stage begins; no step of it was taken before.
    StageBegins {
        /// The method that is trained.
        method: Method,
        /// The stage.
        stage: Stage,
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
        /// The step's number, from 1.
        step: usize,
        /// Mean cross entropy over the step's labels, in nats.
        loss: f64,
        /// Tokens per second, padding not counted.
        tokens_per_s: f64,
    },
    /// An evaluation begins, and after it each time a batch of questions is answered.
    Evaluating {
        /// Questions answered so far.
        answered: usize,
        /// All questions.
        questions: usize,
    },
    /// An evaluation is done and written.
    Evaluated(&'a Row),
    /// A checkpoint is written.
    Saved(&'a Path),
    /// A stage's last epoch is trained, evaluated and saved.
    StageEnds {
        /// The method that is trained.
        method: Method,
        /// The stage.
        stage: Stage,
    },
}
