//! `coconut eval`, and recipes that only evaluate.

mod tables;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use clap::{Args, ValueEnum};
use coconut::{
    Error, Result,
    checkpoint::Checkpoint,
    config::RunConfig,
    data::{Curriculum, Dataset, Example, Format, Stage, encode_graphs, encode_texts, read},
    eval::{Evaluator, score::Scorer},
    latent::LatentModel,
    report,
    run::{self, Results, append_samples},
    stats::Rate,
};
use serde_json::{Value, json};

use crate::{
    log,
    options::{DeviceOptions, Dials, ModelOptions, PromptOptions, SamplingOptions, Span},
    progress::Progress,
    verbs,
};

#[derive(Args)]
pub struct Eval {
    #[command(flatten)]
    model: ModelOptions,
    /// Files of examples to evaluate on, one or several separated by commas.
    #[arg(long, required = true, value_delimiter = ',', value_name = "FILE")]
    data: Vec<PathBuf>,
    /// Evaluate at this stage instead of the checkpoint's (−1 is chain of thought in words).
    #[arg(long, allow_hyphen_values = true)]
    stage: Option<i32>,
    /// Latents between question and answer, one number or several, such as 0..12; as many as in training if absent.
    #[arg(long, value_name = "K")]
    latents: Option<Span>,
    /// How often latents that are thought of in parallel are computed anew, one number or several, such as 0..8; as
    /// often as in training if absent.
    #[arg(long, value_name = "R")]
    iterations: Option<Span>,
    /// Accuracy apart by this too: the number of steps of the examples.
    #[arg(long)]
    by: Option<By>,
    /// Draw accuracy against the numbers of latents or iterations into this SVG file.
    #[arg(long, value_name = "FILE")]
    figure: Option<PathBuf>,
    /// Questions generated at once.
    #[arg(long, default_value_t = 64, value_parser = verbs::at_least_one)]
    batch_size: usize,
    /// Most tokens generated for one question.
    #[arg(long, default_value_t = 128, value_parser = verbs::at_least_one)]
    max_new_tokens: usize,
    /// Use only the first so many examples.
    #[arg(long, value_parser = verbs::at_least_one)]
    max_size: Option<usize>,
    /// Refuse examples with words or characters that the vocabulary lacks, instead of a warning.
    #[arg(long)]
    strict: bool,
    #[command(flatten)]
    prompts: PromptOptions,
    /// What of a generated text is its answer: what stands after the last ### (mark). Or, of that, and of the whole text
    /// where there is no ###: a number (number), one of the words that are answers (choice), what \boxed holds (boxed),
    /// the last line (line), or whichever of these the set's answers call for (auto). If absent, auto for a plain model
    /// and mark for a checkpoint.
    #[arg(long, value_name = "NAME", value_parser = Scorer::NAMES)]
    scorer: Option<String>,
    #[command(flatten)]
    sampling: SamplingOptions,
    /// Write each question with its generation and verdict to this file.
    #[arg(long)]
    samples: Option<PathBuf>,
    /// Print the result as one line of JSON; a list if there are several files or numbers of latents or iterations.
    #[arg(long)]
    json: bool,
}

/// What accuracy is taken apart by.
#[derive(Clone, Copy, ValueEnum)]
pub enum By {
    /// The number of steps.
    Steps,
}

/// A file of examples, as a checkpoint is asked them.
struct Set {
    path: PathBuf,
    data: Dataset,
    scorer: Scorer,
}

/// What was found on a file with some numbers of latents and iterations.
struct Point {
    /// The file's name.
    set: String,
    scorer: &'static str,
    dials: Dials,
    row: run::Row,
    /// By number of steps.
    by_steps: BTreeMap<usize, Rate>,
}

impl Eval {
    pub fn run(self) -> Result<()> {
        let latents = self.latents.is_some();
        let mut checkpoint = self.model.open_to_ask(latents)?;
        let shots = self.prompts.apply(&mut checkpoint)?;
        let stage = self.stage(checkpoint.latent.stage, &checkpoint.latent.curriculum())?;
        let open = |path: &PathBuf| self.set(&checkpoint, path, &shots);
        let sets: Vec<Set> = self.data.iter().map(open).collect::<Result<_>>()?;
        let dials = self.dials();
        if self.figure.is_some() && dials.len() == 1 {
            return Err(Error::Usage(
                "--figure draws a curve; give several numbers, such as `--latents 0..12`.".into(),
            ));
        }
        for dials in &dials {
            dials.set_iterations(&mut checkpoint, stage)?;
            for set in &sets {
                self.check(&checkpoint, set, dials, stage)?;
            }
        }
        let questions: usize = sets.iter().map(|set| set.data.encoded.len()).sum();
        let progress =
            Progress::new("evaluating", "questions", 0, (dials.len() * questions) as u64);
        let mut points = Vec::new();
        for set in &sets {
            for &dials in &dials {
                dials.set_iterations(&mut checkpoint, stage)?;
                points.push(self.point(&checkpoint, set, dials, stage, &progress)?);
            }
        }
        drop(progress);
        if let Some(path) = &self.figure {
            let svg =
                report::rates_svg(&tables::curves(&points), tables::axis(&points), "accuracy, %");
            let svg = svg.ok_or_else(|| Error::Internal("the figure could not be drawn".into()))?;
            std::fs::write(path, svg).map_err(Error::io("write", path))?;
        }
        self.print(&points);
        Ok(())
    }

