//! Llama-style families: rotary positions, RMS norms, SwiGLU, grouped heads (Touvron et al. 2023, arXiv
//! 2302.13971; Ainslie et al. 2023, arXiv 2305.13245). Qwen2 adds biases to queries, keys and values,
//! Qwen3 a norm to each query and key head. Field names are the checkpoint's keys.

use burn::{module::Module, tensor::Tensor};
use coconut_kernels as kernels;

use super::{
    ModelConfig,
    context::BlockContext,
    init::Make,
    layers::{Embedding, Linear, LinearMut, RmsNorm, fused_linears},
};

/// A Llama without its head.
#[derive(Module, Debug)]
pub struct Llama {
    /// The name is the checkpoint's prefix.
    pub model: Stack,
}

/// Embeddings, blocks and final norm.
#[derive(Module, Debug)]
pub struct Stack {
    /// The token embeddings, `[vocab, d_model]`.
    pub embed_tokens: Embedding,
    /// The blocks.
    pub layers: Vec<Block>,
    /// The final norm.
    pub norm: RmsNorm,
}

/// One block, norms before its two parts.
#[derive(Module, Debug)]
pub struct Block {
    /// The norm before attention.
    pub input_layernorm: RmsNorm,
    /// Attention, without its softmax.
    pub self_attn: Attention,
    /// The norm before the MLP.
    pub post_attention_layernorm: RmsNorm,
    /// The MLP.
    pub mlp: Mlp,
}

/// Attention's projections, and Qwen3's norms of heads.
#[derive(Module, Debug)]
pub struct Attention {
    /// `d_model` → query heads, `q · dim`.
    pub q_proj: Linear,
    /// `d_model` → key heads, `kv · dim`.
    pub k_proj: Linear,
    /// `d_model` → value heads, `kv · dim`.
    pub v_proj: Linear,
    /// Heads side by side, `q · dim` → the residual stream.
    pub o_proj: Linear,
    /// The norm of each query head over its own width, `[dim]`; Qwen3 alone has it.
    pub q_norm: Option<RmsNorm>,
    /// The norm of each key head, `[dim]`.
    pub k_norm: Option<RmsNorm>,
}

/// A block's gated MLP.
#[derive(Module, Debug)]
pub struct Mlp {
    /// `d_model` → `d_ff`, through SiLU.
    pub gate_proj: Linear,
    /// `d_model` → `d_ff`.
    pub up_proj: Linear,
    /// `d_ff` → `d_model`.
    pub down_proj: Linear,
}

impl Llama {
    /// A model of `config`'s shape whose layers come from `make`.
    pub(super) fn new(config: &ModelConfig, make: &mut Make) -> Self {
        let (d, d_ff, bias) = (config.d_model, config.d_ff, config.biases);
        let (q, kv) = (config.heads.query, config.heads.key_value);
        let dim = config.heads.dim;
        let embed_tokens = make.embedding("model.embed_tokens", config.vocab_size, d);
        let layers = (0..config.n_layer).map(|layer| {
            let at = |part: &str| format!("model.layers.{layer}.{part}");
            let qk_norm = config.qk_norm;
            Block {
                input_layernorm: make.rms_norm(&at("input_layernorm"), d),
                self_attn: Attention {
                    q_proj: make.linear(&at("self_attn.q_proj"), d, q * dim, bias.qkv),
                    k_proj: make.linear(&at("self_attn.k_proj"), d, kv * dim, bias.qkv),
                    v_proj: make.linear(&at("self_attn.v_proj"), d, kv * dim, bias.qkv),
                    o_proj: make.linear(&at("self_attn.o_proj"), q * dim, d, bias.output),
                    q_norm: qk_norm.then(|| make.rms_norm(&at("self_attn.q_norm"), dim)),
                    k_norm: qk_norm.then(|| make.rms_norm(&at("self_attn.k_norm"), dim)),
                },
                post_attention_layernorm: make.rms_norm(&at("post_attention_layernorm"), d),
                mlp: Mlp {
                    gate_proj: make.linear(&at("mlp.gate_proj"), d, d_ff, bias.mlp),
                    up_proj: make.linear(&at("mlp.up_proj"), d, d_ff, bias.mlp),
                    down_proj: make.linear(&at("mlp.down_proj"), d_ff, d, bias.mlp),
                },
            }
        });
        let layers = layers.collect();
        let norm = make.rms_norm("model.norm", d);
        Self { model: Stack { embed_tokens, layers, norm } }
    }

    /// The linear layers that can have adapters, by name.
    pub(super) fn linears(&mut self) -> Vec<(String, LinearMut<'_>)> {
        let blocks = self.model.layers.iter_mut().enumerate();
        let linears = blocks.flat_map(|(layer, block)| {
            let Block { self_attn, mlp, .. } = block;
            [
                ("self_attn.q_proj", &mut self_attn.q_proj),
                ("self_attn.k_proj", &mut self_attn.k_proj),
                ("self_attn.v_proj", &mut self_attn.v_proj),
                ("self_attn.o_proj", &mut self_attn.o_proj),
                ("mlp.gate_proj", &mut mlp.gate_proj),
                ("mlp.up_proj", &mut mlp.up_proj),
                ("mlp.down_proj", &mut mlp.down_proj),
            ]
            .map(|(part, linear)| {
                (format!("model.layers.{layer}.{part}"), LinearMut::Linear(linear))
            })
        });
        linears.collect()
    }
}

impl Block {
    /// `x: [batch, new, d_model]` → the same, at the tokens that are read; and the new columns' queries, keys and values,
    /// the first two turned to their positions.
    pub(super) fn forward(&self, x: Tensor<3>, context: &BlockContext) -> (Tensor<3>, Tensor<3>) {
        let ModelConfig { norm_eps: eps, heads, precision, .. } = *context.config;
        let Attention { q_proj, k_proj, v_proj, o_proj, q_norm, k_norm } = &self.self_attn;

        let normed = self.input_layernorm.forward(x.clone(), eps);
        let mut qkv = fused_linears(normed, [q_proj, k_proj, v_proj], precision); // [batch, new, qkv]
        if let (Some(q), Some(k)) = (q_norm, k_norm) {
            qkv = kernels::head_norm(qkv, q.weight.val(), k.weight.val(), heads, eps);
        }
        if let Some([cos, sin]) = context.positions.rotation.clone() {
            qkv = kernels::rotary(qkv, cos, sin, heads);
        }
        let [x, attn_out] = context.attention(x, qkv.clone());
        let x = x + o_proj.forward(attn_out, precision);

        let normed = self.post_attention_layernorm.forward(x.clone(), eps);
        let gate = self.mlp.gate_proj.forward(normed.clone(), precision);
        let hidden = kernels::swiglu(gate, self.mlp.up_proj.forward(normed, precision)); // [batch, new, d_ff]
        (x + self.mlp.down_proj.forward(hidden, precision), qkv)
    }
}
