//! What a block needs beside the residual stream, and the attention that every family's blocks share.

use burn::tensor::Tensor;
use coconut_kernels::{self as kernels, TokenMask};

use super::{LastReads, ModelConfig, SharedPrefix, positions::Rotation};

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
    /// What all rows begin with, if it is held once.
    pub shared: Option<&'a SharedPrefix>,
}

impl BlockContext<'_> {
    /// The residual stream `x: [batch, new, d_model]` and what attention makes of the new columns' queries, keys and
    /// values, `[batch, new, q · dim]`, both at the tokens that are read; and these as the cache keeps them.
    pub(super) fn attention(&self, x: Tensor<3>, qkv: Tensor<3>) -> ([Tensor<3>; 2], Tensor<3>) {
        let Self { config, past, attention_mask, reads, shared, .. } = self;
        let p = if x.is_autodiff() { config.dropout.attention } else { 0.0 };
        let qkv = match shared {
            Some(shared) => shared.spread(qkv),
            None => qkv,
        };
        let attn_out = kernels::attention(qkv.clone(), past, config.heads, attention_mask, p);
        let attn_out = match shared {
            Some(shared) => shared.gather(attn_out),
            None => attn_out,
        };
        let read = match reads {
            Some(reads) => [x, attn_out].map(|x| reads.pick(x)),
            None => [x, attn_out],
        };
        (read, qkv)
    }
}
