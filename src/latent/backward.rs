//! Gradients of a batch, with every activation kept, or computed again one pass or one block at a time
//! (docs/method.md 4.4; elsewhere called activation or gradient checkpointing).
//!
//! Recomputing: a forward sweep without a graph keeps what crosses passes, which is keys and values, thoughts and
//! the hidden states that losses read; by blocks, every hidden state. To the loss they are leaves, and its
//! gradients at them come first. Then, from the last pass to the first, a pass is run again from leaf inputs and
//! pulled back, at once or from its last block to its first: the gradients of its inputs are what earlier
//! passes receive.

use burn::{
    module::Module,
    tensor::{Gradients, Tensor},
};
use serde::{Deserialize, Serialize};

use super::{
    LatentModel, Trace,
    batch::{Batch, Branch, Fed, Pass},
    forward::{ForwardOptions, add_positions, embed, pass_seed, row_space, run, run_pass, think},
    reads::{ReadLayers, ReadSet},
    tracking::{Tracked, tracked},
};
use crate::model::{
    Cache, HiddenStates,
    parameters::{NamedTensors, accumulate, constant, take_gradients},
};

/// What backward computes again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Recompute {
    /// Nothing.
    #[default]
    None,
    /// Each pass's activations.
    Passes,
    /// Each block's activations, in every pass.
    Blocks,
}

/// How gradients are computed.
#[derive(Clone, Copy, Debug, Default)]
pub struct BackwardOptions {
    /// What the loss reads of the trace.
    pub reads: ReadSet,
    /// What is computed again.
    pub recompute: Recompute,
    /// Gradients flow through so many of each row's last passes, counted from its own last latent; all if `None`.
    pub tracked: Option<usize>,
    /// Each block of each pass draws its dropout from its own stream of it, to be drawn again.
    pub seed: u64,
}

/// The gradients of a loss, a function of the trace, at the parameters of `module`: the model, which has autodiff,
/// or what holds it together with parameters of the loss's own; and whatever else `loss` makes of the trace. `None`
/// if there is no loss.
pub fn backward<M: Module, T>(
    module: &M,
    model: &LatentModel,
    batch: &Batch,
    options: BackwardOptions,
    loss: impl FnOnce(&Trace) -> Option<(Tensor<1>, T)>,
) -> Option<(NamedTensors, T)> {
    match options.recompute {
        Recompute::None => kept(module, model, batch, options, loss),
        Recompute::Passes => recomputed(module, model, batch, options, vjp_pass, loss),
        Recompute::Blocks => recomputed(module, model, batch, options, vjp_blocks, loss),
    }
}

/// Gradients through one graph of all passes.
fn kept<M: Module, T>(
    module: &M,
    model: &LatentModel,
    batch: &Batch,
    BackwardOptions { reads, tracked, seed, .. }: BackwardOptions,
    loss: impl FnOnce(&Trace) -> Option<(Tensor<1>, T)>,
) -> Option<(NamedTensors, T)> {
    let options = ForwardOptions { reads, tracked, seed: Some(seed), edit: None };
    let deferring = LatentModel { transformer: model.transformer.deferring(), ..model.clone() };
    let trace = super::forward(&deferring, batch, options);
    let (loss, besides) = loss(&trace)?;
    drop((trace, deferring));
    Some((take_gradients(module, &mut loss.backward()), besides))
}

