//! Checkpoints: a Hugging Face folder, what the latents need, and the trainer's state.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use burn::tensor::{Device, Tensor};
use coconut_kernels::host;
use serde::{Deserialize, Serialize};

use crate::{
    Error, Result,
    data::{
        Curriculum, Format, Method, RowKind, ScheduleState, Stage, Tokenizer,
        tokenizer::chat::PromptStyle,
    },
    device,
    eval::TrainedModel,
    hub::HubCache,
    latent::{LatentConfig, LatentModel, Thinking, model::LATENT_WEIGHTS_FILE},
    model::{
        Lora, Transformer,
        lora::{self, Base, FrozenDtype},
        weights,
    },
    objective::{DecoderStyle, Learner, ObjectiveParameters, StepDecoder},
    optim::AdamW,
    run::Row,
};

const LATENT_FILE: &str = "latent.json";
const STATE_FILE: &str = "trainer.json";
const OPTIMIZER_FILE: &str = "optimizer.safetensors";

/// How a checkpoint's model thinks: what a prompt needs to be laid out and run as in training.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LatentInfo {
    /// What was trained.
    pub method: Method,
    /// Its rows.
    #[serde(default)]
    pub row: RowKind,
    /// The stage reached.
    pub stage: Stage,
    /// Thoughts a step.
    pub c_thought: usize,
    /// `M`.
    pub max_latent_stage: usize,
    /// Whether short examples get as many latents as others.
    pub pad_latent_to_max: bool,
    /// Of `tokenwise` rows, the stage from which on no token of the steps is left.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remove_all_from: Option<usize>,
    /// How thoughts are made.
    #[serde(flatten)]
    pub thinking: LatentConfig,
    /// What its step decoder reads, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step_decoder: Option<DecoderStyle>,
    /// How examples become tokens.
    pub format: Format,
    /// How questions are put.
    #[serde(default)]
    pub prompt: PromptStyle,
    /// How what lies below adapters is held, which it was trained with.
    #[serde(default, rename = "frozen_dtype")]
    pub frozen: FrozenDtype,
    /// Whether products round their operands to bf16, as they did in training.
    #[serde(default)]
    pub bf16: bool,
    /// Whether the folder is one that another program wrote, so that nothing says how it thinks.
    #[serde(skip)]
    pub plain: bool,
}

impl LatentInfo {
    /// What is taken of a folder that another program wrote: no latents, all steps in words.
    pub fn plain() -> Self {
        Self {
            method: Method::Cot,
            row: RowKind::Stages,
            stage: Stage::COT,
            c_thought: 1,
            max_latent_stage: 0,
            pad_latent_to_max: false,
            remove_all_from: None,
            thinking: LatentConfig { thinking: Thinking::None, ..LatentConfig::default() },
            step_decoder: None,
            format: Format::Text,
            prompt: PromptStyle::default(),
            frozen: FrozenDtype::F32,
            bf16: false,
            plain: true,
        }
    }

    /// How a model thinks that a curriculum has brought to a stage; what neither tells is as in a plain folder.
    pub fn of(curriculum: &Curriculum, stage: Stage, thinking: LatentConfig) -> Self {
        let Curriculum { method, row, c_thought, max_latent_stage, pad_latent_to_max, .. } =
            *curriculum;
        Self {
            method,
            row,
            stage,
            c_thought,
            max_latent_stage,
            pad_latent_to_max,
            remove_all_from: curriculum.remove_all_from,
            thinking,
            plain: false,
            ..Self::plain()
        }
    }

    /// How the model in a folder thinks: what `latent.json` says, or [`LatentInfo::plain`] in the folder of a
    /// plain model or of adapters that PEFT wrote.
    fn load(folder: &Path) -> Result<Self> {
        let path = folder.join(LATENT_FILE);
        // A checkpoint that has lost the file is damaged, and no plain model.
        let ours = [LATENT_FILE, LATENT_WEIGHTS_FILE, STATE_FILE, OPTIMIZER_FILE];
        let is_ours = ours.iter().any(|file| folder.join(file).exists());
        let is_model = Lora::find(folder)?.is_some() || folder.join("config.json").is_file();
        match (is_ours, is_model) {
            (true, _) => {}
            (false, true) => return Ok(Self::plain()),
            (false, false) => {
                let problem = "holds no model: it has neither a `config.json` nor an `adapter_config.json`. A run's checkpoints lie below it, the newest at `checkpoints/latest`.";
                return Err(Error::input(folder, "", problem));
            }
        }
        let mut info: Self = read_json(&path)?;
        let keys: serde_json::Map<String, serde_json::Value> = read_json(&path)?;
        // Versions before said by the method alone whether anything is fed back.
        let feeds = matches!(info.method, Method::Coconut | Method::NoCurriculum);
        if !keys.contains_key("thinking") && !feeds {
            info.thinking.thinking = Thinking::None;
        }
        Ok(info)
    }

