//! What a sweep varies: axes, and the values that each takes.

use serde_json::{Map, Value};

use crate::{Error, Result};

/// Keys that decide where runs are and what the sweep itself varies.
const OWN: [(&str, &str); 4] = [
    ("name", "it is the sweep's own; name the sweep with `-s name=…`"),
    ("save_path", "it holds the sweep; set it once with `-s save_path=…`"),
    ("seed", "use `--seeds 0,1,2`, so that runs that differ in nothing else share a row"),
    ("baselines", "name the methods themselves, as in `--over method=coconut,no_cot`"),
];

/// One thing that varies.
#[derive(Clone, Debug, PartialEq)]
pub struct Axis {
    /// A key of the recipe, or any name where every value names its keys itself.
    pub name: String,
    /// Its values, in the order of rows.
    pub choices: Vec<Choice>,
}

/// One value of an axis.
#[derive(Clone, Debug, PartialEq)]
pub struct Choice {
    /// What tables call it.
    pub label: String,
    /// The keys that it sets; several where a variant is more than one key.
    pub keys: Map<String, Value>,
}

impl Axis {
    /// From `over` in a recipe: a list of values, or of mappings with the keys to set and a `label`.
    ///
    /// # Errors
    /// A sentence that says what is wrong.
    pub fn from_recipe(name: &str, values: &Value) -> Result<Self, String> {
        let Some(values) = values.as_array().filter(|values| !values.is_empty()) else {
            return Err(format!("`{name}` is not a list of values"));
        };
        let choices = values.iter().map(|value| Choice::new(name, value));
        Ok(Self { name: name.into(), choices: choices.collect::<Result<_, String>>()? })
    }

    /// From `key=v1,v2,…` of the command line.
    ///
    /// # Errors
    /// [`Error::Usage`] that shows where the text cannot be read.
    pub fn from_flag(text: &str) -> Result<Self> {
        let usage = |problem: String| Error::Usage(format!("--over {text}: {problem}"));
        let (name, values) = text
            .split_once('=')
            .filter(|(name, _)| !name.is_empty())
            .ok_or_else(|| usage("it is `key=v1,v2,…`, such as `--over lr=1e-3,3e-4`.".into()))?;
        let pieces = split(values).map_err(|(place, problem)| {
            let before = "--over ".len() + name.chars().count() + 1 + place;
            Error::Usage(format!("{problem}:\n  --over {text}\n  {:before$}^", ""))
        })?;
        if pieces.contains(&"") {
            return Err(usage("a value is empty.".into()));
        }
        let choices = pieces.into_iter().map(|piece| {
            // As in `-s key=value`: YAML, or a plain word where it is none.
            let value = serde_saphyr::from_str::<Value>(piece)
                .unwrap_or_else(|_| Value::String(piece.to_owned()));
            Choice::new(name, &value).map_err(|problem| usage(format!("{problem}.")))
        });
        Ok(Self { name: name.into(), choices: choices.collect::<Result<_>>()? })
    }
}

impl Choice {
    fn new(name: &str, value: &Value) -> Result<Self, String> {
        let mut keys = match value {
            Value::Object(keys) => keys.clone(),
            value => Map::from_iter([(name.to_owned(), value.clone())]),
        };
        let label = match (value, keys.remove("label")) {
            (Value::Object(_), Some(label)) => shown(&label),
            (Value::String(text), _) => text.clone(),
            _ => {
                let pairs = keys.iter().map(|(key, value)| format!("{key}={}", shown(value)));
                pairs.collect::<Vec<_>>().join(" ")
            }
        };
        if let Some((key, why)) = OWN.iter().find(|(key, _)| keys.contains_key(*key)) {
            return Err(format!("`{key}` cannot vary in a sweep: {why}"));
        }
        if label.trim().is_empty() {
            return Err(format!("a value of `{name}` has no label and no keys"));
        }
        Ok(Self { label, keys })
    }
}

fn shown(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// Splits at the commas that stand in no bracket and no quotes.
///
/// # Errors
/// The character (from 0) at fault, and what is wrong with it.
fn split(text: &str) -> Result<Vec<&str>, (usize, String)> {
    let mut open: Vec<(usize, char)> = Vec::new();
    let (mut pieces, mut start) = (Vec::new(), 0);
    for (place, (byte, character)) in text.char_indices().enumerate() {
        let quoted = open.last().is_some_and(|(_, bracket)| matches!(bracket, '"' | '\''));
        match character {
            '"' | '\'' if open.last().is_some_and(|(_, quote)| *quote == character) => {
                open.pop();
            }
            _ if quoted => {}
            '(' | '[' | '{' | '"' | '\'' => open.push((place, character)),
            ')' | ']' | '}' => {
                let opening = match character {
                    ')' => '(',
                    ']' => '[',
                    _ => '{',
                };
                if open.pop().is_none_or(|(_, bracket)| bracket != opening) {
                    return Err((place, format!("`{character}` closes nothing")));
                }
            }
            ',' if open.is_empty() => {
                pieces.push(text[start..byte].trim());
                start = byte + 1;
            }
            _ => {}
        }
    }
    if let Some((place, bracket)) = open.pop() {
        return Err((place, format!("`{bracket}` is not closed")));
    }
    pieces.push(text[start..].trim());
    Ok(pieces)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn labels(axis: &Axis) -> Vec<&str> {
        axis.choices.iter().map(|choice| choice.label.as_str()).collect()
    }

    #[test]
    fn commas_in_brackets_belong_to_the_value() {
        let axis = Axis::from_flag(
            "replacement_method=hs[-1],suppressed[0.5:],ie+suppressed[0.5:],norm(hs[-1]),mlp(a, b)",
        )
        .unwrap();
        assert_eq!(
            labels(&axis),
            ["hs[-1]", "suppressed[0.5:]", "ie+suppressed[0.5:]", "norm(hs[-1])", "mlp(a, b)"]
        );
        assert_eq!(axis.choices[1].keys["replacement_method"], "suppressed[0.5:]");
        let axis = Axis::from_flag("operations=[2, 3],[4,4]").unwrap();
        assert_eq!(axis.choices[0].keys["operations"], json!([2, 3]));
        let axis = Axis::from_flag("lr=1e-3,3e-4").unwrap();
        assert_eq!(labels(&axis), ["lr=0.001", "lr=0.0003"]);
    }

    #[test]
    fn one_value_may_set_several_keys() {
        let axis =
            Axis::from_flag("variant={label: a b, method: pause, lr: 1e-3},{method: cot}").unwrap();
        assert_eq!(labels(&axis), ["a b", "method=cot"]);
        assert_eq!(
            Value::Object(axis.choices[0].keys.clone()),
            json!({"method": "pause", "lr": 1e-3})
        );
    }

    #[test]
    fn faults_are_pointed_at() {
        let message = |text| Axis::from_flag(text).unwrap_err().to_string();
        assert!(
            message("lr=1,(2").ends_with("\n  --over lr=1,(2\n              ^"),
            "{}",
            message("lr=1,(2")
        );
        assert!(message("lr=1]").starts_with("`]` closes nothing"));
        assert!(message("lr").contains("key=v1,v2"));
        assert!(message("lr=1,").contains("empty"));
        assert!(message("seed=1,2").contains("--seeds"));
        assert!(message("x={name: a}").contains("-s name="));
        assert!(Axis::from_recipe("lr", &json!(1)).unwrap_err().contains("list"));
    }
}
