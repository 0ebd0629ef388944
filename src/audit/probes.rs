//! Probes: whether a step's value can be read off a layer and position, and whether it is the latent's own.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Subject, Values, states::States};
use crate::{
    Result,
    stats::{
        Rate,
        probe::{CrossValidation, Features, Folds, Labels, Probe, Selectivity},
    },
};

/// Folds of cross-validation.
pub(super) const FOLDS: usize = 5;
/// The penalty of ridge probes.
pub(super) const ALPHA: f64 = 10.0;
/// Questions at least that a probe is fitted on.
pub(super) const FEWEST: usize = 30;

/// Whether a probe reads a step's value.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ProbeReading {
    /// The hidden state.
    pub layer: usize,
    /// The position.
    pub position: usize,
    /// The step, from 1.
    pub step: usize,
    /// Values that were read rightly, each by a probe that never saw its question.
    pub right: Rate,
    /// The most frequent value: what needs no state.
    pub most_frequent: Rate,
    /// Mean share that is right on shuffled values.
    pub shuffled: f64,
    /// p of the permutation test.
    pub p: f64,
    /// The same after Benjamini and Hochberg's correction for all probes of the model: among those below a level, that
    /// share is expected to be false. Holm's would ask for thousands of shuffles of each.
    pub p_corrected: f64,
}

/// Whether a latent holds its own step's value rather than all.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SelectivityReading {
    /// The hidden state.
    pub layer: usize,
    /// The position.
    pub position: usize,
    /// The latent's own step, from 1.
    pub own: usize,
    /// The other step that is read best.
    pub against: usize,
    /// Right on the own step's value less right on the other's.
    pub value: f64,
    /// Questions that have both.
    pub n: usize,
}

/// What probes read at a layer and position: each step's value, and how much better the latent's own than any other.
///
/// # Errors
/// As [`CrossValidation::new`].
pub(super) fn probes(
    subject: &Subject<'_>,
    states: &States,
    values: &Values,
    (layer, position): (usize, usize),
    shuffles: usize,
) -> Result<(Vec<ProbeReading>, Option<SelectivityReading>)> {
    let steps = values.of_steps.iter().map(Vec::len).max().unwrap_or(0);
    let mut readings = Vec::new();
    let mut right: Vec<Vec<Option<bool>>> = vec![vec![None; values.of_steps.len()]; steps];
    for (step, right) in right.iter_mut().enumerate() {
        let target = Target { layer, position, step };
        if let Some((reading, of_questions)) = probe(subject, states, values, target, shuffles)? {
            readings.push(reading);
            *right = of_questions;
        }
    }
    Ok((readings, selectivity(values, &right, layer, position)))
}

/// A value that is looked for, and where; all from 0.
#[derive(Clone, Copy)]
struct Target {
    layer: usize,
    position: usize,
    step: usize,
}

/// A probe's reading, and for each question whether it was right; `None` where there is too little to fit one on.
fn probe(
    subject: &Subject<'_>,
    states: &States,
    values: &Values,
    Target { layer, position, step }: Target,
    shuffles: usize,
) -> Result<Option<(ProbeReading, Vec<Option<bool>>)>> {
    let (questions, vectors) = states.at(layer, position);
    let rows = values.having(questions, step);
    let d = states.d_model;
    if rows.len() < FEWEST {
        return Ok(None);
    }
    let own: Vec<&str> = rows.iter().map(|&(_, q)| values.of_steps[q][step].as_str()).collect();
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    own.iter().for_each(|value| *counts.entry(value).or_default() += 1);
    let vectors: Vec<f32> =
        rows.iter().flat_map(|&(row, _)| vectors[row * d..(row + 1) * d].to_vec()).collect();
    let same = vectors.chunks(d).all(|vector| vector == &vectors[..d]);
    // As many classes as questions cannot be learned from others.
    if same || counts.len() < 2 || 2 * counts.len() > rows.len() {
        return Ok(None);
    }
    let labels = Labels::new(&own)?;
    let folds = Folds::stratified(&labels, FOLDS, subject.seed)?;
    let questions = CrossValidation::new(&Features::new(&vectors, d)?, &folds)?;
    let probe = Probe::Ridge { alpha: ALPHA };
    let test =
        questions.permutation_test(&labels, probe, &folds.permutations(shuffles, subject.seed))?;
    let mut right = vec![None; values.of_steps.len()];
    let read = questions.classes(&labels, probe)?;
    for ((&(_, question), read), label) in rows.iter().zip(read).zip(labels.classes()) {
        right[question] = Some(read == *label);
    }
    let shuffled: f64 = test.shuffled.iter().filter_map(|rate| rate.rate()).sum();
    let most = counts.values().copied().max().unwrap_or(0);
    let reading = ProbeReading {
        layer,
        position,
        step: step + 1,
        right: test.found,
        most_frequent: Rate { hits: most, n: rows.len() },
        shuffled: shuffled / test.shuffled.len().max(1) as f64,
        p: test.p,
        p_corrected: test.p,
    };
    Ok(Some((reading, right)))
}

/// Of a latent that stands for the same step in all questions.
fn selectivity(
    values: &Values,
    right: &[Vec<Option<bool>>],
    layer: usize,
    position: usize,
) -> Option<SelectivityReading> {
    let place = position.checked_sub(1)?;
    let own = (0..values.of_steps.len()).find_map(|question| values.step(question, place))?;
    let found = Selectivity::of(right, own).ok()?;
    Some(SelectivityReading {
        layer,
        position,
        own: own + 1,
        against: found.against + 1,
        value: found.value(),
        n: found.pairs.n(),
    })
}
