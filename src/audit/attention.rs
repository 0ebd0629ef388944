//! Where attention looks: from the end of the question, from each latent and from the end of the prompt, by layer.

use coconut_kernels::Heads;
use serde::{Deserialize, Serialize};

use super::{Plain, Subject, subject::PlainBatch};
use crate::{
    Result,
    data::Sequence,
    device,
    latent::{Batch, Trace},
    model::ModelConfig,
};

/// What a position attends to in a layer, as shares of 1: means over heads and over the questions that have it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct AttentionReading {
    /// The block, from 1: what it computes is state `layer`.
    pub layer: usize,
    /// The position: 0 the end of the question, then the latents, then the end of the prompt.
    pub position: usize,
    /// Questions.
    pub n: usize,
    /// To the question's text, the marker at its end not counted.
    pub question: f64,
    /// To the markers before and after the latents.
    pub markers: f64,
    /// To earlier latents.
    pub latents: f64,
    /// To itself, if it is a latent.
    pub itself: f64,
}

/// Sums of shares, to become means.
#[derive(Clone, Default)]
struct Sums {
    n: usize,
    shares: [f64; 4],
}

/// What attends to what in a plain run, from the queries and keys that it left.
///
/// # Errors
/// [`Error::Internal`](crate::Error::Internal) if the device failed.
pub(super) fn attention(subject: &Subject<'_>, plain: &Plain) -> Result<Vec<AttentionReading>> {
    let config = &subject.model.transformer.config;
    let (most, layers) = (plain.most_thoughts(), config.n_layer);
    let mut sums = vec![Sums::default(); layers * (most + 2)];
    for PlainBatch { questions, layout, trace } in &plain.batches {
        for layer in 0..layers {
            let columns = columns(layout, trace, layer)?;
            for (row, &question) in questions.iter().enumerate() {
                let here = &mut sums[layer * (most + 2)..][..most + 2];
                of_row(config, &columns[row], &plain.asked[question].prompt, here);
            }
        }
    }
    let reading = |(at, sums): (usize, Sums)| {
        let share = |class: usize| sums.shares[class] / sums.n as f64;
        AttentionReading {
            layer: at / (most + 2) + 1,
            position: at % (most + 2),
            n: sums.n,
            question: share(0),
            markers: share(1),
            latents: share(2),
            itself: share(3),
        }
    };
    let some = sums.into_iter().enumerate().filter(|(_, sums)| sums.n > 0);
    Ok(some.map(reading).collect())
}

/// For each row, the queries, keys and values of its tokens in order, `qkv` numbers each.
fn columns(batch: &Batch, trace: &Trace, layer: usize) -> Result<Vec<Vec<Vec<f32>>>> {
    let first = batch.passes[0].tokens();
    let unpadded = batch.unpadded_columns();
    let mut by_column: Vec<Vec<Vec<f32>>> = vec![vec![Vec::new(); batch.columns]; batch.rows];
    let mut start = 0;
    for (number, chunk) in trace.caches[0].layer(layer).iter().enumerate() {
        let chunk = match number == 0 && unpadded > 0 {
            true => first.pad(chunk.clone()),
            false => chunk.clone(),
        };
        let [_, columns, width] = chunk.dims();
        let values: Vec<f32> = device::to_host(chunk)?;
        for (at, values) in values.chunks(width).enumerate() {
            by_column[at / columns][start + at % columns] = values.to_vec();
        }
        start += columns;
    }
    let of_row = |(row, mut columns): (usize, Vec<Vec<f32>>)| {
        batch.columns_of(row).iter().map(|&at| std::mem::take(&mut columns[at])).collect()
    };
    Ok(by_column.into_iter().enumerate().map(of_row).collect())
}

/// Adds what a row's positions attend to.
fn of_row(config: &ModelConfig, tokens: &[Vec<f32>], prompt: &Sequence, sums: &mut [Sums]) {
    let Heads { query: heads, key_value: groups, dim } = config.heads;
    let latents = prompt.latents();
    if prompt.n_latents == 0 || tokens.len() < 2 {
        return;
    }
    let class = |from: usize, to: usize| match to {
        _ if latents.contains(&to) && to == from => 3,
        _ if latents.contains(&to) => 2,
        _ if to + 1 < latents.start => 0,
        _ => 1,
    };
    let positions = (latents.start - 1..latents.end).chain([tokens.len() - 1]);
    let numbers = (0..=prompt.n_latents).chain([sums.len() - 1]);
    for (from, number) in positions.zip(numbers) {
        sums[number].n += 1;
        for head in 0..heads {
            let query = &tokens[from][head * dim..(head + 1) * dim];
            let key_at = (heads + head * groups / heads) * dim;
            let score = |to: usize| -> f64 {
                let key = &tokens[to][key_at..key_at + dim];
                let product: f64 = query.iter().zip(key).map(|(q, k)| f64::from(q * k)).sum();
                product / (dim as f64).sqrt()
            };
            let scores: Vec<f64> = (0..=from).map(score).collect();
            let top = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let total: f64 = scores.iter().map(|score| (score - top).exp()).sum();
            for (to, score) in scores.iter().enumerate() {
                sums[number].shares[class(from, to)] += (score - top).exp() / total / heads as f64;
            }
        }
    }
}
