//! Recipes: flat YAML, overrides, and the checked configuration that a run is made of.
//!
//! A recipe is read into plain keys, joined with `-s key=value` overrides, checked key by key and
//! turned into a [`RunConfig`] once; it is saved with the run. [`Resolved`] is made of it when the run starts: folders,
//! devices and tasks found, and what belongs together in one place. That is what a run trusts from then on.
//! The keys are those of the field's published files, and ours beside them.

pub(crate) mod check;
mod compare;
mod origin;
mod parts;
mod presets;
mod read;
pub mod resolved;
mod task;

pub(crate) use origin::Origin;
pub(crate) use read::{SWEEP, read_keys};
pub use resolved::Resolved;

use std::{collections::BTreeSet, path::PathBuf};

use crate::{
    Error, Result,
    data::{
        Method, RowKind,
        tasks::dag::Kind,
        tokenizer::chat::{Date, PromptStyle},
    },
    device::DeviceName,
    latent::{Compat, Feedback, Iterations, LatentPositions, Recompute, Shift, Thinking},
    model::lora::{FrozenDtype, Targets},
    objective::{
        DecoderStyle, DistilLayers, KvDistance, StepsAt,
        seq_vcr::{Divisor, Layers, Projection},
    },
    optim::Scheduler,
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Everything that decides a run, checked. Field names are the recipe's keys.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RunConfig {
    /// A label for the run's logs.
    pub project: String,
    /// The folder that holds runs.
    pub save_path: PathBuf,
    /// The run's name: its folder is `save_path/name`.
    pub name: String,
    /// Programs that the run's figures are written for beside `metrics.jsonl` and `metrics.csv`: `tensorboard` (into `tb/`),
    /// `wandb` (into `wandb/`, which `wandb sync` uploads).
    pub tracker: Vec<Tracker>,
    /// Only evaluate `load_model_path` on `val_path`.
    pub only_eval: bool,

    /// What is trained; in a recipe also `coconut: True`, `cot: True`, …. A method is a set of values of other keys
    /// (docs/method.md 3.6), which a recipe may change one by one.
    pub method: Method,
    /// Other methods to train and evaluate beside it, on the same data: `[no_cot]`.
    pub baselines: Vec<Method>,
    /// Which tokens a row holds: `stages`, `blocks`, `fixed` or `tokenwise`.
    pub row: RowKind,
    /// `c`: thoughts for each step replaced; in all, if `row: fixed`.
    pub c_thought: usize,
    /// Epochs at stage −1, chain of thought in words.
    pub cot_epochs: usize,
    /// Epochs at each stage 0 ..= M.
    pub epochs_per_stage: usize,
    /// `M`: the last stage that still speaks steps.
    pub max_latent_stage: usize,
    /// What moves a run to its next stage: the `clock`, a `gated` accuracy, or `tokenwise` optimizer steps.
    pub schedule: ScheduleKind,
    /// `schedule: gated`: the accuracy at which a stage is left, after at most `epochs_per_stage` epochs.
    pub gate_accuracy: f64,
    /// `schedule: tokenwise`: tokens that are taken away in an epoch.
    pub removed_per_epoch: usize,
    /// `schedule: tokenwise`: once so many tokens are to be missing, all are.
    pub remove_all_from: usize,
    /// `row: tokenwise`: λ of removal smoothing; 0 for none.
    pub removal_smoothing: f64,
    /// Examples with fewer steps than the stage get as many latents as the others.
    pub pad_latent_to_max: bool,
    /// Probability of drawing an example at another stage.
    pub uniform_prob: f64,
    /// In which order latents are computed: `none` (ordinary tokens), `sequential` or `parallel`.
    pub thinking: Thinking,
    /// `thinking: parallel`: how often latents are computed anew; `stage` for as often as steps are replaced.
    pub iterations: Iterations,
    /// `thinking: parallel`: a latent is fed what the position before it computed (1), or what it computed (0).
    pub latent_shift: Shift,
    /// `thinking: parallel`: a latent keeps its own embedding beside what it is fed.
    pub latent_residual: bool,
    /// What a latent is fed.
    pub replacement_method: Feedback,
    /// ε of `suppressed`.
    pub suppressed_epsilon: f64,
    /// ε is a share of the root mean square of the state.
    pub suppressed_relative: bool,
    /// The last hidden state is taken before the final norm.
    pub last_state_unnormed: bool,
    /// `replication`: reinjections as the published table computed them. `simcot`: texts of a step decoder cut as published.
    pub compat: Compat,
    /// `none`, `offset[100000]` (`use_position_ids: True`), `learned` or `sinusoidal`.
    pub latent_positions: LatentPositions,
    /// Gradients flow through so many of each row's last passes only, from its own last latent; 0 for all.
    pub n_detached_recursions: usize,
    /// `passes`, `blocks`: each pass's activations, or each block's, are computed again in backward.
    pub recompute: Recompute,
    /// Weight of the cross entropy of the answer, and of the steps still shown.
    pub loss_answer: f64,
    /// Weight of the cross entropy of latents at the steps that they replace.
    pub loss_steps: f64,
    /// When it is taken, thinking in parallel: after the `last` iteration, or after each block's `own`.
    pub steps_at: StepsAt,
    /// Steps with more tokens than a block has latents are cut; `False`: they run on into the next block, as published.
    pub steps_cut: bool,
    /// Weight of the cross entropy of a second row, the teacher's, whose steps are written out.
    pub loss_teacher: f64,
    /// Teachers' rows show the last step too, which says what the answer is.
    pub teacher_last_step: bool,
    /// γ: weight of the distance of hidden states from the teacher's, at the token before the answer's value.
    pub loss_distil: f64,
    /// Of `all` hidden states, or those after `blocks`, without the embeddings.
    pub distil_layers: DistilLayers,
    /// Weight of the distance of latents' keys and values from those of the steps' tokens that are kept of the teacher's.
    pub loss_kv: f64,
    /// λ: how much the answer's attention to a token decides whether it is kept; 1 − λ is how much it differs from others.
    pub kv_importance: f64,
    /// The distance: `l1`, `mse` or `smooth_l1`.
    pub kv_distance: KvDistance,
    /// It is divided by the standard deviation of the teacher's elements, layer by layer.
    pub kv_by_std: bool,
    /// A second network reads thoughts and is to say their steps: in blocks of them (`coconut`), or one by one
    /// (`codi`). `none` if absent.
    pub step_decoder: Option<DecoderStyle>,
    /// Weight of its cross entropy.
    pub loss_decoder: f64,
    /// Its blocks, copied from the model's first; all of them if absent.
    pub decoder_layers: Option<usize>,
    /// Add the Seq-VCR loss.
    pub loss_seq_vcr: bool,
    /// Its λ₁, of the variance term.
    pub seq_vcr_lambda1: f64,
    /// Its λ₂, of the covariance term.
    pub seq_vcr_lambda2: f64,
    /// Its η, added to variances.
    pub seq_vcr_eta: f64,
    /// `all` hidden states of the last pass, or the `last` of every pass.
    pub seq_vcr_layers: Layers,
    /// `fixed` or `trained`.
    pub seq_vcr_projection: Projection,
    /// Dimensions projected to; 32 if fixed and 2048 if trained, if absent.
    pub seq_vcr_dim: Option<usize>,
    /// The covariance term's divisor: `pairs`, T·P·(P − 1), or `width`, T·P.
    pub seq_vcr_divisor: Divisor,
    /// Graph task: a stage's label comes from the whole frontier.
    pub frontier: bool,

    /// A pretrained model: a Hugging Face folder, or `org/name` in the local Hugging Face cache, also
    /// `org/name@revision`. Without it the model starts from random weights.
    pub model_id: Option<String>,
    /// A branch, tag or commit of `model_id`; `main` if absent.
    pub revision: Option<String>,
    /// A checkpoint to start from.
    pub load_model_path: Option<PathBuf>,
    /// Train low-rank adapters of this rank, and the markers' rows, instead of the model; 0 for the
    /// model itself.
    pub lora_rank: usize,
    /// Adapters are scaled by `lora_alpha / lora_rank`; by 1 if absent.
    pub lora_alpha: Option<f64>,
    /// Dropout of the adapters' inputs.
    pub lora_dropout: f64,
    /// Names of the maps with adapters, or `all-linear`; PEFT's choice for the family if absent:
    /// `[c_attn]`, or `[q_proj, v_proj]`.
    pub lora_target_modules: Option<Targets>,
    /// How the frozen matrices below adapters are held: `f32`, or `bf16` in half the memory, exact
    /// where the model's folder holds bf16.
    pub frozen_dtype: FrozenDtype,
    /// Shape of a model from random weights: blocks.
    pub n_layer: usize,
    /// Width.
    pub n_embd: usize,
    /// Heads.
    pub n_head: usize,
    /// Longest sequence; found from the data if absent, up to 16384.
    pub n_positions: Option<usize>,
    /// Dropout, of a model from random weights.
    pub dropout: f64,
    /// Standard deviation of random weights.
    pub initializer_range: f64,

    /// Training examples; generated if a `task` is named instead.
    pub train_path: Option<PathBuf>,
    /// Examples to evaluate on.
    pub val_path: Option<PathBuf>,
    /// Use at most so many training examples.
    pub max_size: Option<usize>,
    /// A generated task: `arithmetic`, `graph`, `multiply`, `pointer`, `prosqa`.
    pub task: Option<String>,
    /// `arithmetic`: smallest and largest number in a chain.
    pub operands: Option<[i64; 2]>,
    /// `arithmetic`: which of `+-*`.
    pub operators: Option<String>,
    /// `arithmetic`: fewest and most operations, one step each.
    pub operations: Option<[usize; 2]>,
    /// `arithmetic`: results are taken modulo this; 0 for no modulus.
    pub modulus: Option<i64>,
    /// `arithmetic`: a step is its value alone rather than an equation.
    pub value_steps: Option<bool>,
    /// `multiply`: digits of the two factors.
    pub digits: Option<[u32; 2]>,
    /// `pointer`: entries of the table.
    pub entries: Option<usize>,
    /// `pointer`: names that a table's are drawn from; as many as entries if absent.
    pub names: Option<usize>,
    /// `pointer`: fewest and most hops, one step each; at most half the entries.
    pub hops: Option<[usize; 2]>,
    /// `graph`, `prosqa`: nodes drawn.
    pub nodes: Option<usize>,
    /// `graph`, `prosqa`: fewest and most steps from the root to the target.
    pub distance: Option<[usize; 2]>,
    /// `graph`, `prosqa`: mean number of parents that are drawn for a node; 1.5 if absent.
    pub parents: Option<f64>,
    /// `graph`, `prosqa`: a node has as many parents as are drawn (`published`), one (`tree`), or two and more (`dag`).
    pub graph_kind: Option<Kind>,
    /// `graph`: nodes are numbered at random; otherwise every edge leads to a larger number.
    pub permuted_nodes: Option<bool>,
    /// `graph`: a step is the edge that is followed, `7 4`, rather than the node reached.
    pub edge_steps: Option<bool>,
    /// Generated training examples.
    pub train_examples: usize,
    /// Generated test examples.
    pub val_examples: usize,
    /// `words`, `symbols`, or the path of a `tokenizer.json`; that of the model, or found from the
    /// task, if absent.
    pub tokenizer: Option<String>,
    /// Train on examples with words or characters that the tokenizer lacks, as its unknown token; they are refused
    /// otherwise.
    pub allow_unknown: bool,
    /// Stands before every question: the chat's system turn, or a line of its own without a template.
    pub system_prompt: Option<String>,
    /// Put questions through the tokenizer's chat template, as a user's turn that awaits the answer.
    pub chat_template: bool,
    /// The day that a chat template sees as today's, `YYYY-MM-DD`: prompts do not change with the clock.
    pub template_date: Date,

    /// Seed of weights, order and draws.
    pub seed: u64,
    /// Epochs to skip, as published: the first epoch is this one.
    pub resume: usize,
    /// Epochs in all.
    pub num_epochs: usize,
    /// Examples a micro-batch.
    pub batch_size_training: usize,
    /// Micro-batches an optimizer step.
    pub gradient_accumulation_steps: usize,
    /// Peak learning rate.
    pub lr: f64,
    /// `constant`, `linear` or `cosine`, after warm-up.
    pub scheduler: Scheduler,
    /// Optimizer steps of warm-up.
    pub warmup_steps: usize,
    /// AdamW's decoupled weight decay.
    pub weight_decay: f64,
    /// AdamW's β₁ and β₂.
    pub betas: [f64; 2],
    /// Largest global norm of the gradient; 0 for no clipping.
    pub grad_clip: f64,
    /// Fresh optimizer moments at the start of each stage.
    pub reset_optimizer: bool,
    /// Keep a checkpoint only if the accuracy improved.
    pub save_only_improve: bool,
    /// Optimizer steps between checkpoints within an epoch; 0 for none.
    pub save_steps: usize,
    /// Newest checkpoints kept on disk; 0 for all.
    pub keep_checkpoints: usize,

    /// When to evaluate: `epoch`, `stage` (its last epoch) or `end`.
    pub eval_at: EvalAt,
    /// Questions generated at once.
    pub eval_batch_size: usize,
    /// Most tokens generated for one question.
    pub max_new_tokens: usize,

    /// Products with the model's matrices round both sides to bf16 and sum in f32; weights, moments and
    /// everything else stay in f32. Faster on a CPU with AVX512-BF16; for `device: cpu` only.
    pub bf16: bool,
    /// Where to compute: `cpu`; or `gpu`, the first that this build and machine have; or `cuda`, `rocm`, `metal`, `wgpu`
    /// or `vulkan` of a build with that feature, with a number where there are several, as in `wgpu:1`.
    pub device: DeviceName,
    /// Whether a device other than the CPU must first give the CPU's results in a trial of some seconds.
    pub device_check: bool,
    /// A few examples and steps only.
    pub debug: bool,

    /// Where the keys stand, for errors that come later.
    #[serde(skip)]
    pub(crate) origin: Origin,
}

