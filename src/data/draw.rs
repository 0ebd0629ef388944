//! Chance without state: every draw follows from what it is for, so a resumed run repeats it exactly.

use rand_chacha::ChaCha8Rng;

use crate::rng;

/// The key of all that is drawn for one example: the run's seed, the epoch and the example's index.
///
/// No generator is carried from one example to the next, so an interrupted run needs no random state
/// to go on, and the order in which examples are prepared does not matter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SampleKey {
    /// The run's seed.
    pub seed: u64,
    /// The epoch, counted from 0.
    pub epoch: u64,
    /// The example's index in its set, counted from 0.
    pub index: u64,
}

/// The streams of one key, one for each thing that is drawn, so that none disturbs another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// Whether `uniform_prob` strikes, and at which stage.
    Stage = 0,
    /// The order of a graph's edges.
    Edges = 1,
    /// The order of a graph's two candidates.
    Candidates = 2,
    /// The node that a graph's stage is to predict.
    Label = 3,
    /// One of a graph's shortest paths.
    Path = 4,
    /// How many tokens more than the stage's are missing (`tokenwise`).
    Removal = 5,
}

impl SampleKey {
    /// The generator of one stream.
    pub fn rng(self, stream: Stream) -> ChaCha8Rng {
        rng::stream(self.seed, &[rng::EXAMPLE, self.epoch, self.index, stream as u64])
    }
}
