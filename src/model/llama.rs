//! Llama-style families: rotary positions, RMS norms, a gated MLP, grouped heads (Touvron et al. 2023, arXiv
//! 2302.13971; Ainslie et al. 2023, arXiv 2305.13245). What families differ in is options of one block: biases, norms
//! of queries and keys, where norms stand, which layers turn by which positions. Field names are the checkpoint's keys.

use burn::{module::Module, tensor::Tensor};
use coconut_kernels as kernels;

use super::{
    ModelConfig,
    config::{Activation, Norms, QkNorm},
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

/// One block, with norms as [`Norms`] says.
#[derive(Module, Debug)]
pub struct Block {
    /// The norm before attention.
    pub input_layernorm: Option<RmsNorm>,
    /// Attention, without its softmax.
    pub self_attn: Attention,
    /// The norm before the MLP in blocks with norms before their parts alone, else the one after attention.
    pub post_attention_layernorm: RmsNorm,
    /// The norm before the MLP in blocks with norms around their parts.
    pub pre_feedforward_layernorm: Option<RmsNorm>,
    /// The norm after the MLP.
    pub post_feedforward_layernorm: Option<RmsNorm>,
    /// The MLP.
    pub mlp: Mlp,
}

/// Attention's projections, and norms of queries and keys as [`QkNorm`] says.
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
    /// The norm of queries, `[dim]` of each head or `[q · dim]` of all.
    pub q_norm: Option<RmsNorm>,
    /// The norm of keys, `[dim]` of each head or `[kv · dim]` of all.
    pub k_norm: Option<RmsNorm>,
}

/// A block's gated MLP.
#[derive(Module, Debug)]
pub struct Mlp {
    /// `d_model` → `d_ff`, through the activation.
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
        let norm =
            |make: &mut Make, name: &str, width| make.rms_norm(name, width, config.norm_offset);
        let widths = match config.qk_norm {
            QkNorm::None => None,
            QkNorm::Heads => Some([dim, dim]),
            QkNorm::Whole => Some([q * dim, kv * dim]),
        };
        let embed_tokens = make.embedding("model.embed_tokens", config.vocab_size, d);
        let layers = (0..config.n_layer).map(|layer| {
            let at = |part: &str| format!("model.layers.{layer}.{part}");
            let (before, after) = (config.norms != Norms::After, config.norms != Norms::Before);
            Block {
                input_layernorm: before.then(|| norm(make, &at("input_layernorm"), d)),
                self_attn: Attention {
                    q_proj: make.linear(&at("self_attn.q_proj"), d, q * dim, bias.qkv),
                    k_proj: make.linear(&at("self_attn.k_proj"), d, kv * dim, bias.qkv),
                    v_proj: make.linear(&at("self_attn.v_proj"), d, kv * dim, bias.qkv),
                    o_proj: make.linear(&at("self_attn.o_proj"), q * dim, d, bias.output),
                    q_norm: widths.map(|[q, _]| norm(make, &at("self_attn.q_norm"), q)),
                    k_norm: widths.map(|[_, k]| norm(make, &at("self_attn.k_norm"), k)),
                },
                post_attention_layernorm: norm(make, &at("post_attention_layernorm"), d),
                pre_feedforward_layernorm: (before && after)
                    .then(|| norm(make, &at("pre_feedforward_layernorm"), d)),
                post_feedforward_layernorm: after
                    .then(|| norm(make, &at("post_feedforward_layernorm"), d)),
                mlp: Mlp {
                    gate_proj: make.linear(&at("mlp.gate_proj"), d, d_ff, bias.mlp),
                    up_proj: make.linear(&at("mlp.up_proj"), d, d_ff, bias.mlp),
                    down_proj: make.linear(&at("mlp.down_proj"), d_ff, d, bias.mlp),
                },
            }
        });
        let layers = layers.collect();
        let norm = norm(make, "model.norm", d);
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
        let ModelConfig { norm_eps: eps, precision, norms, .. } = *context.config;
        let normed = |norm: &Option<RmsNorm>, x: Tensor<3>| match norm {
            Some(norm) => norm.forward(x, eps),
            None => x,
        };
        let qkv = self.self_attn.qkv(normed(&self.input_layernorm, x.clone()), context);
        let ([x, attn_out], qkv) = context.attention(x, qkv);
        let attn_out = self.self_attn.o_proj.forward(attn_out, precision);

        let middle = &self.post_attention_layernorm;
        let (x, before_mlp) = match norms {
            Norms::Before => {
                let x = x + attn_out;
                (x.clone(), middle.forward(x, eps))
            }
            Norms::After | Norms::Around => {
                let x = x + middle.forward(attn_out, eps);
                (x.clone(), normed(&self.pre_feedforward_layernorm, x))
            }
        };
        let out = self.mlp.forward(before_mlp, context.config);
        (x + normed(&self.post_feedforward_layernorm, out), qkv)
    }
}

impl Attention {
    /// `x: [batch, new, d_model]` → queries, keys and values side by side, `[batch, new, qkv]`, the first two normed and
    /// turned to their positions.
    fn qkv(&self, x: Tensor<3>, context: &BlockContext) -> Tensor<3> {
        let ModelConfig { norm_eps: eps, heads, precision, qk_norm, score_scale, .. } =
            *context.config;
        let Self { q_proj, k_proj, v_proj, q_norm, k_norm, .. } = self;
        let mut qkv = fused_linears(x, [q_proj, k_proj, v_proj], precision);
        if let (Some(q), Some(k)) = (q_norm, k_norm) {
            qkv = match qk_norm {
                QkNorm::Whole => {
                    let (q_width, k_width) = (heads.query * heads.dim, heads.key_value * heads.dim);
                    let queries = q.forward(qkv.clone().narrow(2, 0, q_width), eps);
                    let keys = k.forward(qkv.clone().narrow(2, q_width, k_width), eps);
                    let values = qkv.narrow(2, q_width + k_width, k_width);
                    Tensor::cat(vec![queries, keys, values], 2)
                }
                QkNorm::None | QkNorm::Heads => {
                    // Scores are linear in queries, so that their factor may as well be the norm's.
                    let queries = match score_scale {
                        1.0 => q.scale(),
                        scale => q.scale() * scale,
                    };
                    kernels::head_norm(qkv, queries, k.scale(), heads, eps)
                }
            };
        }
        match context.rotation {
            Some([cos, sin]) => kernels::rotary(qkv, cos.clone(), sin.clone(), heads),
            None => qkv,
        }
    }
}

impl Mlp {
    /// `[batch, new, d_model]`, shape kept.
    fn forward(&self, x: Tensor<3>, config: &ModelConfig) -> Tensor<3> {
        let gate = self.gate_proj.forward(x.clone(), config.precision); // [batch, new, d_ff]
        let up = self.up_proj.forward(x, config.precision);
        let hidden = match config.activation {
            Activation::Silu => kernels::swiglu(gate, up),
            other => other.of(gate) * up,
        };
        self.down_proj.forward(hidden, config.precision)
    }
}
