//! Recipes: flat YAML, overrides, and the checked configuration that a run is made of.
//!
//! A recipe is read into plain keys, joined with `-s key=value` overrides, checked key by key and
//! turned into a [`RunConfig`] once. That is what a run trusts from then on, and what is saved with it.
//! The keys are those of the field's published files, and ours beside them.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{
    Error, Result,
    data::{
        Curriculum, Method,
        tasks::{Task, arithmetic::Operator},
    },
    latent::Reinject,
};

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
    /// Only evaluate `load_model_path` on `val_path`.
    pub only_eval: bool,

    /// What is trained; in a recipe also `coconut: True`, `cot: True`, ….
    pub method: Method,
    /// Other methods to train and evaluate beside it, on the same data: `[no_cot]`.
    pub baselines: Vec<Method>,
    /// `c`: thoughts for each step replaced.
    pub c_thought: usize,
    /// Epochs at stage −1, chain of thought in words.
    pub cot_epochs: usize,
    /// Epochs at each stage 0 ..= M.
    pub epochs_per_stage: usize,
    /// `M`: the last stage that still speaks steps.
    pub max_latent_stage: usize,
    /// Examples with fewer steps than the stage get as many latents as the others.
    pub pad_latent_to_max: bool,
    /// Probability of drawing an example at another stage.
    pub uniform_prob: f64,
    /// What a latent is fed.
    pub replacement_method: Reinject,
    /// Graph task: a stage's label comes from the whole frontier.
    pub frontier: bool,

    /// A pretrained model: a Hugging Face folder. Without it the model starts from random weights.
    pub model_id: Option<PathBuf>,
    /// A checkpoint to start from.
    pub load_model_path: Option<PathBuf>,
    /// Shape of a model from random weights: blocks.
    pub n_layer: usize,
    /// Width.
    pub n_embd: usize,
    /// Heads.
    pub n_head: usize,
    /// Longest sequence; found from the data if absent.
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
    /// A generated task: `graph`, `prosqa`, `arithmetic`, `multiply`.
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
    /// `graph`, `prosqa`: nodes drawn.
    pub nodes: Option<usize>,
    /// `graph`, `prosqa`: fewest and most steps from the root to the target.
    pub distance: Option<[usize; 2]>,
    /// Generated training examples.
    pub train_examples: usize,
    /// Generated test examples.
    pub val_examples: usize,
    /// `words`, `symbols`, or the path of a `tokenizer.json`; that of the model, or found from the
    /// task, if absent.
    pub tokenizer: Option<String>,

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

    /// `cpu`, or a device of a build with its feature.
    pub device: String,
    /// A few examples and steps only.
    pub debug: bool,
}

impl Default for RunConfig {
    fn default() -> Self {
        Self {
            project: "coconut".into(),
            save_path: "runs".into(),
            name: "run".into(),
            only_eval: false,
            method: Method::Coconut,
            baselines: Vec::new(),
            c_thought: 1,
            cot_epochs: 0,
            epochs_per_stage: 1,
            max_latent_stage: 3,
            pad_latent_to_max: false,
            uniform_prob: 0.0,
            replacement_method: Reinject::LastHidden,
            frontier: false,
            model_id: None,
            load_model_path: None,
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
            nodes: None,
            distance: None,
            train_examples: 10_000,
            val_examples: 500,
            tokenizer: None,
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
            device: "cpu".into(),
            debug: false,
        }
    }
}

/// The learning rate's course after warm-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scheduler {
    /// The peak throughout.
    Constant,
    /// Down to 0 at the last step.
    Linear,
    /// Half a cosine down to 0 at the last step.
    Cosine,
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

/// Published keys that this version knows but cannot carry out, with the values that ask for nothing.
const REFUSED: [(&str, &[Value], &str); 9] = [
    ("bf16", &[Value::Bool(false), Value::Null], "training is in f32"),
    ("bf16_weight", &[Value::Bool(false), Value::Null], "weights are held in f32"),
    ("opt_8b", &[Value::Bool(false), Value::Null], "the optimizer's moments are held in f32"),
    ("use_position_ids", &[Value::Bool(false), Value::Null], "thoughts have ordinary positions"),
    ("loss_seq_vcr", &[Value::Bool(false), Value::Null], "the loss is cross entropy"),
    ("n_detached_recursions", &[Value::Null], "gradients flow through every pass"),
    ("system_prompt", &[Value::Null], "questions are used as they are"),
    (
        "resume_epochs",
        &[Value::Null],
        "use `resume` to skip epochs, or `--resume` to go on with a run",
    ),
    ("latent_positions", &[Value::Null], "thoughts have ordinary positions"),
];

