//! A matrix to multiply with. Constant ones may be stored in bf16, half the memory.

use burn::tensor::{DType, Tensor};

/// A matrix to multiply with, and how.
#[derive(Clone, Debug)]
pub struct Weight {
    /// Its elements; in bf16 perhaps, if it is a constant.
    pub values: Tensor<2>,
    /// Of products with it.
    pub precision: Precision,
}

impl From<Tensor<2>> for Weight {
    fn from(values: Tensor<2>) -> Self {
        Self { values, precision: Precision::F32 }
    }
}

/// What the operands of a product with a matrix are rounded to. Sums are in f32 either way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Precision {
    /// Not rounded.
    #[default]
    F32,
    /// The nearest bf16, forward and backward, in the fused bodies; primitive bodies do not round. Faster on
    /// processors with AVX512-BF16 only ([`Level::Avx512Bf16`](crate::simd::Level)).
    Bf16,
}

/// A weight's values in f32, whatever they are stored in.
pub(crate) fn to_f32(weight: Tensor<2>) -> Tensor<2> {
    if weight.dtype() == DType::BF16 { weight.cast(DType::F32) } else { weight }
}
