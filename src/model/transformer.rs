//! The forward pass over embeddings, positions and a cache, of every family.

use burn::{
    module::Module,
    tensor::{Device, Int, Tensor},
};
use coconut_kernels::Table;

use super::{
    Cache, Cells, Layout, Lora, ModelConfig,
    context::BlockContext,
    gpt2::Gpt2,
    layers::{Embedding, LinearMut},
    llama::Llama,
    positions::Positions,
};
use crate::rng;

/// The output head's key in every family, without `.weight`.
pub(super) const HEAD: &str = "lm_head";

/// The model: blocks over a residual stream, and an output head.
#[derive(Module, Debug)]
pub struct Transformer {
    /// Embeddings, blocks and final norm.
    pub body: Body,
    /// The output head if it is not the token embedding.
    pub lm_head: Option<Embedding>,
    /// The shape.
    #[module(skip)]
    pub config: ModelConfig,
    /// What its adapters are, if it has any; everything else is then frozen.
    #[module(skip)]
    pub lora: Option<Lora>,
}

/// Embeddings, blocks and final norm, by family.
#[derive(Module, Debug)]
#[allow(clippy::large_enum_variant)] // a program holds one or two
pub enum Body {
    /// GPT-2.
    Gpt2(Gpt2),
    /// Llama, Qwen2 and Qwen3.
    Llama(Llama),
}

/// The residual stream after each part of one pass: `L + 1` tensors, as Hugging Face's `hidden_states`:
/// the embeddings with positions, then after each block, the last one after the final norm.
///
/// They lie as the pass's [`Layout`] says: `[batch, seq, d_model]`, or `[1, cells, d_model]`; the last
/// one may hold fewer cells.
#[derive(Clone, Debug)]
pub struct HiddenStates {
    states: Vec<Tensor<3>>,
    unnormed: Tensor<3>,
    cells: Cells,
    last_cells: Cells,
}

impl HiddenStates {
    /// After the last block, before the final norm.
    pub fn unnormed(&self) -> Tensor<3> {
        self.unnormed.clone()
    }

    /// After the last block and the final norm.
    pub fn last(&self) -> Tensor<3> {
        self.states[self.states.len() - 1].clone()
    }

    /// The cells of all but the last.
    pub fn cells(&self) -> &Cells {
        &self.cells
    }

    /// The cells of the last, normed or not.
    pub fn last_cells(&self) -> &Cells {
        &self.last_cells
    }

    /// State `k` at one column of each row: `[batch, 1, d_model]`.
    pub fn column(&self, k: usize, columns: &[usize]) -> Tensor<3> {
        let last = k + 1 == self.states.len();
        let cells = if last { &self.last_cells } else { &self.cells };
        cells.column(self.states[k].clone(), columns)
    }

    /// All of them as `[batch, seq, d_model]`, zero at cells that are not held.
    pub fn spread(&self) -> Vec<Tensor<3>> {
        let n = self.states.len();
        let cells = (0..n).map(|k| if k + 1 == n { &self.last_cells } else { &self.cells });
        self.states.iter().zip(cells).map(|(x, cells)| cells.spread(x.clone())).collect()
    }

    /// Drops all but the last.
    pub fn trim(&mut self) {
        self.states.drain(..self.states.len() - 1);
        self.unnormed = self.last();
    }

    /// The same with each state replaced.
    pub fn map(self, replace: impl Fn(Tensor<3>) -> Tensor<3>) -> Self {
        let states: Vec<_> = self.states.into_iter().map(&replace).collect();
        Self { states, unnormed: replace(self.unnormed), ..self }
    }

    /// All of them, first to last; only the last if they were trimmed.
    pub fn all(&self) -> &[Tensor<3>] {
        &self.states
    }
}

impl Transformer {
    /// Input embeddings of tokens: `[batch, seq]` → `[batch, seq, d_model]`.
    pub fn embed(&self, ids: Tensor<2, Int>) -> Tensor<3> {
        self.tokens().forward(ids)
    }

    /// The token embeddings, `[vocab, d_model]`.
    pub fn embeddings(&self) -> Table {
        self.tokens().table(self.config.precision)
    }

    /// The device of the model's tensors.
    pub fn device(&self) -> Device {
        self.tokens().weight.val().device()
    }

    pub(super) fn tokens(&self) -> &Embedding {
        match &self.body {
            Body::Gpt2(body) => &body.transformer.wte,
            Body::Llama(body) => &body.model.embed_tokens,
        }
    }

