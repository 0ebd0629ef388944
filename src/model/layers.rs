//! The layers of a block: tables, linear layers with their adapters, norms. Field names are the checkpoint's keys.

use burn::{
    module::{Module, Param},
    tensor::{DType, Distribution, Int, Tensor, activation},
};
use coconut_kernels::{self as kernels, Deferred, Precision, RowOverride, Table, Weight};

use super::config::Activation;

/// A table of vectors, `weight: [rows, d_model]`.
#[derive(Module, Debug)]
pub struct Embedding {
    /// `[rows, d_model]`.
    pub weight: Param<Tensor<2>>,
    /// Rows that override the weight's.
    pub token_adapter: Option<TokenAdapter>,
}

/// Rows of a table that are trained while it is frozen.
#[derive(Module, Debug)]
pub struct TokenAdapter {
    /// The rows themselves, `[ids, d_model]`; PEFT's name says otherwise.
    pub trainable_tokens_delta: Param<Tensor<2>>,
    /// Token ids whose rows this adapter replaces.
    #[module(skip)]
    pub ids: Vec<u32>,
}

impl Embedding {
    /// `ids: [batch, seq]` → `[batch, seq, d_model]`.
    pub fn forward(&self, ids: Tensor<2, Int>) -> Tensor<3> {
        kernels::embedding(self.table(Precision::F32), ids)
    }

    /// The table with its overrides, for products in `precision`.
    pub fn table(&self, precision: Precision) -> Table {
        let overrides = self.token_adapter.as_ref().map(|own| RowOverride {
            ids: own.ids.as_slice().into(),
            rows: own.trainable_tokens_delta.val(),
        });
        let weight = Weight { precision, ..self.weight.val().into() };
        Table { weight, overrides }
    }
}

impl From<Param<Tensor<2>>> for Embedding {
    fn from(weight: Param<Tensor<2>>) -> Self {
        Self { weight, token_adapter: None }
    }
}

/// A low-rank term `scale · B A x` of a linear layer's output. The keys are PEFT's, `lora_A` and `lora_B`.
#[derive(Module, Debug)]
pub struct Adapter {
    /// `[r, d_in]`.
    pub a: Factor,
    /// `[d_out, r]`.
    pub b: Factor,
    /// The factor of the term, `α/r` or `α/√r`.
    #[module(skip)]
    pub scale: f64,
    /// Probability of dropout of `x` in training.
    #[module(skip)]
    pub dropout: f64,
}

/// One of an adapter's two matrices.
#[derive(Module, Debug)]
pub struct Factor {
    /// `[out, in]`.
    pub weight: Param<Tensor<2>>,
}

impl Adapter {
    /// `[batch, seq, d_in]` → `[batch, seq, d_out]`.
    fn forward(&self, x: Tensor<3>, precision: Precision) -> Tensor<3> {
        let x = dropout(x, self.dropout);
        let [a, b] =
            [&self.a, &self.b].map(|factor| Weight { precision, ..factor.weight.val().into() });
        let low = kernels::linear(x, &[a], &[]); // [batch, seq, r]
        kernels::linear(low * self.scale, &[b], &[])
    }

    /// What the adapter adds to a weight, `[d_out, d_in]`.
    pub fn change(&self) -> Tensor<2> {
        self.b.weight.val().matmul(self.a.weight.val()) * self.scale
    }
}

/// A linear layer whose weight is stored `[d_in, d_out]`, as GPT-2's `Conv1D` is.
#[derive(Module, Debug)]
pub struct Conv1d {
    /// `[d_in, d_out]`.
    pub weight: Param<Tensor<2>>,
    /// `[d_out]`.
    pub bias: Param<Tensor<1>>,
    /// A trained term, while weight and bias are frozen.
    pub adapter: Option<Adapter>,
    /// Where passes of few rows leave their share of the weight's gradient, if they do.
    #[module(skip)]
    pub deferred: Option<Deferred>,
}

impl Conv1d {
    /// `[batch, seq, d_in]` → `[batch, seq, d_out]`.
    pub fn forward(&self, x: Tensor<3>, precision: Precision) -> Tensor<3> {
        let deferred = self.deferred.clone();
        let weight = Weight { values: self.weight.val(), precision, deferred };
        let y = kernels::conv1d(x.clone(), weight, Some(self.bias.val()));
        self.adapter.iter().fold(y, |y, adapter| y + adapter.forward(x.clone(), precision))
    }
}

/// A linear layer whose weight is stored `[d_out, d_in]`, as `torch.nn.Linear` is.
#[derive(Module, Debug)]
pub struct Linear {
    /// `[d_out, d_in]`.
    pub weight: Param<Tensor<2>>,
    /// `[d_out]`.
    pub bias: Option<Param<Tensor<1>>>,
    /// A trained term, while weight and bias are frozen.
    pub adapter: Option<Adapter>,
    /// Where passes of few rows leave their share of the weight's gradient, if they do.
    #[module(skip)]
    pub deferred: Option<Deferred>,
}

impl Linear {
    /// `[batch, seq, d_in]` → `[batch, seq, d_out]`.
    pub fn forward(&self, x: Tensor<3>, precision: Precision) -> Tensor<3> {
        fused_linears(x, [self], precision)
    }
}

