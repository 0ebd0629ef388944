//! What stays right under an intervention, beside what a model that never had thoughts has right: a question that both
//! answer needs none, and that it stays right shows no reasoning elsewhere (docs/method.md 12.3).

use serde::{Deserialize, Serialize};

use super::{Effect, Intervention, Outcome};
use crate::stats::{Paired, Rate, holm};

/// A model trained without thoughts, asked the audited model's questions.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Direct {
    /// What it is called: its folder.
    pub name: String,
    /// How it was trained.
    pub method: String,
    /// The stage that its prompts are laid out for.
    pub stage: i32,
    /// All questions, right for the audited model as it is (A) and for this one (B).
    pub as_it_is: Paired,
    /// McNemar's p of the two.
    pub p: f64,
    /// The same under each intervention.
    pub cells: Vec<DirectCell>,
}

/// An intervention beside the direct model: all of it over the questions that it touched.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DirectCell {
    /// The intervention.
    pub intervention: Intervention,
    /// Questions, right for the audited model under the intervention (A) and for the direct one (B).
    pub paired: Paired,
    /// McNemar's p of the two.
    pub p: f64,
    /// The same after Holm's correction for all cells.
    pub p_holm: f64,
    /// Of questions that were right as it is and stay right, those that the direct model has right as well.
    pub stay: Rate,
    /// Of questions that were right as it is and no longer are, those that the direct model has right.
    pub fall: Rate,
}

impl Direct {
    /// Holds a direct model's answers, right or not by question, against the audited model's plain ones and those under
    /// each effect; effects that touched nothing have no cell.
    pub fn new(
        (name, method, stage): (&str, &str, i32),
        right: &[bool],
        plain: &[Outcome],
        effects: &[Effect],
    ) -> Self {
        let as_it_is: Paired =
            plain.iter().zip(right).map(|(plain, &right)| (plain.correct, right)).collect();
        let touching = effects.iter().filter(|effect| !effect.touched.is_empty());
        let mut cells: Vec<DirectCell> =
            touching.map(|effect| cell(effect, right, plain)).collect();
        let corrected = holm(&cells.iter().map(|cell| cell.p).collect::<Vec<_>>());
        cells.iter_mut().zip(corrected).for_each(|(cell, p)| cell.p_holm = p);
        let (name, method) = (name.to_owned(), method.to_owned());
        Self { name, method, stage, p: as_it_is.p(), as_it_is, cells }
    }

    /// The figures under one intervention.
    pub fn cell(&self, intervention: Intervention) -> Option<&DirectCell> {
        self.cells.iter().find(|cell| cell.intervention == intervention)
    }
}

fn cell(effect: &Effect, right: &[bool], plain: &[Outcome]) -> DirectCell {
    let touched = &effect.touched;
    let paired: Paired =
        touched.iter().map(|of| (of.outcome.correct, right[of.question])).collect();
    let that = |stays: bool| {
        let were_right = touched.iter().filter(|of| plain[of.question].correct);
        were_right.filter(|of| of.outcome.correct == stays).map(|of| right[of.question]).collect()
    };
    let p = paired.p();
    DirectCell {
        intervention: effect.intervention,
        paired,
        p,
        p_holm: p,
        stay: that(true),
        fall: that(false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::Touched;

    /// Ten questions, by hand: as it is 0 to 7 are right, the direct model has 0, 1, 2 and 8, and the effect touches all
    /// but 7, of which 0, 1, 3 and 9 are right under it.
    #[test]
    fn questions_are_paired_one_by_one() {
        let outcome = |correct| Outcome { correct, ..Outcome::default() };
        let plain: Vec<Outcome> = (0..10).map(|q| outcome(q < 8)).collect();
        let right: Vec<bool> = (0..10).map(|q| [0, 1, 2, 8].contains(&q)).collect();
        let touched = |question: usize| Touched {
            question,
            donor: None,
            outcome: outcome([0, 1, 3, 9].contains(&question)),
        };
        let effect = |questions: Vec<usize>| Effect {
            intervention: "zero@all".parse().unwrap(),
            touched: questions.into_iter().map(touched).collect(),
        };
        let nothing = Effect { intervention: "zero@9".parse().unwrap(), touched: Vec::new() };
        let all_but_7 = (0..10).filter(|&q| q != 7).collect();
        let direct =
            Direct::new(("direct", "no_cot", 0), &right, &plain, &[effect(all_but_7), nothing]);
        // As it is: 0, 1, 2 by both; 3 to 7 only with thoughts; 8 only without; 9 by neither.
        assert_eq!(direct.as_it_is, Paired { both: 3, only_a: 5, only_b: 1, neither: 1 });
        // Six discordant pairs, one of them the other way: 2 (1 + 6) / 64.
        assert!((direct.p - 14.0 / 64.0).abs() < 1e-12, "{}", direct.p);
        let [cell] = direct.cells.as_slice() else { panic!("{:?}", direct.cells) };
        // Under it: 0, 1 by both; 3, 9 only under it; 2, 8 only directly; 4, 5, 6 by neither; 7 is not there.
        assert_eq!(cell.paired, Paired { both: 2, only_a: 2, only_b: 2, neither: 3 });
        assert_eq!((cell.p, cell.p_holm), (1.0, 1.0));
        // 0, 1, 3 stay right, of which 0 and 1 are direct; 2, 4, 5, 6 fall, of which 2 is.
        assert_eq!(cell.stay, Rate { hits: 2, n: 3 });
        assert_eq!(cell.fall, Rate { hits: 1, n: 4 });
    }
}