/// Gradients pass by pass, the last one first.
fn recomputed<M: Module, T>(
    module: &M,
    model: &LatentModel,
    batch: &Batch,
    options: BackwardOptions,
    vjp: fn(&M, &PassReplay, OutputGrads) -> InputGrads,
    loss: impl FnOnce(&Trace) -> Option<(Tensor<1>, T)>,
) -> Option<(NamedTensors, T)> {
    let BackwardOptions { reads, seed, .. } = options;
    let sweep = ForwardOptions { reads, tracked: options.tracked, seed: Some(seed), edit: None };
    let trace = run(model, batch, sweep, false, None, |states, pass| keep(states, pass, options));
    let tracked = tracked(batch, options.tracked);
    let row_space = row_space(model);
    let leaves = trace.clone().map(leaf);
    let (loss, besides) = loss(&leaves)?;
    let mut found = loss.backward();
    let mut total = take_gradients(module, &mut found);
    let mut upstream = Upstream::new(&leaves, batch, &mut found);
    drop((leaves, found));

    for (number, pass) in batch.passes.iter().enumerate().rev() {
        let grad_new = upstream.take_columns(pass);
        if !tracked[number].any() {
            continue;
        }
        let replay = PassReplay {
            model,
            batch,
            number,
            options,
            tracked: &tracked,
            row_space: row_space.as_ref(),
            states: &trace.hidden[number],
            thoughts: trace.thoughts[number].clone().map(leaf),
            past: trace.caches[pass.branch.cache()].before(pass.past, upstream.prefix).map(leaf),
        };
        let grads = vjp(module, &replay, upstream.outputs(&replay, grad_new));
        add(&mut upstream.grad_thoughts[number], grads.thoughts);
        upstream.add_past(pass.branch, grads.past);
        total = accumulate(Some(total), grads.parameters);
    }
    // Where a tracked pass is fed from one that is not, the sweep recorded what parameters made of constants.
    let mut made = Vjp::default();
    for (thoughts, grad) in trace.thoughts.into_iter().zip(upstream.grad_thoughts) {
        thoughts.into_iter().for_each(|thoughts| made.add(thoughts, grad.clone()));
    }
    let found = made.pull().map(|mut found| take_gradients(module, &mut found));
    let total = found.into_iter().fold(total, |total, found| accumulate(Some(total), found));
    Some((total, besides))
}

/// What of a pass's hidden states outlives it while activations are computed again: what the loss reads, or
/// what each block begins from.
fn keep(states: HiddenStates, pass: &Pass, options: BackwardOptions) -> HiddenStates {
    let BackwardOptions { reads, recompute, .. } = options;
    match (recompute, reads.layers) {
        (Recompute::Passes, ReadLayers::Last) => states.only_last(),
        (Recompute::Passes, ReadLayers::All) => states.only_read(pass.layout(reads.positions)),
        _ => states,
    }
}

/// Gradients of what passes computed, as far as they are known: from the loss, and from later passes.
struct Upstream {
    /// By pass, of the hidden states that were kept.
    grad_states: Vec<Vec<Option<Tensor<3>>>>,
    /// By pass, of its last state before the final norm.
    grad_unnormed: Vec<Option<Tensor<3>>>,
    /// By pass, of the thoughts that it is fed.
    grad_thoughts: Vec<Option<Tensor<3>>>,
    /// By layer, of the first chunk, which all caches share.
    grad_shared: Vec<Option<Tensor<3>>>,
    /// By cache and layer, of all later columns that passes to come have computed.
    grad_later: Vec<Vec<Option<Tensor<3>>>>,
    /// The columns of the cache's first chunk.
    prefix: usize,
}

impl Upstream {
    /// The gradients of a loss at its leaves.
    fn new(leaves: &Trace, batch: &Batch, found: &mut Gradients) -> Self {
        let mut grad = |x: &Tensor<3>| x.grad_remove(found);
        let mut grad_states = Vec::with_capacity(leaves.hidden.len());
        let mut grad_unnormed = Vec::with_capacity(leaves.hidden.len());
        for states in &leaves.hidden {
            grad_states.push(states.kept().iter().map(&mut grad).collect());
            grad_unnormed.push(grad(&states.unnormed()));
        }
        let thoughts = leaves.thoughts.iter();
        let grad_thoughts = thoughts.map(|x| x.as_ref().and_then(&mut grad)).collect();
        let n_layer = leaves.caches.first().map_or(0, Cache::n_layer);
        let mut grad_shared = vec![None; n_layer];
        let mut grad_later = Vec::with_capacity(leaves.caches.len());
        for cache in &leaves.caches {
            let mut later = Vec::with_capacity(n_layer);
            for (layer, shared) in grad_shared.iter_mut().enumerate() {
                let mut chunks = cache.layer(layer).iter();
                add(shared, chunks.next().and_then(&mut grad));
                later.push(chunks.next().and_then(&mut grad));
            }
            grad_later.push(later);
        }
        let prefix = batch.passes.first().map_or(0, |pass| pass.columns.len());
        Self { grad_states, grad_unnormed, grad_thoughts, grad_shared, grad_later, prefix }
    }

