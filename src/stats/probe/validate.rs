//! Cross-validation: each question read by a probe that never saw it; and what chance would do as well.

use super::{Features, Folds, Labels, Probe, design::Design, linear::same_questions, ridge::Ridge};
use crate::{Result, stats::Rate};
use faer::Mat;
use rayon::prelude::*;

/// Questions with their folds, made ready once for any number of targets, probes and permutations.
pub struct CrossValidation {
    n: usize,
    parts: Vec<Part>,
}

/// One fold held out.
struct Part {
    /// The questions that a probe is fitted on.
    fitted: Vec<usize>,
    design: Design,
    held_out: Vec<usize>,
    /// The coordinates of those held out, `[questions, r]`.
    coordinates: Mat<f64>,
}

/// How a probe did, beside the same on shuffled labels.
#[derive(Clone, Debug, PartialEq)]
pub struct PermutationTest {
    /// Questions that were read rightly.
    pub found: Rate,
    /// The same for each permutation.
    pub shuffled: Vec<Rate>,
    /// The chance of at least as many right ones, if vectors and labels had nothing to do with one another.
    pub p: f64,
}

impl CrossValidation {
    /// # Errors
    /// [`Error::Usage`](crate::Error::Usage) if folds and features are not of the same questions, or the vectors of
    /// a fold's other questions are all one.
    pub fn new(x: &Features, folds: &Folds) -> Result<Self> {
        same_questions(x.len(), folds.of().len())?;
        let part = |held_out: Vec<usize>| {
            let mut fitted: Vec<usize> = (0..x.len()).collect();
            fitted.retain(|&question| folds.of()[question] != folds.of()[held_out[0]]);
            let rows = |of: &[usize]| Mat::from_fn(of.len(), x.0.ncols(), |i, j| x.0[(of[i], j)]);
            let design = Design::new(rows(&fitted).as_ref())?;
            let coordinates = design.coordinates_of(rows(&held_out).as_ref());
            Ok(Part { fitted, design, held_out, coordinates })
        };
        let parts = folds.questions().into_par_iter().map(part).collect::<Result<_>>()?;
        Ok(Self { n: x.len(), parts })
    }

    /// The class that is read for each question.
    ///
    /// # Errors
    /// [`Error::Usage`](crate::Error::Usage) if there are not as many labels as questions, or a probe cannot be
    /// fitted.
    pub fn classes(&self, labels: &Labels, probe: Probe) -> Result<Vec<usize>> {
        same_questions(self.n, labels.of.len())?;
        let read = |part: &Part| {
            let head = probe.fit(&part.design, &labels.permuted(&part.fitted))?;
            Ok(head.classes(&part.coordinates))
        };
        let found = self.parts.par_iter().map(read).collect::<Result<Vec<_>>>()?;
        Ok(self.gathered(found))
    }

    /// How many are read rightly.
    ///
    /// # Errors
    /// As [`classes`](Self::classes).
    pub fn accuracy(&self, labels: &Labels, probe: Probe) -> Result<Rate> {
        Ok(hits(&self.classes(labels, probe)?, labels))
    }

    /// The numbers that a ridge probe reads for each question, several targets at once; each target has a value a
    /// question. [`r2`] says how good they are.
    ///
    /// # Errors
    /// [`Error::Usage`](crate::Error::Usage) if a target has not as many values as there are questions.
    pub fn numbers(&self, targets: &[Vec<f64>], alpha: f64) -> Result<Vec<Vec<f64>>> {
        Probe::Ridge { alpha }.checked()?;
        targets.iter().try_for_each(|target| same_questions(self.n, target.len()))?;
        let read = |part: &Part| {
            let of = |i: usize, t: usize| targets[t][part.fitted[i]];
            let fitted = Mat::from_fn(part.fitted.len(), targets.len(), of);
            Ridge::new(&part.design, alpha).fit(&fitted).outputs(&part.coordinates)
        };
        let found: Vec<Mat<f64>> = self.parts.par_iter().map(read).collect();
        let target = |t: usize| {
            let columns = found.iter().map(|of| of.col(t).iter().copied().collect());
            self.gathered(columns.collect::<Vec<Vec<f64>>>())
        };
        Ok((0..targets.len()).map(target).collect())
    }

    /// The same score on shuffled labels: question i with the label of question `order[i]`, for each order
    /// ([`Folds::permutations`]).
    ///
    /// # Errors
    /// As [`classes`](Self::classes); also if an order does not name as many questions as there are.
    pub fn permutation_test(
        &self,
        labels: &Labels,
        probe: Probe,
        orders: &[Vec<usize>],
    ) -> Result<PermutationTest> {
        orders.iter().try_for_each(|order| same_questions(self.n, order.len()))?;
        let found = self.accuracy(labels, probe)?;
        let shuffled = match probe {
            Probe::Ridge { alpha } => self.ridge_accuracies(labels, alpha, orders),
            Probe::Logistic { .. } => {
                let accuracy = |order: &Vec<usize>| self.accuracy(&labels.permuted(order), probe);
                orders.par_iter().map(accuracy).collect::<Result<Vec<Rate>>>()?
            }
        };
        let scores: Vec<usize> = shuffled.iter().map(|rate| rate.hits).collect();
        Ok(PermutationTest { found, p: permutation_p(&found.hits, &scores), shuffled })
    }

    /// Of many orders of the labels; what does not depend on them is computed once.
    fn ridge_accuracies(&self, labels: &Labels, alpha: f64, orders: &[Vec<usize>]) -> Vec<Rate> {
        let folds: Vec<(Ridge, &Part)> =
            self.parts.iter().map(|part| (Ridge::new(&part.design, alpha), part)).collect();
        let accuracy = |order: &Vec<usize>| {
            let labels = labels.permuted(order);
            let read = |(ridge, part): &(Ridge, &Part)| {
                ridge.fit_classes(&labels.permuted(&part.fitted)).classes(&part.coordinates)
            };
            hits(&self.gathered(folds.iter().map(read).collect()), &labels)
        };
        orders.par_iter().map(accuracy).collect()
    }

    /// What each fold says of its questions, in the questions' order.
    fn gathered<T: Copy + Default>(&self, by_fold: Vec<Vec<T>>) -> Vec<T> {
        let mut all = vec![T::default(); self.n];
        for (part, found) in self.parts.iter().zip(by_fold) {
            part.held_out.iter().zip(found).for_each(|(&question, value)| all[question] = value);
        }
        all
    }
}

fn hits(read: &[usize], labels: &Labels) -> Rate {
    read.iter().zip(&labels.of).map(|(read, label)| read == label).collect()
}

/// p of a permutation test, `(1 + #{shuffled ≥ found}) / (1 + B)`: what was found is one of the permutations itself, so
/// that p is never 0 (Phipson and Smyth 2010).
pub fn permutation_p<T: PartialOrd>(found: &T, shuffled: &[T]) -> f64 {
    let as_good = shuffled.iter().filter(|score| *score >= found).count();
    (1 + as_good) as f64 / (1 + shuffled.len()) as f64
}

/// The share of a target's variance that predictions explain, `1 − Σ(y − ŷ)² / Σ(y − ȳ)²`; below 0 where the mean alone
/// does better. `None` if the target does not vary.
pub fn r2(values: &[f64], predictions: &[f64]) -> Option<f64> {
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    let total: f64 = values.iter().map(|y| (y - mean).powi(2)).sum();
    let left: f64 = values.iter().zip(predictions).map(|(y, read)| (y - read).powi(2)).sum();
    (total > 0.0).then(|| 1.0 - left / total)
}
