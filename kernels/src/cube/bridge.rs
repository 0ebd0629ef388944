//! How a fused operation meets Burn: its operands leave the tensor API, run on the Cube backend's storage, and the
//! result comes back with a backward step recorded where gradients are needed.
//!
//! Burn is built without its own fusion here, so that an operand is a buffer and not a promise of one.

use std::fmt::Debug;

use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::NoCheckpointing};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{
    Autodiff, AutodiffBackend, BackendTensor, Cube, DispatchAutodiffContext, DispatchTensor,
    DispatchTensorKind,
};
use burn::tensor::{DType, Tensor};
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::tensor::CubeTensor;

/// A tensor with its place in the autodiff graph.
type Tracked = FloatTensor<Autodiff<Cube>>;

/// An operation of `N` float operands with a hand-written backward pass.
pub(crate) trait Fused<const N: usize>: Send + Debug + 'static {
    /// What the backward pass reads.
    type Saved: Clone + Send + Debug + 'static;

    /// The result, from contiguous operands.
    fn forward(&self, operands: [CubeTensor; N]) -> (CubeTensor, Self::Saved);

    /// The gradients that are needed, given that of the result (contiguous).
    fn backward(
        self,
        saved: Self::Saved,
        grad: CubeTensor,
        needed: [bool; N],
    ) -> [Option<CubeTensor>; N];
}

/// The step that Burn's graph keeps for one fused operation.
#[derive(Debug)]
struct Step<F>(F);

impl<F: Fused<N>, const N: usize> Backward<Cube, N> for Step<F> {
    type State = F::Saved;

    fn backward(self, ops: Ops<F::Saved, N>, grads: &mut Gradients, _: &mut Checkpointer) {
        let grad = into_contiguous(grads.consume::<Cube>(&ops.node));
        let needed = ops.parents.each_ref().map(|parent| parent.is_some());
        let found = self.0.backward(ops.state, grad, needed);
        for (parent, grad) in ops.parents.into_iter().zip(found) {
            if let (Some(parent), Some(grad)) = (parent, grad) {
                grads.register::<Cube>(parent.id, grad);
            }
        }
    }
}

/// Whether the fused bodies can run on this tensor: f32 on the Cube backend, of at least one element, and of so few
/// that kernels can count them in 32 bits.
pub(crate) fn fusable<const D: usize>(x: &Tensor<D>) -> bool {
    let countable = 1..=i32::MAX as usize;
    if x.dtype() != DType::F32 || !countable.contains(&x.shape().num_elements()) {
        return false;
    }
    match x.clone().into_dispatch().kind {
        DispatchTensorKind::Cube(BackendTensor::Float(_)) => true,
        DispatchTensorKind::Autodiff(inner) => {
            matches!(*inner, DispatchTensorKind::Cube(BackendTensor::Autodiff(_)))
        }
        _ => false,
    }
}

/// Runs a fused operation on [`fusable`] operands and records its backward step.
pub(crate) fn apply<F: Fused<N>, const N: usize, const D: usize>(
    op: F,
    operands: [DispatchTensor; N],
) -> Tensor<D> {
    let context = operands
        .iter()
        .fold(DispatchAutodiffContext::Disabled, |context, x| context.merge(x.autodiff));
    let operands = operands.map(tracked);
    let kind = match context {
        DispatchAutodiffContext::Disabled => {
            let (result, _) = op.forward(operands.map(|x| into_contiguous(x.into_primitive())));
            DispatchTensorKind::Cube(BackendTensor::Float(result))
        }
        DispatchAutodiffContext::Enabled(_) => {
            let result = BackendTensor::Autodiff(apply_tracked(op, operands));
            DispatchTensorKind::Autodiff(Box::new(DispatchTensorKind::Cube(result)))
        }
    };
    Tensor::from_dispatch(DispatchTensor { kind, autodiff: context })
}

fn apply_tracked<F: Fused<N>, const N: usize>(op: F, operands: [Tracked; N]) -> Tracked {
    let nodes = operands.each_ref().map(|x| x.node());
    let (result, saved) = op.forward(operands.map(|x| into_contiguous(x.into_primitive())));
    // The strategy plays no part in an operation that is never recomputed.
    match Step(op).prepare::<NoCheckpointing>(nodes).compute_bound().stateful() {
        OpsKind::Tracked(step) => step.finish(saved, result),
        OpsKind::UnTracked(step) => step.finish(result),
    }
}

/// The tensor under a [`fusable`] operand with its place in the graph, a constant's if it has none.
fn tracked(x: DispatchTensor) -> Tracked {
    match x.kind {
        DispatchTensorKind::Autodiff(inner) => match *inner {
            DispatchTensorKind::Cube(BackendTensor::Autodiff(x)) => x,
            _ => unreachable!("callers check `fusable`"),
        },
        DispatchTensorKind::Cube(BackendTensor::Float(x)) => {
            <Autodiff<Cube> as AutodiffBackend>::from_inner(x)
        }
        _ => unreachable!("callers check `fusable`"),
    }
}
