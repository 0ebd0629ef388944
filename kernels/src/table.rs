//! A table of vectors, some rows of which may be overridden: an embedding or an output head of which only a
//! few new tokens are trained.

use std::sync::Arc;

use burn::tensor::Tensor;

use crate::weight::{Weight, to_f32};

/// A table `[rows, d_model]`.
#[derive(Clone, Debug)]
pub struct Table {
    /// The table's rows, `[rows, d_model]`.
    pub weight: Weight,
    /// Rows that take the place of some of the weight's.
    pub overrides: Option<RowOverride>,
}

/// Rows that take the place of some of a table's.
#[derive(Clone, Debug)]
pub struct RowOverride {
    /// Numbers of the rows that are overridden, each once.
    pub ids: Arc<[u32]>,
    /// The rows in their place: `[ids, d_model]`.
    pub rows: Tensor<2>,
}

impl<W: Into<Weight>> From<W> for Table {
    fn from(weight: W) -> Self {
        Self { weight: weight.into(), overrides: None }
    }
}

impl Table {
    /// Number of rows, and their width.
    pub fn dims(&self) -> [usize; 2] {
        self.weight.values.dims()
    }

    /// The whole table in one tensor, `[rows, d_model]`: a copy where rows are overridden.
    pub fn whole(&self) -> Tensor<2> {
        let [_, width] = self.dims();
        self.each_override().fold(to_f32(self.weight.values.clone()), |table, (id, row)| {
            table.slice_assign([id..id + 1, 0..width], row)
        })
    }

    /// `hidden · tableᵀ`: `[n, d_model]` → `[n, rows]`.
    pub fn logits(&self, hidden: Tensor<2>) -> Tensor<2> {
        let [n, _] = hidden.dims();
        let weight = std::slice::from_ref(&self.weight);
        let logits = crate::linear(hidden.clone().unsqueeze(), weight, &[]).squeeze_dim(0);
        self.each_override().fold(logits, |logits, (id, row)| {
            let own = hidden.clone().matmul(row.transpose()); // [n, 1]
            logits.slice_assign([0..n, id..id + 1], own)
        })
    }

    /// `shares · table`: `[n, rows]` → `[n, d_model]`.
    pub fn mix(&self, shares: Tensor<2>) -> Tensor<2> {
        let [n, _] = shares.dims();
        let own = |id: usize| [0..n, id..id + 1];
        let rest = self.each_override().fold(shares.clone(), |rest, (id, _)| {
            let none = rest.clone().slice(own(id)).zeros_like();
            rest.slice_assign(own(id), none)
        });
        let sum = crate::conv1d(rest.unsqueeze(), self.weight.clone(), None).squeeze_dim(0);
        self.each_override()
            .fold(sum, |sum, (id, row)| sum + shares.clone().slice(own(id)).matmul(row))
    }

    /// Each overriding row, `[1, d_model]`, with its id.
    fn each_override(&self) -> impl Iterator<Item = (usize, Tensor<2>)> + '_ {
        self.overrides.iter().flat_map(|overrides| {
            let row = |at: usize| overrides.rows.clone().narrow(0, at, 1);
            overrides.ids.iter().enumerate().map(move |(at, &id)| (id as usize, row(at)))
        })
    }
}
