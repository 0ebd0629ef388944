//! Every instruction set gives the same results to rounding. In a binary of its own: the level is
//! the whole program's.

mod common;

use burn::tensor::{DType, Int, Tensor, TensorData};
use coconut_kernels::simd::{self, Level};
use coconut_kernels::{self as kernels, Heads, TokenMask};
use common::{Random, assert_close, device, run};

/// A small model through every operation.
fn model(x: &[Tensor<1>]) -> Tensor<1> {
    let (rows, width, heads) = (2 * 19, 36, Heads { query: 4, key_value: 2, dim: 9 });
    let device = device();
    let ids: Vec<i64> = (0..rows as i64).collect();
    let ids = Tensor::<2, Int>::from_data(TensorData::new(ids, [2, 19]), &device);
    let weight = |i: usize, d_out: usize| x[i].clone().reshape([width, d_out]);
    let table = x[0].clone().reshape([50, width]);
    let h = kernels::embedding(table.clone(), ids.clone());
    let h = kernels::layer_norm(h, x[1].clone(), x[2].clone(), 1e-5);
    let qkv = kernels::conv1d(h, weight(3, heads.qkv_width()), None);
    let past = qkv.clone().narrow(1, 0, 18);
    let last = qkv.clone().narrow(1, 18, 1);
    let a = kernels::attention(qkv, &[], heads, &TokenMask::all(2, 19), 0.0);
    let b = kernels::attention(last, &[past], heads, &TokenMask::all(2, 19), 0.0);
    let h = kernels::conv1d(a + b, weight(4, width), Some(x[2].clone()));
    let h = kernels::rms_norm(h, x[1].clone(), 1e-5);
    let h = kernels::swiglu(h.clone(), kernels::gelu(h));
    kernels::cross_entropy(h.reshape([rows, width]), table, ids.reshape([rows]))
}

#[test]
fn levels_agree() {
    let mut random = Random(1);
    let lens = [50 * 36, 36, 36, 36 * 72, 36 * 36];
    let operands = lens.map(|len| random.numbers(len));
    let best = simd::level();
    let at = |level| {
        assert_eq!(simd::limit(level), level.min(best));
        run(&operands, DType::F32, model)
    };
    let (want_values, want_grads) = at(Level::Avx512);
    for level in [Level::Base, Level::Avx2] {
        let (values, grads) = at(level);
        assert_close("loss", &values, &want_values, 1e-5);
        for (got, want) in grads.iter().zip(&want_grads) {
            assert_close("gradient", got, want, 1e-5);
        }
    }
    // And at one level, to the last bit, again and again.
    for _ in 0..5 {
        let (values, grads) = at(Level::Avx512);
        assert_eq!((values, grads), (want_values.clone(), want_grads.clone()));
    }
}
