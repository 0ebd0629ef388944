//! What the names in a published state dict mean: which of the tensors are the model's, under the names that the model
//! has here, and what else there is.
//!
//! | program | around the model | besides |
//! | --- | --- | --- |
//! | `facebookresearch/coconut` | `base_causallm.` | `embedding.weight`, the token embeddings once more |
//! | `yingfan-bot/lotus` | the same | the same, and `ia_decoder.` |
//! | `InternLM/SIM-CoT`, Coconut | the same | the same, and `expainable_llm.`, the step decoder |
//! | `zhenyi4/codi` | `codi.`, with LoRA `codi.base_model.model.` | `prj.`, the projection of thoughts |
//! | `InternLM/SIM-CoT`, CODI | the same | the same, and `decoder.`, the step decoder |

use std::{collections::BTreeMap, path::Path};

use burn::tensor::{Device, Float, Tensor, TensorData};
use coconut_kernels::host;

use super::state_dict::StateDict;
use crate::{
    Error, Result, device,
    latent::Feedback,
    model::{
        ModelConfig,
        config::Family,
        tensors::listed,
        weights::{self, HostTensors, WeightSource, mean_row},
    },
};

/// Whose state dict it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wrapper {
    /// That of Coconut, which LOTUS writes too.
    Coconut,
    /// That of CODI.
    Codi,
    /// None: a model as Hugging Face has it.
    None,
}

/// A state dict, sorted.
#[derive(Debug)]
pub struct Layout<'a> {
    file: &'a StateDict,
    /// What stands around the model.
    pub wrapper: Wrapper,
    /// The model's tensors by their names here.
    keys: BTreeMap<String, Key<'a>>,
    /// Names of the adapters' two matrices, by the name of the weight that they are added to.
    adapters: BTreeMap<String, [Option<&'a str>; 2]>,
    /// The projection's tensors by their names without `prj.`.
    projection: BTreeMap<&'a str, Key<'a>>,
    /// A step decoder's tensors by their names in a model.
    decoder: BTreeMap<&'a str, Key<'a>>,
    /// What else there is that answers do not need.
    pub left_out: Vec<&'static str>,
    /// The token embeddings once more.
    repeated: Option<&'a str>,
}

/// A tensor in the file.
#[derive(Clone, Copy, Debug)]
struct Key<'a> {
    name: &'a str,
    shape: &'a [usize],
}

/// What the published wrappers put before the names of the model, the longest first.
const AROUND: [(&str, Wrapper); 3] = [
    ("base_causallm.", Wrapper::Coconut),
    ("codi.base_model.model.", Wrapper::Codi),
    ("codi.", Wrapper::Codi),
];

/// Tensors that some versions of transformers stored, and that `config.json` gives.
const CONSTANTS: [&str; 3] = [".attn.bias", ".attn.masked_bias", ".rotary_emb.inv_freq"];

impl<'a> Layout<'a> {
    /// Sorts the tensors of a file.
    ///
    /// # Errors
    /// Tensors that have no place in any of the layouts.
    pub fn of(file: &'a StateDict) -> Result<Self> {
        let shapes = file.shapes();
        // Around the wrapper there may be another one, of several processes.
        let parallel = shapes.iter().all(|(name, _)| name.starts_with("module."));
        let bare = |name: &'a str| if parallel { &name["module.".len()..] } else { name };
        let names = || shapes.iter().map(|(name, _)| bare(name));
        let found = AROUND.into_iter().find(|(around, _)| names().any(|n| n.starts_with(around)));
        let (around, wrapper) = found.unwrap_or(("", Wrapper::None));
        let mut layout = Self {
            file,
            wrapper,
            keys: BTreeMap::new(),
            adapters: BTreeMap::new(),
            projection: BTreeMap::new(),
            decoder: BTreeMap::new(),
            left_out: Vec::new(),
            repeated: None,
        };
        let mut unknown = Vec::new();
        for &(name, shape) in &shapes {
            let bare = bare(name);
            match bare.strip_prefix(around) {
                Some(own) => layout.model_tensor(own, name, shape),
                None if !layout.other_tensor(bare, name, shape) => {
                    unknown.push(format!("`{name}`"));
                }
                None => {}
            }
        }
        if !unknown.is_empty() {
            let problem = format!(
                "holds {} beside a model under `{around}`, which none of the published programs writes.",
                listed(&unknown)
            );
            return Err(Error::input(&file.path, "", problem));
        }
        Ok(layout)
    }

