//! Gradients of a batch, with every activation kept, or computed again one pass or one block at a time
//! (docs/method.md 4.4).
//!
//! Recomputing: a forward sweep without a graph keeps what crosses passes, which is keys and values, thoughts and
//! the hidden states that losses read; by blocks, every hidden state. The losses' gradients at those hidden
//! states come first. Then, from the last pass to the first, a pass is run again from leaf inputs and
//! pulled back, at once or from its last block to its first: the gradients of its inputs are what earlier
//! passes receive.

use burn::{
    module::Module,
    tensor::{Gradients, Tensor},
};
use serde::{Deserialize, Serialize};

use super::{
    LatentModel, Trace,
    forward::{self, Sweep, Wanted, embed, layout, of_pass, place, row_space, run, think},
};
use crate::{
    latent::batch::Batch,
    model::{
        Cache, HiddenStates,
        parameters::{self, NamedTensors, accumulate},
    },
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

/// How [`backward`] runs a batch.
#[derive(Clone, Copy, Debug, Default)]
pub struct BackwardOptions {
    /// What the loss reads of the trace.
    pub reads: Wanted,
    /// What is computed again.
    pub recompute: Recompute,
    /// Gradients flow through so many of the last passes; all if `None`.
    pub tracked: Option<usize>,
    /// Each block of each pass draws its dropout from its own stream of this seed, to be drawn again.
    pub seed: u64,
}

/// The gradients of a loss at the parameters of `module`, which has autodiff and holds `model`, and
/// whatever else `loss` makes of the trace; `None` if there is no loss.
pub fn backward<M: Module, T>(
    module: &M,
    model: &LatentModel,
    batch: &Batch,
    options: BackwardOptions,
    loss: impl FnOnce(&Trace) -> Option<(Tensor<1>, T)>,
) -> Option<(NamedTensors, T)> {
    let BackwardOptions { reads: wanted, recompute, tracked, seed } = options;
    let sweep = Sweep { tracked, wanted, seed: Some(seed), trim: false };
    let pull = match recompute {
        Recompute::None => {
            let trace = run(model, batch, sweep);
            let (loss, besides) = loss(&trace)?;
            drop(trace);
            return Some((parameters::take_gradients(module, &mut loss.backward()), besides));
        }
        Recompute::Passes => at_once,
        Recompute::Blocks => by_blocks,
    };

    let constant = model.clone().no_grad();
    let trim = recompute == Recompute::Passes;
    let Trace { hidden, thoughts, cache } =
        run(&constant, batch, Sweep { tracked: None, trim, ..sweep });
    let row_space = row_space(model);
    let of_losses: Vec<_> = hidden.iter().map(|states| states.clone().map(leaf)).collect();
    let leaves = Trace { hidden: of_losses, thoughts: Vec::new(), cache: Cache::default() };
    let (loss, besides) = loss(&leaves)?;
    let mut found = loss.backward();
    let mut total = parameters::take_gradients(module, &mut found);
    let mut upstream: Vec<Vec<Option<Tensor<3>>>> = (leaves.hidden.iter())
        .map(|states| states.all().iter().map(|x| x.grad_remove(&mut found)).collect())
        .collect();
    drop((leaves, found));

    let layers = model.transformer.config.n_layer;
    let passes = batch.passes.len();
    let prefix = batch.passes.first()?.columns.len();
    // Gradients of the keys and values of the first pass, and of all later columns so far.
    let mut of_cache: Vec<[Option<Tensor<3>>; 2]> = vec![[None, None]; layers];
    let mut of_thought: Option<Tensor<3>> = None; // of the thought after the pass at hand
    for number in (passes - passes.min(tracked.unwrap_or(usize::MAX))..passes).rev() {
        let columns = batch.passes[number].columns.clone();
        let before = columns.start.saturating_sub(prefix); // later columns, before these
        let mut past = Cache::new(layers);
        let mut packed = Vec::with_capacity(layers);
        for (layer, [of_first, of_later]) in of_cache.iter_mut().enumerate() {
            let chunks = cache.layer(layer);
            if number == 0 {
                packed.push(of_first.take());
                continue;
            }
            past.push(layer, leaf(chunks[0].clone()));
            if number > 1 {
                past.push(layer, leaf(chunks[1].clone().narrow(1, 0, before)));
            }
            let later = of_later.take();
            packed.push(later.clone().map(|x| x.narrow(1, before, columns.len())));
            *of_later = later.filter(|_| before > 0).map(|x| x.narrow(1, 0, before));
        }
        let again = Again {
            model,
            batch,
            number,
            wanted,
            seed,
            row_space: row_space.as_ref(),
            states: &hidden[number],
            thought: number.checked_sub(1).map(|before| leaf(thoughts[before].clone())),
            past,
        };
        let states = std::mem::take(&mut upstream[number]);
        let found = pull(&again, Outputs { states, packed, thought: of_thought.take() });
        total = accumulate(Some(total), found.parameters);
        of_thought = found.thought;
        for (sums, chunks) in of_cache.iter_mut().zip(found.past) {
            sums.iter_mut().zip(chunks).for_each(|(sum, chunk)| add(sum, chunk));
        }
    }
    Some((total, besides))
}

/// A pass to be run again.
struct Again<'a> {
    model: &'a LatentModel,
    batch: &'a Batch,
    number: usize,
    wanted: Wanted,
    /// Of the batch's dropout.
    seed: u64,
    row_space: Option<&'a Tensor<2>>,
    /// What it computed, as far as it was kept.
    states: &'a HiddenStates,
    /// The thought that it begins with: a leaf.
    thought: Option<Tensor<3>>,
    /// Keys and values of earlier passes: leaves.
    past: Cache,
}

