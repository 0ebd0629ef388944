//! Low-rank adapters (Hu et al. 2021, arXiv 2106.09685): each chosen map `W x` becomes
//! `W x + α/r · B A x`, and only `A`, `B` and the rows of a few tokens are trained. Files are PEFT's:
//! `adapter_config.json` and `adapter_model.safetensors`.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use burn::{
    module::Param,
    tensor::{DType, Device, Tensor, TensorData},
};
use coconut_kernels::Precision;
use rand::Rng;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{
    Transformer,
    config::Family,
    layers::{Adapter, Conv1d, Factor, Linear, TokenAdapter},
    parameters::{self, Named},
    tensors::{TensorFile, listed, write_tensors},
};
use crate::{Error, Result, rng};

/// What the adapters are, as PEFT reads it.
pub const CONFIG_FILE: &str = "adapter_config.json";
/// The adapters' tensors.
pub const ADAPTER_FILE: &str = "adapter_model.safetensors";
/// Stands before every name in [`ADAPTER_FILE`].
const PREFIX: &str = "base_model.model.";

/// The adapters of a model: under PEFT's names.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Lora {
    /// The model below.
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
    /// Which maps have adapters.
    pub target_modules: Targets,
    /// Whose rows of which table are trained.
    #[serde(default, rename = "trainable_token_indices")]
    pub tokens: Option<Tokens>,
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

/// How the matrices below adapters are held in memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Frozen {
    /// In four bytes an element.
    #[default]
    F32,
    /// In two, rounded; exact where the folder below holds bf16.
    Bf16,
}

/// Which maps have adapters.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Targets {
    /// `all-linear`, or the name of one.
    One(String),
    /// Names such as `q_proj`: of every map whose path ends so.
    Many(Vec<String>),
}

/// All maps of the blocks.
pub const ALL_LINEAR: &str = "all-linear";

impl Targets {
    /// PEFT's choice where nothing is said: queries and values.
    pub fn usual(family: Family) -> Self {
        let names: &[&str] = match family {
            Family::Gpt2 => &["c_attn"],
            Family::Llama | Family::Qwen2 | Family::Qwen3 => &["q_proj", "v_proj"],
        };
        Self::Many(names.iter().map(|&name| name.into()).collect())
    }

