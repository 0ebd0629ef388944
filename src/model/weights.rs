//! A model's weights under Hugging Face's names: drawn at random, read, written, and grown.

use std::{collections::BTreeMap, path::Path};

use burn::{
    module::Param,
    tensor::{Device, Tensor, TensorData},
};
use coconut_kernels::host;

pub use super::tensors::{HostTensors, WEIGHTS_FILE, read_tensors, write_tensors};
use super::{
    ModelConfig, Transformer,
    config::Family,
    gpt2::Gpt2,
    init::{Make, TensorSource},
    layers::Embedding,
    llama::Llama,
    parameters,
    tensors::{ModelFiles, listed},
    transformer::{Body, HEAD},
};
use crate::{Error, Result, device, rng};

/// The output head's key in a file, in every family.
const HEAD_KEY: &str = "lm_head.weight";

/// A model's tensors by name, wherever they are kept.
pub trait WeightSource {
    /// The file that problems are told of.
    fn path(&self) -> &Path;

    /// Names and shapes.
    fn shapes(&self) -> Vec<(&str, &[usize])>;

    /// A tensor's elements as f32, row-major.
    ///
    /// # Errors
    /// A name that is not there, and elements that no model computes with.
    fn read(&self, name: &str) -> Result<Vec<f32>>;
}

impl WeightSource for ModelFiles {
    fn path(&self) -> &Path {
        &self.path
    }

    fn shapes(&self) -> Vec<(&str, &[usize])> {
        self.shapes().collect()
    }

    fn read(&self, name: &str) -> Result<Vec<f32>> {
        self.read(name)
    }
}

impl Transformer {
    /// Random weights as the family draws them: normal with `initializer_range`, biases 0, norms 1;
    /// in GPT-2 the projections back into the residual stream are divided by `sqrt(2 · n_layer)`.
    pub fn random(config: ModelConfig, seed: u64, device: &Device) -> Self {
        let mut rng = rng::stream(seed, &[rng::WEIGHTS]);
        let std = config.initializer_range as f32;
        let residual_std = std / (2.0 * config.n_layer as f32).sqrt();
        let norm = 1.0 - config.norm_offset as f32;
        build(config, device, &mut |name, shape| {
            let elements = shape.iter().product();
            let values = if name.ends_with(".bias") {
                vec![0.0; elements]
            } else if shape.len() == 1 {
                vec![norm; elements]
            } else {
                let std = if name.ends_with("c_proj.weight") { residual_std } else { std };
                (0..elements).map(|_| std * rng::standard_normal(&mut rng)).collect()
            };
            TensorData::new(values, shape)
        })
    }

    /// A model whose every weight is 0, to be filled.
    pub fn blank(config: ModelConfig, device: &Device) -> Self {
        build(config, device, &mut |_, shape| {
            TensorData::new(vec![0f32; shape.iter().product()], shape)
        })
    }

    /// Reads `config.json` and the weights from a folder.
    ///
    /// # Errors
    /// What [`ModelConfig::load`] and [`ModelFiles::open`] refuse; all missing, unexpected and misshapen tensors
    /// together, by name; and a tensor that is not finite.
    pub fn load(folder: &Path, device: &Device) -> Result<Self> {
        Self::from_source(ModelConfig::load(folder)?, &ModelFiles::open(folder)?, device)
    }

    /// A model of a shape whose tensors come from `files`.
    ///
    /// # Errors
    /// All missing, unexpected and misshapen tensors together, by name; and a tensor that is not finite.
    pub fn from_source(
        config: ModelConfig,
        files: &dyn WeightSource,
        device: &Device,
    ) -> Result<Self> {
        let names = matched(&config, files)?;
        let mut failed = None;
        let model = build(config, device, &mut |name, shape| {
            let read = || files.read(names.get(name).map_or(name, String::as_str));
            match failed.is_none().then(read) {
                Some(Ok(values)) => TensorData::new(values, shape),
                Some(Err(error)) => {
                    failed = Some(error);
                    nothing(shape)
                }
                None => nothing(shape),
            }
        });
        failed.map_or(Ok(model), Err)
    }

    /// Refuses what [`Transformer::load`] refuses before it reads the tensors themselves.
    ///
    /// # Errors
    /// Those of [`Transformer::load`], but for tensors that are not finite.
    pub fn check(folder: &Path) -> Result<()> {
        matched(&ModelConfig::load(folder)?, &ModelFiles::open(folder)?).map(|_| ())
    }

