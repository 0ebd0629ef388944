//! A run's data: examples in token ids.

use std::path::{Path, PathBuf};

use crate::{
    Error, Result,
    config::RunConfig,
    data::{
        Curriculum, Dataset, Encoded, Example, Format, Schedule, Stage, Tokenizer, encode_graphs,
        encode_texts, read,
        tasks::{self, Task},
        tokenizer::Units,
    },
    rng,
};

/// Everything a run reads.
#[derive(Clone, Debug)]
pub struct Data {
    /// Of the model, or built from the data.
    pub tokenizer: Tokenizer,
    /// How examples become tokens.
    pub format: Format,
    /// To train on; empty if the run only evaluates.
    pub train: Dataset,
    /// To evaluate on; none of it is in `train` if both were generated.
    pub val: Dataset,
    /// What a reader of the run should know of the data, a paragraph each.
    pub warnings: Vec<String>,
}

impl Data {
    /// Reads or generates what a recipe names. `model` is the folder of the model to start from; `resumed` the
    /// checkpoint to go on from, whose tokenizer stays the run's, whatever its data have become.
    pub fn prepare(
        config: &RunConfig,
        model: Option<&Path>,
        resumed: Option<&Path>,
    ) -> Result<Self> {
        let (train, val) = examples(config)?;
        let train_origin = origin(config.train_path.as_deref(), "generated training examples");
        let val_origin = origin(config.val_path.as_deref(), "generated test examples");
        let format = format(config);
        let tokenizer = match resumed {
            Some(checkpoint) => Tokenizer::load(checkpoint)?,
            None => tokenizer(config, format, model, &train, &val)?,
        };
        let tokenizer = tokenizer.with_prompt(&config.prompt_style())?;
        let mut warnings = config.unused();
        let mut encode = |examples: Vec<Example>, origin: &Path, strict| -> Result<Dataset> {
            let encoded = match format {
                Format::Graph => encode_graphs(&examples, &tokenizer, origin)?,
                Format::Text => {
                    let (encoded, found) = encode_texts(&examples, &tokenizer)?;
                    if strict {
                        found.refuse_unknown(origin, UNKNOWN_IN_TRAINING)?;
                    }
                    let named = |warning| format!("{}, {warning}", origin.display());
                    warnings.extend(found.warnings().into_iter().map(named));
                    encoded
                }
            };
            Ok(Dataset { examples, encoded })
        };
        // A run that goes on keeps its vocabulary, whatever has come into its data since.
        let strict = !config.allow_unknown && resumed.is_none();
        let train = encode(train, &train_origin, strict)?;
        let val = encode(val, &val_origin, false)?;
        let data = Self { tokenizer, format, train, val, warnings };
        match (model.or(resumed), config.n_positions) {
            (Some(_), _) => {}
            (None, Some(context)) => data.check_context(config, context)?,
            (None, None) => data.check_found_context(config)?,
        }
        Ok(data)
    }

    /// The longest sequence that a run's curricula make.
    pub fn longest(&self, config: &RunConfig) -> usize {
        let sets = [&self.train, &self.val];
        let lengths = sets.into_iter().flat_map(|set| self.lengths(config, set));
        lengths.max().unwrap_or(0)
    }

    /// The longest sequence that a run's curricula make of each example of a set.
    fn lengths(&self, config: &RunConfig, set: &Dataset) -> Vec<usize> {
        let (curricula, markers) = (curricula(config), self.tokenizer.markers());
        let longest = |example: &Encoded| {
            let of = |(curriculum, stages): &(Curriculum, Vec<Stage>)| {
                curriculum.max_len(example, stages, markers)
            };
            curricula.iter().map(of).max().unwrap_or(0)
        };
        set.encoded.iter().map(longest).collect()
    }

    /// Refuses examples that are longer than a model's context, naming the first.
    pub fn check_context(&self, config: &RunConfig, context: usize) -> Result<()> {
        let markers = self.tokenizer.markers();
        for (set, origin) in self.sets(config) {
            for (curriculum, stages) in curricula(config) {
                curriculum.check_fits(&set.encoded, &stages, markers, context, &origin)?;
            }
        }
        Ok(())
    }

    /// Refuses examples that would give a model from random weights a context of more than
    /// [`LONGEST_FOUND_CONTEXT`], naming the first.
    fn check_found_context(&self, config: &RunConfig) -> Result<()> {
        for (set, origin) in self.sets(config) {
            let lengths = self.lengths(config, set);
            let long: Vec<usize> =
                (0..lengths.len()).filter(|&i| lengths[i] > LONGEST_FOUND_CONTEXT).collect();
            let Some(&index) = long.first() else { continue };
            let problem = format!(
                "needs {} positions; a model from random weights takes its context from the data up to \
                 {LONGEST_FOUND_CONTEXT} only ({} of {} examples are longer). Take the long examples out, or set \
                 `n_positions: {}`.",
                lengths[index],
                long.len(),
                lengths.len(),
                self.longest(config)
            );
            return Err(Error::input(&origin, format!("example {}", index + 1), problem));
        }
        Ok(())
    }

