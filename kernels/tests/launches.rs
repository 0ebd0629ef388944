//! What operations launch on a GPU, in a program of its own, since launches are counted for the whole program.

#![cfg(feature = "gpu")]

mod common;

use burn::tensor::DType;
use burn::tensor::Tensor;
use coconut_kernels::{
    self as kernels, Heads, TokenMask,
    host::{self, Traffic},
    reference,
};
use common::{Random, constant, numbers, on_tested_device};

/// What crosses and is launched for attention of two layers with one mask, forward and backward, with two past chunks.
fn traffic(
    attention: impl Fn(Tensor<3>, &[Tensor<3>], Heads, &TokenMask) -> Tensor<3>,
) -> [Traffic; 2] {
    let heads = Heads { query: 4, key_value: 2, dim: 8 };
    let chunk = |columns: usize| {
        let x = constant(&Random(5).numbers(3 * columns * heads.qkv_width()), DType::F32);
        x.reshape([3, columns, heads.qkv_width()]).require_grad()
    };
    let (past, qkv) = ([chunk(9), chunk(2)], chunk(3));
    let cells: Vec<bool> = (0..3 * 14).map(|cell| cell % 14 >= cell / 14).collect();
    let mask = TokenMask::new(3, 14, cells);
    numbers(qkv.clone().sum()); // everything before has come to an end
    let start = Traffic::so_far();
    let layers: Vec<_> = (0..2).map(|_| attention(qkv.clone(), &past, heads, &mask)).collect();
    let forward = Traffic::so_far();
    let [first, second] = [&layers[0], &layers[1]].map(|y| y.clone().sum());
    let sums = Traffic::so_far();
    drop((first + second).backward());
    [forward.since(start), Traffic::so_far().since(sums)]
}

#[test]
fn attention() {
    assert!(host::count_launches());
    let [fused, primitives] = on_tested_device(|| {
        [
            traffic(|qkv, past, heads, mask| kernels::attention(qkv, past, heads, mask, 0.0)),
            traffic(|qkv, past, heads, mask| reference::attention(qkv, past, heads, mask, 0.0)),
        ]
    });
    println!("fused: {fused:?}\nprimitives: {primitives:?}");
    let [forward, backward] = fused;
    assert_eq!([forward.uploads, backward.uploads], [1, 0], "the mask, once for both layers");
    assert_eq!([forward.reads, backward.reads], [0, 0]);
    if std::env::var("COCONUT_TEST_DEVICE").is_ok_and(|device| device != "cpu") {
        assert_eq!(forward.launches, 2, "one a layer");
        assert!(2 * backward.launches < primitives[1].launches, "{backward:?}, {primitives:?}");
    }
}
