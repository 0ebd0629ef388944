//! Text to token ids and back: a Hugging Face `tokenizer.json`, loaded or built from the data.
//!
//! | to change … | open … |
//! | --- | --- |
//! | how text becomes ids and ids text | here |
//! | what is read from a folder and written to it | `files` |
//! | tokens and settings of the files beside `tokenizer.json` | `beside` |
//! | a tokenizer made from the data | [`build`] |
//! | how a question is put: system prompt, chat template | [`chat`] |

mod beside;
pub mod build;
pub mod chat;
mod files;

use std::ops::Range;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

pub use build::Units;

use super::Example;
use crate::{Error, Result};

/// The token that opens the continuous thoughts (`bot` in docs/method.md).
pub const START_LATENT: &str = "<|start-latent|>";
/// The token that closes the continuous thoughts (`eot`).
pub const END_LATENT: &str = "<|end-latent|>";
/// The token that holds the place of one continuous thought.
pub const LATENT: &str = "<|latent|>";
/// The text that stands before every answer, unless [`chat::PromptStyle`] has another.
pub const ANSWER_PREFIX: &str = "###";

/// The special tokens that configurations name by role, and that templates know by these names.
const NAMED_TOKENS: [&str; 7] =
    ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

/// The ids that the curriculum and the batches need beside the text's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpecialTokens {
    /// Id of [`START_LATENT`].
    pub start_latent: u32,
    /// Id of [`END_LATENT`].
    pub end_latent: u32,
    /// Id of [`LATENT`].
    pub latent: u32,
    /// Id of the token that ends every answer.
    pub eos: u32,
    /// Id that fills rows up to a batch's width; the eos if the tokenizer has no pad token.
    pub pad: u32,
}

/// A tokenizer with the three latent markers.
#[derive(Clone, Debug)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    markers: SpecialTokens,
    /// Tokens that end a generation; the eos is the first.
    stops: Vec<u32>,
    unknown: Option<u32>,
    /// One more than the largest id before the markers were added.
    loaded_size: usize,
    style: chat::PromptStyle,
    /// Solved examples that stand before every question.
    shots: Vec<Example>,
    /// Texts that end a generation where they are said, besides the stops.
    stop_texts: Vec<String>,
    chat: Option<chat::Chat>,
    origin: PathBuf,
    /// `tokenizer_config.json`, kept so that a loaded tokenizer is saved with all it came with.
    config: Map<String, Value>,
}

/// Token ids, and the pieces of the text that the vocabulary lacks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tokens {
    /// One id a token.
    pub ids: Vec<u32>,
    /// The words or characters that became the unknown token, in the text's order.
    pub unknown: Vec<String>,
}

impl Tokenizer {
    /// Token ids of a text; `special` adds what the tokenizer puts around a text, such as a first `<s>`.
    pub fn encode(&self, text: &str, special: bool) -> Result<Tokens> {
        let encoding = self.inner.encode(text, special).map_err(|error| self.failed(error))?;
        let ids = encoding.get_ids().to_vec();
        let spelled = self.unknown.and_then(|id| self.inner.id_to_token(id));
        let pieces = ids.iter().zip(encoding.get_offsets());
        let unknown = pieces.filter(|(id, _)| Some(**id) == self.unknown);
        let unknown = unknown.map(|(_, &(start, end))| text.get(start..end).unwrap_or(text));
        // Where the text itself spells the unknown token, nothing is lacking.
        let unknown = unknown.filter(|&piece| Some(piece.trim()) != spelled.as_deref());
        let unknown = unknown.map(str::to_owned).collect();
        Ok(Tokens { ids, unknown })
    }

    /// Where each token of a text stands in it, in bytes, in the order of [`encode`](Self::encode)'s.
    pub fn offsets(&self, text: &str, special: bool) -> Result<Vec<Range<usize>>> {
        let encoding = self.inner.encode(text, special).map_err(|error| self.failed(error))?;
        Ok(encoding.get_offsets().iter().map(|&(start, end)| start..end).collect())
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

    /// The markers, eos and pad.
    pub fn special_tokens(&self) -> SpecialTokens {
        self.markers
    }

    /// The tokens that end a generation, each of them: the eos, and those that the folder's
    /// `generation_config.json` lists beside it.
    pub fn stops(&self) -> &[u32] {
        &self.stops
    }

    /// Texts that end a generation where they are said.
    pub fn stop_texts(&self) -> &[String] {
        &self.stop_texts
    }

    /// The same tokenizer, with texts that end a generation where they are said.
    pub fn with_stop_texts(mut self, texts: impl IntoIterator<Item = String>) -> Self {
        self.stop_texts.extend(texts.into_iter().filter(|text| !text.is_empty()));
        self
    }

    /// Where the first of the stop texts stands in a generated text.
    pub fn stop_in(&self, text: &str) -> Option<usize> {
        self.stop_texts.iter().filter_map(|stop| text.find(stop.as_str())).min()
    }

    /// The text that stands before an answer.
    pub fn answer_mark(&self) -> &str {
        &self.style.answer_mark
    }

    /// The same tokenizer, at whose eos alone a generation ends.
    pub fn stopping_at_eos(mut self) -> Self {
        self.stops.truncate(1);
        self
    }

    /// The markers that the files did not have: their embeddings are still to be started.
    pub fn added_markers(&self) -> Vec<u32> {
        let SpecialTokens { start_latent, end_latent, latent, .. } = self.markers;
        let all = [start_latent, end_latent, latent];
        all.into_iter().filter(|&id| id as usize >= self.loaded_size).collect()
    }

    /// One more than the largest id that the files gave, before markers were added.
    pub fn loaded_size(&self) -> usize {
        self.loaded_size
    }

    /// The token that stands for what the vocabulary lacks, if there is such a token.
    pub fn unknown(&self) -> Option<u32> {
        self.unknown
    }

    /// One more than the largest id: the number of rows that the embedding needs.
    pub fn vocab_size(&self) -> usize {
        size(&self.inner)
    }

    /// The tokens that the files gave for which a model of so many rows has none.
    pub fn tokens_beyond(&self, rows: usize) -> Vec<String> {
        let beyond = rows as u32..self.loaded_size as u32;
        beyond.filter_map(|id| self.inner.id_to_token(id)).collect()
    }

    /// The file that it was loaded from, or the path given when it was built.
    pub fn origin(&self) -> &Path {
        &self.origin
    }

    fn failed(&self, error: tokenizers::Error) -> Error {
        Error::input(&self.origin, "", format!("the tokenizer failed: {error}"))
    }
}

fn size(inner: &tokenizers::Tokenizer) -> usize {
    inner.get_vocab(true).into_values().max().map_or(0, |largest| largest as usize + 1)
}
