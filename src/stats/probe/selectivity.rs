//! Whether a place holds its own intermediate value rather than all of them.

use crate::{Error, Result, stats::Paired};

/// A place's score on its own intermediate value less that on the other one which it holds best.
///
/// Both scores are over the questions that have both values, so that they have one denominator. With the same
/// questions for all values this is own − max over others. The other value is the best of several and so a little
/// flattered by chance, which makes selectivity smaller, never larger, than it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Selectivity {
    /// Which other value is read best.
    pub against: usize,
    /// A is the own value, B the other: the same questions.
    pub pairs: Paired,
}

impl Selectivity {
    /// `right[t]` says for each question whether the value t was read rightly at this place, `None` for a question
    /// that has no such value; `own` is the place's own value.
    ///
    /// # Errors
    /// [`Error::Usage`] if there is no own value, no other one, or no question that has both.
    pub fn of(right: &[Vec<Option<bool>>], own: usize) -> Result<Self> {
        let paired = |other: usize| {
            let both = right[own].iter().zip(&right[other]);
            let pairs: Paired =
                both.filter_map(|(own, other)| Some(((*own)?, (*other)?))).collect();
            Some((pairs.difference()?, Self { against: other, pairs }))
        };
        let others = (0..right.len()).filter(|&other| other != own && own < right.len());
        let least = others.filter_map(paired).min_by(|a, b| a.0.total_cmp(&b.0));
        least.map(|(_, found)| found).ok_or_else(|| {
            Error::Usage(format!(
                "The selectivity of place {} compares two intermediate values on questions that have both, and there \
                 are none.",
                own + 1
            ))
        })
    }

    /// Own less other; 0 if the place tells nothing apart.
    pub fn value(self) -> f64 {
        self.pairs.difference().unwrap_or(0.0)
    }
}
