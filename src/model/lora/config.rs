//! What adapters are, as PEFT's `adapter_config.json` says it, and what of it is not computed.

use std::collections::BTreeMap;

use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{DeserializeOwned, Error as _},
};
use serde_json::{Map, Value};

use crate::model::config::Family;

/// The file that says what the adapters are.
pub const CONFIG_FILE: &str = "adapter_config.json";
/// The file that holds the adapters' tensors.
pub const ADAPTER_FILE: &str = "adapter_model.safetensors";

/// What the adapters of a model are, under PEFT's names.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Lora {
    /// The model that the adapters stand on.
    #[serde(flatten)]
    pub base: Base,
    /// `r`: rows of `A`, columns of `B`.
    #[serde(rename = "r")]
    pub rank: usize,
    /// `α`: adapters are scaled by `α/r`.
    #[serde(rename = "lora_alpha")]
    pub alpha: f64,
    /// Probability of dropout of an adapter's input.
    #[serde(rename = "lora_dropout", default)]
    pub dropout: f64,
    /// Which linear layers have adapters.
    pub target_modules: Targets,
    /// The token ids whose rows of the tables are trained.
    #[serde(default, rename = "trainable_token_indices")]
    pub tokens: Option<Tokens>,
    /// Ranks of some linear layers, in place of `rank`.
    #[serde(default, skip_serializing_if = "Pattern::is_empty")]
    pub rank_pattern: Pattern<usize>,
    /// `α` of some linear layers, in place of `alpha`.
    #[serde(default, skip_serializing_if = "Pattern::is_empty")]
    pub alpha_pattern: Pattern<f64>,
    /// Whether adapters are scaled by `α/√r` (Kalajdzievski 2023, arXiv 2312.03732).
    #[serde(default, rename = "use_rslora", skip_serializing_if = "std::ops::Not::not")]
    pub rank_stabilised: bool,
    /// Tables that the folder holds whole, in place of those of the model below.
    #[serde(default, rename = "modules_to_save", skip_serializing_if = "Option::is_none")]
    pub whole_tables: Option<Vec<String>>,
}

/// Values for some linear layers, by names such as `v_proj`; the first name that fits a layer counts.
#[derive(Clone, Debug, PartialEq)]
pub struct Pattern<T>(Vec<(String, T)>);

impl<T: Copy> Pattern<T> {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn get(&self, layer: &str) -> Option<T> {
        self.0.iter().find(|(name, _)| names(layer, name)).map(|&(_, value)| value)
    }
}

impl<T> Default for Pattern<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T: Serialize> Serialize for Pattern<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, value)| (name, value)))
    }
}

impl<'de, T: DeserializeOwned> Deserialize<'de> for Pattern<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // The map keeps the order of the file.
        let map = Map::<String, Value>::deserialize(deserializer)?;
        let entry = |(name, value): (String, Value)| {
            // PEFT takes names for regular expressions.
            match name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '.') {
                true => Ok((name, serde_json::from_value(value).map_err(D::Error::custom)?)),
                false => Err(D::Error::custom(format!(
                    "`{name}` in a pattern is a regular expression; names alone are read"
                ))),
            }
        };
        map.into_iter().map(entry).collect::<Result<_, _>>().map(Self)
    }
}

/// The model that adapters stand on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Base {
    /// A folder, or `org/name`.
    #[serde(rename = "base_model_name_or_path")]
    pub name: String,
    /// The revision of `org/name`.
    #[serde(default)]
    pub revision: Option<String>,
}

/// The type in which the matrices below adapters are stored in memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FrozenDtype {
    /// Four bytes an element.
    #[default]
    F32,
    /// Two bytes an element, rounded; exact where the folder below holds bf16.
    Bf16,
}

/// Which linear layers have adapters.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Targets {
    /// `all-linear`, or one name.
    One(String),
    /// Names such as `q_proj`, each of every layer whose path ends so.
    Many(Vec<String>),
}

/// The target that names all linear layers of the blocks.
pub const ALL_LINEAR: &str = "all-linear";

impl Targets {
    /// PEFT's choice where nothing is said: queries and values.
    pub fn default_for(family: Family) -> Self {
        let names: &[&str] = match family {
            Family::Gpt2 => &["c_attn"],
            _ => &["q_proj", "v_proj"],
        };
        Self::Many(names.iter().map(|&name| name.into()).collect())
    }

    pub(super) fn names(&self) -> &[String] {
        match self {
            Self::One(name) => std::slice::from_ref(name),
            Self::Many(names) => names,
        }
    }
}

/// Tokens whose rows are trained: of the input embedding, or by table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Tokens {
    /// Rows of the input embedding, and of a head tied to it.
    Inputs(Vec<u32>),
    /// Rows by the name of the table, such as `embed_tokens`.
    ByTable(BTreeMap<String, Vec<u32>>),
}

impl Lora {
    /// Adapters of scale 1 without dropout.
    pub fn new(rank: usize, target_modules: Targets) -> Self {
        Self {
            base: Base::default(),
            rank,
            alpha: rank as f64,
            dropout: 0.0,
            target_modules,
            tokens: None,
            rank_pattern: Pattern::default(),
            alpha_pattern: Pattern::default(),
            rank_stabilised: false,
            whole_tables: None,
        }
    }

