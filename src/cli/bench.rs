//! `coconut bench`: step time, generation and memory by stage, with random weights.

use std::{
    io::BufRead,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Instant,
};

use burn::{module::Module, tensor::Device};
use clap::Args;
use coconut::{
    Error, Result,
    data::{
        Curriculum, Draw, Encoded, Markers, Method, Sequence, Stage, Tokenizer,
        batch::{Batch, Row},
        encode::Text,
        encode_texts, read,
        tokenizer::Units,
    },
    eval::{GenerateOptions, Sampling, generate},
    latent::{LatentModel, Recompute, Trace, Wanted, recompute::gradients},
    log, loss,
    model::{
        Lora, ModelConfig, Transformer,
        lora::{Frozen, Targets},
    },
    rng,
    train::{
        checkpoint::precision,
        optim::{self, AdamW},
    },
};
use serde_json::{Value, json};

/// Tokens generated for a question.
const NEW_TOKENS: usize = 32;

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
    /// Hold what is frozen in `f32` or `bf16`.
    #[arg(long, default_value = "f32", value_parser = frozen)]
    frozen_dtype: Frozen,
    /// Round the operands of products to bf16.
    #[arg(long)]
    bf16: bool,
    /// Blocks.
    #[arg(long, default_value_t = 4)]
    layers: usize,
    /// Width.
    #[arg(long, default_value_t = 128)]
    dim: usize,
    /// Heads.
    #[arg(long, default_value_t = 4)]
    heads: usize,
    /// Examples a step, and questions a batch of generation.
    #[arg(long, default_value_t = 32)]
    batch: usize,
    /// Stages to measure, each in a process of its own.
    #[arg(long, value_delimiter = ',', default_value = "0,3,6")]
    stages: Vec<i32>,
    /// Thoughts a step.
    #[arg(long, default_value_t = 1)]
    c_thought: usize,
    /// Examples, cut into word tokens.
    #[arg(long, required_unless_present = "tokens")]
    data: Option<PathBuf>,
    /// Rows of so many random tokens instead of `--data`, latents included; the last quarter of each
    /// is labelled.
    #[arg(long, conflicts_with = "data")]
    tokens: Option<usize>,
    /// Rows of the embedding; the model's or the data's vocabulary if absent.
    #[arg(long)]
    vocab: Option<usize>,
    /// Compute each pass, or each block of it, again in backward: `none`, `passes` or `blocks`.
    #[arg(long, default_value = "none", value_parser = recompute)]
    recompute: Recompute,
    /// Steps measured, after two that are not; the median is told.
    #[arg(long, default_value_t = 9)]
    repeats: usize,
    /// Measure training steps only.
    #[arg(long)]
    steps_only: bool,
    /// Print one line of JSON a stage instead of a table.
    #[arg(long)]
    json: bool,
    /// Take one measurement of one stage for each line of standard input: `step`, `single` or
    /// `batch`; answer each with a line of JSON that holds the token ids too. Lets another program
    /// take turns with this one on the same batches (python/compare_published.py).
    #[arg(long, hide = true)]
    paced: bool,
}

impl Bench {
    pub fn run(self) -> Result<()> {
        if let ([stage], true) = (self.stages.as_slice(), self.json || self.paced) {
            let mut subject = Subject::new(&self, Stage(*stage))?;
            if self.paced {
                return subject.paced();
            }
            super::print_json(&subject.measure(self.repeats, self.steps_only)?);
            return Ok(());
        }
        // What is wrong with the arguments or the data is said once, before any process starts.
        self.stages.first().map(|&stage| self.subject(Stage(stage))).transpose()?;
        let progress = log::Progress::new("measuring", "stages", 0, self.stages.len() as u64);
        let mut rows = Vec::new();
        for stage in &self.stages {
            progress.message(format!("stage {stage}"));
            let row = self.in_a_process_of_its_own(*stage)?;
            if self.json {
                super::print_json(&row);
            }
            rows.push(row);
            progress.advance(1);
        }
        drop(progress);
        if !self.json {
            println!("{}", table(&rows));
        }
        Ok(())
    }

    /// One stage's line. Its peak memory is then its own, and no stage runs on another's heap.
    fn in_a_process_of_its_own(&self, stage: i32) -> Result<Value> {
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
            ("--repeats", Some(self.repeats)),
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
        for (flag, set) in [("--steps-only", self.steps_only), ("--bf16", self.bf16)] {
            command.args(set.then_some(flag));
        }
        let output = command
            .args(["--json".to_owned(), format!("--stages={stage}")])
            .stderr(Stdio::inherit())
            .output()
            .map_err(Error::io("start", &program))?;
        serde_json::from_slice(&output.stdout)
            .map_err(|_| Error::Training(format!("the measurement of stage {stage} failed")))
    }
}

