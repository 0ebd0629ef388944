//! Values and gradients of every fused operation.

mod common;

use burn::tensor::{DType, Int, Tensor, TensorData};
use coconut_kernels::{
    self as kernels, Heads, RowNumbers, RowOverride, Table, TokenMask, Weight, reference,
};
use common::{
    Body, Random, assert_close, check, constant, device, leaf, numbers, on_tested_device, run,
};

/// Calls an operation by either body.
macro_rules! call {
    ($body:expr, $name:ident($($argument:expr),* $(,)?)) => {
        match $body {
            Body::Fused => kernels::$name($($argument),*),
            Body::Reference => reference::$name($($argument),*),
        }
    };
}

#[test]
fn gelu() {
    for len in [1, 7, 32, 1000, 20_001] {
        let x = Random(1).numbers(len).iter().map(|x| x * 6.0).collect();
        check("gelu", &[x], |x, body| call!(body, gelu(x[0].clone())));
    }
}

#[test]
fn gelu_far_from_zero() {
    let x = constant(&[-1e4, -90.0, -12.0, 0.0, 12.0, 90.0, 1e4], DType::F32);
    let y = numbers(kernels::gelu(x));
    assert_close("gelu", &y, &[0.0, 0.0, 0.0, 0.0, 12.0, 90.0, 1e4], 1e-7);
    let y = numbers(kernels::gelu(constant(&[f64::NAN, 1.0], DType::F32)));
    assert!(y[0].is_nan() && y[1].is_finite());
}

#[test]
fn norms() {
    for (batch, seq, width) in [(1, 1, 1), (1, 1, 5), (2, 3, 32), (3, 50, 33), (2, 70, 130)] {
        let mut random = Random(2);
        let operands =
            [random.numbers(batch * seq * width), random.numbers(width), random.numbers(width)];
        check("layer norm", &operands, |x, body| {
            let input = x[0].clone().reshape([batch, seq, width]);
            call!(body, layer_norm(input, x[1].clone(), x[2].clone(), 1e-3)).flatten(0, 2)
        });
        check("rms norm", &operands[..2], |x, body| {
            call!(body, rms_norm(x[0].clone().reshape([batch, seq, width]), x[1].clone(), 1e-3))
                .flatten(0, 2)
        });
    }
}

#[test]
fn cross_entropy() {
    for (rows, width, vocab) in [(1, 1, 1), (1, 3, 2), (5, 8, 33), (70, 17, 100)] {
        let mut random = Random(3);
        let operands = [random.numbers(rows * width), random.numbers(vocab * width)];
        let targets: Vec<i64> = (0..rows as i64).map(|i| (i * 7) % vocab as i64).collect();
        check("cross entropy", &operands, |x, body| {
            let targets = TensorData::new(targets.clone(), [rows]);
            let targets = Tensor::<1, Int>::from_data(targets, &device());
            let hidden = x[0].clone().reshape([rows, width]);
            call!(body, cross_entropy(hidden, x[1].clone().reshape([vocab, width]), targets))
        });
    }
}

/// Overridden rows: the gradient goes to them and not to the weight's rows in their place.
#[test]
fn a_table_with_overridden_rows() {
    for (rows, width, vocab, ids) in [(5, 8, 33, &[32u32, 0, 7][..]), (40, 6, 90, &[11])] {
        let mut random = Random(21);
        let operands =
            [rows * width, vocab * width, ids.len() * width].map(|len| random.numbers(len));
        // Some of the targets and inputs are overridden, some are not.
        let tokens: Vec<i64> = (0..rows as i64).map(|i| (i * 11) % vocab as i64).collect();
        check("overridden rows", &operands, |x, body| {
            let device = device();
            let tokens =
                Tensor::<1, Int>::from_data(TensorData::new(tokens.clone(), [rows]), &device);
            let table = Table {
                weight: x[1].clone().reshape([vocab, width]).into(),
                overrides: Some(RowOverride {
                    ids: ids.into(),
                    rows: x[2].clone().reshape([ids.len(), width]),
                }),
            };
            let hidden = x[0].clone().reshape([rows, width]);
            let inputs = call!(body, embedding(table.clone(), tokens.clone().reshape([1, rows])));
            let hidden = hidden + inputs.reshape([rows, width]);
            let shares = table.logits(hidden.clone()).tanh();
            call!(body, cross_entropy(hidden, table.clone(), tokens))
                + table.mix(shares).sum()
                + table.whole().powi_scalar(2).sum()
        });
    }
}

