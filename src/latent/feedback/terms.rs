//! Computing an expression at each row's own position, and its learned parts.
//!
//! `suppressed`: with W the output head, Δ_l = W⁺ W (h^{l+1} − h^l). Where W has full column rank, W⁺ W is
//! the identity and nothing of the vocabulary's size is computed; where its rank is lower, W⁺ W projects on the
//! span of W's rows ([`row_space`]). The mask is a constant; gradients
//! flow through h^{l+1}.

use burn::{
    module::{Module, Param},
    tensor::{Device, Float, Tensor, TensorData, activation},
};
use coconut_kernels::{self as kernels, host};

use super::{Feedback, LearnedParts, Term};
use crate::{
    latent::LatentConfig,
    linalg::{extend_basis, surely_span},
    model::{
        HiddenStates, TokenLayout, Transformer,
        config::Activation,
        layers::{Conv1d, LayerNorm},
        parameters::constant_like,
    },
    rng,
};

/// The learned parts of an expression, in the order in which they are written.
#[derive(Module, Debug)]
pub struct Learned {
    /// The maps of the `proj`s.
    pub proj: Vec<Conv1d>,
    /// The networks of the `mlp`s.
    pub mlp: Vec<ThoughtMlp>,
    /// The norms of the `ln`s.
    pub ln: Vec<LayerNorm>,
    /// The vectors of the `pause`s.
    pub pause: Vec<Vector>,
}

/// Linear, GELU, linear back.
#[derive(Module, Debug)]
pub struct ThoughtMlp {
    /// On the input, if no width is given; the GELU is then GPT-2's approximation, else the exact one.
    pub ln: Option<LayerNorm>,
    /// `d_model` → `width·d_model`; 4 if no width is given.
    pub c_fc: Conv1d,
    /// `width·d_model` → `d_model`.
    pub c_proj: Conv1d,
}

/// A learned vector.
#[derive(Module, Debug)]
pub struct Vector {
    /// `[d_model]`.
    pub weight: Param<Tensor<1>>,
}

impl Learned {
    /// Of one `pause`, whose vector is `[d_model]`.
    pub fn of_pause(vector: Tensor<1>) -> Self {
        let pause = vec![Vector { weight: Param::from_tensor(vector) }];
        Self { proj: Vec::new(), mlp: Vec::new(), ln: Vec::new(), pause }
    }

    /// Fresh parts of width `d`: `proj` the identity, `ln` a plain norm, `mlp[w]` with the variance of PyTorch's
    /// linear layers, the others normal with `std`.
    pub fn new(feedback: &Feedback, d: usize, std: f64, seed: u64, device: &Device) -> Self {
        let LearnedParts { projs, mlps, lns, pauses } = feedback.learned();
        let mut rng = rng::stream(seed, &[rng::THOUGHTS]);
        let mut normal = |shape: [usize; 2], std: f64| {
            let values: Vec<f32> = rng::normals(&mut rng, shape[0] * shape[1], std as f32);
            host::upload::<2, Float>(TensorData::new(values, shape), device)
        };
        let ones = |n| Param::from_tensor(Tensor::<1>::ones([n], device));
        let zeros = |n| Param::from_tensor(Tensor::<1>::zeros([n], device));
        let linear = |weight: Tensor<2>| {
            let [_, d_out] = weight.dims();
            Conv1d {
                weight: Param::from_tensor(weight),
                bias: zeros(d_out),
                adapter: None,
                deferred: None,
            }
        };
        let norm = || LayerNorm { weight: ones(d), bias: zeros(d) };
        let mut mlp = |width: Option<f64>| {
            let inner = width.map_or(4 * d, |width| ((width * d as f64).round() as usize).max(1));
            let std_of = |d_in: usize| width.map_or(std, |_| (3.0 * d_in as f64).sqrt().recip());
            ThoughtMlp {
                ln: width.is_none().then(norm),
                c_fc: linear(normal([d, inner], std_of(d))),
                c_proj: linear(normal([inner, d], std_of(inner))),
            }
        };
        Self {
            proj: (0..projs).map(|_| linear(Tensor::eye(d, device))).collect(),
            mlp: mlps.into_iter().map(&mut mlp).collect(),
            ln: (0..lns).map(|_| norm()).collect(),
            pause: (0..pauses)
                .map(|_| Vector { weight: Param::from_tensor(normal([1, d], std).reshape([d])) })
                .collect(),
        }
    }
}

