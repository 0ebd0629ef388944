//! GELU in its tanh form.
//!
//! `½x(1 + tanh u)` is `x · σ(2u)`, which needs one exponential and one division, and does not
//! cancel for negative `x`. Source: Hendrycks and Gimpel 2016, arXiv 1606.08415.

use burn::tensor::Tensor;
use burn_flex::FlexTensor;
use rayon::prelude::*;

use super::bridge::{Fused, GradSinks, apply, slice, slice_mut, tensor, uninit};
use super::simd::{fma, sigmoid, simd};

/// Elements that one task takes: enough to hide what it costs to start it, few enough to stay in
/// the first-level cache.
const CHUNK: usize = 8192;

/// `2·√(2/π)`.
const SCALE: f32 = 1.595_769;
const CUBIC: f32 = 0.044_715;

/// [`crate::gelu`] on an operand that was found fit.
pub(crate) fn gelu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    apply(Gelu, [x.into_dispatch()])
}

#[derive(Debug)]
struct Gelu;

impl Fused<1> for Gelu {
    type Saved = FlexTensor;

    fn forward(
        &self,
        [mut x]: [FlexTensor; 1],
        [needs_grad]: [bool; 1],
    ) -> (FlexTensor, Option<FlexTensor>) {
        if !needs_grad && x.is_unique() {
            slice_mut(&mut x).par_chunks_mut(CHUNK).for_each(in_place);
            return (x, None);
        }
        let mut y = uninit(slice(&x).len());
        y.par_chunks_mut(CHUNK).zip(slice(&x).par_chunks(CHUNK)).for_each(|(y, x)| forward(x, y));
        (tensor(y, x.layout().shape().clone()), needs_grad.then_some(x))
    }

    fn backward(self, x: FlexTensor, mut grad: FlexTensor, sinks: &mut GradSinks<'_, 1>) {
        slice_mut(&mut grad)
            .par_chunks_mut(CHUNK)
            .zip(slice(&x).par_chunks(CHUNK))
            .for_each(|(grad, x)| backward(x, grad));
        sinks.put(0, grad);
    }
}

simd! {
    fn forward<FMA>(x: &[f32], y: &mut [f32]) {
        for (y, &x) in y.iter_mut().zip(x) {
            *y = x * gate::<FMA>(x);
        }
    }

    fn in_place<FMA>(x: &mut [f32]) {
        for x in x {
            *x *= gate::<FMA>(*x);
        }
    }

    /// Turns the result's gradient into that of `x`.
    fn backward<FMA>(x: &[f32], grad: &mut [f32]) {
        for (grad, &x) in grad.iter_mut().zip(x) {
            let s = gate::<FMA>(x);
            let slope = fma::<FMA>(3.0 * CUBIC * SCALE * x, x, SCALE); // of 2u
            *grad *= fma::<FMA>(x * slope, s * (1.0 - s), s);
        }
    }
}

/// `σ(2u)` with `u = √(2/π)·(x + 0.044715·x³)`.
#[inline(always)]
fn gate<const FMA: bool>(x: f32) -> f32 {
    sigmoid::<FMA>(x * fma::<FMA>(CUBIC * SCALE * x, x, SCALE))
}
