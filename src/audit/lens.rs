//! The logit lens on the steps' values: what the output head reads of each layer and position.

use burn::tensor::{Tensor, TensorData};
use coconut_kernels::host;
use rand::seq::SliceRandom;
use serde::{Deserialize, Serialize};

use super::{Subject, Values, states::States};
use crate::{Result, device, eval::head::log_probs_by_rows, rng, stats::Rate};

/// What the head reads of a step's value.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LensReading {
    /// The hidden state.
    pub layer: usize,
    /// The position.
    pub position: usize,
    /// The step, from 1.
    pub step: usize,
    /// Questions whose likeliest token is the value's first.
    pub top: Rate,
    /// The same with another question's value in its place.
    pub top_shuffled: Rate,
    /// Mean probability of the value's first token.
    pub probability: f64,
    /// The same with another question's value in its place.
    pub shuffled: f64,
    /// Median rank of it, from 1.
    pub rank: f64,
    /// Mean entropy of what the head reads, in nats.
    pub entropy: f64,
}

/// A step whose value is looked for.
struct Looked {
    step: usize,
    /// The rows whose questions have it, the first token of its value, and of another question's.
    rows: Vec<(usize, u32, u32)>,
    /// Of each: probability and rank of the first, and of the second.
    own: Vec<(f64, usize)>,
    others: Vec<(f64, usize)>,
    entropy: f64,
}

/// The states of a layer and position as the head reads them, `[rows, d_model]`.
pub(super) fn as_read(
    subject: &Subject<'_>,
    states: &States,
    layer: usize,
    position: usize,
) -> Tensor<2> {
    let (_, vectors) = states.at(layer, position);
    let hidden = tensor(subject, vectors, states.d_model);
    // The last state is behind the final norm already.
    if layer + 1 == states.layers {
        return hidden;
    }
    subject.model.transformer.final_norm(hidden.unsqueeze()).squeeze_dim(0)
}

/// Vectors of width `d`, one after the other, `[rows, d]`.
pub(super) fn tensor(subject: &Subject<'_>, vectors: &[f32], d: usize) -> Tensor<2> {
    let values = TensorData::new(vectors.to_vec(), [vectors.len() / d, d]);
    host::upload(values, &subject.model.device())
}

/// What the head reads of every step's value at a layer and position, whose states belong to `questions` and are read
/// as `hidden: [rows, d_model]`.
///
/// # Errors
/// [`Error::Internal`](crate::Error::Internal) if the device failed.
pub(super) fn lens(
    subject: &Subject<'_>,
    values: &Values,
    (layer, position): (usize, usize),
    questions: &[usize],
    hidden: &Tensor<2>,
) -> Result<Vec<LensReading>> {
    let steps = questions.iter().map(|&question| values.of_steps[question].len()).max();
    let looked = (0..steps.unwrap_or(0)).map(|step| Looked::new(subject, values, questions, step));
    let mut looked: Vec<Looked> = looked.collect::<Result<_>>()?;
    looked.retain(|looked| looked.rows.len() > 1);
    if looked.is_empty() {
        return Ok(Vec::new());
    }
    log_probs_by_rows(&subject.model.transformer, hidden, |rows, log_probs| {
        let [_, vocab] = log_probs.dims();
        let entropies = -(log_probs.clone().exp() * log_probs.clone()).sum_dim(1);
        let entropies: Vec<f32> = device::to_host(entropies)?;
        let log_probs: Vec<f32> = device::to_host(log_probs)?;
        for looked in &mut looked {
            for &(row, own, other) in looked.rows.iter().filter(|(row, ..)| rows.contains(row)) {
                let at = row - rows.start;
                let of_row = &log_probs[at * vocab..(at + 1) * vocab];
                looked.own.push(read(of_row, own));
                looked.others.push(read(of_row, other));
                looked.entropy += f64::from(entropies[at]);
            }
        }
        Ok(())
    })?;
    Ok(looked.into_iter().map(|looked| looked.reading(layer, position)).collect())
}

impl Looked {
    fn new(
        subject: &Subject<'_>,
        values: &Values,
        questions: &[usize],
        step: usize,
    ) -> Result<Self> {
        let mut own: Vec<(usize, u32)> = Vec::new();
        for (row, question) in values.having(questions, step) {
            let value = subject.evaluator.tokenizer.encode(&values.of_steps[question][step], false);
            own.extend(value?.ids.first().map(|&token| (row, token)));
        }
        let mut others: Vec<u32> = own.iter().map(|&(_, token)| token).collect();
        others.shuffle(&mut rng::stream(subject.seed, &[rng::EDITS, step as u64]));
        let rows = own.into_iter().zip(others).map(|((row, own), other)| (row, own, other));
        Ok(Self { step, rows: rows.collect(), own: Vec::new(), others: Vec::new(), entropy: 0.0 })
    }

    fn reading(self, layer: usize, position: usize) -> LensReading {
        let n = self.own.len() as f64;
        let mean = |read: &[(f64, usize)]| read.iter().map(|(p, _)| p).sum::<f64>() / n;
        let top = |read: &[(f64, usize)]| read.iter().map(|&(_, rank)| rank == 1).collect();
        let mut ranks: Vec<usize> = self.own.iter().map(|&(_, rank)| rank).collect();
        ranks.sort_unstable();
        let middle = [ranks[(ranks.len() - 1) / 2], ranks[ranks.len() / 2]];
        LensReading {
            layer,
            position,
            step: self.step + 1,
            top: top(&self.own),
            top_shuffled: top(&self.others),
            probability: mean(&self.own),
            shuffled: mean(&self.others),
            rank: (middle[0] + middle[1]) as f64 / 2.0,
            entropy: self.entropy / n,
        }
    }
}

/// Probability and rank of a token, given the log probabilities of all.
fn read(log_probs: &[f32], token: u32) -> (f64, usize) {
    let own = log_probs[token as usize];
    let above = log_probs.iter().filter(|&&other| other > own).count();
    (f64::from(own).exp(), above + 1)
}
