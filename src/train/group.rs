//! The processes that train one model together.

use crate::model::parameters::NamedTensors;

/// The processes that share the micro-batches of each optimizer step. Each holds the whole model; what
/// they sum keeps their models equal.
///
/// A step sums at two places: its labels before losses are divided by them, and its gradients before
/// their norm is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Group {
    rank: usize,
    world: usize,
}

impl Group {
    /// One process that does everything itself.
    pub fn alone() -> Self {
        Self { rank: 0, world: 1 }
    }

    /// One of several, to show which work it would be given.
    #[cfg(test)]
    pub(super) fn of(rank: usize, world: usize) -> Self {
        Self { rank, world }
    }

    /// The number of this process, from 0.
    pub fn rank(self) -> usize {
        self.rank
    }

    /// The number of processes.
    pub fn world(self) -> usize {
        self.world
    }

    /// The sum of a count over all processes.
    pub fn sum_f64(self, value: f64) -> f64 {
        value
    }

    /// Replaces gradients by their sums over all processes.
    pub fn sum(self, _gradients: &mut NamedTensors) {}
}
