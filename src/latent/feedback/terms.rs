//! Computing an expression at each row's own position, and its learned parts.
//!
//! `suppressed`: with W the output head, Δ_l = W⁺ W (h^{l+1} − h^l). Where W has full column rank, W⁺ W is
//! the identity and nothing of the vocabulary's size is computed; where the vocabulary is smaller than
//! the width, W⁺ W projects on the span of W's rows ([`row_space`]). The mask is a constant; gradients
//! flow through h^{l+1}.

use burn::{
    module::{Module, Param},
    tensor::{Device, Tensor, TensorData, activation},
};
use coconut_kernels as kernels;

use super::{Reinject, Term};
use crate::{
    latent::Thinking,
    model::{
        HiddenStates, Transformer,
        layers::{Conv1d, LayerNorm},
    },
    rng,
};

/// The learned parts of an expression, in the order in which they are written.
#[derive(Module, Debug)]
pub struct Learned {
    /// One a `proj`.
    pub proj: Vec<Conv1d>,
    /// One an `mlp`.
    pub mlp: Vec<ThoughtMlp>,
    /// One a `pause`.
    pub pause: Vec<Vector>,
}

/// Layer norm, linear to four times the width, GELU, linear back.
#[derive(Module, Debug)]
pub struct ThoughtMlp {
    /// On the input.
    pub ln: LayerNorm,
    /// `d_model` → `4·d_model`.
    pub c_fc: Conv1d,
    /// `4·d_model` → `d_model`.
    pub c_proj: Conv1d,
}

/// A learned vector.
#[derive(Module, Debug)]
pub struct Vector {
    /// `[d_model]`.
    pub weight: Param<Tensor<1>>,
}

impl Learned {
    /// Fresh parts of width `d`: `proj` the identity, the others normal with `std`.
    pub fn new(reinject: &Reinject, d: usize, std: f64, seed: u64, device: &Device) -> Self {
        let [projs, mlps, pauses] = reinject.learned();
        let mut rng = rng::stream(seed, &[rng::THOUGHTS]);
        let mut normal = |shape: [usize; 2]| {
            let values: Vec<f32> = rng::normals(&mut rng, shape[0] * shape[1], std as f32);
            Tensor::<2>::from_data(TensorData::new(values, shape), device)
        };
        let ones = |n| Param::from_tensor(Tensor::<1>::ones([n], device));
        let zeros = |n| Param::from_tensor(Tensor::<1>::zeros([n], device));
        let linear = |weight: Tensor<2>| {
            let [_, d_out] = weight.dims();
            Conv1d { weight: Param::from_tensor(weight), bias: zeros(d_out), adapter: None }
        };
        Self {
            proj: (0..projs).map(|_| linear(Tensor::eye(d, device))).collect(),
            mlp: (0..mlps)
                .map(|_| ThoughtMlp {
                    ln: LayerNorm { weight: ones(d), bias: zeros(d) },
                    c_fc: linear(normal([d, 4 * d])),
                    c_proj: linear(normal([4 * d, d])),
                })
                .collect(),
            pause: (0..pauses)
                .map(|_| Vector { weight: Param::from_tensor(normal([1, d]).reshape([d])) })
                .collect(),
        }
    }
}

/// What the latents of one pass are made of.
#[derive(Debug)]
pub struct Source<'a> {
    /// The pass before.
    pub states: &'a HiddenStates,
    /// Its input embeddings, which lie as its states do: `[batch, seq, d_model]` or `[1, cells, d_model]`.
    pub inputs: &'a Tensor<3>,
    /// The first pass's input embeddings; `compat: replication` reads them.
    pub first: &'a Tensor<3>,
    /// For each row, the column of the pass before to feed back.
    pub columns: &'a [usize],
    /// The span of the head's rows where it is not everything ([`row_space`]).
    pub row_space: Option<&'a Tensor<2>>,
}

impl Source<'_> {
    /// Hidden state `k` at each row's column: `[batch, 1, d_model]`.
    fn state(&self, k: usize) -> Tensor<3> {
        self.states.column(k, self.columns)
    }
}

impl Reinject {
    /// Whether any term reads differences of hidden states through the head.
    pub fn reads_head(&self) -> bool {
        self.any(&|term| matches!(term, Term::Suppressed(_)))
    }

    /// The thoughts: `[batch, 1, d_model]`.
    pub fn thoughts(
        &self,
        model: &Transformer,
        learned: &Learned,
        thinking: &Thinking,
        source: &Source,
    ) -> Tensor<3> {
        let term = |term| self.term(term, model, learned, thinking, source);
        let mut terms = self.terms.iter().map(term);
        let first = terms.next().unwrap_or_else(|| source.state(0).detach().zeros_like());
        terms.fold(first, |sum, x| sum + x)
    }

