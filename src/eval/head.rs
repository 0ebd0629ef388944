//! The output head over many hidden states, so many at a time that their logits fit the memory.

use std::ops::Range;

use burn::tensor::{Tensor, activation::log_softmax, s};

use crate::{Result, model::Transformer};

/// Logits computed at once, in numbers.
const MOST_LOGITS: usize = 1 << 24;

/// Gives `read` the log probabilities of all tokens after hidden states `[n, d_model]`: the rows that come next, and
/// `[rows, vocab]`.
///
/// # Errors
/// Those of `read`.
pub fn log_probs_by_rows(
    transformer: &Transformer,
    hidden: &Tensor<2>,
    mut read: impl FnMut(Range<usize>, Tensor<2>) -> Result<()>,
) -> Result<()> {
    let [n, _] = hidden.dims();
    let at_once = (MOST_LOGITS / transformer.config.vocab_size.max(1)).max(1);
    for start in (0..n).step_by(at_once) {
        let rows = start..(start + at_once).min(n);
        let logits = transformer.logits(hidden.clone().slice(s![rows.clone(), ..]));
        read(rows, log_softmax(logits, 1))?;
    }
    Ok(())
}
