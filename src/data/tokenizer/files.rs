//! A tokenizer's files in a Hugging Face folder: read, with the markers added, and written.

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde_json::{Map, Value, json};
use tokenizers::{AddedToken, ModelWrapper};

use super::{
    END_LATENT, LATENT, START_LATENT, SpecialTokens, Tokenizer, beside, chat::PromptStyle,
};
use crate::{Error, Result, data::write::write_atomically, hub, quiet::caught};

/// Eos tokens of well-known families, for a `tokenizer.json` that comes without its configuration.
const KNOWN_EOS: [&str; 5] = ["<|endoftext|>", "<|im_end|>", "</s>", "<|end_of_text|>", "<eos>"];

impl Tokenizer {
    /// Loads a `tokenizer.json`, or the folder it is in, and adds the latent markers where missing.
    ///
    /// Eos and pad are named by `tokenizer_config.json`, `special_tokens_map.json` or `config.json`
    /// beside it; `generation_config.json` may list more tokens that end a generation, and
    /// `chat_template.jinja` holds the chat template where the configuration does not. Tokens that stand in
    /// `tokenizer_config.json`, `special_tokens_map.json` or `added_tokens.json` alone get the ids that
    /// transformers gives them. Truncation and padding set in the file are switched off.
    ///
    /// # Errors
    /// A file that is missing or not a tokenizer, one for which no eos token can be found, and a token that
    /// a file gives another id than it would get.
    pub fn load(path: &Path) -> Result<Self> {
        let file = if path.is_dir() { path.join("tokenizer.json") } else { path.to_owned() };
        let folder = file.parent().unwrap_or(Path::new(""));
        if !file.exists() && hub::is_snapshot(folder) {
            let problem = format!(
                "is missing. {}; if the model has none, save it with `AutoTokenizer.from_pretrained(…).save_pretrained(folder)`.",
                hub::completion(folder)
            );
            return Err(Error::input(&file, "", problem));
        }
        let bytes = fs::read(&file).map_err(Error::io("read", &file))?;
        let mut inner = parse(&bytes).map_err(|error| {
            let advice = "Save it with `AutoTokenizer.from_pretrained(…).save_pretrained(folder)`";
            Error::input(&file, "", format!("is not a tokenizer: {error}. {advice}"))
        })?;

        let mut config = read_object(&folder.join("tokenizer_config.json"))?;
        let map = read_object(&folder.join("special_tokens_map.json"))?;
        // A configuration that lists its tokens is the newer of the two files, and the whole truth but for
        // a role that it leaves open.
        let listed = config.contains_key("added_tokens_decoder");
        for (name, token) in map {
            let role = ["eos_token", "pad_token", "unk_token", "bos_token"].contains(&&*name);
            let open = role && config.get(&name).is_none_or(Value::is_null);
            if !listed || open {
                config.insert(name, token);
            }
        }
        let model = read_object(&folder.join("config.json"))?;
        let numbered = read_object(&folder.join("added_tokens.json"))?;
        beside::follow_prefix_space(&mut inner, &config, &model);
        beside::add_tokens(&mut inner, &config, &numbered, folder)?;
        if token_named(&config, "eos_token").is_none() {
            let eos = eos_ids(&model).first().and_then(|&id| inner.id_to_token(id));
            let known = || KNOWN_EOS.iter().find(|eos| inner.token_to_id(eos).is_some());
            if let Some(eos) = eos.or_else(|| known().map(|&eos| eos.to_owned())) {
                config.insert("eos_token".to_owned(), eos.into());
            }
        }
        let template = folder.join("chat_template.jinja");
        if template.is_file() {
            let text = fs::read_to_string(&template).map_err(Error::io("read", &template))?;
            config.insert("chat_template".to_owned(), text.into());
        }
        let mut tokenizer = Self::assemble(inner, config, file.clone())?;
        let generation = read_object(&folder.join("generation_config.json"))?;
        for id in eos_ids(&generation) {
            if !tokenizer.stops.contains(&id) && tokenizer.inner.id_to_token(id).is_some() {
                tokenizer.stops.push(id);
            }
        }
        Ok(tokenizer)
    }

