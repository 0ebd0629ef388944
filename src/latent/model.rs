//! A model that thinks: the transformer, what is fed back into it, and what only thoughts have.

use burn::{
    module::{Module, Param},
    tensor::{Device, Tensor, TensorData},
};
use serde::{Deserialize, Serialize};

use super::{
    LatentPositions, Reinject,
    feedback::{Learned, terms},
};
use crate::{
    model::{Transformer, config::Family, layers::Embedding},
    rng,
};

/// The file beside the transformer's weights that holds the parameters of thoughts and of the
/// objective, if there are any.
pub const LATENT_WEIGHTS_FILE: &str = "latent.safetensors";

/// How thoughts are made: under the names of the recipe's keys.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Thinking {
    /// What a latent is fed.
    #[serde(rename = "replacement_method")]
    pub reinject: Reinject,
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

impl Default for Thinking {
    fn default() -> Self {
        Self {
            reinject: Reinject::default(),
            suppressed_epsilon: 0.1,
            suppressed_relative: false,
            last_state_unnormed: false,
            compat: Compat::None,
            latent_positions: LatentPositions::None,
        }
    }
}

impl Thinking {
    /// Whether the replication's readings are wanted.
    pub fn replicates(&self) -> bool {
        self.compat == Compat::Replication
    }

    /// Refuses what a model of `n_layer` blocks and of a family cannot do.
    ///
    /// # Errors
    /// The recipe's key at fault, and what is wrong with it.
    pub fn check(&self, n_layer: usize, family: Family) -> Result<(), (&'static str, String)> {
        if !self.replicates() {
            self.reinject.check(n_layer).map_err(|problem| ("replacement_method", problem))?;
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

impl From<Reinject> for Thinking {
    fn from(reinject: Reinject) -> Self {
        Self { reinject, ..Self::default() }
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

/// The transformer, and what only thoughts have. The names of its parameters are those of the two
/// files that hold them; the two fields give them no prefix.
#[derive(Module, Debug)]
pub struct LatentModel {
    /// The transformer.
    pub transformer: Transformer,
    /// Parameters of thoughts.
    pub thoughts: ThoughtParameters,
    /// How thoughts are made.
    #[module(skip)]
    pub thinking: Thinking,
}

/// Parameters that are not the transformer's.
#[derive(Module, Debug)]
pub struct ThoughtParameters {
    /// The reinjection's.
    pub reinject: Learned,
    /// Encodings of the thoughts' indices, `[latents, d_model]`, if they are learned.
    pub latent_positions: Option<Embedding>,
}

/// Sizes of what a [`LatentModel`] adds.
#[derive(Clone, Copy, Debug, Default)]
pub struct Extras {
    /// Most latents of a row, for learned latent positions.
    pub latents: usize,
    /// Seed of fresh parameters.
    pub seed: u64,
}

impl LatentModel {
    /// A transformer with fresh parameters of thoughts.
    ///
    /// # Errors
    /// The recipe's key at fault, and what is wrong with it for this transformer.
    pub fn new(
        transformer: Transformer,
        thinking: Thinking,
        extras: Extras,
    ) -> Result<Self, (&'static str, String)> {
        let config = &transformer.config;
        thinking.check(config.n_layer, config.family)?;
        let (d, std, device) = (config.d_model, config.initializer_range, transformer.device());
        let table = |rows: usize| {
            let mut rng = rng::stream(extras.seed, &[rng::THOUGHTS, 1]);
            let data = TensorData::new(rng::normals(&mut rng, rows * d, std as f32), [rows, d]);
            Embedding::from(Param::from_tensor(Tensor::from_data(data, &device)))
        };
        let learned = thinking.latent_positions == LatentPositions::Learned;
        let thoughts = ThoughtParameters {
            reinject: Learned::new(&thinking.reinject, d, std, extras.seed, &device),
            latent_positions: learned.then(|| table(extras.latents.max(1))),
        };
        Ok(Self { transformer, thoughts, thinking })
    }

    /// Where tensors live.
    pub fn device(&self) -> Device {
        self.transformer.device()
    }

    /// What is added to thought `index` (from 0) for its position, `[1, 1, d_model]`.
    pub(super) fn position(&self, index: usize) -> Option<Tensor<3>> {
        let d = self.transformer.config.d_model;
        if let Some(table) = &self.thoughts.latent_positions {
            let table = table.weight.val();
            let row = index.min(table.dims()[0] - 1);
            return Some(table.narrow(0, row, 1).reshape([1, 1, d]));
        }
        (self.thinking.latent_positions == LatentPositions::Sinusoidal).then(|| {
            let unit = super::position::sinusoid(index, d, &self.device());
            let length = terms::mean_length(&self.transformer);
            let unit = if length.is_autodiff() && !unit.is_autodiff() {
                Tensor::from_inner(unit)
            } else {
                unit
            };
            (unit * length).reshape([1, 1, d])
        })
    }
}
