//! Cross entropy of an output head, from hidden states to the summed loss.
//!
//! The logits of a block of rows live only until their loss and gradients are taken. As the result
//! is a sum, its upstream gradient is one number, so the gradients are computed along with the loss
//! and merely scaled in the backward pass; recomputing the logits there would cost a third product
//! with the head. Source of that idea: Hsu et al. 2024, "Liger Kernel", arXiv 2410.10989.

use std::sync::Arc;

use burn::tensor::{Int, Tensor};
use burn_flex::FlexTensor;
use rayon::prelude::*;

use super::bridge::{Fused, GradSinks, apply, indices, slice, slice_mut, tensor, uninit};
use super::matrix::{Dst, Matrix, Threads, multiply, multiply_in};
use super::simd::{exp, max, simd, sum};
use super::weight::{Side, multiply_weight};
use crate::{Precision, Table};

/// Logits that a block of rows may take: 64 MiB. Every block adds to the whole gradient of the head,
/// so blocks are as large as memory allows.
const LOGITS: usize = 1 << 24;

/// [`crate::cross_entropy`] on operands that were found fit.
pub(crate) fn cross_entropy(hidden: Tensor<2>, head: Table, targets: Tensor<1, Int>) -> Tensor<1> {
    let targets = indices(targets, head.dims()[0]);
    let precision = head.weight.precision;
    let [hidden, weight] = [hidden, head.weight.values].map(Tensor::into_dispatch);
    match head.overrides {
        None => apply(CrossEntropy { targets, overridden: [].into(), precision }, [hidden, weight]),
        Some(overrides) => {
            let op = CrossEntropy { targets, overridden: overrides.ids, precision };
            apply(op, [hidden, weight, overrides.rows.into_dispatch()])
        }
    }
}

/// Operands: `hidden: [rows, d_model]`, `weight: [vocab, d_model]` and, if there are three, the rows
/// `[overridden, d_model]` that take the place of some of the weight's.
#[derive(Debug)]
struct CrossEntropy {
    targets: Vec<u32>,
    /// Ids whose rows the third operand has.
    overridden: Arc<[u32]>,
    /// Precision of products with the weight; overriding rows are few, and multiplied in f32.
    precision: Precision,
}

/// The output head of one forward pass.
struct Head<'a> {
    op: &'a CrossEntropy,
    /// `[vocab, d_model]`.
    weight: &'a FlexTensor,
    /// `[overridden, d_model]`.
    rows: Matrix<'a>,
}

/// Logits of a block of rows, later their gradients.
struct Logits<'a> {
    vocab: usize,
    /// `[rows, vocab]`.
    all: &'a mut [f32],
    /// `[rows, overridden]`: those of the rows that override.
    own: &'a mut [f32],
}

impl<const N: usize> Fused<N> for CrossEntropy {
    /// The operands' gradients for an upstream gradient of one.
    type Saved = [Option<FlexTensor>; N];

    fn forward(
        &self,
        operands: [FlexTensor; N],
        needs_grad: [bool; N],
    ) -> (FlexTensor, Option<Self::Saved>) {
        let weight = &operands[1];
        let (vocab, d_model) = (weight.layout().shape()[0], weight.layout().shape()[1]);
        let (rows, own) = (self.targets.len(), self.overridden.len());
        let blocks = (rows * vocab).div_ceil(LOGITS).max(1);
        let block = rows.div_ceil(blocks).max(1);

        let overriding = operands.get(2).map_or(&[][..], slice);
        let head = Head { op: self, weight, rows: Matrix::new(overriding, own, d_model) };
        let mut losses = vec![0.0; rows];
        let mut logits = uninit(block.min(rows) * vocab);
        let mut own_logits = vec![0.0; block.min(rows) * own];
        let mut grads: [Option<Vec<f32>>; N] = std::array::from_fn(|operand| {
            let len = operands[operand].layout().num_elements();
            let grad = || if rows == 0 { vec![0.0; len] } else { uninit(len) };
            needs_grad[operand].then(grad)
        });
        for first in (0..rows).step_by(block) {
            let count = block.min(rows - first);
            let hidden = Matrix::new(&slice(&operands[0])[first * d_model..], count, d_model);
            let mut logits = Logits {
                vocab,
                all: &mut logits[..count * vocab],
                own: &mut own_logits[..count * own],
            };
            head.logits(hidden, &mut logits);
            let (targets, losses) = (&self.targets[first..], &mut losses[first..]);
            let rows = logits.all.par_chunks_exact_mut(vocab).zip(&targets[..count]);
            rows.zip(&mut losses[..count])
                .for_each(|((logits, &target), loss)| *loss = take_loss(logits, target as usize));
            // What an overriding row gets, the weight's row in that place does not.
            logits.exchange(&self.overridden, |logit, own| *own = std::mem::take(logit));
            head.gradients(first, hidden, &logits, &mut grads);
        }
        let loss = losses.iter().map(|&loss| f64::from(loss)).sum::<f64>() as f32;
        let mut shapes = operands.iter().map(|x| x.layout().shape().clone());
        let grads = grads.map(|grad| shapes.next().zip(grad).map(|(shape, x)| tensor(x, shape)));
        (tensor(vec![loss], [1]), needs_grad.contains(&true).then_some(grads))
    }

