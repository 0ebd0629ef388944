//! A linear map with bias, its weight `[d_in, d_out]`; `projection.rs` has the other orientation.

use burn::tensor::Tensor;
use burn_flex::FlexTensor;
use rayon::prelude::*;

use super::bridge::{Fused, GradSinks, apply, slice, tensor, uninit};
use super::matrix::{Matrix, add_up};
use super::simd::simd;
use super::weight::{Side, multiply_weight, put_product};
use crate::{Precision, Weight};

/// Rows that one task sums. The tasks' sums are added in order, so this must not depend on the
/// number of threads.
const ROWS: usize = 64;

/// [`crate::linear`] on operands that were found fit.
pub(crate) fn linear(x: Tensor<3>, weight: Weight, bias: Option<Tensor<1>>) -> Tensor<3> {
    let op = Linear { precision: weight.precision };
    let (x, weight) = (x.into_dispatch(), weight.values.into_dispatch());
    match bias {
        None => apply(op, [x, weight]),
        Some(bias) => apply(op, [x, weight, bias.into_dispatch()]),
    }
}

/// Operands: `x: [batch, seq, d_in]`, `weight: [d_in, d_out]` and, if there are three, `bias: [d_out]`.
#[derive(Debug)]
struct Linear {
    precision: Precision,
}

impl<const N: usize> Fused<N> for Linear {
    /// `x` if the weight's gradient is wanted, and the weight.
    type Saved = (Option<FlexTensor>, FlexTensor);

    fn forward(
        &self,
        operands: [FlexTensor; N],
        needs_grad: [bool; N],
    ) -> (FlexTensor, Option<<Self as Fused<N>>::Saved>) {
        let [x, weight] = [&operands[0], &operands[1]];
        let (shape, d_in, d_out) = shapes(x, weight);
        let rows = shape[0] * shape[1];
        let mut y = uninit(rows * d_out);
        let bias = operands.get(2);
        if let Some(bias) = bias {
            y.par_chunks_mut((ROWS * d_out).max(1)).for_each(|y| {
                y.chunks_exact_mut(d_out).for_each(|y| y.copy_from_slice(slice(bias)));
            });
        }
        let x_rows = Matrix::new(slice(x), rows, d_in);
        multiply_weight(self.precision, &mut y, d_out, bias.is_some(), x_rows, weight, Side::Plain);
        let saved = || (needs_grad[1].then(|| x.clone()), weight.clone());
        let saved = needs_grad.contains(&true).then(saved);
        (tensor(y, shape), saved)
    }

    fn backward(
        self,
        (x, weight): <Self as Fused<N>>::Saved,
        grad: FlexTensor,
        sinks: &mut GradSinks<'_, N>,
    ) {
        let precision = self.precision;
        let ([batch, seq, d_out], d_in) = (sizes(&grad), weight.layout().shape()[0]);
        let rows = batch * seq;
        let grad_y = Matrix::new(slice(&grad), rows, d_out);
        if N == 3 && sinks.needs_grad(2) {
            sinks.put(2, tensor(sum_rows(slice(&grad), d_out), [d_out]));
        }
        if let Some(x) = x {
            let x = Matrix::new(slice(&x), rows, d_in);
            put_product(sinks, 1, precision, x.t(), grad_y);
        }
        if sinks.needs_grad(0) {
            let mut grad_x = uninit(rows * d_in);
            multiply_weight(precision, &mut grad_x, d_in, false, grad_y, &weight, Side::Transposed);
            sinks.put(0, tensor(grad_x, [batch, seq, d_in]));
        }
    }

    fn accumulates(&self, operand: usize) -> bool {
        operand == 1
    }
}

/// The sum of rows of `width` elements.
pub(crate) fn sum_rows(rows: &[f32], width: usize) -> Vec<f32> {
    let parts = rows.par_chunks((ROWS * width).max(1)).map(|rows| {
        let mut sums = vec![0.0; width];
        add_rows(rows, &mut sums);
        sums
    });
    add_up(parts.collect(), width)
}

/// The three sizes of a tensor `[batch, seq, width]`.
pub(crate) fn sizes(x: &FlexTensor) -> [usize; 3] {
    let shape = x.layout().shape();
    [shape[0], shape[1], shape[2]]
}

/// Shape of the result, width of `x` and of the result.
fn shapes(x: &FlexTensor, weight: &FlexTensor) -> ([usize; 3], usize, usize) {
    let (x, weight) = (x.layout().shape(), weight.layout().shape());
    ([x[0], x[1], weight[1]], weight[0], weight[1])
}

simd! {
    fn add_rows<FMA>(rows: &[f32], sums: &mut [f32]) {
        for row in rows.chunks_exact(sums.len()) {
            for (sum, x) in sums.iter_mut().zip(row) {
                *sum += x;
            }
        }
    }
}
