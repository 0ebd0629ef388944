//! A recipe's keys, and overrides, made into a checked configuration.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::{Origin, RunConfig, presets::preset};
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
const METHODS: [(&str, Method); 11] = [
    ("coconut", Method::Coconut),
    ("cot", Method::Cot),
    ("no_cot", Method::NoCot),
    ("no_thoughts", Method::NoThoughts),
    ("pause", Method::Pause),
    ("no_curriculum", Method::NoCurriculum),
    ("codi", Method::Codi),
    ("pccot", Method::Pccot),
    ("kava", Method::Kava),
    ("lotus", Method::Lotus),
    ("icot", Method::Icot),
];

/// The key under which a recipe holds the grid of `coconut sweep`.
pub(crate) const SWEEP: &str = "sweep";

/// Reads the keys of a recipe, or of the recipe in a run's folder, unchecked.
pub(crate) fn read_keys(recipe: &Path) -> Result<Map<String, Value>> {
    let in_run = recipe.join("config.yaml");
    let recipe = if recipe.is_dir() { &in_run } else { recipe };
    let text = std::fs::read_to_string(recipe).map_err(Error::io("read", recipe))?;
    if let Some((line, problem)) = misshapen(&text) {
        return Err(Error::input(recipe, format!("line {line}"), problem));
    }
    yaml(&text).map_err(|e| {
        Error::input(
            recipe,
            "",
            format!("not a flat YAML recipe: {e}. Expected lines `key: value`."),
        )
    })
}

/// YAML as PyYAML's users write it, for whom `y` and `n` are words.
fn yaml<T: DeserializeOwned>(text: &str) -> Result<T, serde_saphyr::Error> {
    serde_saphyr::from_str_with_options(text, serde_saphyr::options! { strict_booleans: true })
}

/// What the parser would say in words of its own: a key that stands twice, a second document. With its line.
fn misshapen(text: &str) -> Option<(usize, String)> {
    let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
    let mut begun = false;
    for (line, content) in (1..).zip(text.lines()) {
        if content.starts_with("---") && begun {
            let problem =
                "a second document begins here; a recipe is one. Put each into a file of its own.";
            return Some((line, problem.into()));
        }
        begun |= !content.trim_start().starts_with('#') && !content.trim().is_empty();
        let Some((key, _)) = content.split_once(':') else { continue };
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '_';
        if key.is_empty() || !key.chars().all(plain) {
            continue;
        }
        if let Some(before) = seen.insert(key, line) {
            let problem = format!("`{key}` stands here and in line {before}. Keep one of the two.");
            return Some((line, problem));
        }
    }
    None
}

impl RunConfig {
    /// Reads a recipe, or that of a run's folder, and applies overrides, each `key=value` with the value in YAML.
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
        let overridden = override_keys(&mut keys, overrides)?;
        let origin = Origin { recipe: origin.into(), overridden };
        published_spellings(&mut keys).map_err(|(key, problem)| origin.error(&key, problem))?;
        let set = take_preset(&mut keys).map_err(|(key, problem)| origin.error(&key, problem))?;
        let mut config = typed(keys).map_err(|(key, problem)| origin.error(&key, problem))?;
        config.origin = origin;
        config.expand_home();
        config.check().map_err(|(key, problem)| match set.contains(key) {
            true => {
                let method = config.method;
                config.error(key, format!("{problem} (`method: {method}` stands for this key)"))
            }
            false => config.error(key, problem),
        })?;
        Ok(config)
    }
}

/// Puts overrides into the keys; the keys that were overridden.
fn override_keys(keys: &mut Map<String, Value>, overrides: &[String]) -> Result<BTreeSet<String>> {
    let mut overridden = BTreeSet::new();
    for text in overrides {
        let (key, value) = text.split_once('=').ok_or_else(|| {
            Error::Usage(format!("-s {text}: an override is `key=value`, such as `-s lr=3e-4`."))
        })?;
        let value = yaml::<Value>(value).unwrap_or_else(|_| Value::String(value.into()));
        // An override of the method replaces whichever the recipe had, in either spelling.
        let switch = METHODS.iter().any(|(name, _)| *name == key);
        if key == "method" || (switch && truth(&value) == Some(true)) {
            keys.retain(|name, _| name != "method" && METHODS.iter().all(|(m, _)| m != name));
        }
        keys.insert(key.into(), value);
        overridden.insert(key.to_owned());
    }
    Ok(overridden)
}