    /// A curriculum that gives this model's prompts.
    pub fn curriculum(&self) -> Curriculum {
        let Self { method, row, c_thought, max_latent_stage, pad_latent_to_max, .. } = *self;
        Curriculum {
            row,
            remove_all_from: self.remove_all_from,
            ..Curriculum::new(method, c_thought, max_latent_stage, pad_latent_to_max)
        }
    }
}

/// Where training stands: everything that the next step depends on besides weights and moments.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TrainerState {
    /// The epoch in progress, from 0.
    pub epoch: usize,
    /// Optimizer steps done in it.
    pub step_in_epoch: usize,
    /// Optimizer steps done in all.
    pub step: usize,
    /// Optimizer steps since its moments were zero.
    pub optimizer_steps: usize,
    /// Summed loss and labels of the epoch so far, in nats.
    pub epoch_loss: f64,
    /// Labels of the epoch so far.
    pub epoch_labels: usize,
    /// Where the run stands in its schedule.
    #[serde(default)]
    pub schedule: ScheduleState,
    /// Seconds of training, interruptions not counted.
    pub seconds: f64,
    /// Best accuracy of an evaluation.
    pub best_accuracy: Option<f64>,
    /// Evaluations so far.
    pub rows: Vec<Row>,
}

/// A checkpoint opened for use.
#[derive(Clone, Debug)]
pub struct Checkpoint {
    /// Without autodiff.
    pub model: LatentModel,
    /// What its objective learned besides.
    pub objective: ObjectiveParameters,
    /// Its tokenizer.
    pub tokenizer: Tokenizer,
    /// How it thinks.
    pub latent: LatentInfo,
}

impl Checkpoint {
    /// Opens a checkpoint folder.
    ///
    /// # Errors
    /// A missing or damaged file, and weights that do not fit each other.
    pub fn load(folder: &Path, device: &Device) -> Result<Self> {
        let latent = LatentInfo::load(folder)?;
        let mut model = load_transformer(folder, latent.frozen, device)?;
        let tokenizer = load_tokenizer(folder)?.with_prompt(&latent.prompt)?;
        check_vocabulary(&tokenizer, &model, folder)?;
        // Markers that the folder does not have start as in training.
        model = model.init_token_rows(&tokenizer.added_markers(), tokenizer.marker_source());
        let learner = Learner::load(model, latent.thinking.clone(), folder)?;
        let Learner { model, objective } = learner.with_precision(device::precision(latent.bf16));
        Ok(Self { model, objective, tokenizer, latent })
    }

    /// A plain folder's model with latents after each question, as training starts them: what a Coconut run has before
    /// its first step.
    pub fn with_untrained_latents(mut self) -> Self {
        let LatentInfo { prompt, frozen, .. } = self.latent;
        let thinking = LatentConfig::default();
        self.model.config = thinking.clone();
        let (method, stage) = (Method::Coconut, Stage(0));
        self.latent = LatentInfo { method, stage, thinking, prompt, frozen, ..LatentInfo::plain() };
        self
    }

    /// The network that reads its thoughts as words, if it has one.
    pub fn decoder(&self) -> Option<StepDecoder<'_>> {
        let network = self.objective.decoder.as_ref()?;
        Some(StepDecoder { network, style: self.latent.step_decoder? })
    }

    /// The checkpoint's parts that [`answer`](crate::eval::answer()) takes, at the stage reached.
    pub fn trained(&self) -> TrainedModel<'_> {
        TrainedModel {
            model: &self.model,
            decoder: self.decoder(),
            tokenizer: &self.tokenizer,
            curriculum: self.latent.curriculum(),
            stage: self.latent.stage,
            iterations: None,
            format: self.latent.format,
        }
    }
}

/// The transformer of a checkpoint: whole, or adapters on the model that they name.
///
/// # Errors
/// Everything that reading either can report.
pub fn load_transformer(
    folder: &Path,
    frozen: FrozenDtype,
    device: &Device,
) -> Result<Transformer> {
    let Some(lora) = Lora::find(folder)? else { return Transformer::load(folder, device) };
    let below = base_folder(&lora, folder)?;
    Ok(Transformer::load(&below, device)?.load_adapters(lora, folder)?.store_frozen_as(frozen))
}

