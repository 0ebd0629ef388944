//! Products of few rows with a large matrix.
//!
//! A general product packs the matrix first, which few rows do not pay for. Here each element of it is read once,
//! where it lies, and all rows are multiplied with it while it is at hand.

use rayon::prelude::*;

use super::{Dst, Matrix, add_up};
use crate::cpu::bridge::SendPtr;
use crate::cpu::simd::{Level, dot, fma, level, simd};

/// Matrices with fewer elements stay in a cache.
const LARGE: usize = 1 << 18;
/// Rows of the matrix, as it lies in memory, that a task takes. Sums over them are made per task and then added in
/// order, so this must not depend on the number of threads.
const TASK: usize = 128;
/// Rows of the matrix that are taken at once, from as many places of a task: each is then the beginning of what is read
/// next there, which the processor foresees.
const STREAMS: usize = 4;
/// Rows that a tile multiplies with those.
const HIGH: usize = 2;

/// Most rows. Beyond, arithmetic takes longer than reading, and the general product has wider vectors where there are any.
fn most_rows() -> usize {
    if level() > Level::Avx2 { 16 } else { 32 }
}

/// Whether [`multiply`] is the quicker way.
pub(super) fn suits(lhs: Matrix, rhs: Matrix) -> bool {
    let side_by_side = lhs.col_stride == 1 && (rhs.col_stride == 1 || rhs.row_stride == 1);
    lhs.rows <= most_rows() && rhs.rows * rhs.cols >= LARGE && side_by_side
}

/// `dst = lhs · rhs`, or `dst += …`, on all threads. The caller has checked the sizes, and that this [`suits`].
pub(super) fn multiply(dst: Dst, lhs: Matrix, rhs: Matrix) {
    if rhs.row_stride == 1 { dots(dst, lhs, rhs.t()) } else { sums(dst, lhs, rhs) }
}

/// For each of a task's turns the rows that it takes; where there are fewer than [`STREAMS`], `None`.
fn turns(task: usize, rows: usize) -> impl Iterator<Item = [Option<usize>; STREAMS]> {
    let (start, end) = (task * TASK, rows.min((task + 1) * TASK));
    let count = (end - start).div_ceil(STREAMS);
    let row = move |turn, stream| Some(start + stream * count + turn).filter(|&row| row < end);
    (0..count).map(move |turn| std::array::from_fn(|stream| row(turn, stream)))
}

/// `lhs · weightᵀ`: each number is the product of two rows.
fn dots(dst: Dst, lhs: Matrix, weight: Matrix) {
    let (stride, add) = (dst.stride, dst.add);
    let to = SendPtr::new(dst.slice);
    (0..weight.rows.div_ceil(TASK)).into_par_iter().for_each(|task| {
        for outs in turns(task, weight.rows) {
            let weights = outs.map(|out| weight.row(out.unwrap_or(task * TASK)));
            for top in (0..lhs.rows).step_by(HIGH) {
                let row = |i: usize| lhs.row((lhs.rows - 1).min(top + i));
                let sums = tile(std::array::from_fn(row), weights);
                for (row, sums) in (top..lhs.rows).zip(sums) {
                    for (out, sum) in outs.iter().zip(sums) {
                        let Some(out) = out else { continue };
                        // SAFETY: each task has columns of its own.
                        let dst = unsafe { to.slice(row * stride + out, 1) };
                        dst[0] = sum + if add { dst[0] } else { 0.0 };
                    }
                }
            }
        }
    });
}

/// `lhs · rhs`: each row is a sum of the rows of `rhs`.
fn sums(dst: Dst, lhs: Matrix, rhs: Matrix) {
    let width = rhs.cols;
    let part = |task: usize| {
        let mut sum = vec![0.0; lhs.rows.next_multiple_of(HIGH) * width];
        for from in turns(task, rhs.rows) {
            let rows = from.map(|row| rhs.row(row.unwrap_or(task * TASK)));
            for (top, sums) in (0..).step_by(HIGH).zip(sum.chunks_exact_mut(HIGH * width)) {
                let times = |row: usize| {
                    let x = lhs.row((lhs.rows - 1).min(row));
                    from.map(|row| row.map_or(0.0, |row| x[row]))
                };
                let (first, second) = sums.split_at_mut(width);
                add_rows(std::array::from_fn(|i| times(top + i)), rows, [first, second]);
            }
        }
        sum
    };
    let parts = (0..rhs.rows.div_ceil(TASK)).into_par_iter().map(part);
    let total = add_up(parts.collect(), lhs.rows * width);
    let rows = dst.slice.chunks_mut(dst.stride).zip(total.chunks_exact(width));
    for (to, row) in rows {
        for (to, x) in to.iter_mut().zip(row) {
            *to = x + if dst.add { *to } else { 0.0 };
        }
    }
}

