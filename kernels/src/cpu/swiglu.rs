//! SwiGLU: `gate · σ(gate) · up`. Source: Shazeer 2020, arXiv 2002.05202.

use burn::tensor::Tensor;
use burn_flex::FlexTensor;
use rayon::prelude::*;

use super::bridge::{Fused, GradSinks, apply, slice, slice_mut, tensor, uninit};
use super::simd::{fma, sigmoid, simd};

/// Elements that one task takes.
const CHUNK: usize = 8192;

/// [`crate::swiglu`] on operands that were found fit.
pub(crate) fn swiglu<const D: usize>(gate: Tensor<D>, up: Tensor<D>) -> Tensor<D> {
    apply(SwiGlu, [gate.into_dispatch(), up.into_dispatch()])
}

/// Operands: `gate` and `up`, of one shape.
#[derive(Debug)]
struct SwiGlu;

impl Fused<2> for SwiGlu {
    type Saved = [FlexTensor; 2];

    fn forward(
        &self,
        [gate, up]: [FlexTensor; 2],
        needs_grad: [bool; 2],
    ) -> (FlexTensor, Option<[FlexTensor; 2]>) {
        let mut y = uninit(slice(&gate).len());
        y.par_chunks_mut(CHUNK)
            .zip(slice(&gate).par_chunks(CHUNK).zip(slice(&up).par_chunks(CHUNK)))
            .for_each(|(y, (gate, up))| forward(gate, up, y));
        let y = tensor(y, gate.layout().shape().clone());
        (y, needs_grad.contains(&true).then_some([gate, up]))
    }

    fn backward(
        self,
        [gate, up]: [FlexTensor; 2],
        mut grad: FlexTensor,
        sinks: &mut GradSinks<'_, 2>,
    ) {
        let mut grad_up = uninit(slice(&up).len());
        slice_mut(&mut grad)
            .par_chunks_mut(CHUNK)
            .zip(grad_up.par_chunks_mut(CHUNK))
            .zip(slice(&gate).par_chunks(CHUNK).zip(slice(&up).par_chunks(CHUNK)))
            .for_each(|((grad, grad_up), (gate, up))| backward(gate, up, grad, grad_up));
        sinks.put(1, tensor(grad_up, up.layout().shape().clone()));
        sinks.put(0, grad);
    }
}

simd! {
    fn forward<FMA>(gate: &[f32], up: &[f32], y: &mut [f32]) {
        for ((y, &gate), &up) in y.iter_mut().zip(gate).zip(up) {
            *y = gate * sigmoid::<FMA>(gate) * up;
        }
    }

    /// Turns the result's gradient into that of `gate`.
    fn backward<FMA>(gate: &[f32], up: &[f32], grad: &mut [f32], grad_up: &mut [f32]) {
        for (((grad, grad_up), &gate), &up) in grad.iter_mut().zip(grad_up).zip(gate).zip(up) {
            let s = sigmoid::<FMA>(gate);
            *grad_up = *grad * gate * s;
            *grad *= up * s * fma::<FMA>(gate, 1.0 - s, 1.0);
        }
    }
}
