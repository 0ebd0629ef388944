//! What is fed back: the reinjection R of METHOD.md 4.

use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

use crate::model::HiddenStates;

/// The function of the hidden states at the position before a latent that becomes the latent's
/// input embedding.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reinject {
    /// The last hidden state, after the final norm (Hao et al. 2024).
    #[default]
    #[serde(rename = "hs[-1]")]
    LastHidden,
    /// The zero vector: a control that feeds nothing back.
    #[serde(rename = "zero")]
    Zero,
}

impl Reinject {
    /// The names a recipe may use.
    pub const NAMES: [&str; 2] = ["hs[-1]", "zero"];

    /// From its name in a recipe.
    pub fn parse(name: &str) -> Option<Self> {
        match name {
            "hs[-1]" => Some(Self::LastHidden),
            "zero" => Some(Self::Zero),
            _ => None,
        }
    }

    /// Its name in a recipe.
    pub fn name(self) -> &'static str {
        match self {
            Self::LastHidden => Self::NAMES[0],
            Self::Zero => Self::NAMES[1],
        }
    }

    /// The thoughts of one pass. `states`: the pass before, `sources`: for each row the column of
    /// that pass to feed back. Result: `[batch, 1, d_model]`.
    pub fn thoughts(self, states: &HiddenStates, sources: &[usize]) -> Tensor<3> {
        match self {
            Self::LastHidden => pick(states.last(), sources),
            Self::Zero => pick(states.last(), sources).detach().zeros_like(),
        }
    }
}

/// One column of each row: `x: [batch, seq, d_model]` → `[batch, 1, d_model]`.
pub fn pick(x: Tensor<3>, columns: &[usize]) -> Tensor<3> {
    let [batch, seq, d_model] = x.dims();
    let Some(&first) = columns.first() else { return x };
    if seq == 1 {
        return x;
    }
    if columns.iter().all(|&column| column == first) {
        return x.narrow(1, first, 1);
    }
    let cells: Vec<i32> =
        columns.iter().enumerate().map(|(row, c)| (row * seq + c) as i32).collect();
    let cells = Tensor::from_data(cells.as_slice(), &x.device());
    x.reshape([batch * seq, d_model]).select(0, cells).reshape([batch, 1, d_model])
}
