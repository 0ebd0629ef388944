//! `coconut logits`: what the model says at every position of given tokens.

use clap::Args;
use coconut::{
    Error, Result, device,
    eval::{AnswerOptions, generate::forward_prompts},
    latent::ReadSet,
};
use serde_json::json;

use crate::{options::ModelOptions, verbs};

#[derive(Args)]
pub struct Logits {
    #[command(flatten)]
    model: ModelOptions,
    /// Token ids, separated by commas; the latent token's id marks latents.
    #[arg(long, value_delimiter = ',', required = true)]
    ids: Vec<u32>,
    /// Print JSON (the only form there is).
    #[arg(long)]
    json: bool,
}

impl Logits {
    pub fn run(self) -> Result<()> {
        let checkpoint = self.model.open()?;
        let model = &checkpoint.model;
        let trained = checkpoint.trained();
        let options = trained.generation(&AnswerOptions::default());
        let (batch, trace) =
            forward_prompts(model, &[&self.ids], &options, ReadSet::ALL).map_err(|error| {
                match error {
                    Error::Prompt { problem, .. } => Error::Usage(format!("--ids: {problem}.")),
                    other => other,
                }
            })?;
        let cells: Vec<(usize, usize)> = batch.columns_of(0).iter().map(|&c| (0, c)).collect();
        let hidden = trace.last_hidden(&batch, &cells);
        let hidden = hidden.ok_or_else(|| Error::Internal("a row without hidden states".into()))?;
        let logits: Vec<f32> = device::to_host(model.transformer.logits(hidden))?; // [positions, vocab]
        let rows: Vec<&[f32]> = logits.chunks(model.transformer.config.vocab_size).collect();
        verbs::print_json(&json!({ "logits": rows }));
        Ok(())
    }
}