    /// The text of a special token that the configuration names.
    pub(super) fn special(&self, name: &str) -> Option<&str> {
        token_named(&self.config, name)
    }

    /// Sets up special tokens, markers and ids; the last step of loading and of building.
    pub(super) fn assemble(
        mut inner: tokenizers::Tokenizer,
        config: Map<String, Value>,
        origin: PathBuf,
    ) -> Result<Self> {
        let failed = |error: tokenizers::Error| Error::input(&origin, "", error.to_string());
        inner.with_padding(None).with_truncation(None).map_err(failed)?;
        let loaded_size = super::size(&inner);
        let markers =
            [START_LATENT, END_LATENT, LATENT].map(|marker| AddedToken::from(marker, true));
        inner.add_special_tokens(markers).map_err(failed)?;

        let id = |token: &str| {
            inner.token_to_id(token).ok_or_else(|| {
                let problem =
                    format!("has no token `{token}`, which `tokenizer_config.json` names");
                Error::input(&origin, "", problem)
            })
        };
        let eos = token_named(&config, "eos_token").ok_or_else(|| {
            let problem = "names no end-of-sequence token. Put `\"eos_token\": \"…\"` into a \
                `tokenizer_config.json` beside it.";
            Error::input(&origin, "", problem)
        })?;
        let eos = id(eos)?;
        let pad = token_named(&config, "pad_token").map_or(Ok(eos), id)?;
        let [start_latent, end_latent, latent] = [id(START_LATENT)?, id(END_LATENT)?, id(LATENT)?];
        let ids = [start_latent, end_latent, latent];
        let clear = |&(name, id): &(&str, u32)| inner.id_to_token(id).as_deref() == Some(name);
        if ![START_LATENT, END_LATENT, LATENT].into_iter().zip(ids).all(|pair| clear(&pair)) {
            let problem = "leaves gaps in its ids, where the latent markers would collide with other tokens. Number its tokens without gaps.";
            return Err(Error::input(&origin, "", problem));
        }
        let markers = SpecialTokens { start_latent, end_latent, latent, eos, pad };
        let unknown = unknown_token(&inner, &config).and_then(|token| inner.token_to_id(token));
        Ok(Self {
            inner,
            markers,
            stops: vec![eos],
            unknown,
            loaded_size,
            style: PromptStyle::default(),
            shots: Vec::new(),
            stop_texts: Vec::new(),
            chat: None,
            origin,
            config,
        })
    }

    /// Writes `tokenizer.json`, `tokenizer_config.json` and `special_tokens_map.json` into a folder.
    ///
    /// `transformers.AutoTokenizer.from_pretrained` loads them with the same ids.
    pub fn save(&self, folder: &Path) -> Result<()> {
        let tokenizer = self.inner.to_string(true).map_err(|error| self.failed(error))?;
        write_atomically(&folder.join("tokenizer.json"), tokenizer.as_bytes())?;

        let mut config = self.config.clone();
        config.entry("tokenizer_class").or_insert("PreTrainedTokenizerFast".into());
        config.insert("added_tokens_decoder".to_owned(), self.added_tokens());
        write_object(&folder.join("tokenizer_config.json"), &config)?;

        let named = ["bos_token", "eos_token", "pad_token", "unk_token"];
        let map: Map<String, Value> = named
            .into_iter()
            .filter_map(|name| Some((name.to_owned(), token_named(&config, name)?.into())))
            .collect();
        write_object(&folder.join("special_tokens_map.json"), &map)
    }

    /// The added tokens by id, as `tokenizer_config.json` lists them.
    fn added_tokens(&self) -> Value {
        let mut added: Vec<_> = self.inner.get_added_tokens_decoder().into_iter().collect();
        added.sort_by_key(|&(id, _)| id);
        let described = added.into_iter().map(|(id, token)| {
            let token = json!({"content": token.content, "lstrip": token.lstrip, "normalized": token.normalized,
                "rstrip": token.rstrip, "single_word": token.single_word, "special": token.special});
            (id.to_string(), token)
        });
        Value::Object(described.collect())
    }
}