    /// One pass over new columns.
    ///
    /// * `embeddings: [batch, new, d_model]`: input embeddings without positions; `[1, cells, d_model]`
    ///   if the layout is packed, and so with `position_ids`.
    /// * `position_ids: [batch, new]`, each below `n_positions`.
    /// * `cache`: earlier columns; the new ones are appended to it.
    /// * `layout`: which of all the columns, cached and new, hold tokens, and which results are read.
    /// * `seed`: the embeddings and each block draw their dropout from their own stream of it.
    ///
    /// Hidden states at columns that are not visible are finite and have no meaning.
    pub fn forward(
        &self,
        embeddings: Tensor<3>,
        position_ids: Tensor<2, Int>,
        mut cache: Cache,
        layout: &Layout,
        seed: Option<u64>,
    ) -> (HiddenStates, Cache) {
        let positions = self.positions(position_ids);
        let mut x = self.embed_positions(embeddings, &positions, seed);
        let mut states = vec![x.clone()];
        for layer in 0..self.config.n_layer {
            let (y, packed) = self.block(layer, x, cache.layer(layer), &positions, layout, seed);
            cache.push(layer, packed);
            x = y;
            if layer + 1 < self.config.n_layer {
                states.push(x.clone());
            }
        }
        states.push(self.final_norm(x.clone()));
        let cells = layout.cells.clone();
        let last_cells = layout.reads.as_ref().map_or(&cells, |reads| &reads.cells).clone();
        (HiddenStates { states, unnormed: x, cells, last_cells }, cache)
    }

    /// What [`Transformer::embed_positions`] and every [`Transformer::block`] of a pass need of
    /// `position_ids: [batch, new]`.
    pub fn positions(&self, position_ids: Tensor<2, Int>) -> Positions {
        match &self.config.rotary {
            None => Positions::learned(position_ids),
            Some(rotary) => {
                Positions::rotary(rotary, self.config.heads.dim, position_ids, &self.device())
            }
        }
    }

    /// The residual stream before the first block: `[batch, new, d_model]`, shape kept.
    pub fn embed_positions(
        &self,
        embeddings: Tensor<3>,
        positions: &Positions,
        seed: Option<u64>,
    ) -> Tensor<3> {
        self.start_dropout(seed, 0);
        match &self.body {
            Body::Gpt2(body) => body.embed_positions(embeddings, positions, &self.config),
            Body::Llama(_) => embeddings,
        }
    }

    /// One block over new columns `x: [batch, new, d_model]`, given the packed rows of earlier ones
    /// at this layer: the residual stream after it, and the new columns' packed rows. The last block's
    /// stream is that of the cells that are read.
    pub fn block(
        &self,
        layer: usize,
        x: Tensor<3>,
        past: &[Tensor<3>],
        positions: &Positions,
        layout: &Layout,
        seed: Option<u64>,
    ) -> (Tensor<3>, Tensor<3>) {
        self.start_dropout(seed, layer + 1);
        let config = &self.config;
        let reads = layout.reads.as_ref().filter(|_| layer + 1 == config.n_layer);
        let visible = reads.map_or(&layout.visible, |reads| &reads.visible);
        let context = BlockContext { config, past, positions, visible, reads };
        match &self.body {
            Body::Gpt2(body) => body.transformer.h[layer].forward(x, &context),
            Body::Llama(body) => body.model.layers[layer].forward(x, &context),
        }
    }

    fn start_dropout(&self, seed: Option<u64>, part: usize) {
        if let Some(seed) = seed {
            self.device().seed(rng::hash(seed, &[rng::DEVICE, part as u64]));
        }
    }

    /// The final norm: `[batch, new, d_model]`, shape kept.
    pub fn final_norm(&self, x: Tensor<3>) -> Tensor<3> {
        match &self.body {
            Body::Gpt2(body) => body.transformer.ln_f.forward(x, self.config.norm_eps),
            Body::Llama(body) => body.model.norm.forward(x, self.config.norm_eps),
        }
    }

    /// The output head, `[vocab, d_model]`.
    pub fn head(&self) -> Table {
        self.lm_head.as_ref().unwrap_or(self.tokens()).table(self.config.precision)
    }

    /// `hidden: [rows, d_model]` → logits `[rows, vocab]`.
    pub fn logits(&self, hidden: Tensor<2>) -> Tensor<2> {
        self.head().logits(hidden)
    }

    /// The linear layers of the blocks, by name.
    pub(super) fn linears(&mut self) -> Vec<(String, LinearMut<'_>)> {
        match &mut self.body {
            Body::Gpt2(body) => body.linears(),
            Body::Llama(body) => body.linears(),
        }
    }

    /// The token embeddings' key, without `.weight`.
    pub(super) fn embedding_name(&self) -> &'static str {
        match &self.body {
            Body::Gpt2(_) => "transformer.wte",
            Body::Llama(_) => "model.embed_tokens",
        }
    }

    /// The token embeddings, and the output head if it is another table, by name.
    pub(super) fn tables(&mut self) -> Vec<(String, &mut Embedding)> {
        let name = self.embedding_name();
        let tokens = match &mut self.body {
            Body::Gpt2(body) => (name, &mut body.transformer.wte),
            Body::Llama(body) => (name, &mut body.model.embed_tokens),
        };
        let head = self.lm_head.as_mut().map(|head| (HEAD, head));
        [tokens].into_iter().chain(head).map(|(name, table)| (name.to_owned(), table)).collect()
    }
}
