//! How likely a model finds a text after prompts that it has computed.

use burn::tensor::{Int, Tensor, TensorData, activation::log_softmax};
use coconut_kernels::TokenMask;

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

/// Logits computed at once, in numbers.
const MOST_LOGITS: usize = 1 << 24;

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
    let Some(ends) = trace.ends(batch) else { return Ok(Vec::new()) };
    let transformer = &model.transformer;
    let context = transformer.config.n_positions;
    let fits = |row: usize| batch.lengths[row] + continuations[row].ids.len() <= context + 1;
    let fed = |row: usize| match fits(row) {
        true => continuations[row].ids.split_last().map_or(&[][..], |(_, before)| before),
        false => &[],
    };
    let rows = batch.rows;
    let width = (0..rows).map(|row| fed(row).len()).max().unwrap_or(0);
    let mut hidden = ends.clone().unsqueeze_dim(1); // [rows, 1, d_model]
    if width > 0 {
        let device = model.device();
        let padded = |value: &dyn Fn(usize, usize) -> i32| {
            let values = (0..rows).flat_map(|row| (0..width).map(move |at| value(row, at)));
            TokenInts::new(values.collect(), [rows, width])
        };
        let ids = padded(&|row, at| fed(row).get(at).map_or(0, |&id| id as i32));
        let positions = padded(&|row, at| match at < fed(row).len() {
            true => (batch.lengths[row] + at) as i32,
            false => 0,
        });
        let mut tokens = Vec::with_capacity(rows * (batch.columns + width));
        for row in 0..rows {
            let start = tokens.len();
            tokens.resize(start + batch.columns, false);
            batch.columns_of(row).iter().for_each(|&column| tokens[start + column] = true);
            tokens.extend((0..width).map(|at| at < fed(row).len()));
        }
        let mask = TokenMask::new(rows, batch.columns + width, tokens);
        let layout = PassLayout::whole(positions, mask.unpadded(batch.unpadded_columns()));
        let cache = trace.caches.first().cloned().unwrap_or_default();
        let embeddings = transformer.embed(ids.tensor(&device));
        let (states, _) = transformer.forward(embeddings, &cache, &layout, None);
        hidden = Tensor::cat(vec![hidden, states.last()], 1); // [rows, 1 + width, d_model]
    }
    let scored: Vec<(usize, usize)> = (0..rows)
        .filter(|&row| fits(row))
        .flat_map(|row| {
            let Continuation { ids, scored } = continuations[row];
            (ids.len().saturating_sub(scored)..ids.len()).map(move |at| (row, at))
        })
        .collect();
    let mut sums: Vec<Option<f64>> = (0..rows).map(|row| fits(row).then_some(0.0)).collect();
    let at_once = (MOST_LOGITS / transformer.config.vocab_size.max(1)).max(1);
    let [_, columns, d_model] = hidden.dims();
    let hidden = hidden.reshape([rows * columns, d_model]);
    for scored in scored.chunks(at_once) {
        let places: Vec<i32> =
            scored.iter().map(|&(row, at)| (row * columns + at) as i32).collect();
        let ids: Vec<i32> =
            scored.iter().map(|&(row, at)| continuations[row].ids[at] as i32).collect();
        let places = Tensor::<1, Int>::from_data(places.as_slice(), &hidden.device());
        let ids = TensorData::new(ids, [scored.len(), 1]);
        let ids = Tensor::<2, Int>::from_data(ids, &hidden.device());
        let logits = transformer.logits(hidden.clone().select(0, places)); // [scored, vocab]
        let found: Vec<f32> = device::to_host(log_softmax(logits, 1).gather(1, ids))?;
        for (&(row, _), log_prob) in scored.iter().zip(found) {
            if let Some(sum) = &mut sums[row] {
                *sum += f64::from(log_prob);
            }
        }
    }
    Ok(sums)
}
