//! Chance without state: every draw follows from what it is for, so a resumed run repeats it exactly.

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

/// Which draw is meant: the run's seed, the epoch (from 0) and the example's index (from 0).
///
/// No generator is carried from one example to the next, so an interrupted run needs no random state
/// to go on, and the order in which examples are prepared does not matter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Draw {
    /// The run's seed.
    pub seed: u64,
    /// The epoch, counted from 0.
    pub epoch: u64,
    /// The example's place in its file, counted from 0.
    pub index: u64,
}

impl Draw {
    /// The generator for one purpose (`"stage"`, `"edges"`, …); purposes do not disturb each other.
    pub fn rng(self, purpose: &str) -> ChaCha8Rng {
        rng(self.seed, purpose, &[self.epoch, self.index])
    }
}

/// A generator that follows from a seed, a purpose and any further numbers.
pub fn rng(seed: u64, purpose: &str, numbers: &[u64]) -> ChaCha8Rng {
    let purpose = purpose.bytes().fold(0, |hash, byte| mix(hash ^ u64::from(byte)));
    let hash = numbers.iter().fold(mix(seed ^ mix(purpose)), |hash, &n| mix(hash ^ mix(n)));
    ChaCha8Rng::seed_from_u64(hash)
}

/// One round of SplitMix64 (Steele et al. 2014): every input bit reaches every output bit.
fn mix(x: u64) -> u64 {
    let x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use rand::RngCore;

    use super::*;

    #[test]
    fn draws_repeat_and_differ() {
        let mut seen = HashSet::new();
        for seed in 0..4 {
            for epoch in 0..4 {
                for index in 0..4 {
                    let draw = Draw { seed, epoch, index };
                    let first = draw.rng("edges").next_u64();
                    assert_eq!(first, draw.rng("edges").next_u64());
                    assert_ne!(first, draw.rng("label").next_u64());
                    assert!(seen.insert(first), "{draw:?} repeats another draw");
                }
            }
        }
    }
}
