//! A recipe's keys, and overrides, made into a checked configuration.

use std::path::Path;

use serde_json::{Map, Value};

use super::RunConfig;
use crate::{
    Error, Result,
    data::Method,
    latent::{LatentPositions, position::PUBLISHED_OFFSET},
};

/// Published keys that this version knows but cannot carry out, with the values that ask for nothing.
const REFUSED: [(&str, &[Value], &str); 3] = [
    (
        "bf16_weight",
        &[Value::Bool(false), Value::Null],
        "weights are held in f32; `bf16: True` rounds them in products only",
    ),
    ("opt_8b", &[Value::Bool(false), Value::Null], "the optimizer's moments are held in f32"),
    (
        "resume_epochs",
        &[Value::Null],
        "use `resume` to skip epochs, or `--resume` to go on with a run",
    ),
];

/// Keys that each stand for a method, as the published files have them.
const METHODS: [(&str, Method); 6] = [
    ("coconut", Method::Coconut),
    ("cot", Method::Cot),
    ("no_cot", Method::NoCot),
    ("no_thoughts", Method::NoThoughts),
    ("pause", Method::Pause),
    ("no_curriculum", Method::NoCurriculum),
];

/// The key under which a recipe holds the grid of `coconut sweep`.
pub(crate) const SWEEP: &str = "sweep";

/// Reads the keys of a recipe, unchecked.
pub(crate) fn read_keys(recipe: &Path) -> Result<Map<String, Value>> {
    let text = std::fs::read_to_string(recipe).map_err(Error::io("read", recipe))?;
    serde_saphyr::from_str::<Map<String, Value>>(&text).map_err(|e| {
        Error::input(
            recipe,
            "",
            format!("not a flat YAML recipe: {e}. Expected lines `key: value`."),
        )
    })
}

impl RunConfig {
    /// Reads a recipe and applies overrides, each `key=value` with the value in YAML.
    ///
    /// # Errors
    /// The first key at fault by name, with what is allowed; for an unknown key, the nearest known.
    pub fn load(recipe: &Path, overrides: &[String]) -> Result<Self> {
        Self::from_keys(read_keys(recipe)?, overrides, &recipe.display().to_string())
    }

    /// Like [`RunConfig::load`] from keys already read; `origin` names them in errors.
    pub fn from_keys(
        mut keys: Map<String, Value>,
        overrides: &[String],
        origin: &str,
    ) -> Result<Self> {
        let mut from = std::collections::BTreeMap::new();
        for text in overrides {
            let (key, value) = text.split_once('=').ok_or_else(|| {
                Error::Usage(format!(
                    "-s {text}: an override is `key=value`, such as `-s lr=3e-4`."
                ))
            })?;
            let value = serde_saphyr::from_str::<Value>(value)
                .unwrap_or_else(|_| Value::String(value.into()));
            // An override of the method replaces whichever the recipe had, in either spelling.
            let switch = METHODS.iter().any(|(name, _)| *name == key);
            if key == "method" || (switch && value == Value::Bool(true)) {
                keys.retain(|name, _| name != "method" && METHODS.iter().all(|(m, _)| m != name));
            }
            keys.insert(key.into(), value);
            from.insert(key.to_owned(), "-s".to_owned());
        }
        let origin = |key: &str| from.get(key).cloned().unwrap_or_else(|| origin.to_owned());
        let error = |key: &str, problem: String| Error::Config {
            origin: origin(key),
            key: key.into(),
            problem,
        };

        // PyYAML reads `None` as a word; the published files mean the absent value.
        for value in keys.values_mut() {
            if matches!(value.as_str(), Some("None" | "none" | "")) {
                *value = Value::Null;
            }
        }
        for (key, harmless, instead) in REFUSED {
            match keys.remove(key) {
                Some(value) if !harmless.contains(&value) => {
                    let problem = format!(
                        "is known but not available in this version: {instead}. Remove the key."
                    );
                    return Err(error(key, problem));
                }
                _ => {}
            }
        }
        if keys.contains_key(SWEEP) {
            let problem = "is a grid of runs; use `coconut sweep` with this recipe";
            return Err(error(SWEEP, problem.into()));
        }
        take_position_ids(&mut keys).map_err(|problem| error("use_position_ids", problem))?;
        take_method(&mut keys).map_err(|(key, problem)| error(&key, problem))?;
        let defaults = to_keys(&Self::default());
        if let Some(unknown) = keys.keys().find(|key| !defaults.contains_key(*key)) {
            return Err(error(unknown, unknown_key(unknown, &defaults)));
        }

        // Key by key, so that an error names its key.
        let mut checked = defaults.clone();
        for (key, value) in keys {
            if value.is_null() && !defaults[&key].is_null() {
                continue; // an empty value asks for the default
            }
            let before = checked.insert(key.clone(), value.clone());
            if let Err(e) = serde_json::from_value::<Self>(Value::Object(checked.clone())) {
                let default = before.map(|value| value.to_string()).unwrap_or_default();
                let problem = format!("{} (its default is {default})", plain(&e, &value));
                return Err(error(&key, problem));
            }
        }
        let config: Self = serde_json::from_value(Value::Object(checked))
            .map_err(|e| error("recipe", e.to_string()))?;
        config.check().map_err(|(key, problem)| error(key, problem))?;
        Ok(config)
    }
}

