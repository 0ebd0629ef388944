//! `coconut logits`: what the model says at every position of given tokens.

use std::{io::BufRead, path::Path};

use clap::Args;
use coconut::{
    Error, Result, device,
    eval::{AnswerOptions, GenerateOptions, TrainedModel, generate::forward_prompts},
    latent::ReadSet,
};
use serde_json::json;

use crate::{options::ModelOptions, verbs};

#[derive(Args)]
pub struct Logits {
    #[command(flatten)]
    model: ModelOptions,
    /// Token ids, separated by commas; lines of standard input if absent. The latent token's id marks latents.
    #[arg(long, value_delimiter = ',')]
    ids: Option<Vec<u32>>,
    /// Print the last position's logits only.
    #[arg(long)]
    last: bool,
    /// Print one line of JSON a row of ids (the only form there is).
    #[arg(long)]
    json: bool,
}

impl Logits {
    pub fn run(self) -> Result<()> {
        let checkpoint = self.model.open()?;
        let trained = checkpoint.trained();
        let options = trained.generation(&AnswerOptions::default());
        if let Some(ids) = &self.ids {
            return self.print(&trained, &options, ids, "--ids");
        }
        for (number, line) in (1..).zip(std::io::stdin().lock().lines()) {
            let line = line.map_err(Error::io("read", Path::new("standard input")))?;
            if !line.trim().is_empty() {
                let place = format!("line {number} of standard input");
                self.print(&trained, &options, &parse(&line, &place)?, &place)?;
            }
        }
        Ok(())
    }

    fn print(
        &self,
        trained: &TrainedModel,
        options: &GenerateOptions<'_>,
        ids: &[u32],
        place: &str,
    ) -> Result<()> {
        let model = trained.model;
        let (batch, trace) =
            forward_prompts(model, &[ids], options, ReadSet::ALL).map_err(|error| match error {
                Error::Prompt { problem, .. } => Error::Usage(format!("{place}: {problem}.")),
                other => other,
            })?;
        let mut cells: Vec<(usize, usize)> = batch.columns_of(0).iter().map(|&c| (0, c)).collect();
        if self.last {
            cells.drain(..cells.len().saturating_sub(1));
        }
        let hidden = trace.last_hidden(&batch, &cells);
        let hidden = hidden.ok_or_else(|| Error::Internal("a row without hidden states".into()))?;
        let logits: Vec<f32> = device::to_host(model.transformer.logits(hidden))?; // [positions, vocab]
        let rows: Vec<&[f32]> = logits.chunks(model.transformer.config.vocab_size).collect();
        verbs::print_json(&json!({ "logits": rows }));
        Ok(())
    }
}

/// The ids of a line.
fn parse(line: &str, place: &str) -> Result<Vec<u32>> {
    let ids = line.split(',').map(|id| id.trim().parse::<u32>());
    ids.collect::<Result<_, _>>().map_err(|_| {
        Error::Usage(format!(
            "{place}: expected token ids separated by commas, found `{}`.",
            line.trim()
        ))
    })
}