    /// Every number of latents with every number of iterations.
    fn dials(&self) -> Vec<Dials> {
        let values = |span: &Option<Span>| match span {
            Some(span) => span.values().map(Some).collect(),
            None => vec![None],
        };
        let latents: Vec<Option<usize>> = values(&self.latents);
        let with = |iterations| latents.iter().map(move |&latents| Dials { latents, iterations });
        values(&self.iterations).into_iter().flat_map(with).collect()
    }

    fn evaluator<'a>(
        &self,
        checkpoint: &'a Checkpoint,
        set: &'a Set,
        dials: &Dials,
        stage: Stage,
    ) -> Result<Evaluator<'a>> {
        let latents = dials.latents(checkpoint, stage)?;
        Ok(Evaluator {
            data: &set.data,
            decoder: checkpoint.decoder(),
            tokenizer: &checkpoint.tokenizer,
            curriculum: Curriculum { latents, ..checkpoint.latent.curriculum() },
            batch_size: self.batch_size,
            max_new_tokens: self.max_new_tokens,
            sampling: self.sampling.sampling(),
            scorer: set.scorer.clone(),
            seed: 0,
        })
    }

    /// A file's examples, without those that are shown before every question.
    fn set(&self, checkpoint: &Checkpoint, path: &Path, shots: &[Example]) -> Result<Set> {
        let Dataset { examples, encoded } = examples(checkpoint, path, self.max_size, self.strict)?;
        let all = examples.len();
        let shown = |example: &Example| shots.iter().any(|shot| shot.question == example.question);
        let asked = examples.into_iter().zip(encoded).filter(|(example, _)| !shown(example));
        let (examples, encoded): (Vec<_>, Vec<_>) = asked.unzip();
        if examples.len() < all {
            eprintln!(
                "note: {}: {} of {all} questions are among those shown with their answers; they are left out",
                path.display(),
                all - examples.len()
            );
        }
        if examples.is_empty() {
            return Err(Error::input(
                path,
                "",
                "has no questions but those that are shown with their answers. Name another file with `--data` or `--shots-from`.",
            ));
        }
        let default = if checkpoint.latent.plain { "auto" } else { "mark" };
        let name = self.scorer.as_deref().unwrap_or(default);
        let answers = examples.iter().map(|example| example.answer.as_str());
        let scorer = Scorer::named(name, answers)
            .ok_or_else(|| Error::Internal(format!("no scorer {name}")))?;
        if name == "auto" {
            let name = scorer.name();
            eprintln!("note: {}: answers are read with `--scorer {name}`", path.display());
        }
        Ok(Set { path: path.to_owned(), data: Dataset { examples, encoded }, scorer })
    }

    /// Refuses what cannot be evaluated, before anything is.
    fn check(&self, checkpoint: &Checkpoint, set: &Set, dials: &Dials, stage: Stage) -> Result<()> {
        let evaluator = self.evaluator(checkpoint, set, dials, stage)?;
        check_room(dials, &evaluator, &checkpoint.model, stage)?;
        evaluator.check(&checkpoint.model, stage, &set.path)
    }

    fn point(
        &self,
        checkpoint: &Checkpoint,
        set: &Set,
        dials: Dials,
        stage: Stage,
        progress: &Progress,
    ) -> Result<Point> {
        let Checkpoint { model, latent, .. } = checkpoint;
        let evaluator = self.evaluator(checkpoint, set, &dials, stage)?;
        let found = evaluator.evaluate(model, stage, |n| {
            progress.advance(n as u64);
            Ok(())
        })?;
        if let Some(path) = &self.samples {
            let several = self.data.len() > 1;
            let name = several.then(|| set.path.display().to_string());
            append_samples(path, &found, stage, 0, latent.method, name.as_deref())?;
        }
        let mut by_steps: BTreeMap<usize, Rate> = BTreeMap::new();
        for sample in &found.answers.samples {
            let steps = set.data.examples[sample.index].steps.len();
            by_steps.entry(steps).or_default().add(sample.correct);
        }
        let reinject = model.config.feeds_back().then(|| latent.thinking.feedback.to_string());
        let row = run::Row::of(&found, stage, 0, latent.method, reinject);
        let name = set.path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        Ok(Point { set: name, scorer: set.scorer.name(), dials, row, by_steps })
    }

    fn to_json(&self, point: &Point) -> Value {
        let mut object = json!(point.row);
        if self.data.len() > 1 {
            object["data"] = json!(point.set);
        }
        if point.scorer != Scorer::Mark.name() {
            object["scorer"] = json!(point.scorer);
        }
        if let Some(iterations) = point.dials.iterations {
            object["iterations"] = json!(iterations);
        }
        if self.by.is_some() {
            object["by_steps"] = json!(point.by_steps);
        }
        object
    }

    fn print(&self, points: &[Point]) {
        let by_steps = self.by.is_some();
        if self.json {
            let all = points.iter().map(|point| self.to_json(point));
            let all: Vec<Value> = all.collect();
            match &all[..] {
                [one] => verbs::print_json(one),
                several => verbs::print_json(&json!(several)),
            }
            return;
        }
        if let [Point { dials, row, .. }] = points {
            let rows = vec![row.clone()];
            let results = Results { run: "eval".into(), config: json!({}), rows };
            say!("{}", report::table::terminal(&report::series(&[&results])));
            if let Some(iterations) = dials.iterations {
                say!("iterations: {iterations}");
            }
        } else {
            say!("{}", tables::curve(points));
        }
        if by_steps {
            say!("\n{}", tables::by_steps(points));
        }
    }
}

