//! The shapes that attention needs besides its tensors.

use std::sync::Arc;

/// How many query heads and key/value heads there are, and how wide one is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heads {
    /// Query heads.
    pub query: usize,
    /// Key and value heads; divides `query`.
    pub key_value: usize,
    /// Width of one head.
    pub dim: usize,
}

impl Heads {
    /// Width of a packed query-key-value row: `(query + 2 · key_value) · dim`.
    pub fn packed(self) -> usize {
        (self.query + 2 * self.key_value) * self.dim
    }
}

/// Which columns of each row of a batch hold a token rather than padding.
///
/// Kept on the host: layouts are made of integers before any tensor exists. Cloning is cheap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Visible {
    batch: usize,
    columns: usize,
    cells: Arc<[bool]>,
}

impl Visible {
    /// From `batch · columns` cells, row after row.
    ///
    /// # Panics
    /// If the number of cells is not `batch · columns`.
    pub fn new(batch: usize, columns: usize, cells: impl Into<Arc<[bool]>>) -> Self {
        let cells = cells.into();
        assert_eq!(cells.len(), batch * columns, "one cell a row and column");
        Self { batch, columns, cells }
    }

    /// Every column of every row holds a token.
    pub fn all(batch: usize, columns: usize) -> Self {
        Self::new(batch, columns, vec![true; batch * columns])
    }

    /// Number of rows.
    pub fn batch(&self) -> usize {
        self.batch
    }

    /// Number of columns, cached ones included.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// The cells of one row.
    pub fn row(&self, row: usize) -> &[bool] {
        &self.cells[row * self.columns..(row + 1) * self.columns]
    }
}