/// The second weight is widened in several parts.
#[test]
fn weights_in_bf16_give_what_their_values_give_in_f32() {
    for (rows, width, vocab) in [(3, 8, 5), (17, 96, 50_000)] {
        let mut random = Random(22);
        let (x, weight) = (random.numbers(rows * width), random.numbers(vocab * width));
        let stored = constant(&weight, DType::F32).reshape([vocab, width]).cast(DType::BF16);
        let wide = stored.clone().cast(DType::F32);
        assert_ne!(
            numbers(wide.clone()),
            weight.iter().map(|&x| f64::from(x as f32)).collect::<Vec<_>>()
        );
        let through = |weight: &Tensor<2>| {
            run(std::slice::from_ref(&x), DType::F32, |x| {
                let x = x[0].clone().reshape([1, rows, width]);
                let ids: Vec<i64> = (0..rows as i64).map(|i| (i * 13) % vocab as i64).collect();
                let ids = TensorData::new(ids, [1, rows]);
                let ids = Tensor::<2, Int>::from_data(ids, &device());
                let both = kernels::linear(x.clone(), &[weight.clone(), weight.clone()], &[]);
                let y = kernels::conv1d(both.narrow(2, vocab, vocab) / 100.0, weight.clone(), None);
                let x = x + kernels::embedding(weight.clone(), ids.clone());
                let hidden = (x + y).reshape([rows, width]) / 100.0;
                let table = Table::from(weight.clone());
                let mixed = table.mix(table.logits(hidden.clone()));
                let loss = kernels::cross_entropy(hidden, weight.clone(), ids.reshape([rows]));
                Tensor::cat(vec![mixed.flatten(0, 1), loss], 0)
            })
        };
        let (values, grads) = through(&stored);
        let (want, want_grads) = through(&wide);
        // Not to the bit: the sums of a narrower product may be blocked otherwise.
        assert_close("values", &values, &want, 1e-6);
        assert_close("gradient", &grads[0], &want_grads[0], 1e-6);
        assert!(values.iter().chain(&grads[0]).all(|x| x.is_finite()));
    }
}

/// Several blocks of rows, against the same rows one after the other.
#[test]
fn cross_entropy_in_blocks() {
    let (rows, width, vocab) = (600, 2, 50_000);
    let mut random = Random(4);
    let operands = [random.numbers(rows * width), random.numbers(vocab * width)];
    let device = device();
    let loss = |x: &[Tensor<1>], count: usize| {
        let hidden = x[0].clone().reshape([rows, width]);
        let weight = x[1].clone().reshape([vocab, width]);
        let pieces = (0..rows).step_by(count).map(|first| {
            let targets: Vec<i64> = (first..first + count).map(|i| (i * 83) as i64).collect();
            let targets = Tensor::<1, Int>::from_data(TensorData::new(targets, [count]), &device);
            kernels::cross_entropy(hidden.clone().narrow(0, first, count), weight.clone(), targets)
        });
        pieces.reduce(|a, b| a + b).unwrap()
    };
    let (values, grads) = run(&operands, DType::F32, |x| loss(x, rows));
    let (want_values, want_grads) = run(&operands, DType::F32, |x| loss(x, 100));
    assert_close("loss", &values, &want_values, 1e-5);
    assert_close("hidden", &grads[0], &want_grads[0], 1e-5);
    assert_close("weight", &grads[1], &want_grads[1], 1e-5);
}

#[test]
fn swiglu() {
    for len in [1, 9, 100, 9000] {
        let mut random = Random(9);
        let operands =
            [random.numbers(len), random.numbers(len)].map(|x| x.iter().map(|x| 5.0 * x).collect());
        check("swiglu", &operands, |x, body| call!(body, swiglu(x[0].clone(), x[1].clone())));
    }
}

#[test]
fn conv1d() {
    for (batch, seq, d_in, d_out) in [(1, 1, 1, 1), (1, 1, 7, 3), (2, 3, 16, 33), (3, 50, 9, 20)] {
        let mut random = Random(10);
        let operands = [
            random.numbers(batch * seq * d_in),
            random.numbers(d_in * d_out),
            random.numbers(d_out),
        ];
        for bias in [false, true] {
            check("conv1d", &operands[..2 + bias as usize], |x, body| {
                let input = x[0].clone().reshape([batch, seq, d_in]);
                let weight = x[1].clone().reshape([d_in, d_out]);
                call!(body, conv1d(input, weight, x.get(2).cloned())).flatten(0, 2)
            });
        }
    }
}

/// Several passes through one weight, whose gradient gathers all of them; one pass takes a view
/// that is not contiguous.
#[test]
fn conv1d_passes_share_their_weight() {
    let mut random = Random(11);
    let operands = [random.numbers(2 * 5 * 4), random.numbers(16), random.numbers(4)];
    check("conv1d passes", &operands, |x, body| {
        let weight = x[1].clone().reshape([4, 4]);
        let bias = Some(x[2].clone());
        let input = x[0].clone().reshape([2, 5, 4]);
        let y = call!(body, conv1d(input.clone(), weight.clone(), bias.clone()));
        let turned = (y + input).swap_dims(0, 1);
        let y = call!(body, conv1d(turned, weight.clone(), bias));
        call!(body, conv1d(y, weight.transpose(), None)).flatten(0, 2)
    });
}

