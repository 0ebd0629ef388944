//! Gradients of a batch, with every pass's activations kept, or computed again one pass at a time
//! (METHOD.md 3).
//!
//! Recomputing: a forward sweep without a graph keeps what crosses passes, which is keys and values, thoughts and
//! the hidden states that losses read. The losses' gradients at those hidden states come first. Then,
//! from the last pass to the first, a pass is run again from leaf inputs and pulled back: the gradients of
//! its inputs are what earlier passes receive.

use burn::{module::Module, tensor::Tensor};
use serde::{Deserialize, Serialize};

use super::{
    LatentModel, Trace,
    forward::{Sweep, embed, pass, row_space, run, think},
};
use crate::{
    data::batch::Batch,
    model::{
        Cache,
        parameters::{self, Named},
    },
    train::optim::accumulate,
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
}

/// The gradients of `loss` (a function of the trace) at a model with autodiff. `tracked`: gradients flow through
/// so many of the last passes (all if `None`). `seed`: each pass draws its dropout from its own
/// stream of it, so that it can be drawn again. `None` if there is no loss.
pub fn gradients(
    model: &LatentModel,
    batch: &Batch,
    recompute: Recompute,
    tracked: Option<usize>,
    seed: u64,
    loss: impl FnOnce(&Trace) -> Option<Tensor<1>>,
) -> Option<Named> {
    let sweep = Sweep { tracked, seed: Some(seed), trim: false };
    if recompute == Recompute::None {
        let trace = run(model, batch, sweep);
        let loss = loss(&trace)?;
        drop(trace);
        return Some(parameters::take_gradients(model, &mut loss.backward()));
    }

    let constant = model.clone().no_grad();
    let trace = run(&constant, batch, Sweep { tracked: None, trim: true, ..sweep });
    let row_space = row_space(model);
    let (cache, thoughts) = (trace.cache, trace.thoughts);
    let hidden: Vec<_> = trace.hidden.into_iter().map(|states| states.map(leaf)).collect();
    let leaves = Trace { hidden, thoughts: Vec::new(), cache: Cache::default() };
    let loss = loss(&leaves)?;
    let mut found = loss.backward();
    let mut total = parameters::take_gradients(model, &mut found);
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
        let thought = number.checked_sub(1).map(|before| leaf(thoughts[before].clone()));
        let mut past = Cache::new(layers);
        for layer in 0..layers {
            let chunks = cache.layer(layer);
            if number > 0 {
                past.push(layer, leaf(chunks[0].clone()));
            }
            if number > 1 {
                past.push(layer, leaf(chunks[1].clone().narrow(1, 0, columns.start - prefix)));
            }
        }

        let embeddings = embed(model, batch, number, thought.clone());
        let replicates = model.thinking.replicates() && number > 0;
        let first = if replicates { embed(model, batch, 0, None) } else { embeddings.clone() };
        let (states, longer) =
            pass(model, batch, number, embeddings.clone(), past.clone(), Some(seed));
        let mut pulled: Vec<Tensor<1>> = Vec::new();
        let mut pull = |output: Tensor<3>, gradient: Option<Tensor<3>>| {
            if let Some(gradient) = gradient.filter(|_| output.is_tracked()) {
                pulled.push((output * Tensor::from_inner(gradient)).sum());
            }
        };
        if let Some(gradient) = of_thought.take() {
            let inputs = [first, embeddings];
            let after = think(model, batch, number + 1, &states, &inputs, row_space.as_ref());
            pull(after, Some(gradient));
        }
        let ours = states.all();
        let read = std::mem::take(&mut upstream[number]);
        for (x, gradient) in ours[ours.len() - read.len()..].iter().zip(read) {
            pull(x.clone(), gradient);
        }
        for (layer, [of_first, of_later]) in of_cache.iter_mut().enumerate() {
            let packed = longer.layer(layer).last()?.clone();
            let (width, new) = (packed.dims()[1], columns.len());
            let packed = packed.narrow(1, width - new, new);
            match of_later.take() {
                _ if number == 0 => pull(packed, of_first.take()),
                Some(gradient) => {
                    let before = columns.start - prefix;
                    pull(packed, Some(gradient.clone().narrow(1, before, new)));
                    *of_later = (before > 0).then(|| gradient.narrow(1, 0, before));
                }
                None => {}
            }
        }
        let Some(sum) = pulled.into_iter().reduce(|a, b| a + b) else { continue };
        let mut found = sum.backward();
        total = accumulate(Some(total), parameters::take_gradients(model, &mut found));
        of_thought = thought.and_then(|thought| thought.grad_remove(&mut found));
        for (layer, sums) in of_cache.iter_mut().enumerate() {
            for (sum, chunk) in sums.iter_mut().zip(past.layer(layer)) {
                if let Some(gradient) = chunk.grad_remove(&mut found) {
                    *sum = Some(match sum.take() {
                        Some(before) => before + gradient,
                        None => gradient,
                    });
                }
            }
        }
    }
    Some(total)
}

/// A leaf of a new graph.
fn leaf(x: Tensor<3>) -> Tensor<3> {
    let x = if x.is_autodiff() { x.inner() } else { x };
    Tensor::from_inner(x).require_grad()
}
