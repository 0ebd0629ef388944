//! Where the cells of a pass lie in its tensors.

use std::sync::Arc;

use burn::tensor::{Int, Tensor};
use coconut_kernels::Visible;

/// Which cells `(row, column)` of a pass a tensor `[_, _, d_model]` holds; columns count from the pass's
/// first. Cloning is cheap.
#[derive(Clone, Debug)]
pub struct Cells {
    rows: usize,
    columns: usize,
    /// For each cell, its place among those held, or [`NONE`]; `None` if all are.
    places: Option<Arc<[u32]>>,
}

/// The place of a cell that is not held.
const NONE: u32 = u32::MAX;

impl Cells {
    /// Every cell: the tensor is `[rows, columns, d_model]`.
    pub fn all(rows: usize, columns: usize) -> Self {
        Self { rows, columns, places: None }
    }

    /// Some cells, row after row: the tensor is `[1, cells, d_model]`. `cells` are ordered.
    pub fn some(rows: usize, columns: usize, cells: &[(usize, usize)]) -> Self {
        let mut places = vec![NONE; rows * columns];
        for (place, (row, column)) in cells.iter().enumerate() {
            places[row * columns + column] = place as u32;
        }
        Self { rows, columns, places: Some(places.into()) }
    }

    /// Number of columns, held or not.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// Whether cells are left out, and the tensor is `[1, cells, d_model]`.
    pub fn is_packed(&self) -> bool {
        self.places.is_some()
    }

    /// How many cells are held.
    pub fn len(&self) -> usize {
        match &self.places {
            None => self.rows * self.columns,
            Some(places) => places.iter().filter(|&&place| place != NONE).count(),
        }
    }

    /// Whether none is held.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The places of cells among those held: `[cells]`.
    ///
    /// # Panics
    /// If one of them is not held.
    fn places(&self, cells: &[(usize, usize)]) -> Vec<i32> {
        let place = |&(row, column): &(usize, usize)| {
            let cell = row * self.columns + column;
            let place = self.places.as_ref().map_or(cell as u32, |places| places[cell]);
            assert!(place != NONE, "row {row}, column {column} was not computed");
            place as i32
        };
        cells.iter().map(place).collect()
    }

    /// The vectors of some cells of `x`, in their order: `[cells, d_model]`.
    ///
    /// # Panics
    /// If one of them is not held.
    pub fn pick(&self, x: Tensor<3>, cells: &[(usize, usize)]) -> Tensor<2> {
        let [rows, columns, d_model] = x.dims();
        let places = Tensor::from_data(self.places(cells).as_slice(), &x.device());
        x.reshape([rows * columns, d_model]).select(0, places)
    }

    /// One column of each row of `x`: `[rows, 1, d_model]`.
    ///
    /// # Panics
    /// If one of them is not held.
    pub fn column(&self, x: Tensor<3>, columns: &[usize]) -> Tensor<3> {
        let [_, _, d_model] = x.dims();
        let Some(&first) = columns.first() else { return x };
        if !self.is_packed() && columns.iter().all(|&column| column == first) {
            return x.narrow(1, first, 1);
        }
        let cells: Vec<(usize, usize)> = columns.iter().copied().enumerate().collect();
        self.pick(x, &cells).reshape([columns.len(), 1, d_model])
    }

    /// All cells of `x`, zero where they are not held: `[rows, columns, d_model]`.
    pub fn spread(&self, x: Tensor<3>) -> Tensor<3> {
        let Some(places) = &self.places else { return x };
        let [_, held, d_model] = x.dims();
        let zero = x.clone().narrow(1, 0, 1).zeros_like();
        let x = Tensor::cat(vec![x, zero], 1).reshape([held + 1, d_model]);
        let places: Vec<i32> =
            places.iter().map(|&place| (place as usize).min(held) as i32).collect();
        let places = Tensor::from_data(places.as_slice(), &x.device());
        x.select(0, places).reshape([self.rows, self.columns, d_model])
    }
}

/// What a pass computes, and how it lies in tensors.
#[derive(Clone, Debug)]
pub struct Layout {
    /// Which of all the columns, cached and new, hold tokens.
    pub visible: Visible,
    /// The cells of the pass's tensors.
    pub cells: Cells,
    /// The cells whose last hidden state is read, if they are few: the last block does not compute the others,
    /// keys and values apart.
    pub reads: Option<Reads>,
}

/// Some cells of a pass.
#[derive(Clone, Debug)]
pub struct Reads {
    /// Where they lie once picked.
    pub cells: Cells,
    /// Columns, with those whose results are not wanted.
    pub visible: Visible,
    places: Vec<i32>,
}

impl Layout {
    /// Of a pass that is read at `reads`, ordered cells; everywhere if `None`.
    pub fn new(visible: Visible, cells: Cells, reads: Option<&[(usize, usize)]>) -> Self {
        // Where almost all is read, picking it costs more than it spares.
        let few = reads.filter(|reads| 4 * reads.len() <= 3 * cells.len());
        let reads = few.map(|reads| {
            let before = visible.columns() - cells.columns;
            let mut from = vec![visible.columns(); cells.rows];
            for &(row, column) in reads {
                from[row] = from[row].min(before + column);
            }
            Reads {
                cells: Cells::some(cells.rows, cells.columns, reads),
                visible: visible.clone().wanted(from),
                places: cells.places(reads),
            }
        });
        Self { visible, cells, reads }
    }

    /// Of whole rows of new columns, all of them read.
    pub fn whole(visible: Visible, new: usize) -> Self {
        let cells = Cells::all(visible.batch(), new);
        Self { visible, cells, reads: None }
    }
}

impl Reads {
    /// The vectors that are read, of those of the pass: `[1, cells, d_model]`.
    pub fn pick(&self, x: Tensor<3>) -> Tensor<3> {
        let [rows, columns, d_model] = x.dims();
        let places = Tensor::<1, Int>::from_data(self.places.as_slice(), &x.device());
        x.reshape([rows * columns, d_model]).select(0, places).unsqueeze()
    }
}
