//! What the files beside a `tokenizer.json` change in it: tokens of their own, and a blank before the text.

use std::{collections::BTreeMap, path::Path};

use serde_json::{Map, Value};
use tokenizers::{AddedToken, PreTokenizerWrapper};

use super::NAMED_TOKENS;
use crate::{Error, Result};

/// Adds the tokens that stand beside `tokenizer.json`, in the order in which transformers adds them: those
/// with an id, then special tokens by their roles, then the others. `numbered` is `added_tokens.json`.
///
/// # Errors
/// A token whose id is not the one that it gets, and entries that are no tokens.
pub(super) fn add_tokens(
    inner: &mut tokenizers::Tokenizer,
    config: &Map<String, Value>,
    numbered: &Map<String, Value>,
    folder: &Path,
) -> Result<()> {
    let failed = |path: &Path, error: tokenizers::Error| Error::input(path, "", error.to_string());
    let config_file = folder.join("tokenizer_config.json");
    let special = special_tokens(config);
    let (file, with_ids) = match config.get("added_tokens_decoder") {
        Some(listed) => (config_file.clone(), listed_tokens(listed, &config_file)?),
        None => {
            let file = folder.join("added_tokens.json");
            let tokens = numbered_tokens(numbered, &special, &file)?;
            (file, tokens)
        }
    };
    let known = inner.get_added_tokens_decoder();
    let changed = with_ids.iter().filter(|(id, token)| known.get(id) != Some(token));
    inner
        .add_tokens(changed.map(|(_, token)| token.clone()).collect::<Vec<_>>())
        .map_err(|error| failed(&file, error))?;
    for (id, AddedToken { content, .. }) in &with_ids {
        let given = inner.token_to_id(content);
        if given.is_some_and(|given| given != *id) {
            let given = given.unwrap_or_default();
            let problem = format!(
                "gives the token `{content}` the id {id}, where `tokenizer.json` has {given}. Save \
                the tokenizer anew with `AutoTokenizer.from_pretrained(…).save_pretrained(folder)`, and \
                check the ids against the model's embeddings."
            );
            return Err(Error::input(&file, "", problem));
        }
    }
    let added: Vec<AddedToken> = inner.get_added_tokens_decoder().into_values().collect();
    let is_added = |token: &AddedToken| added.iter().any(|added| added.content == token.content);
    let missing: Vec<AddedToken> = special.into_iter().filter(|token| !is_added(token)).collect();
    inner.add_tokens(missing).map_err(|error| failed(&config_file, error))?;
    Ok(())
}

/// Special tokens that a configuration names: by role, such as `eos_token`, then in lists.
fn special_tokens(config: &Map<String, Value>) -> Vec<AddedToken> {
    let is_set = |value: &&Value| match value {
        Value::Array(list) => !list.is_empty(),
        Value::Object(named) => !named.is_empty(),
        _ => false,
    };
    let extra = config.get("extra_special_tokens").filter(is_set);
    let extra = extra.or_else(|| config.get("additional_special_tokens"));
    let named = NAMED_TOKENS.into_iter().filter_map(|name| config.get(name));
    let other_names = config.iter().filter(|(name, token)| {
        name.ends_with("_token") && token.is_string() && !NAMED_TOKENS.contains(&name.as_str())
    });
    let by_name = extra.and_then(Value::as_object).into_iter().flat_map(Map::values);
    let in_list = extra.and_then(Value::as_array).into_iter().flatten();
    let all = named.chain(other_names.map(|(_, token)| token)).chain(by_name).chain(in_list);
    all.filter_map(|token| added_token(token, true)).collect()
}

/// A token as a file writes it: its text, or an object with its `content`.
fn added_token(token: &Value, special: bool) -> Option<AddedToken> {
    if let Some(content) = token.as_str() {
        return Some(AddedToken::from(content, special));
    }
    let flag = |name: &str| token.get(name).and_then(Value::as_bool);
    let special = special || flag("special").unwrap_or(false);
    let described = AddedToken::from(token.get("content")?.as_str()?, special)
        .single_word(flag("single_word").unwrap_or(false))
        .lstrip(flag("lstrip").unwrap_or(false))
        .rstrip(flag("rstrip").unwrap_or(false));
    Some(described.normalized(flag("normalized").unwrap_or(!special)))
}

/// `added_tokens_decoder`: tokens by their ids.
fn listed_tokens(listed: &Value, file: &Path) -> Result<BTreeMap<u32, AddedToken>> {
    let wrong = |entry: &str| {
        let problem = format!("has an `added_tokens_decoder` whose entry `{entry}` is no token.");
        Error::input(file, "", problem)
    };
    let entries = listed.as_object().ok_or_else(|| wrong(""))?;
    let token = |(id, token): (&String, &Value)| {
        let described = Some(token).filter(|token| token.is_object());
        let token = described.and_then(|token| added_token(token, false));
        Some((id.parse().ok()?, token?))
    };
    entries.iter().map(|entry| token(entry).ok_or_else(|| wrong(entry.0))).collect()
}

/// `added_tokens.json`: ids by their tokens.
fn numbered_tokens(
    numbered: &Map<String, Value>,
    special: &[AddedToken],
    file: &Path,
) -> Result<BTreeMap<u32, AddedToken>> {
    let token = |(content, id): (&String, &Value)| {
        let is_special = special.iter().any(|token| token.content == *content);
        let id = id.as_u64().and_then(|id| id.try_into().ok()).ok_or_else(|| {
            Error::input(file, "", format!("gives the token `{content}` no id that can be read."))
        })?;
        Ok((id, AddedToken::from(content.as_str(), is_special)))
    };
    numbered.iter().map(token).collect()
}

/// Sets whether a text begins with a blank, where transformers builds the tokenizer's first stage anew and
/// goes by `add_prefix_space` alone: for the classes of GPT-2 and Qwen2.
pub(super) fn follow_prefix_space(
    inner: &mut tokenizers::Tokenizer,
    config: &Map<String, Value>,
    model: &Map<String, Value>,
) {
    let text = |object: &Map<String, Value>, key: &str| {
        object.get(key).and_then(Value::as_str).map(str::to_owned)
    };
    let family = text(model, "model_type");
    let class = text(config, "tokenizer_class");
    let class = class.as_deref().map(|class| class.strip_suffix("Fast").unwrap_or(class));
    let rebuilt = match (class, family.as_deref()) {
        (_, Some("qwen2")) | (Some("GPT2Tokenizer" | "Qwen2Tokenizer"), _) => true,
        (None, Some(family)) => matches!(family, "gpt2" | "qwen3" | "qwen3_moe"),
        _ => false,
    };
    if !rebuilt {
        return;
    }
    let prefix = config.get("add_prefix_space").and_then(Value::as_bool).unwrap_or(false);
    let Some(mut first) = inner.get_pre_tokenizer().cloned() else { return };
    let stages = match &mut first {
        PreTokenizerWrapper::Sequence(sequence) => sequence.as_mut(),
        one => std::slice::from_mut(one),
    };
    for stage in stages {
        if let PreTokenizerWrapper::ByteLevel(stage) = stage {
            stage.add_prefix_space = prefix;
        }
    }
    inner.with_pre_tokenizer(Some(first));
}
