//! What each family's `config.json` says, with the defaults that `transformers` gives to what it
//! leaves out.

use std::path::Path;

use coconut_kernels::{Heads, Precision};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Map, Value};

use super::{
    ModelConfig,
    config::{Biases, Dropout, Family, Gelu},
    positions::{Llama3, Rotary},
};
use crate::{Error, Result};

/// Where in the file something is wrong, and what.
type Problem = (String, String);

impl ModelConfig {
    /// Reads and checks `config.json` in a model folder.
    ///
    /// # Errors
    /// A missing or malformed file, another family, and by its name every field that would change
    /// the result and is not computed.
    pub fn load(folder: &Path) -> Result<Self> {
        Self::load_file(&folder.join("config.json"))
    }

    /// The same of a `config.json` by its own path.
    ///
    /// # Errors
    /// As [`ModelConfig::load`].
    pub fn load_file(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(Error::io("read", path))?;
        parse(&text).map_err(|(place, problem)| Error::input(path, place, problem))
    }

    /// The `config.json` of these weights: as it was read, but for what has changed.
    pub fn to_json(&self) -> Value {
        let mut json = self.json.clone();
        let mut set = |key: &str, value: Value| json.insert(key.to_owned(), value);
        set("vocab_size", self.vocab_size.into());
        set("initializer_range", self.initializer_range.into());
        if self.family == Family::Gpt2 {
            set("embd_pdrop", self.dropout.embedding.into());
            set("attn_pdrop", self.dropout.attention.into());
            set("resid_pdrop", self.dropout.residual.into());
        }
        // The type of the weights as they are written; `torch_dtype` is its name before
        // transformers 5.
        json.remove("torch_dtype");
        json.insert("dtype".to_owned(), "float32".into());
        Value::Object(json)
    }
}

/// A checked shape from the text of a `config.json`.
fn parse(text: &str) -> Result<ModelConfig, Problem> {
    let json: Map<String, Value> = read(text)?;
    let here = |problem: String| (String::new(), problem);
    let known = Family::ALL.map(Family::name).join("`, `");
    let Some(name) = json.get("model_type").and_then(Value::as_str) else {
        let problem = format!("`model_type` is missing; it names the family, one of `{known}`");
        return Err(here(problem));
    };
    let Some(family) = Family::ALL.into_iter().find(|family| family.name() == name) else {
        return Err(here(format!("`model_type` is `{name}`; supported are `{known}`")));
    };
    if json.get("quantization_config").is_some_and(|value| !value.is_null()) {
        let problem = "`quantization_config` is set; only weights in f32, f16 or bf16 are supported. Use the model's unquantized folder";
        return Err(here(problem.into()));
    }
    let config = match family {
        Family::Gpt2 => read::<Gpt2>(text)?.shape(json),
        _ => read::<Llama>(text)?.shape(family, json),
    };
    config.and_then(|config| config.check().map(|()| config)).map_err(here)
}

/// Text as `T`, or the line that is not.
fn read<T: DeserializeOwned>(text: &str) -> Result<T, Problem> {
    serde_json::from_str(text).map_err(|e| {
        let problem = format!("{e}. Expected the `config.json` of a Hugging Face model folder.");
        (format!("line {}", e.line()), problem)
    })
}

/// GPT-2's fields.
#[derive(Deserialize)]
struct Gpt2 {
    vocab_size: usize,
    n_positions: usize,
    n_embd: usize,
    n_layer: usize,
    n_head: usize,
    n_inner: Option<usize>,
    activation_function: Option<String>,
    resid_pdrop: Option<f64>,
    embd_pdrop: Option<f64>,
    attn_pdrop: Option<f64>,
    layer_norm_epsilon: Option<f64>,
    initializer_range: Option<f64>,
    tie_word_embeddings: Option<bool>,
}

impl Gpt2 {
    fn shape(self, json: Map<String, Value>) -> Result<ModelConfig, String> {
        let gelu = match self.activation_function.as_deref() {
            None => Gelu::Tanh,
            Some(name) if GELU_TANH.contains(&name) => Gelu::Tanh,
            Some(name) if GELU_EXACT.contains(&name) => Gelu::Exact,
            Some(other) => {
                let known = [GELU_EXACT.as_slice(), &GELU_TANH].concat().join("`, `");
                return Err(format!("`activation_function` is `{other}`; supported are `{known}`"));
            }
        };
        for (key, wanted) in [
            ("scale_attn_weights", true),
            ("scale_attn_by_inverse_layer_idx", false),
            ("add_cross_attention", false),
        ] {
            if json.get(key).and_then(Value::as_bool).unwrap_or(wanted) != wanted {
                return Err(format!("`{key}` is {}; only {wanted} is supported", !wanted));
            }
        }
        Ok(ModelConfig {
            d_ff: self.n_inner.unwrap_or(4 * self.n_embd),
            gelu,
            norm_eps: self.layer_norm_epsilon.unwrap_or(1e-5),
            tie_word_embeddings: self.tie_word_embeddings.unwrap_or(true),
            dropout: Dropout {
                embedding: self.embd_pdrop.unwrap_or(0.1),
                attention: self.attn_pdrop.unwrap_or(0.1),
                residual: self.resid_pdrop.unwrap_or(0.1),
            },
            initializer_range: self.initializer_range.unwrap_or(0.02),
            json,
            ..ModelConfig::gpt2(
                self.vocab_size,
                self.n_positions,
                self.n_embd,
                self.n_layer,
                self.n_head,
            )
        })
    }
}

