//! A model that thinks: the transformer, what is fed back into it, and what only thoughts have.

use burn::{
    module::{Module, Param},
    tensor::{Device, Tensor, TensorData},
};
use coconut_kernels::host;

use super::{
    Feedback, LatentConfig, LatentPositions, Thinking,
    feedback::{Learned, terms},
};
use crate::{
    model::{Transformer, layers::Embedding, parameters::constant_like},
    rng,
};

/// The file beside the transformer's weights that holds the parameters of thoughts and of the
/// objective, if there are any.
pub const LATENT_WEIGHTS_FILE: &str = "latent.safetensors";

/// The transformer, and what only thoughts have. The names of its parameters are those of the two
/// files that hold them; the two fields give them no prefix.
#[derive(Module, Debug)]
pub struct LatentModel {
    /// The transformer.
    pub transformer: Transformer,
    /// Parameters of thoughts.
    pub parameters: LatentParameters,
    /// How thoughts are made.
    #[module(skip)]
    pub config: LatentConfig,
}

/// Parameters that are not the transformer's. Field names are the keys of [`LATENT_WEIGHTS_FILE`].
#[derive(Module, Debug)]
pub struct LatentParameters {
    /// The learned parts of what is fed back.
    pub reinject: Learned,
    /// Encodings of the thoughts' indices, `[latents, d_model]`, if they are learned.
    pub latent_positions: Option<Embedding>,
}

/// Sizes of what a [`LatentModel`] adds.
#[derive(Clone, Copy, Debug, Default)]
pub struct LatentSizes {
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
        config: LatentConfig,
        sizes: LatentSizes,
    ) -> Result<Self, (&'static str, String)> {
        let shape = &transformer.config;
        config.check(shape.n_layer, shape.family)?;
        let (d, std, device) = (shape.d_model, shape.initializer_range, transformer.device());
        let table = |rows: usize| {
            let mut rng = rng::stream(sizes.seed, &[rng::THOUGHTS, 1]);
            let data = TensorData::new(rng::normals(&mut rng, rows * d, std as f32), [rows, d]);
            Embedding::from(Param::from_tensor(host::upload(data, &device)))
        };
        let learned = config.latent_positions == LatentPositions::Learned;
        let parameters = LatentParameters {
            reinject: Learned::new(&config.feedback, d, std, sizes.seed, &device),
            latent_positions: learned.then(|| table(sizes.latents.max(1))),
        };
        Ok(Self { transformer, parameters, config })
    }

    /// The same function of a model that feeds nothing back, computed one latent after the other: each is fed the
    /// embedding of `latent`, the token that holds its place.
    pub fn pausing(mut self, latent: u32) -> Self {
        let feedback = Feedback::pause();
        let id = host::upload([[latent as i32]], &self.device());
        let embedding = self.transformer.embed(id).squeeze_dims(&[0, 1]); // [d_model]
        self.parameters.reinject = Learned::of_pause(embedding);
        self.config = LatentConfig { thinking: Thinking::Sequential, feedback, ..self.config };
        self
    }

    /// Where tensors live.
    pub fn device(&self) -> Device {
        self.transformer.device()
    }

    /// What is added to thoughts `first..first + n` for their places, `[1, n, d_model]`, if anything is.
    pub(super) fn encodings(&self, first: usize, n: usize) -> Option<Tensor<3>> {
        let encodings: Option<Vec<_>> = (first..first + n).map(|i| self.encoding(i)).collect();
        match encodings?.as_slice() {
            [one] => Some(one.clone()),
            several => Some(Tensor::cat(several.to_vec(), 1)),
        }
    }

    /// What is added to thought `index` (from 0) for its place, `[1, 1, d_model]`.
    fn encoding(&self, index: usize) -> Option<Tensor<3>> {
        let d = self.transformer.config.d_model;
        if let Some(table) = &self.parameters.latent_positions {
            let table = table.weight.val();
            let row = index.min(table.dims()[0] - 1);
            return Some(table.narrow(0, row, 1).reshape([1, 1, d]));
        }
        (self.config.latent_positions == LatentPositions::Sinusoidal).then(|| {
            let length = terms::mean_length(&self.transformer);
            let unit = super::position::sinusoid(index, d, &self.device());
            (constant_like(unit, &length) * length).reshape([1, 1, d])
        })
    }
}
