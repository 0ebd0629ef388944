//! Products in bf16, at every instruction set, against sums in f64 of numbers that another library rounded.
//! In a binary of its own: the level is the whole program's.

mod common;

use std::sync::{Mutex, PoisonError};

use burn::tensor::{DType, Int, Tensor, TensorData, bf16};
use coconut_kernels::simd::{self, Level};
use coconut_kernels::{self as kernels, Precision, Weight};
use common::{Random, assert_close, constant, device, numbers, run};

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
#[derive(Clone)]
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

    fn abs(&self) -> Self {
        Self { data: self.data.iter().map(|x| x.abs()).collect(), cols: self.cols }
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
    Weight { precision: Precision::Bf16, ..values.into() }
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
                kernels::conv1d(x[0].clone().reshape([1, rows, d_in]), weight, None).flatten(0, 2)
            });
            assert_close(&format!("conv1d {what}"), &got, &values, 1e-6);
            assert_close(&format!("gradient of x {what}"), &got_grads[0], &grads[0], 1e-6);
            assert_close(&format!("gradient of the weight {what}"), &got_grads[1], &grads[1], 1e-6);

            // The same matrix stored the other way round.
            let operands = [operands[0].clone(), turned.clone()];
            let (got, got_grads) = run(&operands, DType::F32, |x| {
                let weight = narrow(x[1].clone().reshape([d_out, d_in]));
                let x = x[0].clone().reshape([1, rows, d_in]);
                kernels::linear(x, &[weight], &[]).flatten(0, 2)
            });
            let turned = Plain { data: grads[1].clone(), cols: d_out }.t().data;
            assert_close(&format!("linear {what}"), &got, &values, 1e-6);
            assert_close(&format!("gradient of x {what}"), &got_grads[0], &grads[0], 1e-6);
            assert_close(&format!("gradient of the weight {what}"), &got_grads[1], &turned, 1e-6);
        });
    }
}

/// Two maps side by side, each with its own precision; biases; each weight used in two passes, whose gradients add up.
#[test]
fn parts_passes_and_biases() {
    let [rows, d_in, width] = [9, 20, 6];
    let mut random = Random(32);
    let [x, again] = [0; 2].map(|_| random.numbers(rows * d_in));
    let weights = [0; 2].map(|_| random.numbers(width * d_in));
    let biases = [0; 2].map(|_| random.numbers(width));
    let operands = [&weights[0], &weights[1], &biases[0], &biases[1]].map(Clone::clone);
    let inputs = [&x, &again].map(|data| Plain::new(data, d_in));
    let upstream = Random(99).numbers(2 * rows * 2 * width);
    let mut values = vec![];
    let mut grads = [vec![0.0; width * d_in], vec![0.0; width * d_in]];
    for (x, upstream) in inputs.iter().zip(upstream.chunks(rows * 2 * width)) {
        let products: [Plain; 2] = std::array::from_fn(|part| {
            // The first part is rounded, forward and backward.
            let round = |x: &Plain| if part == 0 { x.rounded() } else { x.clone() };
            let columns = |row: &[f64]| row[part * width..][..width].to_vec();
            let grad: Vec<f64> = upstream.chunks(2 * width).flat_map(columns).collect();
            let grad = round(&Plain::new(&grad, width)).t().times(&round(x));
            grads[part].iter_mut().zip(grad.data).for_each(|(sum, grad)| *sum += grad);
            round(x).times(&round(&Plain::new(&weights[part], d_in)).t())
        });
        for row in 0..rows {
            for (product, bias) in products.iter().zip(&biases) {
                let product = &product.data[row * width..][..width];
                values
                    .extend(product.iter().zip(bias).map(|(x, bias)| x + f64::from(*bias as f32)));
            }
        }
    }
    at_every_level(|level| {
        let (got, got_grads) = run(&operands, DType::F32, |operands| {
            let [a, b] = [0, 1].map(|i| operands[i].clone().reshape([width, d_in]));
            let weights = [narrow(a), b.into()];
            let passes = [&x, &again].map(|x| {
                let x = constant(x, DType::F32).reshape([1, rows, d_in]);
                kernels::linear(x, &weights, &operands[2..]).flatten(0, 2)
            });
            Tensor::cat(passes.into(), 0)
        });
        assert_close(&format!("values at {level:?}"), &got, &values, 1e-6);
        assert_close(&format!("rounded part at {level:?}"), &got_grads[0], &grads[0], 1e-6);
        assert_close(&format!("other part at {level:?}"), &got_grads[1], &grads[1], 1e-6);
    });
}

