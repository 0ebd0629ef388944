//! A model's shape: what is computed, whatever words a family has for it.

use coconut_kernels::{Heads, Precision};
use serde_json::{Map, Value, json};

use super::rotary::{LayerRotary, Rotary};

/// A pretrained family, as `model_type` in `config.json` names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// GPT-2 (Radford et al. 2019).
    Gpt2,
    /// Llama (Touvron et al. 2023, arXiv 2302.13971) and what shares its shape, SmolLM2 among others.
    Llama,
    /// Qwen2 and Qwen2.5 (arXiv 2407.10671, 2412.15115): Llama with biases on queries, keys and values.
    Qwen2,
    /// Qwen3 (arXiv 2505.09388): Llama with norms of each query and key head.
    Qwen3,
    /// Mistral (arXiv 2310.06825): Llama, its context as long as its window.
    Mistral,
    /// SmolLM3: Llama, in every fourth layer without positions.
    SmolLm3,
    /// OLMo 2 (arXiv 2501.00656): norms after attention and MLP, and of queries and keys over all heads.
    Olmo2,
    /// Gemma 3's text models (arXiv 2503.19786): norms on both sides, two kinds of rotary positions, scaled embeddings.
    Gemma3,
}

impl Family {
    /// All families.
    pub const ALL: [Self; 8] = [
        Self::Gpt2,
        Self::Llama,
        Self::Qwen2,
        Self::Qwen3,
        Self::Mistral,
        Self::SmolLm3,
        Self::Olmo2,
        Self::Gemma3,
    ];

    /// The family's `model_type`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Gpt2 => "gpt2",
            Self::Llama => "llama",
            Self::Qwen2 => "qwen2",
            Self::Qwen3 => "qwen3",
            Self::Mistral => "mistral",
            Self::SmolLm3 => "smollm3",
            Self::Olmo2 => "olmo2",
            Self::Gemma3 => "gemma3_text",
        }
    }

    /// The family's own words for width, blocks, heads, context and MLP width.
    fn keys(self) -> [&'static str; 5] {
        match self {
            Self::Gpt2 => ["n_embd", "n_layer", "n_head", "n_positions", "n_inner"],
            _ => [
                "hidden_size",
                "num_hidden_layers",
                "num_attention_heads",
                "max_position_embeddings",
                "intermediate_size",
            ],
        }
    }
}

/// Which linear layers of Llama-style families carry a bias. GPT-2's all do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Biases {
    /// Whether those of queries, keys and values do.
    pub qkv: bool,
    /// Whether the one after attention does.
    pub output: bool,
    /// Whether the MLP's three do.
    pub mlp: bool,
}

/// The function in a block's MLP. In Llama-style families it is the gate's (Shazeer 2020, arXiv 2002.05202).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// `x · Φ(x)`, with the error function (Hendrycks and Gimpel 2016, arXiv 1606.08415).
    Gelu,
    /// With a hyperbolic tangent in its place: what GPT-2 was trained with.
    GeluTanh,
    /// `x · σ(x)`.
    Silu,
}

/// Where the norms of a block's two parts stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Norms {
    /// Before each part.
    Before,
    /// After each part, before it is added to the residual stream.
    After,
    /// Both.
    Around,
}

/// What queries and keys are normed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QkNorm {
    /// They are not.
    None,
    /// Each head over its own width.
    Heads,
    /// All heads side by side.
    Whole,
}

/// Probabilities of dropout in training.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Dropout {
    /// Of the embeddings with their positions.
    pub embedding: f64,
    /// Of the attention weights.
    pub attention: f64,
    /// Of what attention and MLP add to the residual stream.
    pub residual: f64,
}

/// A model's shape, and the `config.json` it came from.
///
/// Read once by `ModelConfig::load`, which refuses what would change the result and is not
/// computed. What the file says beyond the shape is written back unchanged.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelConfig {
    /// The family.
    pub family: Family,
    /// Number of token embeddings, `V`.
    pub vocab_size: usize,
    /// Longest sequence, in tokens.
    pub n_positions: usize,
    /// Width of the residual stream.
    pub d_model: usize,
    /// Number of blocks, `L`.
    pub n_layer: usize,
    /// How attention splits into heads.
    pub heads: Heads,
    /// Width of the hidden layer of a block's MLP, `d_ff`.
    pub d_ff: usize,
    /// The function in the MLP.
    pub activation: Activation,
    /// ε, added to the variance or mean square in every norm.
    pub norm_eps: f64,
    /// Rotary positions; without them, positions are learned embeddings.
    pub rotary: Option<Rotary>,
    /// The rotary positions of layers that were trained with a window.
    pub local_rotary: Option<Rotary>,
    /// Which of them each layer has; the first of them everywhere if this is empty.
    pub layer_rotary: Vec<LayerRotary>,
    /// Where the norms of a block stand.
    pub norms: Norms,
    /// What is added to the weight of every norm.
    pub norm_offset: f64,
    /// The factor of token embeddings as they enter; thoughts enter as they are.
    pub embedding_scale: f64,
    /// The factor of attention's scores beside `1/√dim`.
    pub score_scale: f64,
    /// Which linear layers carry a bias.
    pub biases: Biases,
    /// How queries and keys are normed.
    pub qk_norm: QkNorm,
    /// Whether the output head is the token embedding.
    pub tie_word_embeddings: bool,
    /// Dropout in training.
    pub dropout: Dropout,
    /// Precision of products with the model's matrices: this program's choice, no part of `config.json`.
    pub precision: Precision,
    /// Standard deviation of freshly drawn weights.
    pub initializer_range: f64,
    /// `config.json` as it was read, or as it will first be written.
    pub(super) json: Map<String, Value>,
}

