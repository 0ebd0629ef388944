//! Where attention looks: from the end of the question, from each latent and from the end of the prompt, by layer.

use std::collections::BTreeMap;

use coconut_kernels::Heads;
use serde::{Deserialize, Serialize};

use super::{
    Plain, Subject,
    pieces::{self, TokenClass},
    subject::PlainBatch,
};
use crate::{
    Result,
    data::Sequence,
    device,
    latent::{Batch, Trace},
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
    /// What `question` is made of: the classes of tokens that a question has.
    #[serde(default)]
    pub classes: Vec<ClassShare>,
}

/// What goes to one class of a question's tokens.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClassShare {
    /// The class.
    pub class: TokenClass,
    /// Its share.
    pub share: f64,
    /// The share that it would have if each token of the question got as much as any other.
    pub even: f64,
}

/// Sums of shares, to become means.
#[derive(Clone, Default)]
struct Sums {
    n: usize,
    shares: [f64; 4],
    /// Of the question's share, by class: found, and if it were even.
    classes: BTreeMap<TokenClass, [f64; 2]>,
}

/// What attends to what in a plain run, from the queries and keys that it left.
///
/// # Errors
/// [`Error::Internal`](crate::Error::Internal) if the device failed.
pub(super) fn attention(subject: &Subject<'_>, plain: &Plain) -> Result<Vec<AttentionReading>> {
    let config = &subject.model.transformer.config;
    let (most, layers) = (plain.most_thoughts(), config.n_layer);
    let mut sums = vec![Sums::default(); layers * (most + 2)];
    let classes = pieces::of_questions(subject, plain)?;
    for PlainBatch { questions, layout, trace } in &plain.batches {
        for layer in 0..layers {
            let columns = columns(layout, trace, layer)?;
            for (row, &question) in questions.iter().enumerate() {
                let here = &mut sums[layer * (most + 2)..][..most + 2];
                let prompt = &plain.asked[question].prompt;
                of_row(config.heads, &columns[row], prompt, &classes[question], here);
            }
        }
    }
    let reading = |(at, sums): (usize, Sums)| {
        let share = |kind: usize| sums.shares[kind] / sums.n as f64;
        let classes = sums.classes.iter().map(|(&class, &[share, even])| ClassShare {
            class,
            share: share / sums.n as f64,
            even: even / sums.n as f64,
        });
        AttentionReading {
            layer: at / (most + 2) + 1,
            position: at % (most + 2),
            n: sums.n,
            question: share(0),
            markers: share(1),
            latents: share(2),
            itself: share(3),
            classes: classes.collect(),
        }
    };
    let some = sums.into_iter().enumerate().filter(|(_, sums)| sums.n > 0);
    Ok(some.map(reading).collect())
}

/// For each row, the queries, keys and values of its tokens in order, `qkv` numbers each.
fn columns(batch: &Batch, trace: &Trace, layer: usize) -> Result<Vec<Vec<Vec<f32>>>> {
    let first = batch.passes[0].cached_tokens();
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

/// Adds what a row's positions attend to; `classes` are its question's tokens'.
fn of_row(
    Heads { query: heads, key_value: groups, dim }: Heads,
    tokens: &[Vec<f32>],
    prompt: &Sequence,
    classes: &[TokenClass],
    sums: &mut [Sums],
) {
    let latents = prompt.latents();
    if prompt.n_latents == 0 || tokens.len() < 2 {
        return;
    }
    let kind = |from: usize, to: usize| match to {
        _ if latents.contains(&to) && to == from => 3,
        _ if latents.contains(&to) => 2,
        _ if to + 1 < latents.start => 0,
        _ => 1,
    };
    let question = &classes[..latents.start - 1];
    let positions = (latents.start - 1..latents.end).chain([tokens.len() - 1]);
    let numbers = (0..=prompt.n_latents).chain([sums.len() - 1]);
    for (from, number) in positions.zip(numbers) {
        let sums = &mut sums[number];
        sums.n += 1;
        let mut to_question = 0.0;
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
                let share = (score - top).exp() / total / heads as f64;
                sums.shares[kind(from, to)] += share;
                if let Some(&class) = question.get(to) {
                    sums.classes.entry(class).or_default()[0] += share;
                    to_question += share;
                }
            }
        }
        for &class in question {
            sums.classes.entry(class).or_default()[1] += to_question / question.len() as f64;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{TokenClass::*, *};

    /// One head of width 1: with the query 1 and the key ln w, a token gets w of the sum.
    #[test]
    fn shares_by_hand() {
        let heads = Heads { query: 1, key_value: 1, dim: 1 };
        // `3 + 4`, bot, two latents, eot.
        let tokens: Vec<Vec<f32>> =
            [1.0f32, 2.0, 3.0, 4.0, 5.0, 5.0, 20.0].map(|w| vec![1.0, w.ln(), 0.0]).into();
        let prompt = Sequence {
            ids: vec![0; 7],
            labels: vec![None; 7],
            n_latents: 2,
            latent_start: 4,
            prompt_len: 7,
            replaced: Vec::new(),
            anchor: 0,
        };
        let mut sums = vec![Sums::default(); 4];
        of_row(heads, &tokens, &prompt, &[Number, Symbol, Number], &mut sums);
        let near = |found: f64, expected: f64| {
            assert!((found - expected).abs() < 1e-6, "{found} {expected}")
        };
        // By position: the sum, then question, markers, latents and itself, then numbers and symbols.
        let expected = [
            (10.0, [6.0, 4.0, 0.0, 0.0], [4.0, 2.0]),
            (15.0, [6.0, 4.0, 0.0, 5.0], [4.0, 2.0]),
            (20.0, [6.0, 4.0, 5.0, 5.0], [4.0, 2.0]),
            (40.0, [6.0, 24.0, 10.0, 0.0], [4.0, 2.0]),
        ];
        for (sums, (all, shares, classes)) in sums.iter().zip(expected) {
            assert_eq!(sums.n, 1);
            shares.iter().zip(sums.shares).for_each(|(share, found)| near(found, share / all));
            for (class, share, even) in [(Number, classes[0], 4.0), (Symbol, classes[1], 2.0)] {
                let [found, evenly] = sums.classes[&class];
                near(found, share / all);
                near(evenly, even / all); // two of three tokens, and one, of 6
            }
        }
    }
}
