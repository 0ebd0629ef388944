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
pub struct HiddenStates(Vec<Tensor<3>>);

impl HiddenStates {
    /// After the last block and the final norm: `[batch, seq, d_model]`.
    pub fn last(&self) -> Tensor<3> {
        self.0[self.0.len() - 1].clone()
    }

    /// All of them, first to last.
    pub fn all(&self) -> &[Tensor<3>] {
        &self.0
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
        let Stack { wpe, h, ln_f, .. } = &self.transformer;
        let config = &self.config;
        let eps = config.layer_norm_epsilon;
        let mut x = dropout(embeddings + wpe.forward(position_ids), config.embd_pdrop);
        let mut states = vec![x.clone()];
        for (layer, block) in h.iter().enumerate() {
            x = block.forward(x, layer, &mut cache, visible, config);
            if layer + 1 < h.len() {
                states.push(x.clone());
            }
        }
        states.push(ln_f.forward(x, eps));
        (HiddenStates(states), cache)
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
    /// `x: [batch, new, d_model]`, shape kept.
    fn forward(
        &self,
        x: Tensor<3>,
        layer: usize,
        cache: &mut Cache,
        visible: &Visible,
        config: &ModelConfig,
    ) -> Tensor<3> {
        let (eps, heads): (f64, Heads) = (config.layer_norm_epsilon, config.heads());
        let attn_pdrop = if x.is_autodiff() { config.attn_pdrop } else { 0.0 };

        let qkv = self.attn.c_attn.forward(self.ln_1.forward(x.clone(), eps)); // [batch, new, 3·d_model]
        let mixed = kernels::attention(qkv.clone(), cache.layer(layer), heads, visible, attn_pdrop);
        cache.push(layer, qkv);
        let x = x + dropout(self.attn.c_proj.forward(mixed), config.resid_pdrop);

        let inner = kernels::gelu(self.mlp.c_fc.forward(self.ln_2.forward(x.clone(), eps)));
        x + dropout(self.mlp.c_proj.forward(inner), config.resid_pdrop)
    }
}
