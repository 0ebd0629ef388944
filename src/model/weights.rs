//! Weights under Hugging Face's names: drawn at random, read from and written to safetensors.

use std::{collections::BTreeMap, collections::HashMap, path::Path};

use burn::{
    module::Param,
    tensor::{DType, Device, Tensor, TensorData},
};
use safetensors::{Dtype, SafeTensors, tensor::TensorView};

use super::{
    ModelConfig, Transformer,
    layers::{Attention, Block, Embedding, LayerNorm, Linear, Mlp},
    parameters::{self, Named},
    transformer::Stack,
};
use crate::{Error, Result, rng};

/// The file that holds a checkpoint's weights.
pub const WEIGHTS_FILE: &str = "model.safetensors";

impl Transformer {
    /// Random weights as GPT-2 draws them: normal with `initializer_range`, the projections back
    /// into the residual stream divided by `sqrt(2 · n_layer)`, biases 0, norms 1.
    pub fn random(config: ModelConfig, seed: u64, device: &Device) -> Self {
        let mut rng = rng::stream(seed, &[rng::WEIGHTS]);
        let std = config.initializer_range as f32;
        let residual_std = std / (2.0 * config.n_layer as f32).sqrt();
        build(config, device, &mut |name, shape| {
            let elements = shape.iter().product();
            if name.ends_with(".bias") {
                vec![0.0; elements]
            } else if shape.len() == 1 {
                vec![1.0; elements]
            } else {
                let std = if name.ends_with("c_proj.weight") { residual_std } else { std };
                (0..elements).map(|_| std * rng::standard_normal(&mut rng)).collect()
            }
        })
    }

    /// Reads `config.json` and `model.safetensors` from a folder.
    ///
    /// # Errors
    /// All missing, unexpected and misshapen tensors together, by name.
    pub fn load(folder: &Path, device: &Device) -> Result<Self> {
        let config = ModelConfig::load(folder)?;
        let path = folder.join(WEIGHTS_FILE);
        let mut found = read_tensors(&path)?;
        // `GPT2Model` writes the same tensors without the prefix of `GPT2LMHeadModel`.
        if !found.keys().any(|name| name.starts_with("transformer.")) {
            found = found.into_iter().map(|(name, t)| (format!("transformer.{name}"), t)).collect();
        }
        // Masks that old checkpoints stored as buffers.
        found.retain(|name, _| {
            !name.ends_with(".attn.bias") && !name.ends_with(".attn.masked_bias")
        });
        if config.tie_word_embeddings {
            found.remove("lm_head.weight");
            found.remove("transformer.lm_head.weight");
        }

        let mut problems = Vec::new();
        let model = build(config, device, &mut |name, shape| match found.remove(name) {
            Some((found_shape, values)) if found_shape == shape => values,
            Some((found_shape, _)) => {
                problems
                    .push(format!("`{name}` is {found_shape:?}, `config.json` asks for {shape:?}"));
                vec![0.0; shape.iter().product()]
            }
            None => {
                problems.push(format!("`{name}` is missing"));
                vec![0.0; shape.iter().product()]
            }
        });
        problems.extend(found.keys().map(|name| format!("`{name}` is not part of the model")));
        if problems.is_empty() {
            return Ok(model);
        }
        let shown = problems.len().min(8);
        let more = match problems.len() - shown {
            0 => String::new(),
            n => format!("; and {n} more"),
        };
        Err(Error::input(
            path,
            "",
            format!(
                "the weights do not fit `config.json`: {}{more}. The two files must come from the same model.",
                problems[..shown].join("; ")
            ),
        ))
    }

    /// Writes `config.json` and `model.safetensors` into a folder.
    pub fn save(&self, folder: &Path) -> Result<()> {
        let path = folder.join("config.json");
        let text = serde_json::to_string_pretty(&self.config)
            .map_err(|e| Error::Training(e.to_string()))?;
        std::fs::write(&path, text).map_err(Error::io("write", &path))?;
        write_tensors(&folder.join(WEIGHTS_FILE), &parameters::named(self))
    }
}

