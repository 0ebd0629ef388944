//! What each family's `config.json` says, with the defaults that `transformers` gives to what it
//! leaves out.

mod llama;

use std::path::Path;

use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Map, Value};

use llama::Llama;

use super::{
    ModelConfig,
    config::{Activation, Dropout, Family},
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
        let activation = match self.activation_function.as_deref() {
            None => Activation::GeluTanh,
            Some(name) if GELU_TANH.contains(&name) => Activation::GeluTanh,
            Some(name) if GELU_EXACT.contains(&name) => Activation::Gelu,
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
            activation,
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