/// Gradients of what a pass computes.
struct Outputs {
    /// Of its last hidden states, as many as are read.
    states: Vec<Option<Tensor<3>>>,
    /// By layer, of its packed rows.
    packed: Vec<Option<Tensor<3>>>,
    /// Of the thought after it.
    thought: Option<Tensor<3>>,
}

/// Gradients of what a pass is computed from.
#[derive(Default)]
struct Inputs {
    parameters: NamedTensors,
    thought: Option<Tensor<3>>,
    /// By layer, of each chunk of the cache.
    past: Vec<Vec<Option<Tensor<3>>>>,
}

/// Pulls a pass back through one graph of all of it.
fn at_once(again: &Again, outputs: Outputs) -> Inputs {
    let Again { model, batch, number, seed, row_space, thought, past, .. } = again;
    let embeddings = embed(model, batch, *number, thought.clone());
    let layout = layout(model, batch, *number, again.wanted);
    let (states, longer) = forward::pass(
        model,
        batch,
        *number,
        embeddings.clone(),
        past.clone(),
        &layout,
        Some(*seed),
    );
    let mut pull = Pull::default();
    if let Some(gradient) = outputs.thought {
        let inputs = [again.first(&embeddings), embeddings.clone()];
        pull.add(think(model, batch, number + 1, &states, &inputs, *row_space), Some(gradient));
    }
    let ours = states.all();
    for (x, gradient) in ours[ours.len() - outputs.states.len()..].iter().zip(outputs.states) {
        pull.add(x.clone(), gradient);
    }
    for (layer, gradient) in outputs.packed.into_iter().enumerate() {
        let Some(packed) = longer.layer(layer).last() else { continue };
        let (width, new) = (packed.dims()[1], embeddings.dims()[1]);
        pull.add(packed.clone().narrow(1, width - new, new), gradient);
    }
    let Some(mut found) = pull.back() else { return Inputs::default() };
    let of_chunks = |layer| past.layer(layer).iter().map(|x| x.grad_remove(&mut found)).collect();
    Inputs {
        past: (0..model.transformer.config.n_layer).map(of_chunks).collect(),
        thought: thought.as_ref().and_then(|thought| thought.grad_remove(&mut found)),
        parameters: parameters::take_gradients(*model, &mut found),
    }
}