/// The folder of the model that a folder's adapters name.
fn base_folder(lora: &Lora, folder: &Path) -> Result<PathBuf> {
    let Base { name, revision } = &lora.base;
    HubCache::from_env().folder(name, revision.as_deref()).map_err(|problem| {
        let problem = format!("`base_model_name_or_path` {problem}");
        Error::input(folder.join(lora::CONFIG_FILE), "", problem)
    })
}

/// The tokenizer of a checkpoint: its own, or that of the model below adapters which came without one.
fn load_tokenizer(folder: &Path) -> Result<Tokenizer> {
    match Lora::find(folder)? {
        Some(lora) if !folder.join("tokenizer.json").exists() => {
            Tokenizer::load(&base_folder(&lora, folder)?)
        }
        _ => Tokenizer::load(folder),
    }
}

/// Refuses a tokenizer whose files give more tokens than the model has embeddings; markers added since
/// are not counted.
pub fn check_vocabulary(tokenizer: &Tokenizer, model: &Transformer, folder: &Path) -> Result<()> {
    let (tokens, rows) = (tokenizer.loaded_size(), model.config.vocab_size);
    if tokens > rows {
        let without = tokenizer.tokens_beyond(rows);
        let named = without.iter().take(3).map(|token| format!("`{token}`")).collect::<Vec<_>>();
        let more = if without.len() > named.len() { " and others" } else { "" };
        let problem = format!(
            "the tokenizer has {tokens} tokens, but the model only {rows} embeddings: {}{more} would have none. \
            The two must come from the same model.",
            named.join(", ")
        );
        return Err(Error::input(folder, "", problem));
    }
    Ok(())
}

/// Writes a checkpoint beside its place and renames it, so that a kill never leaves half a one. What could
/// not be written whole is removed again.
pub fn save(
    folder: &Path,
    learner: &Learner,
    tokenizer: &Tokenizer,
    latent: &LatentInfo,
    optimizer: &AdamW,
    state: &TrainerState,
) -> Result<()> {
    replace(folder, |partial| {
        write_model(partial, learner, tokenizer, latent)?;
        write_json(&partial.join(STATE_FILE), state)?;
        weights::write_tensors(&partial.join(OPTIMIZER_FILE), &optimizer.state())
    })?;
    point_latest(folder)
}

/// Puts a folder that `write` fills in the place of one that may be there: written beside it, synced, renamed.
///
/// # Errors
/// Those of `write`, and what the system refuses; the folder is then as it was.
pub fn replace(folder: &Path, write: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let partial = beside(folder, PARTIAL);
    remove(&partial)?;
    let written = write(&partial).and_then(|()| sync(&partial));
    if let Err(error) = written {
        // A full disk must not stay full of this; if even removing fails there is nothing to add.
        let _ = std::fs::remove_dir_all(&partial);
        return Err(error);
    }
    // A checkpoint of that name is put aside until the new one stands in its place.
    let replaced = beside(folder, REPLACED);
    if folder.exists() {
        std::fs::rename(folder, &replaced).map_err(Error::io("rename", folder))?;
    }
    std::fs::rename(&partial, folder).map_err(Error::io("rename", &partial))?;
    remove(&replaced)
}

fn sync(folder: &Path) -> Result<()> {
    for entry in std::fs::read_dir(folder).map_err(Error::io("read", folder))?.flatten() {
        let path = entry.path();
        std::fs::File::open(&path).and_then(|f| f.sync_all()).map_err(Error::io("write", &path))?;
    }
    Ok(())
}

/// The link beside the checkpoints that names the newest one.
pub const LATEST: &str = "latest";

/// Lets [`LATEST`] name a checkpoint, where the system has links.
fn point_latest(folder: &Path) -> Result<()> {
    #[cfg(unix)]
    {
        let (link, new) = (folder.with_file_name(LATEST), folder.with_file_name(".latest"));
        let name = folder.file_name().unwrap_or_default();
        let _ = std::fs::remove_file(&new); // of a killed process
        std::os::unix::fs::symlink(name, &new).map_err(Error::io("create", &new))?;
        std::fs::rename(&new, &link).map_err(Error::io("rename", &new))?;
    }
    Ok(())
}

/// Removes all but the newest `keep` checkpoints of a folder (0 keeps all). Each is renamed away first, so that
/// a kill never leaves half a one under its name.
pub fn prune(checkpoints: &Path, keep: usize) -> Result<()> {
    if keep == 0 {
        return Ok(());
    }
    let mut old = all(checkpoints)?;
    old.truncate(old.len().saturating_sub(keep));
    for folder in old {
        let removed = beside(&folder, REMOVED);
        remove(&removed)?;
        std::fs::rename(&folder, &removed).map_err(Error::io("rename", &folder))?;
        remove(&removed)?;
    }
    Ok(())
}

