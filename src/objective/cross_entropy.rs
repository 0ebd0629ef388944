//! Next-token cross entropy at the labelled positions.

use burn::tensor::{Int, Tensor};

use crate::{
    latent::{
        Trace,
        batch::{Batch, Target},
    },
    model::Transformer,
};

/// The sum over `targets` of −log p(token | everything before it), in nats: `[1]`. The output head
/// is applied at labelled positions only. The sum is `None` if nothing is labelled.
///
/// A sum, not a mean: micro-batches then add up to the large batch exactly when each is divided by
/// the number of labels in all of them.
pub fn cross_entropy(
    model: &Transformer,
    batch: &Batch,
    trace: &Trace,
    targets: &[Target],
) -> Option<Tensor<1>> {
    let hidden = trace.predictors(batch, targets)?; // [targets, d_model]
    let tokens: Vec<i32> = targets.iter().map(|target| target.token as i32).collect();
    let tokens = Tensor::<1, Int>::from_data(tokens.as_slice(), &hidden.device());
    Some(coconut_kernels::cross_entropy(hidden, model.head(), tokens))
}
