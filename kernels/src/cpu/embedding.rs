//! Rows of a table, and the gradient that scatters back into it.

use burn::tensor::{Bool, Int, Tensor, TensorData};
use burn_flex::FlexTensor;
use rayon::prelude::*;

use super::bridge::{Fused, GradSinks, apply, indices, slice, slice_mut, tensor, uninit};
use super::weight::copy_row;
use crate::{RowOverride, Table, Weight};

/// Rows of the table that one task owns in the backward pass.
const ROWS: usize = 64;

/// [`crate::embedding`] of a table that was found fit.
pub(crate) fn embedding(table: Table, ids: Tensor<2, Int>) -> Tensor<3> {
    let Table { weight: Weight { values: weight, .. }, overrides } = table;
    let op = Embedding { ids: indices(ids.clone(), weight.dims()[0]), shape: ids.dims() };
    let rows = apply(op, [weight.into_dispatch()]);
    match overrides {
        None => rows,
        Some(overrides) => replace(rows, overrides, ids),
    }
}

/// `x: [batch, seq, d_model]`, the rows that the weight gives for `ids: [batch, seq]`, with the overriding ones
/// in their place.
fn replace(x: Tensor<3>, overrides: RowOverride, ids: Tensor<2, Int>) -> Tensor<3> {
    let [batch, seq] = ids.dims();
    let host: Vec<u32> = ids.clone().into_data().iter::<u32>().collect();
    let at = |id: &u32| overrides.ids.iter().position(|own| own == id);
    if host.iter().all(|id| at(id).is_none()) {
        return x;
    }
    let places: Vec<i32> = host.iter().map(|id| at(id).unwrap_or(0) as i32).collect();
    let places = Tensor::from_data(TensorData::new(places, [batch, seq]), &ids.device());
    let own = crate::embedding(overrides.rows.clone(), places);
    let mask: Vec<bool> = host.iter().map(|id| at(id).is_some()).collect();
    let mask = TensorData::new(mask, [batch, seq, 1]);
    let mask = Tensor::<3, Bool>::from_data(mask, &ids.device());
    x.mask_where(mask.expand(own.dims()), own)
}

/// Operand: `weight: [vocab, d_model]`.
#[derive(Debug)]
struct Embedding {
    ids: Vec<u32>,
    /// Shape of the ids, `[batch, seq]`.
    shape: [usize; 2],
}

impl Fused<1> for Embedding {
    /// Shape of the weight.
    type Saved = [usize; 2];

    fn forward(&self, [weight]: [FlexTensor; 1], _: [bool; 1]) -> (FlexTensor, Option<[usize; 2]>) {
        let shape = weight.layout().shape();
        let [vocab, d_model] = [shape[0], shape[1]];
        let mut y = uninit(self.ids.len() * d_model);
        y.par_chunks_exact_mut(d_model.max(1))
            .with_min_len(ROWS)
            .zip(&self.ids)
            .for_each(|(y, &id)| copy_row(&weight, id as usize, y));
        let [batch, seq] = self.shape;
        (tensor(y, [batch, seq, d_model]), Some([vocab, d_model]))
    }

    fn backward(
        self,
        [vocab, d_model]: [usize; 2],
        grad: FlexTensor,
        sinks: &mut GradSinks<'_, 1>,
    ) {
        if !sinks.needs_grad(0) {
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
