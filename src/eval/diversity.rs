//! How far thoughts of different questions differ: what tells a collapse (docs/method.md 12.2).

use crate::{
    Result, device,
    latent::{Trace, batch::Batch},
    stats::{Spread, unit},
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
    /// Matrix entropy of order 2 in nats ([`Spread::entropy`]): 0 if all point one way, at most
    /// `ln min(n, d_model)`.
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
                if batch.latents[row] > number && self.of[number].len() < Self::MOST {
                    self.of[number].extend(unit(values));
                }
            }
        }
        Ok(())
    }

    /// How far they differ; `None` if no thought number has two questions with thoughts that are not zero.
    pub fn diversity(&self) -> Option<ThoughtDiversity> {
        let spreads: Vec<Spread> = self.of.iter().filter_map(|of| Spread::of(of)).collect();
        let count = spreads.len() as f64;
        let mean = |of: fn(&Spread) -> f64| spreads.iter().map(of).sum::<f64>() / count;
        (count > 0.0).then(|| ThoughtDiversity {
            entropy: mean(|spread| spread.entropy),
            cosine: mean(|spread| spread.cosine),
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
