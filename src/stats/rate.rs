//! Rates that carry their denominators.

use serde::{Deserialize, Serialize};

/// The 97.5 % point of the normal distribution, for 95 % intervals.
const Z: f64 = 1.959_963_984_540_054;

/// How many of n trials succeeded.
///
/// Rates have no sum and no mean: one over cells of different n is the figure of no set of questions. What may be
/// averaged, seeds on the same questions, has [`Estimate::of_rates`](super::Estimate::of_rates), which refuses
/// different n.
///
/// ```
/// use coconut::stats::Rate;
/// let cells = [Rate { hits: 9, n: 10 }, Rate { hits: 1, n: 2 }];
/// let largest = cells.into_iter().max_by_key(|cell| cell.n);
/// ```
/// ```compile_fail,E0277
/// use coconut::stats::Rate;
/// let cells = [Rate { hits: 9, n: 10 }, Rate { hits: 1, n: 2 }];
/// let total: Rate = cells.into_iter().sum();
/// ```
///
/// In JSON it stands as `{"hits": 9, "n": 10, "rate": 0.9, "interval": [0.596, 0.982]}`, of which the first two are
/// read back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "Written", try_from = "Written")]
pub struct Rate {
    /// Successes.
    pub hits: usize,
    /// Trials.
    pub n: usize,
}

/// A rate as it stands in a file.
#[derive(Serialize, Deserialize)]
struct Written {
    hits: usize,
    n: usize,
    #[serde(skip_deserializing)]
    rate: Option<f64>,
    #[serde(skip_deserializing)]
    interval: Option<[f64; 2]>,
}

impl From<Rate> for Written {
    fn from(of: Rate) -> Self {
        let Rate { hits, n } = of;
        Self { hits, n, rate: of.rate(), interval: of.interval() }
    }
}

impl TryFrom<Written> for Rate {
    type Error = String;

    fn try_from(written: Written) -> Result<Self, String> {
        let Written { hits, n, .. } = written;
        if hits > n { Err(format!("{hits} hits in {n} trials")) } else { Ok(Self { hits, n }) }
    }
}

impl FromIterator<bool> for Rate {
    fn from_iter<T: IntoIterator<Item = bool>>(hits: T) -> Self {
        let mut found = Self::default();
        hits.into_iter().for_each(|hit| found.add(hit));
        found
    }
}

impl Rate {
    /// Takes up one more trial.
    pub fn add(&mut self, hit: bool) {
        self.hits += usize::from(hit);
        self.n += 1;
    }

    /// Hits over trials; `None` if nothing was tried.
    pub fn rate(self) -> Option<f64> {
        (self.n > 0).then(|| self.hits as f64 / self.n as f64)
    }

    /// The 95 % interval ([`wilson_interval`]); `None` if nothing was tried.
    pub fn interval(self) -> Option<[f64; 2]> {
        (self.n > 0).then(|| wilson_interval(self.hits, self.n))
    }

    /// The 95 % interval of this rate less another one of *other* questions: Newcombe's hybrid of the two score
    /// intervals (Newcombe 1998, method 10). On the same questions it is [`Paired`](super::Paired) that has the
    /// narrower one. `None` if nothing was tried on a side.
    pub fn interval_of_difference(self, other: Self) -> Option<[f64; 2]> {
        let (p, q) = (self.rate()?, other.rate()?);
        let ([p_low, p_high], [q_low, q_high]) = (self.interval()?, other.interval()?);
        Some([(p - q) - (p - p_low).hypot(q_high - q), (p - q) + (p_high - p).hypot(q - q_low)])
    }
}

/// The 95 % Wilson score interval of a rate of `hits` in `n`, low and high, each 0 to 1.
///
/// It keeps its promise near 0 and 1 and for small n, where the textbook p ± 1.96 σ does not
/// (Wilson 1927). For n = 0 nothing is known: 0 to 1.
pub fn wilson_interval(hits: usize, n: usize) -> [f64; 2] {
    if n == 0 {
        return [0.0, 1.0];
    }
    let n = n as f64;
    let p = hits as f64 / n;
    let z2 = Z * Z;
    let center = p + z2 / (2.0 * n);
    let reach = Z * (p * (1.0 - p) / n + z2 / (4.0 * n * n)).sqrt();
    let scale = 1.0 + z2 / n;
    [((center - reach) / scale).max(0.0), ((center + reach) / scale).min(1.0)]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn assert_near(found: [f64; 2], expected: [f64; 2]) {
        for (a, b) in found.into_iter().zip(expected) {
            assert!((a - b).abs() < 1e-5, "{found:?} is not {expected:?}");
        }
    }

    /// By hand, z² = 3.841459. 8 of 10: (0.8 + 0.192073 ± 1.959964 √(0.016 + 0.009604)) / 1.384146
    /// = (0.992073 ± 0.313616) / 1.384146. 0 of 10: 0 to z²/(n + z²) = 3.841459/13.841459.
    #[test]
    fn wilson_by_hand() {
        assert_near(wilson_interval(8, 10), [0.490162, 0.943318]);
        assert_near(wilson_interval(0, 10), [0.0, 0.277533]);
        assert_near(wilson_interval(10, 10), [1.0 - 0.277533, 1.0]);
        assert_near(wilson_interval(0, 0), [0.0, 1.0]);
    }

    #[test]
    fn a_file_says_more_than_it_is_read_for() {
        let text = serde_json::to_string(&Rate { hits: 8, n: 10 }).unwrap();
        assert!(text.starts_with(r#"{"hits":8,"n":10,"rate":0.8,"interval":[0.490"#), "{text}");
        assert_eq!(serde_json::from_str::<Rate>(&text).unwrap(), Rate { hits: 8, n: 10 });
        let none = r#"{"hits":0,"n":0,"rate":null,"interval":null}"#;
        assert_eq!(serde_json::to_string(&Rate::default()).unwrap(), none);
        let error = serde_json::from_str::<Rate>(r#"{"hits":3,"n":2}"#).unwrap_err();
        assert!(error.to_string().starts_with("3 hits in 2 trials"), "{error}");
    }
}
