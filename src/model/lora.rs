//! Low-rank adapters (Hu et al. 2021, arXiv 2106.09685): each chosen map `W x` becomes
//! `W x + α/r · B A x`, and only `A`, `B` and the rows of a few tokens are trained. Files are PEFT's:
//! `adapter_config.json` and `adapter_model.safetensors`.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use burn::{
    module::Param,
    tensor::{DType, Device, Tensor, TensorData},
};
use coconut_kernels::Precision;
use rand::Rng;
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{DeserializeOwned, Error as _},
};
use serde_json::{Map, Value, json};

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
/// What stands in its place where PEFT pickled them, always before its version 0.5.
const PICKLED_FILE: &str = "adapter_model.bin";
/// The output head, in every family.
const HEAD: &str = "lm_head";
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
    /// Ranks of some maps in place of `rank`.
    #[serde(default, skip_serializing_if = "Pattern::is_empty")]
    pub rank_pattern: Pattern<usize>,
    /// `α` of some maps in place of `alpha`.
    #[serde(default, skip_serializing_if = "Pattern::is_empty")]
    pub alpha_pattern: Pattern<f64>,
    /// Whether adapters are scaled by `α/√r` (Kalajdzievski 2023, arXiv 2312.03732).
    #[serde(default, rename = "use_rslora", skip_serializing_if = "std::ops::Not::not")]
    pub rank_stabilised: bool,
    /// Tables that the folder holds whole, in place of those of the model below.
    #[serde(default, rename = "modules_to_save", skip_serializing_if = "Option::is_none")]
    pub whole_tables: Option<Vec<String>>,
}

/// Values for some maps, by names such as `v_proj`; the first that names a map counts.
#[derive(Clone, Debug, PartialEq)]
pub struct Pattern<T>(Vec<(String, T)>);

