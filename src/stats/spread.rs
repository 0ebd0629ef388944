//! How far vectors of different questions differ.

use faer::MatRef;

/// How far vectors differ, compared pair by pair.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    /// Matrix entropy of order 2 in nats, `−ln(1/n² · Σ_ab cos²(a, b))` (Giraldo et al. 2015): 0 if all point one
    /// way, at most `ln min(n, d)`.
    pub entropy: f64,
    /// Mean cosine of two vectors.
    pub cosine: f64,
}

impl Spread {
    /// Of vectors of length 1 ([`unit()`]); `None` for fewer than two.
    pub fn of(units: &[Vec<f32>]) -> Option<Self> {
        if units.len() < 2 {
            return None;
        }
        let n = units.len() as f64;
        let (mut sum, mut squares) = (0.0, 0.0); // over pairs a < b
        for (a, x) in units.iter().enumerate() {
            for y in &units[a + 1..] {
                let cosine = f64::from(x.iter().zip(y).map(|(x, y)| x * y).sum::<f32>());
                sum += cosine;
                squares += cosine * cosine;
            }
        }
        let cosine = sum / (n * (n - 1.0) / 2.0);
        Some(Self { entropy: -((n + 2.0 * squares) / (n * n)).ln(), cosine })
    }
}

/// A vector scaled to length 1; `None` for the zero vector.
pub fn unit(values: &[f32]) -> Option<Vec<f32>> {
    let length = values.iter().map(|x| x * x).sum::<f32>().sqrt();
    (length > 0.0).then(|| values.iter().map(|x| x / length).collect())
}

/// Cosine of the angle between two vectors; `None` if one of them is zero.
pub fn cosine(x: &[f32], y: &[f32]) -> Option<f64> {
    let product = |x: &[f32], y: &[f32]| -> f64 {
        x.iter().zip(y).map(|(&x, &y)| f64::from(x) * f64::from(y)).sum()
    };
    let lengths = product(x, x).sqrt() * product(y, y).sqrt();
    (lengths > 0.0).then(|| product(x, y) / lengths)
}

/// Effective rank of rows of width `d`, one after the other: the exponential of the entropy of their singular values
/// σ / Σσ (Roy and Vetterli 2007). 1 if all are multiples of one vector, at most min(n, d). Rows are taken as they
/// are: who asks for spread about the mean takes the mean away first. `None` if all are zero, or not finite.
pub fn effective_rank(rows: &[f32], d: usize) -> Option<f64> {
    let n = rows.len().checked_div(d)?;
    let values: Vec<f64> = rows.iter().map(|&x| f64::from(x)).collect();
    let singular =
        MatRef::from_row_major_slice(values.get(..n * d)?, n, d).singular_values().ok()?;
    let sum: f64 = singular.iter().sum();
    let shares = singular.iter().map(|value| value / sum).filter(|&share| share > 0.0);
    (sum > 0.0 && sum.is_finite())
        .then(|| shares.map(|share| -share * share.ln()).sum::<f64>().exp())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cosines_by_hand() {
        assert_eq!(cosine(&[3.0, 4.0], &[6.0, 8.0]), Some(1.0));
        assert_eq!(cosine(&[3.0, 4.0], &[-4.0, 3.0]), Some(0.0));
        assert_eq!(cosine(&[3.0, 4.0], &[0.0, -5.0]), Some(-0.8));
        assert_eq!(cosine(&[3.0, 4.0], &[0.0, 0.0]), None);
    }
}
