//! How likely a model finds a text after prompts that it has computed.

use burn::tensor::{Int, Tensor, TensorData};
use coconut_kernels::{TokenMask, host};

use super::head::log_probs_by_rows;
use crate::{
    Result, device,
    latent::{LatentModel, Trace, batch::Batch},
    model::{PassLayout, TokenInts},
};

/// A text that may follow a prompt.
#[derive(Clone, Copy, Debug)]
pub struct Continuation<'a> {
    /// Its tokens.
    pub ids: &'a [u32],
    /// So many of them, the last ones, are scored.
    pub scored: usize,
}

/// For each row of a batch that was run, the sum of log p, in nats, over the scored tokens of its continuation, each
/// after the prompt and the tokens before it. `None` for a row whose continuation does not fit the model's context.
///
/// # Errors
/// [`Error::Internal`](crate::Error::Internal) if the device failed.
pub fn log_probs(
    model: &LatentModel,
    batch: &Batch,
    trace: &Trace,
    continuations: &[Continuation<'_>],
) -> Result<Vec<Option<f64>>> {
    let context = model.transformer.config.n_positions;
    let fits = |row: usize| batch.lengths[row] + continuations[row].ids.len() <= context + 1;
    let before_last = |row: usize| match (fits(row), continuations[row].ids.split_last()) {
        (true, Some((_, before))) => before,
        _ => &[],
    };
    let fed: Vec<&[u32]> = (0..batch.rows).map(before_last).collect();
    let Some(hidden) = predictors(model, batch, trace, &fed) else { return Ok(Vec::new()) };
    let [rows, columns, d_model] = hidden.dims();
    let hidden = hidden.reshape([rows * columns, d_model]);

    let of_row = |row: usize| {
        let Continuation { ids, scored } = continuations[row];
        (ids.len().saturating_sub(scored)..ids.len()).map(move |at| (row, at))
    };
    let scored: Vec<(usize, usize)> = (0..rows).filter(|&row| fits(row)).flat_map(of_row).collect();
    let mut sums: Vec<Option<f64>> = (0..rows).map(|row| fits(row).then_some(0.0)).collect();
    if scored.is_empty() {
        return Ok(sums);
    }
    let device = hidden.device();
    let places: Vec<i32> = scored.iter().map(|&(row, at)| (row * columns + at) as i32).collect();
    let places = host::upload::<1, Int>(places.as_slice(), &device);
    let hidden = hidden.select(0, places); // [scored, d_model]
    log_probs_by_rows(&model.transformer, &hidden, |rows, log_probs| {
        let scored = &scored[rows];
        let ids: Vec<i32> =
            scored.iter().map(|&(row, at)| continuations[row].ids[at] as i32).collect();
        let ids = TensorData::new(ids, [scored.len(), 1]);
        let ids = host::upload::<2, Int>(ids, &device);
        let found: Vec<f32> = device::to_host(log_probs.gather(1, ids))?;
        for (&(row, _), log_prob) in scored.iter().zip(found) {
            if let Some(sum) = &mut sums[row] {
                *sum += f64::from(log_prob);
            }
        }
        Ok(())
    })?;
    Ok(sums)
}

/// Last hidden states at each row's end and at the tokens that it is then fed, `[batch, 1 + columns, d_model]`; `None`
/// without rows.
fn predictors(
    model: &LatentModel,
    batch: &Batch,
    trace: &Trace,
    fed: &[&[u32]],
) -> Option<Tensor<3>> {
    let ends = trace.ends(batch)?.unsqueeze_dim(1); // [batch, 1, d_model]
    let width = fed.iter().map(|ids| ids.len()).max().filter(|&width| width > 0);
    let Some(width) = width else { return Some(ends) };
    let column = |value: &dyn Fn(usize, usize) -> i32| {
        let values = (0..batch.rows).flat_map(|row| (0..width).map(move |at| value(row, at)));
        TokenInts::new(values.collect(), [batch.rows, width])
    };
    let ids = column(&|row, at| fed[row].get(at).map_or(0, |&id| id as i32));
    let position_ids = column(&|row, at| match at < fed[row].len() {
        true => (batch.lengths[row] + at) as i32,
        false => 0,
    });
    let of_row = |row: usize| {
        let mut tokens = vec![false; batch.columns + width];
        batch.columns_of(row).iter().for_each(|&column| tokens[column] = true);
        tokens[batch.columns..][..fed[row].len()].fill(true);
        tokens
    };
    let tokens: Vec<bool> = (0..batch.rows).flat_map(of_row).collect();
    let attention_mask = TokenMask::new(batch.rows, batch.columns + width, tokens)
        .unpadded(batch.unpadded_columns());
    let layout = PassLayout::whole(position_ids, attention_mask);
    let cache = trace.caches.first().cloned().unwrap_or_default();
    let embeddings = model.transformer.embed(ids.tensor(&model.device()));
    let (states, _) = model.transformer.forward(embeddings, &cache, &layout, None);
    Some(Tensor::cat(vec![ends, states.last()], 1))
}
