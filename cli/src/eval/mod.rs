//! `coconut eval`, and recipes that only evaluate.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use clap::{Args, ValueEnum};
use coconut::{
    Error, Result,
    checkpoint::Checkpoint,
    config::RunConfig,
    data::{Curriculum, Dataset, Format, Stage, encode_graphs, encode_texts, read},
    eval::Evaluator,
    latent::LatentModel,
    report,
    run::{self, Results, append_samples},
    stats::Rate,
};
use comfy_table::Cell;
use serde_json::{Value, json};

use crate::{
    log,
    options::{Dials, ModelOptions, SamplingOptions, Span},
    progress::Progress,
    verbs,
};

#[derive(Args)]
pub struct Eval {
    #[command(flatten)]
    model: ModelOptions,
    /// Examples to evaluate on.
    #[arg(long)]
    data: PathBuf,
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
    sampling: SamplingOptions,
    /// Write each question with its generation and verdict to this file.
    #[arg(long)]
    samples: Option<PathBuf>,
    /// Print the result as one line of JSON; a list if there are several numbers of latents or iterations.
    #[arg(long)]
    json: bool,
}

/// What accuracy is taken apart by.
#[derive(Clone, Copy, ValueEnum)]
pub enum By {
    /// The number of steps.
    Steps,
}

/// What was found with some numbers of latents and iterations.
struct Point {
    dials: Dials,
    row: run::Row,
    /// By number of steps.
    by_steps: BTreeMap<usize, Rate>,
}

impl Eval {
    pub fn run(self) -> Result<()> {
        let mut checkpoint = self.model.open()?;
        let stage = self.stage(checkpoint.latent.stage, &checkpoint.latent.curriculum())?;
        let data = examples(&checkpoint, &self.data, self.max_size, self.strict)?;
        let dials = self.dials();
        if self.figure.is_some() && dials.len() == 1 {
            return Err(Error::Usage(
                "--figure draws a curve; give several numbers, such as `--latents 0..12`.".into(),
            ));
        }
        for dials in &dials {
            dials.set_iterations(&mut checkpoint, stage)?;
            self.check(&checkpoint, &data, dials, stage)?;
        }
        let progress =
            Progress::new("evaluating", "questions", 0, (dials.len() * data.encoded.len()) as u64);
        let mut points = Vec::new();
        for dials in dials {
            dials.set_iterations(&mut checkpoint, stage)?;
            points.push(self.point(&checkpoint, &data, dials, stage, &progress)?);
        }
        drop(progress);
        if let Some(path) = &self.figure {
            let svg = report::rates_svg(&curves(&points), axis(&points), "accuracy, %");
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
        data: &'a Dataset,
        dials: &Dials,
        stage: Stage,
    ) -> Result<Evaluator<'a>> {
        let latents = dials.latents(checkpoint, stage)?;
        Ok(Evaluator {
            data,
            decoder: checkpoint.decoder(),
            tokenizer: &checkpoint.tokenizer,
            curriculum: Curriculum { latents, ..checkpoint.latent.curriculum() },
            batch_size: self.batch_size,
            max_new_tokens: self.max_new_tokens,
            sampling: self.sampling.sampling(),
            seed: 0,
        })
    }

    /// Refuses what cannot be evaluated, before anything is.
    fn check(
        &self,
        checkpoint: &Checkpoint,
        data: &Dataset,
        dials: &Dials,
        stage: Stage,
    ) -> Result<()> {
        let evaluator = self.evaluator(checkpoint, data, dials, stage)?;
        check_room(dials, &evaluator, &checkpoint.model, stage)?;
        evaluator.check(&checkpoint.model, stage, &self.data)
    }

    fn point(
        &self,
        checkpoint: &Checkpoint,
        data: &Dataset,
        dials: Dials,
        stage: Stage,
        progress: &Progress,
    ) -> Result<Point> {
        let Checkpoint { model, latent, .. } = checkpoint;
        let evaluator = self.evaluator(checkpoint, data, &dials, stage)?;
        let found = evaluator.evaluate(model, stage, |n| {
            progress.advance(n as u64);
            Ok(())
        })?;
        if let Some(path) = &self.samples {
            append_samples(path, &found, stage, 0, latent.method)?;
        }
        let mut by_steps: BTreeMap<usize, Rate> = BTreeMap::new();
        for sample in &found.answers.samples {
            let steps = data.examples[sample.index].steps.len();
            by_steps.entry(steps).or_default().add(sample.correct);
        }
        let reinject = model.config.feeds_back().then(|| latent.thinking.feedback.to_string());
        let row = run::Row::of(&found, stage, 0, latent.method, reinject);
        Ok(Point { dials, row, by_steps })
    }