    /// What is known of a pass's results when all later passes are done; `grad_new` is of its columns of the cache.
    /// Rows that are not tracked have none.
    fn outputs<'a>(
        &mut self,
        replay: &PassReplay<'a>,
        grad_new: Vec<Option<Tensor<3>>>,
    ) -> OutputGrads<'a> {
        let PassReplay { batch, number, tracked, states, .. } = *replay;
        let own = &tracked[number];
        let fed = |(later, pass): (usize, &'a Pass)| {
            let fed = pass.fed.as_ref().filter(|fed| fed.states.pass == number)?;
            let grad = self.grad_thoughts[later].take()?;
            Some((fed, tracked[later].cut(grad, &fed.tokens(batch.rows))?))
        };
        let thoughts = batch.passes.iter().enumerate().filter_map(fed).collect();
        let grad_states = std::mem::take(&mut self.grad_states[number]);
        let first = states.count() - grad_states.len();
        let of_state = |(k, grad): (usize, Option<Tensor<3>>)| own.cut(grad?, states.tokens(k));
        let last = states.tokens(states.count() - 1);
        let tokens = batch.passes[number].cached_tokens();
        OutputGrads {
            states: (first..).zip(grad_states).map(of_state).collect(),
            unnormed: self.grad_unnormed[number].take().and_then(|grad| own.cut(grad, last)),
            thoughts,
            new: grad_new.into_iter().map(|grad| own.cut(grad?, tokens)).collect(),
        }
    }

    /// By layer, the gradient of a pass's own columns of the cache.
    fn take_columns(&mut self, pass: &Pass) -> Vec<Option<Tensor<3>>> {
        if !pass.keep {
            return vec![None; self.grad_shared.len()];
        }
        if pass.branch == Branch::Shared {
            return self.grad_shared.iter_mut().map(Option::take).collect();
        }
        let before = pass.past - self.prefix; // later columns, before these
        let take = |later: &mut Option<Tensor<3>>| {
            let all = later.take();
            *later = all.clone().filter(|_| before > 0).map(|x| x.narrow(1, 0, before));
            all.map(|x| x.narrow(1, before, pass.columns.len()))
        };
        self.grad_later[pass.branch.cache()].iter_mut().map(take).collect()
    }

    /// Adds gradients of the chunks that a pass of a branch saw, by layer.
    fn add_past(&mut self, branch: Branch, past: Vec<Vec<Option<Tensor<3>>>>) {
        let later = &mut self.grad_later[branch.cache()];
        for ((shared, later), chunks) in self.grad_shared.iter_mut().zip(later).zip(past) {
            for (sum, chunk) in [shared, later].into_iter().zip(chunks) {
                add(sum, chunk);
            }
        }
    }
}

/// A pass to be run again.
struct PassReplay<'a> {
    model: &'a LatentModel,
    batch: &'a Batch,
    number: usize,
    options: BackwardOptions,
    /// The rows of each pass through which gradients flow.
    tracked: &'a [Tracked],
    row_space: Option<&'a Tensor<2>>,
    /// What it computed, as far as it was kept.
    states: &'a HiddenStates,
    /// The thoughts that it is fed: leaves.
    thoughts: Option<Tensor<3>>,
    /// Keys and values of earlier passes: leaves.
    past: Cache,
}

