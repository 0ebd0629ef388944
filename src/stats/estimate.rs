//! Means over seeds, and whether two of them differ.

use super::Rate;
use crate::{Error, Result};
use statrs::distribution::{ContinuousCDF, StudentsT};

/// Means of one quantity over seeds.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize)]
pub struct Estimate {
    /// Mean over seeds.
    pub mean: f64,
    /// Standard error of that mean, s / √n with s the sample's standard deviation; absent for one value.
    pub standard_error: Option<f64>,
    /// One value a seed.
    pub values: Vec<f64>,
}

impl Estimate {
    /// `None` if there is nothing to take the mean of.
    pub fn of(values: Vec<f64>) -> Option<Self> {
        let n = values.len() as f64;
        if values.is_empty() {
            return None;
        }
        let mean = values.iter().sum::<f64>() / n;
        let standard_error = (values.len() > 1).then(|| (variance(&values, mean) / n).sqrt());
        Some(Self { mean, standard_error, values })
    }

    /// Over seeds, of rates that must all be of one set of questions.
    ///
    /// # Errors
    /// [`Error::Usage`] if their numbers of questions differ, or are 0: such rates have no common mean.
    pub fn of_rates(rates: &[Rate]) -> Result<Self> {
        if let Some(other) = rates.iter().find(|rate| rate.n != rates[0].n) {
            return Err(Error::Usage(format!(
                "Rates of {} and of {} questions have no common mean: they are not of the same questions. Show \
                 each beside its number of questions, or measure all seeds on one file.",
                rates[0].n, other.n
            )));
        }
        let values = rates.iter().map(|rate| rate.rate()).collect::<Option<Vec<f64>>>();
        values.and_then(Self::of).ok_or_else(|| {
            Error::Usage("There is no mean of no rates, and none of rates of no questions.".into())
        })
    }
}

/// The unbiased variance about a known mean; only for two values or more.
fn variance(values: &[f64], mean: f64) -> f64 {
    values.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / (values.len() as f64 - 1.0)
}

/// Two-sided p of Welch's t test of equal means with unequal variances: whether two methods differ beyond what
/// other seeds would do to them. `None` with fewer than two values on a side. Where neither varies, p is 0
/// or 1.
pub fn welch(a: &[f64], b: &[f64]) -> Option<f64> {
    if a.len() < 2 || b.len() < 2 {
        return None;
    }
    let mean = |x: &[f64]| x.iter().sum::<f64>() / x.len() as f64;
    // Squared standard error of each mean.
    let error = |x: &[f64]| variance(x, mean(x)) / x.len() as f64;
    let (error_a, error_b) = (error(a), error(b));
    let difference = mean(a) - mean(b);
    let total = error_a + error_b;
    if total <= f64::EPSILON * f64::EPSILON {
        return Some(if difference.abs() <= f64::EPSILON { 1.0 } else { 0.0 });
    }
    // Welch-Satterthwaite.
    let freedom = total.powi(2)
        / (error_a.powi(2) / (a.len() as f64 - 1.0) + error_b.powi(2) / (b.len() as f64 - 1.0));
    let t = StudentsT::new(0.0, 1.0, freedom).ok()?;
    Some((2.0 * t.sf((difference / total.sqrt()).abs())).min(1.0))
}
