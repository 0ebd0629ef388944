//! Statistics of repeated runs: means over seeds, paired tests on the same questions, many comparisons.

use statrs::distribution::{ContinuousCDF, Normal, StudentsT};

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
}

/// The unbiased variance about a known mean; only for two values or more.
fn variance(values: &[f64], mean: f64) -> f64 {
    values.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / (values.len() as f64 - 1.0)
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

/// Holm's correction of a family of p values (Holm 1979): with it, the chance of even one false finding stays
/// below the level. In the order given.
pub fn holm(p: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..p.len()).collect();
    order.sort_by(|&a, &b| p[a].total_cmp(&p[b]));
    let mut adjusted = vec![0.0; p.len()];
    let mut least: f64 = 0.0;
    for (rank, &index) in order.iter().enumerate() {
        least = least.max((p.len() - rank) as f64 * p[index]).min(1.0);
        adjusted[index] = least;
    }
    adjusted
}
