//! Everything that a forward pass computed.

use burn::tensor::Tensor;
use coconut_kernels::host;

use super::batch::{Batch, Branch, PassTargets, Target};
use crate::model::{Cache, HiddenStates, NewColumns};

/// Everything that a forward pass computed. Losses, generation and probes read the same one.
#[derive(Clone, Debug)]
pub struct Trace {
    /// Per pass, its hidden states, as far as they were to be read; columns count from the pass's first.
    pub hidden: Vec<HiddenStates>,
    /// Per pass, what it was fed, `[batch, thoughts, d_model]`; `None` if it is text only.
    pub thoughts: Vec<Option<Tensor<3>>>,
    /// Each thought that an edit touched, in order: its row, and which of the row's thoughts it is.
    pub edited: Vec<(usize, usize)>,
    /// Keys and values of every column: of the rows, and of their teachers if there are any. Both begin with what
    /// they share.
    pub caches: Vec<Cache>,
}

impl Trace {
    /// Of no pass yet.
    pub(super) fn empty(caches: usize, n_layer: usize) -> Self {
        let caches = vec![Cache::new(n_layer); caches];
        Self { hidden: Vec::new(), thoughts: Vec::new(), edited: Vec::new(), caches }
    }

    /// What the first `passes` passes left.
    pub(super) fn before(&self, batch: &Batch, passes: usize) -> Self {
        let ([first, ..], Some(next)) = (&batch.passes[..], batch.passes.get(passes)) else {
            return self.clone();
        };
        let (columns, first) = (next.columns.start, first.columns.len());
        Self {
            hidden: self.hidden[..passes].to_vec(),
            thoughts: self.thoughts[..passes].to_vec(),
            edited: Vec::new(),
            caches: self.caches.iter().map(|cache| cache.before(columns, first)).collect(),
        }
    }

    /// The same with each tensor replaced.
    pub(super) fn map(self, replace: impl Fn(Tensor<3>) -> Tensor<3> + Copy) -> Self {
        Self {
            hidden: self.hidden.into_iter().map(|states| states.map(|x, _| replace(x))).collect(),
            thoughts: self.thoughts.into_iter().map(|x| x.map(replace)).collect(),
            edited: self.edited,
            caches: self.caches.into_iter().map(|cache| cache.map(replace)).collect(),
        }
    }

    /// Appends what a pass of a branch leaves to the caches of those who see it.
    pub(super) fn push_columns(&mut self, branch: Branch, new: &NewColumns) {
        for (number, cache) in self.caches.iter_mut().enumerate() {
            if branch == Branch::Shared || branch.cache() == number {
                *cache = std::mem::take(cache).push(new.clone());
            }
        }
    }

    /// The thoughts that were fed, by their number in the row: `[batch, 1, d_model]` each. Where passes compute a
    /// column anew, the last one counts.
    pub fn thoughts_in_order(&self, batch: &Batch) -> Vec<Tensor<3>> {
        let kept = batch.passes.iter().zip(&self.thoughts).filter(|(pass, _)| pass.keep);
        let fed = kept.filter_map(|(_, thoughts)| thoughts.as_ref());
        fed.flat_map(|x| (0..x.dims()[1]).map(|at| x.clone().narrow(1, at, 1))).collect()
    }

    /// Last hidden states at the columns of one pass that predict `targets`, which are ordered by column:
    /// `[targets, d_model]`.
    ///
    /// # Panics
    /// If one of them was not to be read.
    pub fn predictors_in(&self, batch: &Batch, of: &PassTargets) -> Tensor<2> {
        let (pass, states) = (&batch.passes[of.pass], &self.hidden[of.pass]);
        let token = |target: &Target| (target.row, target.column - pass.columns.start);
        let tokens: Vec<_> = of.targets.iter().map(token).collect();
        states.pick(states.count() - 1, &tokens)
    }

    /// Last hidden states (after the final norm) at the columns that predict `targets`, which are
    /// ordered by column: `[targets, d_model]`; `None` if there are none.
    pub fn predictors(&self, batch: &Batch, targets: &[Target]) -> Option<Tensor<2>> {
        let tokens: Vec<(usize, usize)> = targets.iter().map(|t| (t.row, t.column)).collect();
        self.last_hidden(batch, &tokens)
    }

    /// Last hidden state of each row's last token: `[batch, d_model]`.
    pub fn ends(&self, batch: &Batch) -> Option<Tensor<2>> {
        let last = self.hidden.first()?.count() - 1;
        self.hidden_by_row(batch, last, &batch.ends)
    }

    /// Hidden states `k` at one column of each row, in the rows' order: `[batch, d_model]`; `None` if there are
    /// no rows.
    ///
    /// # Panics
    /// As [`Trace::hidden_at`].
    pub fn hidden_by_row(&self, batch: &Batch, k: usize, columns: &[usize]) -> Option<Tensor<2>> {
        let mut tokens: Vec<(usize, usize)> = columns.iter().copied().enumerate().collect();
        if tokens.is_sorted_by_key(|&(_, column)| column) {
            return self.hidden_at(batch, k, &tokens);
        }
        tokens.sort_by_key(|&(_, column)| column);
        let hidden = self.hidden_at(batch, k, &tokens)?;
        let mut order = vec![0i32; tokens.len()];
        for (at, &(row, _)) in tokens.iter().enumerate() {
            order[row] = at as i32;
        }
        let order = host::upload(order.as_slice(), &hidden.device());
        Some(hidden.select(0, order))
    }

    /// Last hidden states at tokens `(row, column)` ordered by column: `[tokens, d_model]`; `None` if there are
    /// none.
    ///
    /// # Panics
    /// As [`Trace::hidden_at`].
    pub fn last_hidden(&self, batch: &Batch, tokens: &[(usize, usize)]) -> Option<Tensor<2>> {
        let last = self.hidden.first()?.count() - 1;
        self.hidden_at(batch, last, tokens)
    }

    /// Hidden states `k` at tokens `(row, column)` ordered by column: `[tokens, d_model]`; `None` if there are
    /// none. Where passes compute a column anew, the last one counts.
    ///
    /// # Panics
    /// If one of the tokens is padding, or was not to be read ([`ReadSet`](super::ReadSet)).
    pub fn hidden_at(
        &self,
        batch: &Batch,
        k: usize,
        tokens: &[(usize, usize)],
    ) -> Option<Tensor<2>> {
        let mut parts = Vec::new();
        let mut rest = tokens;
        let kept = batch.passes.iter().zip(&self.hidden).filter(|(pass, _)| pass.keep);
        for (pass, states) in kept {
            let here = rest.partition_point(|&(_, column)| column < pass.columns.end);
            let (these, later) = rest.split_at(here);
            rest = later;
            if these.is_empty() {
                continue;
            }
            let own = |&(row, column): &(usize, usize)| (row, column - pass.columns.start);
            let tokens: Vec<_> = these.iter().map(own).collect();
            parts.push(states.pick(k, &tokens));
        }
        match parts.len() {
            0 => None,
            1 => parts.pop(),
            _ => Some(Tensor::cat(parts, 0)),
        }
    }
}
