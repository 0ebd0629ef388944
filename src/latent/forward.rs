//! The forward pass with latents: each position computed once, on the cached keys and values of
//! those before it (METHOD.md 3).

use burn::tensor::Tensor;

use super::Reinject;
use crate::{
    data::batch::{Batch, Target},
    model::{Cache, HiddenStates, Transformer},
};

/// Everything that a forward pass computed. Losses, generation and probes read the same one.
#[derive(Clone, Debug)]
pub struct Trace {
    /// Per pass, its hidden states; columns as in [`Batch::passes`].
    pub hidden: Vec<HiddenStates>,
    /// What was fed back, one `[batch, 1, d_model]` a latent; pass `j` begins with thought `j − 1`.
    pub thoughts: Vec<Tensor<3>>,
    /// Keys and values of every column.
    pub cache: Cache,
}

/// Runs a batch: the prefix in one pass, then a pass for each latent, the last one with the words
/// after it. With `e_t` the input embedding and `R` the reinjection, the latents at `p_1 < p_2 < …`
/// get `e_{p_i} = R(h_{p_i − 1})` (Hao et al. 2024, section 3), differentiably.
///
/// `batch` must fit the model: ids below `vocab_size`, lengths at most `n_positions`.
pub fn forward(model: &Transformer, batch: &Batch, reinject: Reinject) -> Trace {
    let device = model.head().device();
    let mut cache = Cache::new(model.config.n_layer);
    let mut hidden: Vec<HiddenStates> = Vec::with_capacity(batch.passes.len());
    let mut thoughts = Vec::with_capacity(batch.passes.len().saturating_sub(1));
    let mut before = 0; // first column of the pass before

    for pass in &batch.passes {
        let columns = pass.columns.clone();
        let embeddings = match hidden.last() {
            None => model.embed(batch.ids(columns.clone(), &device)),
            Some(states) => {
                let sources: Vec<usize> = pass.sources.iter().map(|c| c - before).collect();
                let thought = reinject.thoughts(states, &sources, &model.embeddings()); // [batch, 1, d_model]
                thoughts.push(thought.clone());
                let words = columns.start + 1..columns.end;
                if words.is_empty() {
                    thought
                } else {
                    Tensor::cat(vec![thought, model.embed(batch.ids(words, &device))], 1)
                }
            }
        };
        let position_ids = batch.position_ids(columns.clone(), &device);
        let visible = batch.visible(columns.end);
        let (states, longer) = model.forward(embeddings, position_ids, cache, &visible);
        cache = longer;
        hidden.push(states);
        before = columns.start;
    }
    Trace { hidden, thoughts, cache }
}

impl Trace {
    /// Last hidden states (after the final norm) at the columns that predict `targets`, which are
    /// ordered by column: `[targets, d_model]`; `None` if there are none.
    pub fn predictors(&self, batch: &Batch, targets: &[Target]) -> Option<Tensor<2>> {
        let cells: Vec<(usize, usize)> = targets.iter().map(|t| (t.row, t.column)).collect();
        self.last_hidden(batch, &cells)
    }

    /// Last hidden state of each row's last token: `[batch, d_model]`.
    pub fn ends(&self, batch: &Batch) -> Option<Tensor<2>> {
        let mut cells: Vec<(usize, usize)> = batch.ends.iter().copied().enumerate().collect();
        if cells.iter().all(|cell| cell.1 == batch.columns - 1) {
            return self.last_hidden(batch, &cells);
        }
        cells.sort_by_key(|&(_, column)| column);
        let hidden = self.last_hidden(batch, &cells)?;
        let mut order = vec![0i32; cells.len()];
        for (at, &(row, _)) in cells.iter().enumerate() {
            order[row] = at as i32;
        }
        let order = Tensor::from_data(order.as_slice(), &hidden.device());
        Some(hidden.select(0, order))
    }

    /// Last hidden states at (row, column) cells ordered by column: `[cells, d_model]`.
    pub fn last_hidden(&self, batch: &Batch, cells: &[(usize, usize)]) -> Option<Tensor<2>> {
        let mut parts = Vec::new();
        let mut rest = cells;
        for (pass, states) in batch.passes.iter().zip(&self.hidden) {
            let here = rest.partition_point(|&(_, column)| column < pass.columns.end);
            let (these, later) = rest.split_at(here);
            rest = later;
            if these.is_empty() {
                continue;
            }
            let states = states.last(); // [batch, seq, d_model]
            let [rows, seq, d_model] = states.dims();
            let cells: Vec<i32> = (these.iter())
                .map(|&(row, column)| (row * seq + column - pass.columns.start) as i32)
                .collect();
            let cells = Tensor::from_data(cells.as_slice(), &states.device());
            parts.push(states.reshape([rows * seq, d_model]).select(0, cells));
        }
        match parts.len() {
            0 => None,
            1 => parts.pop(),
            _ => Some(Tensor::cat(parts, 0)),
        }
    }
}