/// A configuration as the keys of its recipe.
pub(super) fn to_keys(config: &RunConfig) -> Map<String, Value> {
    match serde_json::to_value(config) {
        Ok(Value::Object(keys)) => keys,
        _ => Map::new(),
    }
}

/// Turns the published `use_position_ids` into `latent_positions`.
fn take_position_ids(keys: &mut Map<String, Value>) -> Result<(), String> {
    match keys.remove("use_position_ids") {
        Some(Value::Bool(true)) => {}
        Some(Value::Bool(false) | Value::Null) | None => return Ok(()),
        Some(other) => return Err(format!("is {other}; expected True or False")),
    }
    let offset = Value::String(LatentPositions::Offset(PUBLISHED_OFFSET).to_string());
    match keys.insert("latent_positions".into(), offset.clone()) {
        Some(other) if other != offset && !other.is_null() => {
            Err(format!("contradicts `latent_positions: {}`; keep one of the two", show(&other)))
        }
        _ => Ok(()),
    }
}

/// Turns the published method switches into `method`.
fn take_method(keys: &mut Map<String, Value>) -> Result<(), (String, String)> {
    let mut chosen = Vec::new();
    for (key, method) in METHODS {
        match keys.remove(key) {
            Some(Value::Bool(true)) => chosen.push((key, method)),
            Some(Value::Bool(false) | Value::Null) | None => {}
            Some(other) => return Err((key.into(), format!("is {other}; expected True or False"))),
        }
    }
    match chosen.as_slice() {
        [] => Ok(()),
        [(key, method)] => {
            let value = serde_json::to_value(method).unwrap_or_default();
            match keys.insert("method".into(), value.clone()) {
                Some(other) if other != value => Err((
                    (*key).into(),
                    format!("contradicts `method: {}`; keep one of the two", show(&other)),
                )),
                _ => Ok(()),
            }
        }
        [(first, _), (second, _), ..] => Err((
            (*second).into(),
            format!(
                "is True beside `{first}: True`; a run trains one method (see `baselines` for more)"
            ),
        )),
    }
}

fn show(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// serde's message, with the value that it is about.
fn plain(error: &serde_json::Error, value: &Value) -> String {
    let text = error.to_string();
    let text = text.split(" at line ").next().unwrap_or(&text);
    format!("is `{}`: {}", show(value), text.replace("unknown variant", "unknown value"))
}

/// What to say of an unknown key: the nearest known one, if any is near.
fn unknown_key(key: &str, known: &Map<String, Value>) -> String {
    let known = known.keys().map(String::as_str);
    let all = known.chain(REFUSED.iter().map(|r| r.0)).chain(METHODS.iter().map(|m| m.0));
    let nearest = all
        .map(|name| (strsim::damerau_levenshtein(key, name), name))
        .min()
        .filter(|(distance, _)| *distance <= key.len().max(4) / 2);
    match nearest {
        Some((_, name)) => format!("is not a key; did you mean `{name}`?"),
        None => "is not a key; `coconut train RECIPE --dry-run` prints them all".into(),
    }
}
