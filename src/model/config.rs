//! A model's shape, as Hugging Face's `config.json` states it.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// GPT-2's `config.json` (Radford et al. 2019): the fields that decide what is computed.
///
/// Unknown fields are kept in [`ModelConfig::other`] and written back unchanged.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelConfig {
    /// Family; `gpt2`.
    pub model_type: String,
    /// Number of token embeddings, `V`.
    pub vocab_size: usize,
    /// Longest sequence, in tokens.
    pub n_positions: usize,
    /// Width of the residual stream, `d_model`.
    pub n_embd: usize,
    /// Number of blocks, `L`.
    pub n_layer: usize,
    /// Attention heads; divides `n_embd`.
    pub n_head: usize,
    /// Width of the hidden layer of a block's MLP; `4 · n_embd` if absent.
    #[serde(default)]
    pub n_inner: Option<usize>,
    /// Only the tanh form of GELU is computed.
    #[serde(default = "gelu_new")]
    pub activation_function: String,
    /// Dropout after each block's two projections.
    #[serde(default = "tenth")]
    pub resid_pdrop: f64,
    /// Dropout after the embeddings.
    #[serde(default = "tenth")]
    pub embd_pdrop: f64,
    /// Dropout of attention weights.
    #[serde(default = "tenth")]
    pub attn_pdrop: f64,
    /// Added to the variance in every layer norm.
    #[serde(default = "epsilon")]
    pub layer_norm_epsilon: f64,
    /// Standard deviation of freshly drawn weights.
    #[serde(default = "init_range")]
    pub initializer_range: f64,
    /// Whether the output head is the token embedding.
    #[serde(default = "yes")]
    pub tie_word_embeddings: bool,
    /// Everything else in the file.
    #[serde(flatten)]
    pub other: serde_json::Map<String, serde_json::Value>,
}

fn gelu_new() -> String {
    "gelu_new".into()
}
fn tenth() -> f64 {
    0.1
}
fn epsilon() -> f64 {
    1e-5
}
fn init_range() -> f64 {
    0.02
}
fn yes() -> bool {
    true
}

impl ModelConfig {
    /// A GPT-2 shape without dropout.
    pub fn gpt2(
        vocab_size: usize,
        n_positions: usize,
        n_embd: usize,
        n_layer: usize,
        n_head: usize,
    ) -> Self {
        let other = serde_json::json!({"architectures": ["GPT2LMHeadModel"]});
        Self {
            model_type: "gpt2".into(),
            vocab_size,
            n_positions,
            n_embd,
            n_layer,
            n_head,
            n_inner: None,
            activation_function: gelu_new(),
            resid_pdrop: 0.0,
            embd_pdrop: 0.0,
            attn_pdrop: 0.0,
            layer_norm_epsilon: epsilon(),
            initializer_range: init_range(),
            tie_word_embeddings: true,
            other: other.as_object().cloned().unwrap_or_default(),
        }
    }

    /// Sets all three dropout probabilities.
    pub fn with_dropout(mut self, p: f64) -> Self {
        (self.resid_pdrop, self.embd_pdrop, self.attn_pdrop) = (p, p, p);
        self
    }

    /// Reads and checks `config.json` in a model folder.
    pub fn load(folder: &Path) -> Result<Self> {
        let path = folder.join("config.json");
        let text = std::fs::read_to_string(&path).map_err(Error::io("read", &path))?;
        let config: Self = serde_json::from_str(&text).map_err(|e| {
            Error::input(
                &path,
                format!("line {}", e.line()),
                format!("{e}. Expected the `config.json` of a GPT-2 model."),
            )
        })?;
        config.check().map_err(|problem| Error::input(&path, "", problem))?;
        Ok(config)
    }

    /// Refuses, by name, what would change the result and is not computed.
    pub fn check(&self) -> Result<(), String> {
        let flag = |key: &str, default: bool| {
            self.other.get(key).and_then(serde_json::Value::as_bool).unwrap_or(default)
        };
        if self.model_type != "gpt2" {
            return Err(format!("`model_type` is `{}`; only `gpt2` is supported", self.model_type));
        }
        if !matches!(self.activation_function.as_str(), "gelu_new" | "gelu_pytorch_tanh") {
            return Err(format!(
                "`activation_function` is `{}`; only `gelu_new` is supported",
                self.activation_function
            ));
        }
        for (key, supported) in [
            ("scale_attn_weights", true),
            ("scale_attn_by_inverse_layer_idx", false),
            ("add_cross_attention", false),
        ] {
            if flag(key, supported) != supported {
                return Err(format!("`{key}` is {}; only {supported} is supported", !supported));
            }
        }
        for (key, value) in [
            ("vocab_size", self.vocab_size),
            ("n_positions", self.n_positions),
            ("n_embd", self.n_embd),
            ("n_layer", self.n_layer),
            ("n_head", self.n_head),
            ("n_inner", self.inner()),
        ] {
            if value == 0 || value > 1 << 24 {
                return Err(format!("`{key}` is {value}; it must be between 1 and 16,777,216"));
            }
        }
        if !self.n_embd.is_multiple_of(self.n_head) {
            return Err(format!(
                "`n_embd` ({}) must be a multiple of `n_head` ({})",
                self.n_embd, self.n_head
            ));
        }
        for (key, p) in [
            ("resid_pdrop", self.resid_pdrop),
            ("embd_pdrop", self.embd_pdrop),
            ("attn_pdrop", self.attn_pdrop),
        ] {
            if !(0.0..1.0).contains(&p) {
                return Err(format!("`{key}` is {p}; a dropout probability lies in [0, 1)"));
            }
        }
        Ok(())
    }

    /// Width of the hidden layer of a block's MLP.
    pub fn inner(&self) -> usize {
        self.n_inner.unwrap_or(4 * self.n_embd)
    }

    /// How attention splits the width into heads.
    pub fn heads(&self) -> coconut_kernels::Heads {
        coconut_kernels::Heads {
            query: self.n_head,
            key_value: self.n_head,
            dim: self.n_embd / self.n_head,
        }
    }

    /// Number of parameters, tied ones counted once.
    pub fn num_parameters(&self) -> usize {
        let (d, inner) = (self.n_embd, self.inner());
        let block =
            4 * d + (d * 3 * d + 3 * d) + (d * d + d) + (d * inner + inner) + (inner * d + d);
        let head = if self.tie_word_embeddings { 0 } else { self.vocab_size * d };
        (self.vocab_size + self.n_positions) * d + self.n_layer * block + 2 * d + head
    }
}