/// Keys that each stand for a method, as the published files have them.
const METHODS: [(&str, Method); 6] = [
    ("coconut", Method::Coconut),
    ("cot", Method::Cot),
    ("no_cot", Method::NoCot),
    ("no_thoughts", Method::NoThoughts),
    ("pause", Method::Pause),
    ("no_curriculum", Method::NoCurriculum),
];

impl RunConfig {
    /// Reads a recipe and applies overrides, each `key=value` with the value in YAML.
    ///
    /// # Errors
    /// The first key at fault by name, with what is allowed; for an unknown key, the nearest known.
    pub fn load(recipe: &Path, overrides: &[String]) -> Result<Self> {
        let text = std::fs::read_to_string(recipe).map_err(Error::io("read", recipe))?;
        let keys = serde_saphyr::from_str::<Map<String, Value>>(&text).map_err(|e| {
            Error::input(
                recipe,
                "",
                format!("not a flat YAML recipe: {e}. Expected lines `key: value`."),
            )
        })?;
        Self::from_keys(keys, overrides, &recipe.display().to_string())
    }

    /// Like [`RunConfig::load`] from keys already read; `origin` names them in errors.
    pub fn from_keys(
        mut keys: Map<String, Value>,
        overrides: &[String],
        origin: &str,
    ) -> Result<Self> {
        let mut from = std::collections::BTreeMap::new();
        for text in overrides {
            let (key, value) = text.split_once('=').ok_or_else(|| {
                Error::Usage(format!(
                    "-s {text}: an override is `key=value`, such as `-s lr=3e-4`."
                ))
            })?;
            let value = serde_saphyr::from_str::<Value>(value)
                .unwrap_or_else(|_| Value::String(value.into()));
            // An override of one method switch replaces whichever the recipe had.
            if METHODS.iter().any(|(name, _)| *name == key) && value == Value::Bool(true) {
                keys.retain(|name, _| name != "method" && METHODS.iter().all(|(m, _)| m != name));
            }
            keys.insert(key.into(), value);
            from.insert(key.to_owned(), "-s".to_owned());
        }
        let origin = |key: &str| from.get(key).cloned().unwrap_or_else(|| origin.to_owned());
        let error = |key: &str, problem: String| Error::Config {
            origin: origin(key),
            key: key.into(),
            problem,
        };

        // PyYAML reads `None` as a word; the published files mean the absent value.
        for value in keys.values_mut() {
            if matches!(value.as_str(), Some("None" | "none" | "")) {
                *value = Value::Null;
            }
        }
        for (key, harmless, instead) in REFUSED {
            match keys.remove(key) {
                Some(value) if !harmless.contains(&value) => {
                    let problem = format!(
                        "is known but not available in this version: {instead}. Remove the key."
                    );
                    return Err(error(key, problem));
                }
                _ => {}
            }
        }
        take_method(&mut keys).map_err(|(key, problem)| error(&key, problem))?;
        let defaults = to_keys(&Self::default());
        if let Some(unknown) = keys.keys().find(|key| !defaults.contains_key(*key)) {
            return Err(error(unknown, unknown_key(unknown, &defaults)));
        }

        // Key by key, so that an error names its key.
        let mut checked = defaults.clone();
        for (key, value) in keys {
            if value.is_null() && !defaults[&key].is_null() {
                continue; // an empty value asks for the default
            }
            let before = checked.insert(key.clone(), value.clone());
            if let Err(e) = serde_json::from_value::<Self>(Value::Object(checked.clone())) {
                let default = before.map(|value| value.to_string()).unwrap_or_default();
                let problem = format!("{} (its default is {default})", plain(&e, &value));
                return Err(error(&key, problem));
            }
        }
        let config: Self = serde_json::from_value(Value::Object(checked))
            .map_err(|e| error("recipe", e.to_string()))?;
        config.check().map_err(|(key, problem)| error(key, problem))?;
        Ok(config)
    }

    /// The folder of the model to start from, if it does not start from random weights.
    pub fn model_folder(&self) -> Option<&Path> {
        self.load_model_path.as_deref().or(self.model_id.as_deref())
    }

    /// The folder of the run.
    pub fn run_dir(&self) -> PathBuf {
        self.save_path.join(&self.name)
    }

    /// The settings of the curriculum.
    pub fn curriculum(&self) -> Curriculum {
        Curriculum {
            method: self.method,
            c_thought: self.c_thought,
            max_latent_stage: self.max_latent_stage,
            pad_latent_to_max: self.pad_latent_to_max,
            uniform_prob: self.uniform_prob,
            cot_epochs: self.cot_epochs,
            epochs_per_stage: self.epochs_per_stage,
            num_epochs: self.num_epochs,
            frontier: self.frontier,
        }
    }