    /// Both sets with the paths that errors name.
    fn sets(&self, config: &RunConfig) -> [(&Dataset, PathBuf); 2] {
        [
            (&self.train, origin(config.train_path.as_deref(), "generated training examples")),
            (&self.val, origin(config.val_path.as_deref(), "generated test examples")),
        ]
    }
}

/// The longest context that a model from random weights takes from its data: a longer one is a wish to be spelled
/// out, since memory and time of a row grow with its square, and one stray example sets it for all.
pub const LONGEST_FOUND_CONTEXT: usize = 16_384;

const UNKNOWN_IN_TRAINING: &str = "Choose a tokenizer that covers the data, take these examples out, or train on \
    the unknown token in their place with `allow_unknown: True`.";

/// The curricula of a run's method and its baselines, each with its stages.
fn curricula(config: &RunConfig) -> Vec<(Curriculum, Vec<Stage>)> {
    let methods = [config.method].into_iter().chain(config.baselines.iter().copied());
    let of_method = |method| {
        let schedule = Schedule { method, ..config.schedule() };
        let stages = schedule.stages().into_iter().map(|(stage, _)| stage).collect();
        (Curriculum { method, ..config.curriculum() }, stages)
    };
    methods.map(of_method).collect()
}

fn origin(path: Option<&Path>, otherwise: &str) -> PathBuf {
    path.unwrap_or(Path::new(otherwise)).to_owned()
}

/// Training and test examples, generated ones without overlap.
fn examples(config: &RunConfig) -> Result<(Vec<Example>, Vec<Example>)> {
    let limit = |n: usize| if config.debug { n.min(64) } else { n };
    let max_size = match (config.max_size, config.debug) {
        (Some(n), _) => Some(limit(n)),
        (None, true) => Some(64),
        (None, false) => None,
    };
    let task = config.task()?;
    let generate = |task: &Task, n: usize, kind: u64, exclude: &[Example]| {
        tasks::generate(task, limit(n), rng::hash(config.seed, &[kind]), &tasks::keys(exclude))
    };
    let val = match (&config.val_path, &task) {
        (Some(path), _) => read::load(path, config.debug.then_some(64))?,
        // Test examples do not depend on the run's seed: runs with other seeds answer the same questions.
        (None, Some(task)) => {
            tasks::generate(task, limit(config.val_examples), 0, &Default::default())?
        }
        (None, None) => Vec::new(),
    };
    let train = match (&config.train_path, &task) {
        _ if config.only_eval => Vec::new(),
        (Some(path), _) => read::load(path, max_size)?,
        (None, Some(task)) => {
            let n = max_size.map_or(config.train_examples, |max| max.min(config.train_examples));
            generate(task, n, 1, &val)?
        }
        (None, None) => Vec::new(),
    };
    Ok((train, val))
}

fn format(config: &RunConfig) -> Format {
    match config.tokenizer.as_deref().or(config.task.as_deref()) {
        Some("graph") => Format::Graph,
        _ => Format::Text,
    }
}

/// The tokenizer of a fresh run: the recipe's, the model's, or one built from the data.
fn tokenizer(
    config: &RunConfig,
    format: Format,
    model: Option<&Path>,
    train: &[Example],
    val: &[Example],
) -> Result<Tokenizer> {
    let all = || train.iter().chain(val);
    let origin = Path::new("tokenizer built from the data");
    let build = |units| Tokenizer::build(all(), units, origin);
    match (config.tokenizer.as_deref(), model, config.task.as_deref()) {
        (None | Some("graph"), Some(folder), _) => Tokenizer::load(folder),
        (None | Some("graph"), None, _) if format == Format::Graph => {
            let nodes = all().filter_map(|example| Some(example.graph.as_ref()?.n_nodes()));
            Tokenizer::for_graphs(nodes.max().unwrap_or(0), origin)
        }
        (Some("words"), _, _) | (None, None, None | Some("prosqa")) => build(Units::Words),
        (Some("characters"), _, _) | (None, None, Some("arithmetic")) => build(Units::Characters),
        (Some("symbols"), _, _) | (None, None, Some(_)) => build(Units::Symbols),
        (Some(path), _, _) => Tokenizer::load(Path::new(path)),
    }
}