    fn names(&self) -> &[String] {
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
    /// Of the input embedding, and of a head tied to it.
    Inputs(Vec<u32>),
    /// By the name of the table, such as `embed_tokens`.
    ByTable(BTreeMap<String, Vec<u32>>),
}

/// A map of a block that can have an adapter.
pub(super) enum Map<'a> {
    /// Stored `[d_out, d_in]`.
    Linear(&'a mut Linear),
    /// Stored `[d_in, d_out]`.
    Conv1d(&'a mut Conv1d),
}

impl Map<'_> {
    /// `d_in` and `d_out`.
    fn sizes(&self) -> [usize; 2] {
        match self {
            Self::Linear(map) => {
                let [d_out, d_in] = map.weight.dims();
                [d_in, d_out]
            }
            Self::Conv1d(map) => map.weight.dims(),
        }
    }

    fn adapter(&mut self) -> &mut Option<Adapter> {
        match self {
            Self::Linear(map) => &mut map.adapter,
            Self::Conv1d(map) => &mut map.adapter,
        }
    }

    /// Adds the adapter to the weight.
    fn merge(&mut self) {
        let Some(change) = self.adapter().take().map(|adapter| adapter.change()) else { return };
        match self {
            Self::Linear(map) => map.weight = trained(wide(&map.weight) + change),
            Self::Conv1d(map) => map.weight = trained(wide(&map.weight) + change.transpose()),
        }
    }
}

/// A weight's values in f32.
fn wide(weight: &Param<Tensor<2>>) -> Tensor<2> {
    weight.val().cast(DType::F32)
}

/// A parameter that is trained from here on.
fn trained<const D: usize>(x: Tensor<D>) -> Param<Tensor<D>> {
    Param::from_tensor(x)
}

/// Gives the values of a name and a shape.
type Source<'a> = &'a mut dyn FnMut(&str, [usize; 2]) -> Vec<f32>;

impl Transformer {
    /// Fresh adapters on a model's maps, the rows of `tokens` given apart, and everything else
    /// frozen. `A` is uniform in ±1/√d_in, as PEFT draws it, and `B` zero.
    ///
    /// # Errors
    /// A target that names none of the model's maps.
    pub fn with_lora(
        mut self,
        lora: Lora,
        tokens: &[u32],
        seed: u64,
    ) -> Result<Self, (&'static str, String)> {
        let names = self.map_names();
        let key = "lora_target_modules";
        if lora.rank == 0 {
            return Err(("lora_rank", "is 0; an adapter has at least rank 1".into()));
        }
        let all = lora.target_modules == Targets::One(ALL_LINEAR.into());
        let wanted = lora.target_modules.names();
        if let Some(none) = wanted.iter().find(|t| !all && !names.iter().any(|n| is_of(n, t))) {
            let last = |name: &String| name.rsplit('.').next().unwrap_or_default().to_owned();
            let known: std::collections::BTreeSet<String> = names.iter().map(last).collect();
            let known: Vec<String> = known.into_iter().collect();
            let problem = format!(
                "names `{none}`, which is no map of this model; expected `{ALL_LINEAR}` or some of `{}`",
                known.join("`, `")
            );
            return Err((key, problem));
        }
        let chosen: Vec<String> =
            names.into_iter().filter(|n| all || wanted.iter().any(|t| is_of(n, t))).collect();
        let tables: BTreeMap<String, Vec<u32>> =
            (self.tables().into_iter()).map(|(name, _)| (name, tokens.to_vec())).collect();
        let starts: BTreeMap<String, Vec<f32>> = (self.tables().into_iter())
            .map(|(name, table)| {
                let ids: Vec<i32> = tokens.iter().map(|&id| id as i32).collect();
                let ids = Tensor::from_data(ids.as_slice(), &table.weight.device());
                let rows = table.weight.val().select(0, ids).into_data();
                (format!("{name}.{TOKENS}"), rows.iter::<f32>().collect())
            })
            .collect();
        let mut rng = rng::stream(seed, &[rng::ADAPTERS]);
        self.adapt(lora, &chosen, &tables, &mut |name, [rows, columns]| {
            if let Some(start) = starts.get(name) {
                return start.clone();
            }
            let bound = 1.0 / (columns as f32).sqrt();
            let mut draw = || bound * (2.0 * rng.random::<f32>() - 1.0);
            let zero = name.ends_with("lora_B.weight");
            (0..rows * columns).map(|_| if zero { 0.0 } else { draw() }).collect()
        });
        Ok(self)
    }

    /// The adapters that a folder of PEFT's layout holds, on the model below. Its tables grow to hold
    /// the folder's tokens.
    ///
    /// # Errors
    /// What is not computed, and what does not fit the model, by name.
    pub fn load_adapters(mut self, lora: Lora, folder: &Path) -> Result<Self> {
        let path = folder.join(ADAPTER_FILE);
        let file = TensorFile::open(&path)?;
        let wrong = |problem: String| Error::input(&path, "", problem);
        let mut found: BTreeMap<String, Vec<usize>> = file
            .shapes()
            .map(|(name, shape)| (name.strip_prefix(PREFIX).unwrap_or(name).into(), shape.into()))
            .collect();

        let named = lora.tokens.clone();
        let mut tables: BTreeMap<String, Vec<u32>> = BTreeMap::new();
        for (at, (name, _)) in self.tables().into_iter().enumerate() {
            let ids = match &named {
                Some(Tokens::Inputs(ids)) if at == 0 => Some(ids),
                Some(Tokens::ByTable(tables)) => {
                    tables.iter().find(|(table, _)| is_of(&name, table)).map(|(_, ids)| ids)
                }
                _ => None,
            };
            tables.extend(ids.map(|ids| (name, ids.clone())));
        }
        let rows = tables.values().flatten().max().map_or(0, |&id| id as usize + 1);
        if rows > 1 << 24 {
            return Err(wrong(format!("`trainable_token_indices` names token {}", rows - 1)));
        }
        // What stands in new rows does not matter: they are all among the folder's own.
        self = self.resize_embeddings(rows, None);
        let adapted = |name: &String| found.contains_key(&format!("{name}.lora_A.weight"));
        let chosen: Vec<String> = self.map_names().into_iter().filter(adapted).collect();

        let (mut problems, mut failed) = (Vec::new(), None);
        self.adapt(lora, &chosen, &tables, &mut |name, shape| {
            let nothing = || vec![0.0; shape[0] * shape[1]];
            match found.remove(name) {
                Some(has) if has == shape => {
                    let stored = [format!("{PREFIX}{name}"), name.to_owned()];
                    let stored = stored.iter().find(|name| file.shapes().any(|s| s.0 == *name));
                    file.read(stored.map_or(name, String::as_str)).unwrap_or_else(|error| {
                        failed = Some(error);
                        nothing()
                    })
                }
                Some(has) => {
                    problems.push(format!("`{name}` is {has:?}, expected {shape:?}"));
                    nothing()
                }
                None => {
                    problems.push(format!("`{name}` is missing"));
                    nothing()
                }
            }
        });
        if let Some(error) = failed {
            return Err(error);
        }
        problems.extend(found.keys().map(|name| format!("`{name}` has no place in the model")));
        if problems.is_empty() {
            return Ok(self);
        }
        Err(wrong(format!(
            "the adapters do not fit `{CONFIG_FILE}` and the model below: {}. The three must belong together.",
            listed(&problems)
        )))
    }