/// What is measured: a model from random weights, and the batches of one stage.
struct Subject {
    stage: Stage,
    recompute: Recompute,
    encoded: Vec<Encoded>,
    curriculum: Curriculum,
    markers: Markers,
    batch: usize,
    model: Option<LatentModel>,
    optimizer: AdamW,
    /// Measurements of each kind so far.
    steps: usize,
    singles: usize,
}

/// One training step.
struct Step {
    rows: Vec<Sequence>,
    seconds: f64,
    /// Mean over labels, in nats.
    loss: f64,
    tokens: usize,
}

impl Bench {
    /// The shape, the examples, and the ids of their markers.
    fn subject(&self, stage: Stage) -> Result<(ModelConfig, Vec<Encoded>, Markers, Curriculum)> {
        let curriculum = Curriculum {
            method: Method::Coconut,
            c_thought: self.c_thought,
            max_latent_stage: stage.0.max(0) as usize,
            pad_latent_to_max: true,
            uniform_prob: 0.0,
            cot_epochs: 1,
            epochs_per_stage: 1,
            num_epochs: 100,
            frontier: false,
        };
        let named = self.model.as_deref().map(shape_of).transpose()?;
        let told = self.vocab.or(named.as_ref().map(|shape| shape.vocab_size));
        let (encoded, markers, vocabulary) = match (&self.data, self.tokens) {
            (Some(data), _) => {
                let examples = read::load(data, None)?;
                let tokenizer = Tokenizer::build(&examples, Units::Words, data)?;
                let (encoded, _) = encode_texts(&examples, &tokenizer)?;
                if encoded.is_empty() {
                    return Err(Error::input(data, "", "it holds no examples."));
                }
                (encoded, tokenizer.markers(), told.unwrap_or(0).max(tokenizer.vocab_size()))
            }
            (None, tokens) => {
                let vocabulary = told.unwrap_or(512);
                let latents = stage.0.max(0) as usize * self.c_thought;
                let (encoded, markers) = random_rows(tokens.unwrap_or(128), latents, vocabulary)?;
                (encoded, markers, vocabulary)
            }
        };
        let longest = encoded.iter().map(|e| curriculum.max_len(e, markers)).max().unwrap_or(1);
        let context = longest + NEW_TOKENS;
        let shape = match named {
            Some(shape) if shape.n_positions < context => {
                return Err(Error::Usage(format!(
                    "Rows of {longest} tokens and {NEW_TOKENS} generated ones are more than the model's context of {}.",
                    shape.n_positions
                )));
            }
            Some(mut shape) => {
                shape.vocab_size = vocabulary;
                shape
            }
            None => ModelConfig::gpt2(vocabulary, context, self.dim, self.layers, self.heads),
        };
        shape.check().map_err(|problem| Error::Usage(format!("{problem}.")))?;
        Ok((shape, encoded, markers, curriculum))
    }
}

/// The shape of a model folder, or of a `config.json`.
fn shape_of(path: &Path) -> Result<ModelConfig> {
    match path.is_dir() {
        true => ModelConfig::load(path),
        false => ModelConfig::load_file(path),
    }
}

/// Examples whose rows have `tokens` tokens with `latents` of them: a question, and an answer of a
/// quarter of the row.
fn random_rows(
    tokens: usize,
    latents: usize,
    vocabulary: usize,
) -> Result<(Vec<Encoded>, Markers)> {
    let answer = tokens / 4;
    let Some(question) = tokens.checked_sub(answer + latents + 2).filter(|_| vocabulary > 5) else {
        return Err(Error::Usage(format!(
            "--tokens: {tokens} tokens of {vocabulary} hold no {latents} latents and two markers beside an answer."
        )));
    };
    let id = |behind: usize| (vocabulary - behind) as u32;
    let markers =
        Markers { start_latent: id(5), end_latent: id(4), latent: id(3), eos: id(2), pad: id(1) };
    let mut state = 0u64;
    let mut draw = |n: usize| -> Vec<u32> {
        let token = |_| {
            state += 1;
            (rng::hash(0, &[state]) % (vocabulary as u64 - 5)) as u32
        };
        (0..n).map(token).collect()
    };
    let mut example = || Text { question: draw(question), steps: Vec::new(), answer: draw(answer) };
    Ok(((0..64).map(|_| Encoded::Text(example())).collect(), markers))
}

