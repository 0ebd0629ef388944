//! What a fit leaves.

use faer::Mat;

/// The linear map of a fit, in a design's coordinates.
pub(super) struct Head {
    /// `[r, t]`.
    pub(super) weights: Mat<f64>,
    /// `[t]`.
    pub(super) intercepts: Vec<f64>,
}

impl Head {
    /// Of questions given by their coordinates, `[n, t]`.
    pub(super) fn outputs(&self, coordinates: &Mat<f64>) -> Mat<f64> {
        let mut outputs = coordinates * &self.weights;
        for (t, intercept) in self.intercepts.iter().enumerate() {
            outputs.col_mut(t).iter_mut().for_each(|x| *x += intercept);
        }
        outputs
    }

    /// The class with the largest output; of equal ones the first.
    pub(super) fn classes(&self, coordinates: &Mat<f64>) -> Vec<usize> {
        let outputs = self.outputs(coordinates);
        let largest = |row: usize| {
            let classes = (0..outputs.ncols()).rev();
            classes.max_by(|&a, &b| outputs[(row, a)].total_cmp(&outputs[(row, b)])).unwrap_or(0)
        };
        (0..outputs.nrows()).map(largest).collect()
    }
}
