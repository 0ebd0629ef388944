//! The forward pass with latents: each position computed once, on the cached keys and values of
//! those before it (docs/method.md 4).

use burn::{
    module::Module,
    tensor::{Int, Tensor},
};

use super::{
    LatentModel, LatentPositions,
    feedback::{Source, terms},
};
use crate::{
    latent::batch::{Batch, Target},
    model::{Cache, Cells, HiddenStates, Layout},
    rng,
};

/// Which last hidden states of a batch will be read; the last block computes the others' keys and values only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Wanted {
    /// Those of all tokens.
    #[default]
    Everything,
    /// Those that predict a label, end their row or feed a thought.
    Predictions,
}

/// Everything that a forward pass computed. Losses, generation and probes read the same one.
#[derive(Clone, Debug)]
pub struct Trace {
    /// Per pass, its hidden states; columns as in [`Batch::passes`]. Those of the first pass leave padding out.
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
pub fn forward(model: &LatentModel, batch: &Batch, wanted: Wanted) -> Trace {
    run(model, batch, Sweep { wanted, ..Sweep::default() })
}

/// As [`forward`], with gradients through the last `tracked` passes only (all if `None`): hidden states,
/// thoughts, keys and values of the earlier ones are constants.
pub fn forward_partly(
    model: &LatentModel,
    batch: &Batch,
    wanted: Wanted,
    tracked: Option<usize>,
) -> Trace {
    run(model, batch, Sweep { wanted, tracked, ..Sweep::default() })
}

/// How the passes are run.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Sweep {
    /// What will be read.
    pub wanted: Wanted,
    /// Gradients flow through so many of the last passes; all if `None`.
    pub tracked: Option<usize>,
    /// Each block of each pass draws its dropout from its own stream of this seed.
    pub seed: Option<u64>,
    /// Keep the last hidden state only, except of the last pass.
    pub trim: bool,
}

pub(super) fn run(model: &LatentModel, batch: &Batch, sweep: Sweep) -> Trace {
    let constants = batch.passes.len().saturating_sub(sweep.tracked.unwrap_or(usize::MAX));
    // Untracked parameters record no graph; dropout stays as it is in training.
    let constant_model = (constants > 0).then(|| model.clone().no_grad());
    let row_space = row_space(model);
    let mut cache = Cache::new(model.transformer.config.n_layer);
    let mut hidden: Vec<HiddenStates> = Vec::with_capacity(batch.passes.len());
    let mut thoughts = Vec::with_capacity(batch.passes.len().saturating_sub(1));
    let mut inputs: Vec<Tensor<3>> = Vec::with_capacity(2); // of the first pass, and of the one before

    for number in 0..batch.passes.len() {
        let model = constant_model.as_ref().filter(|_| number < constants).unwrap_or(model);
        let thought = hidden
            .last()
            .map(|states| think(model, batch, number, states, &inputs, row_space.as_ref()));
        let embeddings = embed(model, batch, number, thought.clone());
        thoughts.extend(thought);
        inputs.truncate(1);
        inputs.push(embeddings.clone());
        let layout = layout(model, batch, number, sweep.wanted);
        let (states, longer) = pass(model, batch, number, embeddings, cache, &layout, sweep.seed);
        cache = longer;
        if let Some(before) = hidden.last_mut().filter(|_| sweep.trim) {
            before.trim();
        }
        hidden.push(states);
    }
    Trace { hidden, thoughts, cache }
}

pub(super) fn row_space(model: &LatentModel) -> Option<Tensor<2>> {
    let reads = model.thinking.reinject.reads_head();
    reads.then(|| terms::row_space(&model.transformer)).flatten()
}

/// The thoughts that pass `number` begins with, `[batch, 1, d_model]`, from the pass before. `inputs`: the
/// input embeddings of the first pass, …, of the pass before.
pub(super) fn think(
    model: &LatentModel,
    batch: &Batch,
    number: usize,
    states: &HiddenStates,
    inputs: &[Tensor<3>],
    row_space: Option<&Tensor<2>>,
) -> Tensor<3> {
    let before = &batch.passes[number - 1].columns;
    let last = before.len() - 1;
    let own = |column: &usize| column - before.start;
    let columns: Vec<usize> = match model.thinking.replicates() {
        true => vec![last; batch.rows],
        false => batch.passes[number].sources.iter().map(own).collect(),
    };
    let source = Source {
        states,
        inputs: &inputs[inputs.len() - 1],
        first: &inputs[0],
        columns: &columns,
        row_space,
    };
    let LatentModel { transformer, thoughts, thinking } = model;
    thinking.reinject.thoughts(transformer, &thoughts.reinject, thinking, &source)
}

/// Whether the first pass leaves padding out. The replication's readings know no padding.
fn packs(model: &LatentModel, batch: &Batch) -> bool {
    !model.thinking.replicates() && batch.pads_first()
}

