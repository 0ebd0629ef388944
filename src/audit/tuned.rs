//! The tuned lens: states of each layer through an affine map to the last layer's, then the output head.
//!
//! Of Belrose et al. (2023), whose maps are trained to make the head say what it says in the end. Here they are least
//! squares between states, which have a closed form; each question is read by a map that was fitted on others.

use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

use super::{
    Subject, Values,
    lens::{LensReading, lens, tensor},
    probes::{ALPHA, FEWEST, FOLDS},
    states::States,
};
use crate::{
    Result,
    stats::probe::{CrossValidation, Features, Folds},
};

/// What the head reads of a layer's states once they are mapped to the last layer's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TunedReading {
    /// The hidden state that is mapped.
    pub layer: usize,
    /// States that were mapped, of all questions and positions.
    pub n: usize,
    /// Share of the variance of the last layer's states that the maps explain, of questions that they were not fitted
    /// on; none if these do not vary.
    pub explained: Option<f64>,
    /// What is read, by position and step.
    pub steps: Vec<LensReading>,
}

/// States mapped by maps that never saw their question.
#[derive(Clone, Debug)]
pub struct Mapped {
    /// In the order they were given.
    pub states: Vec<f32>,
    /// As [`TunedReading::explained`].
    pub explained: Option<f64>,
}

/// Maps states of width `d`, one after the other, towards others: the states of a fold's questions by the affine map
/// that is fitted (ridge, on standardised states) on those of all other questions. `questions` says whose each is, and
/// `folds` is of questions, so that no question is mapped by what was fitted on another of its own states.
///
/// # Errors
/// [`Error::Usage`](crate::Error::Usage) if a state is not finite, or all states that a map is fitted on are one.
pub fn mapped(
    questions: &[usize],
    from: &[f32],
    to: &[f32],
    d: usize,
    folds: &Folds,
) -> Result<Mapped> {
    let of_states = questions.iter().map(|&question| folds.of()[question]).collect();
    let fits = CrossValidation::new(&Features::new(from, d)?, &Folds::given(of_states)?)?;
    let target = |dim: usize| to.iter().skip(dim).step_by(d).map(|&x| f64::from(x)).collect();
    let targets: Vec<Vec<f64>> = (0..d).map(target).collect();
    let found = fits.numbers(&targets, ALPHA)?;
    let n = questions.len();
    let (mut left, mut total) = (0.0, 0.0);
    for (target, found) in targets.iter().zip(&found) {
        let mean = target.iter().sum::<f64>() / n as f64;
        total += target.iter().map(|x| (x - mean).powi(2)).sum::<f64>();
        left += target.iter().zip(found).map(|(x, found)| (x - found).powi(2)).sum::<f64>();
    }
    let states = (0..n).flat_map(|at| found.iter().map(move |of| of[at] as f32));
    Ok(Mapped { states: states.collect(), explained: (total > 0.0).then(|| 1.0 - left / total) })
}

/// Reads every layer but the last; nothing of fewer than [`FEWEST`] questions. `advance` is told of each layer.
///
/// # Errors
/// As [`mapped`], and [`Error::Internal`](crate::Error::Internal) if the device failed.
pub(super) fn tuned(
    subject: &Subject<'_>,
    states: &States,
    values: &Values,
    mut advance: impl FnMut() -> Result<()>,
) -> Result<Vec<TunedReading>> {
    let (n, d) = (values.of_steps.len(), states.d_model);
    if n < FEWEST {
        return Ok(Vec::new());
    }
    let folds = Folds::shuffled(n, FOLDS, subject.seed)?;
    let last = pooled(states, states.layers - 1).1;
    let mut readings = Vec::new();
    for layer in 0..states.layers - 1 {
        advance()?;
        let (questions, from) = pooled(states, layer);
        if from.chunks(d).all(|state| state == &from[..d]) {
            continue;
        }
        let Mapped { states: mapped, explained } = mapped(&questions, &from, &last, d, &folds)?;
        let mut steps = Vec::new();
        let mut rest = mapped.as_slice();
        for position in 0..states.positions {
            let (here, _) = states.at(layer, position);
            let (own, after) = rest.split_at(here.len() * d);
            rest = after;
            // The last layer's states are behind the final norm, and so are these.
            let hidden: Tensor<2> = tensor(subject, own, d);
            steps.extend(lens(subject, values, (layer, position), here, &hidden)?);
        }
        readings.push(TunedReading { layer, n: questions.len(), explained, steps });
    }
    Ok(readings)
}

/// A layer's states at all positions, one position after the other, and whose each is.
fn pooled(states: &States, layer: usize) -> (Vec<usize>, Vec<f32>) {
    let at = (0..states.positions).map(|position| states.at(layer, position));
    let (questions, values): (Vec<_>, Vec<_>) = at.unzip();
    (questions.concat(), values.concat())
}