impl Subject {
    fn new(bench: &Bench, stage: Stage) -> Result<Self> {
        let (shape, encoded, markers, curriculum) = bench.subject(stage)?;
        let family = shape.family;
        let mut model = Transformer::random(shape, 0, &Device::flex());
        model.config.precision = precision(bench.bf16);
        if bench.lora > 0 {
            let targets = match bench.lora_targets.as_slice() {
                [] => Targets::usual(family),
                [one] => Targets::One(one.clone()),
                many => Targets::Many(many.to_vec()),
            };
            let tokens = [markers.start_latent, markers.end_latent, markers.latent];
            model = model
                .with_lora(Lora::new(bench.lora, targets), &tokens, 0)
                .map_err(|(_, problem)| Error::Usage(format!("--lora-targets {problem}.")))?
                .hold(bench.frozen_dtype);
        }
        let model = LatentModel::new(model, Default::default(), Default::default())
            .map_err(|(key, problem)| Error::Usage(format!("{key} {problem}.")))?;
        Ok(Self {
            stage,
            recompute: bench.recompute,
            encoded,
            curriculum,
            markers,
            batch: bench.batch.max(1),
            model: Some(model.train()),
            optimizer: AdamW::new([0.9, 0.999], 0.01),
            steps: 0,
            singles: 0,
        })
    }

    /// The line of JSON of a stage.
    fn measure(&mut self, repeats: usize, steps_only: bool) -> Result<Value> {
        let steps: Vec<Step> = (0..repeats + 2).map(|_| self.step()).collect::<Result<_>>()?;
        let step = median(steps.iter().skip(2).map(|step| step.seconds));
        let (tokens, loss) = steps.last().map_or((0, f64::NAN), |s| (s.tokens, s.loss));
        drop(steps);
        let peak = log::peak_mb();
        let [singles, batches] = if steps_only { [0, 0] } else { [repeats, 3] };
        let single: Vec<f64> = (0..singles).map(|_| Ok(self.single()?.1)).collect::<Result<_>>()?;
        let batched: Vec<f64> =
            (0..batches).map(|_| Ok(self.questions(self.batch, 0)?.1)).collect::<Result<_>>()?;
        Ok(json!({
            "stage": self.stage.0,
            "ms_per_step": 1e3 * step,
            "samples_per_s": self.batch as f64 / step,
            "tokens_last_batch": tokens,
            "gen_ms_per_question": 1e3 * median(single),
            "gen_batch_ms_per_question": 1e3 * median(batched) / self.batch as f64,
            "rss_gb": log::resident_mb() / 1e3,
            "peak_gb": peak / 1e3,
            "loss": loss,
        }))
    }

    /// Answers each line of standard input with one measurement.
    fn paced(&mut self) -> Result<()> {
        for line in std::io::stdin().lock().lines().map_while(|line| line.ok()) {
            super::print_json(&match line.trim() {
                "step" => {
                    let step = self.step()?;
                    let labels = |s: &Sequence| -> Vec<i64> {
                        s.labels.iter().map(|l| l.map_or(-100, i64::from)).collect()
                    };
                    json!({
                        "ms": 1e3 * step.seconds,
                        "loss": step.loss,
                        "ids": step.rows.iter().map(|s| s.ids.clone()).collect::<Vec<_>>(),
                        "labels": step.rows.iter().map(labels).collect::<Vec<_>>(),
                        "markers": [self.markers.start_latent, self.markers.end_latent, self.markers.latent],
                        "vocab": self.model()?.transformer.config.vocab_size,
                        "positions": self.model()?.transformer.config.n_positions,
                        "peak_gb": log::peak_mb() / 1e3,
                    })
                }
                "single" => {
                    let (ids, seconds) = self.single()?;
                    json!({"ms": 1e3 * seconds, "ids": ids})
                }
                "batch" => {
                    let (ids, seconds) = self.questions(self.batch, 0)?;
                    json!({"ms": 1e3 * seconds, "ids": ids})
                }
                other => {
                    return Err(Error::Usage(format!(
                        "standard input: `{other}`; expected step, single or batch."
                    )));
                }
            });
        }
        Ok(())
    }

