//! GPT-2's forward pass (Radford et al. 2019), over embeddings and a cache.

use burn::{
    module::Module,
    tensor::{Int, Tensor},
};
use coconut_kernels::{self as kernels, Heads, Visible};

use super::{
    Cache, ModelConfig,
    layers::{Block, Embedding, LayerNorm, dropout},
};

/// The model: blocks over a residual stream, and an output head.
#[derive(Module, Debug)]
pub struct Transformer {
    /// Embeddings, blocks and final norm; the name is the checkpoint's prefix.
    pub transformer: Stack,
    /// The output head if it is not the token embedding.
    pub lm_head: Option<Embedding>,
    /// The shape.
    #[module(skip)]
    pub config: ModelConfig,
}

/// Embeddings, blocks and final norm.
#[derive(Module, Debug)]
pub struct Stack {
    /// Token embeddings, `[vocab, d_model]`.
    pub wte: Embedding,
    /// Position embeddings, `[n_positions, d_model]`.
    pub wpe: Embedding,
    /// The blocks.
    pub h: Vec<Block>,
    /// The final norm.
    pub ln_f: LayerNorm,
}

/// The residual stream after each part of one pass: `L + 1` tensors `[batch, seq, d_model]`, as
/// Hugging Face's `hidden_states`: the embeddings with positions, then after each block, the last
/// one after the final norm.
#[derive(Clone, Debug)]
pub struct HiddenStates {
    states: Vec<Tensor<3>>,
    unnormed: Tensor<3>,
}

impl HiddenStates {
    /// After the last block, before the final norm: `[batch, seq, d_model]`.
    pub fn unnormed(&self) -> Tensor<3> {
        self.unnormed.clone()
    }

    /// After the last block and the final norm: `[batch, seq, d_model]`.
    pub fn last(&self) -> Tensor<3> {
        self.states[self.states.len() - 1].clone()
    }

    /// Drops all but the last.
    pub fn trim(&mut self) {
        self.states.drain(..self.states.len() - 1);
        self.unnormed = self.last();
    }

    /// The same with each state replaced.
    pub fn map(self, replace: impl Fn(Tensor<3>) -> Tensor<3>) -> Self {
        let states: Vec<_> = self.states.into_iter().map(&replace).collect();
        Self { states, unnormed: replace(self.unnormed) }
    }

    /// All of them, first to last; only the last if they were trimmed.
    pub fn all(&self) -> &[Tensor<3>] {
        &self.states
    }
}

impl Transformer {
    /// Input embeddings of tokens: `[batch, seq]` → `[batch, seq, d_model]`.
    pub fn embed(&self, ids: Tensor<2, Int>) -> Tensor<3> {
        self.transformer.wte.forward(ids)
    }

    /// One pass over new columns.
    ///
    /// * `embeddings: [batch, new, d_model]`: input embeddings without positions.
    /// * `position_ids: [batch, new]`, each below `n_positions`.
    /// * `cache`: earlier columns; the new ones are appended to it.
    /// * `visible`: which of all the columns, cached and new, hold tokens.
    ///
    /// Hidden states at columns that are not visible are finite and have no meaning.
    pub fn forward(
        &self,
        embeddings: Tensor<3>,
        position_ids: Tensor<2, Int>,
        mut cache: Cache,
        visible: &Visible,
    ) -> (HiddenStates, Cache) {
        let mut x = self.enter(embeddings, position_ids);
        let mut states = vec![x.clone()];
        for layer in 0..self.config.n_layer {
            let (y, packed) = self.block(layer, x, cache.layer(layer), visible);
            cache.push(layer, packed);
            x = y;
            if layer + 1 < self.config.n_layer {
                states.push(x.clone());
            }
        }
        states.push(self.finish(x.clone()));
        (HiddenStates { states, unnormed: x }, cache)
    }

    /// The residual stream before the first block: `[batch, new, d_model]`, shape kept.
    pub fn enter(&self, embeddings: Tensor<3>, position_ids: Tensor<2, Int>) -> Tensor<3> {
        let positions = self.transformer.wpe.forward(position_ids);
        dropout(embeddings + positions, self.config.embd_pdrop)
    }

    /// One block over new columns `x: [batch, new, d_model]`, given the packed rows of earlier ones
    /// at this layer: the residual stream after it, and the new columns' packed rows.
    pub fn block(
        &self,
        layer: usize,
        x: Tensor<3>,
        past: &[Tensor<3>],
        visible: &Visible,
    ) -> (Tensor<3>, Tensor<3>) {
        self.transformer.h[layer].forward(x, past, visible, &self.config)
    }

    /// The final norm: `[batch, new, d_model]`, shape kept.
    pub fn finish(&self, x: Tensor<3>) -> Tensor<3> {
        self.transformer.ln_f.forward(x, self.config.layer_norm_epsilon)
    }

    /// The output head's weight, `[vocab, d_model]`.
    pub fn head(&self) -> Tensor<2> {
        self.lm_head.as_ref().unwrap_or(&self.transformer.wte).weight.val()
    }

    /// `hidden: [rows, d_model]` → logits `[rows, vocab]`.
    pub fn logits(&self, hidden: Tensor<2>) -> Tensor<2> {
        hidden.matmul(self.head().transpose())
    }
}

impl Block {
    /// `x: [batch, new, d_model]`, shape kept; and the new columns' packed rows.
    fn forward(
        &self,
        x: Tensor<3>,
        past: &[Tensor<3>],
        visible: &Visible,
        config: &ModelConfig,
    ) -> (Tensor<3>, Tensor<3>) {
        let (eps, heads): (f64, Heads) = (config.layer_norm_epsilon, config.heads());
        let attn_pdrop = if x.is_autodiff() { config.attn_pdrop } else { 0.0 };

        let qkv = self.attn.c_attn.forward(self.ln_1.forward(x.clone(), eps)); // [batch, new, 3·d_model]
        let mixed = kernels::attention(qkv.clone(), past, heads, visible, attn_pdrop);
        let x = x + dropout(self.attn.c_proj.forward(mixed), config.resid_pdrop);

        let inner = kernels::gelu(self.mlp.c_fc.forward(self.ln_2.forward(x.clone(), eps)));
        (x + dropout(self.mlp.c_proj.forward(inner), config.resid_pdrop), qkv)
    }
}
