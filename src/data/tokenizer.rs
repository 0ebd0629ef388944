//! Text to token ids and back: a Hugging Face `tokenizer.json`, loaded or built from the data.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};
use tokenizers::{AddedToken, OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer};

use super::Example;
use super::write::write_atomically;
use crate::{Error, Result};

/// Opens the continuous thoughts (`bot` in METHOD's tables).
pub const START_LATENT: &str = "<|start-latent|>";
/// Closes the continuous thoughts (`eot`).
pub const END_LATENT: &str = "<|end-latent|>";
/// Holds the place of one continuous thought.
pub const LATENT: &str = "<|latent|>";
/// Stands between the reasoning and the answer.
pub const ANSWER_MARK: &str = "###";

const EOS: &str = "<eos>";
const PAD: &str = "<pad>";
const UNK: &str = "<unk>";

/// Eos tokens of well-known families, for a `tokenizer.json` that comes without its configuration.
const KNOWN_EOS: [&str; 5] = ["<|endoftext|>", "<|im_end|>", "</s>", "<|end_of_text|>", EOS];

/// The ids that the curriculum and the batches need beside the text's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Markers {
    /// [`START_LATENT`].
    pub start_latent: u32,
    /// [`END_LATENT`].
    pub end_latent: u32,
    /// [`LATENT`].
    pub latent: u32,
    /// Ends every answer.
    pub eos: u32,
    /// Fills rows up to a batch's width; the eos if the tokenizer has no pad token.
    pub pad: u32,
}

/// What a tokenizer built from data takes as one token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Units {
    /// Words, and single digits and punctuation marks: ProsQA, ProntoQA, GSM8k.
    Words,
    /// Whatever stands between blanks: multiplication digit by digit, `12 7 | [Q] 3`.
    Symbols,
    /// Single characters without the blanks: `3+5*2-7`.
    Characters,
}

/// A tokenizer with the three latent markers.
#[derive(Debug, Clone)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    markers: Markers,
    unknown: Option<u32>,
    origin: PathBuf,
    /// `tokenizer_config.json`, kept so that a loaded tokenizer is saved with all it came with.
    config: Map<String, Value>,
}

/// Token ids, and the first piece of the text that the vocabulary lacks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tokens {
    /// One id a token.
    pub ids: Vec<u32>,
    /// The text behind the first unknown token.
    pub unknown: Option<String>,
}

// ---- Loading --------------------------------------------------------------------------------------------------------

impl Tokenizer {
    /// Loads a `tokenizer.json`, or the folder it is in, and adds the latent markers where missing.
    ///
    /// Eos and pad are named by `tokenizer_config.json`, `special_tokens_map.json` or `config.json`
    /// beside it. Truncation and padding set in the file are switched off.
    ///
    /// # Errors
    /// A file that is missing or not a tokenizer, and one for which no eos token can be found.
    pub fn load(path: &Path) -> Result<Self> {
        let file = if path.is_dir() { path.join("tokenizer.json") } else { path.to_owned() };
        let folder = file.parent().unwrap_or(Path::new(""));
        let bytes = fs::read(&file).map_err(Error::io("read", &file))?;
        let inner = tokenizers::Tokenizer::from_bytes(bytes).map_err(|error| {
            let advice = "Save it with `AutoTokenizer.from_pretrained(…).save_pretrained(folder)`";
            Error::input(&file, "", format!("is not a tokenizer: {error}. {advice}"))
        })?;

        let mut config = read_object(&folder.join("tokenizer_config.json"))?;
        let map = read_object(&folder.join("special_tokens_map.json"))?;
        for name in ["eos_token", "pad_token", "unk_token", "bos_token"] {
            if config.get(name).is_none_or(Value::is_null)
                && let Some(token) = map.get(name)
            {
                config.insert(name.to_owned(), token.clone());
            }
        }
        if token_named(&config, "eos_token").is_none() {
            let model = read_object(&folder.join("config.json"))?;
            let eos = eos_of_model(&model).and_then(|id| inner.id_to_token(id));
            let known = || KNOWN_EOS.iter().find(|eos| inner.token_to_id(eos).is_some());
            if let Some(eos) = eos.or_else(|| known().map(|&eos| eos.to_owned())) {
                config.insert("eos_token".to_owned(), eos.into());
            }
        }
        Self::assemble(inner, config, file)
    }

