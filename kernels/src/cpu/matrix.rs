//! Matrix products on strided views, so that no operand is ever transposed in memory.

mod bf16;
mod few;

use rayon::prelude::*;

use super::simd::simd;
use crate::Precision;

/// Rows that one task takes. Sums over rows are made per task and then added in order, so this must not
/// depend on the number of threads.
pub(crate) const ROWS: usize = 64;

/// A view of a matrix.
#[derive(Clone, Copy)]
pub(crate) struct Matrix<'a> {
    data: &'a [f32],
    rows: usize,
    cols: usize,
    row_stride: usize,
    col_stride: usize,
}

impl<'a> Matrix<'a> {
    /// A view of `rows` rows of `cols` elements side by side.
    pub(crate) fn new(data: &'a [f32], rows: usize, cols: usize) -> Self {
        assert!(data.len() >= rows * cols, "a view lies inside its data");
        Self { data, rows, cols, row_stride: cols, col_stride: 1 }
    }

    /// A view of `cols` elements of each of `rows` rows that begin `row_stride` elements apart.
    pub(crate) fn part(data: &'a [f32], rows: usize, cols: usize, row_stride: usize) -> Self {
        assert!(data.len() >= reach(rows, cols, row_stride), "a view lies inside its data");
        Self { data, rows, cols, row_stride, col_stride: 1 }
    }

    /// Number of rows.
    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    /// Number of columns.
    pub(crate) fn cols(&self) -> usize {
        self.cols
    }

    /// A row whose elements lie side by side.
    fn row(&self, row: usize) -> &'a [f32] {
        &self.data[row * self.row_stride..][..self.cols]
    }

    /// The same matrix with rows and columns exchanged.
    pub(crate) fn t(self) -> Self {
        Self {
            rows: self.cols,
            cols: self.rows,
            row_stride: self.col_stride,
            col_stride: self.row_stride,
            ..self
        }
    }
}

/// Who computes a product.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Threads {
    /// The calling thread: for products inside a task.
    One,
    /// All of rayon's threads, if the product is large.
    All,
}

/// Number of elements from the first of `rows` rows to the end of the last.
fn reach(rows: usize, cols: usize, row_stride: usize) -> usize {
    rows.checked_sub(1).map_or(0, |before| before * row_stride + cols)
}

/// Where a product goes: rows that begin `stride` elements apart.
pub(crate) struct Dst<'a> {
    /// The elements from the first row on.
    pub(crate) slice: &'a mut [f32],
    pub(crate) stride: usize,
    /// Whether the product is added to what is there; it takes its place otherwise.
    pub(crate) add: bool,
}

impl<'a> Dst<'a> {
    /// Elements whose place the product takes.
    pub(crate) fn set(slice: &'a mut [f32], stride: usize) -> Self {
        Self { slice, stride, add: false }
    }

    /// Elements that the product is added to.
    pub(crate) fn add(slice: &'a mut [f32], stride: usize) -> Self {
        Self { slice, stride, add: true }
    }

    /// The same rows from a column on.
    pub(crate) fn starting_at(&mut self, column: usize) -> Dst<'_> {
        let slice = self.slice.get_mut(column..).unwrap_or_default();
        Dst { slice, stride: self.stride, add: self.add }
    }

    /// Checks that a product fits.
    fn check(&self, lhs: Matrix, rhs: Matrix) {
        assert_eq!(lhs.cols, rhs.rows, "the inner dimensions of a product agree");
        let room = reach(lhs.rows, rhs.cols, self.stride);
        assert!(rhs.cols <= self.stride && self.slice.len() >= room, "the result has room");
    }
}

/// `dst = scale · lhs · rhs`, or `dst += …`; `dst` is `[lhs.rows, rhs.cols]`.
///
/// Sums run over the inner dimension in an order that does not depend on the number of threads.
pub(crate) fn multiply(dst: Dst, lhs: Matrix, rhs: Matrix, scale: f32, threads: Threads) {
    dst.check(lhs, rhs);
    let (m, n, k) = (lhs.rows, rhs.cols, lhs.cols);
    if m == 0 || n == 0 {
        return;
    }
    if k == 0 || cfg!(miri) {
        return multiply_plainly(dst, lhs, rhs, scale);
    }
    if threads == Threads::All && scale == 1.0 && few::suits(lhs, rhs) {
        return few::multiply(dst, lhs, rhs);
    }
    let parallelism = match threads {
        Threads::One => gemm::Parallelism::None,
        Threads::All => gemm::Parallelism::Rayon(0),
    };
    // SAFETY: `Matrix` views lie inside their slices, `dst` was just checked to reach over m rows
    // of n elements, and being borrowed mutably it overlaps neither operand.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            dst.slice.as_mut_ptr(),
            1,
            dst.stride as isize,
            dst.add,
            lhs.data.as_ptr(),
            lhs.col_stride as isize,
            lhs.row_stride as isize,
            rhs.data.as_ptr(),
            rhs.col_stride as isize,
            rhs.row_stride as isize,
            1.0,
            scale,
            false,
            false,
            false,
            parallelism,
        );
    }
}

/// Multiplies operands rounded as `precision` says, on all threads.
pub(crate) fn multiply_in(precision: Precision, dst: Dst, lhs: Matrix, rhs: Matrix) {
    if precision == Precision::F32 || lhs.cols == 0 {
        return multiply(dst, lhs, rhs, 1.0, Threads::All);
    }
    dst.check(lhs, rhs);
    bf16::multiply(dst, lhs, rhs);
}

/// Multiplies by three loops, for an empty inner dimension and for Miri, which has no SIMD.
fn multiply_plainly(dst: Dst, lhs: Matrix, rhs: Matrix, scale: f32) {
    for row in 0..lhs.rows {
        for col in 0..rhs.cols {
            let sum: f32 = (0..lhs.cols)
                .map(|i| {
                    lhs.data[row * lhs.row_stride + i * lhs.col_stride]
                        * rhs.data[i * rhs.row_stride + col * rhs.col_stride]
                })
                .sum();
            let element = &mut dst.slice[row * dst.stride + col];
            *element = scale * sum + if dst.add { *element } else { 0.0 };
        }
    }
}

/// Adds the sums of several tasks, first to last, whoever finished first.
pub(crate) fn add_up(parts: Vec<Vec<f32>>, width: usize) -> Vec<f32> {
    let mut parts = parts.into_iter();
    let mut total = parts.next().unwrap_or_else(|| vec![0.0; width]);
    for part in parts {
        for (total, x) in total.iter_mut().zip(part) {
            *total += x;
        }
    }
    total
}

/// Sets each row of `rows` to `row`.
pub(crate) fn fill_rows(rows: &mut [f32], row: &[f32]) {
    rows.par_chunks_mut((ROWS * row.len()).max(1)).for_each(|rows| {
        rows.chunks_exact_mut(row.len().max(1)).for_each(|to| to.copy_from_slice(row));
    });
}

/// The sum of rows of `width` elements.
pub(crate) fn sum_rows(rows: &[f32], width: usize) -> Vec<f32> {
    let parts = rows.par_chunks((ROWS * width).max(1)).map(|rows| {
        let mut sums = vec![0.0; width];
        add_rows(rows, &mut sums);
        sums
    });
    add_up(parts.collect(), width)
}

simd! {
    fn add_rows<FMA>(rows: &[f32], sums: &mut [f32]) {
        for row in rows.chunks_exact(sums.len()) {
            for (sum, x) in sums.iter_mut().zip(row) {
                *sum += x;
            }
        }
    }
}