    /// Holds the matrices of the blocks and the tables as `frozen` says. Without adapters nothing is
    /// frozen, and nothing changes.
    pub fn hold(mut self, frozen: Frozen) -> Self {
        if self.lora.is_none() || frozen == Frozen::F32 {
            return self;
        }
        let narrow = |weight: &mut Param<Tensor<2>>| {
            let stored = weight.val().detach().cast(DType::BF16);
            *weight = Param::from_tensor(stored).set_require_grad(false);
        };
        for (_, map) in self.maps() {
            match map {
                Map::Linear(map) => narrow(&mut map.weight),
                Map::Conv1d(map) => narrow(&mut map.weight),
            }
        }
        self.tables().into_iter().for_each(|(_, table)| narrow(&mut table.weight));
        self
    }

    /// Writes [`CONFIG_FILE`] and [`ADAPTER_FILE`].
    pub(super) fn save_adapters(&self, lora: &Lora, folder: &Path) -> Result<()> {
        let path = folder.join(CONFIG_FILE);
        let mut json = serde_json::to_value(lora).map_err(|e| Error::Training(e.to_string()))?;
        if let Value::Object(json) = &mut json {
            let fixed = json!({
                "peft_type": "LORA",
                "task_type": "CAUSAL_LM",
                "bias": "none",
                "inference_mode": true,
                // GPT-2 stores its maps [d_in, d_out].
                "fan_in_fan_out": self.config.family == Family::Gpt2,
            });
            json.extend(fixed.as_object().cloned().unwrap_or_default());
        }
        let text =
            serde_json::to_string_pretty(&json).map_err(|e| Error::Training(e.to_string()))?;
        std::fs::write(&path, text + "\n").map_err(Error::io("write", &path))?;
        let adapters: Named = (parameters::named(self).into_iter())
            .filter(|(name, _)| is_adapter(name))
            .map(|(name, flat)| (format!("{PREFIX}{name}"), flat))
            .collect();
        write_tensors(&folder.join(ADAPTER_FILE), &adapters)
    }

    /// The same function without adapters: each is added to its map, and rows given apart are put
    /// back in their tables. Everything is trainable again.
    pub fn merged(mut self) -> Self {
        if self.lora.take().is_none() {
            return self;
        }
        self.maps().into_iter().for_each(|(_, mut map)| map.merge());
        for (_, table) in self.tables() {
            table.weight = trained(table.table(Precision::F32).whole());
            table.token_adapter = None;
        }
        parameters::set_trained(self, |_| true)
    }

