//! `config.json` of Llama-style families.

use coconut_kernels::{Heads, Precision};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::{
    super::{
        ModelConfig,
        config::{Activation, Biases, Dropout, Family, Norms, QkNorm},
        rotary::{LayerRotary, Llama3, Rotary},
    },
    GELU_TANH, SILU, is_nothing, supported,
};

/// The fields of Llama-style families.
#[derive(Deserialize)]
pub(super) struct Llama {
    vocab_size: usize,
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    num_key_value_heads: Option<usize>,
    head_dim: Option<usize>,
    max_position_embeddings: Option<usize>,
    hidden_act: Option<String>,
    /// Gemma's name of `hidden_act`.
    hidden_activation: Option<String>,
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
    /// The base of Gemma's layers with a window, before transformers 5.
    rope_local_base_freq: Option<f64>,
    partial_rotary_factor: Option<f64>,
    original_max_position_embeddings: Option<f64>,
    use_sliding_window: Option<bool>,
    sliding_window: Option<usize>,
    /// Of Gemma's layers, which ones have no window, before `layer_types`.
    sliding_window_pattern: Option<usize>,
    max_window_layers: Option<usize>,
    layer_types: Option<Vec<String>>,
    /// Of SmolLM3's layers, 1 for those with positions.
    no_rope_layers: Option<Vec<usize>>,
    no_rope_layer_interval: Option<usize>,
    query_pre_attn_scalar: Option<f64>,
    pretraining_tp: Option<usize>,
}

/// Rotary positions, in either of their two places.
#[derive(Default, Deserialize)]
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
    /// One set of positions a kind of layer, as Gemma has them.
    full_attention: Option<Box<Rope>>,
    sliding_attention: Option<Box<Rope>>,
}

/// What a family takes for a field that its file leaves out, as its configuration in transformers has it.
struct Defaults {
    /// As many key heads as query heads if `None`.
    key_value_heads: Option<usize>,
    /// An even split of the width if `None`.
    head_dim: Option<usize>,
    context: usize,
    norm_eps: f64,
    theta: f64,
    tied: bool,
}

impl Defaults {
    fn of(family: Family) -> Self {
        let plain = Self {
            key_value_heads: None,
            head_dim: None,
            context: 2048,
            norm_eps: 1e-6,
            theta: 1e4,
            tied: false,
        };
        match family {
            Family::Gpt2 | Family::Llama => plain,
            Family::Qwen2 => Self { key_value_heads: Some(32), context: 32768, ..plain },
            Family::Qwen3 => {
                Self { key_value_heads: Some(32), head_dim: Some(128), context: 32768, ..plain }
            }
            Family::Mistral => Self { key_value_heads: Some(8), context: 4096 * 32, ..plain },
            Family::SmolLm3 => {
                Self { key_value_heads: Some(4), context: 32768, theta: 2e6, tied: true, ..plain }
            }
            Family::Olmo2 => Self { norm_eps: 1e-5, ..plain },
            Family::Gemma3 => Self {
                key_value_heads: Some(4),
                head_dim: Some(256),
                context: 131_072,
                theta: 1e6,
                tied: true,
                ..plain
            },
        }
    }
}

/// A layer that sees the whole past, and one that sees as much of it as its window.
const FULL: &str = "full_attention";
const SLIDING: &str = "sliding_attention";

