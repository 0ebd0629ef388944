//! What a method's name stands for: values of other keys, so that a method is a point of one grid and no code of its
//! own. A recipe that gives such a key itself keeps its own value.

use serde_json::{Map, Value, json};

use super::RunConfig;
use crate::{
    Error, Result,
    data::{Method, RowKind},
};

/// The keys that methods differ in, with the values that they have where a method says nothing.
fn grid() -> Map<String, Value> {
    let keys = [
        "row",
        "thinking",
        "iterations",
        "latent_shift",
        "latent_residual",
        "loss_steps",
        "steps_at",
        "loss_teacher",
        "loss_distil",
        "distil_layers",
        "loss_kv",
        "kv_importance",
        "kv_distance",
        "kv_by_std",
        "step_decoder",
        "loss_decoder",
        "decoder_layers",
        "schedule",
        "removal_smoothing",
    ];
    let defaults = RunConfig::default().to_keys();
    keys.into_iter().map(|key| (key.to_owned(), defaults[key].clone())).collect()
}

/// The values of other keys that a method stands for (docs/method.md 3.6).
pub(super) fn preset(method: Method) -> Map<String, Value> {
    let keys = match method {
        Method::Coconut | Method::NoCurriculum => json!({ "thinking": "sequential" }),
        Method::Cot | Method::NoCot | Method::NoThoughts | Method::Pause => {
            json!({ "thinking": "none" })
        }
        Method::Codi => json!({
            "c_thought": 6,
            "thinking": "sequential",
            "replacement_method": "ln(mlp[1](hs[-1]))",
            "loss_teacher": 1.0,
            "loss_distil": 1.0,
        }),
        Method::Pccot => json!({
            "c_thought": 24,
            "thinking": "parallel",
            "iterations": 3,
            "latent_shift": 1,
            "loss_teacher": 1.0,
            "loss_distil": 1.0,
            "distil_layers": "blocks",
        }),
        Method::Kava => json!({
            "c_thought": 24,
            "thinking": "parallel",
            "iterations": 3,
            "latent_shift": 1,
            "replacement_method": "ln(mlp[1](hs[-1]))",
            "loss_teacher": 1.0,
            "loss_distil": 10.0,
            "distil_layers": "blocks",
            "loss_kv": 1.0,
        }),
        Method::Lotus => json!({
            "c_thought": 13,
            "max_latent_stage": 6,
            "thinking": "parallel",
            "iterations": "stage",
            "latent_shift": 0,
            "latent_residual": true,
            "loss_steps": 0.05,
            "reset_optimizer": false,
        }),
        Method::Icot => json!({
            "thinking": "none",
            "schedule": "tokenwise",
            "removal_smoothing": 4.0,
        }),
    };
    let row = ("row".to_owned(), json!(method.row()));
    match keys {
        Value::Object(keys) => std::iter::once(row).chain(keys).collect(),
        _ => Map::new(),
    }
}

impl RunConfig {
    /// The same run with another method and no baselines. The keys that methods differ in become the method's; the
    /// others that its name stands for too, unless the recipe has a value of its own. But `pause` keeps rows and
    /// losses and feeds nothing back, which is what it is there to show; a step decoder has nothing to read then.
    ///
    /// # Errors
    /// What the method does not go together with.
    pub fn with_method(&self, method: Method) -> Result<Self> {
        let mut keys = self.to_keys();
        keys.insert("method".into(), json!(method));
        keys.insert("baselines".into(), json!([]));
        if method == Method::Pause && self.row != RowKind::Tokenwise {
            keys.insert("thinking".into(), json!("none"));
            let read = |key: &String| key.contains("decoder") || key == "steps_at";
            keys.extend(grid().into_iter().filter(|(key, _)| read(key)));
        } else if method != self.method {
            let (old, new) = (preset(self.method), preset(method));
            let defaults = Self::default().to_keys();
            for key in old.keys().chain(new.keys()).chain(grid().keys()) {
                let value =
                    |preset: &Map<String, Value>| preset.get(key).or(defaults.get(key)).cloned();
                // A value that is not what the recipe's own method stands for is the recipe's.
                let own = !grid().contains_key(key) && keys.get(key).cloned() != value(&old);
                if let (false, Some(value)) = (own, value(&new)) {
                    keys.insert(key.clone(), value);
                }
            }
        }
        let config: Self = serde_json::from_value(Value::Object(keys))
            .map_err(|e| Error::Internal(format!("the method {method}: {e}")))?;
        let config = Self { origin: self.origin.clone(), ..config };
        if method != self.method {
            let refused = |(key, problem): (&str, String)| {
                self.error("baselines", format!("names `{method}`, with which `{key}` {problem}"))
            };
            config.check().map_err(refused)?;
        }
        Ok(config)
    }
}
