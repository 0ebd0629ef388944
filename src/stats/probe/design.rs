//! Features made ready for fits: standardised, and turned to their principal axes.
//!
//! With Z the standardised features, `Z = P S Aᵀ`: along its principal axes A a question has the coordinates
//! `Q = Z A`, whose columns are orthogonal and as long as S. A ridge fit in them is a division for each axis, whatever
//! the penalty, and a logistic one is well conditioned once its columns are scaled. Axes come from the smaller of ZᵀZ
//! and ZZᵀ.

use crate::{Error, Result};
use faer::{Mat, MatRef, Side};

/// The features that a probe is fitted on. n questions, d features, r axes.
pub(super) struct Design {
    mean: Vec<f64>,
    /// Standard deviations (of the population); 1 for a feature that does not vary.
    scale: Vec<f64>,
    /// A, `[d, r]`.
    axes: Mat<f64>,
    /// Q, `[n, r]`.
    pub(super) coordinates: Mat<f64>,
    /// S², `[r]`.
    pub(super) strengths: Vec<f64>,
}

impl Design {
    /// # Errors
    /// [`Error::Usage`] if all questions have the same features, and [`Error::Internal`] if the axes are not found.
    pub(super) fn new(x: MatRef<'_, f64>) -> Result<Self> {
        let (mean, scale): (Vec<f64>, Vec<f64>) = (0..x.ncols()).map(|j| moments(x.col(j))).unzip();
        let z = standardised(x, &mean, &scale);
        let narrow = z.ncols() <= z.nrows();
        let gram = if narrow { z.transpose() * &z } else { &z * z.transpose() };
        let eigen = gram
            .self_adjoint_eigen(Side::Lower)
            .map_err(|error| Error::Internal(format!("axes of a probe's features: {error:?}")))?;

        // In increasing order. What rounding leaves of directions that are not there is left out.
        let strengths = eigen.S().column_vector();
        let strongest = strengths.iter().copied().fold(0.0, f64::max);
        let least = strongest * f64::EPSILON * z.nrows().max(z.ncols()) as f64;
        let first = strengths.iter().take_while(|&&strength| strength <= least).count();
        if first == strengths.nrows() {
            return Err(Error::Usage(format!(
                "All {} questions have the same vector: there is nothing to read off it.",
                z.nrows()
            )));
        }
        let vectors = eigen.U().subcols(first, strengths.nrows() - first);
        let strengths: Vec<f64> = strengths.iter().skip(first).copied().collect();
        let (axes, coordinates) = if narrow {
            (vectors.to_owned(), &z * vectors)
        } else {
            let lengths: Vec<f64> = strengths.iter().map(|strength| strength.sqrt()).collect();
            let inverse: Vec<f64> = lengths.iter().map(|length| length.recip()).collect();
            (columns_times(&(z.transpose() * vectors), &inverse), columns_times(vectors, &lengths))
        };
        Ok(Self { mean, scale, axes, coordinates, strengths })
    }

    /// d.
    pub(super) fn n_features(&self) -> usize {
        self.mean.len()
    }

    /// The coordinates of other questions.
    pub(super) fn coordinates_of(&self, x: MatRef<'_, f64>) -> Mat<f64> {
        standardised(x, &self.mean, &self.scale) * &self.axes
    }

    /// Weights of coordinates, `[r, t]`, as weights of standardised features, `[d, t]`.
    pub(super) fn weights(&self, of_coordinates: &Mat<f64>) -> Mat<f64> {
        &self.axes * of_coordinates
    }
}

/// Mean and scale of a feature. A variance that rounding alone could leave counts as none.
fn moments(column: faer::ColRef<'_, f64>) -> (f64, f64) {
    let n = column.nrows() as f64;
    let mean = column.iter().sum::<f64>() / n;
    let variance = column.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n;
    let rounding = n * f64::EPSILON * variance + (n * mean * f64::EPSILON).powi(2);
    (mean, if variance <= rounding { 1.0 } else { variance.sqrt() })
}

fn standardised(x: MatRef<'_, f64>, mean: &[f64], scale: &[f64]) -> Mat<f64> {
    Mat::from_fn(x.nrows(), x.ncols(), |i, j| (x[(i, j)] - mean[j]) / scale[j])
}

/// Each column times its factor.
pub(super) fn columns_times(
    of: impl faer::mat::AsMatRef<T = f64, Rows = usize, Cols = usize>,
    factors: &[f64],
) -> Mat<f64> {
    let of = of.as_mat_ref();
    Mat::from_fn(of.nrows(), of.ncols(), |i, j| of[(i, j)] * factors[j])
}
