//! The vectors of a row that can be read as words: its thoughts, and the one that would come next.

use burn::tensor::Tensor;

use super::{
    LatentModel, Trace,
    batch::Batch,
    feedback::FeedbackInputs,
    forward::{row_space, think_of},
};
use crate::model::TokenLayout;

/// Each row's thoughts as they were fed, in order, and behind them, if the plan reads the last latents' states, what
/// another latent would be fed: `[batch, thoughts, d_model]`; `None` if nothing was fed. Where passes compute a column
/// anew, the last one counts.
pub fn vectors(model: &LatentModel, batch: &Batch, trace: &Trace) -> Option<Tensor<3>> {
    let mut vectors = trace.thoughts_in_order(batch);
    if vectors.is_empty() {
        return None;
    }
    vectors.extend(next_thought(model, batch, trace));
    Some(Tensor::cat(vectors, 1))
}

/// What is made of each row's last latent, `[batch, 1, d_model]`, if the plan reads it.
fn next_thought(model: &LatentModel, batch: &Batch, trace: &Trace) -> Option<Tensor<3>> {
    let last = batch.last_latents.as_ref()?;
    let fed = batch.passes[last.pass].fed.as_ref()?;
    // The input embedding of a latent is the thought that it was fed.
    let embeddings = trace.thoughts[last.pass].as_ref()?;
    let columns: Vec<usize> =
        last.columns.iter().map(|column| column - fed.columns.start).collect();
    let row_space = row_space(model);
    let inputs = FeedbackInputs {
        states: &trace.hidden[last.pass],
        columns: &last.columns,
        embeddings,
        embedding_tokens: &TokenLayout::padded(batch.rows, fed.columns.len()),
        embedding_columns: &columns,
        row_space: row_space.as_ref(),
    };
    Some(think_of(model, inputs, fed.residual))
}
