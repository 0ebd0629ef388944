//! One optimizer step: learner in, learner and figures out.

use burn::tensor::Tensor;

use super::{Group, steps::StepBatches};
use crate::{
    latent::{
        Recompute,
        backward::{BackwardOptions, backward},
    },
    model::parameters::accumulate,
    objective::{Denominators, LOSS, Learner, Objective},
    optim::{self, AdamW},
    rng,
};

/// How a step is taken.
#[derive(Clone, Copy, Debug)]
pub struct StepOptions {
    /// Learning rate.
    pub lr: f64,
    /// Largest global norm of the gradient; 0 for no clipping.
    pub grad_clip: f64,
    /// What backward computes again.
    pub recompute: Recompute,
    /// Gradients flow through so many of the last passes; all if `None`.
    pub tracked: Option<usize>,
    /// Seed of the step's dropout; each micro-batch has its own stream of it.
    pub seed: u64,
}

/// What was measured in a step.
#[derive(Clone, Debug, PartialEq)]
pub struct StepReport {
    /// Cross entropy summed over labels, in nats.
    pub loss_sum: f64,
    /// The labels of the whole step.
    pub labels: usize,
    /// The objective's other figures, named as in `metrics.jsonl`; 0 where there was none.
    pub logged: Vec<(&'static str, f64)>,
    /// Global norm of the gradient before clipping; 0 if nothing had a loss.
    pub grad_norm: f64,
    /// Tokens computed, padding not counted.
    pub tokens: usize,
}

impl StepReport {
    /// Mean cross entropy over the step's labels, in nats.
    pub fn loss(&self) -> f64 {
        self.loss_sum / self.labels.max(1) as f64
    }
}

/// A loss or a gradient that is infinite or not a number; the weights were left as they were.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the {what} is not finite")]
pub struct NotFinite {
    /// `loss` or `gradient`.
    pub what: &'static str,
    /// The training examples that it comes from, by number, from 0.
    pub examples: Vec<usize>,
}

/// One update of the learner's parameters by the gradient of the objective over all micro-batches of
/// `step`. Nothing is updated if nothing has a loss.
///
/// The learner is handed over and given back, so that its weights have one owner and are updated in
/// place.
///
/// # Errors
/// [`NotFinite`], and the learner is gone.
pub fn step(
    learner: Learner,
    optimizer: &mut AdamW,
    step: &StepBatches,
    objective: &Objective,
    options: StepOptions,
    group: Group,
) -> Result<(Learner, StepReport), NotFinite> {
    let labels = group.sum_f64(step.labels() as f64);
    let denominators = Denominators { labels: labels.max(1.0), batches: step.in_all as f64 };
    let (mut gradients, mut trained, mut figures) = (None, Vec::new(), Vec::new());
    for micro in &step.batches {
        let options = BackwardOptions {
            reads: objective.reads(),
            recompute: options.recompute,
            tracked: options.tracked,
            seed: rng::hash(options.seed, &[micro.number as u64]),
        };
        let found = backward(&learner, &learner.model, &micro.batch, options, |trace| {
            let Learner { model, objective: parameters } = &learner;
            let losses = objective.losses(parameters, model, &micro.batch, trace, denominators)?;
            Some((losses.total, losses.logged))
        });
        let Some((found, logged)) = found else { continue };
        gradients = Some(accumulate(gradients, found));
        trained.push(micro);
        figures.push(logged);
    }

    let mut sums: Vec<(&str, f64)> =
        objective.names().into_iter().map(|name| (name, 0.0)).collect();
    for (micro, figures) in trained.iter().zip(read(figures)) {
        if figures.iter().any(|(_, value)| !value.is_finite()) {
            return Err(NotFinite { what: "loss", examples: micro.examples.clone() });
        }
        for (name, sum) in &mut sums {
            *sum += figures
                .iter()
                .filter(|figure| figure.0 == *name)
                .map(|figure| figure.1)
                .sum::<f64>();
        }
    }

    let mut grad_norm = 0.0;
    let mut learner = learner;
    if let Some(mut gradients) = gradients {
        group.sum(&mut gradients);
        grad_norm = optim::global_norm(&gradients);
        if !grad_norm.is_finite() {
            let examples = trained.iter().flat_map(|micro| &micro.examples).copied().collect();
            return Err(NotFinite { what: "gradient", examples });
        }
        let scale = optim::clip_scale(grad_norm, options.grad_clip);
        learner = optimizer.step(learner, gradients, options.lr, scale);
    }
    let (loss, logged): (Vec<_>, Vec<_>) = sums.into_iter().partition(|&(name, _)| name == LOSS);
    let report = StepReport {
        loss_sum: loss.iter().map(|(_, sum)| sum).sum(),
        labels: labels as usize,
        logged,
        grad_norm,
        tokens: trained.iter().map(|micro| micro.batch.tokens()).sum(),
    };
    Ok((learner, report))
}

/// The values of all micro-batches' figures, read from the device at once.
fn read(
    figures: Vec<Vec<(&'static str, Tensor<1>)>>,
) -> impl Iterator<Item = Vec<(&'static str, f64)>> {
    let all: Vec<Tensor<1>> = figures.iter().flatten().map(|(_, value)| value.clone()).collect();
    let values: Vec<f64> = match all.is_empty() {
        true => Vec::new(),
        false => Tensor::cat(all, 0).into_data().iter::<f64>().collect(),
    };
    let mut values = values.into_iter();
    figures.into_iter().map(move |figures| {
        figures.into_iter().map(|(name, _)| name).zip(values.by_ref()).collect()
    })
}