simd! {
    /// The products of `HIGH` rows with `STREAMS` others.
    fn tile<FMA>(x: [&[f32]; HIGH], weights: [&[f32]; STREAMS]) -> [[f32; STREAMS]; HIGH] {
        #[cfg(all(target_arch = "x86_64", not(miri)))]
        if FMA {
            // SAFETY: levels that fuse multiply and add have these instructions.
            return unsafe { tile_fma(x, weights) };
        }
        x.map(|x| weights.map(|weight| dot::<FMA>(x, weight)))
    }

    /// `sum += Σ times_i · rows_i`, for each sum.
    fn add_rows<FMA>(times: [[f32; STREAMS]; HIGH], rows: [&[f32]; STREAMS], sums: [&mut [f32]; HIGH]) {
        let [first, second] = sums;
        let width = first.len();
        let (rows, second) = (rows.map(|row| &row[..width]), &mut second[..width]);
        for c in 0..width {
            let mut totals = [first[c], second[c]];
            for i in 0..STREAMS {
                for (total, times) in totals.iter_mut().zip(&times) {
                    *total = fma::<FMA>(times[i], rows[i][c], *total);
                }
            }
            [first[c], second[c]] = totals;
        }
    }
}

/// [`tile`] by hand: each vector that is read takes part in several products.
#[cfg(all(target_arch = "x86_64", not(miri)))]
#[target_feature(enable = "avx,fma")]
#[inline]
fn tile_fma(x: [&[f32]; HIGH], weights: [&[f32]; STREAMS]) -> [[f32; STREAMS]; HIGH] {
    use std::arch::x86_64::*;
    const LANES: usize = 8;
    let (x, weights) = (x.map(|x| x.as_chunks::<LANES>()), weights.map(|w| w.as_chunks::<LANES>()));
    let len = x.iter().chain(&weights).map(|(chunks, _)| chunks.len()).min().unwrap_or(0);
    let mut sums = [[_mm256_setzero_ps(); STREAMS]; HIGH];
    for i in 0..len {
        // SAFETY: there are `len` chunks, and each has as many elements as a vector.
        let load = |(chunks, _): (&[[f32; LANES]], _)| unsafe {
            _mm256_loadu_ps(chunks.get_unchecked(i).as_ptr())
        };
        let weights: [__m256; STREAMS] = std::array::from_fn(|w| load(weights[w]));
        for (sums, &x) in sums.iter_mut().zip(&x) {
            let x = load(x);
            for (sum, &weight) in sums.iter_mut().zip(&weights) {
                *sum = _mm256_fmadd_ps(x, weight, *sum);
            }
        }
    }
    std::array::from_fn(|r| {
        std::array::from_fn(|w| {
            let sum = sums[r][w];
            let four = _mm_add_ps(_mm256_castps256_ps128(sum), _mm256_extractf128_ps::<1>(sum));
            let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
            let rest = x[r].1.iter().zip(weights[w].1).map(|(x, w)| x * w).sum::<f32>();
            _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two))) + rest
        })
    })
}

#[cfg(test)]
mod tests {
    use super::super::multiply_plainly;
    use super::*;

    /// Multiples of an eighth, of which sums are exact.
    fn numbers(len: usize, seed: usize) -> Vec<f32> {
        (0..len).map(|i| ((i * 7 + seed) % 17) as f32 / 8.0 - 1.0).collect()
    }

    #[test]
    fn as_by_three_loops() {
        for rows in [1, 2, 3, 5, 8] {
            for (n, k) in [(1, 1), (3, 9), (5, 130), (131, 20), (130, 8), (257, 11)] {
                let stride = n + 3;
                let (x, w) = (numbers(rows * k, rows), numbers(n * k, 5));
                let x = Matrix::new(&x, rows, k);
                for rhs in [Matrix::new(&w, k, n), Matrix::new(&w, n, k).t()] {
                    for add in [false, true] {
                        let before = numbers(rows * stride, 3);
                        let [few, plain] = [multiply, |dst: Dst, x: Matrix, w: Matrix| {
                            multiply_plainly(dst, x, w, 1.0)
                        }]
                        .map(|multiply| {
                            let mut slice = before.clone();
                            multiply(Dst { slice: &mut slice, stride, add }, x, rhs);
                            slice
                        });
                        assert_eq!(few, plain, "{rows} rows, {k} to {n}, add: {add}");
                    }
                }
            }
        }
    }
}