    /// Builds a tokenizer whose vocabulary is what occurs in the examples.
    ///
    /// Digits, operators, `<<`, `>>`, `###` and the newline are always tokens. The vocabulary is in
    /// alphabetical order, so that it does not depend on the examples' order. `origin` is the path that
    /// later errors name.
    pub fn build<'a>(
        examples: impl IntoIterator<Item = &'a Example>,
        units: Units,
        origin: &Path,
    ) -> Result<Self> {
        let base = [PAD, EOS, UNK, START_LATENT, END_LATENT, LATENT, "\n", ANSWER_MARK, "<<", ">>"];
        let digits = ('0'..='9').chain("+-*/=.".chars()).map(String::from);
        let mut vocabulary: Vec<String> =
            base.map(String::from).into_iter().chain(digits).collect();

        let cutter = Self::from_vocabulary(&vocabulary, units, origin)?;
        let mut found = BTreeSet::new();
        for example in examples {
            let texts = [&example.question, &example.answer];
            for text in texts.into_iter().chain(&example.steps) {
                found.extend(cutter.cut(text)?);
            }
        }
        vocabulary.extend(found.into_iter().filter(|piece| cutter.id_of(piece).is_none()));
        Self::from_vocabulary(&vocabulary, units, origin)
    }

    /// The vocabulary of the graph task: `0` … `n_nodes − 1`, the markers, `|`, `[Q]`, `[R]`, `[A]`, `<eos>`.
    ///
    /// With 31 nodes every id is that of `STokenizer` in Ber666/reasoning-by-superposition; the eos pads.
    pub fn for_graphs(n_nodes: usize, origin: &Path) -> Result<Self> {
        let rest =
            [START_LATENT, END_LATENT, LATENT, "|", "[Q]", "[R]", "[A]", EOS, "<|no-answer|>", UNK];
        let nodes = (0..n_nodes).map(|node| node.to_string());
        let vocabulary: Vec<String> = nodes.chain(rest.map(String::from)).collect();
        Self::from_vocabulary(&vocabulary, Units::Symbols, origin)
    }

    /// Sets up special tokens, markers and ids; the last step of loading and of building.
    fn assemble(
        mut inner: tokenizers::Tokenizer,
        config: Map<String, Value>,
        origin: PathBuf,
    ) -> Result<Self> {
        let failed = |error: tokenizers::Error| Error::input(&origin, "", error.to_string());
        inner.with_padding(None).with_truncation(None).map_err(failed)?;
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
        let markers = Markers { start_latent, end_latent, latent, eos, pad };
        // GPT-2 names its eos as unknown token, yet its bytes cover every text: nothing is unknown to it.
        let unknown = token_named(&config, "unk_token").and_then(|token| inner.token_to_id(token));
        let unknown = unknown.filter(|&id| id != eos);
        Ok(Self { inner, markers, unknown, origin, config })
    }
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

/// A special token's text; the files write it as a string or as an object with its `content`.
fn token_named<'a>(config: &'a Map<String, Value>, name: &str) -> Option<&'a str> {
    let token = config.get(name)?;
    token.as_str().or_else(|| token.get("content")?.as_str())
}

fn eos_of_model(config: &Map<String, Value>) -> Option<u32> {
    let eos = config.get("eos_token_id")?;
    let first = eos.as_array().map_or(Some(eos), |ids| ids.first())?;
    first.as_u64()?.try_into().ok()
}

// ---- Building -------------------------------------------------------------------------------------------------------

impl Units {
    /// The units for a symbolic task: single characters, unless all the texts are already written with
    /// blanks between their symbols.
    pub fn for_symbols(examples: &[Example]) -> Self {
        let spaced = examples.iter().all(|example| {
            let texts = std::iter::once(&example.question).chain(&example.steps);
            texts
                .chain([&example.answer])
                .flat_map(|text| text.split_whitespace())
                .all(is_one_symbol)
        });
        if spaced { Self::Symbols } else { Self::Characters }
    }