/// Gradients of what a pass computes.
struct OutputGrads<'a> {
    /// Those of the hidden states that were kept, first to last.
    states: Vec<Option<Tensor<3>>>,
    /// That of the last state before the final norm.
    unnormed: Option<Tensor<3>>,
    /// Those of the thoughts that are made of its states, with where later passes are fed them.
    thoughts: Vec<(&'a Fed, Tensor<3>)>,
    /// By layer, those of its queries, keys and values.
    new: Vec<Option<Tensor<3>>>,
}

/// Gradients of what a pass is computed from.
#[derive(Default)]
struct InputGrads {
    parameters: NamedTensors,
    /// Those of the thoughts that it is fed.
    thoughts: Option<Tensor<3>>,
    /// By layer, those of the cache's chunks.
    past: Vec<Vec<Option<Tensor<3>>>>,
}

impl PassReplay<'_> {
    fn pass(&self) -> &Pass {
        &self.batch.passes[self.number]
    }

    fn seed(&self) -> u64 {
        pass_seed(self.options.seed, self.number)
    }

    /// The input embeddings that `ie` feeds back: this pass's own, or those of one of text only.
    fn inputs(&self, fed: &Fed, embeddings: &Tensor<3>) -> Tensor<3> {
        let pass = &self.batch.passes[fed.inputs.pass];
        let inputs = match fed.inputs.pass == self.number {
            true => embeddings.clone(),
            false => embed(self.model, pass, None),
        };
        self.tracked[fed.inputs.pass].gate(inputs, pass.tokens())
    }

    fn think(&self, fed: &Fed, states: &HiddenStates, inputs: &Tensor<3>) -> Tensor<3> {
        let states = self.tracked[self.number].gate_states(states.clone());
        think(self.model, self.batch, fed, &states, inputs, self.row_space)
    }
}

/// Pulls a pass back through one graph of all of it.
fn vjp_pass<M: Module>(module: &M, replay: &PassReplay, grads: OutputGrads) -> InputGrads {
    let PassReplay { model, options, thoughts, past, .. } = replay;
    let embeddings = embed(model, replay.pass(), thoughts.clone());
    let (states, new) = run_pass(
        model,
        replay.pass(),
        embeddings.clone(),
        past,
        options.reads.positions,
        Some(replay.seed()),
    );
    let mut vjp = Vjp::default();
    for (fed, grad) in grads.thoughts {
        let inputs = replay.inputs(fed, &embeddings);
        vjp.add(replay.think(fed, &states, &inputs), Some(grad));
    }
    let states = keep(states, replay.pass(), *options);
    for (x, grad) in states.kept().iter().zip(grads.states) {
        vjp.add(x.clone(), grad);
    }
    vjp.add(states.unnormed(), grads.unnormed);
    for (qkv, grad) in new.into_iter().zip(grads.new) {
        vjp.add(qkv, grad);
    }
    let Some(mut found) = vjp.pull() else { return InputGrads::default() };
    let of_chunks = |layer| past.layer(layer).iter().map(|x| x.grad_remove(&mut found)).collect();
    InputGrads {
        past: (0..past.n_layer()).map(of_chunks).collect(),
        thoughts: thoughts.as_ref().and_then(|thoughts| thoughts.grad_remove(&mut found)),
        parameters: take_gradients(module, &mut found),
    }
}

