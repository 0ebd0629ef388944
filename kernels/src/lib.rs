//! Fused tensor operations for Burn, forward and backward.
//!
//! Every operation here is a plain function on [`Tensor`]. It checks shapes and chooses a body: the
//! fused one where there is one for the tensors' device and type (the CPU, in f32; for [`attention`] GPUs too, if
//! built in), and the one made of Burn's primitive operations ([`mod@reference`]) everywhere else. All give the same
//! values and gradients to rounding.
//!
//! The matrix of [`conv1d`], [`linear`], [`embedding`] and [`cross_entropy`] ([`Weight`]) may be
//! stored in bf16 if it is a constant: results are those of the same values in f32. Products with it
//! may round both sides to bf16 ([`Precision`]).

mod adamw;
pub mod allocator;
mod cpu;
#[cfg(feature = "gpu")]
mod cube;
mod heads;
pub mod host;
pub mod reference;
mod rows;
mod table;
mod token_mask;
mod weight;

use burn::tensor::{Int, Tensor};

use cpu::{fusable, readable};

pub use adamw::AdamW;
pub use cpu::{Deferred, simd};
pub use heads::Heads;
pub use rows::RowNumbers;
pub use table::{RowOverride, Table};
pub use token_mask::TokenMask;
pub use weight::{Precision, Weight};

/// Gaussian error linear unit in its tanh form, GPT-2's `gelu_new`.
///
/// `x`: any shape; the result has the same shape. Source: Hendrycks and Gimpel 2016.
pub fn gelu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    if fusable(&x) { cpu::gelu(x) } else { reference::gelu(x) }
}

/// `gate · σ(gate) · up`, the gated unit of Llama-style families.
///
/// `gate` and `up` have one shape, and so has the result. Source: Shazeer 2020.
///
/// # Panics
/// If the shapes differ.
pub fn swiglu<const D: usize>(gate: Tensor<D>, up: Tensor<D>) -> Tensor<D> {
    assert_eq!(gate.dims(), up.dims(), "gate and up have one shape");
    if fusable(&gate) && fusable(&up) { cpu::swiglu(gate, up) } else { reference::swiglu(gate, up) }
}

/// Layer norm over the last dimension with its affine part.
///
/// `x: [batch, seq, d_model]`, `weight, bias: [d_model]`; result `[batch, seq, d_model]`. Source: Ba et al. 2016.
///
/// # Panics
/// If the shapes do not fit one another.
pub fn layer_norm(x: Tensor<3>, weight: Tensor<1>, bias: Tensor<1>, eps: f64) -> Tensor<3> {
    let [_, _, d_model] = x.dims();
    assert_eq!([weight.dims(), bias.dims()], [[d_model]; 2], "one weight and bias a feature");
    if fusable(&x) && fusable(&weight) && fusable(&bias) {
        cpu::layer_norm(x, weight, bias, eps)
    } else {
        reference::layer_norm(x, weight, bias, eps)
    }
}

/// RMS norm over the last dimension with its weight.
///
/// `x: [batch, seq, d_model]`, `weight: [d_model]`; result `[batch, seq, d_model]`. Source: Zhang and
/// Sennrich 2019.
///
/// # Panics
/// If the shapes do not fit one another.
pub fn rms_norm(x: Tensor<3>, weight: Tensor<1>, eps: f64) -> Tensor<3> {
    let [_, _, d_model] = x.dims();
    assert_eq!(weight.dims(), [d_model], "one weight a feature");
    if fusable(&x) && fusable(&weight) {
        cpu::rms_norm(x, weight, eps)
    } else {
        reference::rms_norm(x, weight, eps)
    }
}

/// `x · weight + bias`, the weight stored `[d_in, d_out]` as GPT-2's `Conv1D` has it.
///
/// `x: [batch, seq, d_in]`, `bias: [d_out]`; result `[batch, seq, d_out]`.
///
/// # Panics
/// If the shapes do not fit one another.
pub fn conv1d(x: Tensor<3>, weight: impl Into<Weight>, bias: Option<Tensor<1>>) -> Tensor<3> {
    let weight = weight.into();
    let ([_, _, width], [d_in, d_out]) = (x.dims(), weight.values.dims());
    assert_eq!(width, d_in, "the weight takes rows of x");
    assert!(bias.as_ref().is_none_or(|bias| bias.dims() == [d_out]), "one bias a feature");
    if fusable(&x) && readable(&weight.values) && bias.as_ref().is_none_or(fusable) {
        cpu::conv1d(x, weight, bias)
    } else {
        reference::conv1d(x, weight, bias)
    }
}