/// transformers' names of GELU with the error function.
const GELU_EXACT: [&str; 2] = ["gelu", "gelu_python"];
/// transformers' names of its tanh form; they differ in how the same function is written.
const GELU_TANH: [&str; 5] =
    ["gelu_new", "gelu_fast", "gelu_pytorch_tanh", "gelu_python_tanh", "gelu_accurate"];
/// transformers' names of `x · σ(x)`.
const SILU: [&str; 2] = ["silu", "swish"];

/// The fields of Llama-style families.
#[derive(Deserialize)]
struct Llama {
    vocab_size: usize,
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    num_key_value_heads: Option<usize>,
    head_dim: Option<usize>,
    max_position_embeddings: Option<usize>,
    hidden_act: Option<String>,
    rms_norm_eps: Option<f64>,
    initializer_range: Option<f64>,
    tie_word_embeddings: Option<bool>,
    attention_bias: Option<bool>,
    mlp_bias: Option<bool>,
    attention_dropout: Option<f64>,
    /// Rotary positions; `rope_scaling` was their name before transformers 5.
    rope_parameters: Option<Rope>,
    rope_scaling: Option<Value>,
    /// The base, beside `rope_scaling` before transformers 5 and inside `rope_parameters` since.
    rope_theta: Option<f64>,
    partial_rotary_factor: Option<f64>,
    original_max_position_embeddings: Option<f64>,
    use_sliding_window: Option<bool>,
    max_window_layers: Option<usize>,
    layer_types: Option<Vec<String>>,
    pretraining_tp: Option<usize>,
}

/// Rotary positions, in either of their two places.
#[derive(Deserialize)]
struct Rope {
    rope_type: Option<String>,
    /// The name of `rope_type` before transformers 4.43; files may have both, and then `rope_type` counts.
    #[serde(rename = "type")]
    old_type: Option<String>,
    rope_theta: Option<f64>,
    partial_rotary_factor: Option<f64>,
    factor: Option<f64>,
    low_freq_factor: Option<f64>,
    high_freq_factor: Option<f64>,
    original_max_position_embeddings: Option<f64>,
    /// One set of positions a kind of layer, which no family here needs.
    full_attention: Option<Value>,
    sliding_attention: Option<Value>,
}

impl Llama {
    fn shape(self, family: Family, json: Map<String, Value>) -> Result<ModelConfig, String> {
        supported(&self.hidden_act, "hidden_act", &SILU)?;
        if self.pretraining_tp.unwrap_or(1) != 1 {
            return Err("`pretraining_tp` is not 1; only 1 is supported".into());
        }
        self.refuse_windows(family, &json)?;
        let query = self.num_attention_heads;
        // Defaults as `LlamaConfig`, `Qwen2Config` and `Qwen3Config` have them.
        let (kv_default, dim_default, context_default) = match family {
            Family::Llama => (query, None, 2048),
            Family::Qwen3 => (32, Some(128), 32768),
            _ => (32, None, 32768),
        };
        let given = |key| json.contains_key(key);
        let key_value = self.num_key_value_heads.unwrap_or(match given("num_key_value_heads") {
            true => query, // null
            false => kv_default,
        });
        let even_split = self.hidden_size / query.max(1);
        let dim = self.head_dim.or(dim_default.filter(|_| !given("head_dim")));
        let n_positions = self.max_position_embeddings.unwrap_or(context_default);
        let attention_bias = self.attention_bias.unwrap_or(false);
        Ok(ModelConfig {
            family,
            vocab_size: self.vocab_size,
            n_positions,
            d_model: self.hidden_size,
            n_layer: self.num_hidden_layers,
            heads: Heads { query, key_value, dim: dim.unwrap_or(even_split) },
            d_ff: self.intermediate_size,
            gelu: Gelu::Tanh,
            norm_eps: self.rms_norm_eps.unwrap_or(1e-6),
            rotary: Some(self.rotary(n_positions)?),
            biases: Biases {
                qkv: family == Family::Qwen2 || attention_bias,
                output: family != Family::Qwen2 && attention_bias,
                mlp: family == Family::Llama && self.mlp_bias.unwrap_or(false),
            },
            qk_norm: family == Family::Qwen3,
            tie_word_embeddings: self.tie_word_embeddings.unwrap_or(false),
            dropout: Dropout {
                embedding: 0.0,
                attention: self.attention_dropout.unwrap_or(0.0),
                residual: 0.0,
            },
            precision: Precision::F32,
            initializer_range: self.initializer_range.unwrap_or(0.02),
            json,
        })
    }

