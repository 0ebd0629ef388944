//! How the tokens of one pass lie in its tensors: integers on the host, made before any tensor exists.

use std::sync::Arc;

use burn::tensor::{Bool, Device, Int, Tensor, TensorData};
use coconut_kernels::{self as kernels, RowNumbers, TokenMask, host};

/// Which tokens `(row, column)` of a pass a tensor `[_, _, d_model]` holds; columns count from the pass's
/// first. Cloning is cheap.
#[derive(Clone, Debug)]
pub struct TokenLayout {
    rows: usize,
    columns: usize,
    /// For each row and column, its index among the tokens held, or [`NONE`]; `None` if all are held,
    /// padding too. Rows may share a token.
    indices: Option<Arc<[u32]>>,
    /// How many tokens are held.
    held: usize,
}

/// The index of a token that is not held.
const NONE: u32 = u32::MAX;

impl TokenLayout {
    /// Every row and column, padding too: the tensor is `[rows, columns, d_model]`.
    pub fn padded(rows: usize, columns: usize) -> Self {
        Self { rows, columns, indices: None, held: rows * columns }
    }

    /// Some tokens, in the order of `tokens`: the tensor is `[1, tokens, d_model]`.
    pub fn unpadded(rows: usize, columns: usize, tokens: &[(usize, usize)]) -> Self {
        let mut indices = vec![NONE; rows * columns];
        for (index, (row, column)) in tokens.iter().enumerate() {
            indices[row * columns + column] = index as u32;
        }
        Self { rows, columns, indices: Some(indices.into()), held: tokens.len() }
    }

