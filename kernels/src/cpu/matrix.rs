//! Matrix products on strided views, so that no operand is ever transposed in memory.

mod bf16;

use crate::Precision;

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
    /// `rows` rows of `cols` elements side by side.
    pub(crate) fn new(data: &'a [f32], rows: usize, cols: usize) -> Self {
        assert!(data.len() >= rows * cols, "a view lies inside its data");
        Self { data, rows, cols, row_stride: cols, col_stride: 1 }
    }

    /// `cols` elements of each of `rows` rows that begin `row_stride` elements apart.
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

/// Elements from the first of `rows` rows to the end of the last.
fn reach(rows: usize, cols: usize, row_stride: usize) -> usize {
    rows.checked_sub(1).map_or(0, |before| before * row_stride + cols)
}

/// `dst = scale · lhs · rhs`, or `dst += …` when `add`; `dst` is `[lhs.rows, rhs.cols]`, row-major.
///
/// Sums run over the inner dimension in an order that does not depend on the number of threads.
pub(crate) fn multiply(
    dst: &mut [f32],
    add: bool,
    lhs: Matrix,
    rhs: Matrix,
    scale: f32,
    threads: Threads,
) {
    multiply_part(dst, rhs.cols, add, lhs, rhs, scale, threads);
}

/// [`multiply`] into columns of a wider matrix: the rows of `dst` begin `row_stride` elements apart.
pub(crate) fn multiply_part(
    dst: &mut [f32],
    row_stride: usize,
    add: bool,
    lhs: Matrix,
    rhs: Matrix,
    scale: f32,
    threads: Threads,
) {
    let (m, n, k) = (lhs.rows, rhs.cols, lhs.cols);
    assert_eq!(k, rhs.rows, "the inner dimensions of a product agree");
    assert!(n <= row_stride && dst.len() >= reach(m, n, row_stride), "the result has room");
    if m == 0 || n == 0 {
        return;
    }
    if k == 0 || cfg!(miri) {
        return multiply_plainly(dst, row_stride, add, lhs, rhs, scale);
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
            dst.as_mut_ptr(),
            1,
            row_stride as isize,
            add,
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

/// `dst = lhs · rhs`, or `dst += …`, of operands rounded as `precision` says, on all threads; `dst` as in
/// [`multiply_part`].
pub(crate) fn multiply_in(
    precision: Precision,
    dst: &mut [f32],
    row_stride: usize,
    add: bool,
    lhs: Matrix,
    rhs: Matrix,
) {
    let (m, n, k) = (lhs.rows, rhs.cols, lhs.cols);
    if precision == Precision::F32 || k == 0 {
        return multiply_part(dst, row_stride, add, lhs, rhs, 1.0, Threads::All);
    }
    assert_eq!(k, rhs.rows, "the inner dimensions of a product agree");
    assert!(n <= row_stride && dst.len() >= reach(m, n, row_stride), "the result has room");
    bf16::multiply(dst, row_stride, add, lhs, rhs);
}

/// The same by three loops, for an empty inner dimension and for Miri, which has no SIMD.
fn multiply_plainly(
    dst: &mut [f32],
    row_stride: usize,
    add: bool,
    lhs: Matrix,
    rhs: Matrix,
    scale: f32,
) {
    for row in 0..lhs.rows {
        for col in 0..rhs.cols {
            let dst = &mut dst[row * row_stride + col];
            let sum: f32 = (0..lhs.cols)
                .map(|i| {
                    lhs.data[row * lhs.row_stride + i * lhs.col_stride]
                        * rhs.data[i * rhs.row_stride + col * rhs.col_stride]
                })
                .sum();
            *dst = scale * sum + if add { *dst } else { 0.0 };
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
