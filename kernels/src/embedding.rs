//! Rows of a table, and the gradient that scatters back into it.

use burn_flex::FlexTensor;
use rayon::prelude::*;

use crate::flex::{Fused, Sinks, slice, slice_mut, tensor, unfilled};
use crate::weight::copy_row;

/// Rows of the table that one task owns in the backward pass.
const ROWS: usize = 64;

/// Operand: `weight: [vocab, d_model]`.
#[derive(Debug)]
pub(crate) struct Embedding {
    pub(crate) ids: Vec<u32>,
    /// Shape of the ids, `[batch, seq]`.
    pub(crate) shape: [usize; 2],
}

impl Fused<1> for Embedding {
    /// Shape of the weight.
    type Saved = [usize; 2];

    fn forward(&self, [weight]: [FlexTensor; 1], _: [bool; 1]) -> (FlexTensor, Option<[usize; 2]>) {
        let shape = weight.layout().shape();
        let [vocab, d_model] = [shape[0], shape[1]];
        let mut y = unfilled(self.ids.len() * d_model);
        y.par_chunks_exact_mut(d_model.max(1))
            .with_min_len(ROWS)
            .zip(&self.ids)
            .for_each(|(y, &id)| copy_row(&weight, id as usize, y));
        let [batch, seq] = self.shape;
        (tensor(y, [batch, seq, d_model]), Some([vocab, d_model]))
    }

    fn backward(self, [vocab, d_model]: [usize; 2], grad: FlexTensor, sinks: &mut Sinks<'_, 1>) {
        if !sinks.wants(0) {
            return;
        }
        // Sorted by row, so that each task finds its own; a stable sort keeps each row's sum in the
        // order of the batch.
        let mut order: Vec<u32> = (0..self.ids.len() as u32).collect();
        order.sort_by_key(|&i| self.ids[i as usize]);
        let grad = slice(&grad);
        // An output head tied to this table has given its gradient already: a second table of zeros
        // to add to it would cost far more than the few rows that change.
        let mut sum =
            sinks.take(0).unwrap_or_else(|| tensor(vec![0.0; vocab * d_model], [vocab, d_model]));
        slice_mut(&mut sum).par_chunks_mut((ROWS * d_model).max(1)).enumerate().for_each(
            |(task, rows)| {
                let first =
                    order.partition_point(|&i| (self.ids[i as usize] as usize) < task * ROWS);
                for &i in &order[first..] {
                    let row = self.ids[i as usize] as usize - task * ROWS;
                    if row >= ROWS {
                        break;
                    }
                    let sum = &mut rows[row * d_model..][..d_model];
                    let grad = &grad[i as usize * d_model..][..d_model];
                    sum.iter_mut().zip(grad).for_each(|(sum, grad)| *sum += grad);
                }
            },
        );
        sinks.put(0, sum);
    }

    fn accumulates(&self, _: usize) -> bool {
        true
    }
}