/// Clears a folder of checkpoints of what a killed process left half done, and brings back what it had put aside.
pub fn clear_leftovers(checkpoints: &Path) -> Result<()> {
    let Ok(entries) = std::fs::read_dir(checkpoints) else { return Ok(()) };
    for entry in entries.flatten() {
        let path = entry.path();
        let name = entry.file_name().to_string_lossy().into_owned();
        if let Some(name) = name.strip_prefix(REPLACED) {
            let folder = path.with_file_name(name);
            if !folder.exists() {
                std::fs::rename(&path, &folder).map_err(Error::io("rename", &path))?;
                continue;
            }
        }
        if [PARTIAL, REPLACED, REMOVED].iter().any(|prefix| name.starts_with(prefix)) {
            remove(&path)?;
        }
    }
    match newest(checkpoints)? {
        Some(newest) => point_latest(&newest),
        None => Ok(()),
    }
}

/// Hidden names beside a checkpoint's own: what is being written, was replaced, or is being removed.
const PARTIAL: &str = ".partial-";
const REPLACED: &str = ".replaced-";
const REMOVED: &str = ".removed-";

fn beside(folder: &Path, prefix: &str) -> PathBuf {
    let name = folder.file_name().unwrap_or_default().to_string_lossy();
    folder.with_file_name(format!("{prefix}{name}"))
}

/// Removes a folder if it is there.
fn remove(folder: &Path) -> Result<()> {
    match std::fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::io("remove", folder)(error))
        }
        _ => Ok(()),
    }
}

/// Writes what [`Checkpoint::load`] reads: model, tokenizer, and how it thinks.
pub fn write_model(
    folder: &Path,
    learner: &Learner,
    tokenizer: &Tokenizer,
    latent: &LatentInfo,
) -> Result<()> {
    std::fs::create_dir_all(folder).map_err(Error::io("create", folder))?;
    learner.save(folder)?;
    tokenizer.save(folder)?;
    let markers = tokenizer.special_tokens();
    let eos = match tokenizer.stops() {
        [one] => serde_json::json!(one),
        several => serde_json::json!(several),
    };
    write_json(
        &folder.join("generation_config.json"),
        &serde_json::json!({"eos_token_id": eos, "pad_token_id": markers.pad}),
    )?;
    write_json(&folder.join(LATENT_FILE), latent)
}

/// Reads what only the trainer needs: its state, and the optimizer's moments into `optimizer`.
pub fn restore(folder: &Path, optimizer: &mut AdamW, device: &Device) -> Result<TrainerState> {
    let state: TrainerState = read_json(&folder.join(STATE_FILE))?;
    let tensors = weights::read_tensors(&folder.join(OPTIMIZER_FILE))?;
    let moments: BTreeMap<String, Tensor<1>> = tensors
        .into_iter()
        .map(|(name, (_, values))| (name, host::upload(values.as_slice(), device)))
        .collect();
    optimizer.restore(state.optimizer_steps, moments);
    Ok(state)
}

/// The newest whole checkpoint in a folder of them, by its optimizer steps.
pub fn newest(folder: &Path) -> Result<Option<PathBuf>> {
    Ok(all(folder)?.pop())
}

/// Whole checkpoints in a folder, oldest first: by optimizer steps, then by finished epochs, since an
/// epoch's own checkpoint follows one that was made at its last step.
pub fn all(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let Ok(entries) = std::fs::read_dir(folder) else { return Ok(Vec::new()) };
    for entry in entries.flatten() {
        let path = entry.path();
        let hidden = entry.file_name().to_string_lossy().starts_with('.');
        // Not the link to the newest of them.
        let folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
        if folder && !hidden && path.join(STATE_FILE).is_file() {
            let state: TrainerState = read_json(&path.join(STATE_FILE))?;
            found.push((state.step, state.epoch, path));
        }
    }
    found.sort();
    Ok(found.into_iter().map(|(_, _, path)| path).collect())
}

fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T> {
    let text = std::fs::read_to_string(path).map_err(Error::io("read", path))?;
    serde_json::from_str(&text).map_err(|e| {
        let problem = format!("not what `coconut train` writes: {e}. Use another checkpoint.");
        Error::input(path, format!("line {}", e.line()), problem)
    })
}

fn write_json<T: Serialize>(path: &Path, value: &T) -> Result<()> {
    let text = serde_json::to_string_pretty(value)
        .map_err(|e| Error::Internal(format!("cannot write JSON: {e}")))?;
    std::fs::write(path, text + "\n").map_err(Error::io("write", path))
}