    /// The task to generate, with its settings.
    ///
    /// # Errors
    /// A name that is no task's, or a setting that the task does not have.
    pub fn task(&self) -> Result<Option<Task>> {
        let error = |key: &str, problem: String| {
            Err(Error::Config { origin: "task".into(), key: key.into(), problem })
        };
        let Some(name) = &self.task else { return Ok(None) };
        let Some(mut task) = Task::named(name) else {
            return error(
                "task",
                format!("is `{name}`; expected one of {}", Task::NAMES.join(", ")),
            );
        };
        let given = [
            ("operands", self.operands.is_some(), "arithmetic"),
            ("operators", self.operators.is_some(), "arithmetic"),
            ("operations", self.operations.is_some(), "arithmetic"),
            ("modulus", self.modulus.is_some(), "arithmetic"),
            ("value_steps", self.value_steps.is_some(), "arithmetic"),
            ("digits", self.digits.is_some(), "multiply"),
            ("nodes", self.nodes.is_some(), "graph, prosqa"),
            ("distance", self.distance.is_some(), "graph, prosqa"),
        ];
        if let Some((key, _, of)) =
            given.iter().find(|(_, given, of)| *given && !of.contains(name.as_str()))
        {
            return error(key, format!("is a setting of the task {of}, not of {name}"));
        }
        match &mut task {
            Task::Arithmetic(arithmetic) => {
                if let Some([low, high]) = self.operands {
                    arithmetic.operands = low..=high;
                }
                if let Some([fewest, most]) = self.operations {
                    arithmetic.n_operations = fewest..=most;
                }
                if let Some(symbols) = &self.operators {
                    let operators = symbols.chars().map(Operator::from_symbol).collect();
                    let Some(operators) = operators else {
                        return error("operators", format!("is `{symbols}`; expected some of +-*"));
                    };
                    arithmetic.operators = operators;
                }
                if let Some(modulus) = self.modulus {
                    arithmetic.modulus = (modulus != 0).then_some(modulus);
                }
                arithmetic.value_steps = self.value_steps.unwrap_or(false);
            }
            Task::Multiply(multiply) => {
                if let Some([a, b]) = self.digits {
                    (multiply.a_digits, multiply.b_digits) = (a, b);
                }
            }
            Task::Graph(shape) | Task::Prosqa(shape) => {
                shape.n_drawn = self.nodes.unwrap_or(shape.n_drawn);
                if let Some([fewest, most]) = self.distance {
                    shape.n_steps = fewest..=most;
                }
            }
        }
        Ok(Some(task))
    }

    /// The keys in which two configurations differ.
    pub fn differences(&self, other: &Self) -> Vec<String> {
        let (ours, theirs) = (to_keys(self), to_keys(other));
        ours.into_iter()
            .filter(|(key, value)| theirs.get(key) != Some(value))
            .map(|(key, _)| key)
            .collect()
    }

    /// The recipe as YAML, every key written out.
    pub fn to_yaml(&self) -> Result<String> {
        serde_saphyr::to_string(self)
            .map_err(|e| Error::Training(format!("cannot write the configuration as YAML: {e}")))
    }

