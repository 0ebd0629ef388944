//! Products in bf16, at every instruction set, against sums in f64 of numbers that another library rounded.
//! In a binary of its own: the level is the whole program's.

mod common;

use std::sync::{Mutex, PoisonError};

use burn::tensor::{DType, Device, Int, Tensor, TensorData, bf16};
use coconut_kernels::simd::{self, Level};
use coconut_kernels::{self as kernels, Precision, Weight};
use common::{Random, assert_close, constant, numbers, run};

const LEVELS: [Level; 4] = [Level::Base, Level::Avx2, Level::Avx512, Level::Avx512Bf16];

/// Rows, inner dimension, columns: around tiles of 4×8, 6×16 and 12×32, blocks of 384 and of 4096.
const SHAPES: [[usize; 3]; 9] = [
    [1, 1, 1],
    [1, 2, 40],
    [5, 3, 7],
    [12, 16, 32],
    [13, 383, 33],
    [50, 385, 70],
    [97, 800, 129],
    [4097, 2, 9],
    [3, 5, 4100],
];

/// A matrix in f64, row-major.
struct Plain {
    data: Vec<f64>,
    cols: usize,
}

impl Plain {
    fn new(data: &[f64], cols: usize) -> Self {
        let data = data.iter().map(|&x| f64::from(x as f32)).collect();
        Self { data, cols }
    }

    fn rounded(&self) -> Self {
        let round = |x: &f64| f64::from(bf16::from_f32(*x as f32));
        Self { data: self.data.iter().map(round).collect(), cols: self.cols }
    }

    fn t(&self) -> Self {
        let rows = self.data.len() / self.cols;
        let data =
            (0..self.cols).flat_map(|j| (0..rows).map(move |i| self.data[i * self.cols + j]));
        Self { data: data.collect(), cols: rows }
    }

    fn times(&self, other: &Self) -> Self {
        let mut data = vec![0.0; self.data.len() / self.cols * other.cols];
        for (row, out) in self.data.chunks(self.cols).zip(data.chunks_mut(other.cols)) {
            for (x, other) in row.iter().zip(other.data.chunks(other.cols)) {
                out.iter_mut().zip(other).for_each(|(out, y)| *out += x * y);
            }
        }
        Self { data, cols: other.cols }
    }
}

/// Runs `check` at each level that this machine has, nothing else at the same time.
fn at_every_level(check: impl Fn(Level)) {
    static ONE: Mutex<()> = Mutex::new(());
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    let best = simd::limit(Level::Avx512Bf16);
    for level in LEVELS.into_iter().filter(|&level| level <= best) {
        assert_eq!(simd::limit(level), level);
        check(level);
    }
}

fn narrow(values: Tensor<2>) -> Weight {
    Weight { values, precision: Precision::Bf16 }
}

#[test]
fn products_and_gradients() {
    for [rows, d_in, d_out] in SHAPES {
        let mut random = Random(31);
        let operands = [rows * d_in, d_in * d_out].map(|len| random.numbers(len));
        let upstream = Plain::new(&Random(99).numbers(rows * d_out), d_out).rounded();
        let [x, weight] = [(&operands[0], d_in), (&operands[1], d_out)]
            .map(|(data, cols)| Plain::new(data, cols).rounded());
        let values = x.times(&weight).data;
        let grads = [upstream.times(&weight.t()).data, x.t().times(&upstream).data];
        let turned = Plain::new(&operands[1], d_out).t().data;
        at_every_level(|level| {
            let what = format!("{rows}x{d_in}x{d_out} at {level:?}");
            let (got, got_grads) = run(&operands, DType::F32, |x| {
                let weight = narrow(x[1].clone().reshape([d_in, d_out]));
                kernels::linear(x[0].clone().reshape([1, rows, d_in]), weight, None).flatten(0, 2)
            });
            assert_close(&format!("linear {what}"), &got, &values, 1e-6);
            assert_close(&format!("gradient of x {what}"), &got_grads[0], &grads[0], 1e-6);
            assert_close(&format!("gradient of the weight {what}"), &got_grads[1], &grads[1], 1e-6);

            // The same matrix stored the other way round.
            let operands = [operands[0].clone(), turned.clone()];
            let (got, got_grads) = run(&operands, DType::F32, |x| {
                let weight = narrow(x[1].clone().reshape([d_out, d_in]));
                let x = x[0].clone().reshape([1, rows, d_in]);
                kernels::projection(x, &[weight], &[]).flatten(0, 2)
            });
            let turned = Plain { data: grads[1].clone(), cols: d_out }.t().data;
            assert_close(&format!("projection {what}"), &got, &values, 1e-6);
            assert_close(&format!("gradient of x {what}"), &got_grads[0], &grads[0], 1e-6);
            assert_close(&format!("gradient of the weight {what}"), &got_grads[1], &turned, 1e-6);
        });
    }
}

