//! `coconut bench`: step time, generation and memory by stage, with random weights.

use std::{path::PathBuf, time::Instant};

use burn::{module::Module, tensor::Device};
use clap::Args;
use coconut::{
    Error, Result,
    data::{
        Curriculum, Draw, Encoded, Method, Sequence, Stage, Tokenizer,
        batch::{Batch, Row},
        encode_texts, read,
        tokenizer::Units,
    },
    eval::{GenerateOptions, Sampling, generate},
    latent::{LatentModel, Recompute, Trace, recompute::gradients},
    log, loss,
    model::{ModelConfig, Transformer},
    train::optim::{self, AdamW},
};
use serde_json::json;

#[derive(Args)]
pub struct Bench {
    /// Blocks.
    #[arg(long, default_value_t = 4)]
    layers: usize,
    /// Width.
    #[arg(long, default_value_t = 128)]
    dim: usize,
    /// Heads.
    #[arg(long, default_value_t = 4)]
    heads: usize,
    /// Examples a step.
    #[arg(long, default_value_t = 32)]
    batch: usize,
    /// Stages to measure.
    #[arg(long, value_delimiter = ',', default_value = "0,3,6")]
    stages: Vec<i32>,
    /// Thoughts a step.
    #[arg(long, default_value_t = 1)]
    c_thought: usize,
    /// Examples, cut into word tokens.
    #[arg(long)]
    data: PathBuf,
    /// Rows of the embedding; the data's vocabulary if absent.
    #[arg(long)]
    vocab: Option<usize>,
    /// Compute each pass again in backward: `none` or `passes`.
    #[arg(long, default_value = "none", value_parser = recompute)]
    recompute: Recompute,
    /// Steps measured; the median is told.
    #[arg(long, default_value_t = 7)]
    repeats: usize,
    /// One line of JSON a stage (the only form there is).
    #[arg(long)]
    json: bool,
}

impl Bench {
    pub fn run(self) -> Result<()> {
        let examples = read::load(&self.data, None)?;
        let tokenizer = Tokenizer::build(&examples, Units::Words, &self.data)?;
        let (encoded, _) = encode_texts(&examples, &tokenizer)?;
        let curriculum = Curriculum {
            method: Method::Coconut,
            c_thought: self.c_thought,
            max_latent_stage: self.stages.iter().copied().max().unwrap_or(0).max(0) as usize,
            pad_latent_to_max: true,
            uniform_prob: 0.0,
            cot_epochs: 1,
            epochs_per_stage: 1,
            num_epochs: 100,
            frontier: false,
        };
        let markers = tokenizer.markers();
        let longest = encoded.iter().map(|e| curriculum.max_len(e, markers)).max().unwrap_or(1);
        let vocabulary = self.vocab.unwrap_or(0).max(tokenizer.vocab_size());
        let shape = ModelConfig::gpt2(vocabulary, longest + 32, self.dim, self.layers, self.heads);
        shape.check().map_err(|problem| Error::Usage(format!("{problem}.")))?;
        for &stage in &self.stages {
            self.stage(Stage(stage), &encoded, &curriculum, &tokenizer, shape.clone())?;
        }
        Ok(())
    }

    fn stage(
        &self,
        stage: Stage,
        encoded: &[Encoded],
        curriculum: &Curriculum,
        tokenizer: &Tokenizer,
        shape: ModelConfig,
    ) -> Result<()> {
        let markers = tokenizer.markers();
        let draw = |index: usize| Draw { seed: 0, epoch: 0, index: index as u64 };
        let model = Transformer::random(shape, 0, &Device::flex());
        let model = LatentModel::new(model, Default::default(), Default::default());
        let mut model = model.map_err(|(key, e)| Error::Usage(format!("{key} {e}.")))?.train();
        let mut optimizer = AdamW::new([0.9, 0.999], 0.01);
        let (mut seconds, mut tokens, mut last_loss) = (Vec::new(), 0, 0.0);
        for step in 0..self.repeats + 2 {
            let rows: Vec<Sequence> = (0..self.batch)
                .map(|i| {
                    let index = (step * self.batch + i) % encoded.len();
                    curriculum.train_sequence(&encoded[index], stage, markers, draw(index))
                })
                .collect();
            let rows: Vec<Row> =
                rows.iter().map(|s| Row { ids: &s.ids, labels: &s.labels }).collect();
            let start = Instant::now();
            let batch = Batch::new(&rows, Some(markers.latent)).map_err(Error::Training)?;
            let n = batch.targets.len() as f64;
            let loss = |trace: &Trace| {
                let head = &model.transformer;
                let loss = loss::cross_entropy(head, &batch, trace, &batch.targets)? / n;
                last_loss = f64::from(loss.clone().into_scalar::<f32>());
                Some(loss)
            };
            let found = gradients(&model, &batch, self.recompute, None, step as u64, loss);
            let Some(gradients) = found else { continue };
            let scale = optim::clip_scale(optim::global_norm(&gradients), 1.0);
            model = optimizer.step(model, gradients, 1e-4, scale);
            if step >= 2 {
                seconds.push(start.elapsed().as_secs_f64());
            }
            tokens = batch.tokens();
        }
        let options = GenerateOptions {
            latent: Some(markers.latent),
            eos: u32::MAX, // random weights: always the full 32 tokens
            max_new_tokens: 32,
            sampling: Sampling::Greedy,
        };
        let model = model.valid();
        let prompts: Vec<Sequence> = (0..self.batch.min(32))
            .map(|i| curriculum.prompt(&encoded[i % encoded.len()], stage, markers, draw(i)))
            .collect();
        let prompts: Vec<&[u32]> = prompts.iter().map(|p| p.ids.as_slice()).collect();
        let mut single = Vec::new();
        for prompt in prompts.iter().take(8) {
            let start = Instant::now();
            generate(&model, &[prompt], &options).map_err(Error::Training)?;
            single.push(start.elapsed().as_secs_f64());
        }
        let mut batched = Vec::new();
        for _ in 0..3 {
            let start = Instant::now();
            generate(&model, &prompts, &options).map_err(Error::Training)?;
            batched.push(start.elapsed().as_secs_f64() / prompts.len() as f64);
        }
        let step = median(&mut seconds);
        super::print_json(&json!({
            "stage": stage.0,
            "ms_per_step": 1e3 * step,
            "samples_per_s": self.batch as f64 / step,
            "tokens_last_batch": tokens,
            "gen_ms_per_question": 1e3 * median(&mut single),
            "gen_batch_ms_per_question": 1e3 * median(&mut batched),
            "rss_gb": log::resident_mb() / 1e3,
            "peak_gb": log::peak_mb() / 1e3,
            "loss": last_loss,
        }));
        Ok(())
    }
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

fn recompute(text: &str) -> Result<Recompute, String> {
    serde_json::from_value(json!(text)).map_err(|_| "expected none or passes".into())
}
