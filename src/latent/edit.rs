//! Interventions: what is fed in place of thoughts, and in which rows (docs/method.md 4.6).
//!
//! An edit stands between a thought and the input embedding that it becomes; everything after is computed from
//! what it gives. Rows that do not have a thought are never touched, and an edit says which ones it did touch:
//! they are the denominator of whatever is counted over it.

use burn::tensor::{Bool, Int, Tensor, TensorData};
use rand::seq::SliceRandom;

use super::batch::{Batch, Fed};
use crate::{model::parameters::constant_like, rng};

/// What replaces thoughts, and which of them.
#[derive(Clone, Debug)]
pub struct Edit {
    /// The thoughts of a row that are replaced.
    pub places: Places,
    /// What replaces them.
    pub replacement: Replacement,
}

/// Some of a row's thoughts, counted from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Places {
    /// All of them.
    All,
    /// One.
    One(usize),
    /// So many from the first on.
    First(usize),
    /// So many up to the row's own last one.
    Last(usize),
}

/// What is fed in place of a thought.
#[derive(Clone, Debug)]
pub enum Replacement {
    /// The zero vector.
    Zero,
    /// The mean of the batch's other rows' thoughts at the same place. A row that alone has one is not touched.
    Mean,
    /// The thought plus a random vector of `scale` times its length, in a direction drawn from the seed, the row
    /// and the place.
    Noise {
        /// The length of what is added, in lengths of the thought.
        scale: f64,
        /// The seed of the directions.
        seed: u64,
    },
    /// Another row's thought at the same place: of the row that comes next in an order drawn from the seed, which is
    /// the same for all places. A row that alone has a thought there is not touched.
    Permute {
        /// The seed of the order.
        seed: u64,
    },
    /// Thoughts from elsewhere, `[batch, places, d_model]`. Places that it does not have are not touched.
    Transplant(Tensor<3>),
    /// One vector, `[d_model]`, in one row.
    Patch {
        /// The row of the batch.
        row: usize,
        /// The vector.
        value: Tensor<1>,
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
                Self::All => true,
                Self::One(one) => index == one,
                Self::First(n) => index < n,
                Self::Last(n) => index + n >= latents,
            }
    }
}

impl Edit {
    /// Edits the thoughts that a pass is fed, `[batch, thoughts, d_model]`.
    pub fn apply(&self, batch: &Batch, fed: &Fed, thoughts: Tensor<3>) -> Edited {
        let [rows, width, _] = thoughts.dims();
        let latents = &batch.latents;
        let places =
            (0..rows).flat_map(|row| (0..width).map(move |at| (row, fed.first_thought + at)));
        let chosen = |&(row, index): &(usize, usize)| {
            self.places.contain(index, latents[row])
                && self.replacement.reaches(row, index, latents)
        };
        let mask: Vec<bool> = places.clone().map(|place| chosen(&place)).collect();
        let touched: Vec<(usize, usize)> = places.filter(chosen).collect();
        if touched.is_empty() {
            return Edited { thoughts, touched };
        }
        let mask = TensorData::new(mask, [rows, width, 1]);
        let mask = Tensor::<3, Bool>::from_data(mask, &thoughts.device()).expand(thoughts.dims());
        let replaced = self.replacement.of(&thoughts, fed.first_thought, latents);
        Edited { thoughts: thoughts.mask_where(mask, replaced), touched }
    }
}

impl Replacement {
    /// Whether it has something for thought `index` of a row that has one, in a batch whose rows have `latents`.
    fn reaches(&self, row: usize, index: usize, latents: &[usize]) -> bool {
        match self {
            Self::Zero | Self::Noise { .. } => true,
            Self::Mean | Self::Permute { .. } => holders(index, latents).count() > 1,
            Self::Transplant(thoughts) => index < thoughts.dims()[1],
            Self::Patch { row: one, .. } => row == *one,
        }
    }

    /// What it gives in place of `thoughts: [batch, thoughts, d_model]`, the first of which is thought `first` of its
    /// row; of rows that it does not reach, anything.
    fn of(&self, thoughts: &Tensor<3>, first: usize, latents: &[usize]) -> Tensor<3> {
        match self {
            Self::Zero => thoughts.zeros_like(),
            Self::Mean => mean(thoughts, first, latents),
            Self::Noise { scale, seed } => noise(thoughts, first, *scale, *seed),
            Self::Permute { seed } => permute(thoughts, first, latents, *seed),
            Self::Transplant(donors) => transplant(thoughts, first, donors),
            Self::Patch { value, .. } => {
                let value = constant_like(value.clone(), thoughts).unsqueeze::<3>();
                value.expand(thoughts.dims())
            }
        }
    }
}

/// The rows that have a thought `index`.
fn holders(index: usize, latents: &[usize]) -> impl Iterator<Item = usize> + '_ {
    (0..latents.len()).filter(move |&row| latents[row] > index)
}

/// For each thought, the mean of the other rows' at its place.
fn mean(thoughts: &Tensor<3>, first: usize, latents: &[usize]) -> Tensor<3> {
    let [rows, width, _] = thoughts.dims();
    let at_place = |at: usize| {
        let n = holders(first + at, latents).count();
        let mut shares = vec![0f32; rows * rows]; // of each row in each row's mean
        for row in 0..rows {
            for other in holders(first + at, latents).filter(|&other| other != row) {
                shares[row * rows + other] = 1.0 / (n as f32 - 1.0).max(1.0);
            }
        }
        let shares = TensorData::new(shares, [1, rows, rows]);
        let shares = constant_like(Tensor::<3>::from_data(shares, &thoughts.device()), thoughts);
        let here = thoughts.clone().narrow(1, at, 1).swap_dims(0, 1); // [1, batch, d_model]
        shares.matmul(here).swap_dims(0, 1)
    };
    Tensor::cat((0..width).map(at_place).collect(), 1)
}

