//! Whose thoughts a question is given.

use std::collections::HashMap;

use super::{Values, With};
use crate::{
    eval::{Evaluator, score},
    latent::Places,
    rng,
};

/// For each question, the questions that may give it thoughts.
#[derive(Clone, Debug, Default)]
pub struct Donors {
    /// Questions with as many thoughts and steps, and with another right answer, in an order of its own.
    candidates: Vec<Vec<usize>>,
}

impl Donors {
    /// Of an evaluator's questions, which have `places` thoughts each.
    pub(super) fn new(evaluator: &Evaluator<'_>, places: &[usize], seed: u64) -> Self {
        let examples = &evaluator.data.examples;
        let mut alike: HashMap<(usize, usize), Vec<usize>> = HashMap::new();
        for (question, example) in examples.iter().enumerate() {
            alike.entry((places[question], example.steps.len())).or_default().push(question);
        }
        let answer = |question: usize| Some(examples[question].answer.as_str());
        let differ = |a: usize, b: usize| !score::is_right(answer(a), &examples[b].answer, None);
        let of = |question: usize| {
            let key = (places[question], examples[question].steps.len());
            let mut others: Vec<usize> = alike[&key].clone();
            others.retain(|&other| other != question && differ(question, other));
            others.sort_by_key(|&other| {
                rng::hash(seed, &[rng::EDITS, question as u64, other as u64])
            });
            others
        };
        Self { candidates: (0..examples.len()).map(of).collect() }
    }

    /// Whose thoughts a question is given at some places; nobody's where none fits, or where none are needed.
    pub(super) fn of(
        &self,
        question: usize,
        with: With,
        places: Places,
        values: &Values,
    ) -> Option<usize> {
        let candidates = self.candidates[question].iter().copied();
        let same_value = |other: usize| {
            let Places::One(place) = places else { return None };
            Some(values.at(question, place)? == values.at(other, place)?)
        };
        let wants = |same: bool| candidates.clone().find(|&other| same_value(other) == Some(same));
        match with {
            With::Transplant => candidates.clone().next(),
            With::PatchSame => wants(true),
            With::PatchOther => wants(false),
            _ => None,
        }
    }
}
