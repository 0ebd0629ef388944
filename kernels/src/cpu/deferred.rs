//! Gradients of a weight that many passes of few rows share.
//!
//! A pass of few rows does little arithmetic for each element of a weight's gradient, but reads and writes all of them.
//! So the rows are kept until the last of them has come, and give their share in one product. The graph itself knows when
//! that is: [`defer`] puts a node before the weight, whose backward step comes after those of all products with it.

use std::sync::{Arc, Mutex, PoisonError};

use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::NoCheckpointing};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::{BackendTensor, DispatchTensor, DispatchTensorKind, Flex};
use burn::tensor::Tensor;
use burn_flex::FlexTensor;

use super::bridge::{contiguous, fusable, slice, slice_mut, tracked};
use super::matrix::{Dst, Matrix, multiply_in};
use super::weight::Share;
use crate::Precision;

/// Weights with fewer elements stay in a cache, and nothing is deferred.
const LARGE: usize = 1 << 18;
/// Most rows of a product whose share is deferred.
pub(super) const FEW: usize = 64;

/// The shares of a weight's gradient that wait. Clones are the same.
#[derive(Clone, Debug, Default)]
pub struct Deferred(Arc<Mutex<Vec<Share>>>);

impl Deferred {
    pub(super) fn push(&self, share: Share) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(share);
    }

    fn take(&self) -> Vec<Share> {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A weight as it is, behind a node that adds to its gradient what waits; `None` if nothing is to be deferred: the
/// weight is small, needs no gradient, or is not on Flex.
pub(crate) fn defer(weight: &Tensor<2>) -> Option<(Tensor<2>, Deferred)> {
    if !weight.is_tracked() || !fusable(weight) || weight.shape().num_elements() < LARGE {
        return None;
    }
    let deferred = Deferred::default();
    let DispatchTensor { kind, autodiff } = weight.clone().into_dispatch();
    let operand = tracked(DispatchTensor { kind, autodiff });
    let (nodes, value) = ([operand.node()], operand.into_primitive());
    let step = Step.prepare::<NoCheckpointing>(nodes).compute_bound().stateful();
    let result = match step {
        OpsKind::Tracked(step) => step.finish(deferred.clone(), value),
        OpsKind::UnTracked(step) => step.finish(value),
    };
    let kind = DispatchTensorKind::Flex(BackendTensor::Autodiff(result));
    let kind = DispatchTensorKind::Autodiff(Box::new(kind));
    Some((Tensor::from_dispatch(DispatchTensor { kind, autodiff }), deferred))
}

/// The step of that node.
#[derive(Debug)]
struct Step;

impl Backward<Flex, 1> for Step {
    type State = Deferred;

    fn backward(self, ops: Ops<Deferred, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        // There is one: only what comes after it is deferred.
        let mut sum = contiguous(grads.consume::<Flex>(&ops.node));
        Sum::of(&ops.state.take()).iter().for_each(|sums| sums.add_to(&mut sum));
        if let [Some(parent)] = ops.parents {
            grads.register::<Flex>(parent.id, sum);
        }
    }
}

/// Shares with one precision, their rows one after the other.
struct Sum {
    precision: Precision,
    rows: usize,
    lhs: Vec<f32>,
    rhs: Vec<f32>,
}

impl Sum {
    fn of(shares: &[Share]) -> Option<Self> {
        let precision = shares.first()?.precision;
        let mut sum = Self { precision, rows: 0, lhs: Vec::new(), rhs: Vec::new() };
        for share in shares {
            sum.rows += share.rows;
            sum.lhs.extend(share.lhs.elements(share.rows));
            sum.rhs.extend(share.rhs.elements(share.rows));
        }
        Some(sum)
    }

    /// Adds `lhsᵀ · rhs`.
    fn add_to(&self, total: &mut FlexTensor) {
        let [lhs, rhs] = [&self.lhs, &self.rhs]
            .map(|side| Matrix::new(side, self.rows, side.len() / self.rows.max(1)));
        let width = rhs.cols();
        multiply_in(self.precision, Dst::add(slice_mut(total), width), lhs.t(), rhs);
    }
}

/// Some columns of the rows of a tensor.
#[derive(Clone, Debug)]
pub(super) struct Columns {
    pub tensor: FlexTensor,
    /// Elements of a row of the tensor.
    pub stride: usize,
    pub first: usize,
    pub width: usize,
}

impl Columns {
    /// A view of them.
    pub(super) fn matrix(&self, rows: usize) -> Matrix<'_> {
        let from = slice(&self.tensor).get(self.first..).unwrap_or_default();
        Matrix::part(from, rows, self.width, self.stride)
    }

    fn elements(&self, rows: usize) -> impl Iterator<Item = f32> {
        let rows = slice(&self.tensor).chunks_exact(self.stride.max(1)).take(rows);
        rows.flat_map(|row| &row[self.first..][..self.width]).copied()
    }
}