    /// Puts adapters on the `chosen` maps, and rows apart on the `tables`, from `source`.
    fn adapt(
        &mut self,
        mut lora: Lora,
        chosen: &[String],
        tables: &BTreeMap<String, Vec<u32>>,
        source: Source,
    ) {
        let device = self.device();
        let (rank, dropout) = (lora.rank, lora.dropout);
        let scale = lora.alpha / rank as f64;
        for (name, mut map) in self.maps() {
            if !chosen.contains(&name) {
                continue;
            }
            let [d_in, d_out] = map.sizes();
            let mut factor = |which: &str, shape| Factor {
                weight: matrix(source(&format!("{name}.{which}.weight"), shape), shape, &device),
            };
            *map.adapter() = Some(Adapter {
                a: factor("lora_A", [rank, d_in]),
                b: factor("lora_B", [d_out, rank]),
                scale,
                dropout,
            });
        }
        for (name, table) in self.tables() {
            let Some(ids) = tables.get(&name) else { continue };
            let shape = [ids.len(), table.weight.dims()[1]];
            let rows = source(&format!("{name}.{TOKENS}"), shape);
            table.token_adapter = Some(TokenAdapter {
                trainable_tokens_delta: matrix(rows, shape, &device),
                ids: ids.clone(),
            });
        }
        // PEFT's names for tables are the last part of ours.
        let short = |name: &String| name.rsplit('.').next().unwrap_or_default().to_owned();
        let named = tables.iter().map(|(name, ids)| (short(name), ids.clone())).collect();
        lora.tokens = (!tables.is_empty()).then_some(Tokens::ByTable(named));
        self.lora = Some(lora);
        *self = parameters::set_trained(self.clone(), is_adapter);
    }

    fn map_names(&mut self) -> Vec<String> {
        self.maps().into_iter().map(|(name, _)| name).collect()
    }
}

/// The key of rows given apart, after their table's.
const TOKENS: &str = "token_adapter.trainable_tokens_delta";

/// Whether a parameter of this name is an adapter's.
fn is_adapter(name: &str) -> bool {
    name.ends_with(".lora_A.weight") || name.ends_with(".lora_B.weight") || name.ends_with(TOKENS)
}

/// Whether `target` names the map or table at `path`: it is the path, or the end of it.
fn is_of(path: &str, target: &str) -> bool {
    path.strip_suffix(target).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

fn matrix(values: Vec<f32>, shape: [usize; 2], device: &Device) -> Param<Tensor<2>> {
    Param::from_tensor(Tensor::from_data(TensorData::new(values, shape), device))
}

impl Lora {
    /// Adapters of PEFT's usual shape: scale 1, no dropout.
    pub fn new(rank: usize, target_modules: Targets) -> Self {
        let (base, alpha) = (Base::default(), rank as f64);
        Self { base, rank, alpha, dropout: 0.0, target_modules, tokens: None }
    }

    /// Reads [`CONFIG_FILE`] in a folder; `None` if there is none, as in a folder of a whole model.
    ///
    /// # Errors
    /// A malformed file, and by its key what would change the result and is not computed.
    pub fn find(folder: &Path) -> Result<Option<Self>> {
        let path: PathBuf = folder.join(CONFIG_FILE);
        if !path.is_file() {
            return Ok(None);
        }
        let wrong = |problem: String| Error::input(&path, "", problem);
        let text = std::fs::read_to_string(&path).map_err(Error::io("read", &path))?;
        let json: Value = serde_json::from_str(&text)
            .map_err(|e| wrong(format!("{e}. Expected PEFT's `{CONFIG_FILE}`.")))?;
        if json["peft_type"] != "LORA" {
            let problem =
                format!("`peft_type` is {}; only \"LORA\" is computed.", json["peft_type"]);
            return Err(wrong(problem));
        }
        for key in [
            "use_dora",
            "use_rslora",
            "use_qalora",
            "use_bdlora",
            "lora_bias",
            "rank_pattern",
            "alpha_pattern",
            "modules_to_save",
            "target_parameters",
            "alora_invocation_tokens",
            "arrow_config",
            "layer_replication",
        ] {
            let empty = match &json[key] {
                Value::Null | Value::Bool(false) => true,
                Value::Object(map) => map.is_empty(),
                Value::Array(list) => list.is_empty(),
                _ => false,
            };
            if !empty {
                return Err(wrong(format!("`{key}` is {}; it is not computed.", json[key])));
            }
        }
        if json.get("bias").is_some_and(|bias| *bias != "none") {
            return Err(wrong(format!("`bias` is {}; only \"none\" is computed.", json["bias"])));
        }
        let lora: Self = serde_json::from_value(json)
            .map_err(|e| wrong(format!("{e}. Expected PEFT's `{CONFIG_FILE}`.")))?;
        if lora.rank == 0 || lora.rank > 1 << 16 {
            return Err(wrong(format!("`r` is {}; it must be between 1 and 65536.", lora.rank)));
        }
        Ok(Some(lora))
    }
}
