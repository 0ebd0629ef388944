//! A matrix to multiply with. Constant ones may be stored in bf16, half the memory.

use burn::tensor::{DType, Tensor};

use crate::{Deferred, cpu};

/// A matrix to multiply with, and the precision of these products.
#[derive(Clone, Debug)]
pub struct Weight {
    /// The matrix's elements, in f32, or in bf16 if it is a constant.
    pub values: Tensor<2>,
    /// What products with the matrix round their operands to.
    pub precision: Precision,
    /// Where products of few rows leave their share of its gradient, if they do ([`Weight::defer`]).
    pub deferred: Option<Deferred>,
}

impl Weight {
    /// A weight for many products of few rows within one graph, whose shares of its gradient are added up in one product:
    /// the weight to be used in its place, and where the shares wait. `None` where that gains nothing, or cannot be
    /// done: on devices other than the CPU, for small weights, and for constants.
    pub fn defer(values: &Tensor<2>) -> Option<(Tensor<2>, Deferred)> {
        cpu::defer(values)
    }
}

impl From<Tensor<2>> for Weight {
    fn from(values: Tensor<2>) -> Self {
        Self { values, precision: Precision::F32, deferred: None }
    }
}

/// What the operands of a product with a matrix are rounded to. Sums are in f32 either way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Precision {
    /// Operands are not rounded.
    #[default]
    F32,
    /// Operands are rounded to the nearest bf16, forward and backward, by the fused bodies; the reference bodies
    /// do not round. This is faster only on processors with AVX512-BF16 ([`Level::Avx512Bf16`](crate::simd::Level)).
    Bf16,
}

/// A weight's values in f32, whatever they are stored in.
pub(crate) fn to_f32(weight: Tensor<2>) -> Tensor<2> {
    if weight.dtype() == DType::BF16 { weight.cast(DType::F32) } else { weight }
}
