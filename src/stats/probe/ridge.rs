//! Ridge regression.

use super::{data::Labels, design::Design, head::Head};
use faer::Mat;

/// What does not depend on the targets: `(S² + alpha)⁻¹ Qᵀ`, `[r, n]`.
pub(super) struct Ridge(Mat<f64>);

impl Ridge {
    pub(super) fn new(design: &Design, alpha: f64) -> Self {
        let q = &design.coordinates;
        let shrunk = |j: usize, i: usize| q[(i, j)] / (design.strengths[j] + alpha);
        Self(Mat::from_fn(q.ncols(), q.nrows(), shrunk))
    }

    /// Of numbers, a column a target, `[n, t]`.
    pub(super) fn fit(&self, targets: &Mat<f64>) -> Head {
        // Coordinates have mean 0, so that a target's mean is its intercept and drops out of the weights.
        let mean = |t: usize| targets.col(t).iter().sum::<f64>() / targets.nrows() as f64;
        let intercepts: Vec<f64> = (0..targets.ncols()).map(mean).collect();
        let centred =
            Mat::from_fn(targets.nrows(), targets.ncols(), |i, t| targets[(i, t)] - intercepts[t]);
        Head { weights: &self.0 * centred, intercepts }
    }

    /// Of classes: a column of ±1 for each.
    pub(super) fn fit_classes(&self, labels: &Labels) -> Head {
        let n = labels.of.len() as f64;
        let mut weights = Mat::zeros(self.0.nrows(), labels.n_classes);
        let mut counts = vec![0.0; labels.n_classes];
        // (S² + alpha)⁻¹ Qᵀ (2 Y − 1) with Y of zeros and ones: the sums of each class's columns, twice, as all
        // columns together sum to 0.
        for (question, &class) in labels.of.iter().enumerate() {
            counts[class] += 1.0;
            let column = self.0.col(question).iter();
            weights.col_mut(class).iter_mut().zip(column).for_each(|(w, x)| *w += 2.0 * x);
        }
        Head {
            weights,
            intercepts: counts.into_iter().map(|count| 2.0 * count / n - 1.0).collect(),
        }
    }
}
