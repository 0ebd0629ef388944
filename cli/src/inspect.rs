//! `coconut eval`, `generate`, `logits` and `merge`: what works on a checkpoint.

use std::{
    io::{BufRead, IsTerminal},
    path::{Path, PathBuf},
};

use crate::{log, progress::Progress, verbs};
use clap::Args;
use coconut::{
    Error, Result,
    checkpoint::{self, Checkpoint},
    config::RunConfig,
    data::{
        Dataset, Draw, Encoded, Example, Format, Stage, encode, encode_graphs, encode_texts, read,
    },
    device,
    eval::{Evaluator, GenerateOptions, Sampling, generate},
    latent::{
        self, Wanted,
        batch::{Batch, Row},
    },
    objective::Learner,
    report,
    run::{self, Results, append_samples},
};
use serde_json::json;

#[derive(Args)]
pub struct Eval {
    /// A checkpoint folder.
    checkpoint: PathBuf,
    /// Examples to evaluate on.
    #[arg(long)]
    data: PathBuf,
    /// Evaluate at this stage instead of the checkpoint's (−1 is chain of thought in words).
    #[arg(long, allow_hyphen_values = true)]
    stage: Option<i32>,
    /// Questions generated at once.
    #[arg(long, default_value_t = 64)]
    batch_size: usize,
    /// Most tokens generated for one question.
    #[arg(long, default_value_t = 128)]
    max_new_tokens: usize,
    /// Use only the first so many examples.
    #[arg(long)]
    max_size: Option<usize>,
    #[command(flatten)]
    sampling: SamplingArgs,
    /// Write each question with its generation and verdict to this file.
    #[arg(long)]
    samples: Option<PathBuf>,
    /// Print the result as one line of JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
struct SamplingArgs {
    /// Sample at this temperature instead of taking the most probable token.
    #[arg(long)]
    temperature: Option<f64>,
    /// Sample from the most probable so many tokens only (0 for all).
    #[arg(long, default_value_t = 0)]
    top_k: usize,
    /// Seed of the samples.
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

impl SamplingArgs {
    fn sampling(&self) -> Sampling {
        match self.temperature {
            Some(temperature) if temperature > 0.0 => {
                Sampling::Random { temperature, top_k: self.top_k, seed: self.seed }
            }
            _ => Sampling::Greedy,
        }
    }
}

impl Eval {
    pub fn run(self) -> Result<()> {
        let Checkpoint { model, tokenizer, latent, .. } =
            Checkpoint::load(&self.checkpoint, &device::named("cpu")?)?;
        let examples = read::load(&self.data, self.max_size)?;
        let encoded = match latent.format {
            Format::Graph => encode_graphs(&examples, &tokenizer, &self.data)?,
            Format::Text => {
                let (encoded, findings) = encode_texts(&examples, &tokenizer)?;
                for warning in findings.warnings() {
                    eprintln!("warning: {}, {warning}", self.data.display());
                }
                encoded
            }
        };
        let curriculum = latent.curriculum();
        let context = model.transformer.config.n_positions;
        let stage = self.stage.map_or(latent.stage, Stage);
        for (index, example) in encoded.iter().enumerate() {
            let draw = Draw { seed: 0, epoch: 0, index: index as u64 };
            let length = curriculum.prompt(example, stage, tokenizer.markers(), draw).ids.len();
            if length > context {
                let problem = format!(
                    "its prompt has {length} tokens, but the model's context is {context}. Remove it."
                );
                return Err(Error::input(&self.data, format!("example {}", index + 1), problem));
            }
        }
        let data = Dataset { examples, encoded };
        let progress = Progress::new("evaluating", "questions", 0, data.encoded.len() as u64);
        let evaluator = Evaluator {
            data: &data,
            tokenizer: &tokenizer,
            curriculum,
            batch_size: self.batch_size,
            max_new_tokens: self.max_new_tokens,
            sampling: self.sampling.sampling(),
            seed: 0,
        };
        let found = evaluator.evaluate(&model, stage, |n| {
            progress.advance(n as u64);
            Ok(())
        })?;
        drop(progress);
        let feeds_back = evaluator.curriculum.feeds_back();
        let reinject = feeds_back.then(|| latent.thinking.reinject.to_string());
        let row = run::Row::of(&found, stage, 0, latent.method, reinject);
        if let Some(path) = &self.samples {
            append_samples(path, &found, stage, 0, latent.method)?;
        }
        if self.json {
            verbs::print_json(&json!(row));
        } else {
            let results = Results { run: "eval".into(), config: json!({}), rows: vec![row] };
            println!("{}", report::table::terminal(&report::series(&[&results])));
        }
        Ok(())
    }
}

/// `only_eval: True` in a recipe.
pub fn evaluate_recipe(config: &RunConfig, json: bool) -> Result<()> {
    log::install(None)?;
    let (Some(checkpoint), Some(data)) = (&config.load_model_path, &config.val_path) else {
        return Err(Error::Usage("`only_eval` needs `load_model_path` and `val_path`.".into()));
    };
    Eval {
        checkpoint: checkpoint.clone(),
        data: data.clone(),
        stage: None,
        batch_size: config.eval_batch_size,
        max_new_tokens: config.max_new_tokens,
        max_size: None,
        sampling: SamplingArgs { temperature: None, top_k: 0, seed: 0 },
        samples: None,
        json,
    }
    .run()
}

#[derive(Args)]
pub struct Generate {
    /// A checkpoint folder.
    checkpoint: PathBuf,
    /// The question; lines of standard input if absent.
    #[arg(long)]
    prompt: Option<String>,
    /// Latents between question and answer; as many as in training if absent.
    #[arg(long)]
    latents: Option<usize>,
    /// Most tokens generated.
    #[arg(long, default_value_t = 128)]
    max_new_tokens: usize,
    #[command(flatten)]
    sampling: SamplingArgs,
    /// One line of JSON a question.
    #[arg(long)]
    json: bool,
}

impl Generate {
    pub fn run(self) -> Result<()> {
        let checkpoint = Checkpoint::load(&self.checkpoint, &device::named("cpu")?)?;
        if let Some(prompt) = &self.prompt {
            return self.answer(&checkpoint, prompt);
        }
        let stdin = std::io::stdin();
        if stdin.is_terminal() {
            eprintln!("One question a line; end with Ctrl-D.");
        }
        for line in stdin.lock().lines() {
            let line = line.map_err(Error::io("read", Path::new("standard input")))?;
            if !line.trim().is_empty() {
                self.answer(&checkpoint, &line)?;
            }
        }
        Ok(())
    }

