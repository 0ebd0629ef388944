//! How thoughts are made: the settings, under the names of the recipe's keys.

use serde::{Deserialize, Serialize};

use super::{Feedback, LatentPositions, batch::PassPlan};
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
        }
    }
}

impl LatentConfig {
    /// Whether the replication's readings are wanted.
    pub fn replicates(&self) -> bool {
        self.compat == Compat::Replication
    }

    /// How rows become passes where `latent` is fed back to; with `None` every token is text.
    pub fn plan(&self, latent: Option<u32>) -> PassPlan {
        let first_latent_position = match self.latent_positions {
            LatentPositions::Offset(offset) => Some(offset),
            _ => None,
        };
        PassPlan { latent, first_latent_position, replication: self.replicates() }
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
}
