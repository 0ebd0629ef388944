//! The forward pass with latents: each position computed once, on the cached keys and values of
//! those before it (docs/method.md 4).

use std::ops::Range;

use burn::{module::Module, tensor::Tensor};

use super::{
    Edit, LatentModel, ReadSet, Trace,
    batch::{Batch, Fed, Pass},
    edit::Edited,
    feedback::{FeedbackContext, FeedbackInputs, terms},
    reads::ReadPositions,
    tracking::{Tracked, tracked},
};
use crate::{
    model::{Cache, HiddenStates, NewColumns, TokenInts},
    rng,
};

/// How a batch is run.
#[derive(Clone, Copy, Debug, Default)]
pub struct ForwardOptions<'a> {
    /// What will be read of the trace.
    pub reads: ReadSet,
    /// Gradients flow through so many of each row's last passes, counted from its own last latent, all if
    /// `None`: hidden states, thoughts, keys and values of earlier ones are constants.
    pub tracked: Option<usize>,
    /// Each block of each pass draws its dropout from its own stream of this seed; `None` leaves the device's
    /// generator as it is.
    pub seed: Option<u64>,
    /// What replaces thoughts before they are fed.
    pub edit: Option<&'a Edit>,
}

impl From<ReadSet> for ForwardOptions<'_> {
    fn from(reads: ReadSet) -> Self {
        Self { reads, ..Self::default() }
    }
}

/// Runs a batch pass by pass. With `e_t` the input embedding and `R` what is fed back, the latents at
/// `p_1 < p_2 < …` get `e_{p_i} = R(h_{p_i − 1})` (Hao et al. 2024, section 3), differentiably.
///
/// `batch` must fit the model: ids below `vocab_size`, lengths at most `n_positions`.
pub fn forward<'a>(
    model: &LatentModel,
    batch: &Batch,
    options: impl Into<ForwardOptions<'a>>,
) -> Trace {
    let options = options.into();
    run(model, batch, options, true, None, |states, _| states)
}

/// Runs a batch with an edit, given the trace that [`forward`] left of it without one: only passes from the first on
/// that is fed something edited are computed. Of the others the trace is taken over, with what was read there.
pub fn forward_edited(
    model: &LatentModel,
    batch: &Batch,
    reads: ReadSet,
    edit: &Edit,
    plain: &Trace,
) -> Trace {
    let options = ForwardOptions { reads, edit: Some(edit), ..ForwardOptions::default() };
    let first = edit.first_pass(batch).unwrap_or(batch.passes.len());
    run(model, batch, options, true, Some((plain, first)), |states, _| states)
}

/// Runs a batch whose first `passes` passes are those of an earlier trace, token by token.
pub fn forward_after(
    model: &LatentModel,
    batch: &Batch,
    reads: ReadSet,
    earlier: &Trace,
    passes: usize,
) -> Trace {
    run(model, batch, reads.into(), true, Some((earlier, passes)), |states, _| states)
}

/// Runs a batch; the passes through which gradients flow leave a graph if they are `recorded`. Of the first passes,
/// as many as `done` says are taken from an earlier trace. `keep` says what stays of a pass's hidden states once all
/// thoughts are made of them.
pub(super) fn run(
    model: &LatentModel,
    batch: &Batch,
    options: ForwardOptions<'_>,
    recorded: bool,
    done: Option<(&Trace, usize)>,
    keep: impl Fn(HiddenStates, &Pass) -> HiddenStates,
) -> Trace {
    let mut trace = match done {
        Some((done, passes)) => done.before(batch, passes),
        None => Trace::empty(batch.caches(), model.transformer.config.n_layer),
    };
    let done = trace.hidden.len();
    let embedded = batch.passes.iter().zip(&trace.thoughts);
    let mut inputs: Vec<Tensor<3>> = // [batch, seq, d_model] a pass
        embedded.map(|(pass, fed)| embed(model, pass, fed.clone())).collect();
    let tracked = tracked(batch, options.tracked);
    let models = Models::new(model, &tracked, recorded);
    let row_space = row_space(model);

    for (number, pass) in batch.passes.iter().enumerate().skip(done) {
        let thoughts = pass.fed.as_ref().map(|fed| {
            let (states, inputs) = (&trace.hidden[fed.states.pass], &inputs[fed.inputs.pass]);
            let model = models.thinking(number, fed);
            let thoughts = think(model, batch, fed, states, inputs, row_space.as_ref());
            let thoughts = tracked[number].gate(thoughts, &fed.tokens(batch.rows));
            let Some(edit) = options.edit else { return thoughts };
            let Edited { thoughts, touched } = edit.apply(batch, fed, thoughts);
            trace.edited.extend(touched);
            thoughts
        });
        let records = models.records[number];
        let fed = thoughts.clone().map(|fed| if records { fed } else { fed.detach() });
        let model = models.chosen(records);
        let mut embeddings = embed(model, pass, fed);
        if let Some(edit) = options.edit.filter(|edit| edit.is_of_question() && number == 0) {
            embeddings = edit.apply_to_question(batch, pass, embeddings);
        }
        let seed = options.seed.map(|seed| pass_seed(seed, number));
        let past = &trace.caches[pass.branch.cache()];
        let positions = options.reads.positions;
        let (states, new) = run_pass(model, pass, embeddings.clone(), past, positions, seed);
        if pass.keep {
            let new = tracked[number].gate_columns(new, pass.cached_tokens());
            trace.push_columns(pass.branch, &new);
        }
        trace.thoughts.push(thoughts);
        trace.hidden.push(tracked[number].gate_states(states));
        inputs.push(tracked[number].gate(embeddings, pass.tokens()));
        let before = pass.fed.as_ref().map(|fed| fed.states.pass);
        for done in before.into_iter().chain([number]) {
            if !batch.passes[number + 1..].iter().any(|later| later.is_fed_from(done)) {
                let states = trace.hidden[done].clone();
                trace.hidden[done] = keep(states, &batch.passes[done]);
            }
        }
    }
    // A thought that passes compute anew is edited each time.
    trace.edited.sort_unstable();
    trace.edited.dedup();
    trace
}