    /// Every layer must see the whole past.
    fn refuse_windows(&self, family: Family, json: &Map<String, Value>) -> Result<(), String> {
        if family == Family::Llama {
            return Ok(()); // has no such thing: `transformers` ignores the keys
        }
        if let Some(other) =
            self.layer_types.iter().flatten().find(|kind| *kind != "full_attention")
        {
            return Err(format!(
                "`layer_types` names `{other}`; only `full_attention` is supported"
            ));
        }
        // Without `layer_types`, the layers from `max_window_layers` on have a window, unless it is
        // null.
        let windowed = self.use_sliding_window.unwrap_or(false)
            && json.get("sliding_window") != Some(&Value::Null)
            && self.max_window_layers.unwrap_or(28) < self.num_hidden_layers;
        if self.layer_types.is_none() && windowed {
            return Err("`use_sliding_window` is true; only false is supported".into());
        }
        Ok(())
    }

    fn rotary(&self, n_positions: usize) -> Result<Rotary, String> {
        // As transformers reads them: `rope_scaling` counts alone, unless it says nothing.
        let scaling = self.rope_scaling.as_ref().filter(|value| !is_nothing(value));
        let scaling: Option<Rope> = (scaling.map(Rope::deserialize).transpose())
            .map_err(|e| format!("`rope_scaling` cannot be read: {e}"))?;
        let (key, rope) = match &scaling {
            Some(rope) => ("rope_scaling", Some(rope)),
            None => ("rope_parameters", self.rope_parameters.as_ref()),
        };
        let inside = |field: fn(&Rope) -> Option<f64>| rope.and_then(field);
        if rope
            .is_some_and(|rope| rope.full_attention.is_some() || rope.sliding_attention.is_some())
        {
            return Err(format!("`{key}` differs by kind of layer; one for all is supported"));
        }
        let part = inside(|rope| rope.partial_rotary_factor).or(self.partial_rotary_factor);
        if part.unwrap_or(1.0) != 1.0 {
            return Err("`partial_rotary_factor` is not 1; only whole heads are rotated".into());
        }
        let theta = inside(|rope| rope.rope_theta).or(self.rope_theta).unwrap_or(10_000.0);
        if !(theta > 0.0 && theta.is_finite()) {
            return Err(format!("`rope_theta` is {theta}; it must be positive"));
        }
        let kind = rope.and_then(|rope| rope.rope_type.as_deref().or(rope.old_type.as_deref()));
        let scaling = match kind {
            None | Some("default") => None,
            Some("llama3") => {
                let positive = |name: &str, value: Option<f64>| match value {
                    Some(value) if value > 0.0 && value.is_finite() => Ok(value),
                    Some(value) => Err(format!("`{key}.{name}` is {value}; it must be positive")),
                    None => Err(format!("`{key}.{name}` is missing, which `llama3` needs")),
                };
                let context = (self.original_max_position_embeddings)
                    .or(inside(|rope| rope.original_max_position_embeddings))
                    .or(Some(n_positions as f64));
                Some(Llama3 {
                    factor: positive("factor", inside(|rope| rope.factor))?,
                    low_freq_factor: positive(
                        "low_freq_factor",
                        inside(|rope| rope.low_freq_factor),
                    )?,
                    high_freq_factor: positive(
                        "high_freq_factor",
                        inside(|rope| rope.high_freq_factor),
                    )?,
                    original_context: positive("original_max_position_embeddings", context)?,
                })
            }
            Some(other) => {
                return Err(format!(
                    "`{key}.rope_type` is `{other}`; supported are `default` and `llama3`"
                ));
            }
        };
        Ok(Rotary { theta, scaling })
    }
}

/// Whether Python takes a value for false, as transformers asks of `rope_scaling`.
fn is_nothing(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        Value::Bool(true) => false,
    }
}

/// Refuses a function that is not computed.
fn supported(value: &Option<String>, key: &str, names: &[&str]) -> Result<(), String> {
    match value {
        Some(other) if !names.contains(&other.as_str()) => {
            Err(format!("`{key}` is `{other}`; only `{}` is supported", names[0]))
        }
        _ => Ok(()),
    }
}
