//! What can be trained, which rows it has, and how far its steps have been replaced.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What is compared in the paper's table, each a way to train the same model on the same data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Method {
    /// Steps are replaced by continuous thoughts, one more at each stage.
    Coconut,
    /// All steps are spoken: stage −1 throughout.
    Cot,
    /// Question, then answer.
    NoCot,
    /// Steps are dropped stage by stage and nothing takes their place.
    NoThoughts,
    /// As Coconut, but a latent is an ordinary learned token: the model feeds nothing back.
    Pause,
    /// As Coconut, but in the last stage from the start.
    NoCurriculum,
    /// A fixed number of thoughts, taught by the hidden states of a row with its steps written out.
    Codi,
    /// As CODI, thinking in parallel.
    Pccot,
    /// As PCCoT, taught also by the keys and values of the row's steps, as many of them as there are latents.
    Kava,
    /// Thinking in parallel, each block of latents predicting the step that it replaces.
    Lotus,
    /// Steps are taken away token by token, and nothing takes their place.
    Icot,
}

impl Method {
    /// The method's name in recipes and files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Coconut => "coconut",
            Self::Cot => "cot",
            Self::NoCot => "no_cot",
            Self::NoThoughts => "no_thoughts",
            Self::Pause => "pause",
            Self::NoCurriculum => "no_curriculum",
            Self::Codi => "codi",
            Self::Pccot => "pccot",
            Self::Kava => "kava",
            Self::Lotus => "lotus",
            Self::Icot => "icot",
        }
    }

    /// The method's rows.
    pub fn row(self) -> RowKind {
        match self {
            Self::Codi | Self::Pccot | Self::Kava => RowKind::Fixed,
            Self::Lotus => RowKind::Blocks,
            Self::Icot => RowKind::Tokenwise,
            _ => RowKind::Stages,
        }
    }

    /// Whether the method's rows carry `bot` and `eot`, and latents between them.
    pub fn has_latents(self) -> bool {
        !matches!(self, Self::Cot | Self::NoCot | Self::NoThoughts | Self::Icot)
    }
}

/// Which tokens a row holds at a stage.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RowKind {
    /// At each stage one more step gives way to latents.
    #[default]
    Stages,
    /// The same, with a block of latents for every stage so far, however few steps an example has.
    Blocks,
    /// Latents in place of all steps, as many in every row.
    Fixed,
    /// At each stage one more token of the steps is missing.
    Tokenwise,
}

impl RowKind {
    /// The last stage of such rows, M being `max_latent_stage`, if all tokens of the steps are gone from stage
    /// `remove_all_from` on.
    pub(super) fn last_stage(
        self,
        max_latent_stage: usize,
        remove_all_from: Option<usize>,
    ) -> Stage {
        Stage::from_count(match self {
            Self::Fixed => 1,
            Self::Blocks => max_latent_stage,
            Self::Tokenwise => remove_all_from.unwrap_or(i32::MAX as usize),
            // M + 1: no step is shown.
            Self::Stages => max_latent_stage.saturating_add(1),
        })
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// How far the steps have been replaced: −1 for chain of thought, then 0 ..= M, then M + 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Stage(pub i32);

impl Stage {
    /// All steps spoken, without markers.
    pub const COT: Self = Self(-1);

    pub(crate) fn from_count(stage: usize) -> Self {
        Self(i32::try_from(stage).unwrap_or(i32::MAX))
    }

    /// The number of steps that this stage takes away, or `None` at [`Stage::COT`].
    pub(super) fn n_replaced(self) -> Option<usize> {
        usize::try_from(self.0).ok()
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == Self::COT { f.write_str("CoT") } else { write!(f, "{}", self.0) }
    }
}