    /// A tensor of the model, `own` its name in it.
    fn model_tensor(&mut self, own: &str, name: &'a str, shape: &'a [usize]) {
        for (at, matrix) in [".lora_A.default.weight", ".lora_B.default.weight"].iter().enumerate()
        {
            if let Some(layer) = own.strip_suffix(matrix) {
                self.adapters.entry(format!("{layer}.weight")).or_default()[at] = Some(name);
                return;
            }
        }
        self.keys.insert(own.replace(".base_layer.", "."), Key { name, shape });
    }

    /// A tensor beside the model; whether it has a place in the layout.
    fn other_tensor(&mut self, bare: &'a str, name: &'a str, shape: &'a [usize]) -> bool {
        let decoder = match self.wrapper {
            Wrapper::Coconut => "expainable_llm.",
            _ => "decoder.",
        };
        let mut leave = |what| {
            if !self.left_out.contains(&what) {
                self.left_out.push(what);
            }
        };
        match (self.wrapper, bare.split_once('.')) {
            (Wrapper::Coconut, _) if bare == "embedding.weight" => self.repeated = Some(name),
            (Wrapper::Coconut, Some(("ia_decoder", _))) => {
                leave("the decoder of a loss, `ia_decoder`");
            }
            (Wrapper::Codi, Some(("pj_in" | "pj_out", _))) => {
                leave("the projections of a step decoder of another size, `pj_in` and `pj_out`");
            }
            (Wrapper::Codi, Some(("prj", part))) => {
                self.projection.insert(part, Key { name, shape });
            }
            (Wrapper::None, _) => return false,
            _ => {
                let Some(own) = bare.strip_prefix(decoder) else { return false };
                self.decoder.insert(own, Key { name, shape });
            }
        }
        true
    }

    /// Whether the model has adapters.
    pub fn has_adapters(&self) -> bool {
        !self.adapters.is_empty()
    }

    /// Whether there is a step decoder.
    pub fn has_decoder(&self) -> bool {
        !self.decoder.is_empty()
    }

    /// The rows of the token embeddings.
    ///
    /// # Errors
    /// If there are none.
    pub fn vocabulary(&self) -> Result<usize> {
        let tables = [
            "transformer.wte.weight",
            "model.embed_tokens.weight",
            "wte.weight",
            "embed_tokens.weight",
        ];
        let table = tables.iter().find_map(|table| self.keys.get(*table));
        let rows = table.and_then(|key| key.shape.first().copied()).filter(|&rows| rows > 0);
        rows.ok_or_else(|| {
            let problem =
                "holds no token embeddings, so that it is no model of a published program.";
            Error::input(&self.file.path, "", problem)
        })
    }

    /// What is fed back, by the projection that there is.
    ///
    /// # Errors
    /// A projection of other parts than CODI's.
    pub fn feedback(&self, d_model: usize) -> Result<Feedback> {
        let part = |name: &str| self.projection.get(name).map(|key| key.shape);
        let inner = part("1.bias").and_then(|shape| shape.first().copied()).unwrap_or(0);
        let linear = [
            ("1.weight", vec![inner, d_model]),
            ("1.bias", vec![inner]),
            ("3.weight", vec![d_model, inner]),
            ("3.bias", vec![d_model]),
        ];
        let norm = [("ln.weight", vec![d_model]), ("ln.bias", vec![d_model])];
        let is = |parts: &[(&str, Vec<usize>)]| {
            parts.iter().all(|(name, shape)| part(name) == Some(shape.as_slice()))
        };
        let width = inner as f64 / d_model as f64;
        let text = match self.projection.len() {
            0 => "hs[-1]".to_owned(),
            4 if is(&linear) => format!("mlp[{width}](hs[-1])"),
            6 if is(&linear) && is(&norm) => format!("ln(mlp[{width}](hs[-1]))"),
            _ => {
                let found = self.projection.iter();
                let found = found.map(|(part, key)| format!("`prj.{part}` {:?}", key.shape));
                let problem = format!(
                    "holds a projection of thoughts that is not CODI's, two linear layers and a norm for a width of {d_model}: {}.",
                    listed(&found.collect::<Vec<_>>())
                );
                return Err(Error::input(&self.file.path, "", problem));
            }
        };
        text.parse().map_err(|error| Error::input(&self.file.path, "`prj`", format!("{error}")))
    }

