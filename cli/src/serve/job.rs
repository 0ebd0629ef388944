//! What the thread of the model is given, one row each, and what it tells of it.

use std::time::Instant;

use coconut::eval::{End, Sampling, Thought, TokenLogProb};
use tokio::sync::mpsc::UnboundedSender;

use super::failure::Failure;
use crate::edit::ByHand;

/// A row to be run.
#[derive(Debug)]
pub struct Job {
    /// Token ids that the model is given.
    pub prompt: Vec<u32>,
    /// Whether it ends where turns of a chat end.
    pub chat: bool,
    /// Whether it goes on past the tokens that end answers.
    pub endless: bool,
    pub max_new_tokens: usize,
    pub sampling: Sampling,
    /// Tokens that each thought is read as, if thoughts are to be shown.
    pub thoughts: Option<usize>,
    pub change: Option<Change>,
    /// How often latents are computed anew, if that is to differ from the model's own settings.
    pub iterations: Option<usize>,
    /// How many of the likeliest tokens are told beside each token that is said.
    pub log_probs: Option<usize>,
    /// Whether the same is told of the prompt's tokens.
    pub scored: bool,
    /// When it must have ended.
    pub deadline: Instant,
    /// Who asks; it is closed once nobody listens any more.
    pub news: UnboundedSender<News>,
}

/// What is done to a row's thoughts.
#[derive(Clone, Debug)]
pub struct Change {
    pub edit: ByHand,
    /// Token ids of the prompt whose thoughts are transplanted.
    pub donor: Option<Vec<u32>>,
}

/// What a row's client is told.
#[derive(Debug)]
pub enum News {
    /// The prompt was run.
    Begun(Begun),
    /// One more token.
    Token {
        id: u32,
        /// Why the row ends with it, if it does.
        end: Option<End>,
        log_prob: Option<TokenLogProb>,
    },
    /// There will be nothing more.
    Failed(Failure),
}

/// What was seen of a prompt.
#[derive(Debug, Default)]
pub struct Begun {
    pub thoughts: Vec<Thought>,
    /// What the step decoder reads in them.
    pub readout: Vec<String>,
    /// Of its tokens from the second on, if the job asks for them.
    pub log_probs: Vec<TokenLogProb>,
}
