//! Reading an expression; an error points at the character.

use std::fmt;

use super::{Bound, Feedback, Index, Term};

/// Why a text is no expression, and at which character.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParseError {
    /// The text.
    pub text: String,
    /// The character at fault, from 0.
    pub at: usize,
    /// What is wrong with it.
    pub problem: String,
}

impl std::error::Error for ParseError {}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let caret = " ".repeat(self.at);
        write!(f, "{}, character {}:\n  {}\n  {caret}^", self.problem, self.at + 1, self.text)
    }
}

const TERMS: &str = "hs[k], ie, suppressed[a:b], norm(x), proj(x), mlp(x), mlp[width](x), ln(x), soft[τ], zero or pause";
/// Terms nest this deep and no deeper.
const DEEPEST: usize = 32;

pub(super) fn parse(text: &str) -> Result<Feedback, ParseError> {
    let mut reader = Reader { text, chars: text.chars().collect(), at: 0, learned: [0; 4] };
    let expression = reader.sum(0)?;
    match reader.next_visible() {
        None => Ok(expression),
        Some(')') => Err(reader.error("a `)` that closes nothing")),
        Some(_) => Err(reader.error("expected `+` or the end")),
    }
}

struct Reader<'a> {
    text: &'a str,
    chars: Vec<char>,
    at: usize,
    /// How many `proj`, `mlp`, `pause` and `ln` were read.
    learned: [usize; 4],
}