/// The gradient of the logits is rounded as well. What it is in f32 may lie on the other side of a tie than in
/// f64: such an element, and no other, may be either neighbour.
#[test]
fn cross_entropy() {
    let [rows, width, vocab] = [33, 70, 130];
    let mut random = Random(33);
    let operands = [random.numbers(rows * width), random.numbers(vocab * width)];
    let targets: Vec<i64> = (0..rows as i64).map(|i| i * 7 % vocab as i64).collect();
    let [hidden, head] = [0, 1].map(|i| Plain::new(&operands[i], width).rounded());
    let logits = hidden.times(&head.t());
    // Logits are held to 1e-6 of the largest (`products_and_gradients`), which is a share's relative error once
    // in the exponential and once in the sum; some roundings in f32 come on top.
    let largest = logits.data.iter().fold(0.0f64, |largest, x| largest.max(x.abs()));
    let doubt = 2.0 * 1e-6 * (largest + 1e-2) + 1e-6;
    let mut loss = 0.0;
    let [mut low, mut grad, mut high] = [(); 3].map(|()| Plain { data: vec![], cols: vocab });
    for (logits, &target) in logits.data.chunks(vocab).zip(&targets) {
        let total: f64 = logits.iter().map(|x| x.exp()).sum();
        loss += total.ln() - logits[target as usize];
        for (id, logit) in (0..).zip(logits) {
            let share = logit.exp() / total;
            let slope = if id == target { share - 1.0 } else { share };
            let error = doubt * share + 1e-7 * slope.abs();
            for (of, x) in
                [(&mut low, slope - error), (&mut grad, slope), (&mut high, slope + error)]
            {
                of.data.push(f64::from(bf16::from_f64(x)));
            }
        }
    }
    let slack = low.data.iter().zip(&high.data).map(|(low, high)| high - low).collect();
    let slack = Plain { data: slack, cols: vocab };
    assert!(slack.data.iter().filter(|&&slack| slack > 0.0).count() < rows * vocab / 50);
    let slope = Random(99).numbers(1)[0];
    let scaled = |x: Plain| x.data.into_iter().map(|x| slope * x).collect::<Vec<_>>();
    let want = [scaled(grad.times(&head)), scaled(grad.t().times(&hidden))];
    let slack = [slack.times(&head.abs()), slack.t().times(&hidden.abs())].map(scaled);
    at_every_level(|level| {
        let (value, got) = run(&operands, DType::F32, |x| {
            let targets = TensorData::new(targets.clone(), [rows]);
            let targets = Tensor::<1, Int>::from_data(targets, &device());
            let head = narrow(x[1].clone().reshape([vocab, width]));
            kernels::cross_entropy(x[0].clone().reshape([rows, width]), head, targets)
        });
        assert_close(&format!("loss at {level:?}"), &value, &[loss], 1e-6);
        for ((got, want), slack) in got.iter().zip(&want).zip(&slack) {
            let size = want.iter().fold(0.0f64, |size, x| size.max(x.abs()));
            for (i, (got, want)) in got.iter().zip(want).enumerate() {
                let allowed = 1e-6 * (size + 1e-2) + slack[i].abs();
                assert!((got - want).abs() <= allowed, "[{i}] at {level:?}: {got}, wanted {want}");
            }
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
    let y = kernels::conv1d(input, narrow(weight), None);
    assert_close("values", &numbers(y), &want.data, 1e-6);
}
