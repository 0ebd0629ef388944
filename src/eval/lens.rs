//! The logit lens: thoughts read through the output head, as if they were about to be spoken.

use burn::tensor::activation::softmax;

use super::generate::{GenerateOptions, forward_prompts};
use crate::{
    Result,
    data::Tokenizer,
    device,
    latent::{LatentModel, ReadSet, Trace, batch::Batch},
};

/// The likeliest tokens, likeliest first, as the vocabulary writes them, with their probabilities.
pub type Reading = Vec<(String, f64)>;

/// For each prompt and each of its latents, the `n_tokens` likeliest tokens that the output head reads at the
/// position before it: at the last hidden state that `hs[-1]` feeds back as that thought (Hao et al. 2024,
/// figure 4). Where latents are ordinary tokens nothing is fed back, yet what stands before them is read.
///
/// Of `options` only what concerns the prompts is used.
///
/// # Errors
/// As [`forward_prompts`], and [`Error::Internal`](crate::Error::Internal) if the device failed.
pub fn lens(
    model: &LatentModel,
    tokenizer: &Tokenizer,
    prompts: &[&[u32]],
    options: &GenerateOptions<'_>,
    n_tokens: usize,
) -> Result<Vec<Vec<Reading>>> {
    if prompts.iter().all(|ids| latents(ids, tokenizer).is_empty()) {
        return Ok(vec![Vec::new(); prompts.len()]);
    }
    let (batch, trace) = forward_prompts(model, prompts, options, ReadSet::ALL)?;
    read(model, tokenizer, prompts, &batch, &trace, n_tokens)
}

/// As [`lens`], of prompts that have been computed.
pub(super) fn read(
    model: &LatentModel,
    tokenizer: &Tokenizer,
    prompts: &[&[u32]],
    batch: &Batch,
    trace: &Trace,
    n_tokens: usize,
) -> Result<Vec<Vec<Reading>>> {
    let mut readings = vec![Vec::new(); prompts.len()];
    let mut cells: Vec<(usize, usize)> = Vec::new(); // (row, column)
    for (row, ids) in prompts.iter().enumerate() {
        let columns = batch.columns_of(row);
        let before = latents(ids, tokenizer).into_iter().map(|position| position.saturating_sub(1));
        cells.extend(before.filter_map(|p| Some((row, *columns.get(p)?))));
    }
    // As `last_hidden` wants them; of one row, thoughts stay in order.
    cells.sort_by_key(|&(_, column)| column);
    let Some(hidden) = trace.last_hidden(batch, &cells) else { return Ok(readings) };
    let logits = model.transformer.logits(hidden); // [cells, vocab]
    let [_, vocab] = logits.dims();
    let probabilities: Vec<f32> = device::to_host(softmax(logits, 1))?;
    for (&(row, _), probabilities) in cells.iter().zip(probabilities.chunks(vocab)) {
        readings[row].push(reading(tokenizer, probabilities, n_tokens));
    }
    Ok(readings)
}

/// Positions of the latents in a prompt.
pub(super) fn latents(ids: &[u32], tokenizer: &Tokenizer) -> Vec<usize> {
    let latent = tokenizer.special_tokens().latent;
    (0..ids.len()).filter(|&position| ids[position] == latent).collect()
}

fn reading(tokenizer: &Tokenizer, probabilities: &[f32], n_tokens: usize) -> Reading {
    let mut ids: Vec<u32> = (0..probabilities.len() as u32).collect();
    let of = |id: &u32| probabilities[*id as usize];
    ids.sort_by(|a, b| of(b).total_cmp(&of(a)));
    ids.truncate(n_tokens);
    let strings = tokenizer.token_strings(&ids);
    strings.into_iter().zip(ids.iter().map(|id| f64::from(of(id)))).collect()
}
