//! A run's settings, once everything that a recipe leaves open is found out.

use std::{
    ops::Range,
    path::{Path, PathBuf},
};

use burn::tensor::Device;
use coconut_kernels::Precision;

use super::{EvalAt, RunConfig};
use crate::{
    Error, Result,
    data::{
        Curriculum, Example, Format, Schedule, Stage, read,
        tasks::{self, Task},
        tokenizer::{Units, chat::PromptStyle},
    },
    device,
    hub::HubCache,
    latent::{LatentConfig, Recompute},
    model::{
        Lora, ModelConfig,
        lora::{Base, FrozenDtype, Targets},
    },
    objective::Objective,
    optim::{LrSchedule, Scheduler},
    rng,
};

/// Everything that a run is made of. Names are looked up and folders found once, when it is made; nothing
/// that reads it needs the recipe, except to save it and to name its keys in errors.
#[derive(Clone, Debug)]
pub struct Resolved {
    /// The recipe that this came of.
    pub recipe: RunConfig,
    /// Which tokens a stage shows.
    pub curriculum: Curriculum,
    /// The curricula of the method and of its baselines, each with its stages.
    pub curricula: Vec<(Curriculum, Vec<Stage>)>,
    /// Which stage is trained in which epoch.
    pub schedule: Schedule,
    /// How thoughts are made.
    pub latent: LatentConfig,
    /// What a step trains.
    pub objective: Objective,
    /// Where the model's weights come from.
    pub model: ModelSource,
    /// How matrices below adapters are held.
    pub frozen: FrozenDtype,
    /// Examples and their tokens.
    pub data: DataSettings,
    /// Where tensors live.
    pub device: Device,
    /// How products with the model's matrices are computed.
    pub precision: Precision,
    /// The seed of weights, order and draws.
    pub seed: u64,
    /// The epochs to train, counted from 0.
    pub epochs: Range<usize>,
    /// How examples become optimizer steps.
    pub batches: BatchSettings,
    /// How an optimizer step is taken.
    pub optimizer: OptimizerSettings,
    /// When and how the model is evaluated.
    pub evaluation: EvaluationSettings,
    /// What is kept on disk.
    pub saving: SavingSettings,
}

/// Where a model's weights come from.
#[derive(Clone, Debug, PartialEq)]
pub enum ModelSource {
    /// Random weights.
    Random(RandomModel),
    /// A folder in Hugging Face's layout, and the adapters to train on its model, if it is not trained itself.
    Folder {
        /// The folder.
        path: PathBuf,
        /// The adapters.
        lora: Option<Lora>,
    },
    /// A checkpoint of the same run.
    Checkpoint(PathBuf),
}

/// The shape of a model from random weights.
#[derive(Clone, Debug, PartialEq)]
pub struct RandomModel {
    /// Blocks.
    pub n_layer: usize,
    /// Width.
    pub n_embd: usize,
    /// Heads.
    pub n_head: usize,
    /// Longest sequence; found from the data if `None`.
    pub n_positions: Option<usize>,
    /// Dropout.
    pub dropout: f64,
    /// Standard deviation of the weights.
    pub initializer_range: f64,
}

/// Examples, and how they become token ids.
#[derive(Clone, Debug)]
pub struct DataSettings {
    /// To train on.
    pub train: Examples,
    /// To evaluate on. Generated training examples leave these out.
    pub val: Examples,
    /// What examples are.
    pub format: Format,
    /// Where the tokenizer comes from.
    pub tokenizer: TokenizerSource,
    /// How questions are put to the model.
    pub prompt: PromptStyle,
    /// Whether training examples may hold what the tokenizer has no token for.
    pub allow_unknown: bool,
}

/// Where a set of examples comes from.
#[derive(Clone, Debug)]
pub enum Examples {
    /// There are none.
    None,
    /// A file.
    File {
        /// The file.
        path: PathBuf,
        /// At most so many examples are read.
        most: Option<usize>,
    },
    /// A task's generator.
    Generated {
        /// The task, with its settings.
        task: Task,
        /// How many.
        n: usize,
        /// The seed that they follow from.
        seed: u64,
    },
}

impl Examples {
    /// The training and the test set that a recipe names.
    ///
    /// # Errors
    /// A task's name or setting that is none.
    pub fn of(recipe: &RunConfig) -> Result<[Self; 2]> {
        let task = recipe.task()?;
        let at_most = |n: usize| if recipe.debug { n.min(DEBUG_EXAMPLES) } else { n };
        let debug = recipe.debug.then_some(DEBUG_EXAMPLES);
        let val = match (&recipe.val_path, &task) {
            (Some(path), _) => Self::File { path: path.clone(), most: debug },
            // Test examples do not depend on the run's seed: runs with other seeds answer the same questions.
            (None, Some(task)) => {
                Self::Generated { task: task.clone(), n: at_most(recipe.val_examples), seed: 0 }
            }
            (None, None) => Self::None,
        };
        let train = match (&recipe.train_path, task) {
            _ if recipe.only_eval => Self::None,
            (Some(path), _) => {
                Self::File { path: path.clone(), most: recipe.max_size.map(at_most).or(debug) }
            }
            (None, Some(task)) => {
                let most = recipe.max_size.unwrap_or(usize::MAX);
                let n = at_most(recipe.train_examples.min(most));
                Self::Generated { task, n, seed: rng::hash(recipe.seed, &[1]) }
            }
            (None, None) => Self::None,
        };
        Ok([train, val])
    }

