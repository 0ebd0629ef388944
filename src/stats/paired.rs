//! Two ways of answering the same questions.

use super::Rate;
use serde::{Deserialize, Serialize};
use statrs::distribution::{ContinuousCDF, Normal};

/// What became of questions that were answered in two ways, A and B: on the same questions by construction, as it is
/// collected from pairs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Paired {
    /// Questions that both got right.
    pub both: usize,
    /// Questions that only A got right.
    pub only_a: usize,
    /// Questions that only B got right.
    pub only_b: usize,
    /// Questions that neither got right.
    pub neither: usize,
}

impl FromIterator<(bool, bool)> for Paired {
    fn from_iter<T: IntoIterator<Item = (bool, bool)>>(pairs: T) -> Self {
        let mut found = Self::default();
        for pair in pairs {
            match pair {
                (true, true) => found.both += 1,
                (true, false) => found.only_a += 1,
                (false, true) => found.only_b += 1,
                (false, false) => found.neither += 1,
            }
        }
        found
    }
}

impl Paired {
    /// Number of questions.
    pub fn n(self) -> usize {
        self.both + self.only_a + self.only_b + self.neither
    }

    /// How often A was right.
    pub fn a(self) -> Rate {
        Rate { hits: self.both + self.only_a, n: self.n() }
    }

    /// How often B was right.
    pub fn b(self) -> Rate {
        Rate { hits: self.both + self.only_b, n: self.n() }
    }

    /// A's rate less B's; `None` without questions.
    pub fn difference(self) -> Option<f64> {
        let difference = self.only_a as f64 - self.only_b as f64;
        (self.n() > 0).then(|| difference / self.n() as f64)
    }

    /// Two-sided p of [`mcnemar`]'s test that A and B are alike.
    pub fn p(self) -> f64 {
        mcnemar(&[vec![1; self.only_a], vec![-1; self.only_b]].concat())
    }

    /// The 95 % bootstrap interval of [`difference`](Self::difference), low and high: the percentile interval over
    /// resampled questions (Efron 1979), exactly and so without a draw. A resampled question favours A, B or
    /// neither; the sum over n of them has the distribution worked out here. `None` without questions.
    pub fn interval(self) -> Option<[f64; 2]> {
        const TAIL: f64 = 0.025;
        let n = self.n();
        if n == 0 {
            return None;
        }
        let (lowest, chances) = self.resampled_sums();
        // Rounding must not decide whether a tail of exactly 2.5 % has been reached.
        let until = |chances: &mut dyn Iterator<Item = &f64>| {
            let mut sum = 0.0;
            let passed = |chance: &f64| {
                sum += chance;
                sum >= TAIL * (1.0 - 1e-9)
            };
            chances.map(passed).position(|passed| passed).unwrap_or(0) as i64
        };
        let low = lowest + until(&mut chances.iter());
        let high = lowest + chances.len() as i64 - 1 - until(&mut chances.iter().rev());
        Some([low as f64 / n as f64, high as f64 / n as f64])
    }

    /// The distribution of a resample's sum of differences: its least sum and the chance of each from there on. Sums
    /// too rare to matter are left out at both ends, so that the work grows as n^1.5.
    fn resampled_sums(self) -> (i64, Vec<f64>) {
        const NEVER: f64 = 1e-25;
        let n = self.n() as f64;
        let (up, down) = (self.only_a as f64 / n, self.only_b as f64 / n);
        let stay = (self.both + self.neither) as f64 / n;
        let (mut lowest, mut chances) = (0, vec![1.0]);
        for _ in 0..self.n() {
            let mut next = vec![0.0; chances.len() + 2];
            for (k, chance) in chances.iter().enumerate() {
                next[k] += down * chance;
                next[k + 1] += stay * chance;
                next[k + 2] += up * chance;
            }
            let rare = next.iter().take_while(|&&chance| chance < NEVER).count();
            let end =
                next.iter().rposition(|&chance| chance >= NEVER).map_or(next.len(), |k| k + 1);
            lowest += rare as i64 - 1;
            chances = next[rare.min(end)..end].to_vec();
        }
        (lowest, chances)
    }
}

/// Two-sided p of a paired comparison on the same questions: McNemar's test, its exact form.
///
/// `differences` holds for each question how many more of A's runs than of B's, seed against same seed, were
/// right. With one seed each is −1, 0 or 1, and this is the binomial test of the discordant pairs. With
/// several, answers to one question are not independent, so that a question is one cluster: if A and B were
/// alike, its difference would be as likely with the other sign, and p is the share of all sign changes whose
/// sum is at least as far from 0 as the one found. Where the exact sum would take long, it is the normal
/// approximation with continuity correction (for one seed, Edwards 1948). 1 if nothing differs.
pub fn mcnemar(differences: &[i32]) -> f64 {
    const LONG: usize = 20_000_000;
    let sizes: Vec<usize> =
        differences.iter().map(|d| d.unsigned_abs() as usize).filter(|&size| size > 0).collect();
    let found = differences.iter().map(|&d| i64::from(d)).sum::<i64>().unsigned_abs() as usize;
    let most: usize = sizes.iter().sum();
    if found == 0 {
        return 1.0;
    }
    if most.saturating_mul(sizes.len()) > LONG {
        let squares: f64 = sizes.iter().map(|&size| (size * size) as f64).sum();
        return two_sided_normal((found as f64 - 1.0) / squares.sqrt());
    }
    // chances[k]: that positive differences sum to k, each with chance 1/2. Total is 2k − most.
    let mut chances = vec![0.0; most + 1];
    chances[0] = 1.0;
    let mut reach = 0;
    for size in sizes {
        reach += size;
        for k in (0..=reach).rev() {
            let stepped = if k >= size { chances[k - size] } else { 0.0 };
            chances[k] = 0.5 * (chances[k] + stepped);
        }
    }
    let tail: f64 = chances[(most + found).div_ceil(2)..].iter().sum();
    (2.0 * tail).min(1.0)
}

fn two_sided_normal(z: f64) -> f64 {
    (2.0 * Normal::standard().sf(z.abs())).min(1.0)
}
