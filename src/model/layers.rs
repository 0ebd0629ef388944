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
pub struct Linear {
    /// `[d_in, d_out]`.
    pub weight: Param<Tensor<2>>,
    /// `[d_out]`.
    pub bias: Param<Tensor<1>>,
}

impl Linear {
    /// `[batch, seq, d_in]` → `[batch, seq, d_out]`.
    pub fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        kernels::linear(x, self.weight.val(), Some(self.bias.val()))
    }
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

/// Attention's two projections.
#[derive(Module, Debug)]
pub struct Attention {
    /// Queries, keys and values, packed along the output.
    pub c_attn: Linear,
    /// Back to the residual stream.
    pub c_proj: Linear,
}

/// A block's MLP.
#[derive(Module, Debug)]
pub struct Mlp {
    /// `d_model` → `inner`.
    pub c_fc: Linear,
    /// `inner` → `d_model`.
    pub c_proj: Linear,
}

/// One transformer block, norms before its two parts.
#[derive(Module, Debug)]
pub struct Block {
    /// Before attention.
    pub ln_1: LayerNorm,
    /// Attention.
    pub attn: Attention,
    /// Before the MLP.
    pub ln_2: LayerNorm,
    /// The MLP.
    pub mlp: Mlp,
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
