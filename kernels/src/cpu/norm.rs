//! Layer norm and RMS norm with their affine parts.
//!
//! Sources: Ba et al. 2016, arXiv 1607.06450; Zhang and Sennrich 2019, arXiv 1910.07467.

use burn::tensor::Tensor;
use burn_flex::FlexTensor;
use rayon::prelude::*;

use super::bridge::{Fused, GradSinks, apply, slice, slice_mut, tensor, uninit};
use super::matrix::{ROWS, add_up};
use super::simd::{LANES, fma, fold, simd, sum};

/// [`crate::layer_norm`] on operands that were found fit.
pub(crate) fn layer_norm(x: Tensor<3>, weight: Tensor<1>, bias: Tensor<1>, eps: f64) -> Tensor<3> {
    let operands = [x.into_dispatch(), weight.into_dispatch(), bias.into_dispatch()];
    apply(LayerNorm { eps: eps as f32 }, operands)
}

/// [`crate::rms_norm`] on operands that were found fit.
pub(crate) fn rms_norm(x: Tensor<3>, weight: Tensor<1>, eps: f64) -> Tensor<3> {
    apply(RmsNorm { eps: eps as f32 }, [x.into_dispatch(), weight.into_dispatch()])
}

/// Layer norm over the last dimension: operands `x`, `weight`, `bias`.
#[derive(Debug)]
struct LayerNorm {
    eps: f32,
}

impl Fused<3> for LayerNorm {
    type Saved = [FlexTensor; 2];

    fn forward(
        &self,
        [x, weight, bias]: [FlexTensor; 3],
        needs_grad: [bool; 3],
    ) -> (FlexTensor, Option<[FlexTensor; 2]>) {
        let (weight_values, bias) = (slice(&weight), slice(&bias));
        let y = each_row(&x, weight_values.len(), |x, y| {
            layer_norm_rows(x, weight_values, bias, self.eps, y);
        });
        (y, needs_grad.contains(&true).then_some([x, weight]))
    }

    fn backward(self, saved: [FlexTensor; 2], mut grad: FlexTensor, sinks: &mut GradSinks<'_, 3>) {
        let [x, weight] = saved.each_ref().map(slice);
        let width = weight.len();
        let mut sums = each_gradient(x, &mut grad, width, 2 * width, |x, grad, sums| {
            layer_norm_rows_backward(x, weight, self.eps, grad, sums);
        });
        let bias = sums.split_off(width);
        sinks.put(0, grad);
        sinks.put(1, tensor(sums, [width]));
        sinks.put(2, tensor(bias, [width]));
    }
}

/// RMS norm over the last dimension: operands `x`, `weight`.
#[derive(Debug)]
struct RmsNorm {
    eps: f32,
}

impl Fused<2> for RmsNorm {
    type Saved = [FlexTensor; 2];

    fn forward(
        &self,
        [x, weight]: [FlexTensor; 2],
        needs_grad: [bool; 2],
    ) -> (FlexTensor, Option<[FlexTensor; 2]>) {
        let weight_values = slice(&weight);
        let y =
            each_row(&x, weight_values.len(), |x, y| rms_norm_rows(x, weight_values, self.eps, y));
        (y, needs_grad.contains(&true).then_some([x, weight]))
    }

    fn backward(self, saved: [FlexTensor; 2], mut grad: FlexTensor, sinks: &mut GradSinks<'_, 2>) {
        let [x, weight] = saved.each_ref().map(slice);
        let width = weight.len();
        let sums = each_gradient(x, &mut grad, width, width, |x, grad, sums| {
            rms_norm_rows_backward(x, weight, self.eps, grad, sums);
        });
        sinks.put(0, grad);
        sinks.put(1, tensor(sums, [width]));
    }
}

/// A tensor of `x`'s shape, `norm` having written its rows, some at a time.
fn each_row(x: &FlexTensor, width: usize, norm: impl Fn(&[f32], &mut [f32]) + Sync) -> FlexTensor {
    let mut y = uninit(slice(x).len());
    y.par_chunks_mut(ROWS * width)
        .zip(slice(x).par_chunks(ROWS * width))
        .for_each(|(y, x)| norm(x, y));
    tensor(y, x.layout().shape().clone())
}

/// Has `backward` turn rows of `grad` into their gradient, some at a time, and adds up what it leaves in
/// its last argument, `len` zeros at first.
fn each_gradient(
    x: &[f32],
    grad: &mut FlexTensor,
    width: usize,
    len: usize,
    backward: impl Fn(&[f32], &mut [f32], &mut [f32]) + Sync,
) -> Vec<f32> {
    let sums = slice_mut(grad)
        .par_chunks_mut(ROWS * width)
        .zip(x.par_chunks(ROWS * width))
        .map(|(grad, x)| {
            let mut sums = vec![0.0; len];
            backward(x, grad, &mut sums);
            sums
        })
        .collect();
    add_up(sums, len)
}