    /// The same where each row's first `shared` tokens of `tokens` are the first row's, which alone are held.
    pub fn sharing(
        rows: usize,
        columns: usize,
        tokens: &[(usize, usize)],
        shared: usize,
    ) -> (Self, SharedPrefix) {
        let (mut indices, mut spread, mut held) =
            (vec![NONE; rows * columns], Vec::new(), Vec::new());
        let mut row_at = (usize::MAX, 0); // the row at hand, and its number of tokens so far
        for (place, &(row, column)) in tokens.iter().enumerate() {
            row_at = if row_at.0 == row { (row, row_at.1 + 1) } else { (row, 1) };
            let index = match row_at.1 - 1 {
                // The first row's tokens are the first ones held.
                number if row > 0 && number < shared => number,
                _ => {
                    held.push(place as u32);
                    held.len() - 1
                }
            };
            indices[row * columns + column] = index as u32;
            spread.push(index as u32);
        }
        let all = Self::unpadded(rows, columns, tokens);
        let layout = Self { rows, columns, indices: Some(indices.into()), held: held.len() };
        (layout, SharedPrefix { all, spread: spread.into(), held: held.into() })
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Number of columns, held or not.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// Whether the tensor is `[1, tokens, d_model]`.
    pub fn is_unpadded(&self) -> bool {
        self.indices.is_some()
    }

    /// How many tokens are held.
    pub fn len(&self) -> usize {
        self.held
    }

    /// Whether none is held.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The tokens `(row, column)` held, in the tensor's order; of those that rows share the first row's.
    pub fn held(&self) -> Vec<(usize, usize)> {
        let all = (0..self.rows).flat_map(|row| (0..self.columns).map(move |column| (row, column)));
        let Some(indices) = &self.indices else { return all.collect() };
        let mut held = vec![None; self.len()];
        for (token, &index) in all.zip(indices.iter()).filter(|(_, index)| **index != NONE) {
            held[index as usize].get_or_insert(token);
        }
        held.into_iter().flatten().collect()
    }

    /// The indices of tokens among those held: `[tokens]`.
    ///
    /// # Panics
    /// If one of them is not held.
    fn indices(&self, tokens: &[(usize, usize)]) -> RowNumbers {
        let index = |&(row, column): &(usize, usize)| {
            let at = row * self.columns + column;
            let index = self.indices.as_ref().map_or(at as u32, |indices| indices[at]);
            assert!(index != NONE, "row {row}, column {column} was not computed");
            index
        };
        tokens.iter().map(index).collect()
    }

    /// The vectors of some tokens of `x`, in the order of `tokens`: `[tokens, d_model]`.
    ///
    /// # Panics
    /// If one of them is not held.
    pub fn pick(&self, x: Tensor<3>, tokens: &[(usize, usize)]) -> Tensor<2> {
        let [rows, columns, d_model] = x.dims();
        kernels::pick(x.reshape([rows * columns, d_model]), &self.indices(tokens))
    }

    /// As many columns of each row of `x`, named row after row: `[rows, columns.len() / rows, d_model]`.
    ///
    /// # Panics
    /// If one of them is not held.
    pub fn pick_columns(&self, x: Tensor<3>, columns: &[usize]) -> Tensor<3> {
        let [_, _, d_model] = x.dims();
        let width = columns.len() / self.rows.max(1);
        let Some(&first) = columns.first() else { return x };
        let in_a_row = |(at, &column): (usize, &usize)| column == first + at % width;
        if !self.is_unpadded() && columns.iter().enumerate().all(in_a_row) {
            return x.narrow(1, first, width);
        }
        let tokens: Vec<(usize, usize)> =
            columns.iter().enumerate().map(|(at, &column)| (at / width, column)).collect();
        self.pick(x, &tokens).reshape([self.rows, width, d_model])
    }

    /// Which tokens are those of some rows, `rows[row]`: `[rows, 1, 1]`, or `[1, tokens, 1]` without padding.
    pub fn of_rows(&self, rows: &[bool], device: &Device) -> Tensor<3, Bool> {
        let (values, shape) = match &self.indices {
            None => (rows.to_vec(), [self.rows, 1, 1]),
            Some(indices) => {
                let mut values = vec![false; self.len()];
                for (at, &index) in indices.iter().enumerate().filter(|(_, index)| **index != NONE)
                {
                    values[index as usize] = rows[at / self.columns];
                }
                let tokens = values.len();
                (values, [1, tokens, 1])
            }
        };
        host::upload(TensorData::new(values, shape), device)
    }

    /// The same tensor with padding: `[rows, columns, d_model]`, zero at tokens that are not held.
    pub fn pad(&self, x: Tensor<3>) -> Tensor<3> {
        let Some(indices) = &self.indices else { return x };
        let [_, held, d_model] = x.dims();
        let zero = x.clone().narrow(1, 0, 1).zeros_like();
        let x = Tensor::cat(vec![x, zero], 1).reshape([held + 1, d_model]);
        let indices = indices.iter().map(|&index| index.min(held as u32)).collect();
        kernels::pick(x, &indices).reshape([self.rows, self.columns, d_model])
    }
}

/// An integer for each token of a pass, such as its id: `[rows, columns]`, or `[1, tokens]` without padding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenInts {
    /// Row after row.
    pub values: Vec<i32>,
    /// Of the tensor.
    pub shape: [usize; 2],
}

impl TokenInts {
    /// From rows of equal length, or one row of tokens without padding.
    ///
    /// # Panics
    /// If there are not as many values as the shape says.
    pub fn new(values: Vec<i32>, shape: [usize; 2]) -> Self {
        assert_eq!(values.len(), shape[0] * shape[1], "one integer a token");
        Self { values, shape }
    }

    /// The same on a device.
    pub fn tensor(&self, device: &Device) -> Tensor<2, Int> {
        host::upload(TensorData::new(self.values.clone(), self.shape), device)
    }
}

/// How rows of a pass that begin with the same tokens, which its tensors hold once, lie for attention, which each row
/// asks for itself.
#[derive(Clone, Debug)]
pub struct SharedPrefix {
    /// Every row's own tokens: how the pass's keys and values lie.
    all: TokenLayout,
    /// For each of these, its index among the tokens held.
    spread: RowNumbers,
    /// For each token held, its place among all.
    held: RowNumbers,
}

