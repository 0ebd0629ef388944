//! How thoughts are made: the settings, under the names of the recipe's keys.

use serde::{Deserialize, Serialize};

use super::{
    Feedback, LatentPositions,
    batch::{Parallel, PassPlan},
};
use crate::model::config::Family;

/// How thoughts are made. Recipes and `latent.json` have the same keys.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct LatentConfig {
    /// What a latent is fed.
    #[serde(rename = "replacement_method")]
    pub feedback: Feedback,
    /// ε of `suppressed`.
    pub suppressed_epsilon: f64,
    /// Whether ε is a share of the root mean square of the state that may be suppressed.
    pub suppressed_relative: bool,
    /// Whether the last hidden state is taken before the final norm.
    pub last_state_unnormed: bool,
    /// Whose behaviour is reproduced.
    pub compat: Compat,
    /// Where thoughts stand.
    pub latent_positions: LatentPositions,
    /// In which order latents are computed.
    pub thinking: Thinking,
    /// How often they are computed anew, thinking in parallel.
    pub iterations: Iterations,
    /// Whether a latent is then fed what the position before it computed (1), or what it computed itself (0).
    pub latent_shift: Shift,
    /// Whether a latent then keeps its own embedding beside what it is fed.
    pub latent_residual: bool,
}

/// In which order latents are computed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Thinking {
    /// They are ordinary tokens, to which nothing is fed back.
    None,
    /// One after the other.
    #[default]
    Sequential,
    /// All together, again and again.
    Parallel,
}

/// How often latents are computed anew.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "serde_json::Value", into = "serde_json::Value")]
pub enum Iterations {
    /// As often as steps have given way to latents at the stage.
    #[default]
    Stage,
    /// So often.
    Times(usize),
}

impl TryFrom<serde_json::Value> for Iterations {
    type Error = String;

    fn try_from(value: serde_json::Value) -> Result<Self, String> {
        match (value.as_u64(), value.as_str()) {
            (Some(times), _) if times <= 1000 => Ok(Self::Times(times as usize)),
            (_, Some("stage")) => Ok(Self::Stage),
            _ => Err("expected `stage`, or a number from 0 to 1000".into()),
        }
    }
}

impl From<Iterations> for serde_json::Value {
    fn from(iterations: Iterations) -> Self {
        match iterations {
            Iterations::Stage => "stage".into(),
            Iterations::Times(times) => times.into(),
        }
    }
}

impl Iterations {
    /// How often that is where `replaced` steps have given way to latents.
    pub fn at(self, replaced: usize) -> usize {
        match self {
            Self::Stage => replaced,
            Self::Times(times) => times,
        }
    }
}

/// From where a latent is fed, thinking in parallel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "u8", into = "u8")]
pub enum Shift {
    /// From itself.
    #[default]
    Own,
    /// From the position before it, as words are.
    Before,
}

impl TryFrom<u8> for Shift {
    type Error = String;

    fn try_from(value: u8) -> Result<Self, String> {
        match value {
            0 => Ok(Self::Own),
            1 => Ok(Self::Before),
            _ => Err("expected 0 or 1".into()),
        }
    }
}

impl From<Shift> for u8 {
    fn from(shift: Shift) -> Self {
        u8::from(shift == Shift::Before)
    }
}

impl Default for LatentConfig {
    fn default() -> Self {
        Self {
            feedback: Feedback::default(),
            suppressed_epsilon: 0.1,
            suppressed_relative: false,
            last_state_unnormed: false,
            compat: Compat::None,
            latent_positions: LatentPositions::None,
            thinking: Thinking::Sequential,
            iterations: Iterations::Stage,
            latent_shift: Shift::Own,
            latent_residual: false,
        }
    }
}

impl LatentConfig {
    /// Whether the replication's readings are wanted.
    pub fn replicates(&self) -> bool {
        self.compat == Compat::Replication
    }

    /// Whether anything is fed back to latents.
    pub fn feeds_back(&self) -> bool {
        self.thinking != Thinking::None
    }

    /// How rows become passes whose latents are the token `latent`, at a stage where `replaced` steps have given way
    /// to them.
    pub fn plan(&self, latent: u32, replaced: usize) -> PassPlan {
        let parallel = Parallel {
            iterations: self.iterations.at(replaced),
            shift: self.latent_shift == Shift::Before,
            residual: self.latent_residual,
        };
        PassPlan {
            latent: self.feeds_back().then_some(latent),
            parallel: (self.thinking == Thinking::Parallel).then_some(parallel),
            first_latent_position: match self.latent_positions {
                LatentPositions::Offset(offset) => Some(offset),
                _ => None,
            },
            replication: self.replicates(),
            reads_last_latent: false,
            shares_prefix: !self.replicates(),
        }
    }

    /// Refuses what a model of `n_layer` blocks and of a family cannot do.
    ///
    /// # Errors
    /// The recipe's key at fault, and what is wrong with it.
    pub fn check(&self, n_layer: usize, family: Family) -> Result<(), (&'static str, String)> {
        if !self.replicates() {
            self.feedback.check(n_layer).map_err(|problem| ("replacement_method", problem))?;
        }
        if matches!(self.latent_positions, LatentPositions::Offset(_)) && family == Family::Gpt2 {
            let problem = format!(
                "is `{}`, but the model is `gpt2`, whose positions are a learned table; choose none, learned or sinusoidal",
                self.latent_positions
            );
            return Err(("latent_positions", problem));
        }
        Ok(())
    }
}

impl From<Feedback> for LatentConfig {
    fn from(feedback: Feedback) -> Self {
        Self { feedback, ..Self::default() }
    }
}

/// A published behaviour to reproduce.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Compat {
    /// Everything does what its name says.
    #[default]
    None,
    /// As `wassname/coconut` computed its table: one index k is the slice `k:k+1`, so `hs[-1]` is empty and
    /// feeds back zero; every row is read at the last position of the pass; `ie` is read as many columns
    /// from the row's start as the pass is long.
    Replication,
    /// As SIM-CoT's program for CODI cuts what its decoder is to say: to one token more than the text of the same slot
    /// in the batch's first row.
    Simcot,
}