#[test]
fn linear() {
    for (batch, seq, d_in, widths) in [
        (1, 1, 1, vec![1]),
        (2, 3, 16, vec![33]),
        (1, 1, 7, vec![3, 5]),
        (3, 50, 9, vec![20, 6, 6]),
        (2, 1, 5, vec![4, 2, 2]),
    ] {
        let mut random = Random(16);
        let mut operands = vec![random.numbers(batch * seq * d_in)];
        operands.extend(widths.iter().map(|width| random.numbers(width * d_in)));
        operands.extend(widths.iter().map(|&width| random.numbers(width)));
        for biases in [0, widths.len()] {
            let parts = widths.len();
            check("linear", &operands[..1 + parts + biases], |x, body| {
                let input = x[0].clone().reshape([batch, seq, d_in]);
                let weights = x[1..=parts].iter().zip(&widths);
                let weights: Vec<Tensor<2>> =
                    weights.map(|(x, &width)| x.clone().reshape([width, d_in])).collect();
                call!(body, linear(input, &weights, &x[1 + parts..])).flatten(0, 2)
            });
        }
    }
}

/// Several passes through the same weights, whose gradients gather all of them.
#[test]
fn linear_passes_share_their_weights() {
    let mut random = Random(17);
    let operands = [random.numbers(2 * 5 * 6), random.numbers(12), random.numbers(24)];
    check("linear passes", &operands, |x, body| {
        let weights = [x[1].clone().reshape([2, 6]), x[2].clone().reshape([4, 6])];
        let input = x[0].clone().reshape([2, 5, 6]);
        let y = call!(body, linear(input.clone(), &weights, &[]));
        let turned = (y + input).swap_dims(0, 1);
        call!(body, linear(turned, &weights, &[])).flatten(0, 2)
    });
}

/// Passes of few and of many rows through large weights: what the few give is added up in the end.
#[test]
fn shares_of_few_rows_may_wait() {
    let (d_in, d_out) = (512, 513);
    let mut random = Random(22);
    let rows = [3, 70, 1, 64, 65];
    let operands: Vec<Vec<f64>> = [d_in * d_out, d_out]
        .into_iter()
        .chain(rows.map(|rows| rows * d_in))
        .map(|len| random.numbers(len))
        .collect();
    let passes = |x: &[Tensor<1>], defer: bool| {
        let plain: [Tensor<2>; 2] = [[d_in, d_out], [d_out, d_in]].map(|s| x[0].clone().reshape(s));
        let [map, turned] = plain.map(|values| match Weight::defer(&values).filter(|_| defer) {
            Some((values, deferred)) => Weight { deferred: Some(deferred), ..values.into() },
            None => values.into(),
        });
        let bias = || Some(x[1].clone());
        let sums = x[2..].iter().zip(rows).map(|(x, rows)| {
            let x = x.clone().reshape([1, rows, d_in]);
            let y = kernels::conv1d(x.clone(), map.clone(), bias());
            (y + kernels::linear(x, std::slice::from_ref(&turned), &[])).square().sum()
        });
        Tensor::cat(sums.collect(), 0)
    };
    let [(values, grads), (want_values, want_grads)] = [true, false]
        .map(|defer| on_tested_device(|| run(&operands, DType::F32, |x| passes(x, defer))));
    assert_eq!(values, want_values);
    for (i, (got, want)) in grads.iter().zip(&want_grads).enumerate() {
        assert_close(&format!("gradient {i}"), got, want, 1e-5);
    }
    let weight = leaf(&operands[0], DType::F32).reshape([d_in, d_out]);
    assert!(Weight::defer(&weight).is_some(), "this one is on the CPU");
    let weight = constant(&operands[0], DType::F32).reshape([d_in, d_out]);
    assert!(Weight::defer(&weight).is_none(), "a constant has no gradient");
}

#[test]
fn rotary() {
    for (batch, seq, (query, key_value, dim)) in
        [(1, 1, (1, 1, 2)), (2, 3, (3, 1, 6)), (3, 50, (4, 2, 10))]
    {
        let heads = Heads { query, key_value, dim };
        let mut random = Random(18);
        let operands = [random.numbers(batch * seq * heads.qkv_width())];
        let angles = random.numbers(batch * seq * dim / 2);
        check("rotary", &operands, |x, body| {
            let angles = constant(&angles, x[0].dtype()).reshape([batch, seq, dim / 2]) * 4.0;
            let rows = x[0].clone().reshape([batch, seq, heads.qkv_width()]);
            call!(body, rotary(rows, angles.clone().cos(), angles.sin(), heads)).flatten(0, 2)
        });
    }
}

