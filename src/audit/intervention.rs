//! What is done to thoughts, as people write it: `zero@all`, `noise[1.0]@2`, `transplant@first[3]`, `latents[4]`.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::latent::Places;

/// One thing that is done to thoughts (docs/method.md 12.3). Its text names it everywhere: on the command line, in
/// files and in tables. Places count from 1 there.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Intervention {
    /// Something else is fed at some places.
    Edit {
        /// What.
        with: With,
        /// Where.
        places: Places,
    },
    /// The prompt has so many latents instead of its own.
    Latents(usize),
    /// The same, and the answer is asked for at once: its mark is given, so that no words come before it.
    Early(usize),
}

/// What is fed in place of a thought.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum With {
    /// The zero vector.
    Zero,
    /// The mean of the other questions' thoughts at that place.
    Mean,
    /// The thought plus a random vector of so many times its length.
    Noise(f64),
    /// The thought with each of its numbers zero by that chance, and the others enlarged to keep the mean.
    Dropout(f64),
    /// A random vector of the thought's length.
    Random,
    /// The row's own thoughts in another order.
    Permute,
    /// Another question's thought at that place; one with as many thoughts and steps, and another answer.
    Transplant,
    /// The same, of a question whose step at that place has the same value.
    PatchSame,
    /// The same, of a question whose step at that place has another value.
    PatchOther,
}

/// What there is, for messages.
const FORMS: &str = "Write one of zero, mean, noise[σ], dropout[p], random, permute, transplant, patch[same], \
                     patch[other], then `@` and a place: all, a number from 1 on, first[k], last[k], or question (noise only); or \
                     latents[k] or early[k]";

impl With {
    /// Whether thoughts of another question are fed, whose answer may then follow.
    pub fn has_donor(self) -> bool {
        matches!(self, Self::Transplant | Self::PatchSame | Self::PatchOther)
    }
}

impl Intervention {
    /// An edit.
    pub fn edit(with: With, places: Places) -> Self {
        Self::Edit { with, places }
    }

    /// Noise of so many times their length on the question's embeddings, which must hurt.
    pub fn control(scale: f64) -> Self {
        Self::edit(With::Noise(scale), Places::Question)
    }

    /// Whether it is not one of thoughts but of the question, so that it says what an edit that hurts looks like.
    pub fn is_control(self) -> bool {
        matches!(self, Self::Edit { places: Places::Question, .. })
    }
}

impl fmt::Display for With {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Zero => f.write_str("zero"),
            Self::Mean => f.write_str("mean"),
            Self::Noise(scale) => write!(f, "noise[{scale:?}]"),
            Self::Dropout(rate) => write!(f, "dropout[{rate:?}]"),
            Self::Random => f.write_str("random"),
            Self::Permute => f.write_str("permute"),
            Self::Transplant => f.write_str("transplant"),
            Self::PatchSame => f.write_str("patch[same]"),
            Self::PatchOther => f.write_str("patch[other]"),
        }
    }
}

/// Places as they are written.
pub fn place_name(places: Places) -> String {
    match places {
        Places::Question => "question".into(),
        Places::All => "all".into(),
        Places::One(index) => (index + 1).to_string(),
        Places::First(n) => format!("first[{n}]"),
        Places::Last(n) => format!("last[{n}]"),
    }
}

impl fmt::Display for Intervention {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Edit { with, places } => write!(f, "{with}@{}", place_name(places)),
            Self::Latents(n) => write!(f, "latents[{n}]"),
            Self::Early(n) => write!(f, "early[{n}]"),
        }
    }
}

impl From<Intervention> for String {
    fn from(intervention: Intervention) -> Self {
        intervention.to_string()
    }
}

