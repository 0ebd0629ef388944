//! Logistic regression with an L2 penalty, to convergence.
//!
//! What is minimised is convex; how fast depends on the coordinates. Those of a [`Design`] are scaled so that
//! Böhning's bound of the curvature (1992), `½ ZᵀZ + λ` whatever the probabilities are, becomes the identity: no
//! direction is curved more than 1, features of very unlike size and correlation do no harm, and L-BFGS (Liu and
//! Nocedal 1989) needs some dozens of steps.

use super::{data::Labels, design::Design, design::columns_times, head::Head};
use crate::{Error, Result};
use faer::{Mat, MatRef};
use std::collections::VecDeque;

/// The minimum of `Σ −log p + ‖W‖² / (2c)`, a column a class.
///
/// Two classes are one logit, as they are everywhere: its weights w stand as ±w/2, so that ‖w‖² is twice the columns'
/// squares. A class without a label has no finite optimum; its logit is −∞.
pub(super) fn fit(design: &Design, labels: &Labels, c: f64) -> Result<Head> {
    let present: Vec<usize> =
        (0..labels.n_classes).filter(|class| labels.of.contains(class)).collect();
    let penalty = if present.len() == 2 { 2.0 / c } else { 1.0 / c };
    let place = |class: &usize| present.binary_search(class).unwrap_or_default();
    let problem =
        Softmax::new(design, labels.of.iter().map(place).collect(), present.len(), penalty);
    let found = problem.minimum()?;

    let r = design.strengths.len();
    let mut head = Head {
        weights: Mat::zeros(r, labels.n_classes),
        intercepts: vec![f64::NEG_INFINITY; labels.n_classes],
    };
    for (column, &class) in found.chunks(r + 1).zip(&present) {
        let scaled = column[..r].iter().zip(&problem.scales).map(|(u, scale)| u * scale);
        head.weights.col_mut(class).iter_mut().zip(scaled).for_each(|(w, u)| *w = u);
        head.intercepts[class] = column[r] * problem.intercept;
    }
    Ok(head)
}

/// The problem in scaled coordinates. Its variables are a matrix `[r + 1, classes]`, column after column; the last
/// row is the intercepts'.
struct Softmax {
    /// Scaled coordinates and a constant, `[n, r + 1]`.
    x: Mat<f64>,
    /// Each axis's factor, `[r]`.
    scales: Vec<f64>,
    /// The constant.
    intercept: f64,
    labels: Vec<usize>,
    n_classes: usize,
    penalty: f64,
}

impl Softmax {
    fn new(design: &Design, labels: Vec<usize>, n_classes: usize, penalty: f64) -> Self {
        let bound = |strength: &f64| (0.5 * strength + penalty).sqrt().recip();
        let scales: Vec<f64> = design.strengths.iter().map(bound).collect();
        let intercept = (0.5 * labels.len() as f64).sqrt().recip();
        let scaled = columns_times(&design.coordinates, &scales);
        let r = scales.len();
        let with_constant = |i, j| if j < r { scaled[(i, j)] } else { intercept };
        let x = Mat::from_fn(labels.len(), r + 1, with_constant);
        Self { x, scales, intercept, labels, n_classes, penalty }
    }

    /// Value and gradient.
    fn at(&self, u: &[f64]) -> (f64, Vec<f64>) {
        let (n, rows) = (self.x.nrows(), self.x.ncols());
        let mut p = &self.x * MatRef::from_column_major_slice(u, rows, self.n_classes);
        let mut value = 0.0;
        let mut largest = vec![f64::NEG_INFINITY; n];
        for class in 0..self.n_classes {
            largest.iter_mut().zip(p.col(class).iter()).for_each(|(most, x)| *most = most.max(*x));
        }
        for (i, &label) in self.labels.iter().enumerate() {
            value += largest[i] - p[(i, label)];
        }
        let mut sums = vec![0.0; n];
        for class in 0..self.n_classes {
            for ((x, most), sum) in p.col_mut(class).iter_mut().zip(&largest).zip(&mut sums) {
                *x = (*x - most).exp();
                *sum += *x;
            }
        }
        value += sums.iter().map(|sum| sum.ln()).sum::<f64>();
        for class in 0..self.n_classes {
            p.col_mut(class).iter_mut().zip(&sums).for_each(|(x, sum)| *x /= sum);
        }
        self.labels.iter().enumerate().for_each(|(i, &label)| p[(i, label)] -= 1.0);

        let slope = self.x.transpose() * &p;
        let mut gradient = Vec::with_capacity(u.len());
        for (class, column) in u.chunks(rows).enumerate() {
            gradient.extend(slope.col(class).iter());
            let penalised = gradient[class * rows..].iter_mut().zip(column).zip(&self.scales);
            for ((slope, u), scale) in penalised {
                let weight = self.penalty * scale * scale * u;
                value += 0.5 * weight * u;
                *slope += weight;
            }
        }
        (value, gradient)
    }

