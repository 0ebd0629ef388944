//! Figures of one intervention, each with the number of questions behind it.

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::{Effect, Intervention, Outcome, Touched};
use crate::{
    eval::score,
    stats::{Paired, Rate, bootstrap_interval, holm},
};

/// What an intervention did, in figures. All of them are over the questions that it touched, and so is what it is held
/// against.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Cell {
    /// The intervention.
    pub intervention: Intervention,
    /// Right answers with it.
    pub right: Rate,
    /// Right answers to the same questions without it.
    pub plain: Rate,
    /// The first rate less the second.
    pub difference: f64,
    /// Its 95 % interval ([`Paired::interval`]).
    pub difference_interval: [f64; 2],
    /// McNemar's p of the two.
    pub p: f64,
    /// The same after Holm's correction for all cells of the model.
    pub p_holm: f64,
    /// Mean tokens that were generated with it.
    pub tokens: f64,
    /// Mean tokens that were generated for the same questions without it.
    pub plain_tokens: f64,
    /// Answers that are other ones than without it.
    pub changed: Rate,
    /// Of questions given another's thoughts, those whose answer is then the other's. Only questions to which the model
    /// answers something else than to the other are counted, so that without the thoughts none would be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub follows: Option<Rate>,
    /// Mean change of the log probability of the right answer, in nats.
    pub log_prob: Option<f64>,
    /// Its 95 % bootstrap interval over questions.
    pub log_prob_interval: Option<[f64; 2]>,
}

/// The figures of some effects on a model whose plain answers are `plain`; effects that touched nothing have none.
pub fn cells(effects: &[Effect], plain: &[Outcome], seed: u64) -> Vec<Cell> {
    // Side by side, as resampling a cell's questions is a fifth of an audit's work.
    let touching = effects.par_iter().filter(|effect| !effect.touched.is_empty());
    let mut cells: Vec<Cell> = touching.map(|effect| cell(effect, plain, seed)).collect();
    let corrected = holm(&cells.iter().map(|cell| cell.p).collect::<Vec<_>>());
    cells.iter_mut().zip(corrected).for_each(|(cell, p)| cell.p_holm = p);
    cells
}

fn cell(effect: &Effect, plain: &[Outcome], seed: u64) -> Cell {
    let touched = &effect.touched;
    let before = |touched: &Touched| &plain[touched.question];
    let paired: Paired =
        touched.iter().map(|of| (of.outcome.correct, before(of).correct)).collect();
    let changes = touched.iter().filter_map(|of| Some(of.outcome.log_prob? - before(of).log_prob?));
    let changes: Vec<f64> = changes.collect();
    let p = paired.p();
    let tokens = |of: &dyn Fn(&Touched) -> usize| {
        touched.iter().map(|touched| of(touched) as f64).sum::<f64>() / touched.len() as f64
    };
    Cell {
        intervention: effect.intervention,
        right: paired.a(),
        plain: paired.b(),
        difference: paired.difference().unwrap_or(0.0),
        difference_interval: paired.interval().unwrap_or([-1.0, 1.0]),
        p,
        p_holm: p,
        tokens: tokens(&|of| of.outcome.tokens),
        plain_tokens: tokens(&|of| before(of).tokens),
        changed: touched.iter().map(|of| !same_answer(&of.outcome, before(of))).collect(),
        follows: follows(touched, plain),
        log_prob: (!changes.is_empty()).then(|| changes.iter().sum::<f64>() / changes.len() as f64),
        log_prob_interval: bootstrap_interval(&changes, seed),
    }
}

/// Whether two answers are the same, or there was none both times.
fn same_answer(a: &Outcome, b: &Outcome) -> bool {
    match (&a.prediction, &b.prediction) {
        (a, Some(b)) => score::is_right(a.as_deref(), b, None),
        (a, None) => a.is_none(),
    }
}

fn follows(touched: &[Touched], plain: &[Outcome]) -> Option<Rate> {
    let given = touched.iter().filter_map(|of| Some((of, &plain[of.donor?])));
    let given = given.filter(|(of, donor)| {
        donor.prediction.is_some() && !same_answer(&plain[of.question], donor)
    });
    let rate: Rate = given.map(|(of, donor)| same_answer(&of.outcome, donor)).collect();
    (rate.n > 0).then_some(rate)
}

/// How many thoughts are enough.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sufficiency {
    /// For t = 0, 1, …: of questions that have so many thoughts, those whose answer, asked for at once after t thoughts,
    /// and after any number from there to their own, is the one they get with all.
    pub from: Vec<Rate>,
}

/// How many thoughts are enough, given what [`Intervention::Early`] did; `None` if it was not tried.
pub fn sufficiency(
    effects: &[Effect],
    plain: &[Outcome],
    thoughts: &[usize],
) -> Option<Sufficiency> {
    let most = thoughts.iter().copied().max()?;
    let with = |latents: usize| {
        effects.iter().find(|effect| effect.intervention == Intervention::Early(latents))
    };
    let same: Vec<Vec<bool>> = (0..most)
        .map(|latents| {
            let mut same = vec![false; plain.len()];
            for of in &with(latents)?.touched {
                same[of.question] = same_answer(&of.outcome, &plain[of.question]);
            }
            Some(same)
        })
        .collect::<Option<_>>()?;
    let enough = |question: usize, t: usize| (t..thoughts[question]).all(|t| same[t][question]);
    let rate = |t: usize| {
        let have = (0..plain.len()).filter(|&question| thoughts[question] >= t);
        have.map(|question| enough(question, t)).collect()
    };
    Some(Sufficiency { from: (0..=most).map(rate).collect() })
}
