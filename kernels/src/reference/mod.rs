//! The same operations made of Burn's primitive ones. Every device can run these bodies, and the fused ones are
//! tested against them.

mod attention;

use burn::tensor::{Int, Tensor, activation};

use crate::{AdamW, Heads, RowNumbers, Table, Weight, weight::to_f32};

pub use attention::attention;

/// See [`crate::gelu`].
pub fn gelu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    activation::gelu_approximate(x)
}

/// See [`crate::swiglu`].
pub fn swiglu<const D: usize>(gate: Tensor<D>, up: Tensor<D>) -> Tensor<D> {
    activation::silu(gate) * up
}

/// See [`crate::layer_norm`].
pub fn layer_norm(x: Tensor<3>, weight: Tensor<1>, bias: Tensor<1>, eps: f64) -> Tensor<3> {
    let centred = x.clone() - x.mean_dim(2); // [batch, seq, d_model]
    let variance = centred.clone().square().mean_dim(2); // [batch, seq, 1]
    centred / (variance + eps).sqrt() * weight.unsqueeze() + bias.unsqueeze()
}

/// See [`crate::rms_norm`].
pub fn rms_norm(x: Tensor<3>, weight: Tensor<1>, eps: f64) -> Tensor<3> {
    let mean_square = x.clone().square().mean_dim(2); // [batch, seq, 1]
    x / (mean_square + eps).sqrt() * weight.unsqueeze()
}

/// See [`crate::conv1d`].
pub fn conv1d(x: Tensor<3>, weight: impl Into<Weight>, bias: Option<Tensor<1>>) -> Tensor<3> {
    let weight = weight.into().values;
    let [batch, seq, d_in] = x.dims();
    let [_, d_out] = weight.dims();
    let y = x.reshape([batch * seq, d_in]).matmul(to_f32(weight));
    let y = match bias {
        Some(bias) => y + bias.unsqueeze(),
        None => y,
    };
    y.reshape([batch, seq, d_out])
}

/// See [`crate::linear`].
pub fn linear<W: Clone + Into<Weight>>(
    x: Tensor<3>,
    weights: &[W],
    biases: &[Tensor<1>],
) -> Tensor<3> {
    let weights = weights.iter().map(|weight| to_f32(weight.clone().into().values)).collect();
    let weight = Tensor::cat(weights, 0).transpose(); // [d_in, Σ d_out]
    let bias = (!biases.is_empty()).then(|| Tensor::cat(biases.to_vec(), 0));
    conv1d(x, weight, bias)
}

/// See [`crate::rotary`].
pub fn rotary(qkv: Tensor<3>, cos: Tensor<3>, sin: Tensor<3>, heads: Heads) -> Tensor<3> {
    let [batch, seq, qkv_width] = qkv.dims();
    let (turned, half) = (heads.query + heads.key_value, heads.dim / 2);
    let width = turned * heads.dim;
    let x = qkv.clone().narrow(2, 0, width).reshape([batch, seq, turned, heads.dim]);
    let (a, b) = (x.clone().narrow(3, 0, half), x.narrow(3, half, half)); // [batch, seq, turned, half]
    let (cos, sin) = (cos.unsqueeze_dim::<4>(2), sin.unsqueeze_dim::<4>(2));
    let first = a.clone() * cos.clone() - b.clone() * sin.clone();
    let second = b * cos + a * sin;
    let turned = Tensor::cat(vec![first, second], 3).reshape([batch, seq, width]);
    Tensor::cat(vec![turned, qkv.narrow(2, width, qkv_width - width)], 2)
}

/// See [`crate::head_norm`].
pub fn head_norm(
    qkv: Tensor<3>,
    query: Tensor<1>,
    key: Tensor<1>,
    heads: Heads,
    eps: f64,
) -> Tensor<3> {
    let [batch, seq, _] = qkv.dims();
    let (q, kv) = (heads.query * heads.dim, heads.key_value * heads.dim);
    let normed = |start: usize, width: usize, weight| {
        let x = qkv.clone().narrow(2, start, width);
        let x = x.reshape([batch, seq * width / heads.dim, heads.dim]);
        rms_norm(x, weight, eps).reshape([batch, seq, width])
    };
    let values = qkv.clone().narrow(2, q + kv, kv);
    Tensor::cat(vec![normed(0, q, query), normed(q, kv, key), values], 2)
}

/// See [`crate::embedding`].
pub fn embedding(table: impl Into<Table>, ids: Tensor<2, Int>) -> Tensor<3> {
    let [batch, seq] = ids.dims();
    let table = table.into().whole();
    let [_, d_model] = table.dims();
    table.select(0, ids.reshape([batch * seq])).reshape([batch, seq, d_model])
}

/// See [`crate::pick`].
pub fn pick(x: Tensor<2>, rows: &RowNumbers) -> Tensor<2> {
    let rows = rows.tensor(&x.device());
    x.select(0, rows)
}

/// See [`crate::cross_entropy`].
pub fn cross_entropy(
    hidden: Tensor<2>,
    head: impl Into<Table>,
    targets: Tensor<1, Int>,
) -> Tensor<1> {
    let [rows] = targets.dims();
    let logits = head.into().logits(hidden); // [rows, vocab]
    -activation::log_softmax(logits, 1).gather(1, targets.reshape([rows, 1])).sum()
}

/// See [`crate::adamw`].
pub fn adamw<const D: usize>(
    param: Tensor<D>,
    grad: Tensor<D>,
    [mean, square]: [Tensor<D>; 2],
    settings: &AdamW,
) -> (Tensor<D>, [Tensor<D>; 2]) {
    let (rate, root) = settings.corrections();
    let (beta1, beta2) = settings.betas;
    let grad = grad * settings.grad_scale;
    let mean = mean * beta1 + grad.clone() * (1.0 - beta1);
    let square = square * beta2 + grad.square() * (1.0 - beta2);
    let step = mean.clone() / (square.clone().sqrt() / root + settings.eps) * rate;
    let param = param * (1.0 - settings.learning_rate * settings.weight_decay) - step;
    (param, [mean, square])
}

/// See [`crate::squared_norm`].
pub fn squared_norm(tensors: &[Tensor<1>]) -> Tensor<1> {
    let sums = tensors.iter().map(|x| x.clone().square().sum());
    Tensor::cat(sums.collect(), 0).sum()
}