    fn print(&self, points: &[Point]) {
        let by_steps = self.by.is_some();
        if self.json {
            let all: Vec<Value> = points.iter().map(|point| point.to_json(by_steps)).collect();
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
            say!("{}", curve_table(points));
        }
        if by_steps {
            say!("\n{}", steps_table(points));
        }
    }
}

impl Point {
    fn to_json(&self, by_steps: bool) -> Value {
        let mut object = json!(self.row);
        if let Some(iterations) = self.dials.iterations {
            object["iterations"] = json!(iterations);
        }
        if by_steps {
            object["by_steps"] = json!(self.by_steps);
        }
        object
    }

    fn accuracy(&self) -> Rate {
        let n = self.row.n.unwrap_or(0);
        Rate { hits: self.by_steps.values().map(|rate| rate.hits).sum(), n }
    }
}

/// What a dial stands at, for a table.
fn stands(dial: Option<usize>) -> String {
    dial.map_or("as trained".into(), |value| value.to_string())
}

fn percent(rate: Rate) -> [String; 2] {
    let text = |share: f64| format!("{:.1}", 100.0 * share);
    let interval = rate.interval().map(|[low, high]| format!("{}–{}", text(low), text(high)));
    [rate.rate().map_or("–".into(), text), interval.unwrap_or("–".into())]
}

fn curve_table(points: &[Point]) -> String {
    let head = [
        "latents",
        "iterations",
        "n",
        "accuracy\n%",
        "95 %\ninterval",
        "tokens",
        "ms per\nquestion",
    ];
    let rows = points.iter().map(|point| {
        let [rate, interval] = percent(point.accuracy());
        let number = |value: Option<f64>| value.map_or("–".into(), |value| format!("{value:.1}"));
        let cells = [
            stands(point.dials.latents),
            stands(point.dials.iterations),
            point.accuracy().n.to_string(),
            rate,
            interval,
            number(point.row.eval_tokens),
            number(point.row.eval_ms_per_question),
        ];
        cells.into_iter().map(Cell::new).collect()
    });
    report::table::drawn(&head, rows, &[], verbs::styled())
}

fn steps_table(points: &[Point]) -> String {
    let head = ["latents", "iterations", "steps", "n", "accuracy\n%", "95 %\ninterval"];
    let rows = points.iter().flat_map(|point| {
        point.by_steps.iter().map(|(steps, rate)| {
            let [share, interval] = percent(*rate);
            let dials = [stands(point.dials.latents), stands(point.dials.iterations)];
            let [latents, iterations] = dials;
            let cells =
                [latents, iterations, steps.to_string(), rate.n.to_string(), share, interval];
            cells.into_iter().map(Cell::new).collect()
        })
    });
    report::table::drawn(&head, rows, &[], verbs::styled())
}

/// What a figure shows across: iterations if only they vary.
fn axis(points: &[Point]) -> &'static str {
    let varies = points.windows(2).any(|two| two[0].dials.latents != two[1].dials.latents);
    if varies { "latents" } else { "iterations" }
}

/// A curve for each value of the dial that is not across.
fn curves(points: &[Point]) -> Vec<(String, Vec<(f64, Rate)>)> {
    let across = axis(points);
    let mut curves: Vec<(String, Vec<(f64, Rate)>)> = Vec::new();
    for point in points {
        let Dials { latents, iterations } = point.dials;
        let (x, name) = match across {
            "latents" => {
                (latents, iterations.map_or("accuracy".into(), |r| format!("iterations: {r}")))
            }
            _ => (iterations, latents.map_or("accuracy".into(), |k| format!("latents: {k}"))),
        };
        let at = (x.unwrap_or(0) as f64, point.accuracy());
        match curves.iter_mut().find(|(of, _)| *of == name) {
            Some((_, points)) => points.push(at),
            None => curves.push((name, vec![at])),
        }
    }
    curves
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
            device: config.device.clone(),
            bf16: config.bf16,
        },
        data: data.clone(),
        stage: None,
        latents: None,
        iterations: None,
        by: None,
        figure: None,
        batch_size: config.eval_batch_size,
        max_new_tokens: config.max_new_tokens,
        max_size: None,
        strict: false,
        sampling: SamplingOptions::default(),
        samples: None,
        json,
    }
    .run()
}