    /// The rank of a linear layer's adapter.
    pub(super) fn rank_of(&self, layer: &str) -> usize {
        self.rank_pattern.get(layer).unwrap_or(self.rank)
    }

    /// By how much the adapter's part of a linear layer's output is scaled.
    pub(super) fn scale_of(&self, layer: &str) -> f64 {
        let (alpha, rank) =
            (self.alpha_pattern.get(layer).unwrap_or(self.alpha), self.rank_of(layer) as f64);
        alpha / if self.rank_stabilised { rank.sqrt() } else { rank }
    }

    /// Adapters from the text of PEFT's `adapter_config.json`.
    ///
    /// # Errors
    /// Malformed text, and by its key what would change the result and is not computed.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let malformed = |e: serde_json::Error| format!("{e}. Expected PEFT's `{CONFIG_FILE}`.");
        let mut json: Map<String, Value> = serde_json::from_str(text).map_err(malformed)?;
        refuse_uncomputed(&json)?;
        json.retain(|_, value| !value.is_null()); // what is null is as if it were not there
        let lora: Self = serde_json::from_value(Value::Object(json)).map_err(malformed)?;
        let ranks = lora.rank_pattern.0.iter().map(|&(_, rank)| rank).chain([lora.rank]);
        match ranks.into_iter().find(|rank| !(1..=1 << 16).contains(rank)) {
            Some(rank) => Err(format!("`r` is {rank}; it must be between 1 and 65536.")),
            None => Ok(lora),
        }
    }
}

/// Keys of PEFT's files that are read, or that have no part in what the adapters compute.
const KNOWN_KEYS: [&str; 29] = [
    "auto_mapping",
    "alpha_pattern",
    "base_model_name_or_path",
    "bias",
    "corda_config",
    "ensure_weight_tying",
    "eva_config",
    "exclude_modules",
    "fan_in_fan_out",
    "inference_mode",
    "init_lora_weights",
    "layers_pattern",
    "layers_to_transform",
    "loftq_config",
    "lora_alpha",
    "lora_dropout",
    "lora_ga_config",
    "megatron_core",
    "modules_to_save",
    "peft_type",
    "peft_version",
    "qalora_group_size",
    "r",
    "rank_pattern",
    "revision",
    "target_modules",
    "task_type",
    "trainable_token_indices",
    "use_rslora",
];

/// What remains to users whose adapters are not computed here.
const MERGE_WITH_PEFT: &str = "PEFT can make a whole model of them, which is read: `model.merge_and_unload().save_pretrained(FOLDER)`";

/// Refuses by its key what would change the result and is not computed.
fn refuse_uncomputed(json: &Map<String, Value>) -> Result<(), String> {
    let get = |key: &str| json.get(key).unwrap_or(&Value::Null);
    let refused =
        |key: &str, why: &str| Err(format!("`{key}` is {}; {why}. {MERGE_WITH_PEFT}.", get(key)));
    if *get("peft_type") != "LORA" {
        return refused("peft_type", "only \"LORA\" is computed");
    }
    // Keys of other versions too: what is set there and not known here may be another computation.
    let set = |value: &Value| match value {
        Value::Null | Value::Bool(false) => false,
        Value::Object(map) => !map.is_empty(),
        Value::Array(list) => !list.is_empty(),
        _ => true,
    };
    if let Some((key, _)) =
        json.iter().find(|(key, value)| set(value) && !KNOWN_KEYS.contains(&key.as_str()))
    {
        return refused(key, "it is not computed");
    }
    if !get("bias").is_null() && *get("bias") != "none" {
        return refused("bias", "only \"none\" is computed");
    }
    let on_the_base = match get("init_lora_weights") {
        Value::Null | Value::Bool(_) => true,
        Value::String(word) => ["gaussian", "orthogonal", "eva"].contains(&word.as_str()),
        _ => false,
    };
    if !on_the_base {
        let why = "such adapters may stand on weights that PEFT changed when it made them, not on those of the model below. Write them as plain ones, `model.save_pretrained(FOLDER, path_initial_model_for_weight_conversion=INITIAL)` with the folder of the adapters before training";
        return refused("init_lora_weights", why);
    }
    let listed = |key: &str| get(key).as_array().into_iter().flatten().filter_map(Value::as_str);
    if let Some(name) = listed("modules_to_save").find(|name| !is_table(name)) {
        return Err(format!(
            "`modules_to_save` names `{name}`; whole token embeddings and output heads are read, other modules are not. {MERGE_WITH_PEFT}."
        ));
    }
    if let Some(name) = listed("target_modules").find(|name| is_table(name)) {
        return Err(format!(
            "`target_modules` names `{name}`; adapters of the linear layers in the blocks are computed, those of the token embeddings and the output head are not. {MERGE_WITH_PEFT}."
        ));
    }
    Ok(())
}

/// Whether a name is that of a table of token embeddings or of an output head, in any family.
fn is_table(name: &str) -> bool {
    ["model.embed_tokens", "transformer.wte", "lm_head"].iter().any(|table| names(table, name))
}

/// Whether `target` names the layer or table at `path`: it is the path, or the end of it.
pub(super) fn names(path: &str, target: &str) -> bool {
    path.strip_suffix(target).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}