    /// What a token is, as a pattern that both the Rust and the Python tokenizers understand. Blanks
    /// match nothing and are dropped, which makes the ids of a text's pieces those of the whole.
    fn pattern(self) -> &'static str {
        match self {
            Self::Words => r"\n|###|<<|>>|\p{L}+(?:['’]\p{L}+)*|\S",
            Self::Symbols => r"\n|\S+",
            Self::Characters => r"\n|###|<<|>>|\S",
        }
    }

    /// How tokens become text again, given that the blanks between them are gone.
    fn decoder(self) -> Value {
        // WordPiece is the one decoder that puts a blank between tokens; its prefix, which would suppress
        // the blank, is a character that no token begins with.
        let spaced = json!({"type": "WordPiece", "prefix": "\u{1}", "cleanup": false});
        let joined = json!({"type": "Fuse"});
        let replace = |pattern: &str, content: &str| json!({"type": "Replace", "pattern": {"Regex": pattern}, "content": content});
        let newlines = replace(" ?\n ?", "\n");
        let decoders = match self {
            Self::Words => json!([
                spaced,
                joined,
                newlines,
                replace(" (?=[.,?!:;%)])", ""),
                // Digits and operators are tokens each; a number or a calculation is written together.
                replace("(?<=[0-9.+*/=<>-]) (?=[0-9.+*/=<>-])", ""),
            ]),
            Self::Symbols => json!([spaced, joined, newlines]),
            Self::Characters => json!([joined, replace("###", "### ")]),
        };
        json!({"type": "Sequence", "decoders": decoders})
    }
}

/// `7`, `12`, `+`, `[Q]`: what stands for itself when written between blanks.
fn is_one_symbol(piece: &str) -> bool {
    let mut characters = piece.chars();
    let single = characters.next().is_some() && characters.next().is_none();
    let number = piece.bytes().all(|byte| byte.is_ascii_digit());
    let name = piece.trim_start_matches(['[', '<']).trim_end_matches([']', '>']);
    single || number || (!name.is_empty() && name.chars().all(char::is_alphabetic))
}

impl Tokenizer {
    fn from_vocabulary(vocabulary: &[String], units: Units, origin: &Path) -> Result<Self> {
        let ids: Map<String, Value> =
            vocabulary.iter().enumerate().map(|(id, token)| (token.clone(), id.into())).collect();
        let specials = [PAD, EOS, UNK, START_LATENT, END_LATENT, LATENT];
        let mut added: Vec<&str> =
            specials.into_iter().filter(|&token| ids.contains_key(token)).collect();
        added.sort_by_key(|&token| ids[token].as_u64());
        let added: Vec<Value> = added
            .into_iter()
            .map(|token| {
                json!({"id": ids[token], "content": token, "single_word": false, "lstrip": false,
                    "rstrip": false, "normalized": false, "special": true})
            })
            .collect();
        let pad = if ids.contains_key(PAD) { PAD } else { EOS };
        let description = json!({
            "version": "1.0",
            "truncation": null,
            "padding": null,
            "added_tokens": added,
            "normalizer": null,
            // Inverted, so that what the pattern matches is kept and the rest removed.
            "pre_tokenizer": {"type": "Split", "pattern": {"Regex": units.pattern()},
                "behavior": "Removed", "invert": true},
            "post_processor": null,
            "decoder": units.decoder(),
            "model": {"type": "WordLevel", "vocab": ids, "unk_token": UNK},
        });
        let inner = tokenizers::Tokenizer::from_bytes(description.to_string())
            .map_err(|error| Error::input(origin, "", error.to_string()))?;
        let config = json!({
            "tokenizer_class": "PreTrainedTokenizerFast",
            "eos_token": EOS,
            "pad_token": pad,
            "unk_token": UNK,
            "clean_up_tokenization_spaces": false,
        });
        let Value::Object(config) = config else { unreachable!("the literal above is an object") };
        Self::assemble(inner, config, origin.to_owned())
    }

    /// The text's pieces before they are looked up.
    fn cut(&self, text: &str) -> Result<Vec<String>> {
        let mut pieces = PreTokenizedString::from(text);
        if let Some(cutter) = self.inner.get_pre_tokenizer() {
            cutter.pre_tokenize(&mut pieces).map_err(|error| self.failed(error))?;
        }
        let splits = pieces.get_splits(OffsetReferential::Original, OffsetType::Byte);
        Ok(splits.into_iter().map(|(piece, ..)| piece.to_owned()).collect())
    }
}

