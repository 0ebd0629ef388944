//! What is fed back: the function R of docs/method.md 5, a sum of terms such as `hs[-1]+suppressed[0.5:]`.
//! [`parse`] reads it, [`terms`] computes it. Recipes call it `replacement_method`, results `reinject`.

pub mod parse;
pub mod terms;

use std::{fmt, ops::Range, str::FromStr};

use serde::{Deserialize, Serialize};

pub use parse::ParseError;
pub use terms::{FeedbackContext, FeedbackInputs, Learned};

/// The function of what was computed at the position before a latent that becomes the latent's input
/// embedding: a sum of terms. Read from and written as text.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Written", into = "String")]
pub struct Feedback {
    terms: Vec<Term>,
}

/// One term, with `h^k` the `L + 1` hidden states at a position t.
#[derive(Clone, Debug, PartialEq)]
pub enum Term {
    /// `hs[k]`: `h_t^k`; for a range, the sum of them.
    Hidden(Index),
    /// `ie`: the input embedding at t.
    Input,
    /// `suppressed[a:b]`: Σ over differences l of `h_t^{l+1} ⊙ 1[Δ_l < −ε]`, see [`terms`].
    Suppressed(Index),
    /// `norm(x)`: x scaled to the mean length of the token embeddings.
    Norm(Feedback),
    /// `proj(x)`: the `usize`-th learned linear map of the expression.
    Proj(Feedback, usize),
    /// `mlp(x)`: the `usize`-th learned network of the expression: layer norm, linear, GELU, linear; `mlp[w](x)`
    /// has no norm of its own and w times the width inside.
    Mlp(Feedback, Option<f64>, usize),
    /// `ln(x)`: the `usize`-th learned layer norm of the expression.
    Ln(Feedback, usize),
    /// `soft[τ]`: the expected token embedding under softmax(W h^L / τ).
    Soft(f64),
    /// `zero`: nothing is fed back.
    Zero,
    /// `pause`: the `usize`-th learned vector of the expression.
    Pause(usize),
}

/// Which of the hidden states, or of their differences.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Index {
    /// One.
    At(Bound),
    /// From the first up to, and not including, the second; to either end if absent.
    Range(Option<Bound>, Option<Bound>),
}

/// A place among the N hidden states.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Bound {
    /// Counted from 0; negative from the end.
    Integer(i64),
    /// `int(f · N)`.
    Fraction(f64),
}

impl Bound {
    fn place(self, n: usize) -> i64 {
        match self {
            Self::Integer(k) => k,
            Self::Fraction(f) => (f * n as f64) as i64,
        }
    }
}

impl Index {
    /// Which of `len` things are meant, fractions taken of `n` (the number of hidden states, also
    /// where the `n − 1` differences are indexed, as published). Ends beyond the things are cut off,
    /// as Python's slices do. `replication`: one place k is read as the slice `k:k+1`, so that −1 is the
    /// empty slice `-1:0`.
    fn resolve(self, len: usize, n: usize, replication: bool) -> Range<usize> {
        let cut = |place: i64| {
            let place = if place < 0 { place + len as i64 } else { place };
            place.clamp(0, len as i64) as usize
        };
        let (start, end) = match self {
            Self::At(bound) => {
                let place = bound.place(n);
                if replication {
                    (cut(place), cut(place + 1))
                } else {
                    let place = if place < 0 { place + len as i64 } else { place };
                    let inside = (0..len as i64).contains(&place);
                    if inside { (place as usize, place as usize + 1) } else { (0, 0) }
                }
            }
            Self::Range(start, end) => {
                (start.map_or(0, |b| cut(b.place(n))), end.map_or(len, |b| cut(b.place(n))))
            }
        };
        start..end.max(start)
    }
}

impl Default for Feedback {
    /// `hs[-1]` (Hao et al. 2024).
    fn default() -> Self {
        Self { terms: vec![Term::Hidden(Index::At(Bound::Integer(-1)))] }
    }
}

impl Feedback {
    /// The zero vector.
    pub fn zero() -> Self {
        Self { terms: vec![Term::Zero] }
    }

    /// A learned vector.
    pub fn pause() -> Self {
        Self { terms: vec![Term::Pause(0)] }
    }

    /// The terms, in order.
    pub fn terms(&self) -> &[Term] {
        &self.terms
    }

    /// Whether any term reads differences of hidden states through the head.
    pub fn reads_head(&self) -> bool {
        self.any(&|term| matches!(term, Term::Suppressed(_)))
    }

