//! What a pass of the transformer computes at each of its tokens.

use burn::tensor::Tensor;

use super::{PassLayout, TokenLayout};

/// The residual stream after each part of one pass: `L + 1` tensors, as Hugging Face's `hidden_states`:
/// the embeddings with positions, then after each block, the last one after the final norm.
///
/// They lie as the pass's [`PassLayout`] says, `[batch, seq, d_model]` or `[1, tokens, d_model]`; the last
/// one may hold fewer tokens.
#[derive(Clone, Debug)]
pub struct HiddenStates {
    /// All of them, or the last one only.
    states: Vec<Tensor<3>>,
    unnormed: Tensor<3>,
    /// `L + 1`.
    n: usize,
    tokens: TokenLayout,
    last_tokens: TokenLayout,
}

impl HiddenStates {
    /// The states of a pass; `unnormed` is the last one before the final norm.
    pub fn new(states: Vec<Tensor<3>>, unnormed: Tensor<3>, layout: &PassLayout) -> Self {
        let (tokens, last_tokens) = (layout.tokens.clone(), layout.last_tokens().clone());
        Self { n: states.len(), states, unnormed, tokens, last_tokens }
    }

    /// Their number, `L + 1`.
    pub fn count(&self) -> usize {
        self.n
    }

    /// Those that are kept: all, first to last, or the last one only.
    pub fn kept(&self) -> &[Tensor<3>] {
        &self.states
    }

    /// State `k` of the tokens that [`HiddenStates::tokens`] names.
    ///
    /// # Panics
    /// If it was not kept.
    pub fn state(&self, k: usize) -> Tensor<3> {
        let dropped = self.n - self.states.len();
        assert!(k >= dropped, "hidden state {k} was not asked for");
        self.states[k - dropped].clone()
    }

    /// After the last block and the final norm.
    pub fn last(&self) -> Tensor<3> {
        self.state(self.n - 1)
    }

    /// After the last block, before the final norm.
    pub fn unnormed(&self) -> Tensor<3> {
        self.unnormed.clone()
    }

    /// The tokens of state `k`.
    pub fn tokens(&self, k: usize) -> &TokenLayout {
        if k + 1 == self.n { &self.last_tokens } else { &self.tokens }
    }

    /// State `k` of some tokens: `[tokens, d_model]`.
    ///
    /// # Panics
    /// If it was not computed there, or not kept.
    pub fn pick(&self, k: usize, tokens: &[(usize, usize)]) -> Tensor<2> {
        self.tokens(k).pick(self.state(k), tokens)
    }

    /// State `k` at as many columns of each row, named row after row: `[batch, columns, d_model]`.
    ///
    /// # Panics
    /// If it was not computed there, or not kept.
    pub fn pick_columns(&self, k: usize, columns: &[usize]) -> Tensor<3> {
        self.tokens(k).pick_columns(self.state(k), columns)
    }

    /// The last state before the final norm, as [`HiddenStates::pick_columns`].
    pub fn pick_unnormed(&self, columns: &[usize]) -> Tensor<3> {
        self.last_tokens.pick_columns(self.unnormed(), columns)
    }

    /// State `k` as `[batch, seq, d_model]`, zero where it was not computed.
    pub fn padded(&self, k: usize) -> Tensor<3> {
        self.tokens(k).pad(self.state(k))
    }

    /// The same with the last one only.
    pub fn only_last(mut self) -> Self {
        self.states.drain(..self.states.len() - 1);
        self
    }

    /// The same with those tokens only whose last state was computed.
    pub fn only_read(mut self, layout: &PassLayout) -> Self {
        let Some(reads) = &layout.reads else { return self };
        let last = self.states.len() - 1;
        for x in &mut self.states[..last] {
            *x = reads.pick(x.clone());
        }
        Self { tokens: self.last_tokens.clone(), ..self }
    }

    /// The same with each state replaced, given the tokens that it holds.
    pub fn map(self, replace: impl Fn(Tensor<3>, &TokenLayout) -> Tensor<3>) -> Self {
        let Self { states, unnormed, n, tokens, last_tokens } = self;
        let first = n - states.len();
        let of = |k: usize| if k + 1 == n { &last_tokens } else { &tokens };
        let states = (first..).zip(states).map(|(k, x)| replace(x, of(k))).collect();
        let unnormed = replace(unnormed, &last_tokens);
        Self { states, unnormed, n, tokens, last_tokens }
    }
}
