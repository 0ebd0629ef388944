//! Products of operands rounded to bf16, summed in f32.
//!
//! Where the processor has AVX512-BF16, one instruction (`vdpbf16ps`) takes the products of a pair of
//! numbers and adds both, twice the arithmetic of one in f32. Elsewhere the same tiles are computed in f32
//! from the same rounded numbers, so results agree to the rounding of sums; nothing is gained there.
//!
//! The blocking is that of Goto and van de Geijn 2008, "Anatomy of high-performance matrix multiplication":
//! operands are packed into strips as wide as a tile, a pair of the inner dimension to a `u32`.

use std::ops::Range;

use rayon::prelude::*;

use super::{Dst, Matrix};
use crate::cpu::bridge::SendPtr;
use crate::cpu::simd::{BASE_FMA, Level, fma, level, simd};

/// Inner dimension of a block, even: a strip of the right side, 24 KiB, stays in the first cache.
const INNER: usize = 384;
/// Rows of the left and columns of the right side packed at once, 3 MiB each.
const OUTER: usize = 4096;
/// Tiles of a task, down and across: what it reads of the left side stays in the second cache.
const TASK: [usize; 2] = [8, 4];
/// Multiplications below which a block is not worth another thread.
const SMALL: usize = 1 << 18;

/// `dst = lhs · rhs`, or `dst += …`.
///
/// The caller has checked the sizes, and the inner dimension is not zero. Sums run over it in an order that
/// depends neither on the number of threads nor on the other rows and columns. Both sides are packed whole,
/// however few the rows of the other: a pass of few rows packs all of a weight to use each number a few times.
pub(super) fn multiply(dst: Dst, lhs: Matrix, rhs: Matrix) {
    let tile = Tile::best();
    let (rhs, elements) = (rhs.t(), SendPtr::new(dst.slice));
    for inner in blocks(lhs.cols, INNER) {
        for cols in blocks(rhs.rows, OUTER) {
            let right = Packed::new(rhs, cols.clone(), inner.clone(), tile.cols);
            for rows in blocks(lhs.rows, OUTER) {
                let left = Packed::new(lhs, rows.clone(), inner.clone(), tile.rows);
                let whole = (rows.len(), cols.len(), inner.len());
                let to = Target {
                    elements,
                    stride: dst.stride,
                    add: dst.add || inner.start > 0,
                    rows,
                    cols: cols.clone(),
                };
                let tasks = Tasks::new(&left, &right);
                let small = whole.0 * whole.1 * whole.2 < SMALL;
                (0..tasks.count())
                    .into_par_iter()
                    .with_min_len(if small { tasks.count() } else { 1 })
                    .for_each(|task| tasks.run(task, tile, &left, &right, &to));
            }
        }
    }
}

/// `0..len` in parts of at most `size`.
fn blocks(len: usize, size: usize) -> impl Iterator<Item = Range<usize>> {
    (0..len).step_by(size).map(move |first| first..len.min(first + size))
}

/// Where a block of the result lies.
struct Target {
    elements: SendPtr,
    stride: usize,
    add: bool,
    rows: Range<usize>,
    cols: Range<usize>,
}

/// A block's tiles, shared out.
struct Tasks {
    /// Strips of the left and of the right side.
    strips: [usize; 2],
    /// Tasks down and across.
    tasks: [usize; 2],
}

impl Tasks {
    fn new(left: &Packed, right: &Packed) -> Self {
        let strips = [left.strips(), right.strips()];
        Self { strips, tasks: [strips[0].div_ceil(TASK[0]), strips[1].div_ceil(TASK[1])] }
    }

    fn count(&self) -> usize {
        self.tasks[0] * self.tasks[1]
    }

