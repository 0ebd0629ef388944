//! What each operation costs, forward and backward, fused and by the reference body.
//!
//! `cargo bench -p coconut-kernels [-- part of a name]`

use std::time::Instant;

use burn::tensor::{Device, Distribution, Int, Tensor};
use coconut_kernels::{self as kernels, AdamW, Heads, Precision, TokenMask, Weight, reference};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const REPEATS: usize = 9;

fn random<const D: usize>(shape: [usize; D]) -> Tensor<D> {
    Tensor::random(shape, Distribution::Normal(0.0, 1.0), &Device::flex().autodiff())
}

fn leaf<const D: usize>(shape: [usize; D]) -> Tensor<D> {
    random(shape).require_grad()
}

fn ids<const D: usize>(shape: [usize; D], vocab: usize) -> Tensor<D, Int> {
    let range = Distribution::Uniform(0.0, vocab as f64 - 1.0);
    Tensor::<D>::random(shape, range, &Device::flex().autodiff()).int()
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

/// Milliseconds forward and backward.
fn time<const D: usize>(f: impl Fn() -> Tensor<D>) -> [f64; 2] {
    let mut times = [vec![], vec![]];
    for _ in 0..REPEATS {
        let start = Instant::now();
        let y = f();
        times[0].push(start.elapsed().as_secs_f64() * 1e3);
        let start = Instant::now();
        let grads = y.backward();
        times[1].push(start.elapsed().as_secs_f64() * 1e3);
        drop(grads);
    }
    times.map(median)
}

fn report(name: &str, fused: [f64; 2], plain: [f64; 2]) {
    println!(
        "{name:<44} {:>9.3} {:>9.3} {:>9.1} {:>9.1}",
        fused[0],
        fused[1],
        plain[0] / fused[0],
        plain[1] / fused[1]
    );
}

/// Times `$call` by both bodies if its name was asked for.
macro_rules! bench {
    ($name:expr, $module:ident => $call:expr) => {
        let name: String = $name;
        if std::env::args().skip(1).all(|part| part.starts_with("--") || name.contains(&part)) {
            let fused = {
                use kernels as $module;
                time(|| $call)
            };
            let plain = {
                use reference as $module;
                time(|| $call)
            };
            report(&name, fused, plain);
        }
    };
}

fn main() {
    println!("{:<44} {:>9} {:>9} {:>9} {:>9}", "", "forward", "backward", "times", "faster");
    println!("{:<44} {:>9} {:>9} {:>9} {:>9}", "", "ms", "ms", "forward", "backward");
    for (batch, seq, width) in
        [(32, 128, 128), (32, 192, 256), (4, 128, 768), (32, 1, 128), (32, 1, 768)]
    {
        let x = leaf([batch, seq, width]);
        let (weight, bias) = (leaf([width]), leaf([width]));
        let shape = format!("{batch}x{seq}x{width}");
        bench!(format!("layer_norm {shape}"), m => m::layer_norm(x.clone(), weight.clone(), bias.clone(), 1e-5));
        bench!(format!("rms_norm {shape}"), m => m::rms_norm(x.clone(), weight.clone(), 1e-5));
        let wide = leaf([batch, seq, 4 * width]);
        bench!(format!("gelu {shape}x4"), m => m::gelu(wide.clone()));
        bench!(format!("swiglu {shape}x4"), m => m::swiglu(wide.clone(), wide.clone()));
        let (up, up_bias) = (leaf([width, 4 * width]), leaf([4 * width]));
        bench!(format!("conv1d {shape} to x4"), m => m::conv1d(x.clone(), up.clone(), Some(up_bias.clone())));
        let narrow = Weight { precision: Precision::Bf16, ..up.clone().into() };
        bench!(format!("conv1d {shape} to x4 in bf16"), m => m::conv1d(x.clone(), narrow.clone(), Some(up_bias.clone())));
        let down = leaf([4 * width, width]);
        bench!(format!("linear {shape} to x4"), m => m::linear(x.clone(), std::slice::from_ref(&down), &[]));
        let table = leaf([512, width]);
        let tokens = ids([batch, seq], 512);
        bench!(format!("embedding {shape} of 512"), m => m::embedding(table.clone(), tokens.clone()));
    }
    for (batch, seq, heads, dim) in
        [(32, 128, 4, 32), (32, 192, 8, 32), (32, 192, 8, 96), (4, 128, 12, 64)]
    {
        let heads = Heads { query: heads, key_value: heads, dim };
        let mask = TokenMask::all(batch, seq);
        let qkv = leaf([batch, seq, heads.qkv_width()]);
        let shape = format!("{batch}x{seq}x{}x{dim}", heads.query);
        bench!(format!("attention {shape}"), m => m::attention(qkv.clone(), &[], heads, &mask, 0.0));
        let past = [leaf([batch, seq, heads.qkv_width()]), leaf([batch, 1, heads.qkv_width()])];
        for new in [1, 2, 4, 16] {
            let mask = TokenMask::all(batch, seq + 1 + new);
            let qkv = leaf([batch, new, heads.qkv_width()]);
            bench!(format!("attention {shape} + {new}"), m => m::attention(qkv.clone(), &past, heads, &mask, 0.0));
        }
    }
    for (batch, seq, query, key_value, dim) in [(32, 128, 4, 4, 32), (8, 128, 16, 8, 128)] {
        let heads = Heads { query, key_value, dim };
        let qkv = leaf([batch, seq, heads.qkv_width()]);
        let angles = random([batch, seq, dim / 2]);
        let (query, key) = (leaf([dim]), leaf([dim]));
        let shape = format!("{batch}x{seq}x{}", heads.qkv_width());
        bench!(format!("rotary {shape}"), m => m::rotary(qkv.clone(), angles.clone().cos(), angles.clone().sin(), heads));
        bench!(format!("head_norm {shape}"), m => m::head_norm(qkv.clone(), query.clone(), key.clone(), heads, 1e-6));
    }
    // More weights than a cache holds, and few rows: a generated token, or a latent.
    for rows in [1, 2, 8, 16, 32, 64] {
        let x = leaf([rows, 1, 576]);
        let weights: Vec<_> = (0..60).map(|_| random([1536, 576])).collect();
        bench!(format!("linear {rows} rows, 60 of 576 to 1536"), m => {
            let out = weights.iter().map(|w| m::linear(x.clone(), std::slice::from_ref(w), &[]));
            out.reduce(|a, b| a + b).unwrap_or_else(|| unreachable!("there are 60"))
        });
    }
    // Six passes that share what came before, as latent passes do.
    for (batch, seq, heads, dim) in [(32, 64, 4, 32), (8, 128, 12, 64)] {
        let heads = Heads { query: heads, key_value: heads, dim };
        let chunks: Vec<_> =
            [seq, 1, 1, 1, 1, 1, 1].map(|n| leaf([batch, n, heads.qkv_width()])).into();
        bench!(format!("six latent passes {batch}x{seq}x{}x{dim}", heads.query), m => {
            let chunks: Vec<_> = chunks.iter().map(|x| x.clone() * 1.0).collect();
            (1..7)
                .map(|i| {
                    let mask = TokenMask::all(batch, seq + i);
                    m::attention(chunks[i].clone(), &chunks[..i], heads, &mask, 0.0).sum()
                })
                .reduce(|a, b| a + b)
                .unwrap_or_else(|| unreachable!("there are six"))
        });
    }
    for (rows, width, vocab) in [(4096, 128, 512), (6144, 256, 512), (512, 768, 50_260)] {
        let (hidden, weight) = (leaf([rows, width]), leaf([vocab, width]));
        let targets = ids([rows], vocab);
        bench!(format!("cross_entropy {rows}x{width} of {vocab}"), m => m::cross_entropy(hidden.clone(), weight.clone(), targets.clone()));
    }
    let tensor = || random([4 << 20]).inner();
    let settings = AdamW::default();
    let both = [true, false].map(|fused| {
        let (mut x, mut moments, grad) = (tensor(), [tensor().abs(), tensor().abs()], tensor());
        let times = (0..REPEATS).map(|_| {
            let start = Instant::now();
            let step = if fused { kernels::adamw } else { reference::adamw };
            let empty = || Tensor::zeros([0], &Device::flex());
            let operands = (
                std::mem::replace(&mut x, empty()),
                std::mem::replace(&mut moments, [empty(), empty()]),
            );
            (x, moments) = step(operands.0, grad.clone(), operands.1, &settings);
            start.elapsed().as_secs_f64() * 1e3
        });
        [median(times.collect()), f64::NAN]
    });
    report("adamw 4Mi", both[0], both[1]);
}