    /// Refuses an index that picks nothing in a model of `n_layer` blocks.
    ///
    /// # Errors
    /// A sentence naming the term.
    pub fn check(&self, n_layer: usize) -> Result<(), String> {
        let n = n_layer + 1;
        for term in &self.terms {
            let (index, len, things) = match term {
                Term::Hidden(index) => (*index, n, "hidden states"),
                Term::Suppressed(index) => (*index, n_layer, "differences between them"),
                Term::Norm(x) | Term::Proj(x, _) | Term::Mlp(x, _, _) | Term::Ln(x, _) => {
                    x.check(n_layer)?;
                    continue;
                }
                Term::Input | Term::Soft(_) | Term::Zero | Term::Pause(_) => continue,
            };
            if index.resolve(len, n, false).is_empty() {
                let start = match index {
                    Index::At(bound) | Index::Range(Some(bound), _) => bound.place(n),
                    Index::Range(None, _) => 0,
                };
                return Err(format!(
                    "`{term}` picks nothing: it starts at {start}, and a model of {n_layer} blocks has {len} {things}, 0 to {}. Fractions are of {n}; choose another index, or a deeper model",
                    len - 1
                ));
            }
        }
        Ok(())
    }

    /// Whether a term satisfies `test`, at any depth.
    fn any(&self, test: &impl Fn(&Term) -> bool) -> bool {
        self.terms.iter().any(|term| test(term) || term.argument().is_some_and(|x| x.any(test)))
    }

    /// The learned parts that it has.
    pub fn learned(&self) -> LearnedParts {
        let mut parts = LearnedParts::default();
        self.count(&mut parts);
        parts
    }

    /// Counts learned parts, inner ones first, which is how they are numbered.
    fn count(&self, parts: &mut LearnedParts) {
        for term in &self.terms {
            if let Some(x) = term.argument() {
                x.count(parts);
            }
            match term {
                Term::Proj(..) => parts.projs += 1,
                Term::Mlp(_, width, _) => parts.mlps.push(*width),
                Term::Ln(..) => parts.lns += 1,
                Term::Pause(_) => parts.pauses += 1,
                _ => {}
            }
        }
    }
}

/// The learned parts of an expression.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LearnedParts {
    /// Number of `proj`.
    pub projs: usize,
    /// The widths of the `mlp`s, in models' widths; `None` for those with a norm of their own.
    pub mlps: Vec<Option<f64>>,
    /// Number of `ln`.
    pub lns: usize,
    /// Number of `pause`.
    pub pauses: usize,
}

impl Term {
    /// What it is a function of, if that is another expression.
    fn argument(&self) -> Option<&Feedback> {
        match self {
            Self::Norm(x) | Self::Proj(x, _) | Self::Mlp(x, _, _) | Self::Ln(x, _) => Some(x),
            _ => None,
        }
    }
}

impl fmt::Display for Feedback {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, term) in self.terms.iter().enumerate() {
            let plus = if number == 0 { "" } else { "+" };
            write!(f, "{plus}{term}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Term {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Hidden(index) => write!(f, "hs[{index}]"),
            Self::Input => f.write_str("ie"),
            Self::Suppressed(index) => write!(f, "suppressed[{index}]"),
            Self::Norm(x) => write!(f, "norm({x})"),
            Self::Proj(x, _) => write!(f, "proj({x})"),
            Self::Mlp(x, None, _) => write!(f, "mlp({x})"),
            Self::Mlp(x, Some(width), _) => write!(f, "mlp[{width}]({x})"),
            Self::Ln(x, _) => write!(f, "ln({x})"),
            Self::Soft(temperature) => write!(f, "soft[{temperature:?}]"),
            Self::Zero => f.write_str("zero"),
            Self::Pause(_) => f.write_str("pause"),
        }
    }
}

impl fmt::Display for Index {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::At(bound) => write!(f, "{bound}"),
            Self::Range(start, end) => {
                let text = |bound: &Option<Bound>| bound.map_or(String::new(), |b| b.to_string());
                write!(f, "{}:{}", text(start), text(end))
            }
        }
    }
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Integer(k) => write!(f, "{k}"),
            Self::Fraction(x) => write!(f, "{x:?}"),
        }
    }
}

/// The text of an expression; YAML reads the published `-1` as a number.
#[derive(Deserialize)]
#[serde(untagged)]
enum Written {
    Text(String),
    Integer(i64),
    Fraction(f64),
}

