//! Products with a matrix that may be stored in bf16. They widen it a part at a time, so that the result is
//! that of the same values in f32 to rounding.

use burn::backend::{BackendTensor, DispatchTensorKind};
use burn::tensor::{DType, Tensor, bf16};
use burn_flex::FlexTensor;
use rayon::prelude::*;

use super::bridge::{GradSinks, fusable, slice, slice_mut, tensor, uninit};
use super::deferred::{Columns, FEW};
use super::matrix::{Dst, Matrix, multiply_in};
use crate::{Deferred, Precision};

/// Number of elements widened at once: 16 MiB.
const WIDENED: usize = 1 << 22;

/// Whether a fused body can read this as a weight: f32, or a constant in bf16, on Flex.
pub(crate) fn readable(weight: &Tensor<2>) -> bool {
    fusable(weight) || (weight.dtype() == DType::BF16 && on_flex(weight))
}

fn on_flex(x: &Tensor<2>) -> bool {
    match x.clone().into_dispatch().kind {
        DispatchTensorKind::Flex(BackendTensor::Float(_)) => true,
        DispatchTensorKind::Autodiff(inner) => {
            let flex = matches!(*inner, DispatchTensorKind::Flex(BackendTensor::Autodiff(_)));
            flex && !x.is_tracked()
        }
        _ => false,
    }
}

/// Which product with a weight.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    /// `x · weight`.
    Plain,
    /// `x · weightᵀ`.
    Transposed,
}

/// Multiplies `x` with a weight, its operands rounded as [`multiply_in`] says.
pub(crate) fn multiply_weight(
    precision: Precision,
    mut dst: Dst,
    x: Matrix,
    weight: &FlexTensor,
    side: Side,
) {
    let shape = weight.layout().shape();
    let (rows, cols) = (shape[0], shape[1]);
    if weight.dtype() == DType::F32 {
        let weight = Matrix::new(slice(weight), rows, cols);
        let weight = if side == Side::Plain { weight } else { weight.t() };
        return multiply_in(precision, dst, x, weight);
    }
    // Parts are columns of the result, so that no sum is split between them.
    let stored = narrow_slice(weight);
    let (inner, outer) = if side == Side::Plain { (rows, cols) } else { (cols, rows) };
    let count = (WIDENED / inner.max(1)).clamp(16, outer.max(16));
    let mut part = uninit(count.min(outer) * inner);
    for first in (0..outer).step_by(count) {
        let count = count.min(outer - first);
        let part = &mut part[..count * inner];
        let dst = dst.starting_at(first);
        match side {
            Side::Plain => {
                let from = |row: usize| &stored[row * cols + first..][..count];
                part.par_chunks_exact_mut(count)
                    .with_min_len((1 << 14) / count + 1)
                    .enumerate()
                    .for_each(|(row, part)| widen(from(row), part));
                let part = Matrix::new(part, rows, count);
                multiply_in(precision, dst, x, part);
            }
            Side::Transposed => {
                widen_all(&stored[first * cols..][..count * cols], part);
                let part = Matrix::new(part, count, cols).t();
                multiply_in(precision, dst, x, part);
            }
        }
    }
}

/// What a product gives its weight: the gradient `lhsᵀ · rhs`, of matrices of `rows` rows.
#[derive(Debug)]
pub(super) struct Share {
    pub precision: Precision,
    pub rows: usize,
    pub lhs: Columns,
    pub rhs: Columns,
}

/// Gives a weight, operand `operand` of an operation that accumulates it, its share, now or when its time has come.
///
/// Adding to what other passes gave spares a tensor and an addition the size of the weight, which is most of
/// the cost of a pass of few rows.
pub(crate) fn put_share<const N: usize>(
    sinks: &mut GradSinks<'_, N>,
    operand: usize,
    share: Share,
    deferred: Option<&Deferred>,
) {
    if !sinks.needs_grad(operand) {
        return;
    }
    let (precision, rows) = (share.precision, share.rows);
    let [height, width] = [share.lhs.width, share.rhs.width];
    let product = |dst| {
        multiply_in(precision, dst, share.lhs.matrix(rows).t(), share.rhs.matrix(rows));
    };
    let sum = match sinks.take(operand) {
        Some(mut sum) => {
            match deferred.filter(|_| rows <= FEW) {
                Some(deferred) => deferred.push(share),
                None => product(Dst::add(slice_mut(&mut sum), width)),
            }
            sum
        }
        None => {
            let mut sum = uninit(height * width);
            product(Dst::set(&mut sum, width));
            tensor(sum, [height, width])
        }
    };
    sinks.put(operand, sum);
}

/// Copies a row of a weight.
pub(crate) fn copy_row(weight: &FlexTensor, row: usize, to: &mut [f32]) {
    let first = row * to.len();
    match weight.dtype() {
        DType::F32 => to.copy_from_slice(&slice(weight)[first..][..to.len()]),
        _ => widen(&narrow_slice(weight)[first..][..to.len()], to),
    }
}

fn narrow_slice(x: &FlexTensor) -> &[bf16] {
    let start = x.layout().start_offset();
    &x.storage::<bf16>()[start..start + x.layout().num_elements()]
}

fn widen_all(from: &[bf16], to: &mut [f32]) {
    const CHUNK: usize = 1 << 14;
    to.par_chunks_mut(CHUNK).zip(from.par_chunks(CHUNK)).for_each(|(to, from)| widen(from, to));
}

/// The upper half of an f32 is a bf16.
fn widen(from: &[bf16], to: &mut [f32]) {
    for (to, from) in to.iter_mut().zip(from) {
        *to = f32::from_bits(u32::from(from.to_bits()) << 16);
    }
}