impl<T: Copy> Pattern<T> {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn get(&self, map: &str) -> Option<T> {
        self.0.iter().find(|(name, _)| is_of(map, name)).map(|&(_, value)| value)
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
pub(super) enum LinearMut<'a> {
    /// Stored `[d_out, d_in]`.
    Linear(&'a mut Linear),
    /// Stored `[d_in, d_out]`.
    Conv1d(&'a mut Conv1d),
}

impl LinearMut<'_> {
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
            let known: BTreeSet<&str> = names.iter().map(|name| last_part(name)).collect();
            let known: Vec<&str> = known.into_iter().collect();
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
    /// the folder's tokens, or are the folder's own where it holds whole ones.
    ///
    /// # Errors
    /// What is not computed, and what does not fit the model, by name.
    pub fn load_adapters(mut self, mut lora: Lora, folder: &Path) -> Result<Self> {
        let mut file = AdapterFile::open(folder)?;
        let mut rows = self.token_rows(&lora);
        if self.take_tables(&lora, &mut rows, &mut file) {
            // Written again, the folder names both, as they are now.
            let embedding = last_part(self.embedding_name()).into();
            lora.whole_tables = Some(vec![embedding, HEAD.into()]);
        }
        let needed = rows.values().flatten().max().map_or(0, |&id| id as usize + 1);
        if needed > MOST_ROWS {
            file.problems.push(format!("`trainable_token_indices` names token {}", needed - 1));
            return file.finish().map(|()| self);
        }
        // What stands in new rows does not matter: they are all among the folder's own.
        self = self.resize_embeddings(needed, None);
        let mut chosen = self.map_names();
        chosen.retain(|name| file.has(&format!("{name}.lora_A.weight")));
        self.adapt(lora, &chosen, &rows, &mut |name, shape| file.take(name, shape));
        file.finish().map(|()| self)
    }

    /// The token ids that `trainable_token_indices` names, by table.
    fn token_rows(&mut self, lora: &Lora) -> BTreeMap<String, Vec<u32>> {
        let tables = self.tables().into_iter().map(|(name, _)| name).enumerate();
        let named = tables.filter_map(|(at, name)| {
            let ids = match lora.tokens.as_ref()? {
                Tokens::Inputs(ids) => (at == 0).then_some(ids),
                Tokens::ByTable(tables) => {
                    tables.iter().find(|(table, _)| is_of(&name, table)).map(|(_, ids)| ids)
                }
            };
            Some((name, ids?.clone()))
        });
        named.collect()
    }

    /// Puts the whole tables that a file holds in place of the model's, and tells whether it holds any. The
    /// `rows` that the file gives for such a table are put into it, and out of the list.
    ///
    /// PEFT writes whole tables for `modules_to_save`, each then a table of its own even where the model below ties
    /// them, and after the vocabulary was resized, where tied ones stay tied.
    fn take_tables(
        &mut self,
        lora: &Lora,
        rows: &mut BTreeMap<String, Vec<u32>>,
        file: &mut AdapterFile,
    ) -> bool {
        let (width, tied) = (self.config.d_model, self.config.tied);
        let embedding = self.embedding_name();
        let [own, head] = [embedding, HEAD].map(|name| {
            let ids = rows.get(name).or(rows.get(embedding).filter(|_| tied));
            file.take_table(name, width, ids.map_or(&[], Vec::as_slice))
        });
        let named = |name: &str| lora.whole_tables.iter().flatten().any(|table| is_of(name, table));
        for (name, found) in [(embedding, &own), (HEAD, &head)] {
            if found.is_none() && named(name) {
                file.problems.push(format!("`{name}.weight` is missing"));
            }
        }
        let split = match (&own, &head) {
            (Some(own), Some(head)) => own != head,
            (Some(_), None) => named(embedding),
            (None, Some(_)) => named(HEAD),
            (None, None) => return false,
        };
        if tied && split {
            self.lm_head = Some(self.tokens().clone());
            self.config.untie();
        }
        let (tied, device) = (self.config.tied, self.device());
        for (name, table) in self.tables() {
            let whole = match name == HEAD {
                true => head.as_ref(),
                false => own.as_ref().or(head.as_ref().filter(|_| tied)),
            };
            let Some(values) = whole else { continue };
            table.weight = matrix(values.clone(), [values.len() / width, width], &device);
            rows.remove(&name);
        }
        let sizes: Vec<usize> =
            self.tables().iter().map(|(_, table)| table.weight.dims()[0]).collect();
        if sizes.iter().any(|&size| size != sizes[0]) {
            file.problems.push(format!("its tables have {sizes:?} rows"));
        }
        self.config.vocab_size = sizes[0];
        true
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
                LinearMut::Linear(map) => narrow(&mut map.weight),
                LinearMut::Conv1d(map) => narrow(&mut map.weight),
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
        let mut tensors = parameters::named(self);
        let mut whole = Vec::new();
        if lora.whole_tables.is_some() {
            whole = [self.embedding_name(), HEAD].map(|table| format!("{table}.weight")).to_vec();
            // Of a tied table PEFT makes two, which are alike.
            if let Some(embedding) = tensors.get(&whole[0]).cloned() {
                tensors.entry(whole[1].clone()).or_insert(embedding);
            }
        }
        let adapters: Named = (tensors.into_iter())
            .filter(|(name, _)| is_adapter(name) || whole.contains(name))
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
        for (name, mut map) in self.maps() {
            if !chosen.contains(&name) {
                continue;
            }
            let rank = lora.rank_of(&name);
            let [d_in, d_out] = map.sizes();
            let mut factor = |which: &str, shape| Factor {
                weight: matrix(source(&format!("{name}.{which}.weight"), shape), shape, &device),
            };
            *map.adapter() = Some(Adapter {
                a: factor("lora_A", [rank, d_in]),
                b: factor("lora_B", [d_out, rank]),
                scale: lora.scale_of(&name),
                dropout: lora.dropout,
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
        let named =
            tables.iter().map(|(name, ids)| (last_part(name).to_owned(), ids.clone())).collect();
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

/// `wte` of `transformer.wte`.
fn last_part(path: &str) -> &str {
    path.rsplit('.').next().unwrap_or(path)
}

/// Whether `target` names the map or table at `path`: it is the path, or the end of it.
fn is_of(path: &str, target: &str) -> bool {
    path.strip_suffix(target).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

fn matrix(values: Vec<f32>, shape: [usize; 2], device: &Device) -> Param<Tensor<2>> {
    Param::from_tensor(Tensor::from_data(TensorData::new(values, shape), device))
}

/// Most rows of a table, as in [`super::ModelConfig::check`].
const MOST_ROWS: usize = 1 << 24;

/// [`ADAPTER_FILE`], and which of its tensors have found their place in the model.
struct AdapterFile {
    path: PathBuf,
    file: TensorFile,
    /// By the name in the model, the file's own name and the shape of each tensor that is still to be placed.
    left: BTreeMap<String, (String, Vec<usize>)>,
    problems: Vec<String>,
    failed: Option<Error>,
}

impl AdapterFile {
    fn open(folder: &Path) -> Result<Self> {
        let path = folder.join(ADAPTER_FILE);
        let pickled = folder.join(PICKLED_FILE);
        if !path.exists() && pickled.exists() {
            let problem = format!(
                "adapters as pickled Python, which could run any program when it is read and is not. Write them again as `{ADAPTER_FILE}`: load them with `PeftModel.from_pretrained(model, FOLDER)` and save them with `save_pretrained(FOLDER)`."
            );
            return Err(Error::input(pickled, "", problem));
        }
        let file = TensorFile::open(&path)?;
        let tensor = |(name, shape): (&str, &[usize])| {
            let own = name.strip_prefix(PREFIX).unwrap_or(name).to_owned();
            (own, (name.to_owned(), shape.to_vec()))
        };
        let left = file.shapes().map(tensor).collect();
        Ok(Self { path, file, left, problems: Vec::new(), failed: None })
    }

    fn has(&self, name: &str) -> bool {
        self.left.contains_key(name)
    }

    /// A tensor of a name and a shape; zeros if it is not there, which [`AdapterFile::finish`] reports.
    fn take(&mut self, name: &str, shape: [usize; 2]) -> Vec<f32> {
        let stored = match self.left.remove(name) {
            Some((stored, found)) if found == shape => stored,
            Some((_, found)) => {
                self.problems.push(format!("`{name}` is {found:?}, expected {shape:?}"));
                return vec![0.0; shape[0] * shape[1]];
            }
            None => {
                self.problems.push(format!("`{name}` is missing"));
                return vec![0.0; shape[0] * shape[1]];
            }
        };
        self.file.read(&stored).unwrap_or_else(|error| {
            self.failed = Some(error);
            vec![0.0; shape[0] * shape[1]]
        })
    }

    /// A whole table of rows of `width`, if the file holds it, with the rows `ids` that it holds apart.
    fn take_table(&mut self, name: &str, width: usize, ids: &[u32]) -> Option<Vec<f32>> {
        let below = format!("{name}.token_adapter.base_layer.weight"); // where rows stand apart
        let key = [format!("{name}.weight"), below].into_iter().find(|key| self.has(key))?;
        // The same table once more, and the one below it, which nothing reads.
        self.left.remove(&format!("{name}.modules_to_save.weight"));
        self.left.remove(&format!("{name}.original_module.weight"));
        let rows = self.left.get(&key).and_then(|(_, shape)| shape.first().copied()).unwrap_or(0);
        if rows == 0 || rows > MOST_ROWS {
            self.problems.push(format!("`{key}` has {rows} rows"));
            return None;
        }
        let mut table = self.take(&key, [rows, width]);
        let apart = format!("{name}.{TOKENS}");
        if self.has(&apart) {
            let values = self.take(&apart, [ids.len(), width]);
            for (&id, values) in ids.iter().zip(values.chunks_exact(width)) {
                match table.get_mut(id as usize * width..).and_then(|rest| rest.get_mut(..width)) {
                    Some(row) => row.copy_from_slice(values),
                    None => self.problems.push(format!("`{key}` has no row {id}")),
                }
            }
        }
        Some(table)
    }

    /// # Errors
    /// All that did not fit, by name, and what was left over.
    fn finish(mut self) -> Result<()> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        let left = self.left.keys().map(|name| format!("`{name}` has no place in the model"));
        self.problems.extend(left);
        if self.problems.is_empty() {
            return Ok(());
        }
        let problem = format!(
            "the adapters do not fit `{CONFIG_FILE}` and the model below: {}. The three must belong together.",
            listed(&self.problems)
        );
        Err(Error::input(&self.path, "", problem))
    }
}

impl Lora {
    /// Adapters of PEFT's usual shape: scale 1, no dropout.
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

    /// The rank of a map's adapter.
    fn rank_of(&self, map: &str) -> usize {
        self.rank_pattern.get(map).unwrap_or(self.rank)
    }

    /// By how much the change of a map is scaled.
    fn scale_of(&self, map: &str) -> f64 {
        let (alpha, rank) =
            (self.alpha_pattern.get(map).unwrap_or(self.alpha), self.rank_of(map) as f64);
        alpha / if self.rank_stabilised { rank.sqrt() } else { rank }
    }

    /// Reads [`CONFIG_FILE`] in a folder; `None` if there is none, as in a folder of a whole model.
    ///
    /// # Errors
    /// A malformed file, and by its key what would change the result and is not computed. A folder that
    /// holds neither adapters nor a model, with the folders in it that hold adapters.
    pub fn find(folder: &Path) -> Result<Option<Self>> {
        let path: PathBuf = folder.join(CONFIG_FILE);
        if !path.is_file() {
            return match adapters_inside(folder).as_slice() {
                [] => Ok(None),
                _ if folder.join("config.json").exists() => Ok(None),
                [first, ..] => {
                    let problem = format!(
                        "holds no model, but a folder of adapters under their name, as PEFT writes them. Give the path {}.",
                        first.display()
                    );
                    Err(Error::input(folder, "", problem))
                }
            };
        }
        let wrong = |problem: String| Error::input(&path, "", problem);
        let text = std::fs::read_to_string(&path).map_err(Error::io("read", &path))?;
        let mut json: Map<String, Value> = serde_json::from_str(&text)
            .map_err(|e| wrong(format!("{e}. Expected PEFT's `{CONFIG_FILE}`.")))?;
        refuse_uncomputed(&json).map_err(wrong)?;
        json.retain(|_, value| !value.is_null()); // what is null is as if it were not there
        let lora: Self = serde_json::from_value(Value::Object(json))
            .map_err(|e| wrong(format!("{e}. Expected PEFT's `{CONFIG_FILE}`.")))?;
        let ranks = lora.rank_pattern.0.iter().map(|&(_, rank)| rank).chain([lora.rank]);
        if let Some(rank) = ranks.into_iter().find(|rank| !(1..=1 << 16).contains(rank)) {
            return Err(wrong(format!("`r` is {rank}; it must be between 1 and 65536.")));
        }
        Ok(Some(lora))
    }
}

/// The folders in a folder that hold adapters, in order.
fn adapters_inside(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut found: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    found.retain(|path| path.join(CONFIG_FILE).is_file());
    found.sort();
    found
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
    let names = |key: &str| get(key).as_array().into_iter().flatten().filter_map(Value::as_str);
    if let Some(name) = names("modules_to_save").find(|name| !is_table(name)) {
        return Err(format!(
            "`modules_to_save` names `{name}`; whole token embeddings and output heads are read, other modules are not. {MERGE_WITH_PEFT}."
        ));
    }
    if let Some(name) = names("target_modules").find(|name| is_table(name)) {
        return Err(format!(
            "`target_modules` names `{name}`; adapters of the maps in the blocks are computed, those of the token embeddings and the output head are not. {MERGE_WITH_PEFT}."
        ));
    }
    Ok(())
}

/// Whether a name is that of a table of token embeddings or of an output head, in any family.
fn is_table(name: &str) -> bool {
    ["model.embed_tokens", "transformer.wte", HEAD].iter().any(|table| is_of(table, name))
}
