//! Cross entropy of an output head, from hidden states to the summed loss.
//!
//! The logits of a block of rows live only until their loss and gradients are taken. As the result
//! is a sum, its upstream gradient is one number, so the gradients are computed along with the loss
//! and merely scaled in the backward pass; recomputing the logits there would cost a third product
//! with the head. Source of that idea: Hsu et al. 2024, "Liger Kernel", arXiv 2410.10989.

use burn_flex::FlexTensor;
use rayon::prelude::*;

use crate::flex::{Fused, Sinks, slice, slice_mut, tensor, unfilled};
use crate::matrix::{Matrix, Threads, multiply};
use crate::simd::{exp, max, simd, sum};

/// Logits that a block of rows may take: 64 MiB. Every block adds to the whole gradient of the head,
/// so blocks are as large as memory allows.
const LOGITS: usize = 1 << 24;

/// Operands: `hidden: [rows, d_model]`, `weight: [vocab, d_model]`.
#[derive(Debug)]
pub(crate) struct CrossEntropy {
    pub(crate) targets: Vec<u32>,
}

impl Fused<2> for CrossEntropy {
    /// The operands' gradients for an upstream gradient of one.
    type Saved = [Option<FlexTensor>; 2];

    fn forward(
        &self,
        [hidden, weight]: [FlexTensor; 2],
        wanted: [bool; 2],
    ) -> (FlexTensor, Option<Self::Saved>) {
        let d_model = hidden.layout().shape()[1];
        let vocab = weight.layout().shape()[0];
        let rows = self.targets.len();
        let blocks = (rows * vocab).div_ceil(LOGITS).max(1);
        let block = rows.div_ceil(blocks).max(1);

        let (hidden_shape, weight_shape) = (hidden.layout().shape(), weight.layout().shape());
        let (hidden, weight) = (slice(&hidden), slice(&weight));
        let mut losses = vec![0.0; rows];
        let mut logits = unfilled(block.min(rows) * vocab);
        let [mut grad_hidden, mut grad_weight] = [(wanted[0], hidden), (wanted[1], weight)]
            .map(|(wanted, x)| wanted.then(|| unfilled(x.len())));
        if let Some(grad) = grad_weight.as_mut().filter(|_| rows == 0) {
            grad.fill(0.0);
        }
        for first in (0..rows).step_by(block) {
            let count = block.min(rows - first);
            let targets = &self.targets[first..first + count];
            let hidden = Matrix::new(&hidden[first * d_model..], count, d_model);
            let weight = Matrix::new(weight, vocab, d_model);
            let logits = &mut logits[..count * vocab];
            multiply(logits, false, hidden, weight.t(), 1.0, Threads::All);
            logits
                .par_chunks_exact_mut(vocab)
                .zip(targets)
                .zip(&mut losses[first..first + count])
                .for_each(|((logits, &target), loss)| *loss = take_loss(logits, target as usize));
            let grad_logits = Matrix::new(logits, count, vocab);
            if let Some(grad) = &mut grad_hidden {
                let grad = &mut grad[first * d_model..][..count * d_model];
                multiply(grad, false, grad_logits, weight, 1.0, Threads::All);
            }
            if let Some(grad) = &mut grad_weight {
                multiply(grad, first > 0, grad_logits.t(), hidden, 1.0, Threads::All);
            }
        }
        let loss = losses.iter().map(|&loss| f64::from(loss)).sum::<f64>() as f32;
        let grads = [
            grad_hidden.map(|grad| tensor(grad, hidden_shape.clone())),
            grad_weight.map(|grad| tensor(grad, weight_shape.clone())),
        ];
        (tensor(vec![loss], [1]), wanted.contains(&true).then_some(grads))
    }

    fn backward(self, saved: Self::Saved, grad: FlexTensor, sinks: &mut Sinks<'_, 2>) {
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