/// What the thoughts of one pass are made of.
#[derive(Clone, Copy, Debug)]
pub struct FeedbackInputs<'a> {
    /// Hidden states of an earlier pass.
    pub states: &'a HiddenStates,
    /// The columns of it that are fed back, row after row: `[batch, thoughts]`.
    pub columns: &'a [usize],
    /// Input embeddings of an earlier pass, `[batch, seq, d_model]` or `[1, tokens, d_model]`.
    pub embeddings: &'a Tensor<3>,
    /// How these lie.
    pub embedding_tokens: &'a TokenLayout,
    /// The columns of them that `ie` feeds back, row after row: `[batch, thoughts]`.
    pub embedding_columns: &'a [usize],
    /// The span of the head's rows where it is not everything ([`row_space`]).
    pub row_space: Option<&'a Tensor<2>>,
}

/// Everything that a term is computed from.
#[derive(Debug)]
pub struct FeedbackContext<'a> {
    /// The transformer.
    pub transformer: &'a Transformer,
    /// The learned parts of the expression.
    pub learned: &'a Learned,
    /// How thoughts are made.
    pub config: &'a LatentConfig,
    /// What they are made of.
    pub inputs: FeedbackInputs<'a>,
}

impl FeedbackContext<'_> {
    /// The thoughts of an expression: `[batch, thoughts, d_model]`.
    pub fn thoughts(&self, feedback: &Feedback) -> Tensor<3> {
        let terms = feedback.terms().iter().map(|term| self.term(term));
        terms.reduce(|sum, x| sum + x).unwrap_or_else(|| self.zero())
    }

    fn term(&self, term: &Term) -> Tensor<3> {
        let precision = self.transformer.config.precision;
        match term {
            Term::Hidden(index) => {
                let n = self.inputs.states.count();
                let indices = index.resolve(n, n, self.config.replicates());
                self.sum(indices.map(|k| self.state(k)))
            }
            Term::Input => {
                let FeedbackInputs { embeddings, embedding_tokens, embedding_columns, .. } =
                    self.inputs;
                embedding_tokens.pick_columns(embeddings.clone(), embedding_columns)
            }
            Term::Suppressed(index) => {
                let n = self.inputs.states.count();
                let indices = index.resolve(n - 1, n, self.config.replicates());
                self.sum(indices.map(|l| self.suppressed(l)))
            }
            Term::Norm(x) => {
                let x = self.thoughts(x);
                let norm = (x.clone().square().sum_dim(2) + 1e-12).sqrt(); // [batch, thoughts, 1]
                x / norm * mean_length(self.transformer).unsqueeze()
            }
            Term::Proj(x, number) => {
                self.learned.proj[*number].forward(self.thoughts(x), precision)
            }
            Term::Mlp(x, _, number) => {
                let ThoughtMlp { ln, c_fc, c_proj } = &self.learned.mlp[*number];
                let x = self.thoughts(x);
                let x = match ln {
                    Some(ln) => kernels::gelu(c_fc.forward(ln.forward(x, 1e-5), precision)),
                    // Burn's own has the gradient of the tanh form on GPUs.
                    None => Activation::Gelu.of(c_fc.forward(x, precision)),
                };
                c_proj.forward(x, precision)
            }
            Term::Ln(x, number) => self.learned.ln[*number].forward(self.thoughts(x), 1e-5),
            Term::Soft(temperature) => {
                let last = self.normed(self.inputs.states.count() - 1);
                let [batch, thoughts, d] = last.dims();
                let logits = self.transformer.logits(last.reshape([batch * thoughts, d]));
                let shares = activation::softmax(logits / *temperature, 1); // [batch · thoughts, vocab]
                let mixed = self.transformer.embeddings().mix(shares).reshape([batch, thoughts, d]);
                self.transformer.entering(mixed)
            }
            Term::Zero => self.zero(),
            Term::Pause(number) => {
                let weight = self.learned.pause[*number].weight.val();
                let (rows, [d]) = (self.inputs.embedding_tokens.rows(), weight.dims());
                let thoughts = self.inputs.columns.len() / rows;
                weight.reshape([1, 1, d]).expand([rows, thoughts, d])
            }
        }
    }

    /// `h^{l+1} ⊙ 1[Δ_l < −ε]`: the part of a state that the block before it took back.
    fn suppressed(&self, l: usize) -> Tensor<3> {
        let after = self.state(l + 1);
        let change = self.seen(after.clone().detach() - self.state(l).detach());
        let epsilon = self.config.suppressed_epsilon;
        let mask = match self.config.suppressed_relative {
            true => {
                let rms = after.clone().detach().square().mean_dim(2).sqrt(); // [batch, thoughts, 1]
                (change + rms * epsilon).lower_elem(0.0)
            }
            false => change.lower_elem(-epsilon),
        };
        after * mask.float()
    }

    /// `W⁺ W x`, what of a change is seen through the head: shape kept.
    fn seen(&self, x: Tensor<3>) -> Tensor<3> {
        let Some(basis) = self.inputs.row_space else { return x };
        let [batch, thoughts, d] = x.dims();
        let coefficients = x.reshape([batch * thoughts, d]).matmul(basis.clone().transpose());
        coefficients.matmul(basis.clone()).reshape([batch, thoughts, d])
    }

    /// Hidden state `k` at the columns that are fed back, the last one as the configuration wants it.
    fn state(&self, k: usize) -> Tensor<3> {
        let FeedbackInputs { states, columns, .. } = self.inputs;
        match self.config.last_state_unnormed && k + 1 == states.count() {
            true => states.pick_unnormed(columns),
            false => states.pick_columns(k, columns),
        }
    }

    fn normed(&self, k: usize) -> Tensor<3> {
        self.inputs.states.pick_columns(k, self.inputs.columns)
    }

    fn sum(&self, states: impl Iterator<Item = Tensor<3>>) -> Tensor<3> {
        states.reduce(|a, b| a + b).unwrap_or_else(|| self.zero())
    }

    fn zero(&self) -> Tensor<3> {
        self.normed(0).detach().zeros_like()
    }
}