impl Default for RunConfig {
    fn default() -> Self {
        Self {
            project: "coconut".into(),
            save_path: "runs".into(),
            name: "run".into(),
            tracker: vec![Tracker::Tensorboard],
            only_eval: false,
            method: Method::Coconut,
            baselines: Vec::new(),
            row: RowKind::Stages,
            c_thought: 1,
            cot_epochs: 0,
            epochs_per_stage: 1,
            max_latent_stage: 3,
            schedule: ScheduleKind::Clock,
            gate_accuracy: 0.9,
            removed_per_epoch: 8,
            remove_all_from: 39,
            removal_smoothing: 0.0,
            pad_latent_to_max: false,
            uniform_prob: 0.0,
            thinking: Thinking::Sequential,
            iterations: Iterations::Stage,
            latent_shift: Shift::Own,
            latent_residual: false,
            replacement_method: Feedback::default(),
            suppressed_epsilon: 0.1,
            suppressed_relative: false,
            last_state_unnormed: false,
            compat: Compat::None,
            latent_positions: LatentPositions::None,
            n_detached_recursions: 0,
            recompute: Recompute::None,
            loss_answer: 1.0,
            loss_steps: 0.0,
            steps_at: StepsAt::Last,
            steps_cut: true,
            loss_teacher: 0.0,
            teacher_last_step: false,
            loss_distil: 0.0,
            distil_layers: DistilLayers::All,
            loss_kv: 0.0,
            kv_importance: 0.1,
            kv_distance: KvDistance::SmoothL1,
            kv_by_std: true,
            step_decoder: None,
            loss_decoder: 1.0,
            decoder_layers: None,
            loss_seq_vcr: false,
            seq_vcr_lambda1: 1e-3,
            seq_vcr_lambda2: 1e-4,
            seq_vcr_eta: 1e-3,
            seq_vcr_layers: Layers::All,
            seq_vcr_projection: Projection::Fixed,
            seq_vcr_dim: None,
            seq_vcr_divisor: Divisor::Pairs,
            frontier: false,
            model_id: None,
            revision: None,
            system_prompt: None,
            chat_template: false,
            template_date: Date::default(),
            load_model_path: None,
            lora_rank: 0,
            lora_alpha: None,
            lora_dropout: 0.0,
            lora_target_modules: None,
            frozen_dtype: FrozenDtype::F32,
            n_layer: 4,
            n_embd: 128,
            n_head: 4,
            n_positions: None,
            dropout: 0.0,
            initializer_range: 0.02,
            train_path: None,
            val_path: None,
            max_size: None,
            task: None,
            operands: None,
            operators: None,
            operations: None,
            modulus: None,
            value_steps: None,
            digits: None,
            entries: None,
            names: None,
            hops: None,
            nodes: None,
            distance: None,
            parents: None,
            graph_kind: None,
            permuted_nodes: None,
            edge_steps: None,
            train_examples: 10_000,
            val_examples: 500,
            tokenizer: None,
            allow_unknown: false,
            seed: 0,
            resume: 0,
            num_epochs: 10,
            batch_size_training: 32,
            gradient_accumulation_steps: 1,
            lr: 1e-4,
            scheduler: Scheduler::Constant,
            warmup_steps: 0,
            weight_decay: 0.01,
            betas: [0.9, 0.999],
            grad_clip: 0.0,
            reset_optimizer: true,
            save_only_improve: false,
            save_steps: 0,
            keep_checkpoints: 2,
            eval_at: EvalAt::Epoch,
            eval_batch_size: 64,
            max_new_tokens: 128,
            bf16: false,
            device: DeviceName::Cpu,
            device_check: true,
            debug: false,
            origin: Origin { recipe: "recipe".into(), overridden: BTreeSet::new() },
        }
    }
}

