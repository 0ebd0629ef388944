//! One row of tokens, and what is to be predicted in it.

use std::ops::Range;

/// One row before it is laid out.
#[derive(Clone, Copy, Debug, Default)]
pub struct Row<'a> {
    /// Token ids.
    pub ids: &'a [u32],
    /// For each token, itself if it is to be predicted (Hugging Face's `labels`; `None` is −100).
    /// Empty if nothing is.
    pub labels: &'a [Option<u32>],
    /// What some of the tokens are to predict besides, without a shift.
    pub step_targets: &'a [StepTarget],
    /// How many more there would be if the row had a place for them.
    pub lost_step_targets: usize,
    /// What slots of its thoughts are to be read as.
    pub slots: &'a [SlotText],
    /// A row that begins as this one does and is trained beside it.
    pub teacher: Option<TeacherRow<'a>>,
}

/// A row beside another one, without latents.
#[derive(Clone, Copy, Debug)]
pub struct TeacherRow<'a> {
    /// Token ids.
    pub ids: &'a [u32],
    /// As [`Row::labels`].
    pub labels: &'a [Option<u32>],
    /// The positions, in the row and in this one, whose hidden states are compared, if any are.
    pub anchors: Option<[usize; 2]>,
    /// The position of the answer's first token, before which steps stand, if keys and values are compared.
    pub answer: Option<usize>,
}

/// What a teacher's own pass holds of it; columns count from the pass's first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    /// The steps' tokens.
    pub steps: Range<usize>,
    /// The answer's tokens.
    pub answer: Range<usize>,
}

/// A token that a position is to predict.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StepTarget {
    /// The position that predicts it.
    pub position: usize,
    /// The token's id.
    pub token: u32,
    /// In which iteration of thinking in parallel; in the last one if `None`.
    pub iteration: Option<usize>,
}

/// What a slot, some of a row's thoughts side by side, is to be read as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlotText {
    /// The slot's number in its row, from 0.
    pub slot: usize,
    /// Which of the row's thoughts it holds (from 0); one behind the last is made of the last latent's states.
    pub thoughts: Range<usize>,
    /// Token ids, the end of the text among them.
    pub ids: Vec<u32>,
}

impl<'a> Row<'a> {
    /// A row with labels.
    pub fn new(ids: &'a [u32], labels: &'a [Option<u32>]) -> Self {
        Self { ids, labels, ..Self::default() }
    }

    /// A row without labels.
    pub fn unlabelled(ids: &'a [u32]) -> Self {
        Self { ids, ..Self::default() }
    }
}

/// Where a label is predicted, and what it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    /// Row of the batch.
    pub row: usize,
    /// Column of the token before the labelled one.
    pub column: usize,
    /// Position in the row of the labelled token.
    pub position: usize,
    /// The labelled token's id.
    pub token: u32,
}