/// Two maps side by side, each with its own precision; biases; a weight used in two passes.
#[test]
fn parts_passes_and_biases() {
    let [rows, d_in, widths] = [9, 20, 6];
    let mut random = Random(32);
    let lens = [rows * d_in, widths * d_in, widths * d_in, widths, widths];
    let operands = lens.map(|len| random.numbers(len));
    let exact: Vec<_> = operands.iter().map(|data| Plain::new(data, d_in)).collect();
    let upstream = Random(99).numbers(rows * 2 * widths);
    let [mut first, mut second] = [vec![], vec![]];
    for row in upstream.chunks(2 * widths) {
        first.extend_from_slice(&row[..widths]);
        second.extend_from_slice(&row[widths..]);
    }
    let (first, second) = (Plain::new(&first, widths).rounded(), Plain::new(&second, widths));
    let grads = [
        first.t().times(&exact[0].rounded()).data,
        second.t().times(&exact[0]).data.iter().map(|x| 2.0 * x).collect(),
    ];
    at_every_level(|level| {
        let (values, got) = run(&operands, DType::F32, |x| {
            let input = x[0].clone().reshape([1, rows, d_in]);
            let [a, b] = [&x[1], &x[2]].map(|x| x.clone().reshape([widths, d_in]));
            let biases = [x[3].clone(), x[4].clone()];
            let y = kernels::projection(input.clone(), &[narrow(a), b.clone().into()], &biases);
            let again = kernels::projection(input, &[b], &[]);
            let zeros = again.clone() * 0.0;
            (y + Tensor::cat(vec![zeros, again], 2)).flatten(0, 2)
        });
        let halves =
            [exact[0].rounded().times(&exact[1].rounded().t()), exact[0].times(&exact[2].t())];
        let want: Vec<f64> = (0..rows * 2 * widths)
            .map(|i| {
                let (row, part, col) = (i / (2 * widths), i / widths % 2, i % widths);
                let times = [1.0, 2.0][part];
                times * halves[part].data[row * widths + col] + operands[3 + part][col]
            })
            .collect();
        assert_close(&format!("values at {level:?}"), &values, &want, 1e-6);
        assert_close(&format!("rounded part at {level:?}"), &got[1], &grads[0], 1e-6);
        assert_close(&format!("other part at {level:?}"), &got[2], &grads[1], 1e-6);
    });
}

/// The gradient of the logits is rounded as well, which a last bit in f32 can turn the other way: one part in
/// 256 of one term.
#[test]
fn cross_entropy() {
    let [rows, width, vocab] = [33, 70, 130];
    let mut random = Random(33);
    let operands = [random.numbers(rows * width), random.numbers(vocab * width)];
    let targets: Vec<i64> = (0..rows as i64).map(|i| i * 7 % vocab as i64).collect();
    let [hidden, head] = [0, 1].map(|i| Plain::new(&operands[i], width).rounded());
    let mut logits = hidden.times(&head.t());
    let mut loss = 0.0;
    for (logits, &target) in logits.data.chunks_mut(vocab).zip(&targets) {
        let total: f64 = logits.iter().map(|x| x.exp()).sum();
        loss += total.ln() - logits[target as usize];
        logits.iter_mut().for_each(|x| *x = x.exp() / total);
        logits[target as usize] -= 1.0;
    }
    let slope = Random(99).numbers(1)[0];
    let logits = logits.rounded();
    let scaled = |x: Plain| x.data.into_iter().map(|x| slope * x).collect::<Vec<_>>();
    let grads = [scaled(logits.times(&head)), scaled(logits.t().times(&hidden))];
    at_every_level(|level| {
        let (value, got) = run(&operands, DType::F32, |x| {
            let data = TensorData::new(targets.clone(), [rows]);
            let targets = Tensor::<1, Int>::from_data(data, &Device::flex().autodiff());
            let head = narrow(x[1].clone().reshape([vocab, width]));
            kernels::cross_entropy(x[0].clone().reshape([rows, width]), head, targets)
        });
        assert_close(&format!("loss at {level:?}"), &value, &[loss], 1e-6);
        for (got, want) in got.iter().zip(&grads) {
            assert_close(&format!("gradient at {level:?}"), got, want, 1.0 / 256.0);
        }
    });
}

/// A constant stored in bf16 is already rounded.
#[test]
fn weights_stored_in_bf16() {
    let [rows, d_in, d_out] = [7, 40, 50];
    let mut random = Random(34);
    let (x, weight) = (random.numbers(rows * d_in), random.numbers(d_in * d_out));
    let want = Plain::new(&x, d_in).rounded().times(&Plain::new(&weight, d_out).rounded());
    let input = constant(&x, DType::F32).reshape([1, rows, d_in]);
    let weight = constant(&weight, DType::F32).reshape([d_in, d_out]).cast(DType::BF16);
    let y = kernels::linear(input, narrow(weight), None);
    assert_close("values", &numbers(y), &want.data, 1e-6);
}
