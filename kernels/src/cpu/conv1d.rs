//! A linear map with bias, its weight `[d_in, d_out]` as GPT-2's `Conv1D` has it; `linear.rs` has the other
//! orientation.

use burn::tensor::Tensor;
use burn_flex::FlexTensor;

use super::bridge::{Fused, GradSinks, apply, sizes, slice, tensor, uninit};
use super::deferred::Columns;
use super::matrix::{Dst, Matrix, fill_rows, sum_rows};
use super::weight::{Share, Side, multiply_weight, put_share};
use crate::{Deferred, Precision, Weight};

/// [`crate::conv1d`] on operands that were found fit.
pub(crate) fn conv1d(x: Tensor<3>, weight: Weight, bias: Option<Tensor<1>>) -> Tensor<3> {
    let op = Conv1d { precision: weight.precision, deferred: weight.deferred };
    let (x, weight) = (x.into_dispatch(), weight.values.into_dispatch());
    match bias {
        None => apply(op, [x, weight]),
        Some(bias) => apply(op, [x, weight, bias.into_dispatch()]),
    }
}

/// Operands: `x: [batch, seq, d_in]`, `weight: [d_in, d_out]` and, if there are three, `bias: [d_out]`.
#[derive(Debug)]
struct Conv1d {
    precision: Precision,
    deferred: Option<Deferred>,
}

impl<const N: usize> Fused<N> for Conv1d {
    /// The input `x` if the weight's gradient is needed, and the weight.
    type Saved = (Option<FlexTensor>, FlexTensor);

    fn forward(
        &self,
        operands: [FlexTensor; N],
        needs_grad: [bool; N],
    ) -> (FlexTensor, Option<<Self as Fused<N>>::Saved>) {
        let [x, weight] = [&operands[0], &operands[1]];
        let ([batch, seq, d_in], d_out) = (sizes(x), weight.layout().shape()[1]);
        let rows = batch * seq;
        let mut y = uninit(rows * d_out);
        let bias = operands.get(2);
        if let Some(bias) = bias {
            fill_rows(&mut y, slice(bias));
        }
        let x_rows = Matrix::new(slice(x), rows, d_in);
        let dst = Dst { slice: &mut y, stride: d_out, add: bias.is_some() };
        multiply_weight(self.precision, dst, x_rows, weight, Side::Plain);
        let saved = || (needs_grad[1].then(|| x.clone()), weight.clone());
        let saved = needs_grad.contains(&true).then(saved);
        (tensor(y, [batch, seq, d_out]), saved)
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
            let all = |tensor, width| Columns { tensor, stride: width, first: 0, width };
            let (lhs, rhs) = (all(x, d_in), all(grad.clone(), d_out));
            let share = Share { precision, rows, lhs, rhs };
            put_share(sinks, 1, share, self.deferred.as_ref());
        }
        if sinks.needs_grad(0) {
            let mut grad_x = uninit(rows * d_in);
            let dst = Dst::set(&mut grad_x, d_in);
            multiply_weight(precision, dst, grad_y, &weight, Side::Transposed);
            sinks.put(0, tensor(grad_x, [batch, seq, d_in]));
        }
    }

    fn accumulates(&self, operand: usize) -> bool {
        operand == 1
    }
}