    /// Writes `config.json` and `model.safetensors` into a folder; of a model with adapters, those
    /// alone.
    pub fn save(&self, folder: &Path) -> Result<()> {
        if let Some(lora) = &self.lora {
            return self.save_adapters(lora, folder);
        }
        let path = folder.join("config.json");
        let text = serde_json::to_string_pretty(&self.config.to_json())
            .map_err(|e| Error::Internal(format!("cannot write JSON: {e}")))?;
        std::fs::write(&path, text + "\n").map_err(Error::io("write", &path))?;
        write_tensors(&folder.join(WEIGHTS_FILE), &parameters::named(self))
    }

    /// Grows the token embeddings, and an untied head, to `rows`; fewer than there are change
    /// nothing. New rows start as copies of row `source`, or else as the mean row.
    ///
    /// # Panics
    /// If `source` is not below the vocabulary's size.
    pub fn resize_embeddings(self, rows: usize, source: Option<u32>) -> Self {
        let first = self.config.vocab_size;
        let new: Vec<u32> = (first..rows).map(|row| row as u32).collect();
        self.init_token_rows(&new, source)
    }

    /// Initialises rows of the token embeddings, and of an untied head, as copies of row `source`, or else
    /// as the mean of the rows there are. Rows beyond the last are added, so that the largest of
    /// `ids` has one.
    ///
    /// # Panics
    /// If `source` is not below the vocabulary's size.
    pub fn init_token_rows(mut self, ids: &[u32], source: Option<u32>) -> Self {
        let Some(&last) = ids.iter().max() else { return self };
        let rows = self.config.vocab_size.max(last as usize + 1);
        self.config.vocab_size = rows;
        self.tables().into_iter().for_each(|(_, table)| init_rows(table, ids, source, rows));
        self
    }
}

impl ModelConfig {
    /// Number of parameters, tied ones counted once.
    pub fn num_parameters(&self) -> usize {
        let size = |shape: &Vec<usize>| {
            shape.iter().fold(1usize, |product, &size| product.saturating_mul(size))
        };
        let tensors = tensors(self);
        tensors.iter().fold(0, |sum, (_, shape)| sum.saturating_add(size(shape)))
    }
}

/// Names and shapes of a model's tensors, under Hugging Face's keys, in the model's order.
pub fn tensors(config: &ModelConfig) -> Vec<(String, Vec<usize>)> {
    let mut tensors = Vec::new();
    build(config.clone(), &device::cpu(), &mut |name, shape| {
        tensors.push((name.to_owned(), shape.to_vec()));
        nothing(shape)
    });
    tensors
}

/// For each tensor of the model its name in the files, if every tensor of one has its place in the
/// other.
fn matched(config: &ModelConfig, files: &dyn WeightSource) -> Result<BTreeMap<String, String>> {
    let (prefix, harmless): (&str, &[&str]) = match config.family {
        // Masks that old checkpoints stored.
        Family::Gpt2 => ("transformer.", &[".attn.bias", ".attn.masked_bias"]),
        // Frequencies that old checkpoints stored; `config.json` gives them.
        _ => ("model.", &[".rotary_emb.inv_freq"]),
    };
    let expected = tensors(config);
    let embedding = expected.first().map_or("", |(name, _)| name);
    if let Some(wrapper) = wrapper(files, prefix, embedding) {
        let problem = format!(
            "every key begins with `{wrapper}`: a wrapper around the model was saved in its place. Save the model inside it, `wrapper.{}.save_pretrained(FOLDER)`, or write the keys without `{wrapper}`; `coconut import` opens what the published latent programs wrote.",
            wrapper.trim_end_matches('.')
        );
        return Err(Error::input(files.path(), "", problem));
    }
    // `GPT2Model` and `LlamaModel` write the same tensors without the prefix of `…ForCausalLM`.
    let bare = !files.shapes().into_iter().any(|(name, _)| name.starts_with(prefix));
    let full = |name: &str| match bare && name != HEAD_KEY {
        true => format!("{prefix}{name}"),
        false => name.to_owned(),
    };
    let mut found: BTreeMap<String, (&str, &[usize])> = files
        .shapes()
        .into_iter()
        .filter(|(name, _)| !harmless.iter().any(|suffix| name.ends_with(suffix)))
        .map(|(name, shape)| (full(name), (name, shape)))
        .collect();

    let (mut names, mut problems) = (BTreeMap::new(), Vec::new());
    let mut head = if config.tie_word_embeddings { found.remove(HEAD_KEY) } else { None };
    for (at, (name, shape)) in expected.into_iter().enumerate() {
        // The first tensor is the token embedding, which a tied head repeats. `save_model` of safetensors
        // keeps one of the two, and it may be the head.
        match found.remove(&name).or_else(|| head.take_if(|_| at == 0)) {
            Some((file_name, found_shape)) if found_shape == shape => {
                if let (0, Some((head, _))) = (at, head.take_if(|head| head.1 == shape))
                    && files.read(head)? != files.read(file_name)?
                {
                    problems.push(format!(
                        "`{HEAD_KEY}` differs from `{name}`, though `tie_word_embeddings` is true"
                    ));
                }
                names.insert(name, file_name.to_owned());
            }
            Some((file_name, found_shape)) => problems.push(format!(
                "`{file_name}` is {found_shape:?}, `config.json` asks for {shape:?}"
            )),
            None => problems.push(format!("`{name}` is missing")),
        }
    }
    problems.extend(found.keys().map(|name| format!("`{name}` is not part of the model")));
    if let Some((_, shape)) = head {
        problems.push(format!(
            "`{HEAD_KEY}` is {shape:?}, not the shape of the embedding it is tied to"
        ));
    }
    if problems.is_empty() {
        return Ok(names);
    }
    let problem = format!(
        "the weights do not fit `config.json`: {}. The two must come from the same model.",
        listed(&problems)
    );
    Err(Error::input(files.path(), "", problem))
}

