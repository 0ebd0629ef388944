//! Intervals by resampling.

use crate::rng;
use rand::Rng;

/// Resamples that are drawn.
const RESAMPLES: usize = 10_000;
/// Resamples at most where all are taken.
const MOST: usize = 50_000;

/// The 95 % bootstrap interval of a mean over questions, low and high: the percentile interval of the means of
/// resampled questions (Efron 1979). The same seed gives the same interval. `None` without values.
///
/// For a difference of two means on the same questions the values are each question's difference, so that what
/// makes a question hard for both falls out. With 6 values or fewer all n^n resamples are taken and nothing is
/// drawn. Like every percentile interval it is too narrow for very few questions, by about √((n − 1)/n).
/// Differences of right and wrong answers have [`Paired::interval`](super::Paired::interval), which is exact.
pub fn bootstrap_interval(values: &[f64], seed: u64) -> Option<[f64; 2]> {
    let n = values.len();
    let all = n.checked_pow(n as u32).filter(|&all| (1..=MOST).contains(&all));
    let mut sums: Vec<f64> = match all {
        _ if n == 0 => return None,
        // The digits of 0 … n^n − 1 to the base n are all choices of n out of n.
        Some(all) => {
            let digit = |resample: usize, place: usize| resample / n.pow(place as u32) % n;
            let sum = |resample| (0..n).map(|place| values[digit(resample, place)]).sum();
            (0..all).map(sum).collect()
        }
        None => {
            let mut draws = rng::stream(seed, &[rng::STATISTICS, RESAMPLING]);
            let mut sum = |_| (0..n).map(|_| values[draws.random_range(0..n)]).sum();
            (0..RESAMPLES).map(&mut sum).collect()
        }
    };
    sums.sort_by(f64::total_cmp);
    Some([0.025, 0.975].map(|share| quantile(&sums, share) / n as f64))
}

/// A purpose within [`rng::STATISTICS`].
const RESAMPLING: u64 = 0;

/// The value below which a share of sorted values lies, interpolated between two of them (numpy's default).
fn quantile(sorted: &[f64], share: f64) -> f64 {
    let place = share * (sorted.len() - 1) as f64;
    let (below, above) = (sorted[place.floor() as usize], sorted[place.ceil() as usize]);
    below + (above - below) * place.fract()
}
