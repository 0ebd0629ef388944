//! The module that the optimizer steps: a model, and what its losses learn besides.

use std::path::Path;

use burn::{module::Module, tensor::Device};

use coconut_kernels::{Precision, host};

use super::ObjectiveParameters;
use crate::{
    Error, Result,
    latent::{LatentConfig, LatentModel, LatentSizes, model::LATENT_WEIGHTS_FILE},
    model::{ModelConfig, Transformer, parameters, weights},
};

/// A model with its objective's parameters. The names of its parameters are those of the two files
/// that hold them; the two fields give them no prefix.
#[derive(Module, Debug)]
pub struct Learner {
    /// The model that is trained.
    pub model: LatentModel,
    /// Parameters that only losses read.
    pub objective: ObjectiveParameters,
}

impl Learner {
    /// A transformer with the parameters of thoughts and of the objective that [`Learner::save`] wrote
    /// in a folder.
    ///
    /// # Errors
    /// What is missing, left over or misshapen, by name.
    pub fn load(transformer: Transformer, config: LatentConfig, folder: &Path) -> Result<Self> {
        let path = folder.join(LATENT_WEIGHTS_FILE);
        let found = match path.exists() {
            true => weights::read_tensors(&path)?,
            false => weights::HostTensors::new(),
        };
        Self::assemble(transformer, config, found, &path)
    }

    /// The same of tensors at hand, under the names of that file; problems are told of `path`.
    ///
    /// # Errors
    /// As [`Learner::load`].
    pub fn assemble(
        transformer: Transformer,
        config: LatentConfig,
        mut found: weights::HostTensors,
        path: &Path,
    ) -> Result<Self> {
        let rows = |name: &str| found.get(name).and_then(|(shape, _)| shape.first().copied());
        let (latents, seq_vcr) = (rows("latent_positions.weight"), rows("seq_vcr.weight"));
        let wrong = |problem: String| Error::input(path, "", problem);
        let sizes = LatentSizes { latents: latents.unwrap_or(0), seed: 0 };
        let mut model = LatentModel::new(transformer, config, sizes)
            .map_err(|(key, problem)| wrong(format!("`{key}` {problem}")))?;
        let (d_model, device) = (model.transformer.config.d_model, model.device());
        let objective = ObjectiveParameters {
            decoder: blank_decoder(&model.transformer.config, &found, &device),
            ..ObjectiveParameters::new(seq_vcr, d_model, 0, &device)
        };

        let mut problems = Vec::new();
        model.parameters = fill(model.parameters, &mut found, &mut problems);
        let objective = fill(objective, &mut found, &mut problems);
        problems.extend(found.keys().map(|name| format!("`{name}` is not part of it")));
        if !problems.is_empty() {
            let problem = format!(
                "the thoughts' parameters do not fit `latent.json`: {}. The two files must come from the same checkpoint.",
                problems.join("; ")
            );
            return Err(wrong(problem));
        }
        Ok(Self { model, objective })
    }

    /// The same, whose networks multiply in `precision`.
    pub fn with_precision(mut self, precision: Precision) -> Self {
        self.model.transformer.config.precision = precision;
        if let Some(decoder) = &mut self.objective.decoder {
            decoder.config.precision = precision;
        }
        self
    }

    /// Writes the transformer, and beside it the parameters of thoughts and of the objective, if there
    /// are any.
    pub fn save(&self, folder: &Path) -> Result<()> {
        self.model.transformer.save(folder)?;
        let mut named = parameters::named(&self.model.parameters);
        named.extend(parameters::named(&self.objective));
        if named.is_empty() {
            return Ok(());
        }
        weights::write_tensors(&folder.join(LATENT_WEIGHTS_FILE), &named)
    }
}

/// A decoder to be filled with what was found, if a part of one was: as the model, with as many blocks as there are.
fn blank_decoder(
    config: &ModelConfig,
    found: &weights::HostTensors,
    device: &Device,
) -> Option<Transformer> {
    let mut names = found.keys().filter_map(|name| name.strip_prefix("decoder.")).peekable();
    names.peek()?;
    let number = |name: &str| name.split('.').find_map(|part| part.parse::<usize>().ok());
    let blocks = names.filter_map(number).max().map_or(0, |last| last.saturating_add(1));
    let mut config = config.clone();
    config.n_layer = blocks.min(config.n_layer);
    Some(Transformer::blank(config, device))
}

/// Replaces a module's parameters by the tensors of their names, which are taken out of `found`, and
/// says of those that have none what is wrong.
fn fill<M: Module>(module: M, found: &mut weights::HostTensors, problems: &mut Vec<String>) -> M {
    let shapes = parameters::named(&module);
    parameters::map(module, |name, value| match found.remove(name) {
        Some((shape, values)) if shapes.get(name).is_some_and(|flat| flat.shape == shape) => {
            host::upload(values.as_slice(), &value.device())
        }
        other => {
            problems.push(match other {
                Some(_) => format!("`{name}` has another shape"),
                None => format!("`{name}` is missing"),
            });
            value
        }
    })
}