/// Pulls a pass back block by block, each through a graph of its own, from the thoughts made of it to its
/// embeddings.
fn vjp_blocks<M: Module>(module: &M, replay: &PassReplay, grads: OutputGrads) -> InputGrads {
    let PassReplay { model, options, states, thoughts, past, .. } = replay;
    let (transformer, pass) = (&model.transformer, replay.pass());
    let mut parameters = None;
    let mut pull = |vjp: Vjp| {
        let mut found = vjp.pull()?;
        let here = take_gradients(module, &mut found);
        parameters = Some(accumulate(parameters.take(), here));
        Some(found)
    };
    let grad = |x: &Tensor<3>, found: &mut Option<Gradients>| x.grad_remove(found.as_mut()?);
    let embeddings = embed(model, pass, thoughts.clone());

    let mut grad_states = grads.states;
    let mut grad_x = grads.unnormed; // of the residual stream after the block at hand
    let mut grad_inputs = Vec::with_capacity(grads.thoughts.len()); // what `ie` read, and its gradient
    for (fed, grad_thoughts) in grads.thoughts {
        let inputs = replay.inputs(fed, &embeddings);
        let (states, leaf_inputs) = ((*states).clone().map(|x, _| leaf(x)), leaf(inputs.clone()));
        let mut vjp = Vjp::default();
        vjp.add(replay.think(fed, &states, &leaf_inputs), Some(grad_thoughts));
        let mut found = pull(vjp);
        for (sum, x) in grad_states.iter_mut().zip(states.kept()) {
            add(sum, grad(x, &mut found));
        }
        add(&mut grad_x, grad(&states.unnormed(), &mut found));
        grad_inputs.push((inputs, grad(&leaf_inputs, &mut found)));
    }

    let end = leaf(states.unnormed());
    let mut vjp = Vjp::default();
    vjp.add(transformer.final_norm(end.clone()), grad_states.pop().flatten());
    add(&mut grad_x, grad(&end, &mut pull(vjp)));

    let seed = Some(replay.seed());
    let layout = pass.layout(options.reads.positions);
    let positions = transformer.positions(layout);
    let mut grad_past = vec![Vec::new(); past.n_layer()];
    for (layer, grad_new) in grads.new.into_iter().enumerate().rev() {
        let x = leaf(states.state(layer));
        let chunks = past.layer(layer);
        let (y, qkv) = transformer.block(layer, x.clone(), chunks, &positions, layout, seed);
        let mut vjp = Vjp::default();
        vjp.add(y, grad_x.take());
        vjp.add(qkv, grad_new);
        let mut found = pull(vjp);
        grad_x = grad_states.pop().flatten();
        add(&mut grad_x, grad(&x, &mut found));
        grad_past[layer] = chunks.iter().map(|chunk| grad(chunk, &mut found)).collect();
    }

    let mut vjp = Vjp::default();
    let placed = add_positions(model, pass, embeddings);
    vjp.add(transformer.embed_positions(placed, &positions, seed), grad_x);
    for (inputs, grad_inputs) in grad_inputs {
        vjp.add(inputs, grad_inputs);
    }
    let mut found = pull(vjp);
    let thoughts = thoughts.as_ref().and_then(|thoughts| grad(thoughts, &mut found));
    InputGrads { parameters: parameters.unwrap_or_default(), thoughts, past: grad_past }
}

/// A vector-Jacobian product: results of a graph with their gradients, pulled back together.
#[derive(Default)]
struct Vjp(Option<Tensor<1>>);

impl Vjp {
    fn add(&mut self, output: Tensor<3>, grad: Option<Tensor<3>>) {
        let Some(grad) = grad.filter(|_| output.is_tracked()) else { return };
        let product = (output * Tensor::from_inner(grad)).sum();
        self.0 = Some(match self.0.take() {
            Some(sum) => sum + product,
            None => product,
        });
    }

    fn pull(self) -> Option<Gradients> {
        self.0.map(|sum| sum.backward())
    }
}

/// Adds one more part of a gradient.
fn add(sum: &mut Option<Tensor<3>>, part: Option<Tensor<3>>) {
    *sum = match (sum.take(), part) {
        (Some(sum), Some(part)) => Some(sum + part),
        (sum, part) => sum.or(part),
    };
}

/// A leaf of a new graph.
fn leaf(x: Tensor<3>) -> Tensor<3> {
    Tensor::from_inner(constant(x)).require_grad()
}
