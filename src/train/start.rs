//! Where a run begins, and the model that it starts from.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    path::{Path, PathBuf},
};

use coconut_kernels::host;

use super::{Data, Group};
use crate::{
    Error, Result, checkpoint,
    config::{
        Resolved, RunConfig,
        check::too_many_blocks,
        resolved::{ModelSource, RandomModel},
    },
    data::{Dataset, SpecialTokens},
    latent::{LatentModel, LatentSizes},
    model::{Lora, ModelConfig, Transformer, parameters},
    objective::{Learner, ObjectiveParameters},
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

    /// As [`Beginning::find`] for a run that goes on where it was left, if it was begun at all. What it left without a
    /// checkpoint is removed.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn wherever(folder: &RunFolder) -> Result<Self> {
        checkpoint::clear_leftovers(&folder.checkpoints())?;
        match checkpoint::newest(&folder.checkpoints())? {
            Some(newest) => Ok(Self::Resumed(newest)),
            None => folder.remove().map(|()| Self::Fresh),
        }
    }

    /// The beginning that the first process of a group found: whether it goes on with the run in `folder`.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn told(folder: &RunFolder, goes_on: bool) -> Result<Self> {
        let newest = checkpoint::newest(&folder.checkpoints())?;
        Ok(newest.filter(|_| goes_on).map_or(Self::Fresh, Self::Resumed))
    }

    /// The checkpoint to go on from.
    pub fn checkpoint(&self) -> Option<&Path> {
        match self {
            Self::Fresh => None,
            Self::Resumed(checkpoint) => Some(checkpoint),
        }
    }
}

/// Refuses to begin where processes of a group were given different recipes. On which device each computes is its own
/// affair.
///
/// # Errors
/// As [`Group::agree`].
pub fn agree_on_recipe(group: Group, recipe: &RunConfig) -> Result<()> {
    group.agree(|| {
        let recipe = RunConfig { device: Default::default(), ..recipe.clone() };
        let program = hashed(&env!("CARGO_PKG_VERSION"));
        Ok([("a program", program), ("a recipe", hashed(&recipe.to_yaml()?))])
    })
}

/// Refuses to begin where processes of a group read different data.
///
/// # Errors
/// As [`Group::agree`].
pub fn agree_on_data(group: Group, data: &Data) -> Result<()> {
    let of = |set: &Dataset| hashed(&set.encoded);
    group.agree(|| {
        let (train, val) = (of(&data.train), of(&data.val));
        Ok([("training examples", train), ("questions to evaluate on", val)])
    })
}

/// Refuses to begin where processes of a group start from different weights.
///
/// # Errors
/// As [`Group::agree`].
pub(super) fn agree_on_weights(group: Group, learner: &Learner) -> Result<()> {
    group.agree(|| Ok([("starting weights", fingerprint(learner))]))
}

/// A number that tells the weights of one model from another's.
fn fingerprint(learner: &Learner) -> u64 {
    let mut hasher = DefaultHasher::new();
    for (name, flat) in parameters::named(learner) {
        (name, flat.shape).hash(&mut hasher);
        host::data(flat.values).as_bytes().hash(&mut hasher);
    }
    hasher.finish()
}

fn hashed(of: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    of.hash(&mut hasher);
    hasher.finish()
}

/// The model that a run starts from, a folder's or random weights for the data's vocabulary, with fresh
/// parameters of thoughts and of the objective; or the one that it goes on with.
pub fn initial_model(run: &Resolved, data: &Data) -> Result<Learner> {
    let (base, lora) = match &run.model {
        ModelSource::Checkpoint(path) => {
            let model = checkpoint::load_transformer(path, run.frozen, &run.device)?;
            data.check_context(run, model.config.n_positions)?;
            return Learner::load(model, run.latent.clone(), path);
        }
        ModelSource::Random(shape) => {
            let base = Transformer::random(model_config(shape, run, data), run.seed, &run.device);
            (base, None)
        }
        ModelSource::Folder { path, lora } => (pretrained(path, run, data)?, lora.as_ref()),
    };
    let objective = objective_parameters(&base, run)?;
    let transformer = match lora {
        Some(lora) => adapted(base, lora, run, data)?,
        None => base,
    };
    let sizes = LatentSizes { latents: run.curriculum.most_latents(), seed: run.seed };
    let model = LatentModel::new(transformer, run.latent.clone(), sizes)
        .map_err(|(key, problem)| run.recipe.error(key, problem))?;
    Ok(Learner { model, objective })
}

/// What the objective learns beside a model, given as it is before adapters are added.
fn objective_parameters(base: &Transformer, run: &Resolved) -> Result<ObjectiveParameters> {
    let n_layer = base.config.n_layer;
    let blocks = run.objective.decoder().and_then(|decoder| decoder.blocks);
    if let Some(blocks) = blocks.filter(|&blocks| blocks > n_layer) {
        return Err(run.recipe.error("decoder_layers", too_many_blocks(blocks, n_layer)));
    }
    Ok(run.objective.parameters(base, run.seed))
}

/// The model of a folder, with rows for the data's markers.
fn pretrained(path: &Path, run: &Resolved, data: &Data) -> Result<Transformer> {
    let model = Transformer::load(path, &run.device)?;
    checkpoint::check_vocabulary(&data.tokenizer, &model, path)?;
    data.check_context(run, model.config.n_positions)?;
    let (added, source) = (data.tokenizer.added_markers(), data.tokenizer.marker_source());
    Ok(model.init_token_rows(&added, source))
}

/// The same with adapters to be trained.
fn adapted(base: Transformer, lora: &Lora, run: &Resolved, data: &Data) -> Result<Transformer> {
    let SpecialTokens { start_latent, end_latent, latent, .. } = data.tokenizer.special_tokens();
    let adapted = base
        .with_lora(lora.clone(), &[start_latent, end_latent, latent], run.seed)
        .map_err(|(key, problem)| run.recipe.error(key, problem))?;
    Ok(adapted.store_frozen_as(run.frozen))
}

/// The shape of a model from random weights.
pub fn model_config(shape: &RandomModel, run: &Resolved, data: &Data) -> ModelConfig {
    let context = shape.n_positions.unwrap_or_else(|| data.longest(run));
    let vocabulary = data.tokenizer.vocab_size();
    let mut model =
        ModelConfig::gpt2(vocabulary, context, shape.n_embd, shape.n_layer, shape.n_head)
            .with_dropout(shape.dropout);
    model.initializer_range = shape.initializer_range;
    let markers = data.tokenizer.special_tokens();
    for (key, id) in [
        ("bos_token_id", markers.eos),
        ("eos_token_id", markers.eos),
        ("pad_token_id", markers.pad),
    ] {
        model.set_extra_key(key, id);
    }
    model
}