    /// One training step, on the next examples.
    fn step(&mut self) -> Result<Step> {
        let rows: Vec<Sequence> = (0..self.batch)
            .map(|i| {
                let index = (self.steps * self.batch + i) % self.encoded.len();
                let draw = Draw { seed: 0, epoch: 0, index: index as u64 };
                self.curriculum.train_sequence(&self.encoded[index], self.stage, self.markers, draw)
            })
            .collect();
        self.steps += 1;
        let start = Instant::now();
        let layout: Vec<Row> =
            rows.iter().map(|s| Row { ids: &s.ids, labels: &s.labels }).collect();
        let batch = Batch::new(&layout, Some(self.markers.latent)).map_err(Error::Training)?;
        let model = self.model()?.clone();
        let n = batch.targets.len() as f64;
        let mut mean = f64::NAN;
        let loss = |trace: &Trace| {
            let loss = loss::cross_entropy(&model.transformer, &batch, trace, &batch.targets)? / n;
            mean = f64::from(loss.clone().into_scalar::<f32>());
            Some(loss)
        };
        let (wanted, seed) = (Wanted::Predictions, self.steps as u64);
        let found = gradients(&model, &batch, self.recompute, None, wanted, seed, loss);
        let gradients =
            found.ok_or_else(|| Error::Training("a batch of the data has no labels".into()))?;
        drop(model);
        let scale = optim::clip_scale(optim::global_norm(&gradients), 1.0);
        let optimizer = &mut self.optimizer;
        self.model = self.model.take().map(|m| optimizer.step(m, gradients, 1e-4, scale));
        Ok(Step {
            seconds: start.elapsed().as_secs_f64(),
            loss: mean,
            tokens: batch.tokens(),
            rows,
        })
    }

    /// The next question alone: its ids, and the seconds it took.
    fn single(&mut self) -> Result<(Vec<Vec<u32>>, f64)> {
        self.singles += 1;
        self.questions(1, self.singles - 1)
    }

    /// `n` questions from `first` on in one batch: their ids, and the seconds they took together.
    fn questions(&self, n: usize, first: usize) -> Result<(Vec<Vec<u32>>, f64)> {
        let options = GenerateOptions {
            latent: Some(self.markers.latent),
            stops: &[], // random weights: always as many tokens
            max_new_tokens: NEW_TOKENS,
            sampling: Sampling::Greedy,
        };
        let model = self.model()?.valid();
        let ids: Vec<Vec<u32>> = (first..first + n)
            .map(|i| {
                let index = i % self.encoded.len();
                let draw = Draw { seed: 0, epoch: 0, index: index as u64 };
                self.curriculum.prompt(&self.encoded[index], self.stage, self.markers, draw).ids
            })
            .collect();
        let prompts: Vec<&[u32]> = ids.iter().map(Vec::as_slice).collect();
        let start = Instant::now();
        generate(&model, &prompts, &options).map_err(Error::Training)?;
        let seconds = start.elapsed().as_secs_f64();
        Ok((ids, seconds))
    }

    fn model(&self) -> Result<&LatentModel> {
        let lost = || Error::Training("the model was lost in a failed step".into());
        self.model.as_ref().ok_or_else(lost)
    }
}

/// The stages side by side; ratios are to the first.
fn table(rows: &[Value]) -> comfy_table::Table {
    let mut table = comfy_table::Table::new();
    table.load_preset(comfy_table::presets::NOTHING);
    table.set_header([
        "stage",
        "ms a step",
        "ratio",
        "samples/s",
        "peak GB",
        "ratio",
        "ms a question",
        "in batches",
    ]);
    let number = |row: &Value, key: &str| row[key].as_f64().unwrap_or(f64::NAN);
    for row in rows {
        let ratio = |key: &str| format!("{:.2}", number(row, key) / number(&rows[0], key));
        table.add_row([
            row["stage"].to_string(),
            format!("{:.0}", number(row, "ms_per_step")),
            ratio("ms_per_step"),
            format!("{:.1}", number(row, "samples_per_s")),
            format!("{:.2}", number(row, "peak_gb")),
            ratio("peak_gb"),
            format!("{:.1}", number(row, "gen_ms_per_question")),
            format!("{:.2}", number(row, "gen_batch_ms_per_question")),
        ]);
    }
    for column in table.column_iter_mut() {
        column.set_cell_alignment(comfy_table::CellAlignment::Right);
    }
    table
}

fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

fn frozen(text: &str) -> Result<Frozen, String> {
    serde_json::from_value(json!(text)).map_err(|_| "expected f32 or bf16".into())
}

fn recompute(text: &str) -> Result<Recompute, String> {
    serde_json::from_value(json!(text)).map_err(|_| "expected none, passes or blocks".into())
}