    fn check(&self) -> Result<(), (&'static str, String)> {
        let at_least = |key: &'static str, value: usize, least: usize| {
            if value < least {
                Err((key, format!("is {value}; it must be at least {least}")))
            } else {
                Ok(())
            }
        };
        at_least("batch_size_training", self.batch_size_training, 1)?;
        at_least("gradient_accumulation_steps", self.gradient_accumulation_steps, 1)?;
        at_least("num_epochs", self.num_epochs, 1)?;
        at_least("n_layer", self.n_layer, 1)?;
        at_least("n_head", self.n_head, 1)?;
        at_least("n_embd", self.n_embd, 1)?;
        at_least("eval_batch_size", self.eval_batch_size, 1)?;
        at_least("max_new_tokens", self.max_new_tokens, 1)?;
        for (key, value) in
            [("c_thought", self.c_thought), ("max_latent_stage", self.max_latent_stage)]
        {
            if value > 1000 {
                return Err((key, format!("is {value}; it must be at most 1000")));
            }
        }
        if !self.n_embd.is_multiple_of(self.n_head) {
            let problem =
                format!("is {}; it must be a multiple of `n_head` ({})", self.n_embd, self.n_head);
            return Err(("n_embd", problem));
        }
        for (key, value, range) in [
            ("uniform_prob", self.uniform_prob, 0.0..=1.0),
            ("dropout", self.dropout, 0.0..=0.99),
            ("lr", self.lr, 0.0..=f64::MAX),
            ("weight_decay", self.weight_decay, 0.0..=f64::MAX),
            ("grad_clip", self.grad_clip, 0.0..=f64::MAX),
            ("initializer_range", self.initializer_range, 0.0..=f64::MAX),
            ("betas", self.betas[0], 0.0..=0.999_999),
            ("betas", self.betas[1], 0.0..=0.999_999),
        ] {
            if !range.contains(&value) {
                let problem = format!(
                    "is {value}; it must lie in {} to {}",
                    range.start(),
                    bound(*range.end())
                );
                return Err((key, problem));
            }
        }
        if self.name.is_empty() || self.name.contains(['/', '\\']) || self.name.starts_with('.') {
            return Err(("name", format!("is `{}`; it must be a plain folder name", self.name)));
        }
        if self.task.is_none() && self.val_path.is_none() {
            return Err((
                "val_path",
                "is missing; name a file of examples, or a `task` to generate".into(),
            ));
        }
        if self.task.is_none() && self.train_path.is_none() && !self.only_eval {
            return Err((
                "train_path",
                "is missing; name a file of examples, or a `task` to generate".into(),
            ));
        }
        if self.only_eval && self.load_model_path.is_none() {
            return Err((
                "load_model_path",
                "is missing; `only_eval` needs the checkpoint to evaluate".into(),
            ));
        }
        at_least("train_examples", self.train_examples, 1)?;
        at_least("val_examples", self.val_examples, 1)?;
        at_least("max_size", self.max_size.unwrap_or(1), 1)?;
        if self.resume >= self.num_epochs {
            let problem = format!(
                "is {}; it must be less than `num_epochs` ({})",
                self.resume, self.num_epochs
            );
            return Err(("resume", problem));
        }
        let repeated =
            (1..self.baselines.len()).any(|i| self.baselines[..i].contains(&self.baselines[i]));
        if repeated {
            return Err(("baselines", "names a method twice".into()));
        }
        if self.baselines.contains(&self.method) {
            return Err(("baselines", "names the method itself; list other methods".into()));
        }
        Ok(())
    }
}

fn bound(end: f64) -> String {
    if end == f64::MAX { "infinity".into() } else { end.to_string() }
}

fn to_keys(config: &RunConfig) -> Map<String, Value> {
    match serde_json::to_value(config) {
        Ok(Value::Object(keys)) => keys,
        _ => Map::new(),
    }
}

/// Turns the published method switches into `method`.
fn take_method(keys: &mut Map<String, Value>) -> Result<(), (String, String)> {
    let mut chosen = Vec::new();
    for (key, method) in METHODS {
        match keys.remove(key) {
            Some(Value::Bool(true)) => chosen.push((key, method)),
            Some(Value::Bool(false) | Value::Null) | None => {}
            Some(other) => return Err((key.into(), format!("is {other}; expected True or False"))),
        }
    }
    match chosen.as_slice() {
        [] => Ok(()),
        [(key, method)] => {
            let value = serde_json::to_value(method).unwrap_or_default();
            match keys.insert("method".into(), value.clone()) {
                Some(other) if other != value => Err((
                    (*key).into(),
                    format!("contradicts `method: {}`; keep one of the two", show(&other)),
                )),
                _ => Ok(()),
            }
        }
        [(first, _), (second, _), ..] => Err((
            (*second).into(),
            format!(
                "is True beside `{first}: True`; a run trains one method (see `baselines` for more)"
            ),
        )),
    }
}

fn show(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// serde's message, with the value that it is about.
fn plain(error: &serde_json::Error, value: &Value) -> String {
    let text = error.to_string();
    let text = text.split(" at line ").next().unwrap_or(&text);
    format!("is `{}`: {}", show(value), text.replace("unknown variant", "unknown value"))
}

/// What to say of an unknown key: the nearest known one, if any is near.
fn unknown_key(key: &str, known: &Map<String, Value>) -> String {
    let known = known.keys().map(String::as_str);
    let all = known.chain(REFUSED.iter().map(|r| r.0)).chain(METHODS.iter().map(|m| m.0));
    let nearest = all
        .map(|name| (strsim::damerau_levenshtein(key, name), name))
        .min()
        .filter(|(distance, _)| *distance <= key.len().max(4) / 2);
    match nearest {
        Some((_, name)) => format!("is not a key; did you mean `{name}`?"),
        None => "is not a key; `coconut train RECIPE --dry-run` prints them all".into(),
    }
}

impl fmt::Display for Scheduler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Constant => "constant",
            Self::Linear => "linear",
            Self::Cosine => "cosine",
        })
    }
}