impl Reader<'_> {
    fn error(&self, problem: impl Into<String>) -> ParseError {
        self.error_at(self.at, problem)
    }

    fn error_at(&self, at: usize, problem: impl Into<String>) -> ParseError {
        ParseError { text: self.text.into(), at, problem: problem.into() }
    }

    /// Moves to the next character that is no blank.
    fn next_visible(&mut self) -> Option<char> {
        while self.chars.get(self.at).is_some_and(|c| c.is_whitespace()) {
            self.at += 1;
        }
        self.chars.get(self.at).copied()
    }

    fn take(&mut self, wanted: char) -> bool {
        let found = self.next_visible() == Some(wanted);
        self.at += usize::from(found);
        found
    }

    fn expect(&mut self, wanted: char, after: &str) -> Result<(), ParseError> {
        if self.take(wanted) {
            return Ok(());
        }
        Err(self.error(format!("expected `{wanted}` after {after}")))
    }

    fn word(&mut self, belongs: impl Fn(char) -> bool) -> String {
        let rest = self.chars.get(self.at..).unwrap_or_default();
        let word: String = rest.iter().take_while(|c| belongs(**c)).collect();
        self.at += word.chars().count();
        word
    }

    fn sum(&mut self, depth: usize) -> Result<Feedback, ParseError> {
        if depth > DEEPEST {
            return Err(self.error(format!("terms are nested more than {DEEPEST} deep")));
        }
        let mut terms = vec![self.term(depth)?];
        while self.take('+') {
            terms.push(self.term(depth)?);
        }
        Ok(Feedback { terms })
    }

    fn term(&mut self, depth: usize) -> Result<Term, ParseError> {
        let Some(first) = self.next_visible() else {
            return Err(self.error(format!("expected a term here: {TERMS}")));
        };
        if first == '-' || first == '.' || first.is_ascii_digit() {
            // The older published form, a bare index of `hs`.
            return Ok(Term::Hidden(Index::At(self.bound()?)));
        }
        let start = self.at;
        let name = self.word(|c| c.is_alphanumeric() || c == '_');
        match name.as_str() {
            "hs" if self.next_visible() == Some('[') => Ok(Term::Hidden(self.index()?)),
            "hs" => Ok(Term::Hidden(Index::At(Bound::Integer(-1)))),
            "ie" => Ok(Term::Input),
            "suppressed" | "supressed" if self.next_visible() == Some('[') => {
                Ok(Term::Suppressed(self.index()?))
            }
            "suppressed" | "supressed" => Ok(Term::Suppressed(Index::Range(None, None))),
            "norm" => Ok(Term::Norm(self.argument("norm", depth)?)),
            "proj" => {
                let x = self.argument("proj", depth)?;
                Ok(Term::Proj(x, self.count(0)))
            }
            "mlp" => {
                let width =
                    if self.next_visible() == Some('[') { Some(self.width()?) } else { None };
                let x = self.argument("mlp", depth)?;
                Ok(Term::Mlp(x, width, self.count(1)))
            }
            "ln" => {
                let x = self.argument("ln", depth)?;
                Ok(Term::Ln(x, self.count(3)))
            }
            "soft" => self.temperature().map(Term::Soft),
            "zero" => Ok(Term::Zero),
            "pause" => Ok(Term::Pause(self.count(2))),
            "" => Err(self.error_at(start, format!("expected a term here: {TERMS}"))),
            _ => Err(self.error_at(start, format!("`{name}` is no term; expected {TERMS}"))),
        }
    }

    fn count(&mut self, kind: usize) -> usize {
        self.learned[kind] += 1;
        self.learned[kind] - 1
    }

    fn argument(&mut self, name: &str, depth: usize) -> Result<Feedback, ParseError> {
        self.expect('(', &format!("`{name}`"))?;
        let x = self.sum(depth + 1)?;
        self.expect(')', "the argument")?;
        Ok(x)
    }

    /// `[k]`, `[a:b]`, `[a:]`, `[:b]` or `[:]`.
    fn index(&mut self) -> Result<Index, ParseError> {
        self.expect('[', "the name")?;
        let start = if self.next_visible() == Some(':') { None } else { Some(self.bound()?) };
        let index = match (start, self.take(':')) {
            (Some(at), false) => Index::At(at),
            (start, _) if self.next_visible() == Some(']') => Index::Range(start, None),
            (start, _) => Index::Range(start, Some(self.bound()?)),
        };
        self.expect(']', "the index")?;
        Ok(index)
    }

    /// An integer, or a fraction of the number of hidden states.
    fn bound(&mut self) -> Result<Bound, ParseError> {
        self.next_visible();
        let start = self.at;
        let number = self.word(|c| c.is_ascii_digit() || matches!(c, '-' | '.'));
        if number.is_empty() {
            let problem =
                "expected an index here: an integer (-1 is the last), or a fraction (0.5)";
            return Err(self.error_at(start, problem));
        }
        if let Ok(k) = number.parse::<i64>() {
            return Ok(Bound::Integer(k));
        }
        match number.parse::<f64>() {
            Ok(x) if (0.0..=1.0).contains(&x) => Ok(Bound::Fraction(x)),
            Ok(x) => {
                Err(self.error_at(start, format!("the fraction {x} does not lie between 0 and 1")))
            }
            Err(_) => Err(self.error_at(start, format!("`{number}` is no number"))),
        }
    }

    /// `[τ]`, or nothing for 1.
    fn temperature(&mut self) -> Result<f64, ParseError> {
        if self.next_visible() != Some('[') {
            return Ok(1.0);
        }
        self.positive("a temperature", f64::INFINITY)
    }

    /// `[w]`.
    fn width(&mut self) -> Result<f64, ParseError> {
        const WIDEST: f64 = 64.0;
        self.positive("a width in widths of the model, up to 64", WIDEST)
    }

    /// A number above 0 in brackets.
    fn positive(&mut self, what: &str, most: f64) -> Result<f64, ParseError> {
        self.expect('[', "the name")?;
        self.next_visible();
        let start = self.at;
        let number = self.word(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '+'));
        let value = match number.parse::<f64>() {
            Ok(x) if x > 0.0 && x.is_finite() && x <= most => x,
            _ => {
                let problem = format!("expected {what} here, a number above 0 such as 1.0");
                return Err(self.error_at(start, problem));
            }
        };
        self.expect(']', "the number")?;
        Ok(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each text with the character at fault, counted by hand from 0.
    #[test]
    fn errors_point_at_the_character() {
        for (text, at, part) in [
            ("", 0, "expected a term"),
            ("hx[-1]", 0, "`hx` is no term"),
            ("hs[-1]+", 7, "expected a term"),
            ("hs[-1]++ie", 7, "expected a term"),
            ("hs[]", 3, "expected an index"),
            ("hs[-1", 5, "expected `]`"),
            ("ie hs[-1]", 3, "expected `+`"),
            ("norm hs[-1]", 5, "expected `(`"),
            ("norm(hs[-1]", 11, "expected `)`"),
            ("hs[-1])", 6, "closes nothing"),
            ("suppressed[1.5:]", 11, "the fraction 1.5"),
            ("suppressed[0.5:x]", 15, "expected an index"),
            ("hs[1-2]", 3, "`1-2` is no number"),
            ("ie+soft[0]", 8, "a temperature"),
            ("ie+soft[nan]", 8, "a temperature"),
            ("mlp[0](hs[-1])", 4, "a width"),
            ("mlp[65](hs[-1])", 4, "a width"),
            ("mlp[1]", 6, "expected `(`"),
            ("ln hs[-1]", 3, "expected `(`"),
            ("ä", 0, "`ä` is no term"),
        ] {
            let error = parse(text).unwrap_err();
            assert_eq!(error.at, at, "{text}: {error}");
            assert!(error.problem.contains(part), "{text}: {error}");
        }
        let shown = parse("ie+hx").unwrap_err().to_string();
        assert!(shown.ends_with(", character 4:\n  ie+hx\n     ^"), "{shown}");
        assert!(parse(&"norm(".repeat(100_000)).unwrap_err().problem.contains("nested"));
    }
}