/// When a run evaluates.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EvalAt {
    /// After every epoch.
    Epoch,
    /// After the last epoch of each stage.
    Stage,
    /// After the last epoch of all.
    End,
}

/// A program that shows runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Tracker {
    /// TensorBoard.
    Tensorboard,
    /// Weights & Biases, without a network.
    Wandb,
}

/// What moves a run to its next stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ScheduleKind {
    /// Its epochs.
    Clock,
    /// Its accuracy.
    Gated,
    /// Its optimizer steps.
    Tokenwise,
}

impl RunConfig {
    /// How questions are put to the model.
    pub fn prompt_style(&self) -> PromptStyle {
        PromptStyle {
            system_prompt: self.system_prompt.clone(),
            chat_template: self.chat_template,
            template_date: self.template_date,
            ..PromptStyle::default()
        }
    }

    /// The folder of the run.
    pub fn run_dir(&self) -> PathBuf {
        self.save_path.join(&self.name)
    }

    /// The key that names the model to start from, if it does not start from random weights.
    fn model_key(&self) -> Option<&'static str> {
        let loaded = self.load_model_path.as_ref().map(|_| "load_model_path");
        loaded.or(self.model_id.as_ref().map(|_| "model_id"))
    }

    /// The keys of its recipe.
    fn to_keys(&self) -> Map<String, Value> {
        match serde_json::to_value(self) {
            Ok(Value::Object(keys)) => keys,
            _ => Map::new(),
        }
    }

    /// Every key with its value.
    ///
    /// # Errors
    /// [`Error::Internal`] for a value that JSON has no word for.
    pub fn to_json(&self) -> Result<serde_json::Value> {
        serde_json::to_value(self)
            .map_err(|e| Error::Internal(format!("cannot write the configuration as JSON: {e}")))
    }

    /// The recipe as YAML, every key written out.
    pub fn to_yaml(&self) -> Result<String> {
        serde_saphyr::to_string(self)
            .map_err(|e| Error::Internal(format!("cannot write the configuration as YAML: {e}")))
    }
}
