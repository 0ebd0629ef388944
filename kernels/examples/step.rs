//! Milliseconds of one training step of a GPT, fused against reference bodies.
//!
//! `cargo run --release --workspace --example step [-- reference] [number of the shape]`
//!
//! With `paced`, each step waits for a line of standard input and answers with its milliseconds, so
//! that another program can take turns with it (`python/compare/compare_step.py`).

use std::time::Instant;

use burn::tensor::{Device, Distribution, Int, Tensor};
use coconut_kernels::{self as kernels, AdamW, Heads, TokenMask, reference};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// A parameter of either rank with its moments; off the graph between steps.
struct Param<const D: usize> {
    value: Tensor<D>,
    moments: [Tensor<D>; 2],
}

impl<const D: usize> Param<D> {
    fn new(shape: [usize; D], device: &Device) -> Self {
        let value = Tensor::random(shape, Distribution::Normal(0.0, 0.02), device);
        let moments = [value.zeros_like(), value.zeros_like()];
        Self { value, moments }
    }
}

struct Block {
    norms: [Param<1>; 4],
    weights: [Param<2>; 4],
    biases: [Param<1>; 4],
}

struct Gpt {
    tokens: Param<2>,
    positions: Param<2>,
    head: Param<2>,
    norm: [Param<1>; 2],
    blocks: Vec<Block>,
    heads: Heads,
}

/// The parameters of one step on the graph, in the order of [`Gpt::params`].
#[derive(Default)]
struct Leaves {
    matrices: Vec<Tensor<2>>,
    vectors: Vec<Tensor<1>>,
}

impl Gpt {
    fn new(shape: &Shape, device: &Device) -> Self {
        let Shape { vocab, tokens, width, heads, layers, .. } = *shape;
        let vector = |len| Param::new([len], device);
        let matrix = |d_in, d_out| Param::new([d_in, d_out], device);
        let block = |_| Block {
            norms: [width; 4].map(vector),
            weights: [(width, 3 * width), (width, width), (width, 4 * width), (4 * width, width)]
                .map(|(d_in, d_out)| matrix(d_in, d_out)),
            biases: [3 * width, width, 4 * width, width].map(vector),
        };
        Self {
            tokens: matrix(vocab, width),
            positions: matrix(tokens, width),
            head: matrix(vocab, width),
            norm: [width; 2].map(vector),
            blocks: (0..layers).map(block).collect(),
            heads: Heads { query: heads, key_value: heads, dim: width / heads },
        }
    }

    fn params(&mut self) -> (Vec<&mut Param<2>>, Vec<&mut Param<1>>) {
        let mut matrices = vec![&mut self.tokens, &mut self.positions, &mut self.head];
        let mut vectors: Vec<_> = self.norm.iter_mut().collect();
        for block in &mut self.blocks {
            matrices.extend(&mut block.weights);
            vectors.extend(block.norms.iter_mut().chain(&mut block.biases));
        }
        (matrices, vectors)
    }

    fn leaves(&mut self) -> Leaves {
        let (matrices, vectors) = self.params();
        Leaves {
            matrices: matrices.iter().map(|x| x.value.clone().autodiff().require_grad()).collect(),
            vectors: vectors.iter().map(|x| x.value.clone().autodiff().require_grad()).collect(),
        }
    }
}

/// Mean cross entropy over all positions.
fn loss(
    x: &Leaves,
    heads: Heads,
    ids: &Tensor<2, Int>,
    targets: &Tensor<1, Int>,
    fused: bool,
) -> Tensor<1> {
    macro_rules! call {
        ($name:ident($($argument:expr),* $(,)?)) => {
            if fused { kernels::$name($($argument),*) } else { reference::$name($($argument),*) }
        };
    }
    let [batch, seq] = ids.dims();
    let width = heads.query * heads.dim;
    let mask = TokenMask::all(batch, seq);
    let places = Tensor::<1, Int>::arange(0..seq as i64, &ids.device()).unsqueeze::<2>();
    let matrix = |i: usize| x.matrices[i].clone();
    let vector = |i: usize| x.vectors[i].clone();
    let conv1d = |h: Tensor<3>, block: usize, i: usize| {
        let bias = vector(2 + 8 * block + 4 + i);
        call!(conv1d(h, matrix(3 + 4 * block + i), Some(bias)))
    };
    let norm =
        |h: Tensor<3>, first: usize| call!(layer_norm(h, vector(first), vector(first + 1), 1e-5));
    let mut h = call!(embedding(matrix(0), ids.clone())) + call!(embedding(matrix(1), places));
    for block in 0..(x.vectors.len() - 2) / 8 {
        let qkv = conv1d(norm(h.clone(), 2 + 8 * block), block, 0);
        let a = call!(attention(qkv, &[], heads, &mask, 0.0));
        h = h + conv1d(a, block, 1);
        let u = conv1d(norm(h.clone(), 2 + 8 * block + 2), block, 2);
        h = h + conv1d(call!(gelu(u)), block, 3);
    }
    let h = norm(h, 0).reshape([batch * seq, width]);
    call!(cross_entropy(h, matrix(2), targets.clone())) / (batch * seq) as f64
}

