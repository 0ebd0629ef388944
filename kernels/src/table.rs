//! A table of vectors, some rows of which may be given apart: an embedding or an output head whose
//! few new tokens are trained while all the others stand still.

use std::sync::Arc;

use burn::tensor::Tensor;

use crate::weight::{Weight, to_f32};

/// A table `[rows, d_model]`.
#[derive(Clone, Debug)]
pub struct Table {
    /// `[rows, d_model]`.
    pub weight: Weight,
    /// Rows that stand in place of the weight's.
    pub apart: Option<Apart>,
}

/// Rows of a table that are given apart.
#[derive(Clone, Debug)]
pub struct Apart {
    /// Whose rows they are, each once.
    pub ids: Arc<[u32]>,
    /// `[ids, d_model]`.
    pub rows: Tensor<2>,
}

impl<W: Into<Weight>> From<W> for Table {
    fn from(weight: W) -> Self {
        Self { weight: weight.into(), apart: None }
    }
}

impl Table {
    /// Rows and width.
    pub fn dims(&self) -> [usize; 2] {
        self.weight.values.dims()
    }

    /// The whole table in one tensor, `[rows, d_model]`: a copy where rows are given apart.
    pub fn whole(&self) -> Tensor<2> {
        let [_, width] = self.dims();
        self.each_apart().fold(to_f32(self.weight.values.clone()), |table, (id, row)| {
            table.slice_assign([id..id + 1, 0..width], row)
        })
    }

    /// `hidden · tableᵀ`: `[n, d_model]` → `[n, rows]`.
    pub fn logits(&self, hidden: Tensor<2>) -> Tensor<2> {
        let [n, _] = hidden.dims();
        let weight = std::slice::from_ref(&self.weight);
        let logits = crate::linear(hidden.clone().unsqueeze(), weight, &[]).squeeze_dim(0);
        self.each_apart().fold(logits, |logits, (id, row)| {
            let own = hidden.clone().matmul(row.transpose()); // [n, 1]
            logits.slice_assign([0..n, id..id + 1], own)
        })
    }

    /// `shares · table`: `[n, rows]` → `[n, d_model]`.
    pub fn mix(&self, shares: Tensor<2>) -> Tensor<2> {
        let [n, _] = shares.dims();
        let own = |id: usize| [0..n, id..id + 1];
        let rest = self.each_apart().fold(shares.clone(), |rest, (id, _)| {
            let none = rest.clone().slice(own(id)).zeros_like();
            rest.slice_assign(own(id), none)
        });
        let sum = crate::conv1d(rest.unsqueeze(), self.weight.clone(), None).squeeze_dim(0);
        self.each_apart()
            .fold(sum, |sum, (id, row)| sum + shares.clone().slice(own(id)).matmul(row))
    }

    /// Each row given apart, `[1, d_model]`, with its id.
    fn each_apart(&self) -> impl Iterator<Item = (usize, Tensor<2>)> + '_ {
        self.apart.iter().flat_map(|apart| {
            let row = |at: usize| apart.rows.clone().narrow(0, at, 1);
            apart.ids.iter().enumerate().map(move |(at, &id)| (id as usize, row(at)))
        })
    }
}