impl ModelConfig {
    /// A GPT-2 shape without dropout.
    pub fn gpt2(
        vocab_size: usize,
        n_positions: usize,
        d_model: usize,
        n_layer: usize,
        n_head: usize,
    ) -> Self {
        let json = json!({
            "architectures": ["GPT2LMHeadModel"],
            "model_type": "gpt2",
            "vocab_size": vocab_size,
            "n_positions": n_positions,
            "n_embd": d_model,
            "n_layer": n_layer,
            "n_head": n_head,
            "n_inner": null,
            "activation_function": "gelu_new",
            "layer_norm_epsilon": 1e-5,
            "tie_word_embeddings": true,
        });
        let heads = Heads { query: n_head, key_value: n_head, dim: d_model / n_head.max(1) };
        Self {
            family: Family::Gpt2,
            vocab_size,
            n_positions,
            d_model,
            n_layer,
            heads,
            d_ff: 4 * d_model,
            activation: Activation::GeluTanh,
            norm_eps: 1e-5,
            rotary: None,
            local_rotary: None,
            layer_rotary: Vec::new(),
            norms: Norms::Before,
            norm_offset: 0.0,
            embedding_scale: 1.0,
            score_scale: 1.0,
            biases: Biases { qkv: true, output: true, mlp: true },
            qk_norm: QkNorm::None,
            tie_word_embeddings: true,
            dropout: Dropout { embedding: 0.0, attention: 0.0, residual: 0.0 },
            precision: Precision::F32,
            initializer_range: 0.02,
            json: json.as_object().cloned().unwrap_or_default(),
        }
    }

    /// Which rotary positions a layer has.
    pub fn rotary_of(&self, layer: usize) -> LayerRotary {
        self.layer_rotary.get(layer).copied().unwrap_or(LayerRotary::Global)
    }

    /// Sets all three dropout probabilities.
    pub fn with_dropout(mut self, p: f64) -> Self {
        self.dropout = Dropout { embedding: p, attention: p, residual: p };
        self
    }

    /// Sets a key that has no part in the shape, such as `eos_token_id`, in the `config.json` that
    /// will be written.
    pub fn set_extra_key(&mut self, key: &str, value: impl Into<Value>) {
        self.json.insert(key.to_owned(), value.into());
    }

    /// Says that the output head is a table of its own from now on.
    pub(super) fn untie(&mut self) {
        self.tie_word_embeddings = false;
        self.set_extra_key("tie_word_embeddings", false);
    }

    /// Refuses, by name, sizes that make no model.
    pub fn check(&self) -> Result<(), String> {
        let [width, layers, heads, context, d_ff] = self.family.keys();
        for (key, value, most) in [
            ("vocab_size", self.vocab_size, 1 << 24),
            (width, self.d_model, 1 << 20),
            (layers, self.n_layer, 1 << 12),
            (heads, self.heads.query, 1 << 16),
            ("num_key_value_heads", self.heads.key_value, 1 << 16),
            (context, self.n_positions, 1 << 24),
            (d_ff, self.d_ff, 1 << 22),
        ] {
            if value == 0 || value > most {
                return Err(format!("`{key}` is {value}; it must be between 1 and {most}"));
            }
        }
        if self.family == Family::Gpt2 && self.heads.query * self.heads.dim != self.d_model {
            return Err(format!(
                "`n_embd` ({}) must be a multiple of `n_head` ({})",
                self.d_model, self.heads.query
            ));
        }
        if !self.heads.query.is_multiple_of(self.heads.key_value) {
            return Err(format!(
                "`num_attention_heads` ({}) must be a multiple of `num_key_value_heads` ({})",
                self.heads.query, self.heads.key_value
            ));
        }
        let dim = self.heads.dim;
        if dim == 0 || dim > 1 << 16 || (self.rotary.is_some() && !dim.is_multiple_of(2)) {
            return Err(format!(
                "`head_dim` is {dim}; rotary positions need an even width, at most 65536"
            ));
        }
        let gpt2 = self.family == Family::Gpt2;
        let Dropout { embedding, attention, residual } = self.dropout;
        for (key, p) in [
            ("embd_pdrop", embedding),
            (if gpt2 { "attn_pdrop" } else { "attention_dropout" }, attention),
            ("resid_pdrop", residual),
        ] {
            if !(0.0..1.0).contains(&p) {
                return Err(format!("`{key}` is {p}; a dropout probability lies in [0, 1)"));
            }
        }
        for (key, value) in [
            (if gpt2 { "layer_norm_epsilon" } else { "rms_norm_eps" }, self.norm_eps),
            ("initializer_range", self.initializer_range),
        ] {
            if !(0.0..=1e3).contains(&value) {
                return Err(format!("`{key}` is {value}; it must lie in 0 to 1000"));
            }
        }
        Ok(())
    }
}