impl TryFrom<String> for Intervention {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

/// `name[argument]` apart.
fn call(text: &str) -> (&str, Option<&str>) {
    let text = text.trim();
    match text.strip_suffix(']').and_then(|text| text.split_once('[')) {
        Some((name, argument)) => (name.trim(), Some(argument.trim())),
        None => (text, None),
    }
}

fn count(text: &str) -> Option<usize> {
    text.parse().ok().filter(|count| *count <= 100_000)
}

fn with(text: &str) -> Option<With> {
    Some(match call(text) {
        ("zero", None) => With::Zero,
        ("mean", None) => With::Mean,
        ("noise", Some(scale)) => {
            let scale = scale.parse::<f64>().ok();
            With::Noise(scale.filter(|scale| scale.is_finite() && *scale >= 0.0)?)
        }
        ("dropout", Some(rate)) => {
            let rate = rate.parse::<f64>().ok();
            With::Dropout(rate.filter(|rate| (0.0..1.0).contains(rate))?)
        }
        ("random", None) => With::Random,
        ("permute", None) => With::Permute,
        ("transplant", None) => With::Transplant,
        ("patch", Some("same")) => With::PatchSame,
        ("patch", Some("other")) => With::PatchOther,
        _ => return None,
    })
}

fn places(text: &str) -> Option<Places> {
    Some(match call(text) {
        ("question", None) => Places::Question,
        ("all", None) => Places::All,
        (number, None) => Places::One(count(number)?.checked_sub(1)?),
        ("first", Some(n)) => Places::First(count(n).filter(|n| *n > 0)?),
        ("last", Some(n)) => Places::Last(count(n).filter(|n| *n > 0)?),
        _ => return None,
    })
}

impl FromStr for Intervention {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let unknown = |part: &str| format!("`{part}` is not known. {FORMS}");
        let Some((what, place)) = text.split_once('@') else {
            return match call(text) {
                ("latents", Some(n)) => count(n).map(Self::Latents).ok_or_else(|| unknown(text)),
                ("early", Some(n)) => count(n).map(Self::Early).ok_or_else(|| unknown(text)),
                _ if with(text).is_some() => Err(format!("`{text}` does not say where. {FORMS}")),
                _ => Err(unknown(text)),
            };
        };
        let with = with(what).ok_or_else(|| unknown(what))?;
        let places = places(place).ok_or_else(|| unknown(place))?;
        if places == Places::Question && !matches!(with, With::Noise(_)) {
            return Err(format!("`{text}`: the question can be given noise only. {FORMS}"));
        }
        if with == With::Permute && matches!(places, Places::One(_)) {
            return Err(format!("`{text}`: one thought has no order. {FORMS}"));
        }
        Ok(Self::Edit { with, places })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_what_is_read() {
        let texts = [
            "zero@all",
            "mean@3",
            "noise[1.0]@2",
            "noise[0.5]@question",
            "dropout[0.1]@all",
            "random@first[2]",
            "permute@all",
            "transplant@last[4]",
            "patch[same]@1",
            "patch[other]@1",
            "latents[0]",
            "early[3]",
            "latents[12]",
        ];
        for text in texts {
            assert_eq!(text.parse::<Intervention>().unwrap().to_string(), text);
        }
        assert_eq!("zero@1".parse(), Ok(Intervention::edit(With::Zero, Places::One(0))));
        assert_eq!(
            " noise[ 1 ] @ all ".parse::<Intervention>().unwrap().to_string(),
            "noise[1.0]@all"
        );
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for text in [
            "",
            "zero",
            "zero@",
            "zero@0",
            "zero@-1",
            "zero@first",
            "zero@first[0]",
            "noise@all",
            "noise[-1]@all",
            "noise[nan]@all",
            "dropout@all",
            "dropout[1]@all",
            "dropout[-0.1]@all",
            "dropout[nan]@all",
            "dropout[0.1]@question",
            "patch@1",
            "patch[x]@1",
            "latents",
            "latents[x]",
            "latents[2]@1",
            "zero@question",
            "permute@2",
            "zero@1@2",
            "]@1",
            "noise[1.0@1",
            "zero@99999999999999999999999",
        ] {
            let refusal = text.parse::<Intervention>().unwrap_err();
            assert!(refusal.contains("Write one of"), "{text}: {refusal}");
        }
    }
}