    /// # Errors
    /// [`Error::Usage`] if it is not reached in [`STEPS`].
    fn minimum(&self) -> Result<Vec<f64>> {
        let mut u = vec![0.0; self.x.ncols() * self.n_classes];
        let (mut value, mut gradient) = self.at(&u);
        let enough = PRECISION * norm(&gradient);
        let mut past = Curvature::default();
        for _ in 0..STEPS {
            if norm(&gradient) <= enough {
                return Ok(u);
            }
            let direction = past.direction(&gradient);
            let slope = dot(&direction, &gradient);
            let mut step = 1.0;
            let (next, (next_value, next_gradient)) = loop {
                let next: Vec<f64> = u.iter().zip(&direction).map(|(u, d)| u + step * d).collect();
                let found = self.at(&next);
                // Near the minimum the value is all rounding; the slope still tells.
                let rounding = 1e-12 * value.abs();
                if found.0 <= value + 1e-4 * step * slope + rounding || step < 1e-10 {
                    break (next, found);
                }
                step *= 0.5;
            };
            let moved = difference(&next, &u);
            past.remember(moved, difference(&next_gradient, &gradient));
            (u, value, gradient) = (next, next_value, next_gradient);
        }
        Err(Error::Usage(format!(
            "A logistic probe did not converge in {STEPS} steps. Classes that are told apart without an error need a \
             stronger penalty: take a smaller c, or a ridge probe."
        )))
    }
}

/// Steps at most.
const STEPS: usize = 5_000;
/// The gradient's length at the end, over that at the start. Weights are then right to about 1e-6, also with weak
/// penalties (c = 100).
const PRECISION: f64 = 1e-8;

/// What the last steps say of the curvature.
#[derive(Default)]
struct Curvature {
    /// Each step, its change of the gradient, and 1 over their product.
    steps: VecDeque<(Vec<f64>, Vec<f64>, f64)>,
}

impl Curvature {
    const MEMORY: usize = 20;

    fn remember(&mut self, moved: Vec<f64>, change: Vec<f64>) {
        let along = dot(&moved, &change);
        if along <= f64::EPSILON * norm(&moved) * norm(&change) {
            return; // rounding: the problem is convex
        }
        if self.steps.len() == Self::MEMORY {
            self.steps.pop_front();
        }
        self.steps.push_back((moved, change, along.recip()));
    }

    /// −H g, H as the two loops of L-BFGS build it up (Nocedal and Wright 2006, algorithm 7.4).
    fn direction(&self, gradient: &[f64]) -> Vec<f64> {
        let mut found: Vec<f64> = gradient.iter().map(|g| -g).collect();
        let mut along = Vec::with_capacity(self.steps.len());
        for (moved, change, inverse) in self.steps.iter().rev() {
            let a = inverse * dot(moved, &found);
            found.iter_mut().zip(change).for_each(|(x, y)| *x -= a * y);
            along.push(a);
        }
        if let Some((_, change, inverse)) = self.steps.back() {
            let scale = 1.0 / (inverse * dot(change, change));
            found.iter_mut().for_each(|x| *x *= scale);
        }
        for ((moved, change, inverse), a) in self.steps.iter().zip(along.into_iter().rev()) {
            let b = inverse * dot(change, &found);
            found.iter_mut().zip(moved).for_each(|(x, s)| *x += (a - b) * s);
        }
        found
    }
}

/// In eight sums side by side: one after the other, each addition would wait for the last.
fn dot(a: &[f64], b: &[f64]) -> f64 {
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<8>(), b.as_chunks::<8>());
    let mut sums = [0.0; 8];
    for (a, b) in a.iter().zip(b) {
        sums.iter_mut().zip(a).zip(b).for_each(|((sum, a), b)| *sum += a * b);
    }
    let rest: f64 = a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum();
    sums.iter().sum::<f64>() + rest
}

fn norm(a: &[f64]) -> f64 {
    dot(a, a).sqrt()
}

fn difference(a: &[f64], b: &[f64]) -> Vec<f64> {
    a.iter().zip(b).map(|(a, b)| a - b).collect()
}