/// The model, and the same as a constant for passes that leave no graph.
struct Models<'a> {
    model: &'a LatentModel,
    /// Its parameters record no graph; dropout stays as it is in training.
    constant: Option<LatentModel>,
    tracked: &'a [Tracked],
    /// The passes that leave a graph.
    records: Vec<bool>,
}

impl<'a> Models<'a> {
    fn new(model: &'a LatentModel, tracked: &'a [Tracked], recorded: bool) -> Self {
        let records: Vec<bool> = tracked.iter().map(|tracked| recorded && tracked.any()).collect();
        let constant = records.contains(&false).then(|| model.clone().no_grad());
        Self { model, constant, tracked, records }
    }

    fn chosen(&self, records: bool) -> &LatentModel {
        self.constant.as_ref().filter(|_| !records).unwrap_or(self.model)
    }

    /// The model that makes the thoughts which a pass is fed: what a tracked pass is fed from one that is not is made
    /// of constants by parameters that are none.
    fn thinking(&self, number: usize, fed: &Fed) -> &LatentModel {
        let from = fed.states.pass;
        let made_of_constants = self.records[from] || !self.tracked[from].any();
        self.chosen(self.tracked[number].any() && made_of_constants)
    }
}

/// The span of the output head's rows, if anything is read through it and it is not everything.
pub(super) fn row_space(model: &LatentModel) -> Option<Tensor<2>> {
    let reads = model.config.feedback.reads_head();
    reads.then(|| terms::row_space(&model.transformer)).flatten()
}

/// The thoughts that a pass is fed, `[batch, thoughts, d_model]`, made of the hidden states and of the input
/// embeddings of the passes that `fed` names.
pub(super) fn think(
    model: &LatentModel,
    batch: &Batch,
    fed: &Fed,
    states: &HiddenStates,
    embeddings: &Tensor<3>,
    row_space: Option<&Tensor<2>>,
) -> Tensor<3> {
    let inputs = FeedbackInputs {
        states,
        columns: &fed.states.columns,
        embeddings,
        embedding_tokens: batch.passes[fed.inputs.pass].tokens(),
        embedding_columns: &fed.inputs.columns,
        row_space,
    };
    think_of(model, inputs, fed.residual)
}

/// What is fed back of some hidden states and input embeddings, with the embedding of the token `residual` if there is
/// one: `[batch, thoughts, d_model]`.
pub(super) fn think_of(
    model: &LatentModel,
    inputs: FeedbackInputs<'_>,
    residual: Option<u32>,
) -> Tensor<3> {
    let LatentModel { transformer, parameters, config } = model;
    let context = FeedbackContext { transformer, learned: &parameters.reinject, config, inputs };
    let thoughts = context.thoughts(&config.feedback);
    let Some(latent) = residual else { return thoughts };
    let latent = TokenInts::new(vec![latent as i32], [1, 1]).tensor(&model.device());
    let [rows, n, d] = thoughts.dims();
    thoughts + transformer.embed(latent).expand([rows, n, d])
}

/// The input embeddings of a pass, thoughts among them: `[batch, seq, d_model]`, or `[1, tokens, d_model]`
/// where it leaves padding out.
pub(super) fn embed(model: &LatentModel, pass: &Pass, thoughts: Option<Tensor<3>>) -> Tensor<3> {
    let embed = |ids: &TokenInts| {
        let some = !ids.values.is_empty();
        some.then(|| model.transformer.embed(ids.tensor(&model.device())))
    };
    let [before, after] = &pass.text;
    join([embed(before), thoughts, embed(after)])
}

/// A pass's embeddings with what the thoughts' places add to them: `[batch, seq, d_model]`, shape kept.
pub(super) fn add_positions(model: &LatentModel, pass: &Pass, embeddings: Tensor<3>) -> Tensor<3> {
    let Some(Fed { columns, first_thought, .. }) = &pass.fed else { return embeddings };
    let Some(encodings) = model.encodings(*first_thought, columns.len()) else { return embeddings };
    let [rows, seq, d] = embeddings.dims();
    let part = |columns: Range<usize>| {
        let some = !columns.is_empty();
        some.then(|| embeddings.clone().narrow(1, columns.start, columns.len()))
    };
    let encodings = encodings.expand([rows, columns.len(), d]);
    let thoughts = part(columns.clone()).map(|thoughts| thoughts + encodings);
    join([part(0..columns.start), thoughts, part(columns.end..seq)])
}

/// Parts of rows side by side, those that are there.
fn join(parts: [Option<Tensor<3>>; 3]) -> Tensor<3> {
    let mut parts: Vec<Tensor<3>> = parts.into_iter().flatten().collect();
    match parts.len() {
        1 => parts.remove(0),
        _ => Tensor::cat(parts, 1),
    }
}

/// One pass of the transformer over its input embeddings.
pub(super) fn run_pass(
    model: &LatentModel,
    pass: &Pass,
    embeddings: Tensor<3>,
    past: &Cache,
    positions: ReadPositions,
    seed: Option<u64>,
) -> (HiddenStates, NewColumns) {
    let embeddings = add_positions(model, pass, embeddings);
    model.transformer.forward(embeddings, past, pass.layout(positions), seed)
}

/// The seed of a pass's dropout.
pub(super) fn pass_seed(seed: u64, number: usize) -> u64 {
    rng::hash(seed, &[rng::DEVICE, number as u64])
}