    /// The projection's tensors under their names here.
    ///
    /// # Errors
    /// As [`StateDict::read`].
    pub fn projection(&self) -> Result<HostTensors> {
        let mut tensors = HostTensors::new();
        for (&part, &Key { name, shape }) in &self.projection {
            let values = self.file.read(name)?;
            let (name, transposed) = match part {
                "1.weight" => ("mlp.0.c_fc.weight", true),
                "1.bias" => ("mlp.0.c_fc.bias", false),
                "3.weight" => ("mlp.0.c_proj.weight", true),
                "3.bias" => ("mlp.0.c_proj.bias", false),
                "ln.weight" => ("ln.0.weight", false),
                _ => ("ln.0.bias", false),
            };
            let tensor = match (transposed, shape) {
                (true, &[d_out, d_in]) => (vec![d_in, d_out], transpose(&values, d_out, d_in)),
                _ => (shape.to_vec(), values),
            };
            tensors.insert(format!("reinject.{name}"), tensor);
        }
        Ok(tensors)
    }

    /// The step decoder's tensors under their names here, its tables grown to the model's rows; or why it cannot be
    /// kept.
    ///
    /// # Errors
    /// As [`StateDict::read`].
    pub fn decoder(&self, config: &ModelConfig) -> Result<Result<HostTensors, String>> {
        let number = |name: &&str| name.split('.').find_map(|part| part.parse::<usize>().ok());
        let blocks = self.decoder.keys().filter_map(number).max().map_or(0, |last| last + 1);
        if blocks > config.n_layer {
            return Ok(Err(format!("it has {blocks} blocks and the model {}", config.n_layer)));
        }
        let mut shorter = config.clone();
        shorter.n_layer = blocks;
        let expected = weights::tensors(&shorter);
        let mut tensors = HostTensors::new();
        for (name, shape) in &expected {
            let table = shape.first() == Some(&config.vocab_size) && shape.len() == 2;
            let Some(&Key { name: key, shape: found }) = self.decoder.get(name.as_str()) else {
                return Ok(Err(format!("it has no `{name}`")));
            };
            let grows =
                table && found.len() == 2 && found[0] <= shape[0] && found[1..] == shape[1..];
            if found != shape && !grows {
                return Ok(Err(format!("its `{name}` is {found:?} and the model's {shape:?}")));
            }
            let mut values = self.file.read(key)?;
            if found != shape {
                let mean = mean_row(&values, shape[1]);
                (found[0]..shape[0]).for_each(|_| values.extend_from_slice(&mean));
            }
            tensors.insert(format!("decoder.{name}"), (shape.clone(), values));
        }
        let placed = |name: &str| {
            expected.iter().any(|(expected, _)| expected == name)
                || CONSTANTS.iter().any(|suffix| name.ends_with(suffix))
                || (name == "lm_head.weight" && config.tie_word_embeddings)
        };
        match self.decoder.keys().find(|name| !placed(name)) {
            Some(name) => Ok(Err(format!("its `{name}` has no place in the model"))),
            None => Ok(Ok(tensors)),
        }
    }
}

/// The model's own tensors as they are computed with: adapters added, rows of the tables where the tokenizer has them.
#[derive(Debug)]
pub struct Weights<'a> {
    layout: &'a Layout<'a>,
    family: Family,
    /// By how much an adapter's product is scaled, times its rank.
    alpha: f64,
    /// `[to, from]`: rows of the tables that are put in the place of others.
    rows: Vec<[usize; 2]>,
}