    fn run(&self, task: usize, tile: Tile, left: &Packed, right: &Packed, to: &Target) {
        let at = [task / self.tasks[1], task % self.tasks[1]];
        let [down, across] = [0, 1].map(|side| {
            let first = at[side] * TASK[side];
            first..self.strips[side].min(first + TASK[side])
        });
        let mut sums = [0.0; Tile::LARGEST];
        let sums = &mut sums[..tile.rows * tile.cols];
        for col in across {
            for row in down.clone() {
                // SAFETY: `Tile::best` chose a kernel that this processor has.
                unsafe { (tile.run)(left.strip(row), right.strip(col), sums) };
                let first_col = to.cols.start + col * tile.cols;
                let width = tile.cols.min(to.cols.end - first_col);
                let rows = (to.rows.start + row * tile.rows..to.rows.end).take(tile.rows);
                for (row, sums) in rows.zip(sums.chunks_exact(tile.cols)) {
                    // SAFETY: tiles do not overlap, and each is computed by one task.
                    let dst = unsafe { to.elements.slice(row * to.stride + first_col, width) };
                    match to.add {
                        true => dst.iter_mut().zip(sums).for_each(|(dst, sum)| *dst += sum),
                        false => dst.copy_from_slice(&sums[..width]),
                    }
                }
            }
        }
    }
}

/// A block of a matrix in strips of `width` rows. A strip holds, for every pair of columns, the pair of each
/// of its rows: the first number in the lower half. Missing rows, and the last partner of an odd number of
/// columns, are zero.
struct Packed {
    pairs: Vec<u32>,
    /// Elements of a strip.
    strip: usize,
}

impl Packed {
    fn new(from: Matrix, rows: Range<usize>, cols: Range<usize>, width: usize) -> Self {
        let strip = width * cols.len().div_ceil(2);
        let mut pairs = vec![0; strip * rows.len().div_ceil(width)];
        let at_once = (1 << 14) / strip.max(1) + 1;
        pairs
            .par_chunks_exact_mut(strip)
            .with_min_len(at_once)
            .zip(0..rows.len().div_ceil(width))
            .for_each(|(to, i)| {
                let first = rows.start + i * width;
                pack(from, first..rows.end.min(first + width), cols.clone(), width, to);
            });
        Self { pairs, strip }
    }

    fn strips(&self) -> usize {
        self.pairs.len() / self.strip
    }

    fn strip(&self, i: usize) -> &[u32] {
        &self.pairs[i * self.strip..][..self.strip]
    }
}

simd! {
    /// One strip: rows and columns of a matrix of which one stride is 1.
    fn pack<FMA>(from: Matrix, rows: Range<usize>, cols: Range<usize>, width: usize, to: &mut [u32]) {
        if from.col_stride == 1 {
            for (i, row) in rows.enumerate() {
                let row = &from.data[row * from.row_stride + cols.start..][..cols.len()];
                let (pairs, rest) = row.as_chunks::<2>();
                let mut to = to[i..].iter_mut().step_by(width);
                to.by_ref().zip(pairs).for_each(|(to, &[first, second])| *to = pair(first, second));
                to.zip(rest).for_each(|(to, &last)| *to = pair(last, 0.0));
            }
        } else {
            let column = |col: usize| &from.data[rows.start + col * from.col_stride..][..rows.len()];
            for (col, to) in cols.clone().step_by(2).zip(to.chunks_exact_mut(width)) {
                let to = to.iter_mut().zip(column(col));
                if col + 1 < cols.end {
                    to.zip(column(col + 1)).for_each(|((to, &a), &b)| *to = pair(a, b));
                } else {
                    to.for_each(|(to, &last)| *to = pair(last, 0.0));
                }
            }
        }
    }
}

/// Two numbers rounded to bf16.
#[inline(always)]
fn pair(first: f32, second: f32) -> u32 {
    round(first) | round(second) << 16
}

/// The nearest bf16, ties to even, in the lower half.
#[inline(always)]
fn round(x: f32) -> u32 {
    let bits = x.to_bits();
    let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16;
    // Rounding up a NaN could leave the NaNs.
    if x.is_nan() { bits >> 16 | 0x40 } else { rounded }
}

