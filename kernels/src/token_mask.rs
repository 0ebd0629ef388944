//! The mask that says which columns of a batch hold tokens.

use std::{ops::Range, sync::Arc};

/// The columns of each row of a batch that hold a token rather than padding (`attention_mask`), and how they lie
/// in tensors. [`attention`](crate::attention) adds causality.
///
/// The mask is kept on the host: layouts are made of integers before any tensor exists. Cloning is cheap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenMask {
    batch: usize,
    columns: usize,
    tokens: Arc<[bool]>,
    unpadded: usize,
    queries_from: Option<Arc<[usize]>>,
    hidden: Option<Arc<[Range<usize>]>>,
    /// What kernels on GPUs read of all this.
    #[cfg(feature = "gpu")]
    table: crate::cube::CellTable,
}

impl TokenMask {
    /// A mask of `batch · columns` cells, row after row, true where a token is.
    ///
    /// # Panics
    /// If the number of cells is not `batch · columns`.
    pub fn new(batch: usize, columns: usize, tokens: impl Into<Arc<[bool]>>) -> Self {
        let tokens = tokens.into();
        assert_eq!(tokens.len(), batch * columns, "one cell a row and column");
        Self {
            batch,
            columns,
            tokens,
            unpadded: 0,
            queries_from: None,
            hidden: None,
            #[cfg(feature = "gpu")]
            table: Default::default(),
        }
    }

    /// A mask of tokens only.
    pub fn all(batch: usize, columns: usize) -> Self {
        Self::new(batch, columns, vec![true; batch * columns])
    }

    /// The same mask where padding is left out of the oldest chunk, of the first `columns` columns: it holds the
    /// tokens' cells side by side, row after row, `[1, cells, …]` instead of `[batch, columns, …]`. With 0
    /// columns nothing is left out.
    ///
    /// # Panics
    /// If there are not so many columns.
    pub fn unpadded(self, columns: usize) -> Self {
        assert!(columns <= self.columns, "unpadded columns are among the columns");
        Self { unpadded: columns, ..self.without_table() }
    }

    /// The same mask where each row asks from a column of its own on, cached columns counted: results of
    /// earlier columns are finite and have no meaning.
    ///
    /// # Panics
    /// If there is not one column a row.
    pub fn queries_from(self, columns: impl Into<Arc<[usize]>>) -> Self {
        let columns = columns.into();
        assert_eq!(columns.len(), self.batch, "one column a row");
        Self { queries_from: Some(columns), ..self.without_table() }
    }

    /// The same mask where some columns of each row are seen by nobody, though tensors hold their tokens.
    ///
    /// # Panics
    /// If there is not one range a row.
    pub fn hiding(self, columns: impl Into<Arc<[Range<usize>]>>) -> Self {
        let columns = columns.into();
        assert_eq!(columns.len(), self.batch, "one range a row");
        Self { hidden: Some(columns), ..self.without_table() }
    }

    /// The same mask without its table, before another is made of it.
    fn without_table(self) -> Self {
        Self {
            #[cfg(feature = "gpu")]
            table: Default::default(),
            ..self
        }
    }

    /// What kernels on GPUs read of the mask.
    #[cfg(feature = "gpu")]
    pub(crate) fn table(&self) -> &crate::cube::CellTable {
        &self.table
    }

    /// Whether a column of a row is seen by nobody, though it may hold a token.
    pub fn is_hidden(&self, row: usize, column: usize) -> bool {
        self.hidden.as_ref().is_some_and(|columns| columns[row].contains(&column))
    }

    /// Columns of the oldest chunk if padding is left out of it, else 0.
    pub fn unpadded_columns(&self) -> usize {
        self.unpadded
    }

    /// The first column of a row that asks.
    pub fn first_query(&self, row: usize) -> usize {
        self.queries_from.as_ref().map_or(0, |columns| columns[row])
    }

    /// Columns of each chunk, given the shapes `[_, n, _]` of all of them.
    ///
    /// # Panics
    /// If they do not fit.
    pub(crate) fn chunks(&self, shapes: &[[usize; 3]]) -> Vec<usize> {
        let mut columns: Vec<usize> = shapes.iter().map(|shape| shape[1]).collect();
        let mut rows: Vec<usize> = shapes.iter().map(|shape| shape[0]).collect();
        if self.unpadded > 0 {
            let tokens = self.count(self.unpadded);
            assert_eq!((columns[0], rows[0]), (tokens, 1), "one unpadded row of all tokens");
            (columns[0], rows[0]) = (self.unpadded, self.batch);
        }
        assert!(rows.iter().all(|&rows| rows == self.batch), "chunks have the rows");
        assert_eq!(columns.iter().sum::<usize>(), self.columns, "chunks have the columns");
        columns
    }

    /// Number of tokens among the first `columns` columns.
    fn count(&self, columns: usize) -> usize {
        let tokens_of = |row| self.row(row)[..columns].iter().filter(|&&token| token).count();
        (0..self.batch).map(tokens_of).sum()
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
        &self.tokens[row * self.columns..(row + 1) * self.columns]
    }
}
