//! What a question's tokens are, told by the text alone.

use std::{collections::BTreeSet, ops::Range};

use serde::{Deserialize, Serialize};

use super::{Plain, Subject};
use crate::{Result, data::Encoded, eval::Evaluator};

/// A class of a question's tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TokenClass {
    /// Of digits.
    Number,
    /// Of a word that is the value of a step of some question.
    Name,
    /// Of another word.
    Word,
    /// Of neither letters nor digits: operators, punctuation, blanks.
    Symbol,
}

impl TokenClass {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Number, Self::Name, Self::Word, Self::Symbol];
}

/// The class of each token of each question, in the order of its prompt, up to the markers after it at least.
///
/// # Errors
/// As [`Tokenizer::render_prompt`](crate::data::Tokenizer::render_prompt).
pub(super) fn of_questions(subject: &Subject<'_>, plain: &Plain) -> Result<Vec<Vec<TokenClass>>> {
    let Evaluator { data, tokenizer, .. } = subject.evaluator;
    let values = plain.values.of_steps.iter().flatten();
    let names: BTreeSet<&str> = values.flat_map(|value| words(value)).collect();
    let of = |question: usize| match &data.encoded[question] {
        Encoded::Text(_) => {
            let (text, special) = tokenizer.render_prompt(&data.examples[question].question)?;
            let offsets = tokenizer.offsets(&text, special)?;
            Ok(offsets.into_iter().map(|range| class(&text, range, &names)).collect())
        }
        // Each node and mark is a token of its own.
        Encoded::Graph(_) => {
            let tokens = tokenizer.token_strings(&plain.asked[question].prompt.ids);
            Ok(tokens.iter().map(|token| class(token, 0..token.len(), &names)).collect())
        }
    };
    (0..data.examples.len()).map(of).collect()
}

/// The class of the token that stands at `range` of a text: that of the first word or number it is a part of.
fn class(text: &str, range: Range<usize>, names: &BTreeSet<&str>) -> TokenClass {
    let start = |word: &str| word.as_ptr() as usize - text.as_ptr() as usize;
    let touches = |word: &&str| start(word) < range.end && range.start < start(word) + word.len();
    match words(text).find(touches) {
        None => TokenClass::Symbol,
        Some(word) if !word.chars().any(char::is_alphabetic) => TokenClass::Number,
        Some(word) if names.contains(word) => TokenClass::Name,
        Some(_) => TokenClass::Word,
    }
}

/// The runs of letters and digits in a text.
fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty())
}

#[cfg(test)]
mod tests {
    use super::{TokenClass::*, *};

    #[test]
    fn classes_of_tokens_by_hand() {
        let names = BTreeSet::from(["lorpus", "b"]);
        let classes = |text: &str, pieces: &[&str]| -> Vec<TokenClass> {
            assert_eq!(pieces.concat(), text);
            let mut end = 0;
            let of = |piece: &&str| {
                end += piece.len();
                class(text, end - piece.len()..end, &names)
            };
            pieces.iter().map(of).collect()
        };
        assert_eq!(classes("3+15", &["3", "+", "15"]), [Number, Symbol, Number]);
        // Byte pairs: a part of a word is what the word is.
        let pieces = ["Is", " 7", " a", " lor", "pus", "?", "\n"];
        let expected = [Word, Number, Word, Name, Name, Symbol, Symbol];
        assert_eq!(classes("Is 7 a lorpus?\n", &pieces), expected);
        assert_eq!(
            classes("ab b | é n4", &["a", "b", " b", " | ", "é", " n", "4"]),
            [Word, Word, Name, Symbol, Word, Word, Word]
        );
        // A token without any text, as some tokenizers put before it.
        assert_eq!(class("3", 0..0, &names), Symbol);
    }
}
