//! Keys and values of the columns computed so far.

use std::ops::Range;

use burn::tensor::{Int, Tensor};

/// Per layer, the queries, keys and values of a pass's columns, side by side: `[batch, columns, qkv]`, or
/// `[1, tokens, qkv]` without padding.
pub type NewColumns = Vec<Tensor<3>>;

/// Per layer, the queries, keys and values of earlier columns, oldest first.
///
/// A value: a pass reads it, and its own columns are appended to it or dropped. Gradients flow through it
/// unless it was detached. Keeping whole rows of queries, keys and values costs no copy; attention reads
/// the keys and values where they lie.
#[derive(Clone, Debug, Default)]
pub struct Cache {
    /// `layers[l]`: chunks `[batch, columns, qkv]`: the first pass's (`[1, tokens, qkv]` if it leaves padding
    /// out), then all later ones joined.
    layers: Vec<Vec<Tensor<3>>>,
}

impl Cache {
    /// An empty cache for `n_layer` layers.
    pub fn new(n_layer: usize) -> Self {
        Self { layers: vec![Vec::new(); n_layer] }
    }

    /// The number of layers.
    pub fn n_layer(&self) -> usize {
        self.layers.len()
    }

    /// The chunks of one layer, each `[batch, columns, qkv]`, the first one `[1, tokens, qkv]` if it leaves
    /// padding out.
    pub fn layer(&self, layer: usize) -> &[Tensor<3>] {
        self.layers.get(layer).map_or(&[], Vec::as_slice)
    }

    /// The same with a pass's columns appended. The first pass stays a chunk of its own, so that the long
    /// prefix is never copied; the short later ones are joined.
    pub fn push(mut self, new: NewColumns) -> Self {
        for (chunks, new) in self.layers.iter_mut().zip(new) {
            if chunks.len() < 2 {
                chunks.push(new);
            } else if let Some(last) = chunks.pop() {
                chunks.push(Tensor::cat(vec![last, new], 1));
            }
        }
        self
    }

    /// The same with each chunk replaced.
    pub fn map(self, replace: impl Fn(Tensor<3>) -> Tensor<3>) -> Self {
        let chunks = |chunks: Vec<Tensor<3>>| chunks.into_iter().map(&replace).collect();
        Self { layers: self.layers.into_iter().map(chunks).collect() }
    }

    /// The columns of each chunk, if none of them leaves padding out.
    pub fn chunk_columns(&self) -> Vec<Range<usize>> {
        let mut start = 0;
        let columns = |chunk: &Tensor<3>| {
            let [_, columns, _] = chunk.dims();
            start += columns;
            start - columns..start
        };
        self.layer(0).iter().map(columns).collect()
    }

    /// One chunk without padding, `[1, cells, qkv]`, of some cells, which are numbered chunk after chunk and in each row
    /// after row. Empty if there are none.
    pub fn select(&self, cells: &[i32]) -> Self {
        let flat = |chunk: &Tensor<3>| {
            let [rows, columns, qkv] = chunk.dims();
            chunk.clone().reshape([rows * columns, qkv])
        };
        let chunk = |chunks: &Vec<Tensor<3>>| {
            let first = chunks.first().filter(|_| !cells.is_empty())?;
            let cells = Tensor::<1, Int>::from_data(cells, &first.device());
            let all = Tensor::cat(chunks.iter().map(flat).collect(), 0);
            Some(all.select(0, cells).unsqueeze::<3>())
        };
        let chunks = |chunks| chunk(chunks).into_iter().collect();
        Self { layers: self.layers.iter().map(chunks).collect() }
    }

    /// Two caches of one chunk without padding as one, the other's cells after the own ones.
    pub fn beside(self, other: Self) -> Self {
        let beside = |(mut own, other): (Vec<Tensor<3>>, Vec<Tensor<3>>)| {
            own.extend(other);
            if own.is_empty() { own } else { vec![Tensor::cat(own, 1)] }
        };
        Self { layers: self.layers.into_iter().zip(other.layers).map(beside).collect() }
    }

    /// The first `columns` columns, given that the first chunk stands for `first` of them.
    pub fn before(&self, columns: usize, first: usize) -> Self {
        let chunks = |chunks: &Vec<Tensor<3>>| {
            let later = columns.saturating_sub(first);
            let first = chunks.first().filter(|_| columns > 0).cloned();
            let rest = chunks.get(1).filter(|_| later > 0);
            first.into_iter().chain(rest.map(|x| x.clone().narrow(1, 0, later))).collect()
        };
        Self { layers: self.layers.iter().map(chunks).collect() }
    }
}
