//! The layers of a block. Field names are the checkpoint's keys.

use burn::{
    module::{Module, Param},
    tensor::{Distribution, Int, Tensor},
};
use coconut_kernels as kernels;

/// A table of vectors, `weight: [rows, d_model]`.
#[derive(Module, Debug)]
pub struct Embedding {
    /// `[rows, d_model]`.
    pub weight: Param<Tensor<2>>,
}

impl Embedding {
    /// `ids: [batch, seq]` → `[batch, seq, d_model]`.
    pub fn forward(&self, ids: Tensor<2, Int>) -> Tensor<3> {
        kernels::embedding(self.weight.val(), ids)
    }
}

/// An affine map, stored `[d_in, d_out]` as GPT-2's `Conv1D` is.
#[derive(Module, Debug)]
pub struct Conv1d {
    /// `[d_in, d_out]`.
    pub weight: Param<Tensor<2>>,
    /// `[d_out]`.
    pub bias: Param<Tensor<1>>,
}

impl Conv1d {
    /// `[batch, seq, d_in]` → `[batch, seq, d_out]`.
    pub fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        kernels::linear(x, self.weight.val(), Some(self.bias.val()))
    }
}

/// A linear map, stored `[d_out, d_in]` as `torch.nn.Linear` is.
#[derive(Module, Debug)]
pub struct Linear {
    /// `[d_out, d_in]`.
    pub weight: Param<Tensor<2>>,
    /// `[d_out]`.
    pub bias: Option<Param<Tensor<1>>>,
}

impl Linear {
    /// `[batch, seq, d_in]` → `[batch, seq, d_out]`.
    pub fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        side_by_side(x, [self])
    }
}

/// Up to three maps of one input, of which all or none have a bias; their results lie side by side:
/// `[batch, seq, d_in]` → `[batch, seq, Σ d_out]`.
pub fn side_by_side<const N: usize>(x: Tensor<3>, maps: [&Linear; N]) -> Tensor<3> {
    let weights = maps.map(|map| map.weight.val());
    let biases: Vec<_> = maps.iter().filter_map(|map| Some(map.bias.as_ref()?.val())).collect();
    kernels::projection(x, &weights, &biases)
}

/// Layer norm with its affine part.
#[derive(Module, Debug)]
pub struct LayerNorm {
    /// `[d_model]`.
    pub weight: Param<Tensor<1>>,
    /// `[d_model]`.
    pub bias: Param<Tensor<1>>,
}

impl LayerNorm {
    /// Shape kept.
    pub fn forward(&self, x: Tensor<3>, eps: f64) -> Tensor<3> {
        kernels::layer_norm(x, self.weight.val(), self.bias.val(), eps)
    }
}

/// RMS norm with its weight.
#[derive(Module, Debug)]
pub struct RmsNorm {
    /// `[width]`.
    pub weight: Param<Tensor<1>>,
}

impl RmsNorm {
    /// Shape kept.
    pub fn forward(&self, x: Tensor<3>, eps: f64) -> Tensor<3> {
        kernels::rms_norm(x, self.weight.val(), eps)
    }
}

/// Zeroes elements with probability `p` and scales the rest by `1 / (1 − p)`.
///
/// Active on tensors with autodiff, that is in training; the identity elsewhere. The device's
/// generator is seeded by the trainer before each step.
pub fn dropout<const D: usize>(x: Tensor<D>, p: f64) -> Tensor<D> {
    if p == 0.0 || !x.is_autodiff() {
        return x;
    }
    let keep = x.random_like(Distribution::Bernoulli(1.0 - p)).detach();
    x * keep / (1.0 - p)
}
