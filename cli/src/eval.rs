//! `coconut eval`, and recipes that only evaluate.

use std::path::PathBuf;

use clap::Args;
use coconut::{
    Error, Result,
    checkpoint::Checkpoint,
    config::RunConfig,
    data::{Curriculum, Dataset, Format, Stage, encode_graphs, encode_texts, read},
    eval::Evaluator,
    latent::LatentModel,
    report,
    run::{self, Results, append_samples},
};
use serde_json::json;

use crate::{
    log,
    options::{Dials, ModelOptions, SamplingOptions},
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
    #[command(flatten)]
    dials: Dials,
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
    /// Print the result as one line of JSON.
    #[arg(long)]
    json: bool,
}

impl Eval {
    pub fn run(self) -> Result<()> {
        let mut checkpoint = self.model.open()?;
        let trained = checkpoint.latent.curriculum();
        let stage = self.stage(checkpoint.latent.stage, &trained)?;
        self.dials.set_iterations(&mut checkpoint, stage)?;
        let latents = self.dials.latents(&checkpoint, stage)?;
        let curriculum = Curriculum { latents, ..trained };
        let data = self.examples(&checkpoint)?;
        let Checkpoint { model, tokenizer, latent, .. } = &checkpoint;
        let evaluator = Evaluator {
            data: &data,
            decoder: checkpoint.decoder(),
            tokenizer,
            curriculum,
            batch_size: self.batch_size,
            max_new_tokens: self.max_new_tokens,
            sampling: self.sampling.sampling(),
            seed: 0,
        };
        self.check_room(&evaluator, model, stage)?;
        evaluator.check(model, stage, &self.data)?;
        let progress = Progress::new("evaluating", "questions", 0, data.encoded.len() as u64);
        let found = evaluator.evaluate(model, stage, |n| {
            progress.advance(n as u64);
            Ok(())
        })?;
        drop(progress);
        let reinject = model.config.feeds_back().then(|| latent.thinking.feedback.to_string());
        let row = run::Row::of(&found, stage, 0, latent.method, reinject);
        if let Some(path) = &self.samples {
            append_samples(path, &found, stage, 0, latent.method)?;
        }
        if self.json {
            let mut object = json!(row);
            if let Some(iterations) = self.dials.iterations {
                object["iterations"] = json!(iterations);
            }
            verbs::print_json(&object);
        } else {
            let results = Results { run: "eval".into(), config: json!({}), rows: vec![row] };
            println!("{}", report::table::terminal(&report::series(&[&results])));
            if let Some(iterations) = self.dials.iterations {
                println!("iterations: {iterations}");
            }
        }
        Ok(())
    }

    /// Refuses more latents than fit beside the questions.
    fn check_room(&self, evaluator: &Evaluator, model: &LatentModel, stage: Stage) -> Result<()> {
        let Some(latents) = self.dials.latents else { return Ok(()) };
        let context = model.transformer.config.n_positions;
        let lengths = evaluator.prompts(stage).into_iter().map(|prompt| prompt.ids.len());
        match (1..).zip(lengths).find(|(_, length)| *length > context) {
            Some((number, length)) => Err(Error::Usage(format!(
                "--latents {latents}: with them the prompt of example {number} has {length} tokens, but the model's context is {context}."
            ))),
            None => Ok(()),
        }
    }

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

    /// The examples in the checkpoint's tokens; what looks wrong in them is said on stderr.
    fn examples(&self, checkpoint: &Checkpoint) -> Result<Dataset> {
        let examples = read::load(&self.data, self.max_size)?;
        let encoded = match checkpoint.latent.format {
            Format::Graph => encode_graphs(&examples, &checkpoint.tokenizer, &self.data)?,
            Format::Text => {
                let (encoded, found) = encode_texts(&examples, &checkpoint.tokenizer)?;
                if self.strict {
                    found.refuse_unknown(&self.data, "Leave out `--strict` to be warned only.")?;
                }
                for warning in found.warnings() {
                    eprintln!("warning: {}, {warning}", self.data.display());
                }
                encoded
            }
        };
        Ok(Dataset { examples, encoded })
    }
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
        dials: Dials::default(),
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