// ---- Using ----------------------------------------------------------------------------------------------------------

impl Tokenizer {
    /// Token ids of a text; `special` adds what the tokenizer puts around a text, such as a first `<s>`.
    pub fn encode(&self, text: &str, special: bool) -> Result<Tokens> {
        let encoding = self.inner.encode(text, special).map_err(|error| self.failed(error))?;
        let ids = encoding.get_ids().to_vec();
        let unknown = self.unknown.and_then(|unknown| {
            let place = ids.iter().position(|&id| id == unknown)?;
            let &(start, end) = encoding.get_offsets().get(place)?;
            Some(text.get(start..end).unwrap_or(text).to_owned())
        });
        Ok(Tokens { ids, unknown })
    }

    /// Text of token ids, without special tokens.
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        self.inner.decode(ids, true).map_err(|error| self.failed(error))
    }

    /// Each token as the vocabulary writes it; `?` and the number for an id beyond the vocabulary.
    pub fn token_strings(&self, ids: &[u32]) -> Vec<String> {
        let string = |&id: &u32| self.inner.id_to_token(id).unwrap_or_else(|| format!("?{id}"));
        ids.iter().map(string).collect()
    }

    /// The id of one token, if the vocabulary has it.
    pub fn id_of(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// The id that the markers' embeddings are copied from: `<<`, if that is one token.
    pub fn marker_source(&self) -> Option<u32> {
        match self.encode("<<", false).ok()?.ids.as_slice() {
            &[id] if Some(id) != self.unknown => Some(id),
            _ => None,
        }
    }

    /// Markers, eos and pad.
    pub fn markers(&self) -> Markers {
        self.markers
    }

    /// The token that stands for what the vocabulary lacks, if there is such a token.
    pub fn unknown(&self) -> Option<u32> {
        self.unknown
    }

    /// One more than the largest id: the number of rows that the embedding needs.
    pub fn vocab_size(&self) -> usize {
        let ids = self.inner.get_vocab(true).into_values();
        ids.max().map_or(0, |largest| largest as usize + 1)
    }

    /// The file that it was loaded from, or the path given when it was built.
    pub fn origin(&self) -> &Path {
        &self.origin
    }

    fn failed(&self, error: tokenizers::Error) -> Error {
        Error::input(&self.origin, "", format!("the tokenizer failed: {error}"))
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

fn write_object(path: &Path, object: &Map<String, Value>) -> Result<()> {
    let text = serde_json::to_string_pretty(object)
        .map_err(|error| Error::input(path, "", error.to_string()))?;
    write_atomically(path, format!("{text}\n").as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words() -> Tokenizer {
        let steps = ["Tom is a terpus.", "Every terpus is a brimpus."];
        let example = Example::new(
            "Every terpus is a brimpus. Is Tom a brimpus or lempus?",
            steps,
            "Tom is a brimpus.",
        );
        Tokenizer::build([&example], Units::Words, Path::new("words")).unwrap()
    }

    fn characters() -> Tokenizer {
        let example = Example::new("3+5*2-7", ["<<3+5=8>>"], "9");
        Tokenizer::build([&example], Units::Characters, Path::new("characters")).unwrap()
    }

    fn digits() -> Tokenizer {
        let example = Example::new("5 6 * 7 4", ["5 1 ( 2 3 )"], "6 7 8");
        assert_eq!(Units::for_symbols(std::slice::from_ref(&example)), Units::Symbols);
        Tokenizer::build([&example], Units::Symbols, Path::new("digits")).unwrap()
    }

    fn tokens(tokenizer: &Tokenizer, text: &str) -> Vec<String> {
        tokenizer.token_strings(&tokenizer.encode(text, true).unwrap().ids)
    }

    #[test]
    fn words_and_punctuation_are_tokens() {
        assert_eq!(tokens(&words(), "Is Tom a\nlempus?"), ["Is", "Tom", "a", "\n", "lempus", "?"]);
        assert_eq!(
            tokens(&words(), "<<16-3=13>>\n### 13"),
            ["<<", "1", "6", "-", "3", "=", "1", "3", ">>", "\n", "###", "1", "3"]
        );
        assert_eq!(
            tokens(&characters(), "12*3\n### -4"),
            ["1", "2", "*", "3", "\n", "###", "-", "4"]
        );
        assert_eq!(tokens(&digits(), "5 1 ( 2\n### 6"), ["5", "1", "(", "2", "\n", "###", "6"]);
    }

    #[test]
    fn decoding_gives_the_text_back() {
        for (tokenizer, text) in [
            (words(), "Every terpus is a brimpus.\nTom is a terpus.\n### Tom is a brimpus."),
            (words(), "Is Tom a brimpus or lempus?\n<<16-3*.5=14.5>>\n<<2+2=4>>\n### -14.5"),
            (characters(), "3+5*2-7\n<<3+5=8>>\n### -128"),
            (digits(), "5 6 * 7 4\n5 1 ( 2 3 )\n### 6 7 8"),
        ] {
            let mut ids = tokenizer.encode(text, true).unwrap().ids;
            ids.push(tokenizer.markers().eos);
            assert_eq!(tokenizer.decode(&ids).unwrap(), text);
        }
    }

    #[test]
    fn unknown_words_are_reported() {
        assert_eq!(
            words().encode("Tom is a wumpus.", false).unwrap().unknown.as_deref(),
            Some("wumpus")
        );
        assert_eq!(words().encode("Tom is a lempus.", false).unwrap().unknown, None);
    }

    #[test]
    fn markers_are_single_tokens() {
        let tokenizer = words();
        let markers = tokenizer.markers();
        let ids = tokenizer
            .encode("a<|start-latent|><|latent|><|latent|><|end-latent|>Tom", false)
            .unwrap()
            .ids;
        assert_eq!(
            ids[1..5],
            [markers.start_latent, markers.latent, markers.latent, markers.end_latent]
        );
        assert_eq!(tokenizer.marker_source(), tokenizer.id_of("<<"));
    }

    #[test]
    fn graph_ids_are_the_published_ones() {
        let tokenizer = Tokenizer::for_graphs(31, Path::new("graphs")).unwrap();
        for (token, id) in [
            ("0", 0),
            ("30", 30),
            (START_LATENT, 31),
            (END_LATENT, 32),
            (LATENT, 33),
            ("|", 34),
            ("[Q]", 35),
            ("[R]", 36),
            ("[A]", 37),
            ("<eos>", 38),
            ("<|no-answer|>", 39),
        ] {
            assert_eq!(tokenizer.id_of(token), Some(id), "{token}");
        }
        assert_eq!(tokenizer.markers().pad, 38);
        assert_eq!(tokenizer.marker_source(), None);
    }

    #[test]
    fn saved_tokenizer_is_loaded_with_the_same_ids() {
        let folder = tempfile::tempdir().unwrap();
        for tokenizer in
            [words(), characters(), digits(), Tokenizer::for_graphs(5, Path::new("g")).unwrap()]
        {
            tokenizer.save(folder.path()).unwrap();
            let loaded = Tokenizer::load(folder.path()).unwrap();
            assert_eq!(loaded.inner.get_vocab(true), tokenizer.inner.get_vocab(true));
            assert_eq!(loaded.markers(), tokenizer.markers());
            assert_eq!(loaded.unknown(), tokenizer.unknown());
            assert_eq!(loaded.vocab_size(), tokenizer.vocab_size());
            let text = "5 1\n### 6";
            assert_eq!(loaded.encode(text, true).unwrap(), tokenizer.encode(text, true).unwrap());
        }
    }

    #[test]
    fn markers_are_added_to_a_foreign_tokenizer() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokenizer.json");
        fs::write(&path, r#"{"version": "1.0", "added_tokens": [], "normalizer": null, "pre_tokenizer":
            {"type": "Whitespace"}, "post_processor": null, "decoder": null, "truncation": null, "padding": null,
            "model": {"type": "WordLevel", "vocab": {"a": 0, "</s>": 1, "u": 2}, "unk_token": "u"}}"#).unwrap();
        let tokenizer = Tokenizer::load(&path).unwrap();
        let expected = Markers { start_latent: 3, end_latent: 4, latent: 5, eos: 1, pad: 1 };
        assert_eq!(tokenizer.markers(), expected);
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