/// Mean and reciprocal standard deviation of a row.
#[inline(always)]
fn moments(x: &[f32], eps: f32) -> (f32, f32) {
    let n = x.len() as f32;
    let mean = sum(x, |x| x) / n;
    let variance = sum(x, |x| (x - mean) * (x - mean)) / n;
    (mean, 1.0 / (variance + eps).sqrt())
}

/// Reciprocal root mean square of a row.
#[inline(always)]
fn inverse_rms(x: &[f32], eps: f32) -> f32 {
    1.0 / (sum(x, |x| x * x) / x.len() as f32 + eps).sqrt()
}

simd! {
    fn layer_norm_rows<FMA>(x: &[f32], weight: &[f32], bias: &[f32], eps: f32, y: &mut [f32]) {
        let width = weight.len();
        for (x, y) in x.chunks_exact(width).zip(y.chunks_exact_mut(width)) {
            let (mean, inverse) = moments(x, eps);
            for i in 0..width {
                y[i] = fma::<FMA>((x[i] - mean) * inverse, weight[i], bias[i]);
            }
        }
    }

    /// Turns the result's gradient into that of `x` and adds those of weight and bias to `sums`.
    fn layer_norm_rows_backward<FMA>(x: &[f32], weight: &[f32], eps: f32, grad: &mut [f32], sums: &mut [f32]) {
        let width = weight.len();
        let (weight_sums, bias_sums) = sums.split_at_mut(width);
        for (x, grad) in x.chunks_exact(width).zip(grad.chunks_exact_mut(width)) {
            let (mean, inverse) = moments(x, eps);
            // With n = (x − mean)/σ and g = grad · weight: dx = (g − mean(g) − n · mean(g·n)) / σ.
            let (mut sum_g, mut sum_gn) = ([0.0; LANES], [0.0; LANES]);
            let mut first = 0;
            while first < width {
                let count = LANES.min(width - first);
                let x = &x[first..first + count];
                let grad = &grad[first..first + count];
                let weight = &weight[first..first + count];
                let weight_sums = &mut weight_sums[first..first + count];
                let bias_sums = &mut bias_sums[first..first + count];
                for i in 0..count {
                    let n = (x[i] - mean) * inverse;
                    weight_sums[i] = fma::<FMA>(grad[i], n, weight_sums[i]);
                    bias_sums[i] += grad[i];
                    let g = grad[i] * weight[i];
                    sum_g[i] += g;
                    sum_gn[i] = fma::<FMA>(g, n, sum_gn[i]);
                }
                first += count;
            }
            let mean_g = fold(sum_g, |a, b| a + b) / width as f32;
            let mean_gn = fold(sum_gn, |a, b| a + b) / width as f32;
            for i in 0..width {
                let n = (x[i] - mean) * inverse;
                grad[i] = inverse * (fma::<FMA>(grad[i], weight[i], -mean_g) - n * mean_gn);
            }
        }
    }

    pub(crate) fn rms_norm_rows<FMA>(x: &[f32], weight: &[f32], eps: f32, y: &mut [f32]) {
        let width = weight.len();
        for (x, y) in x.chunks_exact(width).zip(y.chunks_exact_mut(width)) {
            let inverse = inverse_rms(x, eps);
            for i in 0..width {
                y[i] = x[i] * inverse * weight[i];
            }
        }
    }

    /// Turns the result's gradient into that of `x` and adds that of the weight to `sums`.
    pub(crate) fn rms_norm_rows_backward<FMA>(x: &[f32], weight: &[f32], eps: f32, grad: &mut [f32], sums: &mut [f32]) {
        let width = weight.len();
        for (x, grad) in x.chunks_exact(width).zip(grad.chunks_exact_mut(width)) {
            let inverse = inverse_rms(x, eps);
            // With n = x/rms and g = grad · weight: dx = (g − n · mean(g·n)) / rms.
            let mut sum_gn = [0.0; LANES];
            let mut first = 0;
            while first < width {
                let count = LANES.min(width - first);
                let x = &x[first..first + count];
                let grad = &grad[first..first + count];
                let weight = &weight[first..first + count];
                let sums = &mut sums[first..first + count];
                for i in 0..count {
                    let gn = grad[i] * x[i] * inverse;
                    sums[i] += gn;
                    sum_gn[i] = fma::<FMA>(gn, weight[i], sum_gn[i]);
                }
                first += count;
            }
            let mean_gn = fold(sum_gn, |a, b| a + b) / width as f32;
            for i in 0..width {
                grad[i] = inverse * fma::<FMA>(grad[i], weight[i], -x[i] * inverse * mean_gn);
            }
        }
    }
}