/// Turns what the published files write into this program's keys.
///
/// # Errors
/// The key at fault, and what is wrong with it.
fn published_spellings(keys: &mut Map<String, Value>) -> Result<(), (String, String)> {
    // PyYAML reads `None` as a word; the published files mean the absent value.
    for (key, value) in keys.iter_mut() {
        let absent = match value.as_str() {
            Some("None" | "") => true,
            Some("none") => key != "thinking", // a choice of its own, and not the default
            _ => false,
        };
        if absent {
            *value = Value::Null;
        }
    }
    for (key, harmless, instead) in REFUSED {
        match keys.remove(key) {
            Some(value) if !harmless.contains(&value) => {
                let problem = format!(
                    "is known but not available in this version: {instead}. Remove the key."
                );
                return Err((key.into(), problem));
            }
            _ => {}
        }
    }
    if keys.contains_key(SWEEP) {
        let problem = "is a grid of runs; use `coconut sweep` with this recipe";
        return Err((SWEEP.into(), problem.into()));
    }
    take_position_ids(keys).map_err(|problem| ("use_position_ids".to_owned(), problem))?;
    take_method(keys)
}

/// Adds what the method stands for, where the recipe does not say otherwise; the keys that were added.
fn take_preset(keys: &mut Map<String, Value>) -> Result<BTreeSet<String>, (String, String)> {
    let name = keys.get("method").filter(|name| !name.is_null()).cloned();
    let name = name.unwrap_or_else(|| Value::String(RunConfig::default().method.name().into()));
    // A name that is no method's is refused where keys are typed.
    let Ok(method) = serde_json::from_value::<Method>(name) else {
        return Ok(BTreeSet::new());
    };
    let mut added = BTreeSet::new();
    for (key, value) in preset(method) {
        if keys.get(&key).is_none_or(Value::is_null) {
            keys.insert(key.clone(), value);
            added.insert(key);
        }
    }
    Ok(added)
}

/// The configuration that keys give, each checked by itself so that an error names it.
fn typed(keys: Map<String, Value>) -> Result<RunConfig, (String, String)> {
    let defaults = RunConfig::default().to_keys();
    if let Some(unknown) = keys.keys().find(|key| !defaults.contains_key(*key)) {
        return Err((unknown.clone(), unknown_key(unknown, &defaults)));
    }
    let fits = |key: &str, value: &Value| {
        let one = Map::from_iter([(key.to_owned(), value.clone())]);
        serde_json::from_value::<RunConfig>(Value::Object(one))
    };
    let mut checked = defaults.clone();
    for (key, value) in keys {
        let default = &defaults[&key];
        if value.is_null() && !default.is_null() {
            continue; // an empty value asks for the default
        }
        let fitting = [Some(value.clone()), other_reading(&value)].into_iter().flatten();
        match fitting.into_iter().find(|value| fits(&key, value).is_ok()) {
            Some(value) => drop(checked.insert(key, value)),
            None => {
                let reason = fits(&key, &value).err().map_or(String::new(), |e| plain(&e, &value));
                return Err((key, format!("{reason} (its default is {default})")));
            }
        }
    }
    serde_json::from_value(Value::Object(checked)).map_err(|e| ("recipe".into(), e.to_string()))
}

/// How else a scalar may be read: PyYAML's words for truth, and numbers where a text is asked for.
fn other_reading(value: &Value) -> Option<Value> {
    match value {
        Value::String(_) => truth(value).map(Value::Bool),
        Value::Number(_) | Value::Bool(_) => Some(Value::String(show(value))),
        _ => None,
    }
}

/// PyYAML's booleans; `y` and `n` are words.
fn truth(value: &Value) -> Option<bool> {
    match value {
        Value::Bool(truth) => Some(*truth),
        Value::String(text) => match text.to_ascii_lowercase().as_str() {
            "yes" | "on" | "true" => Some(true),
            "no" | "off" | "false" => Some(false),
            _ => None,
        },
        _ => None,
    }
}

/// Turns the published `use_position_ids` into `latent_positions`.
fn take_position_ids(keys: &mut Map<String, Value>) -> Result<(), String> {
    match keys.remove("use_position_ids") {
        None | Some(Value::Null) => return Ok(()),
        Some(value) => match truth(&value) {
            Some(true) => {}
            Some(false) => return Ok(()),
            None => return Err(format!("is {value}; expected True or False")),
        },
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
            None | Some(Value::Null) => {}
            Some(value) => match truth(&value) {
                Some(true) => chosen.push((key, method)),
                Some(false) => {}
                None => return Err((key.into(), format!("is {value}; expected True or False"))),
            },
        }
    }
    match chosen.as_slice() {
        [] => Ok(()),
        [(key, method)] => {
            let value = Value::String(method.name().into());
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
    let text = match text {
        text if text.contains("untagged enum") => "expected a text or a number, not a list".into(),
        text => text.replace("unknown variant", "unknown value"),
    };
    format!("is `{}`: {text}", show(value))
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
