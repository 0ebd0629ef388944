//! Rotary positions and per-head norms, on rows of queries, keys and values.
//!
//! Sources: Su et al. 2021, arXiv 2104.09864, with the halves of a head paired as Hugging Face's
//! checkpoints have them; for the norms, Henry et al. 2020, arXiv 2010.04245, with RMS norm.

use burn::tensor::Tensor;
use burn_flex::FlexTensor;
use rayon::prelude::*;

use super::bridge::{
    Fused, GradSinks, apply, contiguous, slice, slice_mut, tensor, uninit, untracked,
};
use super::matrix::{ROWS, add_up};
use super::norm::{rms_norm_rows, rms_norm_rows_backward};
use super::simd::{fma, simd};
use crate::Heads;

/// [`crate::rotary`] on operands that were found fit.
pub(crate) fn rotary(qkv: Tensor<3>, cos: Tensor<3>, sin: Tensor<3>, heads: Heads) -> Tensor<3> {
    let [cos, sin] = [cos, sin].map(|x| contiguous(untracked(x.into_dispatch())));
    apply(Rotary { cos, sin, heads }, [qkv.into_dispatch()])
}

/// [`crate::head_norm`] on operands that were found fit.
pub(crate) fn head_norm(
    qkv: Tensor<3>,
    query: Tensor<1>,
    key: Tensor<1>,
    heads: Heads,
    eps: f64,
) -> Tensor<3> {
    let operands = [qkv.into_dispatch(), query.into_dispatch(), key.into_dispatch()];
    apply(HeadNorm { heads, eps: eps as f32 }, operands)
}

/// Operand: rows of queries, keys and values. The angles' cosines and sines, `[batch, seq, dim / 2]`, are constants.
#[derive(Debug)]
struct Rotary {
    cos: FlexTensor,
    sin: FlexTensor,
    heads: Heads,
}

impl Rotary {
    /// Rotates in place, by the angles times `sign`; copies first what others hold.
    fn turn(&self, rows: &mut FlexTensor, sign: f32) {
        let (width, half) = (self.heads.qkv_width(), self.heads.dim / 2);
        let turned = (self.heads.query + self.heads.key_value) * self.heads.dim;
        slice_mut(rows)
            .par_chunks_mut((ROWS * width).max(1))
            .zip(slice(&self.cos).par_chunks((ROWS * half).max(1)))
            .zip(slice(&self.sin).par_chunks((ROWS * half).max(1)))
            .for_each(|((rows, cos), sin)| {
                for ((row, cos), sin) in rows
                    .chunks_exact_mut(width)
                    .zip(cos.chunks_exact(half))
                    .zip(sin.chunks_exact(half))
                {
                    rotate(&mut row[..turned], cos, sin, sign);
                }
            });
    }
}

impl Fused<1> for Rotary {
    type Saved = ();

    fn forward(&self, [mut x]: [FlexTensor; 1], _: [bool; 1]) -> (FlexTensor, Option<()>) {
        self.turn(&mut x, 1.0);
        (x, Some(()))
    }

    fn backward(self, (): (), mut grad: FlexTensor, sinks: &mut GradSinks<'_, 1>) {
        self.turn(&mut grad, -1.0); // a rotation's transpose
        sinks.put(0, grad);
    }
}

/// RMS norm of each query head and each key head. Operands: rows of queries, keys and values, and the weights
/// of queries and of keys, `[dim]` each.
#[derive(Debug)]
struct HeadNorm {
    heads: Heads,
    eps: f32,
}

impl Fused<3> for HeadNorm {
    type Saved = [FlexTensor; 3];

    fn forward(
        &self,
        [x, query, key]: [FlexTensor; 3],
        needs_grad: [bool; 3],
    ) -> (FlexTensor, Option<[FlexTensor; 3]>) {
        let (width, q, k) = self.widths();
        let mut y = uninit(slice(&x).len());
        y.par_chunks_mut(ROWS * width).zip(slice(&x).par_chunks(ROWS * width)).for_each(
            |(y, x)| {
                for (y, x) in y.chunks_exact_mut(width).zip(x.chunks_exact(width)) {
                    rms_norm_rows(&x[..q], slice(&query), self.eps, &mut y[..q]);
                    rms_norm_rows(&x[q..k], slice(&key), self.eps, &mut y[q..k]);
                    y[k..].copy_from_slice(&x[k..]);
                }
            },
        );
        let y = tensor(y, x.layout().shape().clone());
        (y, needs_grad.contains(&true).then_some([x, query, key]))
    }

    fn backward(
        self,
        [x, query, key]: [FlexTensor; 3],
        mut grad: FlexTensor,
        sinks: &mut GradSinks<'_, 3>,
    ) {
        let dim = self.heads.dim;
        let (width, q, k) = self.widths();
        let sums = slice_mut(&mut grad)
            .par_chunks_mut(ROWS * width)
            .zip(slice(&x).par_chunks(ROWS * width))
            .map(|(grad, x)| {
                let mut sums = vec![0.0; 2 * dim];
                let (of_query, of_key) = sums.split_at_mut(dim);
                for (grad, x) in grad.chunks_exact_mut(width).zip(x.chunks_exact(width)) {
                    let (grad_q, grad_k) = grad[..k].split_at_mut(q);
                    rms_norm_rows_backward(&x[..q], slice(&query), self.eps, grad_q, of_query);
                    rms_norm_rows_backward(&x[q..k], slice(&key), self.eps, grad_k, of_key);
                }
                sums
            })
            .collect();
        let mut of_query = add_up(sums, 2 * dim);
        let of_key = of_query.split_off(dim);
        sinks.put(0, grad);
        sinks.put(1, tensor(of_query, [dim]));
        sinks.put(2, tensor(of_key, [dim]));
    }
}

impl HeadNorm {
    /// Width of a row, and where its queries and its keys end.
    fn widths(&self) -> (usize, usize, usize) {
        let Heads { query, key_value, dim } = self.heads;
        (self.heads.qkv_width(), query * dim, (query + key_value) * dim)
    }
}

simd! {
    /// Turns each head of `row` by one position's angles times `sign`.
    fn rotate<FMA>(row: &mut [f32], cos: &[f32], sin: &[f32], sign: f32) {
        let half = cos.len();
        for head in row.chunks_exact_mut(2 * half) {
            let (first, second) = head.split_at_mut(half);
            for i in 0..half {
                let (a, b, sin) = (first[i], second[i], sign * sin[i]);
                first[i] = fma::<FMA>(a, cos[i], -b * sin);
                second[i] = fma::<FMA>(b, cos[i], a * sin);
            }
        }
    }
}