impl Point {
    fn accuracy(&self) -> Rate {
        let n = self.row.n.unwrap_or(0);
        Rate { hits: self.by_steps.values().map(|rate| rate.hits).sum(), n }
    }
}

/// Refuses more latents than fit beside the questions.
fn check_room(
    dials: &Dials,
    evaluator: &Evaluator,
    model: &LatentModel,
    stage: Stage,
) -> Result<()> {
    let Some(latents) = dials.latents else { return Ok(()) };
    let context = model.transformer.config.n_positions;
    let lengths = evaluator.prompts(stage).into_iter().map(|prompt| prompt.ids.len());
    match (1..).zip(lengths).find(|(_, length)| *length > context) {
        Some((number, length)) => Err(Error::Usage(format!(
            "--latents {latents}: with them the prompt of example {number} has {length} tokens, but the model's context is {context}."
        ))),
        None => Ok(()),
    }
}

impl Eval {
    /// The stage to evaluate at: the checkpoint's, or another that it has.
    fn stage(&self, trained: Stage, curriculum: &Curriculum) -> Result<Stage> {
        let last = curriculum.last_stage().max(trained);
        match self.stage {
            None => Ok(trained),
            Some(stage) if (-1..=last.0).contains(&stage) => Ok(Stage(stage)),
            Some(stage) => Err(Error::Usage(format!(
                "--stage {stage}: the stages of this checkpoint are -1 to {last}."
            ))),
        }
    }
}

/// Examples in a checkpoint's tokens; what looks wrong in them is said on stderr, or refused if `strict`.
pub fn examples(
    checkpoint: &Checkpoint,
    path: &Path,
    max_size: Option<usize>,
    strict: bool,
) -> Result<Dataset> {
    let examples = read::load(path, max_size)?;
    let encoded = match checkpoint.latent.format {
        Format::Graph => encode_graphs(&examples, &checkpoint.tokenizer, path)?,
        Format::Text => {
            let (encoded, found) = encode_texts(&examples, &checkpoint.tokenizer)?;
            if strict {
                found.refuse_unknown(path, "Leave out `--strict` to be warned only.")?;
            }
            for warning in found.warnings() {
                eprintln!("warning: {}, {warning}", path.display());
            }
            encoded
        }
    };
    Ok(Dataset { examples, encoded })
}

/// `only_eval: True` in a recipe.
pub fn evaluate_recipe(config: &RunConfig, json: bool) -> Result<()> {
    log::install(None)?;
    let (Some(checkpoint), Some(data)) = (&config.load_model_path, &config.val_path) else {
        return Err(Error::Usage("`only_eval` needs `load_model_path` and `val_path`.".into()));
    };
    Eval {
        model: ModelOptions {
            checkpoint: checkpoint.clone(),
            device: DeviceOptions { device: config.device, no_device_check: !config.device_check },
            bf16: config.bf16,
        },
        data: vec![data.clone()],
        stage: None,
        latents: None,
        iterations: None,
        by: None,
        figure: None,
        batch_size: config.eval_batch_size,
        max_new_tokens: config.max_new_tokens,
        max_size: None,
        strict: false,
        prompts: PromptOptions::default(),
        scorer: None,
        sampling: SamplingOptions::default(),
        samples: None,
        json,
    }
    .run()
}