impl SharedPrefix {
    /// `[1, tokens held, width]` → `[1, tokens of all rows, width]`.
    pub fn spread(&self, x: Tensor<3>) -> Tensor<3> {
        kernels::pick(x.squeeze_dim(0), &self.spread).unsqueeze()
    }

    /// `[1, tokens of all rows, width]` → `[1, tokens held, width]`.
    pub fn gather(&self, x: Tensor<3>) -> Tensor<3> {
        kernels::pick(x.squeeze_dim(0), &self.held).unsqueeze()
    }
}

/// What a pass computes, and how it lies in tensors. Cloning is cheap but for the position ids.
#[derive(Clone, Debug)]
pub struct PassLayout {
    /// The pass's tokens in its tensors.
    pub tokens: TokenLayout,
    /// Their position ids, each below `n_positions`.
    pub position_ids: TokenInts,
    /// Which of all the columns, cached and new, hold tokens.
    pub attention_mask: TokenMask,
    /// The tokens whose last hidden state is read, if they are few: of the others the last block computes
    /// keys and values only.
    pub reads: Option<LastReads>,
    /// What all rows begin with and the tensors hold once, if they do.
    pub shared: Option<SharedPrefix>,
}

/// The tokens of a pass whose last hidden state is computed.
#[derive(Clone, Debug)]
pub struct LastReads {
    /// Their layout once picked.
    pub tokens: TokenLayout,
    /// Which columns hold tokens, and from which column of each row on attention's result is read.
    pub attention_mask: TokenMask,
    /// Where they lie among the pass's tokens.
    indices: RowNumbers,
}

impl PassLayout {
    /// The layout of new columns whose every last hidden state is read.
    pub fn new(tokens: TokenLayout, position_ids: TokenInts, attention_mask: TokenMask) -> Self {
        Self { tokens, position_ids, attention_mask, reads: None, shared: None }
    }

    /// How the pass's keys and values lie.
    pub fn cached_tokens(&self) -> &TokenLayout {
        self.shared.as_ref().map_or(&self.tokens, |shared| &shared.all)
    }

    /// The layout of whole rows of new columns after `visible.columns() - columns` cached ones, with
    /// `position_ids: [rows, columns]`.
    pub fn whole(position_ids: TokenInts, attention_mask: TokenMask) -> Self {
        let [rows, columns] = position_ids.shape;
        Self::new(TokenLayout::padded(rows, columns), position_ids, attention_mask)
    }

    /// The same where last hidden states are read at `tokens` only, given row after row.
    pub fn reading(self, tokens: &[(usize, usize)]) -> Self {
        // Where almost all is read, picking it costs more than it spares.
        if 4 * tokens.len() > 3 * self.tokens.len() {
            return self;
        }
        let TokenLayout { rows, columns, .. } = self.tokens;
        let before = self.attention_mask.columns() - columns;
        let mut from = vec![self.attention_mask.columns(); rows];
        for &(row, column) in tokens {
            from[row] = from[row].min(before + column);
        }
        let reads = LastReads {
            tokens: TokenLayout::unpadded(rows, columns, tokens),
            attention_mask: self.attention_mask.clone().queries_from(from),
            indices: self.tokens.indices(tokens),
        };
        Self { reads: Some(reads), ..self }
    }

    /// The tokens whose last hidden state is computed.
    pub fn last_tokens(&self) -> &TokenLayout {
        self.reads.as_ref().map_or(&self.tokens, |reads| &reads.tokens)
    }
}

impl LastReads {
    /// The vectors that are read, of those of the pass: `[1, tokens, d_model]`.
    pub fn pick(&self, x: Tensor<3>) -> Tensor<3> {
        let [rows, columns, d_model] = x.dims();
        kernels::pick(x.reshape([rows * columns, d_model]), &self.indices).unsqueeze()
    }
}
