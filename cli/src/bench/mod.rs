//! `coconut bench`: step time, generation and memory by stage, with random weights.

mod examples;
mod workload;

use std::{
    collections::BTreeMap,
    fmt,
    io::{BufRead, BufReader, Write},
    path::PathBuf,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

use crate::{
    options::DeviceOptions,
    progress::Progress,
    verbs::{at_least_one, print_json},
};
use clap::Args;
use coconut::{
    Error, Result,
    data::{Method, RowKind},
    latent::Recompute,
    model::lora::FrozenDtype,
    report::table::drawn,
};
use comfy_table::Cell;
use serde_json::{Map, Value, json};

use workload::Workload;

/// First steps, which are not measured.
const UNMEASURED: usize = 2;
/// Batches of questions measured.
const BATCHES: usize = 3;

#[derive(Args)]
pub struct Bench {
    /// What is measured: the rows, the thinking and the losses of this method (docs/method.md 3.6).
    #[arg(long, default_value = "coconut", value_parser = method)]
    method: Method,
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
    /// Stages to measure, each in a process of its own, in turns; 0, 3 and 6 if absent, or 1 for a method that has one.
    /// For lotus, blocks of latents and iterations; for icot, missing tokens.
    #[arg(long, value_delimiter = ',', value_parser = clap::value_parser!(i32).range(-1..=1000))]
    stages: Vec<i32>,
    /// Thoughts a step, or in all for codi, pccot and kava; the method's own number if absent.
    #[arg(long)]
    c_thought: Option<usize>,
    /// How often latents that are thought of in parallel are computed anew; the method's own number if absent.
    #[arg(long)]
    iterations: Option<usize>,
    /// Measure each stage also with rows and their teachers in two batches of their own, which share no question and
    /// whose hidden states are not compared; for codi, pccot and kava.
    #[arg(long)]
    apart: bool,
    /// Examples, cut by the tokenizer of the folder that `--model` names, or else into words.
    #[arg(long, required_unless_present_any = ["tokens", "question"])]
    data: Option<PathBuf>,
    /// Put each question of `--data` into the chat template of `--model`'s folder.
    #[arg(long, requires = "data")]
    chat: bool,
    /// Rows of so many random tokens instead of `--data`, latents included; the last quarter of each
    /// is labelled.
    #[arg(long, conflicts_with = "data", value_parser = at_least_one)]
    tokens: Option<usize>,
    /// Random examples with questions of so many tokens instead of `--data`, and the three below.
    #[arg(long, conflicts_with_all = ["data", "tokens"], value_parser = at_least_one)]
    question: Option<usize>,
    /// Steps of such an example.
    #[arg(long, default_value_t = 6, conflicts_with_all = ["data", "tokens"])]
    steps: usize,
    /// Tokens of each step.
    #[arg(long, default_value_t = 8, conflicts_with_all = ["data", "tokens"], value_parser = at_least_one)]
    step_tokens: usize,
    /// Tokens of the answer.
    #[arg(long, default_value_t = 6, conflicts_with_all = ["data", "tokens"], value_parser = at_least_one)]
    answer: usize,
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
    #[command(flatten)]
    device: DeviceOptions,
    /// Take one measurement of one stage for each line of standard input: `step`, `single` or
    /// `batch`; answer each with a line of JSON that holds the token ids too. Lets another program
    /// take turns with this one on the same batches (python/compare/compare_published.py).
    #[arg(long, alias = "paced", hide = true)]
    step_on_stdin: bool,
}

impl Bench {
    pub fn run(self) -> Result<()> {
        self.check_flags()?;
        let variants = self.variants()?;
        let Some(&first) = variants.first() else { return Ok(()) };
        if self.step_on_stdin {
            return Workload::new(&self, Variant { apart: self.apart, ..first })?.on_stdin();
        }
        // What is wrong with the arguments or the data is said once, before any process starts.
        self.check_stages()?;
        let at_once = if self.in_sequence { 1 } else { variants.len() };
        let questions = if self.steps_only { 0 } else { self.repeats + BATCHES };
        let total = variants.len() * (self.repeats + UNMEASURED + questions);
        let progress = Progress::new("measuring", "measurements", 0, total as u64);
        let mut stages = Vec::new();
        for together in variants.chunks(at_once.max(1)) {
            let workers = together.iter().map(|&variant| Worker::start(&self, variant));
            stages.extend(self.in_turns(workers.collect::<Result<_>>()?, &progress)?);
        }
        drop(progress);
        let first = stages.first();
        let row = |stage: &Measured| stage.row(first.unwrap_or(stage), &self);
        let rows: Vec<Value> = stages.iter().map(row).collect();
        if self.json {
            rows.iter().for_each(print_json);
        } else {
            say!("{}", table(&rows));
            if self.device.on_gpu() {
                say!("{}", traffic_table(&rows));
            }
        }
        Ok(())
    }

    /// The stages that are measured.
    fn stages(&self) -> Result<Vec<i32>> {
        if !self.stages.is_empty() {
            return Ok(self.stages.clone());
        }
        let one = self.recipe()?.row == RowKind::Fixed;
        Ok(if one { vec![1] } else { vec![0, 3, 6] })
    }

    /// What is measured, in order.
    fn variants(&self) -> Result<Vec<Variant>> {
        let ways = if self.apart { &[false, true][..] } else { &[false] };
        let of_stage = |stage| ways.iter().map(move |&apart| Variant { stage, apart });
        Ok(self.stages()?.into_iter().flat_map(of_stage).collect())
    }

    /// Measures each stage once, then each once again, and so on: what else the machine does meanwhile then
    /// touches all of them.
    fn in_turns(&self, mut workers: Vec<Worker>, progress: &Progress) -> Result<Vec<Measured>> {
        let of_worker = |worker: &Worker| Measured::new(worker.variant);
        let mut measured: Vec<Measured> = workers.iter().map(of_worker).collect();
        let mut each = |what: &str, keep: &mut dyn FnMut(&mut Measured, f64)| -> Result<()> {
            for (worker, measured) in workers.iter_mut().zip(&mut measured) {
                progress.message(format!("{}, {what}", worker.variant));
                let answer = worker.ask(what)?;
                keep(measured, answer["ms"].as_f64().unwrap_or(f64::NAN));
                measured.last.insert(what.to_owned(), answer);
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
    fn worker(&self, Variant { stage, apart }: Variant) -> Result<Command> {
        let program = std::env::current_exe().map_err(Error::io("find", "this program"))?;
        let mut command = Command::new(&program);
        command.arg("bench").arg(format!("--method={}", self.method));
        command.arg(format!("--device={}", self.device.device));
        let drawn = |length: usize| self.question.map(|_| length);
        for (flag, value) in [
            ("--layers", Some(self.layers)),
            ("--dim", Some(self.dim)),
            ("--heads", Some(self.heads)),
            ("--batch", Some(self.batch)),
            ("--c-thought", self.c_thought),
            ("--iterations", self.iterations),
            ("--vocab", self.vocab),
            ("--tokens", self.tokens),
            ("--question", self.question),
            ("--steps", drawn(self.steps)),
            ("--step-tokens", drawn(self.step_tokens)),
            ("--answer", drawn(self.answer)),
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
        let flags = [
            ("--bf16", self.bf16),
            ("--apart", apart),
            ("--chat", self.chat),
            ("--no-device-check", self.device.no_device_check),
        ];
        command.args(flags.into_iter().filter_map(|(flag, given)| given.then_some(flag)));
        command.arg("--step-on-stdin").arg(format!("--stages={stage}"));
        Ok(command)
    }
}

/// One thing that is measured.
#[derive(Clone, Copy)]
struct Variant {
    stage: i32,
    /// Whether rows and their teachers are batches of their own.
    apart: bool,
}

impl fmt::Display for Variant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "stage {}{}", self.stage, if self.apart { ", apart" } else { "" })
    }
}

/// A process that measures one stage.
struct Worker {
    variant: Variant,
    child: Child,
    questions: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Worker {
    fn start(bench: &Bench, variant: Variant) -> Result<Self> {
        let mut command = bench.worker(variant)?;
        let program = PathBuf::from(command.get_program());
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(Error::io("start", &program))?;
        let (Some(questions), Some(answers)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(failed(variant));
        };
        Ok(Self { variant, child, questions, answers: BufReader::new(answers) })
    }

    /// Asks for one measurement, `step`, `single` or `batch`, and waits for its answer.
    fn ask(&mut self, what: &str) -> Result<Value> {
        let mut line = String::new();
        writeln!(self.questions, "{what}").map_err(|_| failed(self.variant))?;
        self.answers.read_line(&mut line).map_err(|_| failed(self.variant))?;
        serde_json::from_str(&line).map_err(|_| failed(self.variant))
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // It may be at work still, if another has failed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn failed(variant: Variant) -> Error {
    Error::Run(format!(
        "the measurement of {variant} failed; if memory ran out, measure one stage at a time with --in-sequence"
    ))
}

/// What a worker measured, in milliseconds.
struct Measured {
    variant: Variant,
    steps: Vec<f64>,
    single_questions: Vec<f64>,
    batches: Vec<f64>,
    /// Everything that was answered to the last `step`, `single` and `batch`.
    last: Map<String, Value>,
}

impl Measured {
    fn new(variant: Variant) -> Self {
        let (steps, single_questions, batches) = (Vec::new(), Vec::new(), Vec::new());
        Self { variant, steps, single_questions, batches, last: Map::new() }
    }

    /// The line of JSON of a stage; its ratio is the median of those to the steps that `first` took in the same
    /// turns.
    fn row(&self, first: &Self, bench: &Bench) -> Value {
        let batch = bench.batch.max(1) as f64;
        let step = median(self.steps.iter().copied());
        let last = |key: &str| self.last.get("step").map_or(Value::Null, |step| step[key].clone());
        let traffic = self.last.iter().map(|(what, answer)| (what, &answer["traffic"]));
        json!({
            "stage": last("stage"),
            "ms_per_step": step,
            "ratio": median(self.steps.iter().zip(&first.steps).map(|(ms, first)| ms / first)),
            "samples_per_s": 1e3 * batch / step,
            "tokens_last_batch": last("tokens"),
            "gen_ms_per_question": median(self.single_questions.iter().copied()),
            "gen_batch_ms_per_question": median(self.batches.iter().copied()) / batch,
            "rss_gb": last("rss_gb"),
            "peak_gb": last("peak_gb"),
            "loss": last("loss"),
            "losses": last("losses"),
            "traffic": traffic.collect::<BTreeMap<_, _>>(),
            "method": bench.method,
            "apart": self.variant.apart,
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
            stage_name(row),
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

/// What a step, a question alone and a batch of questions launch and carry between host and device, of the last ones
/// measured.
fn traffic_table(rows: &[Value]) -> String {
    const HEAD: [&str; 7] =
        ["stage", "", "launches", "reads", "bytes read", "uploads", "bytes uploaded"];
    const KINDS: [(&str, &str); 3] =
        [("step", "a step"), ("single", "a question alone"), ("batch", "a batch of questions")];
    let of_row = |row: &Value| {
        let stage = stage_name(row);
        let measured = KINDS.map(|(key, name)| (name, row["traffic"][key].clone()));
        let measured = measured.into_iter().filter(|(_, traffic)| traffic.is_object());
        let cells = measured.map(|(name, traffic)| {
            let counts = ["launches", "reads", "bytes_read", "uploads", "bytes_uploaded"];
            let counts = counts.map(|key| traffic[key].to_string());
            [stage.clone(), name.to_owned()].into_iter().chain(counts).map(Cell::new).collect()
        });
        cells.collect::<Vec<Vec<Cell>>>()
    };
    drawn(&HEAD, rows.iter().flat_map(of_row), &[0, 1], false)
}

/// What a row of measurements is of.
fn stage_name(row: &Value) -> String {
    let apart = row["apart"].as_bool() == Some(true);
    format!("{}{}", row["stage"], if apart { ", apart" } else { "" })
}

fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

fn method(text: &str) -> Result<Method, String> {
    serde_json::from_value(json!(text)).map_err(|problem| problem.to_string())
}

fn frozen(text: &str) -> Result<FrozenDtype, String> {
    serde_json::from_value(json!(text)).map_err(|_| "expected f32 or bf16".into())
}

fn recompute(text: &str) -> Result<Recompute, String> {
    serde_json::from_value(json!(text)).map_err(|_| "expected none, passes or blocks".into())
}