/// `x · weightᵀ + bias` for one to three weights, stored `[d_out, d_in]` as `torch.nn.Linear` has
/// them; the results lie side by side.
///
/// `x: [batch, seq, d_in]`, `biases`: one `[d_out]` a weight, or none; result
/// `[batch, seq, Σ d_out]`.
///
/// # Panics
/// If the shapes do not fit one another.
pub fn linear<W: Clone + Into<Weight>>(
    x: Tensor<3>,
    weights: &[W],
    biases: &[Tensor<1>],
) -> Tensor<3> {
    let weights: Vec<Weight> = weights.iter().map(|weight| weight.clone().into()).collect();
    let [_, _, d_in] = x.dims();
    let sizes = || weights.iter().map(|weight| weight.values.dims()); // [d_out, d_in] each
    assert!((1..=3).contains(&weights.len()), "one to three weights");
    assert!(sizes().all(|[_, width]| width == d_in), "the weights take rows of x");
    assert!(biases.is_empty() || biases.len() == weights.len(), "a bias a weight, or none");
    assert!(sizes().zip(biases).all(|([d_out, _], b)| b.dims() == [d_out]), "one bias a feature");
    let matrices = weights.iter().all(|weight| readable(&weight.values));
    if fusable(&x) && matrices && biases.iter().all(fusable) {
        cpu::linear(x, weights, biases)
    } else {
        reference::linear(x, &weights, biases)
    }
}

/// Rotary positions: each pair `(i, i + dim/2)` of a query or key head is turned by an angle.
///
/// * `qkv: [batch, seq, (q + 2·kv) · dim]`: queries, keys and values as [`attention`] takes them; values are
///   left as they are.
/// * `cos`, `sin: [batch, seq, dim / 2]`: the angles' cosines and sines; constants.
///
/// Result: the shape of `qkv`. Source: Su et al. 2021.
///
/// # Panics
/// If the shapes do not fit one another, or `dim` is odd.
pub fn rotary(qkv: Tensor<3>, cos: Tensor<3>, sin: Tensor<3>, heads: Heads) -> Tensor<3> {
    let [batch, seq, width] = qkv.dims();
    assert_eq!(width, heads.qkv_width(), "width of a row");
    assert!(heads.dim.is_multiple_of(2), "a head has two halves");
    assert_eq!([cos.dims(), sin.dims()], [[batch, seq, heads.dim / 2]; 2], "an angle a pair");
    if fusable(&qkv) && fusable(&cos) && fusable(&sin) {
        cpu::rotary(qkv, cos, sin, heads)
    } else {
        reference::rotary(qkv, cos, sin, heads)
    }
}

/// RMS norm of every query head and every key head over its own width, as Qwen3 has it.
///
/// `qkv: [batch, seq, (q + 2·kv) · dim]`: queries, keys and values as [`attention`] takes them, values left as
/// they are; `query, key: [dim]`: the weights of all query and of all key heads. Result: the shape of `qkv`.
///
/// # Panics
/// If the shapes do not fit one another.
pub fn head_norm(
    qkv: Tensor<3>,
    query: Tensor<1>,
    key: Tensor<1>,
    heads: Heads,
    eps: f64,
) -> Tensor<3> {
    assert_eq!(qkv.dims()[2], heads.qkv_width(), "width of a row");
    assert_eq!([query.dims(), key.dims()], [[heads.dim]; 2], "one weight a feature of a head");
    if fusable(&qkv) && fusable(&query) && fusable(&key) {
        cpu::head_norm(qkv, query, key, heads, eps)
    } else {
        reference::head_norm(qkv, query, key, heads, eps)
    }
}

/// The rows of `table: [vocab, d_model]` that are picked by `ids: [batch, seq]`; result `[batch, seq, d_model]`.
///
/// # Panics
/// If an id is not below `vocab`.
pub fn embedding(table: impl Into<Table>, ids: Tensor<2, Int>) -> Tensor<3> {
    let table = table.into();
    if readable(&table.weight.values) {
        cpu::embedding(table, ids)
    } else {
        reference::embedding(table, ids)
    }
}

/// Some rows of `x: [rows, width]`, in the order of their numbers: `[numbers, width]`. A row may be picked several times
/// or never; its gradient is the sum over its places, first to last.
///
/// # Panics
/// If a number is not below `rows`.
pub fn pick(x: Tensor<2>, rows: &RowNumbers) -> Tensor<2> {
    let [height, _] = x.dims();
    assert!(rows.as_slice().iter().all(|&row| (row as usize) < height), "each row is there");
    if fusable(&x) { cpu::pick(x, rows) } else { reference::pick(x, rows) }
}