/// What stands before every key of files that hold a wrapper around the model, `module.` among others.
/// `prefix` is the family's own, and `embedding` the full key of its token embedding.
fn wrapper<'a>(files: &'a dyn WeightSource, prefix: &str, embedding: &str) -> Option<&'a str> {
    let names = || files.shapes().into_iter().map(|(name, _)| name);
    let shared = names().reduce(|shared, name| {
        let same = shared.bytes().zip(name.bytes()).take_while(|(a, b)| a == b).count();
        &shared[..shared.floor_char_boundary(same)]
    })?;
    let parts = &shared[..=shared.rfind('.')?];
    let bare = embedding.strip_prefix(prefix).unwrap_or(embedding);
    let own = [embedding, bare, HEAD_KEY];
    if names().any(|name| own.contains(&name)) {
        return None;
    }
    let holds = |wrapper: &str| {
        names().any(|name| name.strip_prefix(wrapper).is_some_and(|name| own.contains(&name)))
    };
    let wrappers = [parts.strip_suffix(prefix).unwrap_or_default(), parts];
    wrappers.into_iter().find(|wrapper| !wrapper.is_empty() && holds(wrapper))
}

/// A model whose every tensor comes from `source(name, shape)`, in a fixed order: the one table of
/// names and shapes, together with each family's `new`.
fn build(config: ModelConfig, device: &Device, source: TensorSource) -> Transformer {
    let mut make = Make { source, device };
    let body = match config.family {
        Family::Gpt2 => Body::Gpt2(Gpt2::new(&config, &mut make)),
        _ => Body::Llama(Llama::new(&config, &mut make)),
    };
    let lm_head = (!config.tie_word_embeddings)
        .then(|| make.embedding(HEAD, config.vocab_size, config.d_model));
    Transformer { body, lm_head, config, lora: None }
}

/// No elements, in as many dimensions: a stand-in where only names and shapes are wanted.
fn nothing(shape: &[usize]) -> TensorData {
    TensorData::new(Vec::<f32>::new(), vec![0; shape.len()])
}

/// Initialises rows of one table, see [`Transformer::init_token_rows`].
fn init_rows(table: &mut Embedding, ids: &[u32], source: Option<u32>, rows: usize) {
    let before = table.weight.val().detach();
    let (device, dtype, [count, width]) = (before.device(), before.dtype(), before.dims());
    let mut values: Vec<f32> = host::data(before).iter::<f32>().collect();
    let row: Vec<f32> = match source {
        Some(source) => values[source as usize * width..][..width].to_vec(),
        None => mean_row(&values, width),
    };
    // Rows between the old end and an id beyond it are new too.
    values.reserve_exact((rows - count) * width);
    (count..rows).for_each(|_| values.extend_from_slice(&row));
    for &id in ids {
        values[id as usize * width..][..width].copy_from_slice(&row);
    }
    let data = TensorData::new(values, [rows, width]);
    let table_rows: Tensor<2> = host::upload(data, &device);
    table.weight = Param::from_tensor(table_rows.cast(dtype));
}

/// The mean of a table's rows of a width, of which there is one at least.
pub(crate) fn mean_row(values: &[f32], width: usize) -> Vec<f32> {
    let mut sums = vec![0f64; width];
    for row in values.chunks_exact(width) {
        sums.iter_mut().zip(row).for_each(|(sum, &x)| *sum += f64::from(x));
    }
    let count = (values.len() / width.max(1)).max(1) as f64;
    sums.iter().map(|sum| (sum / count) as f32).collect()
}
