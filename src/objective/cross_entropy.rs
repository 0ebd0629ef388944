//! Next-token cross entropy at the labelled positions.

use burn::tensor::{Int, Tensor};
use coconut_kernels::host;

use crate::{
    latent::{
        Trace,
        batch::{Batch, PassTargets, Target},
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
    Some(of_hidden(model, trace.predictors(batch, targets)?, targets))
}

/// The same of what positions are to predict besides labels, each in its pass.
pub fn step_cross_entropy(model: &Transformer, batch: &Batch, trace: &Trace) -> Option<Tensor<1>> {
    let of_pass = |of: &PassTargets| of_hidden(model, trace.predictors_in(batch, of), &of.targets);
    batch.step_targets.iter().map(of_pass).reduce(|a, b| a + b)
}

/// `hidden: [targets, d_model]` → `[1]`.
fn of_hidden(model: &Transformer, hidden: Tensor<2>, targets: &[Target]) -> Tensor<1> {
    let tokens: Vec<i32> = targets.iter().map(|target| target.token as i32).collect();
    let tokens = host::upload::<1, Int>(tokens.as_slice(), &hidden.device());
    coconut_kernels::cross_entropy(hidden, model.head(), tokens)
}
