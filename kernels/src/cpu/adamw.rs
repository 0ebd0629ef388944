//! AdamW, and the norm that clips its gradients. The order of operations is PyTorch's.

use burn::backend::{BackendTensor, DispatchAutodiffContext, DispatchTensor, DispatchTensorKind};
use burn::tensor::{DType, Tensor, TensorData};
use burn_flex::FlexTensor;
use rayon::prelude::*;

use super::bridge::{contiguous, slice, slice_mut, untracked};
use super::simd::{fma, simd};
use crate::AdamW;

/// Elements that one task takes.
const CHUNK: usize = 1 << 14;

/// The factors of one step as the kernel takes them.
#[derive(Clone, Copy)]
struct Factors {
    keep: f32,
    grad_scale: f32,
    /// A mean's decay, and its complement: rounded on its own, not taken from the rounded decay.
    mean: [f32; 2],
    square: [f32; 2],
    rate: f32,
    inverse_root: f32,
    eps: f32,
}

/// [`crate::adamw`] on operands that were found fit.
pub(crate) fn adamw<const D: usize>(
    param: Tensor<D>,
    grad: Tensor<D>,
    moments: [Tensor<D>; 2],
    settings: &AdamW,
) -> (Tensor<D>, [Tensor<D>; 2]) {
    let (rate, root) = settings.corrections();
    let factors = Factors {
        keep: (1.0 - settings.learning_rate * settings.weight_decay) as f32,
        grad_scale: settings.grad_scale as f32,
        mean: [settings.betas.0, 1.0 - settings.betas.0].map(|x| x as f32),
        square: [settings.betas.1, 1.0 - settings.betas.1].map(|x| x as f32),
        rate: rate as f32,
        inverse_root: (1.0 / root) as f32,
        eps: settings.eps as f32,
    };
    let into = |x: Tensor<D>| contiguous(untracked(x.into_dispatch()));
    let (mut param, grad, [mut mean, mut square]) = (into(param), into(grad), moments.map(into));
    slice_mut(&mut param)
        .par_chunks_mut(CHUNK)
        .zip(slice(&grad).par_chunks(CHUNK))
        .zip(slice_mut(&mut mean).par_chunks_mut(CHUNK))
        .zip(slice_mut(&mut square).par_chunks_mut(CHUNK))
        .for_each(|(((param, grad), mean), square)| update(param, grad, mean, square, factors));
    let back = |x: FlexTensor| {
        let kind = DispatchTensorKind::Flex(BackendTensor::Float(x));
        Tensor::from_dispatch(DispatchTensor { kind, autodiff: DispatchAutodiffContext::Disabled })
    };
    (back(param), [mean, square].map(back))
}

/// [`crate::squared_norm`]: each chunk in double precision, the chunks in order.
pub(crate) fn squared_norm(tensors: &[Tensor<1>]) -> Tensor<1> {
    let of_one = |x: &Tensor<1>| -> f64 {
        let x = contiguous(untracked(x.clone().into_dispatch()));
        let parts: Vec<f64> = slice(&x).par_chunks(CHUNK).map(squares).collect();
        parts.iter().sum()
    };
    let sum: f64 = tensors.iter().map(of_one).sum();
    Tensor::from_data(TensorData::new(vec![sum], [1]), (&tensors[0].device(), DType::F64))
}

simd! {
    fn update<FMA>(param: &mut [f32], grad: &[f32], mean: &mut [f32], square: &mut [f32], f: Factors) {
        for (((param, grad), mean), square) in param.iter_mut().zip(grad).zip(mean).zip(square) {
            let grad = grad * f.grad_scale;
            *mean = fma::<FMA>(f.mean[0], *mean, f.mean[1] * grad);
            *square = fma::<FMA>(f.square[0], *square, f.square[1] * grad * grad);
            let denominator = fma::<FMA>(square.sqrt(), f.inverse_root, f.eps);
            *param = fma::<FMA>(*param, f.keep, -f.rate * *mean / denominator);
        }
    }

    fn squares<FMA>(x: &[f32]) -> f64 {
        let mut lanes = [0.0f64; 16];
        let (blocks, rest) = x.as_chunks::<16>();
        for block in blocks {
            for i in 0..16 {
                lanes[i] += f64::from(block[i]) * f64::from(block[i]);
            }
        }
        for (lane, &x) in lanes.iter_mut().zip(rest) {
            *lane += f64::from(x) * f64::from(x);
        }
        lanes.iter().sum()
    }
}