/// How pass `number` lies in tensors.
pub(super) fn layout(model: &LatentModel, batch: &Batch, number: usize, wanted: Wanted) -> Layout {
    let columns = &batch.passes[number].columns;
    let packed = packs(model, batch);
    let cells = match packed && number == 0 {
        true => Cells::some(batch.rows, columns.len(), &batch.tokens_of(0)),
        false => Cells::all(batch.rows, columns.len()),
    };
    let prefix = if packed { batch.passes[0].columns.len() } else { 0 };
    let visible = batch.visible(columns.end).packed(prefix);
    let few = wanted == Wanted::Predictions && !model.thinking.replicates();
    let reads = few.then(|| batch.read_of(number));
    Layout::new(visible, cells, reads.as_deref())
}

/// The input embeddings of a pass: its thought, then its words, `[batch, seq, d_model]`, or
/// `[1, cells, d_model]` where it is packed.
pub(super) fn embed(
    model: &LatentModel,
    batch: &Batch,
    number: usize,
    thought: Option<Tensor<3>>,
) -> Tensor<3> {
    let columns = batch.passes[number].columns.clone();
    let words = columns.start + usize::from(thought.is_some())..columns.end;
    let packed = number == 0 && packs(model, batch);
    let ids = (!words.is_empty()).then(|| batch.ids(words, packed, &model.device()));
    let words = ids.map(|ids| model.transformer.embed(ids));
    match (thought, words) {
        (Some(thought), Some(words)) => Tensor::cat(vec![thought, words], 1),
        (Some(only), None) | (None, Some(only)) => only,
        (None, None) => unreachable!("a pass has columns"),
    }
}

/// One pass of the transformer over embeddings, with the thought's position.
pub(super) fn pass(
    model: &LatentModel,
    batch: &Batch,
    number: usize,
    embeddings: Tensor<3>,
    cache: Cache,
    layout: &Layout,
    seed: Option<u64>,
) -> (HiddenStates, Cache) {
    let (embeddings, position_ids) = place(model, batch, number, embeddings);
    let seed = seed.map(|seed| of_pass(seed, number));
    model.transformer.forward(embeddings, position_ids, cache, layout, seed)
}

/// The seed of a pass's dropout.
pub(super) fn of_pass(seed: u64, number: usize) -> u64 {
    rng::hash(seed, &[rng::DEVICE, number as u64])
}

/// A pass's embeddings `[batch, seq, d_model]` with what the thought's position adds, and its
/// position ids `[batch, seq]`; packed ones are `[1, cells, d_model]` and `[1, cells]`.
pub(super) fn place(
    model: &LatentModel,
    batch: &Batch,
    number: usize,
    mut embeddings: Tensor<3>,
) -> (Tensor<3>, Tensor<2, Int>) {
    let columns = batch.passes[number].columns.clone();
    let packed = number == 0 && packs(model, batch);
    let mut position_ids = batch.position_ids(columns, packed, &model.device());
    if let Some(index) = number.checked_sub(1) {
        if let Some(encoding) = model.position(index) {
            let [rows, seq, d] = embeddings.dims();
            let thought = embeddings.clone().narrow(1, 0, 1) + encoding.expand([rows, 1, d]);
            embeddings = match seq {
                1 => thought,
                _ => Tensor::cat(vec![thought, embeddings.narrow(1, 1, seq - 1)], 1),
            };
        }
        if let LatentPositions::Offset(offset) = model.thinking.latent_positions {
            position_ids = with_offset(position_ids, offset + index);
        }
    }
    (embeddings, position_ids)
}

/// Position ids `[batch, seq]` with the first column, a thought's, set to `position`.
fn with_offset(position_ids: Tensor<2, Int>, position: usize) -> Tensor<2, Int> {
    let [rows, seq] = position_ids.dims();
    let thought = Tensor::full([rows, 1], position as i32, &position_ids.device());
    match seq {
        1 => thought,
        _ => Tensor::cat(vec![thought, position_ids.narrow(1, 1, seq - 1)], 1),
    }
}

impl Trace {
    /// How many columns the first chunk of the cache stands for if it leaves padding out, else 0
    /// ([`Visible::packed`](coconut_kernels::Visible::packed)).
    pub fn packed_columns(&self, batch: &Batch) -> usize {
        let packed = self.hidden.first().is_some_and(|states| states.cells().is_packed());
        if packed { batch.passes[0].columns.len() } else { 0 }
    }

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
    ///
    /// # Panics
    /// If one of them holds no token, or was not [`Wanted`].
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
            let own = |&(row, column): &(usize, usize)| (row, column - pass.columns.start);
            let cells: Vec<_> = these.iter().map(own).collect();
            parts.push(states.last_cells().pick(states.last(), &cells));
        }
        match parts.len() {
            0 => None,
            1 => parts.pop(),
            _ => Some(Tensor::cat(parts, 0)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::Device;

    #[test]
    fn a_thought_alone_is_moved_by_the_offset() {
        let ids = Tensor::<2, Int>::from_data([[7, 8, 9], [3, 4, 5]], &Device::flex());
        let moved: Vec<i32> = with_offset(ids, 100_002).into_data().try_into_vec().unwrap();
        assert_eq!(moved, [100_002, 8, 9, 100_002, 4, 5]);
    }
}
