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
use super::matrix::{Matrix, Threads, multiply, multiply_in};
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
    match head.apart {
        None => apply(CrossEntropy { targets, apart: [].into(), precision }, [hidden, weight]),
        Some(apart) => {
            let op = CrossEntropy { targets, apart: apart.ids, precision };
            apply(op, [hidden, weight, apart.rows.into_dispatch()])
        }
    }
}

/// Operands: `hidden: [rows, d_model]`, `weight: [vocab, d_model]` and, if there are three, the rows
/// `[apart, d_model]` that stand in place of the weight's.
#[derive(Debug)]
struct CrossEntropy {
    targets: Vec<u32>,
    /// Whose rows the third operand has.
    apart: Arc<[u32]>,
    /// Of products with the weight; rows apart are few, and multiplied in f32.
    precision: Precision,
}

impl<const N: usize> Fused<N> for CrossEntropy {
    /// The operands' gradients for an upstream gradient of one.
    type Saved = [Option<FlexTensor>; N];

    fn forward(
        &self,
        operands: [FlexTensor; N],
        needs_grad: [bool; N],
    ) -> (FlexTensor, Option<Self::Saved>) {
        let shapes = operands.each_ref().map(|x| x.layout().shape().clone());
        let (vocab, d_model) = (shapes[1][0], shapes[1][1]);
        let rows = self.targets.len();
        let blocks = (rows * vocab).div_ceil(LOGITS).max(1);
        let block = rows.div_ceil(blocks).max(1);

        let (hidden, weight) = (slice(&operands[0]), &operands[1]);
        let apart = operands.get(2).map_or(&[][..], slice);
        let own = self.apart.len();
        let mut losses = vec![0.0; rows];
        let mut logits = uninit(block.min(rows) * vocab);
        let mut own_logits = vec![0.0; block.min(rows) * own];
        let mut at = 0;
        let mut grads = operands.each_ref().map(|x| {
            at += 1;
            let elements = x.layout().num_elements();
            needs_grad[at - 1].then(|| match rows {
                0 => vec![0.0; elements],
                _ => uninit(elements),
            })
        });
        for first in (0..rows).step_by(block) {
            let count = block.min(rows - first);
            let targets = &self.targets[first..first + count];
            let hidden = Matrix::new(&hidden[first * d_model..], count, d_model);
            let apart = Matrix::new(apart, own, d_model);
            let logits = &mut logits[..count * vocab];
            let own_logits = &mut own_logits[..count * own];
            multiply_weight(self.precision, logits, vocab, false, hidden, weight, Side::Transposed);
            multiply(own_logits, false, hidden, apart.t(), 1.0, Threads::One);
            self.exchange(logits, own_logits, vocab, |logit, own| *logit = *own);
            logits
                .par_chunks_exact_mut(vocab)
                .zip(targets)
                .zip(&mut losses[first..first + count])
                .for_each(|((logits, &target), loss)| *loss = take_loss(logits, target as usize));
            // What a row that stands apart gets, the weight's row in that place does not.
            self.exchange(logits, own_logits, vocab, |logit, own| *own = std::mem::take(logit));
            let grad_logits = Matrix::new(logits, count, vocab);
            let grad_own = Matrix::new(own_logits, count, own);
            if let Some(grad) = &mut grads[0] {
                let grad = &mut grad[first * d_model..][..count * d_model];
                multiply_weight(
                    self.precision,
                    grad,
                    d_model,
                    false,
                    grad_logits,
                    weight,
                    Side::Plain,
                );
                if own > 0 {
                    multiply(grad, true, grad_own, apart, 1.0, Threads::One);
                }
            }
            if let Some(grad) = &mut grads[1] {
                multiply_in(self.precision, grad, d_model, first > 0, grad_logits.t(), hidden);
            }
            if let Some(grad) = grads.get_mut(2).and_then(Option::as_mut) {
                multiply(grad, first > 0, grad_own.t(), hidden, 1.0, Threads::One);
            }
        }
        let loss = losses.iter().map(|&loss| f64::from(loss)).sum::<f64>() as f32;
        let mut shapes = shapes.into_iter();
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

impl CrossEntropy {
    /// `exchange(logit, own)` for each row of logits and each row that stands apart.
    fn exchange(
        &self,
        logits: &mut [f32],
        own_logits: &mut [f32],
        vocab: usize,
        exchange: impl Fn(&mut f32, &mut f32),
    ) {
        let own = self.apart.len().max(1);
        for (logits, own) in logits.chunks_exact_mut(vocab).zip(own_logits.chunks_exact_mut(own)) {
            for (&id, own) in self.apart.iter().zip(own) {
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
