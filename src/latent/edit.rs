//! Interventions: what is fed in place of thoughts, and in which rows (docs/method.md 4.6).
//!
//! An edit stands between a thought and the input embedding that it becomes; everything after is computed from
//! what it gives. Rows that do not have a thought are never touched, and an edit says which ones it did touch:
//! they are the denominator of whatever is counted over it.

use burn::tensor::{Bool, Device, Tensor, TensorData};
use coconut_kernels::host;
use rand::Rng;

use super::batch::{Batch, Fed, Pass};
use crate::{model::parameters::constant_like, rng};

/// What replaces thoughts, and which of them.
#[derive(Clone, Debug)]
pub struct Edit {
    /// The thoughts of a row that are replaced.
    pub places: Places,
    /// What replaces them.
    pub replacement: Replacement,
}

/// Some of a row's thoughts, counted from 0, or what comes before them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Places {
    /// The input embeddings of the text before the first thought, in rows that have one.
    Question,
    /// All thoughts.
    All,
    /// One.
    One(usize),
    /// So many from the first on.
    First(usize),
    /// So many up to the row's own last one.
    Last(usize),
}

/// What is fed in place of a vector.
#[derive(Clone, Debug)]
pub enum Replacement {
    /// The zero vector.
    Zero,
    /// The vector plus a random one of `scale` times its length, whose direction is drawn from the row's seed and the
    /// place.
    Noise {
        /// The length of what is added, in lengths of the vector.
        scale: f64,
        /// A seed a row.
        seeds: Vec<u64>,
    },
    /// A random vector of the same length, whose direction is drawn from the row's seed and the place.
    Random {
        /// A seed a row.
        seeds: Vec<u64>,
    },
    /// The vector with each of its numbers zero by a chance of `rate`, and the others divided by 1 − `rate`, drawn from
    /// the row's seed and the place.
    Dropout {
        /// The chance.
        rate: f64,
        /// A seed a row.
        seeds: Vec<u64>,
    },
    /// Thoughts from elsewhere.
    Given {
        /// One for each place, `[batch, places, d_model]`.
        thoughts: Box<Tensor<3>>,
        /// So many of a row's places have one, from the first on; the others are not touched.
        counts: Vec<usize>,
    },
}

/// What an edit gave for the thoughts of one pass.
#[derive(Clone, Debug)]
pub struct Edited {
    /// Thoughts, edited where they were touched: `[batch, thoughts, d_model]`.
    pub thoughts: Tensor<3>,
    /// Each thought that was touched: its row, and which of the row's thoughts it is.
    pub touched: Vec<(usize, usize)>,
}

impl Places {
    /// Whether thought `index` of a row that has `latents` is one of them.
    pub fn contain(self, index: usize, latents: usize) -> bool {
        index < latents
            && match self {
                Self::Question => false,
                Self::All => true,
                Self::One(one) => index == one,
                Self::First(n) => index < n,
                Self::Last(n) => index + n >= latents,
            }
    }
}

impl Edit {
    /// Whether it replaces what comes before the thoughts.
    pub fn is_of_question(&self) -> bool {
        self.places == Places::Question
    }

    /// Whether it touches thought `index` of a row of `batch`.
    pub(super) fn touches(&self, batch: &Batch, row: usize, index: usize) -> bool {
        let given = match &self.replacement {
            Replacement::Given { counts, .. } => index < counts[row],
            Replacement::Zero
            | Replacement::Noise { .. }
            | Replacement::Dropout { .. }
            | Replacement::Random { .. } => true,
        };
        given && self.places.contain(index, batch.latents[row])
    }

    /// The first pass of a batch that is fed something edited.
    pub(super) fn first_pass(&self, batch: &Batch) -> Option<usize> {
        let touched = |fed: &Fed| {
            let mut thoughts =
                fed.columns.clone().enumerate().map(|(at, _)| fed.first_thought + at);
            thoughts.any(|index| (0..batch.rows).any(|row| self.touches(batch, row, index)))
        };
        match self.places {
            Places::Question => Some(0),
            _ => batch.passes.iter().position(|pass| pass.fed.as_ref().is_some_and(touched)),
        }
    }

