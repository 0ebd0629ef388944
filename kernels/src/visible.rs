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

/// Which columns of each row of a batch hold a token rather than padding, and how they lie in tensors.
///
/// Kept on the host: layouts are made of integers before any tensor exists. Cloning is cheap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Visible {
    batch: usize,
    columns: usize,
    cells: Arc<[bool]>,
    packed: usize,
    wanted: Option<Arc<[usize]>>,
}

impl Visible {
    /// From `batch · columns` cells, row after row.
    ///
    /// # Panics
    /// If the number of cells is not `batch · columns`.
    pub fn new(batch: usize, columns: usize, cells: impl Into<Arc<[bool]>>) -> Self {
        let cells = cells.into();
        assert_eq!(cells.len(), batch * columns, "one cell a row and column");
        Self { batch, columns, cells, packed: 0, wanted: None }
    }

    /// Every column of every row holds a token.
    pub fn all(batch: usize, columns: usize) -> Self {
        Self::new(batch, columns, vec![true; batch * columns])
    }

    /// The same where the oldest chunk, of the first `columns` columns, holds visible cells only, side by
    /// side, row after row: `[1, cells, …]` instead of `[batch, columns, …]`. With 0 it does not.
    ///
    /// # Panics
    /// If there are not so many columns.
    pub fn packed(self, columns: usize) -> Self {
        assert!(columns <= self.columns, "packed columns are among the columns");
        Self { packed: columns, ..self }
    }

    /// The same where a query's result is wanted from a column of each row on, cached columns counted:
    /// earlier results are finite and have no meaning.
    ///
    /// # Panics
    /// If there is not one column a row.
    pub fn wanted(self, from: impl Into<Arc<[usize]>>) -> Self {
        let from = from.into();
        assert_eq!(from.len(), self.batch, "one column a row");
        Self { wanted: Some(from), ..self }
    }

    /// Columns of the oldest chunk if it holds visible cells only, else 0.
    pub fn packed_columns(&self) -> usize {
        self.packed
    }

    /// The first column of a row whose result is wanted.
    pub fn first_wanted(&self, row: usize) -> usize {
        self.wanted.as_ref().map_or(0, |from| from[row])
    }

    /// Columns of each chunk, given the shapes `[_, n, _]` of all of them.
    ///
    /// # Panics
    /// If they do not fit.
    pub(crate) fn chunks(&self, shapes: &[[usize; 3]]) -> Vec<usize> {
        let mut columns: Vec<usize> = shapes.iter().map(|shape| shape[1]).collect();
        let mut rows: Vec<usize> = shapes.iter().map(|shape| shape[0]).collect();
        if self.packed > 0 {
            assert_eq!(
                (columns[0], rows[0]),
                (self.count(self.packed), 1),
                "one packed row a visible cell"
            );
            (columns[0], rows[0]) = (self.packed, self.batch);
        }
        assert!(rows.iter().all(|&rows| rows == self.batch), "chunks have the rows");
        assert_eq!(columns.iter().sum::<usize>(), self.columns, "chunks have the columns");
        columns
    }

    /// Visible cells among the first `columns` columns.
    fn count(&self, columns: usize) -> usize {
        (0..self.batch)
            .map(|row| self.row(row)[..columns].iter().filter(|&&seen| seen).count())
            .sum()
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