/// A model whose every tensor comes from `source(name, shape)`.
fn build(
    config: ModelConfig,
    device: &Device,
    source: &mut dyn FnMut(&str, &[usize]) -> Vec<f32>,
) -> Transformer {
    let (d, inner) = (config.n_embd, config.inner());
    let mut make = Make { source, device };
    let wte = make.embedding("transformer.wte", config.vocab_size, d);
    let wpe = make.embedding("transformer.wpe", config.n_positions, d);
    let h = (0..config.n_layer)
        .map(|layer| {
            let prefix = format!("transformer.h.{layer}");
            Block {
                ln_1: make.norm(&format!("{prefix}.ln_1"), d),
                attn: Attention {
                    c_attn: make.linear(&format!("{prefix}.attn.c_attn"), d, 3 * d),
                    c_proj: make.linear(&format!("{prefix}.attn.c_proj"), d, d),
                },
                ln_2: make.norm(&format!("{prefix}.ln_2"), d),
                mlp: Mlp {
                    c_fc: make.linear(&format!("{prefix}.mlp.c_fc"), d, inner),
                    c_proj: make.linear(&format!("{prefix}.mlp.c_proj"), inner, d),
                },
            }
        })
        .collect();
    let ln_f = make.norm("transformer.ln_f", d);
    let lm_head =
        (!config.tie_word_embeddings).then(|| make.embedding("lm_head", config.vocab_size, d));
    Transformer { transformer: Stack { wte, wpe, h, ln_f }, lm_head, config }
}

struct Make<'a> {
    source: &'a mut dyn FnMut(&str, &[usize]) -> Vec<f32>,
    device: &'a Device,
}

impl Make<'_> {
    fn param<const D: usize>(&mut self, name: &str, shape: [usize; D]) -> Param<Tensor<D>> {
        let values = (self.source)(name, &shape);
        let data = TensorData::new(values, shape);
        Param::from_tensor(Tensor::from_data(data, self.device))
    }

    fn embedding(&mut self, name: &str, rows: usize, d: usize) -> Embedding {
        Embedding { weight: self.param(&format!("{name}.weight"), [rows, d]) }
    }

    fn linear(&mut self, name: &str, d_in: usize, d_out: usize) -> Linear {
        Linear {
            weight: self.param(&format!("{name}.weight"), [d_in, d_out]),
            bias: self.param(&format!("{name}.bias"), [d_out]),
        }
    }

    fn norm(&mut self, name: &str, d: usize) -> LayerNorm {
        LayerNorm {
            weight: self.param(&format!("{name}.weight"), [d]),
            bias: self.param(&format!("{name}.bias"), [d]),
        }
    }
}

/// Tensors by name: shape and elements, row-major.
pub type HostTensors = BTreeMap<String, (Vec<usize>, Vec<f32>)>;

/// Tensors of a safetensors file as f32.
pub fn read_tensors(path: &Path) -> Result<HostTensors> {
    let bytes = std::fs::read(path).map_err(Error::io("read", path))?;
    let file = SafeTensors::deserialize(&bytes).map_err(|e| {
        Error::input(path, "", format!("not a whole safetensors file ({e}). It may have been cut short: copy or write it again."))
    })?;
    let mut tensors = BTreeMap::new();
    for (name, view) in file.tensors() {
        let dtype = match view.dtype() {
            Dtype::F32 => DType::F32,
            Dtype::F64 => DType::F64,
            Dtype::F16 => DType::F16,
            Dtype::BF16 => DType::BF16,
            // Masks that old checkpoints stored as buffers; never read.
            Dtype::BOOL | Dtype::U8 => continue,
            other => {
                let problem = format!("its type is {other:?}; expected F32, F64, F16 or BF16");
                return Err(Error::input(path, format!("tensor `{name}`"), problem));
            }
        };
        let shape = view.shape().to_vec();
        let data = TensorData::from_bytes_vec(view.data().to_vec(), shape.clone(), dtype);
        let values = data.convert_dtype(DType::F32).try_into_vec::<f32>().map_err(|e| {
            Error::input(path, format!("tensor `{name}`"), format!("cannot be read: {e:?}"))
        })?;
        tensors.insert(name, (shape, values));
    }
    Ok(tensors)
}

/// Writes named tensors as f32 to a safetensors file.
pub fn write_tensors(path: &Path, named: &Named) -> Result<()> {
    let mut bytes = Vec::with_capacity(named.len());
    for (name, flat) in named {
        let data = flat.values.clone().into_data().convert_dtype(DType::F32);
        bytes.push((name, &flat.shape, data));
    }
    let mut views = Vec::with_capacity(named.len());
    for (name, shape, data) in &bytes {
        let view = TensorView::new(Dtype::F32, (*shape).clone(), data.as_bytes())
            .map_err(|e| Error::Training(format!("cannot write tensor `{name}`: {e}")))?;
        views.push((name.as_str(), view));
    }
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    let serialized = safetensors::serialize(views, Some(metadata))
        .map_err(|e| Error::Training(format!("cannot write {}: {e}", path.display())))?;
    std::fs::write(path, serialized).map_err(Error::io("write", path))
}
