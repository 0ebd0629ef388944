//! The forward pass over embeddings, positions and a cache, of every family.

use burn::{
    module::Module,
    tensor::{Device, Int, Tensor},
};
use coconut_kernels::Table;

use super::{
    Cache, HiddenStates, Lora, ModelConfig, NewColumns, PassLayout,
    config::Dropout,
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
    /// Llama and all families of its style.
    Llama(Llama),
}

impl Transformer {
    /// Input embeddings of tokens: `[batch, seq]` → `[batch, seq, d_model]`.
    pub fn embed(&self, ids: Tensor<2, Int>) -> Tensor<3> {
        self.entering(self.tokens().forward(ids))
    }

    /// What is made of token embeddings, with the factor that these have as they enter.
    pub fn entering<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        if self.config.embedding_scale == 1.0 { x } else { x * self.config.embedding_scale }
    }

    /// The token embeddings, `[vocab, d_model]`, without their factor ([`Transformer::entering`]).
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

    /// One pass over new columns: their hidden states, and what a cache keeps of them.
    ///
    /// * `embeddings: [batch, new, d_model]`: input embeddings without positions; `[1, tokens, d_model]` if the
    ///   layout leaves padding out.
    /// * `past`: earlier columns.
    /// * `layout`: the new tokens, their positions, which of all the columns, cached and new, hold tokens, and
    ///   which results are read.
    /// * `seed`: the embeddings and each block draw their dropout from their own stream of it.
    ///
    /// Hidden states at columns that are not visible are finite and have no meaning.
    pub fn forward(
        &self,
        embeddings: Tensor<3>,
        past: &Cache,
        layout: &PassLayout,
        seed: Option<u64>,
    ) -> (HiddenStates, NewColumns) {
        let positions = self.positions(layout);
        let mut x = self.embed_positions(embeddings, &positions, seed);
        let mut states = vec![x.clone()];
        let mut new = NewColumns::with_capacity(self.config.n_layer);
        for layer in 0..self.config.n_layer {
            let (y, qkv) = self.block(layer, x, past.layer(layer), &positions, layout, seed);
            new.push(qkv);
            x = y;
            if layer + 1 < self.config.n_layer {
                states.push(x.clone());
            }
        }
        states.push(self.final_norm(x.clone()));
        (HiddenStates::new(states, x, layout), new)
    }

    /// What [`Transformer::embed_positions`] and every [`Transformer::block`] of a pass need of its positions.
    pub fn positions(&self, layout: &PassLayout) -> Positions {
        Positions::new(&self.config, &layout.position_ids, &self.device())
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

    /// One block over new columns `x: [batch, new, d_model]`, given the fused rows (queries, keys, values) of earlier ones
    /// at this layer: the residual stream after it, and the new columns' fused rows. The last block's
    /// stream is that of the cells that are read.
    pub fn block(
        &self,
        layer: usize,
        x: Tensor<3>,
        past: &[Tensor<3>],
        positions: &Positions,
        layout: &PassLayout,
        seed: Option<u64>,
    ) -> (Tensor<3>, Tensor<3>) {
        self.start_dropout(seed, layer + 1);
        let config = &self.config;
        let reads = layout.reads.as_ref().filter(|_| layer + 1 == config.n_layer);
        let attention_mask = reads.map_or(&layout.attention_mask, |reads| &reads.attention_mask);
        let rotation = positions.rotation(config.rotary_of(layer));
        let shared = layout.shared.as_ref();
        let context = BlockContext { config, past, rotation, attention_mask, reads, shared };
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

    /// Whether anything is dropped out in training.
    pub fn drops_out(&self) -> bool {
        let Dropout { embedding, attention, residual } = self.config.dropout;
        let adapters = self.lora.as_ref().map_or(0.0, |lora| lora.dropout);
        [embedding, attention, residual, adapters].iter().any(|&p| p > 0.0)
    }

    /// The output head, `[vocab, d_model]`.
    pub fn head(&self) -> Table {
        self.lm_head.as_ref().unwrap_or(self.tokens()).table(self.config.precision)
    }

    /// `hidden: [rows, d_model]` → logits `[rows, vocab]`.
    pub fn logits(&self, hidden: Tensor<2>) -> Tensor<2> {
        self.head().logits(hidden)
    }

    /// A copy with the first `n` blocks only, or all there are; embeddings, final norm and head stay.
    pub fn first_blocks(&self, n: usize) -> Self {
        let mut short = self.clone();
        match &mut short.body {
            Body::Gpt2(body) => body.transformer.h.truncate(n),
            Body::Llama(body) => body.model.layers.truncate(n),
        }
        short.config.n_layer = n.min(short.config.n_layer);
        short
    }

    /// A copy for one graph of many passes: those of few rows add up what they give a large weight's gradient in one
    /// product, as each by itself would read and write all of it. Gradients are those of this model's parameters.
    pub fn deferring(&self) -> Self {
        let mut copy = self.clone();
        copy.linears().iter_mut().for_each(|(_, linear)| linear.defer());
        copy
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