/// Each thought plus a vector of `scale` times its length.
fn noise(thoughts: &Tensor<3>, first: usize, scale: f64, seed: u64) -> Tensor<3> {
    let [rows, width, d] = thoughts.dims();
    let mut directions = Vec::with_capacity(rows * width * d);
    for row in 0..rows {
        for index in first..first + width {
            let mut rng = rng::stream(seed, &[rng::EDITS, row as u64, index as u64]);
            let x = rng::normals(&mut rng, d, 1.0);
            let length = x.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
            directions.extend(x.into_iter().map(|x| (f64::from(x) / length) as f32));
        }
    }
    let directions = TensorData::new(directions, [rows, width, d]);
    let directions = constant_like(Tensor::from_data(directions, &thoughts.device()), thoughts);
    let lengths = thoughts.clone().square().sum_dim(2).sqrt(); // [batch, thoughts, 1]
    thoughts.clone() + directions * lengths * scale
}

/// Each thought replaced by the next row's at its place, in an order of rows drawn from the seed.
fn permute(thoughts: &Tensor<3>, first: usize, latents: &[usize], seed: u64) -> Tensor<3> {
    let [rows, width, d] = thoughts.dims();
    let mut order: Vec<usize> = (0..rows).collect();
    order.shuffle(&mut rng::stream(seed, &[rng::EDITS]));
    let mut donors: Vec<i32> = (0..(rows * width) as i32).collect(); // [rows, width]
    for at in 0..width {
        let here: Vec<usize> =
            order.iter().copied().filter(|&row| latents[row] > first + at).collect();
        for (i, &row) in here.iter().enumerate() {
            donors[row * width + at] = (here[(i + 1) % here.len()] * width + at) as i32;
        }
    }
    let donors = Tensor::<1, Int>::from_data(donors.as_slice(), &thoughts.device());
    let flat = thoughts.clone().reshape([rows * width, d]);
    flat.select(0, donors).reshape([rows, width, d])
}

/// The donors' thoughts at the same places, `donors: [batch, places, d_model]`.
fn transplant(thoughts: &Tensor<3>, first: usize, donors: &Tensor<3>) -> Tensor<3> {
    let [_, width, _] = thoughts.dims();
    let last = donors.dims()[1] - 1;
    let places: Vec<i32> = (first..first + width).map(|index| index.min(last) as i32).collect();
    let places = Tensor::<1, Int>::from_data(places.as_slice(), &thoughts.device());
    constant_like(donors.clone(), thoughts).select(1, places)
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::Device;

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
    fn means_by_hand_leave_out_the_row_itself_and_rows_without_the_thought() {
        let x =
            tensor([[[1.0, 2.0], [8.0, 8.0]], [[3.0, 4.0], [9.0, 9.0]], [[5.0, 0.0], [7.0, 7.0]]]);
        let ours = numbers(mean(&x, 0, &[1, 2, 2]));
        assert_eq!(ours[..2], [4.0, 2.0]); // of rows 1 and 2
        assert_eq!(ours[4..6], [3.0, 1.0]); // of rows 0 and 2
        assert_eq!(ours[6..8], [7.0, 7.0]); // of row 2 alone
        assert_eq!(ours[10..12], [9.0, 9.0]); // of row 1 alone
    }

    #[test]
    fn a_permutation_gives_every_row_anothers_and_the_same_one_at_each_place() {
        let x = tensor([[[0.0; 2]; 2], [[1.0; 2]; 2], [[2.0; 2]; 2], [[3.0; 2]; 2]]);
        let ours = numbers(permute(&x, 0, &[2, 2, 2, 2], 5));
        let donors: Vec<usize> = ours.chunks(4).map(|row| row[0] as usize).collect();
        for (row, thoughts) in ours.chunks(4).enumerate() {
            assert!(thoughts.iter().all(|&x| x as usize == donors[row] && x as usize != row));
        }
        let mut sorted = donors.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, [0, 1, 2, 3]);
        // Rows without the second thought neither give nor take it.
        let ours = numbers(permute(&x, 0, &[2, 1, 2, 1], 5));
        let second: Vec<f32> = ours.chunks(4).map(|row| row[2]).collect();
        assert_eq!(second, [2.0, 1.0, 0.0, 3.0]);
    }

    #[test]
    fn noise_has_the_length_that_was_asked_for() {
        let x = tensor([[[3.0, 4.0], [0.0, 2.0]], [[6.0, 8.0], [1.0, 0.0]]]);
        let added = noise(&x, 0, 0.5, 1) - x.clone();
        let lengths: Vec<f32> = numbers(added.square().sum_dim(2).sqrt());
        for (ours, expected) in lengths.iter().zip([2.5, 1.0, 5.0, 0.5]) {
            assert!((ours - expected).abs() < 1e-6, "{ours} {expected}");
        }
        let draw = |first, seed| numbers(noise(&x, first, 0.5, seed));
        assert_eq!(draw(0, 1), draw(0, 1));
        assert!(draw(0, 1) != draw(0, 2) && draw(0, 1) != draw(1, 1));
    }
}
