//! A run's data: examples in token ids.

use std::path::{Path, PathBuf};

use crate::{
    Error, Result,
    config::{
        Resolved, RunConfig,
        resolved::{Examples, ModelSource, TokenizerSource},
    },
    data::{
        Curriculum, Dataset, Encoded, Example, Format, Stage, Tokenizer, encode_graphs,
        encode_texts, shortcuts::Shortcuts,
    },
    objective::{DecoderSettings, DecoderStyle},
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
    /// Reads or generates what a run names.
    pub fn prepare(run: &Resolved) -> Result<Self> {
        let settings = &run.data;
        let val = settings.val.load(&[])?;
        let train = settings.train.load(&val)?;
        let format = settings.format;
        let tokenizer = tokenizer(&settings.tokenizer, &train, &val)?;
        let tokenizer = tokenizer.with_prompt(&settings.prompt)?;
        let mut warnings = run.recipe.unused();
        if matches!(settings.train, Examples::Generated { .. }) {
            let found = Shortcuts::of(&train).and_then(|shortcuts| shortcuts.warning());
            warnings.extend(found.map(|found| format!("{TRAIN}: {found}")));
        }
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
        let resumed = matches!(run.model, ModelSource::Checkpoint(_));
        let strict = !settings.allow_unknown && !resumed;
        let train = encode(train, &origin(&settings.train, TRAIN), strict)?;
        let val = encode(val, &origin(&settings.val, VAL), false)?;
        let mut data = Self { tokenizer, format, train, val, warnings };
        let found = data.check_steps(&run.recipe)?;
        data.warnings.extend(found);
        if let ModelSource::Random(shape) = &run.model {
            match shape.n_positions {
                Some(context) => data.check_context(run, context)?,
                None => data.check_found_context(run)?,
            }
        }
        Ok(data)
    }

    /// Refuses examples whose steps a recipe's losses cannot use; what to tell of those that they can use in part, a
    /// paragraph each.
    ///
    /// # Errors
    /// The file, or the recipe's key, and why.
    pub fn check_steps(&self, recipe: &RunConfig) -> Result<Vec<String>> {
        let mut warnings = Vec::new();
        let (objective, origin) = (recipe.objective(), train_origin(recipe));
        let examples = &self.train.encoded;
        let n = examples.len();
        if objective.reads_steps() {
            let c = recipe.c_thought;
            if self.format == Format::Graph {
                let problem =
                    "needs steps written as text; graphs have them with `tokenizer: symbols`";
                return Err(recipe.error("loss_steps", problem));
            }
            let steps = examples.iter().flat_map(|example| match example {
                Encoded::Text(text) => text.steps.as_slice(),
                Encoded::Graph(_) => &[],
            });
            let (mut cut, mut all) = (0, 0);
            for step in steps {
                (cut, all) = (cut + usize::from(step.len() > c), all + 1);
            }
            if cut > 0 && recipe.steps_cut {
                warnings.push(format!(
                    "{}: {cut} of {all} steps have more tokens than a block has latents; of these, `loss_steps` reads the first {c} (`c_thought`).",
                    origin.display()
                ));
            }
        }
        if let Some(decoder) = objective.decoder() {
            self.check_decoded(recipe, decoder)?;
        }
        if objective.last_step() == Some(false) && n > 0 {
            let few = examples.iter().filter(|example| example.n_steps() < 2).count();
            if few == n {
                let problem = "no example has two steps, so that a teacher's row without its last step shows none; set `teacher_last_step: True`, or take a method without a teacher";
                return Err(Error::input(&origin, "", format!("{problem}.")));
            }
            if few > 0 {
                warnings.push(format!(
                    "{}: {few} of {n} examples have fewer than two steps; their teachers' rows show none.",
                    origin.display()
                ));
            }
        }
        Ok(warnings)
    }

    /// Refuses examples without steps that a step decoder could read.
    fn check_decoded(&self, recipe: &RunConfig, decoder: DecoderSettings) -> Result<()> {
        if self.format == Format::Graph {
            let problem = "needs steps written as text; graphs have them with `tokenizer: symbols`";
            return Err(recipe.error("step_decoder", problem));
        }
        let examples = &self.train.encoded;
        let hidden = usize::from(decoder.style == DecoderStyle::Codi && !decoder.last_step);
        if !examples.is_empty() && examples.iter().all(|example| example.n_steps() <= hidden) {
            let problem = match hidden {
                0 => "no example has a step for the step decoder to say",
                _ => {
                    "no example has two steps, and the step decoder is not to say the last one, which says what the answer is; set `teacher_last_step: True`"
                }
            };
            return Err(Error::input(train_origin(recipe), "", format!("{problem}.")));
        }
        Ok(())
    }

    /// The most positions that an example needs besides those of its rows, each with what needs them.
    fn besides(&self, run: &Resolved, example: &Encoded) -> [(&'static str, usize); 2] {
        let markers = self.tokenizer.special_tokens();
        let teacher = run
            .objective
            .last_step()
            .map_or(0, |last_step| run.curriculum.teacher_len(example, markers, last_step));
        let stages = run.curricula.first().map_or(&[][..], |(_, stages)| stages);
        let decoder = run.objective.decoder_len(&run.curriculum, example, stages, markers);
        [("its teacher's row", teacher), ("its longest text for the step decoder", decoder)]
    }

    /// The longest sequence that a run's curricula make.
    pub fn longest(&self, run: &Resolved) -> usize {
        let sets = [&self.train, &self.val];
        let lengths = sets.into_iter().flat_map(|set| self.lengths(run, set));
        lengths.max().unwrap_or(0)
    }

    /// The longest sequence that a run's curricula make of each example of a set.
    fn lengths(&self, run: &Resolved, set: &Dataset) -> Vec<usize> {
        let (curricula, markers) = (&run.curricula, self.tokenizer.special_tokens());
        let longest = |example: &Encoded| {
            let of = |(curriculum, stages): &(Curriculum, Vec<Stage>)| {
                curriculum.max_len(example, stages, markers)
            };
            let besides = self.besides(run, example).map(|(_, length)| length);
            curricula.iter().map(of).chain(besides).max().unwrap_or(0)
        };
        set.encoded.iter().map(longest).collect()
    }

    /// Refuses examples that are longer than a model's context, naming the first.
    pub fn check_context(&self, run: &Resolved, context: usize) -> Result<()> {
        let markers = self.tokenizer.special_tokens();
        for (set, origin) in self.sets(run) {
            for (curriculum, stages) in &run.curricula {
                curriculum.check_fits(&set.encoded, stages, markers, context, &origin)?;
            }
            for (index, example) in set.encoded.iter().enumerate() {
                let besides = self.besides(run, example);
                let Some((what, length)) = besides.into_iter().find(|of| of.1 > context) else {
                    continue;
                };
                let problem = format!(
                    "{what} needs {length} positions, the model has {context}. Take the long examples out, or choose a model with a longer context (`n_positions`)."
                );
                return Err(Error::input(&origin, format!("example {}", index + 1), problem));
            }
        }
        Ok(())
    }

    /// Refuses examples that would give a model from random weights a context of more than
    /// [`LONGEST_FOUND_CONTEXT`], naming the first.
    fn check_found_context(&self, run: &Resolved) -> Result<()> {
        for (set, origin) in self.sets(run) {
            let lengths = self.lengths(run, set);
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
                self.longest(run)
            );
            return Err(Error::input(&origin, format!("example {}", index + 1), problem));
        }
        Ok(())
    }

    /// Both sets with the paths that errors name.
    fn sets(&self, run: &Resolved) -> [(&Dataset, PathBuf); 2] {
        [(&self.train, origin(&run.data.train, TRAIN)), (&self.val, origin(&run.data.val, VAL))]
    }
}