/// The mean length of the token embeddings, `[1]`: a constant, so that embeddings do not grow to be fed
/// back larger.
pub fn mean_length(model: &Transformer) -> Tensor<1> {
    model.entering(model.embeddings().whole().detach().square().sum_dim(1).sqrt().mean())
}

/// An orthonormal basis of the span of the head's rows, `[rank, d_model]`, by Gram–Schmidt in double
/// precision; `None` if they span everything.
///
/// That they do is the rule, and elimination over a few more rows than `d_model` shows it in about `2/3 · d_model³`
/// operations, little beside a forward pass. Rows that were copied, as added tokens' are, may leave directions out
/// although there are enough of them; only then are all rows gone through.
pub fn row_space(model: &Transformer) -> Option<Tensor<2>> {
    const SPARE: usize = 64; // rows, for a good pivot in the last columns
    let head = model.head().whole();
    let [vocab, d] = head.dims();
    let some = head.clone().narrow(0, 0, vocab.min(d + SPARE));
    let some = host::data(some).convert::<f32>().try_into_vec::<f32>().ok()?;
    if surely_span(&some, d) {
        return None;
    }
    let values = host::data(head.clone()).convert::<f64>().try_into_vec::<f64>().ok()?;
    let mut basis: Vec<Vec<f64>> = Vec::new();
    for row in values.chunks(d) {
        if basis.len() == d {
            return None;
        }
        extend_basis(&mut basis, row.to_vec(), 1e-6);
    }
    if basis.len() == d {
        return None;
    }
    if basis.is_empty() {
        basis.push(vec![0.0; d]); // a head of zeros sees nothing
    }
    let rank = basis.len();
    let values: Vec<f32> = basis.concat().into_iter().map(|x| x as f32).collect();
    let basis = host::upload(TensorData::new(values, [rank, d]), &head.device());
    Some(constant_like(basis, &head))
}
