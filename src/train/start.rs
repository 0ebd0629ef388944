//! The model that a run starts from.

use burn::tensor::Device;

use super::Data;
use crate::{
    Error, Result, checkpoint,
    config::RunConfig,
    data::Markers,
    latent::{LatentModel, model::Extras},
    model::{ModelConfig, Transformer, lora},
    objective::{Learner, ObjectiveParameters},
};

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
        Some(folder) if folder.join(lora::CONFIG_FILE).is_file() => {
            return Err(Error::Usage(format!(
                "{} holds adapters, not a whole model. Make one of it first: `coconut merge {} -o FOLDER`.",
                folder.display(),
                folder.display()
            )));
        }
        Some(folder) => {
            let model = Transformer::load(&folder, device)?;
            checkpoint::check_vocabulary(&data.tokenizer, &model, &folder)?;
            data.check_context(config, model.config.n_positions)?;
            let (markers, source) =
                (data.tokenizer.added_markers(), data.tokenizer.marker_source());
            let model = model.start_rows(&markers, source);
            let Markers { start_latent, end_latent, latent, .. } = data.tokenizer.markers();
            match config.lora(model.config.family)? {
                Some(lora) => model
                    .with_lora(lora, &[start_latent, end_latent, latent], config.seed)
                    .map_err(|(key, problem)| wrong(key, problem))?
                    .hold(config.frozen_dtype),
                None => model,
            }
        }
    };
    let extras = Extras { latents: config.c_thought * config.max_latent_stage, seed: config.seed };
    let model = LatentModel::new(transformer, config.thinking(), extras)
        .map_err(|(key, problem)| wrong(key, problem))?;
    let d_model = model.transformer.config.d_model;
    let objective =
        ObjectiveParameters::new(&config.objective(), d_model, config.seed, &model.device());
    Ok(Learner { model, objective })
}

/// The shape of a model from random weights.
pub fn model_config(config: &RunConfig, data: &Data) -> ModelConfig {
    let context = config.n_positions.unwrap_or_else(|| data.longest(config));
    let vocabulary = data.tokenizer.vocab_size();
    let mut shape =
        ModelConfig::gpt2(vocabulary, context, config.n_embd, config.n_layer, config.n_head)
            .with_dropout(config.dropout);
    shape.initializer_range = config.initializer_range;
    let markers = data.tokenizer.markers();
    for (key, id) in [
        ("bos_token_id", markers.eos),
        ("eos_token_id", markers.eos),
        ("pad_token_id", markers.pad),
    ] {
        shape.note(key, id);
    }
    shape
}
