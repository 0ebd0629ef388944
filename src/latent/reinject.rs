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
    /// The last hidden state, scaled to the mean norm of the token embeddings. The final norm makes
    /// a thought many times longer than an embedding, which drowns the position embedding.
    #[serde(rename = "norm(hs[-1])")]
    NormLastHidden,
    /// The zero vector: a control that feeds nothing back.
    #[serde(rename = "zero")]
    Zero,
}

impl Reinject {
    /// Its name in a recipe.
    pub fn name(self) -> &'static str {
        match self {
            Self::LastHidden => "hs[-1]",
            Self::NormLastHidden => "norm(hs[-1])",
            Self::Zero => "zero",
        }
    }

    /// The thoughts of one pass. `states`: the pass before; `sources`: for each row the column of
    /// that pass to feed back; `embeddings: [vocab, d_model]`, the token embeddings. Result:
    /// `[batch, 1, d_model]`.
    pub fn thoughts(
        self,
        states: &HiddenStates,
        sources: &[usize],
        embeddings: &Tensor<2>,
    ) -> Tensor<3> {
        let last = pick(states.last(), sources);
        match self {
            Self::LastHidden => last,
            Self::NormLastHidden => {
                // The target length is a constant: embeddings do not grow to be fed back larger.
                let length = embeddings.clone().detach().square().sum_dim(1).sqrt().mean();
                let norm = (last.clone().square().sum_dim(2) + 1e-12).sqrt(); // [batch, 1, 1]
                last / norm * length.unsqueeze()
            }
            Self::Zero => last.detach().zeros_like(),
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