    fn term(
        &self,
        term: &Term,
        model: &Transformer,
        learned: &Learned,
        thinking: &Thinking,
        source: &Source,
    ) -> Tensor<3> {
        let replication = thinking.replicates();
        let inner = |x: &Self| x.thoughts(model, learned, thinking, source);
        let n = source.states.all().len();
        let state = |k: usize| {
            let raw = thinking.last_state_unnormed && k + 1 == n;
            match raw {
                true => source.states.last_cells().column(source.states.unnormed(), source.columns),
                false => source.state(k),
            }
        };
        let zero = || state(0).detach().zeros_like();
        match term {
            Term::Hidden(index) => index
                .resolve(n, n, replication)
                .map(state)
                .reduce(|a, b| a + b)
                .unwrap_or_else(zero),
            Term::Input if replication => {
                // inputs_embeds[:, :To][:, -1]: the pass's length counted from the row's start.
                let [_, columns, _] = source.first.dims();
                let last = source.inputs.dims()[1].min(columns) - 1;
                source.first.clone().narrow(1, last, 1)
            }
            Term::Input => source.states.cells().column(source.inputs.clone(), source.columns),
            Term::Suppressed(index) => {
                let kept = |l: usize| {
                    let after = state(l + 1);
                    let mut change = after.clone().detach() - state(l).detach();
                    if let Some(basis) = source.row_space {
                        let [batch, _, d] = change.dims();
                        let coefficients =
                            change.reshape([batch, d]).matmul(basis.clone().transpose());
                        change = coefficients.matmul(basis.clone()).reshape([batch, 1, d]);
                    }
                    let epsilon = thinking.suppressed_epsilon;
                    let mask = if thinking.suppressed_relative {
                        let rms = after.clone().detach().square().mean_dim(2).sqrt(); // [batch, 1, 1]
                        (change + rms * epsilon).lower_elem(0.0)
                    } else {
                        change.lower_elem(-epsilon)
                    };
                    after * mask.float()
                };
                index
                    .resolve(n - 1, n, replication)
                    .map(kept)
                    .reduce(|a, b| a + b)
                    .unwrap_or_else(zero)
            }
            Term::Norm(x) => {
                let x = inner(x);
                let norm = (x.clone().square().sum_dim(2) + 1e-12).sqrt(); // [batch, 1, 1]
                x / norm * mean_length(model).unsqueeze()
            }
            Term::Proj(x, number) => {
                learned.proj[*number].forward(inner(x), model.config.precision)
            }
            Term::Mlp(x, number) => {
                let mlp = &learned.mlp[*number];
                let x = mlp.ln.forward(inner(x), 1e-5);
                let precision = model.config.precision;
                let x = kernels::gelu(mlp.c_fc.forward(x, precision));
                mlp.c_proj.forward(x, precision)
            }
            Term::Soft(temperature) => {
                let last = source.state(n - 1);
                let [batch, _, d] = last.dims();
                let logits = model.logits(last.reshape([batch, d])) / *temperature; // [batch, vocab]
                let shares = activation::softmax(logits, 1);
                model.embeddings().mix(shares).reshape([batch, 1, d])
            }
            Term::Zero => zero(),
            Term::Pause(number) => {
                let weight = learned.pause[*number].weight.val();
                let (batch, [d]) = (source.columns.len(), weight.dims());
                weight.reshape([1, 1, d]).expand([batch, 1, d])
            }
        }
    }
}

/// The mean length of the token embeddings, `[1]`: a constant, so that embeddings do not grow to be fed
/// back larger.
pub fn mean_length(model: &Transformer) -> Tensor<1> {
    model.embeddings().whole().detach().square().sum_dim(1).sqrt().mean()
}

/// An orthonormal basis of the span of the head's rows, `[rank, d_model]`, by Gram–Schmidt in double
/// precision; `None` if the vocabulary is at least as large as the width, where the span is taken to be
/// everything.
pub fn row_space(model: &Transformer) -> Option<Tensor<2>> {
    let head = model.head().whole();
    let [vocab, d] = head.dims();
    if vocab >= d {
        return None;
    }
    let values = head.clone().into_data().convert::<f64>().try_into_vec::<f64>().ok()?;
    let mut basis: Vec<Vec<f64>> = Vec::new();
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    for row in values.chunks(d) {
        let (mut rest, length) = (row.to_vec(), dot(row, row).sqrt());
        for _ in 0..2 {
            for unit in &basis {
                let along = dot(unit, &rest);
                rest.iter_mut().zip(unit).for_each(|(x, u)| *x -= along * u);
            }
        }
        let left = dot(&rest, &rest).sqrt();
        if left > 1e-6 * length {
            basis.push(rest.into_iter().map(|x| x / left).collect());
        }
    }
    let rank = basis.len();
    let values: Vec<f32> = basis.concat().into_iter().map(|x| x as f32).collect();
    (rank > 0).then(|| {
        // A constant on the side of autodiff that the states are on.
        let basis = Tensor::<2>::from_data(TensorData::new(values, [rank, d]), &head.device());
        if head.is_autodiff() && !basis.is_autodiff() { Tensor::from_inner(basis) } else { basis }
    })
}