    /// Edits the thoughts that a pass is fed, `[batch, thoughts, d_model]`.
    pub(super) fn apply(&self, batch: &Batch, fed: &Fed, thoughts: Tensor<3>) -> Edited {
        let [rows, width, _] = thoughts.dims();
        let places: Vec<(usize, usize)> = (0..rows)
            .flat_map(|row| (0..width).map(move |at| (row, fed.first_thought + at)))
            .collect();
        let mask: Vec<bool> =
            places.iter().map(|&(row, index)| self.touches(batch, row, index)).collect();
        let touched = places.iter().zip(&mask).filter(|(_, mask)| **mask);
        let touched: Vec<(usize, usize)> = touched.map(|(&place, _)| place).collect();
        if touched.is_empty() {
            return Edited { thoughts, touched };
        }
        let mask = TensorData::new(mask, [rows, width, 1]);
        let mask = host::upload::<3, Bool>(mask, &thoughts.device()).expand(thoughts.dims());
        let replaced = match &self.replacement {
            Replacement::Given { thoughts: given, .. } => {
                self::given(&thoughts, fed.first_thought, given)
            }
            _ => self.replacement.of(&thoughts, &places),
        };
        Edited { thoughts: thoughts.mask_where(mask, replaced), touched }
    }

    /// Edits the embeddings of the first pass, `[batch, seq, d_model]` or `[1, tokens, d_model]`.
    pub(super) fn apply_to_question(
        &self,
        batch: &Batch,
        pass: &Pass,
        embeddings: Tensor<3>,
    ) -> Tensor<3> {
        let position = |&(row, column): &(usize, usize)| {
            let columns = batch.columns_of(row);
            (row, columns.binary_search(&(pass.columns.start + column)).unwrap_or(0))
        };
        let places: Vec<(usize, usize)> = pass.tokens().held().iter().map(position).collect();
        let thinks: Vec<bool> = batch.latents.iter().map(|&latents| latents > 0).collect();
        let mask = pass.tokens().of_rows(&thinks, &embeddings.device()).expand(embeddings.dims());
        let replaced = self.replacement.of(&embeddings, &places);
        embeddings.mask_where(mask, replaced)
    }
}

impl Replacement {
    /// Thoughts from elsewhere, each `[d_model]`: a list for every row, from its first place on.
    pub fn given(rows: &[Vec<Vec<f32>>], d_model: usize, device: &Device) -> Self {
        let counts: Vec<usize> = rows.iter().map(Vec::len).collect();
        let most = counts.iter().copied().max().unwrap_or(0).max(1);
        let mut values = vec![0f32; rows.len() * most * d_model];
        for (row, thoughts) in rows.iter().enumerate() {
            for (at, thought) in thoughts.iter().enumerate() {
                let start = (row * most + at) * d_model;
                values[start..start + d_model].copy_from_slice(thought);
            }
        }
        let values = TensorData::new(values, [rows.len(), most, d_model]);
        Self::Given { thoughts: Box::new(host::upload(values, device)), counts }
    }

    /// What it gives in place of vectors `[_, _, d_model]` whose rows and places are `places`, in the tensor's order.
    fn of(&self, x: &Tensor<3>, places: &[(usize, usize)]) -> Tensor<3> {
        match self {
            Self::Zero => x.zeros_like(),
            Self::Noise { scale, seeds } => x.clone() + directions(x, places, seeds) * *scale,
            Self::Random { seeds } => directions(x, places, seeds),
            Self::Dropout { rate, seeds } => x.clone() * kept(x, places, seeds, *rate),
            Self::Given { .. } => x.clone(),
        }
    }
}

/// For each vector a random one of its length.
fn directions(x: &Tensor<3>, places: &[(usize, usize)], seeds: &[u64]) -> Tensor<3> {
    let [_, _, d] = x.dims();
    let mut directions = Vec::with_capacity(places.len() * d);
    for &(row, index) in places {
        let mut rng = rng::stream(seeds[row], &[rng::EDITS, index as u64]);
        let direction = rng::normals(&mut rng, d, 1.0);
        let length = direction.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
        directions.extend(direction.into_iter().map(|x| (f64::from(x) / length) as f32));
    }
    let directions = TensorData::new(directions, x.dims());
    let directions = constant_like(host::upload(directions, &x.device()), x);
    directions * x.clone().square().sum_dim(2).sqrt()
}

/// What dropout multiplies each number by: 0 by a chance of `rate`, else 1 / (1 − `rate`).
fn kept(x: &Tensor<3>, places: &[(usize, usize)], seeds: &[u64], rate: f64) -> Tensor<3> {
    let [_, _, d] = x.dims();
    let mut factors = Vec::with_capacity(places.len() * d);
    for &(row, index) in places {
        let mut rng = rng::stream(seeds[row], &[rng::EDITS, index as u64]);
        let factor = |drawn: f64| if drawn < rate { 0.0 } else { (1.0 / (1.0 - rate)) as f32 };
        factors.extend((0..d).map(|_| factor(rng.random())));
    }
    constant_like(host::upload(TensorData::new(factors, x.dims()), &x.device()), x)
}

