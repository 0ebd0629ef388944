//! Keys and values of the columns computed so far.

use std::ops::Range;

use burn::tensor::{Int, Tensor};
use coconut_kernels::host;

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
    /// Columns at the end of the last chunk that hold nothing yet.
    spare: usize,
}

/// Columns that there is room for when [`Cache::store`] is given its first one.
const FIRST_ROOM: usize = 4;

impl Cache {
    /// An empty cache for `n_layer` layers.
    pub fn new(n_layer: usize) -> Self {
        Self { layers: vec![Vec::new(); n_layer], spare: 0 }
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

    /// The same with one column, `[batch, 1, qkv]` a layer, written into the spare ones, for many passes of one column:
    /// nothing that is cached is copied but when the room doubles. Masks of later passes have cells for the
    /// [`spare`](Self::spare) columns too, where no token is.
    pub fn store(mut self, new: NewColumns) -> Self {
        let spare = self.spare;
        let mut left = 0;
        for (chunks, new) in self.layers.iter_mut().zip(new) {
            let last = if chunks.len() < 2 { None } else { chunks.pop() };
            let chunk = match last {
                Some(last) if spare > 0 => {
                    left = spare - 1;
                    let [batch, columns, qkv] = last.dims();
                    let at = columns - spare;
                    last.slice_assign([0..batch, at..at + 1, 0..qkv], new)
                }
                last => {
                    let [batch, _, qkv] = new.dims();
                    let held = last.as_ref().map_or(0, |last| last.dims()[1]);
                    left = (2 * held).max(FIRST_ROOM) - held - 1;
                    let room = Tensor::zeros([batch, left, qkv], &new.device());
                    Tensor::cat(last.into_iter().chain([new, room]).collect(), 1)
                }
            };
            chunks.push(chunk);
        }
        Self { spare: left, ..self }
    }

    /// Columns at the end that hold nothing yet.
    pub fn spare(&self) -> usize {
        self.spare
    }

    /// The same with each chunk replaced.
    pub fn map(self, replace: impl Fn(Tensor<3>) -> Tensor<3>) -> Self {
        let chunks = |chunks: Vec<Tensor<3>>| chunks.into_iter().map(&replace).collect();
        Self { layers: self.layers.into_iter().map(chunks).collect(), ..self }
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
            let cells = host::upload::<1, Int>(cells, &first.device());
            let all = Tensor::cat(chunks.iter().map(flat).collect(), 0);
            Some(all.select(0, cells).unsqueeze::<3>())
        };
        let chunks = |chunks| chunk(chunks).into_iter().collect();
        Self { layers: self.layers.iter().map(chunks).collect(), spare: 0 }
    }

    /// Two caches of one chunk without padding as one, the other's cells after the own ones.
    pub fn beside(self, other: Self) -> Self {
        let beside = |(mut own, other): (Vec<Tensor<3>>, Vec<Tensor<3>>)| {
            own.extend(other);
            if own.is_empty() { own } else { vec![Tensor::cat(own, 1)] }
        };
        let layers = self.layers.into_iter().zip(other.layers).map(beside).collect();
        Self { layers, spare: 0 }
    }

    /// The first `columns` columns, given that the first chunk stands for `first` of them.
    pub fn before(&self, columns: usize, first: usize) -> Self {
        let chunks = |chunks: &Vec<Tensor<3>>| {
            let later = columns.saturating_sub(first);
            let first = chunks.first().filter(|_| columns > 0).cloned();
            let rest = chunks.get(1).filter(|_| later > 0);
            first.into_iter().chain(rest.map(|x| x.clone().narrow(1, 0, later))).collect()
        };
        Self { layers: self.layers.iter().map(chunks).collect(), spare: 0 }
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Distribution, Tensor};

    use super::*;
    use crate::device;

    /// Whatever room is left, the columns are those that were put in, and all behind them is zero.
    #[test]
    fn stored_columns_are_those_that_came() {
        const LAYERS: usize = 2;
        let random = |columns| {
            let x = || Tensor::random([3, columns, 5], Distribution::Default, &device::cpu());
            (0..LAYERS).map(|_| x()).collect::<NewColumns>()
        };
        let first = random(7);
        let mut stored = Cache::new(LAYERS).push(first.clone());
        let mut pushed = Cache::new(LAYERS).push(first);
        for n in 1..=20 {
            let new = random(1);
            stored = stored.store(new.clone());
            pushed = pushed.push(new);
            for layer in 0..LAYERS {
                let [_, stored_later] = stored.layer(layer) else { panic!("two chunks") };
                let later = stored_later.clone().narrow(1, 0, n);
                assert_eq!(later.to_data(), pushed.layer(layer)[1].to_data());
                let spare = stored.spare();
                assert_eq!(stored_later.dims()[1], n + spare);
                assert!(spare <= n.max(3), "{n} columns and room for {spare}");
                if spare > 0 {
                    let rest = stored_later.clone().narrow(1, n, spare).abs().sum();
                    assert_eq!(rest.into_scalar::<f32>(), 0.0);
                }
            }
        }
    }
}