/// Pulls a pass back block by block, each through a graph of its own, from the thought after it to
/// its embeddings.
fn by_blocks(again: &Again, outputs: Outputs) -> Inputs {
    let Again { model, batch, number, seed, row_space, states, thought, past, .. } = again;
    let transformer = &model.transformer;
    let layers = transformer.config.n_layer;
    let mut parameters = None;
    let mut back = |pull: Pull| {
        let mut found = pull.back()?;
        let here = parameters::take_gradients(*model, &mut found);
        parameters = Some(accumulate(parameters.take(), here));
        Some(found)
    };
    let of = |x: &Tensor<3>, found: &mut Option<Gradients>| x.grad_remove(found.as_mut()?);
    let embeddings = embed(model, batch, *number, thought.clone());
    let first = again.first(&embeddings);

    let mut of_states = outputs.states;
    let mut of_inputs = [None, None];
    let mut of_x = None; // of the residual stream after the block at hand
    if let Some(gradient) = outputs.thought {
        let states = (*states).clone().map(leaf);
        let inputs = [&first, &embeddings].map(|x| leaf(x.clone()));
        let mut pull = Pull::default();
        pull.add(think(model, batch, number + 1, &states, &inputs, *row_space), Some(gradient));
        let mut found = back(pull);
        for (sum, x) in of_states.iter_mut().zip(states.all()) {
            add(sum, of(x, &mut found));
        }
        of_x = of(&states.unnormed(), &mut found);
        of_inputs = inputs.each_ref().map(|x| of(x, &mut found));
    }

    let end = leaf(states.unnormed());
    let mut pull = Pull::default();
    pull.add(transformer.final_norm(end.clone()), of_states.pop().flatten());
    add(&mut of_x, of(&end, &mut back(pull)));

    let seed = Some(of_pass(*seed, *number));
    let layout = layout(model, batch, *number, again.wanted);
    let (placed, position_ids) = place(model, batch, *number, embeddings.clone());
    let positions = transformer.positions(position_ids);
    let mut of_past = vec![Vec::new(); layers];
    for (layer, of_packed) in outputs.packed.into_iter().enumerate().rev() {
        let x = leaf(states.all()[layer].clone());
        let chunks = past.layer(layer);
        let (y, packed) = transformer.block(layer, x.clone(), chunks, &positions, &layout, seed);
        let mut pull = Pull::default();
        pull.add(y, of_x.take());
        pull.add(packed, of_packed);
        let mut found = back(pull);
        of_x = of_states.pop().flatten();
        add(&mut of_x, of(&x, &mut found));
        of_past[layer] = chunks.iter().map(|chunk| of(chunk, &mut found)).collect();
    }

    let [of_first, of_embeddings] = of_inputs;
    let mut pull = Pull::default();
    pull.add(transformer.embed_positions(placed, &positions, seed), of_x);
    pull.add(first, of_first);
    pull.add(embeddings, of_embeddings);
    let mut found = back(pull);
    let thought = thought.as_ref().and_then(|thought| of(thought, &mut found));
    Inputs { parameters: parameters.unwrap_or_default(), thought, past: of_past }
}

impl Again<'_> {
    /// The first pass's input embeddings, which `compat: replication` reads; elsewhere these.
    fn first(&self, embeddings: &Tensor<3>) -> Tensor<3> {
        match self.model.thinking.replicates() && self.number > 0 {
            true => embed(self.model, self.batch, 0, None),
            false => embeddings.clone(),
        }
    }
}

/// Results of a graph with their gradients: pulled back together.
#[derive(Default)]
struct Pull(Option<Tensor<1>>);

impl Pull {
    fn add(&mut self, output: Tensor<3>, gradient: Option<Tensor<3>>) {
        let Some(gradient) = gradient.filter(|_| output.is_tracked()) else { return };
        let product = (output * Tensor::from_inner(gradient)).sum();
        self.0 = Some(match self.0.take() {
            Some(sum) => sum + product,
            None => product,
        });
    }

    fn back(self) -> Option<Gradients> {
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
    let x = if x.is_autodiff() { x.inner() } else { x };
    Tensor::from_inner(x).require_grad()
}