impl Llama {
    pub(super) fn shape(
        self,
        family: Family,
        json: Map<String, Value>,
    ) -> Result<ModelConfig, String> {
        let gemma = family == Family::Gemma3;
        let activation = self.activation(gemma)?;
        if self.pretraining_tp.unwrap_or(1) != 1 {
            return Err("`pretraining_tp` is not 1; only 1 is supported".into());
        }
        self.refuse_gemma_2(&json)?;
        let defaults = Defaults::of(family);
        let query = self.num_attention_heads;
        let given = |key| json.contains_key(key);
        let key_value = self.num_key_value_heads.unwrap_or(match given("num_key_value_heads") {
            true => query, // null
            false => defaults.key_value_heads.unwrap_or(query),
        });
        let even_split = self.hidden_size / query.max(1);
        let dim = self.head_dim.or(defaults.head_dim.filter(|_| !given("head_dim")));
        let dim = dim.unwrap_or(even_split);
        let context = self.max_position_embeddings.unwrap_or(defaults.context);
        let kinds = self.layer_kinds(family)?;
        let n_positions = self.within_window(family, context, &kinds, &json)?;
        let (rotary, local_rotary) = match gemma {
            true => self.two_rotaries(context, defaults.theta)?,
            false => (self.rotary(context, defaults.theta)?, None),
        };
        let layer_rotary = match family {
            Family::Gemma3 => {
                let kind = |kind: &String| match kind == SLIDING {
                    true => LayerRotary::Local,
                    false => LayerRotary::Global,
                };
                kinds.iter().map(kind).collect()
            }
            Family::SmolLm3 => self.turned_layers()?,
            _ => Vec::new(),
        };
        let attention_bias = self.attention_bias.unwrap_or(false);
        let scalar = self.query_pre_attn_scalar.unwrap_or(256.0);
        if gemma && !(scalar > 0.0 && scalar.is_finite()) {
            return Err(format!("`query_pre_attn_scalar` is {scalar}; it must be positive"));
        }
        let has_mlp_bias = matches!(family, Family::Llama | Family::SmolLm3);
        Ok(ModelConfig {
            family,
            vocab_size: self.vocab_size,
            n_positions,
            d_model: self.hidden_size,
            n_layer: self.num_hidden_layers,
            heads: Heads { query, key_value, dim },
            d_ff: self.intermediate_size,
            activation,
            norm_eps: self.rms_norm_eps.unwrap_or(defaults.norm_eps),
            rotary: Some(rotary),
            local_rotary,
            layer_rotary,
            norms: match family {
                Family::Olmo2 => Norms::After,
                Family::Gemma3 => Norms::Around,
                _ => Norms::Before,
            },
            norm_offset: if gemma { 1.0 } else { 0.0 },
            embedding_scale: if gemma { (self.hidden_size as f64).sqrt() } else { 1.0 },
            score_scale: if gemma { (dim as f64 / scalar).sqrt() } else { 1.0 },
            biases: Biases {
                qkv: family == Family::Qwen2 || (family != Family::Mistral && attention_bias),
                output: !matches!(family, Family::Qwen2 | Family::Mistral) && attention_bias,
                mlp: has_mlp_bias && self.mlp_bias.unwrap_or(false),
            },
            qk_norm: match family {
                Family::Qwen3 | Family::Gemma3 => QkNorm::Heads,
                Family::Olmo2 => QkNorm::Whole,
                _ => QkNorm::None,
            },
            tie_word_embeddings: self.tie_word_embeddings.unwrap_or(defaults.tied),
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

    fn activation(&self, gemma: bool) -> Result<Activation, String> {
        if gemma {
            supported(&self.hidden_activation, "hidden_activation", &GELU_TANH)?;
            return Ok(Activation::GeluTanh);
        }
        supported(&self.hidden_act, "hidden_act", &SILU)?;
        Ok(Activation::Silu)
    }

    /// What Gemma 2 has, and Gemma 3's files name without a value.
    fn refuse_gemma_2(&self, json: &Map<String, Value>) -> Result<(), String> {
        for key in ["final_logit_softcapping", "attn_logit_softcapping"] {
            if json.get(key).is_some_and(|value| !value.is_null()) {
                return Err(format!("`{key}` is set; only null is supported"));
            }
        }
        match json.get("use_bidirectional_attention") {
            Some(Value::Bool(true)) => {
                Err("`use_bidirectional_attention` is true; only false is supported".into())
            }
            _ => Ok(()),
        }
    }

    /// For each layer [`FULL`] or [`SLIDING`]; empty if the file does not tell them apart.
    fn layer_kinds(&self, family: Family) -> Result<Vec<String>, String> {
        let listed = self.layer_types.as_ref().filter(|_| family != Family::Llama);
        let Some(kinds) = listed else {
            if family != Family::Gemma3 {
                return Ok(Vec::new());
            }
            let every = self.sliding_window_pattern.unwrap_or(6).max(1);
            let kind =
                |layer: usize| if (layer + 1).is_multiple_of(every) { FULL } else { SLIDING };
            return Ok((0..self.num_hidden_layers).map(|layer| kind(layer).to_owned()).collect());
        };
        let known: &[&str] = match family {
            Family::Gemma3 | Family::SmolLm3 | Family::Mistral => &[FULL, SLIDING],
            _ => &[FULL],
        };
        if let Some(other) = kinds.iter().find(|kind| !known.contains(&kind.as_str())) {
            let known = known.join("` and `");
            return Err(format!("`layer_types` names `{other}`; supported are `{known}`"));
        }
        if family == Family::Gemma3 && kinds.len() != self.num_hidden_layers {
            return Err(format!(
                "`layer_types` has {} entries, but there are {} layers",
                kinds.len(),
                self.num_hidden_layers
            ));
        }
        Ok(kinds.clone())
    }

    /// The context in which every layer sees the whole past: as far as the window reaches, if there is one. A longer row
    /// would need windows, which are not computed.
    fn within_window(
        &self,
        family: Family,
        context: usize,
        kinds: &[String],
        json: &Map<String, Value>,
    ) -> Result<usize, String> {
        let window = match json.contains_key("sliding_window") {
            true => self.sliding_window,
            false => matches!(family, Family::Mistral | Family::Gemma3).then_some(4096),
        };
        let slides = match family {
            // transformers ignores the keys, or does not know them
            Family::Gpt2 | Family::Llama | Family::Olmo2 => false,
            Family::Mistral => true,
            Family::Gemma3 => kinds.iter().any(|kind| kind == SLIDING),
            Family::SmolLm3 => {
                let sliding = || self.use_sliding_window.unwrap_or(false);
                if kinds.is_empty() { sliding() } else { kinds.iter().any(|kind| kind == SLIDING) }
            }
            Family::Qwen2 | Family::Qwen3 => {
                // Without `layer_types`, the layers from `max_window_layers` on have a window, unless it is
                // null.
                let windowed = self.use_sliding_window.unwrap_or(false)
                    && json.get("sliding_window") != Some(&Value::Null)
                    && self.max_window_layers.unwrap_or(28) < self.num_hidden_layers;
                if self.layer_types.is_none() && windowed {
                    return Err("`use_sliding_window` is true; only false is supported".into());
                }
                false
            }
        };
        Ok(window.filter(|_| slides).map_or(context, |window| window.min(context)))
    }

    /// Which of SmolLM3's layers have positions.
    fn turned_layers(&self) -> Result<Vec<LayerRotary>, String> {
        let turned = |has: bool| if has { LayerRotary::Global } else { LayerRotary::None };
        let Some(listed) = &self.no_rope_layers else {
            let every = self.no_rope_layer_interval.unwrap_or(4).max(1);
            let layers =
                (0..self.num_hidden_layers).map(|layer| !(layer + 1).is_multiple_of(every));
            return Ok(layers.map(turned).collect());
        };
        if listed.len() < self.num_hidden_layers {
            return Err(format!(
                "`no_rope_layers` has {} entries, but there are {} layers",
                listed.len(),
                self.num_hidden_layers
            ));
        }
        Ok(listed.iter().take(self.num_hidden_layers).map(|&has| turned(has != 0)).collect())
    }

    /// Gemma's positions: of layers that see the whole past, and of those with a window.
    fn two_rotaries(&self, context: usize, theta: f64) -> Result<(Rotary, Option<Rotary>), String> {
        let local = self.rope_local_base_freq.unwrap_or(1e4);
        let parameters = self.rope_parameters.as_ref();
        let of_kind = |kind: fn(&Rope) -> &Option<Box<Rope>>| {
            parameters.and_then(|rope| kind(rope).as_deref())
        };
        let full = of_kind(|rope| &rope.full_attention);
        let sliding = of_kind(|rope| &rope.sliding_attention);
        if parameters.is_some() && full.is_none() && sliding.is_none() {
            let problem = "`rope_parameters` must have `full_attention` and `sliding_attention`";
            return Err(problem.into());
        }
        let global = match full {
            Some(rope) => {
                let theta = rope.rope_theta.or(self.rope_theta).unwrap_or(theta);
                self.rotary_of("rope_parameters.full_attention", Some(rope), context, theta)?
            }
            None => self.rotary(context, theta)?,
        };
        let theta = sliding.and_then(|rope| rope.rope_theta).unwrap_or(local);
        let local = self.rotary_of("rope_parameters.sliding_attention", sliding, context, theta)?;
        Ok((global, Some(local)))
    }

    /// The positions of all layers, with `default` for a base that the file leaves out.
    fn rotary(&self, context: usize, default: f64) -> Result<Rotary, String> {
        // As transformers reads them: `rope_scaling` counts alone, unless it says nothing.
        let scaling = self.rope_scaling.as_ref().filter(|value| !is_nothing(value));
        let scaling: Option<Rope> = (scaling.map(Rope::deserialize).transpose())
            .map_err(|e| format!("`rope_scaling` cannot be read: {e}"))?;
        let (key, rope) = match &scaling {
            Some(rope) => ("rope_scaling", Some(rope)),
            None => ("rope_parameters", self.rope_parameters.as_ref()),
        };
        if rope
            .is_some_and(|rope| rope.full_attention.is_some() || rope.sliding_attention.is_some())
        {
            return Err(format!("`{key}` differs by kind of layer; one for all is supported"));
        }
        let theta = rope.and_then(|rope| rope.rope_theta).or(self.rope_theta).unwrap_or(default);
        self.rotary_of(key, rope, context, theta)
    }

    /// The positions that a field `key` gives, with a base `theta`.
    fn rotary_of(
        &self,
        key: &str,
        rope: Option<&Rope>,
        context: usize,
        theta: f64,
    ) -> Result<Rotary, String> {
        let inside = |field: fn(&Rope) -> Option<f64>| rope.and_then(field);
        let part = inside(|rope| rope.partial_rotary_factor).or(self.partial_rotary_factor);
        if part.unwrap_or(1.0) != 1.0 {
            return Err("`partial_rotary_factor` is not 1; only whole heads are rotated".into());
        }
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
                let original = (self.original_max_position_embeddings)
                    .or(inside(|rope| rope.original_max_position_embeddings))
                    .or(Some(context as f64));
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
                    original_context: positive("original_max_position_embeddings", original)?,
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