impl TryFrom<Written> for Feedback {
    type Error = ParseError;

    fn try_from(written: Written) -> Result<Self, ParseError> {
        match written {
            Written::Text(text) => text.parse(),
            Written::Integer(k) => k.to_string().parse(),
            Written::Fraction(x) => format!("{x:?}").parse(),
        }
    }
}

impl FromStr for Feedback {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        parse::parse(text)
    }
}

impl From<Feedback> for String {
    fn from(feedback: Feedback) -> Self {
        feedback.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn index(text: &str) -> Index {
        match text.parse::<Feedback>().unwrap().terms[0] {
            Term::Hidden(index) | Term::Suppressed(index) => index,
            ref other => panic!("{other}"),
        }
    }

    /// By hand, and by Python's slices: `range(len)[a:b]` with `int(f * n)`.
    #[test]
    fn indices_resolve_as_published() {
        let of = |text, len| index(text).resolve(len, 9, false);
        // 8 blocks: 9 states, 8 differences, fractions of 9.
        assert_eq!(of("hs[-1]", 9), 8..9);
        assert_eq!(of("hs[0]", 9), 0..1);
        assert_eq!(of("hs[0.5]", 9), 4..5);
        assert_eq!(of("hs[2:-2]", 9), 2..7);
        assert_eq!(of("suppressed[0.5:]", 8), 4..8);
        assert_eq!(of("suppressed[0.75:]", 8), 6..8);
        assert_eq!(of("suppressed[0.25:]", 8), 2..8);
        assert_eq!(of("suppressed[-1:]", 8), 7..8);
        assert_eq!(of("suppressed[-1]", 8), 7..8);
        assert_eq!(of("suppressed", 8), 0..8);
        assert_eq!(of("suppressed[:0.5]", 8), 0..4);
        // int(0.9 · 9) = 8 of 8 differences: nothing, which is refused by name.
        assert!(of("suppressed[0.9:]", 8).is_empty());
        let refused = "ie+suppressed[0.90:]".parse::<Feedback>().unwrap().check(8).unwrap_err();
        assert!(refused.contains("`suppressed[0.9:]` picks nothing: it starts at 8"), "{refused}");
        assert!("norm(hs[9])".parse::<Feedback>().unwrap().check(8).is_err());
        assert!("norm(hs[-9])+ie".parse::<Feedback>().unwrap().check(8).is_ok());
    }

    #[test]
    fn the_replication_reads_one_place_as_a_slice() {
        let of = |text, len| index(text).resolve(len, 9, true);
        assert!(of("hs[-1]", 9).is_empty(), "-1:0");
        assert_eq!(of("hs[-2]", 9), 7..8);
        assert_eq!(of("hs[0.5]", 9), 4..5);
        assert_eq!(of("suppressed[0.5:]", 8), 4..8);
    }

    #[test]
    fn text_is_canonical_and_reads_back() {
        for (written, canonical) in [
            ("hs[-1]", "hs[-1]"),
            (" ie + supressed[0.50:] ", "ie+suppressed[0.5:]"),
            ("norm( proj(hs[-1]+ie) )", "norm(proj(hs[-1]+ie))"),
            ("mlp(hs[1:3])+pause+zero", "mlp(hs[1:3])+pause+zero"),
            ("ln( mlp[1.0](hs[-1]) )", "ln(mlp[1](hs[-1]))"),
            ("mlp[0.5](ln(hs[-1]))+ln(ie)", "mlp[0.5](ln(hs[-1]))+ln(ie)"),
            ("soft[1]", "soft[1.0]"),
            ("soft", "soft[1.0]"),
            ("suppressed", "suppressed[:]"),
            ("-2", "hs[-2]"),
            ("0.5", "hs[0.5]"),
            ("hs+supressed[0.5:]", "hs[-1]+suppressed[0.5:]"),
        ] {
            let read: Feedback = written.parse().unwrap();
            assert_eq!(read.to_string(), canonical);
            assert_eq!(canonical.parse::<Feedback>().unwrap(), read);
            let json = serde_json::to_string(&read).unwrap();
            assert_eq!(json, format!("\"{canonical}\""));
            assert_eq!(serde_json::from_str::<Feedback>(&json).unwrap(), read);
        }
        assert_eq!(serde_json::from_str::<Feedback>("-1").unwrap(), Feedback::default());
    }
}
