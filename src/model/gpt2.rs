//! GPT-2 (Radford et al. 2019): learned positions, layer norms, GELU, biases everywhere. Field names
//! are the checkpoint's keys.

use burn::{module::Module, tensor::Tensor};

use super::{
    ModelConfig,
    context::BlockContext,
    init::Make,
    layers::{Conv1d, Embedding, LayerNorm, LinearMut, dropout},
    positions::Positions,
};

/// A GPT-2 without its head.
#[derive(Module, Debug)]
pub struct Gpt2 {
    /// The name is the checkpoint's prefix.
    pub transformer: Stack,
}

/// Embeddings, blocks and final norm.
#[derive(Module, Debug)]
pub struct Stack {
    /// The token embeddings, `[vocab, d_model]`.
    pub wte: Embedding,
    /// The position embeddings, `[n_positions, d_model]`.
    pub wpe: Embedding,
    /// The blocks.
    pub h: Vec<Block>,
    /// The final norm.
    pub ln_f: LayerNorm,
}

/// One block, norms before its two parts.
#[derive(Module, Debug)]
pub struct Block {
    /// The norm before attention.
    pub ln_1: LayerNorm,
    /// Attention, without its softmax.
    pub attn: Attention,
    /// The norm before the MLP.
    pub ln_2: LayerNorm,
    /// The MLP.
    pub mlp: Mlp,
}

/// Attention's two projections.
#[derive(Module, Debug)]
pub struct Attention {
    /// `d_model` → queries, keys and values side by side, `3 · d_model`.
    pub c_attn: Conv1d,
    /// Heads side by side → the residual stream, `d_model` both.
    pub c_proj: Conv1d,
}

/// A block's MLP.
#[derive(Module, Debug)]
pub struct Mlp {
    /// `d_model` → `d_ff`.
    pub c_fc: Conv1d,
    /// `d_ff` → `d_model`.
    pub c_proj: Conv1d,
}

impl Gpt2 {
    /// A model of `config`'s shape whose layers come from `make`.
    pub(super) fn new(config: &ModelConfig, make: &mut Make) -> Self {
        let (d, d_ff) = (config.d_model, config.d_ff);
        let wte = make.embedding("transformer.wte", config.vocab_size, d);
        let wpe = make.embedding("transformer.wpe", config.n_positions, d);
        let h = (0..config.n_layer).map(|layer| {
            let at = |part: &str| format!("transformer.h.{layer}.{part}");
            Block {
                ln_1: make.layer_norm(&at("ln_1"), d),
                attn: Attention {
                    c_attn: make.conv1d(&at("attn.c_attn"), d, 3 * d),
                    c_proj: make.conv1d(&at("attn.c_proj"), d, d),
                },
                ln_2: make.layer_norm(&at("ln_2"), d),
                mlp: Mlp {
                    c_fc: make.conv1d(&at("mlp.c_fc"), d, d_ff),
                    c_proj: make.conv1d(&at("mlp.c_proj"), d_ff, d),
                },
            }
        });
        let h = h.collect();
        let ln_f = make.layer_norm("transformer.ln_f", d);
        Self { transformer: Stack { wte, wpe, h, ln_f } }
    }

    /// The linear layers that can have adapters, by name.
    pub(super) fn linears(&mut self) -> Vec<(String, LinearMut<'_>)> {
        let blocks = self.transformer.h.iter_mut().enumerate();
        let linears = blocks.flat_map(|(layer, block)| {
            let Block { attn, mlp, .. } = block;
            [
                ("attn.c_attn", &mut attn.c_attn),
                ("attn.c_proj", &mut attn.c_proj),
                ("mlp.c_fc", &mut mlp.c_fc),
                ("mlp.c_proj", &mut mlp.c_proj),
            ]
            .map(|(part, linear)| {
                (format!("transformer.h.{layer}.{part}"), LinearMut::Conv1d(linear))
            })
        });
        linears.collect()
    }

    /// Token embeddings plus position embeddings: `[batch, new, d_model]`, shape kept.
    pub(super) fn embed_positions(
        &self,
        embeddings: Tensor<3>,
        positions: &Positions,
        config: &ModelConfig,
    ) -> Tensor<3> {
        let positions = self.transformer.wpe.forward(positions.ids.clone());
        dropout(embeddings + positions, config.dropout.embedding)
    }
}

impl Block {
    /// `x: [batch, new, d_model]` → the same, at the tokens that are read; and the new columns' queries, keys and values.
    pub(super) fn forward(&self, x: Tensor<3>, context: &BlockContext) -> (Tensor<3>, Tensor<3>) {
        let ModelConfig { norm_eps: eps, dropout: p, precision, activation, .. } = *context.config;

        let qkv = self.attn.c_attn.forward(self.ln_1.forward(x.clone(), eps), precision); // [batch, new, qkv]
        let ([x, attn_out], qkv) = context.attention(x, qkv);
        let x = x + dropout(self.attn.c_proj.forward(attn_out, precision), p.residual);

        let hidden = self.mlp.c_fc.forward(self.ln_2.forward(x.clone(), eps), precision); // [batch, new, d_ff]
        let hidden = activation.of(hidden);
        (x + dropout(self.mlp.c_proj.forward(hidden, precision), p.residual), qkv)
    }
}
