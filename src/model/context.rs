//! What a block needs beside the residual stream, and the attention that every family's blocks share.

use burn::tensor::Tensor;
use coconut_kernels::{self as kernels, TokenMask};

use super::{LastReads, ModelConfig, positions::Rotation};

/// What one block needs beside the residual stream that enters it.
pub(super) struct BlockContext<'a> {
    /// The model's shape.
    pub config: &'a ModelConfig,
    /// The queries, keys and values of earlier columns at this layer, oldest first, each `[batch, columns, qkv]`.
    pub past: &'a [Tensor<3>],
    /// What the new columns' queries and keys are turned by at this layer, if they are.
    pub rotation: Option<&'a Rotation>,
    /// Which of all the columns, earlier and new, hold tokens.
    pub attention_mask: &'a TokenMask,
    /// The tokens whose result is read, in the last block if they are few.
    pub reads: Option<&'a LastReads>,
}

impl BlockContext<'_> {
    /// The residual stream `x: [batch, new, d_model]` and what attention makes of the new columns' queries, keys and
    /// values, `[batch, new, q · dim]`, both at the tokens that are read.
    pub(super) fn attention(&self, x: Tensor<3>, qkv: Tensor<3>) -> [Tensor<3>; 2] {
        let Self { config, past, attention_mask, reads, .. } = self;
        let p = if x.is_autodiff() { config.dropout.attention } else { 0.0 };
        let attn_out = kernels::attention(qkv, past, config.heads, attention_mask, p);
        match reads {
            Some(reads) => [x, attn_out].map(|x| reads.pick(x)),
            None => [x, attn_out],
        }
    }
}
