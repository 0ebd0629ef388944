//! `coconut bench`: step time, generation and memory by stage, with random weights.

mod workload;

use std::{
    io::{BufRead, BufReader, Write},
    path::PathBuf,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

use crate::{
    progress::Progress,
    verbs::{at_least_one, print_json},
};
use clap::Args;
use coconut::{
    Error, Result, data::Stage, latent::Recompute, model::lora::FrozenDtype, report::table::drawn,
};
use comfy_table::Cell;
use serde_json::{Value, json};

use workload::Workload;

/// First steps, which are not measured.
const UNMEASURED: usize = 2;
/// Batches of questions measured.
const BATCHES: usize = 3;

#[derive(Args)]
pub struct Bench {
    /// The shape of a model folder, or of a `config.json` alone, instead of GPT-2's with the three
    /// below; weights are random all the same.
    #[arg(long)]
    model: Option<PathBuf>,
    /// Train adapters of this rank and the markers' rows, everything else frozen; 0 for everything.
    #[arg(long, default_value_t = 0)]
    lora: usize,
    /// Names of the maps with adapters, or `all-linear`; PEFT's choice for the family if absent.
    #[arg(long, value_delimiter = ',')]
    lora_targets: Vec<String>,
    /// With `--lora`, hold what is frozen in `f32` (as without this) or `bf16`.
    #[arg(long, value_parser = frozen)]
    frozen_dtype: Option<FrozenDtype>,
    /// Round the operands of products to bf16.
    #[arg(long)]
    bf16: bool,
    /// Number of blocks.
    #[arg(long, default_value_t = 4, value_parser = at_least_one)]
    layers: usize,
    /// Width of the hidden states.
    #[arg(long, default_value_t = 128, value_parser = at_least_one)]
    dim: usize,
    /// Attention heads.
    #[arg(long, default_value_t = 4, value_parser = at_least_one)]
    heads: usize,
    /// Examples a step, and questions a batch of generation.
    #[arg(long, default_value_t = 32, value_parser = at_least_one)]
    batch: usize,
    /// Stages to measure, each in a process of its own, in turns.
    #[arg(long, value_delimiter = ',', default_value = "0,3,6", value_parser = clap::value_parser!(i32).range(-1..=1000))]
    stages: Vec<i32>,
    /// Thoughts a step.
    #[arg(long, default_value_t = 1)]
    c_thought: usize,
    /// Examples, cut into word tokens.
    #[arg(long, required_unless_present = "tokens")]
    data: Option<PathBuf>,
    /// Rows of so many random tokens instead of `--data`, latents included; the last quarter of each
    /// is labelled.
    #[arg(long, conflicts_with = "data", value_parser = at_least_one)]
    tokens: Option<usize>,
    /// Rows of the embedding; the model's or the data's vocabulary if absent.
    #[arg(long, value_parser = at_least_one)]
    vocab: Option<usize>,
    /// Compute each pass, or each block of it, again in backward: `none`, `passes` or `blocks`.
    #[arg(long, default_value = "none", value_parser = recompute)]
    recompute: Recompute,
    /// Steps measured, after two that are not; medians are told, of ratios too.
    #[arg(long, default_value_t = 9, value_parser = at_least_one)]
    repeats: usize,
    /// Measure one stage after the other, where memory does not hold all of them at once.
    #[arg(long)]
    in_sequence: bool,
    /// Measure training steps only.
    #[arg(long)]
    steps_only: bool,
    /// Print one line of JSON a stage instead of a table.
    #[arg(long)]
    json: bool,
    /// Take one measurement of one stage for each line of standard input: `step`, `single` or
    /// `batch`; answer each with a line of JSON that holds the token ids too. Lets another program
    /// take turns with this one on the same batches (python/compare/compare_published.py).
    #[arg(long, alias = "paced", hide = true)]
    step_on_stdin: bool,
}

impl Bench {
    pub fn run(self) -> Result<()> {
        let Some(&first) = self.stages.first() else { return Ok(()) };
        self.check_flags()?;
        if self.step_on_stdin {
            return Workload::new(&self, Stage(first))?.on_stdin();
        }
        // What is wrong with the arguments or the data is said once, before any process starts.
        self.check_stages()?;
        let at_once = if self.in_sequence { 1 } else { self.stages.len() };
        let questions = if self.steps_only { 0 } else { self.repeats + BATCHES };
        let total = self.stages.len() * (self.repeats + UNMEASURED + questions);
        let progress = Progress::new("measuring", "measurements", 0, total as u64);
        let mut stages = Vec::new();
        for together in self.stages.chunks(at_once) {
            let workers = together.iter().map(|&stage| Worker::start(&self, stage));
            stages.extend(self.in_turns(workers.collect::<Result<_>>()?, &progress)?);
        }
        drop(progress);
        let rows: Vec<Value> =
            stages.iter().map(|stage| stage.row(&stages[0], self.batch.max(1))).collect();
        if self.json {
            rows.iter().for_each(print_json);
        } else {
            println!("{}", table(&rows));
        }
        Ok(())
    }

    /// Measures each stage once, then each once again, and so on: what else the machine does meanwhile then
    /// touches all of them.
    fn in_turns(&self, mut workers: Vec<Worker>, progress: &Progress) -> Result<Vec<Measured>> {
        let mut measured: Vec<Measured> = Vec::new();
        measured.resize_with(workers.len(), Measured::default);
        let mut each = |what: &str, keep: &mut dyn FnMut(&mut Measured, f64)| -> Result<()> {
            for (worker, measured) in workers.iter_mut().zip(&mut measured) {
                progress.message(format!("stage {}, {what}", worker.stage));
                let answer = worker.ask(what)?;
                keep(measured, answer["ms"].as_f64().unwrap_or(f64::NAN));
                if what == "step" {
                    measured.last_step = answer;
                }
                progress.advance(1);
            }
            Ok(())
        };
        for _ in 0..UNMEASURED {
            each("step", &mut |_, _| ())?;
        }
        for _ in 0..self.repeats {
            each("step", &mut |stage, ms| stage.steps.push(ms))?;
        }
        if !self.steps_only {
            for _ in 0..self.repeats {
                each("single", &mut |stage, ms| stage.single_questions.push(ms))?;
            }
            for _ in 0..BATCHES {
                each("batch", &mut |stage, ms| stage.batches.push(ms))?;
            }
        }
        Ok(measured)
    }

    /// The command of a process that measures one stage when it is told to. The stage has a process of its
    /// own, so that its peak of memory is its own.
    fn worker(&self, stage: i32) -> Result<Command> {
        let program = std::env::current_exe().map_err(Error::io("find", "this program"))?;
        let mut command = Command::new(&program);
        command.arg("bench");
        for (flag, value) in [
            ("--layers", Some(self.layers)),
            ("--dim", Some(self.dim)),
            ("--heads", Some(self.heads)),
            ("--batch", Some(self.batch)),
            ("--c-thought", Some(self.c_thought)),
            ("--vocab", self.vocab),
            ("--tokens", self.tokens),
            ("--lora", Some(self.lora)),
        ] {
            if let Some(value) = value {
                command.arg(format!("{flag}={value}"));
            }
        }
        let named =
            [("--recompute", json!(self.recompute)), ("--frozen-dtype", json!(self.frozen_dtype))];
        for (flag, value) in named {
            command.args(value.as_str().map(|value| format!("{flag}={value}")));
        }
        for (flag, path) in [("--model", &self.model), ("--data", &self.data)] {
            if let Some(path) = path {
                command.arg(flag).arg(path);
            }
        }
        if !self.lora_targets.is_empty() {
            command.arg(format!("--lora-targets={}", self.lora_targets.join(",")));
        }
        command.args(self.bf16.then_some("--bf16"));
        command.arg("--step-on-stdin").arg(format!("--stages={stage}"));
        Ok(command)
    }
}

/// A process that measures one stage.
struct Worker {
    stage: i32,
    child: Child,
    questions: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Worker {
    fn start(bench: &Bench, stage: i32) -> Result<Self> {
        let mut command = bench.worker(stage)?;
        let program = PathBuf::from(command.get_program());
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(Error::io("start", &program))?;
        let (Some(questions), Some(answers)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(failed(stage));
        };
        Ok(Self { stage, child, questions, answers: BufReader::new(answers) })
    }

    /// Asks for one measurement, `step`, `single` or `batch`, and waits for its answer.
    fn ask(&mut self, what: &str) -> Result<Value> {
        let mut line = String::new();
        writeln!(self.questions, "{what}").map_err(|_| failed(self.stage))?;
        self.answers.read_line(&mut line).map_err(|_| failed(self.stage))?;
        serde_json::from_str(&line).map_err(|_| failed(self.stage))
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // It may be at work still, if another has failed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn failed(stage: i32) -> Error {
    Error::Run(format!(
        "the measurement of stage {stage} failed; if memory ran out, measure one stage at a time with --in-sequence"
    ))
}

/// What a worker measured, in milliseconds.
#[derive(Default)]
struct Measured {
    steps: Vec<f64>,
    single_questions: Vec<f64>,
    batches: Vec<f64>,
    /// Everything that was answered to the last step.
    last_step: Value,
}

impl Measured {
    /// The line of JSON of a stage; its ratio is the median of those to the steps that `first` took in the same
    /// turns.
    fn row(&self, first: &Self, batch: usize) -> Value {
        let step = median(self.steps.iter().copied());
        let last = |key: &str| self.last_step[key].clone();
        json!({
            "stage": last("stage"),
            "ms_per_step": step,
            "ratio": median(self.steps.iter().zip(&first.steps).map(|(ms, first)| ms / first)),
            "samples_per_s": 1e3 * batch as f64 / step,
            "tokens_last_batch": last("tokens"),
            "gen_ms_per_question": median(self.single_questions.iter().copied()),
            "gen_batch_ms_per_question": median(self.batches.iter().copied()) / batch as f64,
            "rss_gb": last("rss_gb"),
            "peak_gb": last("peak_gb"),
            "loss": last("loss"),
        })
    }
}

/// The stages side by side; ratios are to the first.
fn table(rows: &[Value]) -> String {
    const HEAD: [&str; 8] = [
        "stage",
        "ms a step",
        "ratio",
        "samples/s",
        "peak GB",
        "ratio",
        "ms a question",
        "in batches",
    ];
    let rounded = |x: f64, digits: usize| match x.is_nan() {
        true => "–".to_owned(), // not measured
        false => format!("{x:.digits$}"),
    };
    let cells = |row: &Value| {
        let number = |key: &str| row[key].as_f64().unwrap_or(f64::NAN);
        let first_peak = rows[0]["peak_gb"].as_f64().unwrap_or(f64::NAN);
        let cells = [
            row["stage"].to_string(),
            rounded(number("ms_per_step"), 0),
            rounded(number("ratio"), 2),
            rounded(number("samples_per_s"), 1),
            rounded(number("peak_gb"), 2),
            rounded(number("peak_gb") / first_peak, 2),
            rounded(number("gen_ms_per_question"), 1),
            rounded(number("gen_batch_ms_per_question"), 2),
        ];
        cells.map(Cell::new).to_vec()
    };
    drawn(&HEAD, rows.iter().map(cells), &[], false)
}

fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

fn frozen(text: &str) -> Result<FrozenDtype, String> {
    serde_json::from_value(json!(text)).map_err(|_| "expected f32 or bf16".into())
}

fn recompute(text: &str) -> Result<Recompute, String> {
    serde_json::from_value(json!(text)).map_err(|_| "expected none, passes or blocks".into())
}
