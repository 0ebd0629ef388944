//! Random streams without state: each is found from the run's seed and where it is used.
//!
//! Nothing about randomness has to be saved with a checkpoint, and an example's draw does not
//! depend on which others were drawn before it.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Stream of the initial weights.
pub const WEIGHTS: u64 = 1;
/// Stream of the order of examples, by epoch.
pub const ORDER: u64 = 2;
/// Stream of draws for one example, by epoch and example.
pub const EXAMPLE: u64 = 3;
/// Stream of the device (dropout), by step.
pub const DEVICE: u64 = 4;
/// Stream of sampled tokens, by question.
pub const SAMPLING: u64 = 5;
/// Stream of a generated set of examples.
pub const GENERATED: u64 = 6;

/// Stream of the parameters that only thoughts have.
pub const THOUGHTS: u64 = 7;
/// Stream of fresh adapters.
pub const ADAPTERS: u64 = 8;
/// Stream of edits of thoughts, by row and thought.
pub const EDITS: u64 = 9;
/// Stream of what statistics draw: resamples, folds, permutations.
pub const STATISTICS: u64 = 10;

/// The generator at `place` (a stream and indices into it) of a run seeded with `seed`.
pub fn stream(seed: u64, place: &[u64]) -> ChaCha8Rng {
    ChaCha8Rng::seed_from_u64(hash(seed, place))
}

/// One number for a place, well mixed (the finaliser of SplitMix64, Steele et al. 2014).
pub fn hash(seed: u64, place: &[u64]) -> u64 {
    place.iter().fold(mix(seed), |state, &index| mix(state ^ mix(index)))
}

fn mix(x: u64) -> u64 {
    let x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// A draw from the normal distribution (Box and Muller 1958).
pub fn standard_normal(rng: &mut impl Rng) -> f32 {
    let (u, v): (f64, f64) = (rng.random(), rng.random());
    ((-2.0 * (1.0 - u).ln()).sqrt() * (std::f64::consts::TAU * v).cos()) as f32
}

/// `n` draws with standard deviation `std`.
pub fn normals(rng: &mut impl Rng, n: usize, std: f32) -> Vec<f32> {
    (0..n).map(|_| std * standard_normal(rng)).collect()
}
