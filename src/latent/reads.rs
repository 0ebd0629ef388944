//! What is read of a forward pass.

/// What a loss, a probe or generation reads of a [`Trace`](super::Trace). Thoughts, keys and values are always
/// there; of hidden states, what nobody reads is not computed or not kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReadSet {
    /// At which tokens.
    pub positions: ReadPositions,
    /// Which of the `L + 1` hidden states.
    pub layers: ReadLayers,
}

/// The tokens at which hidden states are read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum ReadPositions {
    /// Tokens that predict a label, end their row or feed a thought. The last block computes keys and values
    /// only of the others.
    #[default]
    Predictions,
    /// All tokens.
    All,
}

/// The hidden states that are read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum ReadLayers {
    /// The last one, after the final norm.
    #[default]
    Last,
    /// All of them.
    All,
}

impl ReadSet {
    /// The last hidden state of tokens that predict a label, end their row or feed a thought.
    pub const PREDICTIONS: Self =
        Self { positions: ReadPositions::Predictions, layers: ReadLayers::Last };
    /// Every hidden state of every token.
    pub const ALL: Self = Self { positions: ReadPositions::All, layers: ReadLayers::All };

    /// What either of two readers reads.
    pub fn union(self, other: Self) -> Self {
        Self {
            positions: self.positions.max(other.positions),
            layers: self.layers.max(other.layers),
        }
    }
}