/// By hand: one query head, one key head of width 4, turned by a right angle and by none.
#[test]
fn rotary_pairs_the_halves_of_a_head() {
    let heads = Heads { query: 1, key_value: 1, dim: 4 };
    let rows: Vec<f64> = (1..=12).map(f64::from).collect();
    let tensor = |x: &[f64]| constant(x, DType::F32).unsqueeze::<3>();
    let y = kernels::rotary(tensor(&rows), tensor(&[0.0, 1.0]), tensor(&[1.0, 0.0]), heads);
    // (1, 3) → (−3, 1); (2, 4) stays; (5, 7) → (−7, 5); (6, 8) stays; values stay.
    let want = [-3.0, 2.0, 1.0, 4.0, -7.0, 6.0, 5.0, 8.0, 9.0, 10.0, 11.0, 12.0];
    assert_eq!(numbers(y), want);
}

/// What someone else holds is not turned under their hands.
#[test]
fn rotary_leaves_shared_rows_alone() {
    let heads = Heads { query: 1, key_value: 1, dim: 2 };
    let rows = constant(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], DType::F32).reshape([1, 1, 6]);
    let tensor = |x: f64| constant(&[x], DType::F32).reshape([1, 1, 1]);
    let turned = kernels::rotary(rows.clone(), tensor(0.0), tensor(1.0), heads);
    assert_eq!(numbers(rows), [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    assert_eq!(numbers(turned), [-2.0, 1.0, -4.0, 3.0, 5.0, 6.0]);
}

#[test]
fn head_norm() {
    for (batch, seq, (query, key_value, dim)) in
        [(1, 1, (1, 1, 2)), (2, 3, (3, 1, 6)), (3, 50, (4, 2, 33))]
    {
        let heads = Heads { query, key_value, dim };
        let mut random = Random(19);
        let rows = random.numbers(batch * seq * heads.qkv_width());
        let operands = [rows, random.numbers(dim), random.numbers(dim)];
        check("head norm", &operands, |x, body| {
            let rows = x[0].clone().reshape([batch, seq, heads.qkv_width()]);
            call!(body, head_norm(rows, x[1].clone(), x[2].clone(), heads, 1e-3)).flatten(0, 2)
        });
    }
}

#[test]
fn embedding() {
    for (batch, seq, vocab, width) in [(1, 1, 1, 1), (2, 3, 5, 7), (3, 70, 200, 9)] {
        let weight = Random(12).numbers(vocab * width);
        let ids: Vec<i64> = (0..(batch * seq) as i64).map(|i| (i * i * 7) % vocab as i64).collect();
        let ids = TensorData::new(ids, [batch, seq]);
        check("embedding", &[weight], |x, body| {
            let ids = Tensor::<2, Int>::from_data(ids.clone(), &device());
            call!(body, embedding(x[0].clone().reshape([vocab, width]), ids)).flatten(0, 2)
        });
    }
}

/// One table at both ends of a model.
/// Rows picked once, several times and never.
#[test]
fn pick() {
    for (height, width, rows) in [
        (1, 1, vec![0]),
        (3, 5, vec![2, 0, 2, 2]),
        (200, 33, (0..150).map(|i| i * 7 % 90).collect()),
    ] {
        let rows = RowNumbers::from(rows);
        let x = Random(8).numbers(height * width);
        check("pick", &[x], |x, body| {
            call!(body, pick(x[0].clone().reshape([height, width]), &rows)).flatten(0, 1)
        });
    }
}

#[test]
fn embedding_tied_to_the_head() {
    let weight = Random(13).numbers(90 * 6);
    let ids: Vec<i64> = (0..40).map(|i| (i * 11) % 90).collect();
    check("tied", &[weight], |x, body| {
        let device = device();
        let weight = x[0].clone().reshape([90, 6]);
        let ids = Tensor::<2, Int>::from_data(TensorData::new(ids.clone(), [4, 10]), &device);
        let hidden = call!(body, embedding(weight.clone(), ids.clone()));
        call!(body, cross_entropy(hidden.reshape([40, 6]), weight, ids.reshape([40])))
    });
}

#[test]
fn adamw() {
    let mut random = Random(14);
    let start = random.numbers(20_001);
    let settings = |step| kernels::AdamW {
        learning_rate: 0.01,
        weight_decay: 0.1,
        step,
        grad_scale: 0.7,
        ..Default::default()
    };
    let grads: Vec<_> = (0..3).map(|_| random.numbers(start.len())).collect();
    let train = |body: Body, dtype: DType| {
        let tensor = |x: &[f64]| constant(x, dtype).inner();
        let mut param = tensor(&start);
        let mut moments = [param.zeros_like(), param.zeros_like()];
        for (i, grad) in grads.iter().enumerate() {
            let step = settings(i as u64 + 1);
            (param, moments) = call!(body, adamw(param, tensor(grad), moments, &step));
        }
        let [mean, square] = moments;
        [param, mean, square].map(numbers)
    };
    // By hand, in double precision, from PyTorch's documentation of the algorithm.
    let mut want = [start.clone(), vec![0.0; start.len()], vec![0.0; start.len()]];
    for (i, grad) in grads.iter().enumerate() {
        let step = i as i32 + 1;
        for (j, grad) in grad.iter().enumerate() {
            let grad = 0.7 * grad;
            let [param, mean, square] = want.each_mut().map(|x| &mut x[j]);
            *param -= 0.01 * 0.1 * *param;
            *mean = 0.9 * *mean + 0.1 * grad;
            *square = 0.999 * *square + 0.001 * grad * grad;
            let mean_hat = *mean / (1.0 - 0.9f64.powi(step));
            let square_hat = *square / (1.0 - 0.999f64.powi(step));
            *param -= 0.01 * mean_hat / (square_hat.sqrt() + 1e-8);
        }
    }
    for (body, dtype, tolerance) in [
        (Body::Fused, DType::F32, 1e-6),
        (Body::Reference, DType::F32, 1e-6),
        (Body::Fused, DType::F64, 1e-12),
    ] {
        for (i, (got, want)) in train(body, dtype).iter().zip(&want).enumerate() {
            assert_close(&format!("adamw {i} {dtype:?}"), got, want, tolerance);
        }
    }
}

/// Storage that nobody else holds is reused; storage that someone holds is left alone.
#[test]
fn adamw_works_in_place() {
    let tensor = |x: f64| constant(&[x; 100], DType::F32).inner();
    let param = tensor(1.0);
    let kept = param.clone();
    let moments = [tensor(0.0), tensor(0.0)];
    let (moved, _) = kernels::adamw(param, tensor(1.0), moments, &kernels::AdamW::default());
    assert!(numbers(kept).iter().all(|&x| x == 1.0));
    assert!(numbers(moved).iter().all(|&x| x < 1.0));
}

#[test]
fn squared_norm() {
    let x = Random(15).numbers(50_003);
    let want: f64 = x.iter().map(|&x| f64::from(x as f32).powi(2)).sum();
    let of_parts = |x: Tensor<1>| {
        let parts = [x.clone().narrow(0, 0, 7), x.narrow(0, 7, 49_996)];
        numbers(kernels::squared_norm(&parts))[0]
    };
    let got = of_parts(constant(&x, DType::F32).inner());
    assert!((got - want).abs() <= 1e-12 * want, "{got} {want}");
    let got = of_parts(constant(&x, DType::F64).inner());
    assert!((got - want).abs() <= 1e-6 * want, "{got} {want}");
    let got = on_tested_device(|| of_parts(constant(&x, DType::F32).inner()));
    assert!((got - want).abs() <= 1e-5 * want, "{got} {want}");
}

/// A case of attention: the lengths of past chunks, the new columns, and which of them hold tokens.
struct Case {
    heads: Heads,
    past: Vec<usize>,
    new: usize,
    mask: TokenMask,
}

impl Case {
    fn new(heads: (usize, usize, usize), past: &[usize], new: usize, rows: &[&str]) -> Self {
        let (query, key_value, dim) = heads;
        let columns = past.iter().sum::<usize>() + new;
        let cells: Vec<bool> = if rows.is_empty() {
            vec![true; 2 * columns]
        } else {
            rows.iter().flat_map(|row| row.chars().map(|c| c == 'x')).collect()
        };
        let mask = TokenMask::new(cells.len() / columns, columns, cells);
        Self { heads: Heads { query, key_value, dim }, past: past.to_vec(), new, mask }
    }

    /// The same case with padding left out of the oldest chunk.
    fn unpadded(mut self) -> Self {
        let oldest = *self.past.first().unwrap_or(&self.new);
        self.mask = self.mask.unpadded(oldest);
        self
    }

    /// The same case where each row asks from a column on.
    fn queries_from(mut self, from: &[usize]) -> Self {
        self.mask = self.mask.queries_from(from);
        self
    }

    /// The same case where some columns of each row are seen by nobody.
    fn hiding(mut self, hidden: &[std::ops::Range<usize>]) -> Self {
        self.mask = self.mask.hiding(hidden);
        self
    }

    /// The cells of a chunk of columns that its tensor holds.
    fn held(&self, columns: std::ops::Range<usize>) -> Vec<(usize, usize)> {
        let all = columns.start >= self.mask.unpadded_columns();
        let cells = (0..self.mask.batch()).flat_map(|row| columns.clone().map(move |c| (row, c)));
        cells.filter(|&(row, column)| all || self.mask.row(row)[column]).collect()
    }

    /// Operands are flat: past chunks, then the new rows.
    fn operands(&self) -> Vec<Vec<f64>> {
        let mut random = Random(5);
        let mut start = 0;
        let lens = self.past.iter().chain([&self.new]).map(|len| {
            start += len;
            self.held(start - len..start).len()
        });
        lens.map(|len| random.numbers(len * self.heads.qkv_width()))
            .map(|x| x.iter().map(|x| 2.0 * x).collect())
            .collect()
    }

    /// The result, zero where it would have no meaning.
    fn attend(&self, x: &[Tensor<1>], body: Body) -> Tensor<1> {
        let (batch, width) = (self.mask.batch(), self.heads.qkv_width());
        let shape = |(chunk, x): (usize, &Tensor<1>)| {
            let rows = if chunk == 0 && self.mask.unpadded_columns() > 0 { 1 } else { batch };
            x.clone().reshape([rows as i32, -1, width as i32])
        };
        let mut chunks: Vec<Tensor<3>> = x.iter().enumerate().map(shape).collect();
        let qkv = chunks.pop().unwrap();
        let y = call!(body, attention(qkv, &chunks, self.heads, &self.mask, 0.0));
        let width = self.heads.query * self.heads.dim;
        let columns = self.mask.columns();
        let mask: Vec<f64> = (self.held(columns - self.new..columns).into_iter())
            .map(|(row, column)| self.mask.row(row)[column] && column >= self.mask.first_query(row))
            .flat_map(|meant| vec![if meant { 1.0 } else { 0.0 }; width])
            .collect();
        y.flatten::<1>(0, 2) * constant(&mask, x[0].dtype())
    }

    fn check(&self) {
        let name = format!("attention {:?} {:?} {}", self.heads, self.past, self.new);
        check(&name, &self.operands(), |x, body| self.attend(x, body));
    }
}

#[test]
fn attention_without_past() {
    for heads in [(1, 1, 1), (1, 1, 5), (4, 4, 8), (3, 3, 33), (4, 2, 6), (6, 1, 4)] {
        for new in [1, 2, 3, 17] {
            Case::new(heads, &[], new, &[]).check();
        }
    }
    Case::new((2, 2, 16), &[], 150, &[]).check(); // more than two blocks
    Case::new((2, 1, 16), &[], 130, &[]).check();
}

#[test]
fn attention_with_past() {
    for heads in [(1, 1, 5), (4, 4, 8), (4, 2, 6), (6, 1, 4)] {
        for past in [&[1][..], &[9], &[9, 1], &[5, 1, 1, 1], &[2, 7, 1]] {
            for new in [1, 2, 3, 20] {
                Case::new(heads, past, new, &[]).check();
            }
        }
    }
    Case::new((2, 2, 4), &[70, 1, 1], 80, &[]).check();
    Case::new((2, 1, 4), &[1; 15], 1, &[]).check(); // more chunks than operands
    Case::new((2, 1, 4), &[1; 15], 4, &[]).check();
}

#[test]
fn attention_with_padding() {
    for heads in [(2, 2, 4), (4, 2, 3)] {
        // Left padding, right padding, gaps in the middle, one row all padding.
        let rows = &["..xxxxxx", "xxxxxx..", "xx.x..xx", "........", "xxxxxxxx", ".....x.."];
        Case::new(heads, &[], 8, rows).check();
        for past in [&[4][..], &[5, 1], &[2, 1, 1], &[7], &[6]] {
            Case::new(heads, past, 8 - past.iter().sum::<usize>(), rows).check();
        }
    }
}

#[test]
fn attention_of_unpadded_cells_and_some_queries() {
    let rows = &["..xxxxxx", "xxxxxx..", "xx.x..xx", "........", "xxxxxxxx", ".....x.."];
    for heads in [(2, 2, 4), (4, 2, 3)] {
        for past in [&[][..], &[4], &[5, 1], &[2, 1, 1], &[7], &[6]] {
            let case = || Case::new(heads, past, 8 - past.iter().sum::<usize>(), rows);
            case().unpadded().check();
            for from in [[8, 0, 7, 3, 5, 6], [7, 4, 6, 8, 7, 5]] {
                case().queries_from(&from).check();
                case().unpadded().queries_from(&from).check();
            }
        }
        let long: String = "x".repeat(150);
        Case::new(heads, &[], 150, &[&long, &long]).queries_from(&[140, 3]).check(); // more than two blocks
    }
}

/// What is hidden is in the tensors, and changes nothing: neither what is there nor that it is there.
#[test]
fn attention_to_columns_of_which_some_are_hidden() {
    let rows = &["..xxxxxx", "xxxxxx..", "xx.x..xx", "........", "xxxxxxxx", ".....x.."];
    let hidden = [3..4, 2..4, 0..0, 1..3, 0..4, 3..4];
    for heads in [(2, 2, 4), (4, 2, 3)] {
        for past in [&[4][..], &[5, 1], &[6]] {
            let case = || Case::new(heads, past, 8 - past.iter().sum::<usize>(), rows);
            case().hiding(&hidden).check();
            case().unpadded().hiding(&hidden).check();
            case().unpadded().hiding(&hidden).queries_from(&[8, 0, 7, 3, 5, 6]).check();
        }
    }
    // Hiding a token is having none in its place.
    let all = Case::new((4, 2, 3), &[6], 2, &["xxxxxxxx", ".xxxxxxx"]).hiding(&[4..6, 5..6]);
    let gaps = Case::new((4, 2, 3), &[6], 2, &["xxxx..xx", ".xxxx.xx"]);
    let operands = all.operands().iter().map(|x| constant(x, DType::F32)).collect::<Vec<_>>();
    for body in [Body::Fused, Body::Reference] {
        let of = |case: &Case| numbers(case.attend(&operands, body));
        assert_eq!(of(&all), of(&gaps));
    }
}

/// Widths of heads as models have them, and one that no vector fits, with all that a mask can say.
#[test]
fn attention_at_widths_of_models() {
    let rows = &["...xxxxxxxxxx", "xxxxxxxxxx...", "xx.x..xxxxx.x"];
    for heads in [(4, 2, 8), (2, 2, 32), (3, 1, 33), (4, 2, 64)] {
        for past in [&[][..], &[9], &[7, 2], &[6, 1, 3]] {
            let new = 13 - past.iter().sum::<usize>();
            let case = || Case::new(heads, past, new, rows);
            case().check();
            case().unpadded().check();
            if !past.is_empty() {
                let hidden = [4..6, 0..2, 3..4];
                case().unpadded().hiding(&hidden).queries_from(&[10, 5, 11]).check();
            }
        }
    }
}

/// The fused bodies skip what does not ask: its result is zero, and so is its query's gradient. And they give the same
/// bits each time.
#[test]
fn attention_skips_columns_that_do_not_ask() {
    let rows = &["..xxxxxx", "xxxxxxxx"];
    let heads = Heads { query: 4, key_value: 2, dim: 8 };
    let case = Case::new((4, 2, 8), &[3], 5, rows).queries_from(&[6, 4]);
    let attend = || {
        run(&case.operands(), DType::F32, |x| {
            let [past, new] = [3, 5].map(|len| [2, len, heads.qkv_width()]);
            let past = x[0].clone().reshape(past);
            kernels::attention(x[1].clone().reshape(new), &[past], heads, &case.mask, 0.0)
                .flatten(0, 2)
        })
    };
    let (values, grads) = on_tested_device(attend);
    assert_eq!((&values, &grads), (&on_tested_device(attend).0, &on_tested_device(attend).1));
    let q_width = heads.query * heads.dim;
    for (row, first) in [6, 4].into_iter().enumerate() {
        for column in 0..5 {
            let cell = row * 5 + column;
            let result = &values[cell * q_width..(cell + 1) * q_width];
            let grad = &grads[1][cell * heads.qkv_width()..][..q_width];
            for part in [result, grad] {
                assert_eq!(part.iter().all(|&x| x == 0.0), column + 3 < first, "{row} {column}");
            }
        }
    }
}

/// Unpadded or not, the same numbers.
#[test]
fn attention_does_not_mind_unpadding() {
    let rows = &["..xxxxxx", "xxxxxx..", "xx.x..xx"];
    let loose = Case::new((4, 2, 3), &[6], 2, rows);
    let unpadded = Case::new((4, 2, 3), &[6], 2, rows).unpadded();
    let operands = loose.operands();
    let width = loose.heads.qkv_width();
    let cells: Vec<f64> = (0..18)
        .filter(|cell| loose.mask.row(cell / 6)[cell % 6])
        .flat_map(|cell| operands[0][cell * width..(cell + 1) * width].to_vec())
        .collect();
    let of = |case: &Case, first: &[f64]| {
        let x = [first, &operands[1]].map(|x| constant(x, DType::F32));
        numbers(case.attend(&x, Body::Fused))
    };
    assert_eq!(of(&unpadded, &cells), of(&loose, &operands[0]));
}

/// Columns of padding change nothing for the others, to the last bit where no sum runs over them.
#[test]
fn attention_ignores_padding() {
    let heads = Heads { query: 4, key_value: 2, dim: 8 };
    let width = heads.qkv_width();
    let row = Random(6).numbers(20 * width);
    let alone = constant(&row, DType::F32).reshape([1, 20, width]);
    let padded: Vec<f64> = vec![7.0; 5 * width].into_iter().chain(row).collect();
    let padded = constant(&padded, DType::F32).reshape([1, 25, width]);
    let want = kernels::attention(alone, &[], heads, &TokenMask::all(1, 20), 0.0);
    let cells: Vec<bool> = (0..25).map(|column| column >= 5).collect();
    let got = kernels::attention(padded, &[], heads, &TokenMask::new(1, 25, cells), 0.0);
    assert_eq!(numbers(got.narrow(1, 5, 20)), numbers(want));
}

/// A prefix and three later passes, each attending to all before it, as latent passes do; every
/// chunk's gradient gathers contributions from all later passes.
#[test]
fn attention_passes_share_their_past() {
    let heads = Heads { query: 4, key_value: 2, dim: 5 };
    let (batch, width, lens) = (3, heads.qkv_width(), [6, 1, 1, 4]);
    let columns: usize = lens.iter().sum();
    let cells: Vec<bool> = (0..batch * columns).map(|i| i % columns >= i / columns).collect(); // left padding
    let mut random = Random(7);
    let operands: Vec<_> = lens.iter().map(|len| random.numbers(batch * len * width)).collect();
    let passes = |x: &[Tensor<1>], body: Body| {
        let mut past: Vec<Tensor<3>> = vec![];
        let mut results = vec![];
        let mut seen = 0;
        for (x, len) in x.iter().zip(lens) {
            // Not a leaf, as a model's rows are not; and it depends on the pass before.
            let mut qkv = x.clone().reshape([batch, len, width]) * 1.5;
            if let Some(last) = results.last() {
                let last: &Tensor<3> = last;
                let [_, n, n_out] = last.dims();
                let last = last.clone().narrow(1, n - 1, 1).repeat_dim(1, len);
                let rest =
                    Tensor::zeros([batch, len, width - n_out], (&last.device(), last.dtype()));
                qkv = qkv + Tensor::cat(vec![last, rest], 2);
            }
            seen += len;
            let cells: Vec<bool> = (0..batch)
                .flat_map(|row| cells[row * columns..row * columns + seen].to_vec())
                .collect();
            let meant: Vec<f64> = (0..batch)
                .flat_map(|row| cells[row * seen + seen - len..(row + 1) * seen].to_vec())
                .map(|seen| if seen { 1.0 } else { 0.0 })
                .collect();
            let meant = constant(&meant, qkv.dtype()).reshape([batch, len, 1]);
            let mask = TokenMask::new(batch, seen, cells);
            let y = call!(body, attention(qkv.clone(), &past, heads, &mask, 0.0)) * meant;
            results.push(y);
            past.push(qkv);
        }
        Tensor::cat(results, 1).flatten(0, 2)
    };
    check("passes", &operands, passes);
}

#[test]
fn attention_stops_at_a_detached_past() {
    let heads = Heads { query: 2, key_value: 2, dim: 4 };
    let width = heads.qkv_width();
    let mut random = Random(8);
    let past = leaf(&random.numbers(2 * 3 * width), DType::F32);
    let data = random.numbers(2 * width);
    for qkv in [leaf(&data, DType::F32), constant(&data, DType::F32)] {
        let chunk = past.clone().reshape([2, 3, width]);
        let detached = chunk.clone().detach();
        let rows = qkv.clone().reshape([2, 1, width]);
        let mask = TokenMask::all(2, 4);
        let cut = kernels::attention(rows.clone(), &[detached], heads, &mask, 0.0);
        let whole = kernels::attention(rows, &[chunk], heads, &mask, 0.0);
        assert_eq!(numbers(cut.clone()), numbers(whole.clone()));
        let grads = (cut.sum() + whole.sum() * 0.0).backward();
        assert!(past.grad(&grads).map_or(vec![], numbers).iter().all(|&x| x == 0.0));
    }
}

#[test]
fn dropout_zeroes_and_rescales() {
    let heads = Heads { query: 2, key_value: 2, dim: 4 };
    let qkv = constant(&vec![1.0; 64 * heads.qkv_width()], DType::F32).reshape([
        1,
        64,
        heads.qkv_width(),
    ]);
    let y = numbers(kernels::attention(qkv, &[], heads, &TokenMask::all(1, 64), 0.5));
    let mean = y.iter().sum::<f64>() / y.len() as f64;
    assert!(y.iter().any(|&y| y != 1.0) && (mean - 1.0).abs() < 0.3, "{mean}");
}

/// Shapes are checked before a body is chosen: in f32, where it is the fused one, and in f64.
#[test]
fn shapes_that_do_not_fit_are_refused() {
    fn refused(what: &str, f: impl FnOnce() + std::panic::UnwindSafe) {
        let panic = std::panic::catch_unwind(f).expect_err(what);
        let formatted = panic.downcast_ref::<String>().map(String::as_str);
        let message = formatted.or(panic.downcast_ref::<&str>().copied()).expect("a message");
        assert!(message.contains(what), "{message}");
    }
    for dtype in [DType::F32, DType::F64] {
        let x = |len: usize| constant(&vec![1.0; len], dtype);
        let rows = move |width: usize| x(2 * width).reshape([1, 2, width]);
        let matrix = move |d: [usize; 2]| x(d[0] * d[1]).reshape(d);
        refused("one shape", move || drop(kernels::swiglu(rows(3), rows(1))));
        refused("a feature", move || drop(kernels::layer_norm(rows(3), x(3), x(1), 1e-5)));
        refused("a feature", move || drop(kernels::rms_norm(rows(3), x(1), 1e-5)));
        refused("rows of x", move || drop(kernels::conv1d(rows(3), matrix([2, 3]), None)));
        refused("a feature", move || drop(kernels::conv1d(rows(3), matrix([3, 2]), Some(x(3)))));
        refused("fits targets and head", move || {
            let targets = Tensor::<1, Int>::from_data([0, 1, 0], &device());
            drop(kernels::cross_entropy(matrix([2, 3]), matrix([4, 3]), targets));
        });
    }
}