    fn backward(self, saved: Self::Saved, grad: FlexTensor, sinks: &mut GradSinks<'_, N>) {
        let upstream = slice(&grad)[0];
        for (operand, grad) in saved.into_iter().enumerate() {
            let Some(mut grad) = grad else { continue };
            if upstream != 1.0 {
                slice_mut(&mut grad)
                    .par_iter_mut()
                    .with_min_len(1 << 14)
                    .for_each(|x| *x *= upstream);
            }
            sinks.put(operand, grad);
        }
    }
}

impl Head<'_> {
    /// `hidden · headᵀ`.
    fn logits(&self, hidden: Matrix, logits: &mut Logits) {
        let (vocab, own) = (logits.vocab, self.rows.rows());
        let dst = Dst::set(logits.all, vocab);
        multiply_weight(self.op.precision, dst, hidden, self.weight, Side::Transposed);
        multiply(Dst::set(logits.own, own), hidden, self.rows.t(), 1.0, Threads::One);
        logits.exchange(&self.op.overridden, |logit, own| *logit = *own);
    }

    /// The operands' gradients, given those of the logits of rows `first..`: the rows' own part of the hidden
    /// states', and what the rows add to the others.
    fn gradients(
        &self,
        first: usize,
        hidden: Matrix,
        logits: &Logits,
        grads: &mut [Option<Vec<f32>>],
    ) {
        let (precision, d_model) = (self.op.precision, hidden.cols());
        let own = self.rows.rows();
        let grad_logits = Matrix::new(logits.all, hidden.rows(), logits.vocab);
        let grad_own = Matrix::new(logits.own, hidden.rows(), own);
        let [of_hidden, rest @ ..] = grads else { return };
        if let Some(grad) = of_hidden {
            let grad = &mut grad[first * d_model..][..hidden.rows() * d_model];
            let dst = Dst::set(grad, d_model);
            multiply_weight(precision, dst, grad_logits, self.weight, Side::Plain);
            if own > 0 {
                multiply(Dst::add(grad, d_model), grad_own, self.rows, 1.0, Threads::One);
            }
        }
        let add = first > 0;
        if let Some(Some(grad)) = rest.get_mut(0) {
            let dst = Dst { slice: grad, stride: d_model, add };
            multiply_in(precision, dst, grad_logits.t(), hidden);
        }
        if let Some(Some(grad)) = rest.get_mut(1) {
            let dst = Dst { slice: grad, stride: d_model, add };
            multiply(dst, grad_own.t(), hidden, 1.0, Threads::One);
        }
    }
}

impl Logits<'_> {
    /// `exchange(logit, own)` for each row of logits and each overridden id.
    fn exchange(&mut self, overridden: &[u32], exchange: impl Fn(&mut f32, &mut f32)) {
        let own = self.own.chunks_exact_mut(overridden.len().max(1));
        for (logits, own) in self.all.chunks_exact_mut(self.vocab).zip(own) {
            for (&id, own) in overridden.iter().zip(own) {
                exchange(&mut logits[id as usize], own);
            }
        }
    }
}

simd! {
    /// The loss of one row, whose logits become their gradient.
    fn take_loss<FMA>(logits: &mut [f32], target: usize) -> f32 {
        let highest = max(logits);
        let right = logits[target] - highest;
        for x in logits.iter_mut() {
            *x = exp::<FMA>(*x - highest);
        }
        let total = sum(logits, |x| x);
        let inverse = 1.0 / total;
        for x in logits.iter_mut() {
            *x *= inverse;
        }
        logits[target] -= 1.0;
        total.ln() - right
    }
}
