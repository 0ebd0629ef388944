//! Where a pass's queries, keys and values lie, as the kernels read it.

use std::sync::{Arc, OnceLock};

use burn::backend::{BackendTensor, DispatchTensorKind};
use burn::tensor::{Device, Int, Tensor};
use burn_cubecl::tensor::CubeTensor;

use crate::{TokenMask, host};

/// Integers at the table's head: rows and columns of the mask, new columns, and rows of each of three chunks' tensors, the
/// new columns' last.
pub(super) const HEADER: usize = 6;

/// A table of integers on the device. After its head it has
///
/// * for each cell of the mask 1 + the number of its row among all chunks' rows, or 0 if nobody sees it;
/// * for each cell of the new columns 1 + its row in their tensor, or 0 if it has none;
/// * for each of these cells how many columns it sees;
/// * for each row of the chunks its row of the mask and 1 + its column, or 0 if nobody sees it.
#[derive(Clone, Debug)]
pub(super) struct Layout {
    /// Cells of the new columns.
    pub asks: usize,
    table: Tensor<1, Int>,
}

/// The table of the chunks that a mask was first used with, kept with it: every layer of a pass has the same ones.
#[derive(Clone, Debug, Default)]
pub(crate) struct Kept(Arc<OnceLock<(Vec<[usize; 2]>, Layout)>>);

/// It is no part of what a mask says.
impl PartialEq for Kept {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Kept {}

impl Layout {
    /// The table as the kernels take it.
    pub fn table(&self) -> CubeTensor {
        match self.table.clone().into_dispatch().kind {
            DispatchTensorKind::Cube(BackendTensor::Int(table)) => table,
            _ => unreachable!("it was made on a GPU"),
        }
    }

    fn new(mask: &TokenMask, shapes: &[[usize; 3]], device: &Device) -> Self {
        let columns_of = mask.chunks(shapes);
        let new = columns_of[columns_of.len() - 1];
        let (batch, columns) = (mask.batch(), mask.columns());
        let rows_of = |chunk: &[usize; 3]| chunk[0] * chunk[1];
        let mut heads = [0; 3];
        heads[2] = rows_of(&shapes[shapes.len() - 1]);
        heads.iter_mut().zip(&shapes[..shapes.len() - 1]).for_each(|(head, x)| *head = rows_of(x));

        let (mut cells, mut keys) = (vec![0; batch * columns], Vec::new());
        let mut asks = vec![0; batch * new];
        let (mut start, mut row_number) = (0, 0);
        for (number, &wide) in columns_of.iter().enumerate() {
            let without_padding = number == 0 && mask.unpadded_columns() > 0;
            let is_new = number + 1 == columns_of.len();
            let first_row = row_number;
            for row in 0..batch {
                for column in start..start + wide {
                    let is_token = mask.row(row)[column];
                    if without_padding && !is_token {
                        continue;
                    }
                    let seen = is_token && !mask.is_hidden(row, column);
                    row_number += 1;
                    if seen {
                        cells[row * columns + column] = row_number;
                    }
                    keys.extend([row, if seen { column + 1 } else { 0 }]);
                    if is_new {
                        asks[row * new + column - start] = row_number - first_row;
                    }
                }
            }
            start += wide;
        }
        let sees = (0..batch).flat_map(|row| {
            let first = mask.first_query(row);
            (columns - new..columns).map(move |at| if at < first { 0 } else { at + 1 })
        });
        let table = [batch, columns, new].into_iter().chain(heads).chain(cells);
        let table = table.chain(asks).chain(sees).chain(keys);
        let table: Vec<i32> = table.map(|x| x as i32).collect();
        Self { asks: batch * new, table: host::upload(table.as_slice(), device) }
    }
}

impl TokenMask {
    /// Where queries, keys and values of chunks of some shapes lie; uploaded once, if all layers ask for the same.
    pub(super) fn layout(&self, shapes: &[[usize; 3]], device: &Device) -> Layout {
        let wanted: Vec<[usize; 2]> = shapes.iter().map(|&[batch, n, _]| [batch, n]).collect();
        let fresh = || Layout::new(self, shapes, device);
        let (found, layout) = self.kept.0.get_or_init(|| (wanted.clone(), fresh()));
        let same = *found == wanted && layout.table.device() == *device;
        if same { layout.clone() } else { fresh() }
    }
}
