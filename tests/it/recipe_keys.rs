//! `docs/recipe.md`: every key, made from the doc comments of `RunConfig`.

use std::{fs, path::Path};

use coconut::config::RunConfig;
use serde_json::Value;

const HEAD: &str = "# The keys of a recipe

A recipe is flat YAML, `key: value`. `-s key=value` on the command line overrides a key, and `--dry-run` prints
every key with its value. An empty value, or the published `None`, asks for the default.

The published spellings are read too: `coconut: True`, `cot: True`, `no_cot: True`, `no_thoughts: True`,
`pause: True` and `no_curriculum: True` stand for `method`; `use_position_ids: True` for
`latent_positions: offset[100000]`. `yes`, `no`, `on` and `off` are booleans where one is asked for; `y` and `n` are
words, as PyYAML has them. A path that begins with `~/` begins with the home folder; `$VARIABLES` are left alone.

This file is made from the comments in `src/config/mod.rs`. After a change there:
`UPDATE_DOCS=1 cargo test --release --test it recipe_keys`.
";

/// What the groups of keys are about, in the order in which `RunConfig` has them.
const GROUPS: [&str; 7] =
    ["The run", "Method and thoughts", "The model", "Data", "Optimization", "Evaluation", "Device"];

/// (key, type, meaning) of each field, in groups parted by blank lines.
fn fields(source: &str) -> Vec<Vec<(String, String, String)>> {
    let body =
        source.split("pub struct RunConfig {").nth(1).unwrap().split("\n}\n").next().unwrap();
    let mut groups = vec![Vec::new()];
    let mut doc: Vec<&str> = Vec::new();
    for line in body.lines().map(str::trim) {
        if let Some(text) = line.strip_prefix("///") {
            doc.push(text.trim());
        } else if let Some(field) = line.strip_prefix("pub ") {
            let (key, kind) = field.trim_end_matches(',').split_once(": ").unwrap();
            groups.last_mut().unwrap().push((key.into(), kind.into(), doc.join(" ")));
            doc.clear();
        } else if line.is_empty() && !groups.last().unwrap().is_empty() {
            groups.push(Vec::new());
        } else {
            doc.clear(); // of a field that is no key
        }
    }
    groups.retain(|group| !group.is_empty());
    groups
}

/// A Rust type in a reader's words.
fn kind(of: &str) -> String {
    let inner = |outer: &str| of.strip_prefix(outer)?.strip_suffix('>').map(str::to_owned);
    if let Some(of) = inner("Option<") {
        return kind(&of);
    }
    if let Some(of) = inner("Vec<") {
        return format!("list of {}", kind(&of));
    }
    if let Some((of, n)) = of.strip_prefix('[').and_then(|x| x.strip_suffix(']')?.split_once("; "))
    {
        return format!("list of {n}: {}", kind(of));
    }
    match of {
        "usize" | "u64" | "u32" | "i64" => "integer",
        "f64" => "number",
        "bool" => "True or False",
        "String" => "text",
        "PathBuf" => "path",
        "Date" => "date",
        "DeviceName" => "device",
        "Reinject" | "Feedback" => "expression",
        "Targets" => "list, or `all-linear`",
        _ => "word",
    }
    .into()
}

fn shown(value: &Value) -> String {
    match value {
        Value::Null => "–".into(),
        Value::Bool(true) => "`True`".into(),
        Value::Bool(false) => "`False`".into(),
        Value::String(text) => format!("`{text}`"),
        other => format!("`{other}`"),
    }
}

#[test]
fn the_list_of_keys_is_fresh() {
    let root = Path::new(crate::ROOT);
    let source = fs::read_to_string(root.join("src/config/mod.rs")).unwrap();
    let defaults = RunConfig::default().to_json().unwrap();
    let groups = fields(&source);
    assert_eq!(groups.len(), GROUPS.len(), "a group needs a title in GROUPS");
    let documented: usize = groups.iter().map(Vec::len).sum();
    assert_eq!(documented, defaults.as_object().unwrap().len(), "a key is not documented");

    let mut text = HEAD.to_owned();
    for (title, group) in GROUPS.iter().zip(groups) {
        text += &format!(
            "\n## {title}\n\n| key | type | default | meaning |\n| --- | --- | --- | --- |\n"
        );
        for (key, of, meaning) in group {
            let meaning = meaning.replace('|', "\\|");
            text +=
                &format!("| `{key}` | {} | {} | {meaning} |\n", kind(&of), shown(&defaults[&key]));
        }
    }
    let path = root.join("docs/recipe.md");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        fs::write(&path, &text).unwrap();
    }
    let found = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        found == text,
        "docs/recipe.md is stale: UPDATE_DOCS=1 cargo test --release --test it recipe_keys"
    );
}
