//! Keys and values of the columns computed so far.

use burn::tensor::Tensor;

/// Per layer, the packed queries, keys and values of earlier columns, oldest first.
///
/// A value: it is passed into a pass and a longer one comes back. Gradients flow through it unless
/// it was detached. Keeping whole packed rows costs no copy; attention reads the keys and values
/// where they lie.
#[derive(Clone, Debug, Default)]
pub struct Cache {
    /// `layers[l]`: chunks `[batch, columns, packed]`: the first pass's (`[1, cells, packed]` if it was
    /// packed), then all later ones joined.
    layers: Vec<Vec<Tensor<3>>>,
}

impl Cache {
    /// An empty cache for `n_layer` layers.
    pub fn new(n_layer: usize) -> Self {
        Self { layers: vec![Vec::new(); n_layer] }
    }

    /// The chunks of one layer, each `[batch, columns, packed]`, a packed one `[1, cells, packed]`.
    pub fn layer(&self, layer: usize) -> &[Tensor<3>] {
        self.layers.get(layer).map_or(&[], Vec::as_slice)
    }

    /// Appends a pass's packed rows to one layer. The first pass stays a chunk of its own, so that
    /// the long prefix is never copied; the short later ones are joined.
    pub fn push(&mut self, layer: usize, packed: Tensor<3>) {
        let chunks = &mut self.layers[layer];
        if chunks.len() < 2 {
            chunks.push(packed);
        } else if let Some(last) = chunks.pop() {
            chunks.push(Tensor::cat(vec![last, packed], 1));
        }
    }

    /// The same keys and values as constants.
    pub fn detach(self) -> Self {
        let detach = |chunks: Vec<Tensor<3>>| chunks.into_iter().map(Tensor::detach).collect();
        Self { layers: self.layers.into_iter().map(detach).collect() }
    }
}