    fn answer(&self, checkpoint: &Checkpoint, question: &str) -> Result<()> {
        let Checkpoint { model, tokenizer, latent, .. } = checkpoint;
        if latent.format == Format::Graph {
            return Err(Error::Usage("This checkpoint answers graphs, not text; use `coconut eval` with a file of graphs.".into()));
        }
        let markers = tokenizer.markers();
        let curriculum = latent.curriculum();
        let example = Example::new(question, Vec::<String>::new(), "");
        let text = encode::encode_text(&example, tokenizer)?;
        let ids = match self.latents {
            Some(n) => [
                text.question.as_slice(),
                &[markers.start_latent],
                &vec![markers.latent; n],
                &[markers.end_latent],
            ]
            .concat(),
            None => {
                let padded =
                    coconut::data::Curriculum { pad_latent_to_max: true, ..curriculum.clone() };
                let draw = Draw { seed: 0, epoch: 0, index: 0 };
                padded.prompt(&Encoded::Text(text), latent.stage, markers, draw).ids
            }
        };
        let options = GenerateOptions {
            latent: curriculum.feeds_back().then_some(markers.latent),
            stops: tokenizer.stops(),
            max_new_tokens: self.max_new_tokens,
            sampling: self.sampling.sampling(),
        };
        let generations = generate(model, &[&ids], &options).map_err(|problem| {
            Error::Usage(format!("The question cannot be answered: {problem}."))
        })?;
        for generation in generations {
            let text = tokenizer.decode(&generation.ids)?;
            if self.json {
                verbs::print_json(&json!({
                    "prompt": question,
                    "generation": text,
                    "answer": coconut::eval::score::read_answer(&text, "###"),
                    "prompt_ids": ids,
                    "ids": generation.ids,
                    "latents": ids.iter().filter(|&&id| id == markers.latent).count(),
                    "finished": generation.finished,
                }));
            } else {
                println!("{}", text.trim_end());
            }
        }
        Ok(())
    }
}

#[derive(Args)]
pub struct Logits {
    /// A checkpoint folder.
    checkpoint: PathBuf,
    /// Token ids, separated by commas; the latent token's id marks latents.
    #[arg(long, value_delimiter = ',', required = true)]
    ids: Vec<u32>,
    /// Print JSON (the only form there is).
    #[arg(long)]
    json: bool,
}

impl Logits {
    pub fn run(self) -> Result<()> {
        let Checkpoint { model, tokenizer, latent, .. } =
            Checkpoint::load(&self.checkpoint, &device::named("cpu")?)?;
        let vocabulary = model.transformer.config.vocab_size;
        if let Some(id) = self.ids.iter().find(|&&id| id as usize >= vocabulary) {
            return Err(Error::Usage(format!(
                "--ids: {id} is beyond the vocabulary of {vocabulary} tokens."
            )));
        }
        if self.ids.len() > model.transformer.config.n_positions {
            return Err(Error::Usage(format!(
                "--ids: {} tokens are more than the model's context of {}.",
                self.ids.len(),
                model.transformer.config.n_positions
            )));
        }
        let feedback = latent.curriculum().feeds_back().then_some(tokenizer.markers().latent);
        let batch = Batch::new(&[Row { ids: &self.ids, labels: &[] }], feedback)
            .map_err(|problem| Error::Usage(format!("--ids: {problem}.")))?;
        let trace = latent::forward(&model, &batch, Wanted::Everything);
        let cells: Vec<(usize, usize)> = batch.columns_of(0).into_iter().map(|c| (0, c)).collect();
        let Some(hidden) = trace.last_hidden(&batch, &cells) else { return Ok(()) };
        let logits: Vec<f32> =
            model.transformer.logits(hidden).into_data().try_into_vec().unwrap_or_default();
        let rows: Vec<&[f32]> = logits.chunks(vocabulary).collect();
        verbs::print_json(&json!({ "logits": rows }));
        Ok(())
    }
}

#[derive(Args)]
pub struct Merge {
    /// A checkpoint of adapters.
    checkpoint: PathBuf,
    /// The folder to write; it must not exist, or be empty.
    #[arg(short, long)]
    out: PathBuf,
}

impl Merge {
    pub fn run(self) -> Result<()> {
        let taken = std::fs::read_dir(&self.out).is_ok_and(|mut entries| entries.next().is_some());
        if taken {
            return Err(Error::Usage(format!(
                "{} is not empty. Name another folder with `-o`.",
                self.out.display()
            )));
        }
        let Checkpoint { mut model, objective, tokenizer, latent } =
            Checkpoint::load(&self.checkpoint, &device::named("cpu")?)?;
        if model.transformer.lora.is_none() {
            return Err(Error::Usage(format!(
                "{} is a whole model already; there is nothing to merge.",
                self.checkpoint.display()
            )));
        }
        model.transformer = model.transformer.merged();
        checkpoint::write_model(&self.out, &Learner { model, objective }, &tokenizer, &latent)?;
        println!("wrote {}", self.out.display());
        Ok(())
    }
}