/// Updates one parameter in place.
fn update<const D: usize>(param: &mut Param<D>, grad: Tensor<D>, settings: &AdamW) {
    let empty = || Tensor::zeros([0; D], &param.value.device());
    let [a, b, c] = [empty(), empty(), empty()];
    let value = std::mem::replace(&mut param.value, a);
    let moments = std::mem::replace(&mut param.moments, [b, c]);
    (param.value, param.moments) = kernels::adamw(value, grad, moments, settings);
}

#[derive(Clone, Copy)]
struct Shape {
    vocab: usize,
    tokens: usize,
    width: usize,
    heads: usize,
    layers: usize,
    batch: usize,
}

fn measure(shape: Shape, fused: bool, steps: usize, paced: bool) {
    let device = Device::flex();
    let Shape { vocab, tokens, width, heads, layers, batch } = shape;
    let mut gpt = Gpt::new(&shape, &device);
    let ids = |shape| {
        let range = Distribution::Uniform(0.0, vocab as f64 - 1.0);
        Tensor::<2>::random(shape, range, &device).int()
    };
    let x = ids([batch, tokens]);
    let y = ids([batch, tokens]).reshape([batch * tokens]);
    let mut times = vec![];
    let mut last = 0.0;
    for step in 1..=steps {
        if paced && std::io::stdin().read_line(&mut String::new()).is_ok_and(|read| read == 0) {
            return;
        }
        let start = Instant::now();
        let leaves = gpt.leaves();
        let loss = loss(&leaves, gpt.heads, &x, &y, fused);
        last = loss.clone().into_scalar::<f32>();
        let forward = start.elapsed();
        let mut grads = loss.backward();
        let backward = start.elapsed();
        let missing = "every parameter takes part";
        let matrices: Vec<_> =
            leaves.matrices.iter().map(|x| x.grad_remove(&mut grads).expect(missing)).collect();
        let vectors: Vec<_> =
            leaves.vectors.iter().map(|x| x.grad_remove(&mut grads).expect(missing)).collect();
        drop((leaves, grads));
        let flat = matrices.iter().map(|x| x.clone().flatten(0, 1)).chain(vectors.iter().cloned());
        let norm = kernels::squared_norm(&flat.collect::<Vec<_>>()).into_scalar::<f64>().sqrt();
        let settings = AdamW {
            learning_rate: 1e-4,
            step: step as u64,
            grad_scale: (1.0 / norm).min(1.0),
            ..Default::default()
        };
        let (matrix_params, vector_params) = gpt.params();
        for (param, grad) in matrix_params.into_iter().zip(matrices) {
            update(param, grad, &settings);
        }
        for (param, grad) in vector_params.into_iter().zip(vectors) {
            update(param, grad, &settings);
        }
        let all = start.elapsed();
        if paced {
            println!("{}", all.as_secs_f64() * 1e3);
        }
        times.push(
            [all, forward, backward - forward, all - backward].map(|t| t.as_secs_f64() * 1e3),
        );
    }
    times.sort_by(|a, b| a[0].total_cmp(&b[0]));
    let [all, forward, backward, optimizer] = times[times.len() / 2];
    println!(
        "{vocab}/{tokens}/{width}/{heads}/{layers}/{batch}: {all:.0} ms (forward {forward:.0}, \
         backward {backward:.0}, optimizer {optimizer:.0}), fastest {:.0}, loss {last:.4}",
        times[0][0]
    );
}

fn main() {
    kernels::allocator::keep_freed_memory();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let fused = !arguments.iter().any(|x| x == "reference");
    let paced = arguments.iter().any(|x| x == "paced");
    let only = arguments.iter().find_map(|x| x.parse::<usize>().ok());
    let shapes = [
        (512, 128, 128, 4, 4, 32),
        (512, 192, 256, 8, 4, 32),
        (512, 192, 768, 8, 2, 32),
        (50260, 128, 768, 12, 12, 4),
    ];
    for (i, (vocab, tokens, width, heads, layers, batch)) in shapes.into_iter().enumerate() {
        if only.is_none_or(|only| only == i) {
            let shape = Shape { vocab, tokens, width, heads, layers, batch };
            let steps = if paced {
                usize::MAX - 1
            } else if i < 2 {
                9
            } else {
                5
            };
            measure(shape, fused, steps, paced);
        }
    }
}
