//! Rows of a tensor, and the gradient that goes back to each of them, shared out by rows.

use burn::tensor::Tensor;
use burn_flex::FlexTensor;
use rayon::prelude::*;

use super::bridge::{Fused, GradSinks, apply, slice, tensor, uninit};
use super::matrix::ROWS;
use crate::RowNumbers;

/// [`crate::pick`] on an operand that was found fit.
pub(crate) fn pick(x: Tensor<2>, rows: &RowNumbers) -> Tensor<2> {
    apply(Pick { rows: rows.clone() }, [x.into_dispatch()])
}

/// Operand: `x: [rows, width]`.
#[derive(Debug)]
struct Pick {
    rows: RowNumbers,
}

impl Fused<1> for Pick {
    /// Shape of `x`.
    type Saved = [usize; 2];

    fn forward(&self, [x]: [FlexTensor; 1], _: [bool; 1]) -> (FlexTensor, Option<[usize; 2]>) {
        let shape = x.layout().shape();
        let [height, width] = [shape[0], shape[1]];
        let rows = self.rows.as_slice();
        let mut y = uninit(rows.len() * width);
        let from = slice(&x);
        y.par_chunks_mut((ROWS * width).max(1)).zip(rows.par_chunks(ROWS)).for_each(|(y, rows)| {
            for (y, &row) in y.chunks_exact_mut(width.max(1)).zip(rows) {
                y.copy_from_slice(&from[row as usize * width..][..width]);
            }
        });
        (tensor(y, [rows.len(), width]), Some([height, width]))
    }

    fn backward(self, [height, width]: [usize; 2], grad: FlexTensor, sinks: &mut GradSinks<'_, 1>) {
        let grad = slice(&grad);
        let picks = Picks::new(self.rows.as_slice(), height);
        let mut sums = uninit(height * width);
        sums.par_chunks_mut((ROWS * width).max(1)).enumerate().for_each(|(task, sums)| {
            for (row, sum) in (task * ROWS..).zip(sums.chunks_exact_mut(width.max(1))) {
                let mut parts =
                    picks.of(row).iter().map(|&at| &grad[at as usize * width..][..width]);
                match parts.next() {
                    Some(first) => sum.copy_from_slice(first),
                    None => sum.fill(0.0),
                }
                for part in parts {
                    sum.iter_mut().zip(part).for_each(|(sum, x)| *sum += x);
                }
            }
        });
        sinks.put(0, tensor(sums, [height, width]));
    }
}

/// For each row, where it was picked to, in order.
struct Picks {
    /// Places, those of one row side by side.
    places: Vec<u32>,
    /// Where those of each row begin, and where the last ones end.
    starts: Vec<usize>,
}

impl Picks {
    fn new(rows: &[u32], height: usize) -> Self {
        let mut places: Vec<u32> = (0..rows.len() as u32).collect();
        places.sort_by_key(|&at| rows[at as usize]); // stable
        let mut starts = vec![0; height + 1];
        rows.iter().for_each(|&row| starts[row as usize + 1] += 1);
        for row in 0..height {
            starts[row + 1] += starts[row];
        }
        Self { places, starts }
    }

    fn of(&self, row: usize) -> &[u32] {
        &self.places[self.starts[row]..self.starts[row + 1]]
    }
}
