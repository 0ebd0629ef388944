//! A tokenizer made from the data: its vocabulary is what occurs there.

use std::{collections::BTreeSet, path::Path};

use serde_json::{Map, Value, json};
use tokenizers::{OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer};

use super::{ANSWER_PREFIX, END_LATENT, LATENT, START_LATENT, Tokenizer};
use crate::{Error, Result, data::Example};

const EOS: &str = "<eos>";
const PAD: &str = "<pad>";
const UNK: &str = "<unk>";

/// What a tokenizer built from data takes as one token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Units {
    /// Words, and single digits and punctuation marks: ProsQA, ProntoQA, GSM8k.
    Words,
    /// Whatever stands between blanks: multiplication digit by digit, `12 7 | [Q] 3`.
    Symbols,
    /// Single characters without the blanks: `3+5*2-7`.
    Characters,
}

impl Tokenizer {
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
        let base =
            [PAD, EOS, UNK, START_LATENT, END_LATENT, LATENT, "\n", ANSWER_PREFIX, "<<", ">>"];
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
}

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
    fn pattern(self) -> String {
        match self {
            Self::Words => [r"\n|", ANSWER_PREFIX, r"|<<|>>|\p{L}+(?:['’]\p{L}+)*|\S"].concat(),
            Self::Symbols => r"\n|\S+".to_owned(),
            Self::Characters => [r"\n|", ANSWER_PREFIX, r"|<<|>>|\S"].concat(),
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
            Self::Characters => {
                json!([joined, replace(ANSWER_PREFIX, &format!("{ANSWER_PREFIX} "))])
            }
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
            ids.push(tokenizer.special_tokens().eos);
            assert_eq!(tokenizer.decode(&ids).unwrap(), text);
        }
    }

    #[test]
    fn unknown_words_are_reported() {
        let unknown = |text: &str| words().encode(text, false).unwrap().unknown;
        assert_eq!(unknown("Tom is a wumpus, not an eel."), ["wumpus", ",", "not", "an", "eel"]);
        assert_eq!(unknown("Tom is a lempus."), [""; 0]);
        assert_eq!(unknown("Tom is <unk>."), [""; 0], "the text spells the unknown token itself");
    }

    #[test]
    fn markers_are_single_tokens() {
        let tokenizer = words();
        let markers = tokenizer.special_tokens();
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
        assert_eq!(tokenizer.special_tokens().pad, 38);
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
            assert_eq!(loaded.special_tokens(), tokenizer.special_tokens());
            assert_eq!(loaded.unknown(), tokenizer.unknown());
            assert_eq!(loaded.vocab_size(), tokenizer.vocab_size());
            let text = "5 1\n### 6";
            assert_eq!(loaded.encode(text, true).unwrap(), tokenizer.encode(text, true).unwrap());
        }
    }
}
