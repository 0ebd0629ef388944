//! A row's tokens as text, piece by piece, up to a stop text.

use coconut::{Result, data::Tokenizer};

/// What a row has said so far.
pub struct Speech<'a> {
    tokenizer: &'a Tokenizer,
    stop: &'a [String],
    pub ids: Vec<u32>,
    /// Bytes of the text that were handed out.
    handed: usize,
    /// Whether it came to a stop text.
    pub stopped: bool,
}

impl<'a> Speech<'a> {
    pub fn new(tokenizer: &'a Tokenizer, stop: &'a [String]) -> Self {
        Self { tokenizer, stop, ids: Vec::new(), handed: 0, stopped: false }
    }

    /// One more token.
    ///
    /// # Errors
    /// If the tokenizer fails.
    pub fn push(&mut self, id: u32) -> Result<()> {
        self.ids.push(id);
        if !self.stop.is_empty() {
            self.text()?;
        }
        Ok(())
    }

    /// All that was said, up to a stop text.
    ///
    /// # Errors
    /// If the tokenizer fails.
    pub fn text(&mut self) -> Result<String> {
        let mut text = self.tokenizer.decode(&self.ids)?;
        if let Some(at) = self.stop.iter().filter_map(|stop| text.find(stop.as_str())).min() {
            text.truncate(at);
            self.stopped = true;
        }
        Ok(text)
    }

    /// What was said since the last piece. What may be the beginning of a stop text, or of a character, waits until more
    /// is said; at the `end` nothing does.
    ///
    /// # Errors
    /// If the tokenizer fails.
    pub fn piece(&mut self, end: bool) -> Result<String> {
        let text = self.text()?;
        let ready = match end || self.stopped {
            true => text.len(),
            false => text.trim_end_matches('\u{FFFD}').len().min(self.before_stop(&text)),
        };
        let piece = text.get(self.handed..ready).unwrap_or_default().to_owned();
        self.handed += piece.len();
        Ok(piece)
    }

    /// Where the end of a text begins that may be the beginning of a stop text.
    fn before_stop(&self, text: &str) -> usize {
        let begins = |&at: &usize| self.stop.iter().any(|stop| stop.starts_with(&text[at..]));
        let places = text.char_indices().map(|(at, _)| at).rev();
        let longest = self.stop.iter().map(|stop| stop.chars().count()).max().unwrap_or(0);
        places.take(longest).filter(begins).min().unwrap_or(text.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use coconut::data::{Example, tokenizer::Units};
    use std::path::Path;

    /// A tokenizer of characters, and the ids of a text.
    fn spelled(text: &str) -> (Tokenizer, Vec<u32>) {
        let examples = [Example::new("abcdefgh \n", ["é"], "xyz")];
        let tokenizer = Tokenizer::build(&examples, Units::Characters, Path::new("test")).unwrap();
        let ids = tokenizer.encode(text, false).unwrap().ids;
        (tokenizer, ids)
    }

    fn pieces(text: &str, stop: &[&str]) -> Vec<String> {
        let (tokenizer, ids) = spelled(text);
        let stop: Vec<String> = stop.iter().map(|&stop| stop.to_owned()).collect();
        let mut speech = Speech::new(&tokenizer, &stop);
        let mut pieces = Vec::new();
        for id in ids {
            speech.push(id).unwrap();
            pieces.push(speech.piece(false).unwrap());
            if speech.stopped {
                return pieces;
            }
        }
        pieces.push(speech.piece(true).unwrap());
        pieces
    }

    #[test]
    fn pieces_wait_for_what_may_be_a_stop() {
        assert_eq!(pieces("abc", &[]), ["a", "b", "c", ""]);
        assert_eq!(pieces("abcde", &["cdx", "y"]), ["a", "b", "", "", "cde", ""]);
        assert_eq!(pieces("abcdx", &["cdx", "y"]), ["a", "b", "", "", ""]);
        assert_eq!(pieces("abcd", &["cdx"]), ["a", "b", "", "", "cd"]);
        assert_eq!(pieces("ccdx", &["cdx"]), ["", "c", "", ""]);
    }
}
