//! Where a run begins, and the model that it starts from.

use std::path::PathBuf;

use burn::tensor::Device;

use super::Data;
use crate::{
    Error, Result, checkpoint,
    config::RunConfig,
    data::Markers,
    latent::{LatentModel, LatentSizes},
    model::{ModelConfig, Transformer},
    objective::Learner,
    run::RunFolder,
};

/// Where a run begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Beginning {
    /// At its first step.
    Fresh,
    /// After what a checkpoint holds.
    Resumed(PathBuf),
}

impl Beginning {
    /// The beginning of a run in `folder`, which is cleared of what a killed process left half done.
    ///
    /// # Errors
    /// [`Error::Usage`] if there is nothing to resume, or a run that is not to be resumed.
    pub fn find(folder: &RunFolder, resume: bool) -> Result<Self> {
        let checkpoints = folder.checkpoints();
        checkpoint::clear_leftovers(&checkpoints)?;
        let place = folder.path().display();
        match (checkpoint::newest(&checkpoints)?, resume) {
            (Some(newest), true) => Ok(Self::Resumed(newest)),
            (None, true) if folder.holds_run() => Err(Error::Usage(format!(
                "there is nothing to resume: the run in {place} has no checkpoint. Begin it again with `--overwrite` in place of `--resume`."
            ))),
            (None, true) => Err(Error::Usage(format!(
                "there is nothing to resume: {place} holds no run. Check `name` and `save_path`, or leave out `--resume` to begin it."
            ))),
            (_, false) if folder.holds_run() => Err(Error::Usage(format!(
                "{place} already holds a run. Add `--resume` to go on with it, `--overwrite` to replace it, or choose another name with `-s name=…`."
            ))),
            (_, false) => Ok(Self::Fresh),
        }
    }

    /// As [`Beginning::find`] for a baseline, which goes on where it was left, if it was begun at all.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn of_baseline(folder: &RunFolder) -> Result<Self> {
        checkpoint::clear_leftovers(&folder.checkpoints())?;
        match checkpoint::newest(&folder.checkpoints())? {
            Some(newest) => Ok(Self::Resumed(newest)),
            None => folder.remove().map(|()| Self::Fresh),
        }
    }

    /// The checkpoint to go on from.
    pub fn checkpoint(&self) -> Option<&std::path::Path> {
        match self {
            Self::Fresh => None,
            Self::Resumed(checkpoint) => Some(checkpoint),
        }
    }
}

/// The model that a recipe starts from, a folder's or random weights for the data's vocabulary, with
/// fresh parameters of thoughts and of the objective.
pub fn initial_model(config: &RunConfig, data: &Data, device: &Device) -> Result<Learner> {
    let wrong = |key: &str, problem| Error::Config {
        origin: config.name.clone(),
        key: key.into(),
        problem,
    };
    let transformer = match config.model_folder()? {
        None => Transformer::random(model_config(config, data), config.seed, device),
        Some(folder) => {
            checkpoint::refuse_adapters(&folder)?;
            let model = Transformer::load(&folder, device)?;
            checkpoint::check_vocabulary(&data.tokenizer, &model, &folder)?;
            data.check_context(config, model.config.n_positions)?;
            let (markers, source) =
                (data.tokenizer.added_markers(), data.tokenizer.marker_source());
            let model = model.init_token_rows(&markers, source);
            let Markers { start_latent, end_latent, latent, .. } = data.tokenizer.markers();
            match config.lora(model.config.family)? {
                Some(lora) => model
                    .with_lora(lora, &[start_latent, end_latent, latent], config.seed)
                    .map_err(|(key, problem)| wrong(key, problem))?
                    .store_frozen_as(config.frozen_dtype),
                None => model,
            }
        }
    };
    let sizes =
        LatentSizes { latents: config.c_thought * config.max_latent_stage, seed: config.seed };
    let model = LatentModel::new(transformer, config.thinking(), sizes)
        .map_err(|(key, problem)| wrong(key, problem))?;
    let d_model = model.transformer.config.d_model;
    let objective = config.objective().parameters(d_model, config.seed, &model.device());
    Ok(Learner { model, objective })
}

/// The shape of a model from random weights.
pub fn model_config(config: &RunConfig, data: &Data) -> ModelConfig {
    let context = config.n_positions.unwrap_or_else(|| data.longest(config));
    let vocabulary = data.tokenizer.vocab_size();
    let mut model =
        ModelConfig::gpt2(vocabulary, context, config.n_embd, config.n_layer, config.n_head)
            .with_dropout(config.dropout);
    model.initializer_range = config.initializer_range;
    let markers = data.tokenizer.markers();
    for (key, id) in [
        ("bos_token_id", markers.eos),
        ("eos_token_id", markers.eos),
        ("pad_token_id", markers.pad),
    ] {
        model.set_extra_key(key, id);
    }
    model
}