/// The longest context that a model from random weights takes from its data: a longer one is a wish to be spelled
/// out, since memory and time of a row grow with its square, and one stray example sets it for all.
pub const LONGEST_FOUND_CONTEXT: usize = 16_384;

const UNKNOWN_IN_TRAINING: &str = "Choose a tokenizer that covers the data, take these examples out, or train on \
    the unknown token in their place with `allow_unknown: True`.";

const TRAIN: &str = "generated training examples";
const VAL: &str = "generated test examples";

/// What errors call a set.
fn origin(examples: &Examples, otherwise: &str) -> PathBuf {
    match examples {
        Examples::File { path, .. } => path.clone(),
        Examples::None | Examples::Generated { .. } => otherwise.into(),
    }
}

/// What errors call the training set of a recipe.
fn train_origin(recipe: &RunConfig) -> PathBuf {
    recipe.train_path.clone().unwrap_or_else(|| TRAIN.into())
}

fn tokenizer(source: &TokenizerSource, train: &[Example], val: &[Example]) -> Result<Tokenizer> {
    let all = || train.iter().chain(val);
    let origin = Path::new("tokenizer built from the data");
    match source {
        TokenizerSource::Path(path) => Tokenizer::load(path),
        TokenizerSource::Graphs => {
            let nodes = all().filter_map(|example| Some(example.graph.as_ref()?.n_nodes()));
            Tokenizer::for_graphs(nodes.max().unwrap_or(0), origin)
        }
        TokenizerSource::Built(units) => Tokenizer::build(all(), *units, origin),
    }
}