/// The given vectors at the places of `thoughts: [batch, thoughts, d_model]`, the first of which is thought `first` of
/// its row; anything where there are none.
fn given(thoughts: &Tensor<3>, first: usize, given: &Tensor<3>) -> Tensor<3> {
    let [_, width, _] = thoughts.dims();
    let last = given.dims()[1] - 1;
    let places: Vec<i32> = (first..first + width).map(|index| index.min(last) as i32).collect();
    let places = host::upload(places.as_slice(), &thoughts.device());
    constant_like(given.clone(), thoughts).select(1, places)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensor<const R: usize>(rows: [[[f32; 2]; 2]; R]) -> Tensor<3> {
        Tensor::from_data(rows, &Device::flex())
    }

    fn numbers(x: Tensor<3>) -> Vec<f32> {
        x.into_data().try_into_vec().unwrap()
    }

    #[test]
    fn places_by_hand() {
        let of = |places: Places, latents| -> Vec<usize> {
            (0..4).filter(|&index| places.contain(index, latents)).collect()
        };
        assert_eq!(of(Places::All, 3), [0, 1, 2]);
        assert_eq!(of(Places::One(1), 3), [1]);
        assert!(of(Places::One(1), 1).is_empty(), "a row that ends before");
        assert_eq!(of(Places::First(2), 3), [0, 1]);
        assert_eq!(of(Places::Last(2), 3), [1, 2], "counted from the row's own last");
        assert_eq!(of(Places::Last(2), 1), [0]);
    }

    #[test]
    fn noise_has_the_length_that_was_asked_for() {
        let x = tensor([[[3.0, 4.0], [0.0, 2.0]], [[6.0, 8.0], [1.0, 0.0]]]);
        let places = |first| [(0, first), (0, first + 1), (1, first), (1, first + 1)];
        let lengths = |x: Tensor<3>| numbers(x.square().sum_dim(2).sqrt());
        let noise = |seeds: [u64; 2]| Replacement::Noise { scale: 0.5, seeds: seeds.into() };
        let added = noise([1, 2]).of(&x, &places(0)) - x.clone();
        for (ours, expected) in lengths(added).iter().zip([2.5, 1.0, 5.0, 0.5]) {
            assert!((ours - expected).abs() < 1e-6, "{ours} {expected}");
        }
        let random = Replacement::Random { seeds: vec![1, 2] };
        for (ours, expected) in lengths(random.of(&x, &places(0))).iter().zip([5.0, 2.0, 10.0, 1.0])
        {
            assert!((ours - expected).abs() < 1e-5, "{ours} {expected}");
        }
        let draw = |first, seeds| numbers(noise(seeds).of(&x, &places(first)));
        assert_eq!(draw(0, [1, 2]), draw(0, [1, 2]));
        assert!(draw(0, [1, 2]) != draw(0, [2, 2]) && draw(0, [1, 2]) != draw(1, [1, 2]));
        // A row's draw is its own, whichever rows stand beside it.
        assert_eq!(draw(0, [1, 2])[4..], draw(0, [7, 2])[4..]);
    }

    #[test]
    fn dropout_keeps_the_mean() {
        let x = Tensor::<3>::ones([2, 1, 5000], &Device::flex()) * 3.0;
        let drop = |rate| Replacement::Dropout { rate, seeds: vec![1, 2] };
        let found = numbers(drop(0.25).of(&x, &[(0, 0), (1, 0)]));
        assert!(found.iter().all(|&x| x == 0.0 || x == 4.0));
        for of_row in found.chunks(5000) {
            // The share has a standard deviation of √(0.25 · 0.75 / 5000) = 0.0061.
            let dropped = of_row.iter().filter(|&&x| x == 0.0).count() as f64 / 5000.0;
            assert!((dropped - 0.25).abs() < 0.025, "{dropped}");
        }
        assert_ne!(found[..5000], found[5000..]);
        assert_ne!(found, numbers(drop(0.25).of(&x, &[(0, 1), (1, 1)])));
        assert_eq!(numbers(drop(0.0).of(&x, &[(0, 0), (1, 0)])), vec![3.0; 10_000]);
    }
}