/// What computes one tile of the result.
#[derive(Clone, Copy)]
struct Tile {
    rows: usize,
    cols: usize,
    /// Computes, from a strip of each side, the `rows · cols` sums, row-major.
    run: unsafe fn(left: &[u32], right: &[u32], sums: &mut [f32]),
}

impl Tile {
    /// Elements of the largest.
    const LARGEST: usize = 12 * 32;

    /// The best for this processor. All but a few registers hold sums.
    fn best() -> Self {
        match level() {
            #[cfg(target_arch = "x86_64")]
            Level::Avx512Bf16 => Self { rows: 12, cols: 32, run: avx512_bf16 },
            // A larger tile for AVX-512 alone would gain nothing over f32 either.
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 | Level::Avx512 => Self { rows: 6, cols: 16, run: avx2 },
            _ => Self { rows: 4, cols: 8, run: sum_pairs::<BASE_FMA, 4, 8> },
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bf16")]
fn avx512_bf16(left: &[u32], right: &[u32], sums: &mut [f32]) {
    use std::arch::x86_64::*;
    // SAFETY: both are 512 bits without invalid values.
    let pairs = |x: __m512i| unsafe { std::mem::transmute::<__m512i, __m512bh>(x) };
    let mut lanes = [[_mm512_setzero_ps(); 2]; 12];
    for (left, right) in left.as_chunks::<12>().0.iter().zip(right.as_chunks::<32>().0) {
        // SAFETY: 32 pairs are two vectors.
        let right =
            [0, 16].map(|i| pairs(unsafe { _mm512_loadu_si512(right.as_ptr().add(i).cast()) }));
        for (lanes, &left) in lanes.iter_mut().zip(left) {
            let left = pairs(_mm512_set1_epi32(left as i32));
            for (lanes, right) in lanes.iter_mut().zip(right) {
                *lanes = _mm512_dpbf16_ps(*lanes, left, right);
            }
        }
    }
    for (sums, lanes) in sums.as_chunks_mut::<16>().0.iter_mut().zip(lanes.as_flattened()) {
        // SAFETY: sixteen elements are one vector.
        unsafe { _mm512_storeu_ps(sums.as_mut_ptr(), *lanes) };
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn avx2(left: &[u32], right: &[u32], sums: &mut [f32]) {
    sum_pairs::<true, 6, 16>(left, right, sums);
}

/// A tile of `R × C` in f32.
#[inline(always)]
fn sum_pairs<const FMA: bool, const R: usize, const C: usize>(
    left: &[u32],
    right: &[u32],
    sums: &mut [f32],
) {
    let first = |pair: u32| f32::from_bits(pair << 16);
    let second = |pair: u32| f32::from_bits(pair & 0xffff_0000);
    let mut lanes = [[0.0; C]; R];
    for (left, right) in left.as_chunks::<R>().0.iter().zip(right.as_chunks::<C>().0) {
        let (firsts, seconds) = (right.map(first), right.map(second));
        for i in 0..R {
            let (a, b) = (first(left[i]), second(left[i]));
            for j in 0..C {
                lanes[i][j] = fma::<FMA>(b, seconds[j], fma::<FMA>(a, firsts[j], lanes[i][j]));
            }
        }
    }
    sums.copy_from_slice(lanes.as_flattened());
}

#[cfg(test)]
mod tests {
    use burn::tensor::bf16;

    use super::round;

    /// Ties, both ways; the largest number, infinity and NaNs; denormals; and any bits.
    #[test]
    fn rounds_as_half_does() {
        let special =
            [0x3f80_8000, 0x3f81_8000, 0x3f80_8001, 0x7f7f_ffff, 0x7f80_0000, 0x7f80_0001]
                .into_iter()
                .chain([0xffff_ffff, 0x7fff_ffff, 0xff80_0000, 0, 0x8000_0000, 1, 0x0000_8000]);
        let any = (0..100_000u32).map(|i| i.wrapping_mul(0x9e37_79b9));
        for x in special.chain(any).map(f32::from_bits) {
            assert_eq!(round(x), u32::from(bf16::from_f32(x).to_bits()), "{x}");
        }
    }
}