/// `tokenizers` panics on some damaged files, JSON that is cut short and merges shorter than their prefix
/// among them (found by `fuzz/`); a panic there is a file that cannot be read.
fn parse(bytes: &[u8]) -> Result<tokenizers::Tokenizer, String> {
    serde_json::from_slice::<Value>(bytes).map_err(|error| error.to_string())?;
    let parsed = caught(|| tokenizers::Tokenizer::from_bytes(bytes));
    let parsed = parsed.ok_or("its vocabulary, merges or decoder are damaged")?;
    parsed.map_err(|error| error.to_string())
}

fn read_object(path: &Path) -> Result<Map<String, Value>> {
    match fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes).map_err(|error| {
            Error::input(
                path,
                format!("line {}", error.line()),
                format!("is not a JSON object: {error}"),
            )
        }),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Map::new()),
        Err(error) => Err(Error::io("read", path)(error)),
    }
}

/// The token that stands for what the vocabulary lacks: the model's own. What the configuration names is at times
/// never used, as GPT-2's eos, whose bytes cover every text.
fn unknown_token<'a>(
    inner: &'a tokenizers::Tokenizer,
    config: &'a Map<String, Value>,
) -> Option<&'a str> {
    match inner.get_model() {
        ModelWrapper::WordLevel(model) => Some(&model.unk_token),
        ModelWrapper::WordPiece(model) => Some(&model.unk_token),
        ModelWrapper::BPE(model) => model.unk_token.as_deref(),
        ModelWrapper::Unigram(_) => token_named(config, "unk_token"),
    }
}

/// A special token's text; the files write it as a string or as an object with its `content`.
fn token_named<'a>(config: &'a Map<String, Value>, name: &str) -> Option<&'a str> {
    let token = config.get(name)?;
    token.as_str().or_else(|| token.get("content")?.as_str())
}

/// `eos_token_id`: one id, or a list of them.
fn eos_ids(config: &Map<String, Value>) -> Vec<u32> {
    let id = |value: &Value| value.as_u64()?.try_into().ok();
    match config.get("eos_token_id") {
        Some(Value::Array(ids)) => ids.iter().filter_map(id).collect(),
        Some(one) => id(one).into_iter().collect(),
        None => Vec::new(),
    }
}

fn write_object(path: &Path, object: &Map<String, Value>) -> Result<()> {
    let text = serde_json::to_string_pretty(object)
        .map_err(|error| Error::input(path, "", error.to_string()))?;
    write_atomically(path, format!("{text}\n").as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markers_are_added_to_a_foreign_tokenizer() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokenizer.json");
        fs::write(&path, r#"{"version": "1.0", "added_tokens": [], "normalizer": null, "pre_tokenizer":
            {"type": "Whitespace"}, "post_processor": null, "decoder": null, "truncation": null, "padding": null,
            "model": {"type": "WordLevel", "vocab": {"a": 0, "</s>": 1, "u": 2}, "unk_token": "u"}}"#).unwrap();
        let tokenizer = Tokenizer::load(&path).unwrap();
        let expected = SpecialTokens { start_latent: 3, end_latent: 4, latent: 5, eos: 1, pad: 1 };
        assert_eq!(tokenizer.special_tokens(), expected);
        assert_eq!(tokenizer.vocab_size(), 6);
    }

    #[test]
    fn bad_tokenizers_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(Tokenizer::load(folder.path()).unwrap_err().exit_code(), 2);
        let path = folder.path().join("tokenizer.json");
        fs::write(&path, "{\"version\": ").unwrap();
        assert!(Tokenizer::load(&path).unwrap_err().to_string().contains("is not a tokenizer"));
        fs::write(
            &path,
            r#"{"version": "1.0", "added_tokens": [], "normalizer": null, "pre_tokenizer": null,
            "post_processor": null, "decoder": null, "truncation": null, "padding": null,
            "model": {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "a"}}"#,
        )
        .unwrap();
        assert!(
            Tokenizer::load(&path).unwrap_err().to_string().contains("no end-of-sequence token")
        );
    }
}