    /// Reads or generates the set; a generated one leaves out what is in `others`.
    ///
    /// # Errors
    /// A file that cannot be read, a task with too few distinct examples.
    pub fn load(&self, others: &[Example]) -> Result<Vec<Example>> {
        match self {
            Self::None => Ok(Vec::new()),
            Self::File { path, most } => read::load(path, *most),
            Self::Generated { task, n, seed } => {
                tasks::generate(task, *n, *seed, &tasks::keys(others))
            }
        }
    }
}

/// Where a tokenizer comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TokenizerSource {
    /// The folder of a model or checkpoint, or a `tokenizer.json`.
    Path(PathBuf),
    /// The node numbers and marks of the examples' graphs.
    Graphs,
    /// The words, characters or symbols of the examples.
    Built(Units),
}

/// How examples become optimizer steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchSettings {
    /// Examples a micro-batch.
    pub size: usize,
    /// Micro-batches an optimizer step.
    pub accumulation: usize,
}

impl BatchSettings {
    /// Optimizer steps of an epoch over `examples` examples.
    pub fn steps(self, examples: usize) -> usize {
        examples.div_ceil(self.size).div_ceil(self.accumulation)
    }
}

/// How an optimizer step is taken.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct OptimizerSettings {
    /// The highest learning rate.
    pub lr: f64,
    /// What becomes of it.
    pub scheduler: Scheduler,
    /// Optimizer steps of warm-up.
    pub warmup: usize,
    /// AdamW's decoupled weight decay.
    pub weight_decay: f64,
    /// AdamW's β₁ and β₂.
    pub betas: [f64; 2],
    /// Largest global norm of the gradient; 0 for no clipping.
    pub grad_clip: f64,
    /// Whether a stage begins with fresh moments.
    pub reset: bool,
    /// What backward computes again.
    pub recompute: Recompute,
    /// Gradients flow through so many of each row's last passes; all if `None`.
    pub tracked: Option<usize>,
}

/// When and how the model is evaluated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EvaluationSettings {
    /// When.
    pub at: EvalAt,
    /// Questions generated at once.
    pub batch_size: usize,
    /// Most tokens generated for one question.
    pub max_new_tokens: usize,
}

/// What is kept on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SavingSettings {
    /// Whether a checkpoint is kept only if the accuracy improved.
    pub only_improved: bool,
    /// Optimizer steps between checkpoints within an epoch; 0 for none.
    pub steps: usize,
    /// Newest checkpoints kept; 0 for all.
    pub keep: usize,
}

/// Examples of each set in a run with `debug`.
const DEBUG_EXAMPLES: usize = 64;

impl Resolved {
    /// Finds out what a recipe leaves open. A run that goes on from `checkpoint` takes model and tokenizer
    /// from there: what it started from may be gone.
    ///
    /// # Errors
    /// A model or a device that is not on this machine, with what to do about it.
    pub fn new(recipe: &RunConfig, checkpoint: Option<&Path>) -> Result<Self> {
        let model = match checkpoint {
            Some(checkpoint) => ModelSource::Checkpoint(checkpoint.to_owned()),
            None => model_source(recipe)?,
        };
        Ok(Self {
            curriculum: recipe.curriculum(),
            curricula: curricula(recipe)?,
            schedule: recipe.schedule(),
            latent: recipe.thinking(),
            objective: recipe.objective(),
            frozen: recipe.frozen_dtype,
            data: data(recipe, &model)?,
            model,
            device: (recipe.device.open(recipe.device_check))
                .map_err(|problem| recipe.error("device", problem))?,
            precision: device::precision(recipe.bf16),
            seed: recipe.seed,
            epochs: recipe.resume..recipe.num_epochs,
            batches: BatchSettings {
                size: recipe.batch_size_training,
                accumulation: recipe.gradient_accumulation_steps,
            },
            optimizer: OptimizerSettings {
                lr: recipe.lr,
                scheduler: recipe.scheduler,
                warmup: recipe.warmup_steps,
                weight_decay: recipe.weight_decay,
                betas: recipe.betas,
                grad_clip: recipe.grad_clip,
                reset: recipe.reset_optimizer,
                recompute: recipe.recompute,
                tracked: Some(recipe.n_detached_recursions).filter(|&passes| passes > 0),
            },
            evaluation: EvaluationSettings {
                at: recipe.eval_at,
                batch_size: recipe.eval_batch_size,
                max_new_tokens: recipe.max_new_tokens,
            },
            saving: SavingSettings {
                only_improved: recipe.save_only_improve,
                steps: recipe.save_steps,
                keep: recipe.keep_checkpoints,
            },
            recipe: recipe.clone(),
        })
    }