impl<'a> Weights<'a> {
    /// The model of a layout.
    ///
    /// # Errors
    /// Adapters of which one half is missing, and token embeddings that stand twice and differ.
    pub fn new(
        layout: &'a Layout<'a>,
        family: Family,
        alpha: f64,
        rows: Vec<[usize; 2]>,
    ) -> Result<Self> {
        let weights = Self { layout, family, alpha, rows };
        let path = &layout.file.path;
        for (name, halves) in &layout.adapters {
            let problem = match (halves, layout.keys.contains_key(name)) {
                ([Some(_), Some(_)], true) => continue,
                (_, false) => "has adapters, but is not there",
                _ => "has half an adapter",
            };
            return Err(Error::input(path, format!("tensor `{name}`"), format!("{problem}.")));
        }
        if let Some(repeated) = layout.repeated {
            let table = layout.keys.iter().find(|(name, _)| is_embedding(name)).map(|(_, key)| key);
            if let Some(table) = table
                && layout.file.read(table.name)? != layout.file.read(repeated)?
            {
                let problem =
                    format!("differs from `{}`, though the two are one table.", table.name);
                return Err(Error::input(path, format!("tensor `{repeated}`"), problem));
            }
        }
        Ok(weights)
    }

    /// `W + (α/r) B A`, in the layout of the family's files.
    fn adapted(&self, weight: Vec<f32>, shape: &[usize], halves: [&str; 2]) -> Result<Vec<f32>> {
        let device = device::cpu();
        let matrix = |name: &str, device: &Device| -> Result<Option<Tensor<2>>> {
            let Some(&[rows, columns]) = self.layout.file.shape(name) else { return Ok(None) };
            let values = self.layout.file.read(name)?;
            Ok(Some(host::upload(TensorData::new(values, [rows, columns]), device)))
        };
        let (Some(a), Some(b)) = (matrix(halves[0], &device)?, matrix(halves[1], &device)?) else {
            return Err(self.misfit(halves));
        };
        let ([rank, d_in], [d_out, rank_of_b]) = (a.dims(), b.dims());
        // GPT-2 stores its maps [d_in, d_out].
        let transposed = self.family == Family::Gpt2;
        let expected = if transposed { [d_in, d_out] } else { [d_out, d_in] };
        if rank != rank_of_b || rank == 0 || shape != expected {
            return Err(self.misfit(halves));
        }
        let product = b.matmul(a) * (self.alpha / rank as f64); // [d_out, d_in]
        let product = if transposed { product.transpose() } else { product };
        let sum = host::upload::<2, Float>(TensorData::new(weight, expected), &device) + product;
        device::to_host(sum)
    }

    fn misfit(&self, [a, b]: [&str; 2]) -> Error {
        let problem = format!("does not fit `{b}` and the weight that it belongs to.");
        Error::input(&self.layout.file.path, format!("tensor `{a}`"), problem)
    }
}

impl WeightSource for Weights<'_> {
    fn path(&self) -> &Path {
        &self.layout.file.path
    }

    fn shapes(&self) -> Vec<(&str, &[usize])> {
        self.layout.keys.iter().map(|(name, key)| (name.as_str(), key.shape)).collect()
    }

    fn read(&self, name: &str) -> Result<Vec<f32>> {
        let Some(&Key { name: stored, shape }) = self.layout.keys.get(name) else {
            return Err(Error::input(self.path(), format!("tensor `{name}`"), "it is missing"));
        };
        let mut values = self.layout.file.read(stored)?;
        if let Some(&[Some(a), Some(b)]) = self.layout.adapters.get(name) {
            values = self.adapted(values, shape, [a, b])?;
        }
        if let (true, &[_, width]) = (is_embedding(name) || name == "lm_head.weight", shape) {
            let row =
                |from: usize| values.get(from * width..(from + 1) * width).map(<[f32]>::to_vec);
            let moved: Vec<_> = self.rows.iter().map(|&[to, from]| (to, row(from))).collect();
            for (to, row) in moved {
                if let (Some(place), Some(row)) =
                    (values.get_mut(to * width..(to + 1) * width), row)
                {
                    place.copy_from_slice(&row);
                }
            }
        }
        Ok(values)
    }
}

/// Whether a tensor of a model is its token embeddings.
fn is_embedding(name: &str) -> bool {
    name.ends_with("wte.weight") || name.ends_with("embed_tokens.weight")
}

/// `[rows, columns]` → `[columns, rows]`.
fn transpose(values: &[f32], rows: usize, columns: usize) -> Vec<f32> {
    (0..columns).flat_map(|c| (0..rows).map(move |r| values[r * columns + c])).collect()
}