/// Causal attention of the newest columns over all columns so far.
///
/// * `qkv: [batch, new, (q + 2·kv) · dim]`: queries, keys and values of the new columns, side by side in
///   that order.
/// * `past`: the same of the earlier columns, oldest first, each `[batch, n, …]` like `qkv`. They are the
///   cache; gradients flow into them unless they were detached.
/// * `mask`: which of the `past + new` columns of each row hold tokens. A query sees the tokens up to and
///   including its own. The result at a column of padding is finite and has no meaning. The mask may say
///   that padding is left out of the oldest chunk (`qkv` if there is no past), `[1, cells, …]`
///   ([`TokenMask::unpadded`]), that some columns do not ask ([`TokenMask::queries_from`]), and that some are seen by
///   nobody ([`TokenMask::hiding`]).
/// * `dropout`: the probability with which an attention weight is zeroed (0 when evaluating).
///
/// Result: `[batch, new, q · dim]`, heads side by side; `[1, cells, q · dim]` if padding is left out of `qkv`.
///
/// # Panics
/// If the shapes do not fit one another.
pub fn attention(
    qkv: Tensor<3>,
    past: &[Tensor<3>],
    heads: Heads,
    mask: &TokenMask,
    dropout: f64,
) -> Tensor<3> {
    let shapes: Vec<[usize; 3]> = past.iter().chain([&qkv]).map(|x| x.dims()).collect();
    mask.chunks(&shapes); // they fit
    assert!(shapes.iter().all(|shape| shape[2] == heads.qkv_width()), "width of a row");
    assert!(heads.query.is_multiple_of(heads.key_value), "query heads share key heads evenly");
    if dropout == 0.0 && fusable(&qkv) && past.iter().all(fusable) {
        return cpu::attention(qkv, past, heads, mask);
    }
    #[cfg(feature = "gpu")]
    if dropout == 0.0 && cube::fusable(&qkv) && past.iter().all(cube::fusable) {
        return cube::attention(qkv, past, heads, mask);
    }
    reference::attention(qkv, past, heads, mask, dropout)
}

/// The sum over rows of the cross entropy of `hidden · headᵀ` against `targets`.
///
/// `hidden: [rows, d_model]`, `head: [vocab, d_model]`, `targets: [rows]`; result `[1]`, in nats.
/// Gradients that are needed are computed along with the loss: for evaluation, call this
/// without autodiff.
///
/// # Panics
/// If the shapes do not fit one another, or a target is not below `vocab`.
pub fn cross_entropy(
    hidden: Tensor<2>,
    head: impl Into<Table>,
    targets: Tensor<1, Int>,
) -> Tensor<1> {
    let head = head.into();
    let ([rows, d_model], [_, width]) = (hidden.dims(), head.dims());
    assert_eq!((rows, d_model), (targets.dims()[0], width), "hidden fits targets and head");
    let overrides = head.overrides.as_ref();
    assert!(overrides.is_none_or(|own| own.rows.dims() == [own.ids.len(), width]), "a row an id");
    let table = readable(&head.weight.values) && overrides.is_none_or(|own| fusable(&own.rows));
    if fusable(&hidden) && table {
        cpu::cross_entropy(hidden, head, targets)
    } else {
        reference::cross_entropy(hidden, head, targets)
    }
}

/// One step of AdamW on one parameter: the new parameter and the new moments.
///
/// All operands have one shape and no place in an autodiff graph ([`Tensor::inner`]), and neither
/// have the results. `moments` are the running means of the gradient and of its square, zeros at
/// first. Whatever storage nobody else holds is updated in place: give up the parameter
/// (`Param::consume`) rather than a clone of it.
///
/// # Panics
/// If the shapes differ.
pub fn adamw<const D: usize>(
    param: Tensor<D>,
    grad: Tensor<D>,
    moments: [Tensor<D>; 2],
    settings: &AdamW,
) -> (Tensor<D>, [Tensor<D>; 2]) {
    assert!(
        [&grad, &moments[0], &moments[1]].iter().all(|x| x.dims() == param.dims()),
        "gradient and moments have the parameter's shape"
    );
    if fusable(&param) && fusable(&grad) && moments.iter().all(fusable) {
        cpu::adamw(param, grad, moments, settings)
    } else {
        reference::adamw(param, grad, moments, settings)
    }
}

/// `Σ x²` over all elements of some tensors, `[1]`, left on their device: in double precision on the CPU, where the
/// result is in f64. Its root is the norm of all gradients; clipping it is
/// [`AdamW::grad_scale`]` = min(1, max_norm / norm)`.
///
/// # Panics
/// If there are no tensors.
pub fn squared_norm(tensors: &[Tensor<1>]) -> Tensor<1> {
    match tensors.iter().all(fusable) {
        true => cpu::squared_norm(tensors),
        false => reference::squared_norm(tensors),
    }
}
