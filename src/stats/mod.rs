//! Statistics: rates with their denominators, tests on the same questions and over seeds, many comparisons, probes.
//! *No tensors*: slices in, figures out.
//!
//! | to know … | take |
//! | --- | --- |
//! | how often something happened | [`Rate`] |
//! | whether A beats B on the same questions | [`Paired`]; over several seeds [`mcnemar`] |
//! | whether two rates of other questions differ | [`Rate::interval_of_difference`] |
//! | a mean over seeds, and whether two differ | [`Estimate`], [`one_sample`], [`welch`] |
//! | the interval of any mean over questions | [`bootstrap_interval`] |
//! | which of many findings stand | [`holm`], [`benjamini_hochberg`] |
//! | what several samples of an answer are worth | [`pass_at_k`], [`majority`] |
//! | how far vectors differ | [`cosine`], [`Spread`], [`effective_rank`] |
//! | whether a vector holds a value | [`probe`] |

/// A difference is called one when p, corrected for all comparisons, is below this.
pub const LEVEL: f64 = 0.05;

mod bootstrap;
mod corrections;
mod estimate;
mod paired;
pub mod probe;
mod rate;
mod samples;
mod spread;

pub use bootstrap::bootstrap_interval;
pub use corrections::{benjamini_hochberg, holm};
pub use estimate::{Estimate, one_sample, welch};
pub use paired::{Paired, mcnemar};
pub use rate::{Rate, wilson_interval};
pub use samples::{majority, pass_at_k};
pub use spread::{Spread, cosine, effective_rank, unit};
