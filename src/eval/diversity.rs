//! How far thoughts of different questions differ: what tells a collapse (docs/method.md 12.2).

use crate::{
    Result, device,
    latent::{Trace, batch::Batch},
};

/// Thoughts of a set of questions, by their number in the row.
#[derive(Clone, Debug, Default)]
pub struct Thoughts {
    /// `of[j]`: the j-th thought of each question that has one, `[d_model]`, scaled to length 1.
    of: Vec<Vec<Vec<f32>>>,
}

/// How far the thoughts of different questions differ: means over thought numbers, of questions compared
/// pair by pair.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ThoughtDiversity {
    /// Matrix entropy of order 2 in nats, `−ln(1/n² · Σ_ab cos²(a, b))` (Giraldo et al. 2015): 0 if all point one
    /// way, at most `ln min(n, d_model)`. Its exponential is an effective rank.
    pub entropy: f64,
    /// Mean cosine of two questions' thoughts.
    pub cosine: f64,
}

impl Thoughts {
    /// Questions compared at most; the rest adds time and little precision.
    const MOST: usize = 512;

    /// Takes up the thoughts of a batch.
    ///
    /// # Errors
    /// [`Error::Internal`](crate::Error::Internal) if they cannot be read from their device.
    pub fn add(&mut self, batch: &Batch, trace: &Trace) -> Result<()> {
        for (number, thought) in trace.thoughts_in_order(batch).into_iter().enumerate() {
            if self.of.len() <= number {
                self.of.push(Vec::new());
            }
            let [_, _, d] = thought.dims();
            let values: Vec<f32> = device::to_host(thought.clone())?;
            for (row, values) in values.chunks(d).enumerate() {
                let length = values.iter().map(|x| x * x).sum::<f32>().sqrt();
                if batch.latents[row] > number && self.of[number].len() < Self::MOST && length > 0.0
                {
                    self.of[number].push(values.iter().map(|x| x / length).collect());
                }
            }
        }
        Ok(())
    }

    /// How far they differ; `None` if no thought number has two questions with thoughts that are not zero.
    pub fn diversity(&self) -> Option<ThoughtDiversity> {
        let numbers: Vec<&Vec<Vec<f32>>> = self.of.iter().filter(|of| of.len() >= 2).collect();
        let mut mean = ThoughtDiversity { entropy: 0.0, cosine: 0.0 };
        for thoughts in &numbers {
            let n = thoughts.len() as f64;
            let (mut sum, mut squares) = (0.0, 0.0); // over pairs a < b
            for (a, x) in thoughts.iter().enumerate() {
                for y in &thoughts[a + 1..] {
                    let cosine = f64::from(x.iter().zip(y).map(|(x, y)| x * y).sum::<f32>());
                    sum += cosine;
                    squares += cosine * cosine;
                }
            }
            mean.cosine += sum / (n * (n - 1.0) / 2.0);
            mean.entropy -= ((n + 2.0 * squares) / (n * n)).ln();
        }
        let count = numbers.len() as f64;
        let found = !numbers.is_empty();
        found.then(|| ThoughtDiversity {
            entropy: mean.entropy / count,
            cosine: mean.cosine / count,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// By hand: the same direction everywhere; four orthogonal ones; two of each of two.
    #[test]
    fn diversity_by_hand() {
        let unit = |i: usize| (0..4).map(|k| f32::from(u8::from(k == i))).collect::<Vec<f32>>();
        let of =
            |axes: [usize; 4]| Thoughts { of: vec![axes.map(unit).to_vec()] }.diversity().unwrap();
        assert_eq!(of([0, 0, 0, 0]), ThoughtDiversity { entropy: 0.0, cosine: 1.0 });
        assert_eq!(of([0, 1, 2, 3]), ThoughtDiversity { entropy: 4f64.ln(), cosine: 0.0 });
        assert_eq!(of([0, 0, 1, 1]), ThoughtDiversity { entropy: 2f64.ln(), cosine: 2.0 / 6.0 });
        assert!(Thoughts::default().diversity().is_none());
    }
}
