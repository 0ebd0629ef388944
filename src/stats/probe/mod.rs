//! Linear probes: whether a value can be read off a vector, and whether that is more than chance.
//!
//! ```
//! use coconut::stats::probe::{CrossValidation, Features, Folds, Labels, Probe};
//!
//! // One thought a question, `[questions, d_model]`, and the value that it may hold.
//! let (thoughts, values): (Vec<f32>, Vec<i32>) =
//!     (0..60).map(|i| ((i % 3) as f32 + 0.1 * (i % 7) as f32, i % 3)).unzip();
//!
//! let labels = Labels::new(&values)?;
//! let folds = Folds::stratified(&labels, 5, 0)?;
//! let questions = CrossValidation::new(&Features::new(&thoughts, 1)?, &folds)?;
//! let test = questions.permutation_test(&labels, Probe::Ridge { alpha: 1.0 }, &folds.permutations(99, 0))?;
//! assert_eq!(test.found.n, 60); // each question is read by a probe that never saw it
//! assert_eq!(test.p, 0.01); // no shuffling did as well
//! # Ok::<(), coconut::Error>(())
//! ```
//!
//! Features are standardised by what the probe is fitted on, intercepts are not penalised. Everything is computed in
//! the coordinates of `design.rs`, of which there are as many as questions or features, whichever is less.

mod data;
mod design;
mod head;
mod linear;
mod logistic;
mod ridge;
mod selectivity;
mod validate;

pub use data::{Features, Folds, Labels};
pub use linear::LinearProbe;
pub use selectivity::Selectivity;
pub use validate::{CrossValidation, PermutationTest, permutation_p, r2};

/// How a probe of classes is fitted.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Probe {
    /// Least squares on ±1 for each class, `‖Y − XW‖² + alpha · ‖W‖²`; the largest output is the class. Fast, and the
    /// one for permutation tests: what does not depend on the labels is computed once.
    Ridge {
        /// Weight of the penalty, above 0.
        alpha: f64,
    },
    /// Logistic regression (softmax for three classes or more), `c · Σ −log p + ½ ‖W‖²`.
    Logistic {
        /// Weight of the data, above 0: the inverse of the penalty's.
        c: f64,
    },
}