/// A linear layer of a block, which can have an adapter.
pub enum LinearMut<'a> {
    /// A layer whose weight is `[d_out, d_in]`.
    Linear(&'a mut Linear),
    /// A layer whose weight is `[d_in, d_out]`.
    Conv1d(&'a mut Conv1d),
}

impl LinearMut<'_> {
    /// `d_in` and `d_out`.
    pub fn sizes(&self) -> [usize; 2] {
        match self {
            Self::Linear(linear) => {
                let [d_out, d_in] = linear.weight.dims();
                [d_in, d_out]
            }
            Self::Conv1d(linear) => linear.weight.dims(),
        }
    }

    /// The weight, in its own order of dimensions.
    pub fn weight(&mut self) -> &mut Param<Tensor<2>> {
        match self {
            Self::Linear(linear) => &mut linear.weight,
            Self::Conv1d(linear) => &mut linear.weight,
        }
    }

    /// The place of the adapter.
    pub fn adapter(&mut self) -> &mut Option<Adapter> {
        match self {
            Self::Linear(linear) => &mut linear.adapter,
            Self::Conv1d(linear) => &mut linear.adapter,
        }
    }

    /// Lets passes of few rows add up their shares of the weight's gradient in one product.
    pub fn defer(&mut self) {
        let Some((weight, deferred)) = Weight::defer(&self.weight().val()) else { return };
        let weight = Param::initialized(self.weight().id, weight);
        match self {
            Self::Linear(linear) => (linear.weight, linear.deferred) = (weight, Some(deferred)),
            Self::Conv1d(linear) => (linear.weight, linear.deferred) = (weight, Some(deferred)),
        }
    }

    /// Adds the adapter to the weight.
    pub fn merge(&mut self) {
        let Some(adapter) = self.adapter().take() else { return };
        let change = match self {
            Self::Linear(_) => adapter.change(),
            Self::Conv1d(_) => adapter.change().transpose(),
        };
        let weight = self.weight();
        *weight = Param::from_tensor(to_f32(weight) + change);
    }
}

/// A weight's values in f32.
fn to_f32(weight: &Param<Tensor<2>>) -> Tensor<2> {
    weight.val().cast(DType::F32)
}

/// Up to three linear layers of one input in one product, of which all or none have a bias; results lie side by side:
/// `[batch, seq, d_in]` → `[batch, seq, Σ d_out]`.
pub fn fused_linears<const N: usize>(
    x: Tensor<3>,
    linears: [&Linear; N],
    precision: Precision,
) -> Tensor<3> {
    let weights = linears.map(|linear| {
        let deferred = linear.deferred.clone();
        Weight { values: linear.weight.val(), precision, deferred }
    });
    let biases: Vec<_> =
        linears.iter().filter_map(|linear| Some(linear.bias.as_ref()?.val())).collect();
    let y = kernels::linear(x.clone(), &weights, &biases);
    if linears.iter().all(|linear| linear.adapter.is_none()) {
        return y;
    }
    let [batch, seq, _] = x.dims();
    let terms = linears.map(|linear| match &linear.adapter {
        Some(adapter) => adapter.forward(x.clone(), precision),
        None => {
            let width = linear.weight.dims()[0];
            x.clone().narrow(2, 0, 1).zeros_like().expand([batch, seq, width])
        }
    });
    y + Tensor::cat(terms.to_vec(), 2)
}

/// Layer norm with its affine part.
#[derive(Module, Debug)]
pub struct LayerNorm {
    /// `[d_model]`.
    pub weight: Param<Tensor<1>>,
    /// `[d_model]`.
    pub bias: Param<Tensor<1>>,
}

impl LayerNorm {
    /// Shape kept.
    pub fn forward(&self, x: Tensor<3>, eps: f64) -> Tensor<3> {
        kernels::layer_norm(x, self.weight.val(), self.bias.val(), eps)
    }
}

/// RMS norm with its weight.
#[derive(Module, Debug)]
pub struct RmsNorm {
    /// `[width]`.
    pub weight: Param<Tensor<1>>,
    /// What is added to the weight: 1 in Gemma, whose weights are kept as what they differ from it.
    #[module(skip)]
    pub offset: f64,
}

impl RmsNorm {
    /// Shape kept.
    pub fn forward(&self, x: Tensor<3>, eps: f64) -> Tensor<3> {
        kernels::rms_norm(x, self.scale(), eps)
    }

    /// What the normed values are multiplied by, `[width]`.
    pub fn scale(&self) -> Tensor<1> {
        let weight = self.weight.val();
        if self.offset == 0.0 { weight } else { weight + self.offset }
    }
}

impl Activation {
    /// Shape kept.
    pub fn of<const D: usize>(self, x: Tensor<D>) -> Tensor<D> {
        match self {
            // x · Φ(x) = ½x(1 + erf(x/√2))
            Self::Gelu => {
                let cdf = ((x.clone() * std::f64::consts::FRAC_1_SQRT_2).erf() + 1.0) * 0.5;
                x * cdf
            }
            Self::GeluTanh => kernels::gelu(x),
            Self::Silu => activation::silu(x),
        }
    }
}

/// Zeroes elements with probability `p` and scales the rest by `1 / (1 − p)`.
///
/// Active on tensors with autodiff, that is in training; the identity elsewhere. The device's
/// generator is seeded by the trainer before each step.
pub fn dropout<const D: usize>(x: Tensor<D>, p: f64) -> Tensor<D> {
    if p == 0.0 || !x.is_autodiff() {
        return x;
    }
    let keep = x.random_like(Distribution::Bernoulli(1.0 - p)).detach();
    x * keep / (1.0 - p)
}