    /// The learning rate's course in a run whose epochs have `steps` optimizer steps.
    pub fn lr_schedule(&self, steps: usize) -> LrSchedule {
        LrSchedule {
            scheduler: self.optimizer.scheduler,
            peak: self.optimizer.lr,
            warmup: self.optimizer.warmup,
            horizon: steps * self.epochs.end,
        }
    }
}

fn curricula(recipe: &RunConfig) -> Result<Vec<(Curriculum, Vec<Stage>)>> {
    let of_method = |method| {
        let recipe = recipe.with_method(method)?;
        Ok((recipe.curriculum(), recipe.schedule().all_stages()))
    };
    std::iter::once(recipe.method).chain(recipe.baselines.iter().copied()).map(of_method).collect()
}

fn model_source(recipe: &RunConfig) -> Result<ModelSource> {
    let path = match (&recipe.load_model_path, &recipe.model_id) {
        (Some(path), _) => path.clone(),
        (None, Some(model)) => HubCache::from_env()
            .folder(model, recipe.revision.as_deref())
            .map_err(|problem| recipe.error("model_id", problem))?,
        (None, None) => {
            return Ok(ModelSource::Random(RandomModel {
                n_layer: recipe.n_layer,
                n_embd: recipe.n_embd,
                n_head: recipe.n_head,
                n_positions: recipe.n_positions,
                dropout: recipe.dropout,
                initializer_range: recipe.initializer_range,
            }));
        }
    };
    Lora::refuse(&path)?;
    let lora = if recipe.lora_rank > 0 { Some(lora(recipe, &path)?) } else { None };
    Ok(ModelSource::Folder { path, lora })
}

/// The adapters to train on the model in `folder`.
fn lora(recipe: &RunConfig, folder: &Path) -> Result<Lora> {
    let base = match (&recipe.load_model_path, &recipe.model_id) {
        (None, Some(model)) if !Path::new(model).is_dir() => {
            let (name, inner) = model.split_once('@').unzip();
            let revision = recipe.revision.clone().or(inner.map(str::to_owned));
            Base { name: name.unwrap_or(model).into(), revision }
        }
        _ => {
            let folder = folder.canonicalize().map_err(Error::io("read", folder))?;
            Base { name: folder.display().to_string(), revision: None }
        }
    };
    let targets = match &recipe.lora_target_modules {
        Some(targets) => targets.clone(),
        None => Targets::default_for(ModelConfig::load(folder)?.family),
    };
    Ok(Lora {
        alpha: recipe.lora_alpha.unwrap_or(recipe.lora_rank as f64),
        dropout: recipe.lora_dropout,
        base,
        ..Lora::new(recipe.lora_rank, targets)
    })
}

fn data(recipe: &RunConfig, model: &ModelSource) -> Result<DataSettings> {
    let [train, val] = Examples::of(recipe)?;
    let format = if recipe.encodes_graphs() { Format::Graph } else { Format::Text };
    Ok(DataSettings {
        train,
        val,
        format,
        tokenizer: tokenizer(recipe, format, model),
        prompt: recipe.prompt_style(),
        allow_unknown: recipe.allow_unknown,
    })
}

/// The recipe's tokenizer, the model's, or one to be built from the data.
fn tokenizer(recipe: &RunConfig, format: Format, model: &ModelSource) -> TokenizerSource {
    use TokenizerSource::{Built, Graphs, Path as At};
    let (folder, task) = match model {
        ModelSource::Checkpoint(checkpoint) => return At(checkpoint.clone()),
        ModelSource::Folder { path, .. } => (Some(path.clone()), recipe.task.as_deref()),
        ModelSource::Random(_) => (None, recipe.task.as_deref()),
    };
    match (recipe.tokenizer.as_deref(), folder, task) {
        (None | Some("graph"), Some(folder), _) => At(folder),
        (None | Some("graph"), None, _) if format == Format::Graph => Graphs,
        (Some("words"), _, _) | (None, None, None | Some("prosqa")) => Built(Units::Words),
        (Some("characters"), _, _) | (None, None, Some("arithmetic")) => Built(Units::Characters),
        (Some("symbols"), _, _) | (None, None, Some(_)) => Built(Units::Symbols),
        (Some(path), _, _) => At(path.into()),
    }
}
