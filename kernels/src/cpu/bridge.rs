//! How a fused operation meets Burn: its operands leave the tensor API, run on Flex's storage, and
//! the result comes back with a backward step recorded where gradients are needed.
//!
//! [`fusable`] says whether an operand can take this road (f32 on Flex, with or without autodiff);
//! [`apply`] takes it. An operation itself ([`Fused`]) sees nothing but contiguous Flex tensors.

use std::fmt::Debug;

use burn::backend::autodiff::NodeId;
use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::NoCheckpointing};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{
    Autodiff, AutodiffBackend, BackendTensor, DispatchAutodiffContext, DispatchTensor,
    DispatchTensorKind, Flex,
};
use burn::tensor::{DType, Int, Shape, Tensor, TensorData};
use burn_flex::FlexTensor;

/// A Flex tensor with its place in the autodiff graph.
type Tracked = FloatTensor<Autodiff<Flex>>;

/// An operation of `N` float operands with a hand-written backward pass.
pub(crate) trait Fused<const N: usize>: Send + Debug + 'static {
    /// What the backward pass reads.
    type Saved: Clone + Send + Debug + 'static;

    /// The result, from contiguous operands. `needs_grad` says whose gradients will be asked for; when
    /// none are, an operand whose storage is not shared may be overwritten.
    fn forward(
        &self,
        operands: [FlexTensor; N],
        needs_grad: [bool; N],
    ) -> (FlexTensor, Option<Self::Saved>);

    /// Hands the operands' gradients to `sinks`, given that of the result (contiguous).
    fn backward(self, saved: Self::Saved, grad: FlexTensor, sinks: &mut GradSinks<'_, N>);

    /// Whether [`GradSinks::take`] will be called for an operand. It costs a reference to the operand's
    /// node, which lets the node outlive an abandoned graph by one backward pass: worth it for
    /// parameters, and for operands that many operations share.
    fn accumulates(&self, _operand: usize) -> bool {
        false
    }
}

/// Where the gradients of an operation's operands go.
pub(crate) struct GradSinks<'a, const N: usize> {
    grads: &'a mut Gradients,
    parents: [Option<NodeId>; N],
    tensors: [Option<Tracked>; N],
}

impl<const N: usize> GradSinks<'_, N> {
    /// Whether anyone asked for this operand's gradient.
    pub(crate) fn needs_grad(&self, operand: usize) -> bool {
        self.parents[operand].is_some()
    }

    /// Removes the gradient that other operations have given this operand so far, to be added to
    /// in place and given back with [`GradSinks::put`].
    pub(crate) fn take(&mut self, operand: usize) -> Option<FlexTensor> {
        let tensor = self.tensors[operand].as_ref()?;
        self.grads.remove::<Flex>(tensor).map(contiguous)
    }

    /// Adds to this operand's gradient.
    pub(crate) fn put(&mut self, operand: usize, grad: FlexTensor) {
        if let Some(node) = self.parents[operand] {
            self.grads.register::<Flex>(node, grad);
        }
    }
}

/// The step that Burn's graph keeps for one fused operation.
#[derive(Debug)]
struct Step<F>(F);

impl<F: Fused<N>, const N: usize> Backward<Flex, N> for Step<F> {
    type State = (F::Saved, [Option<Tracked>; N]);

    fn backward(self, ops: Ops<Self::State, N>, grads: &mut Gradients, _: &mut Checkpointer) {
        let grad = contiguous(grads.consume::<Flex>(&ops.node));
        let parents = ops.parents.map(|parent| parent.map(|node| node.id));
        let (saved, tensors) = ops.state;
        self.0.backward(saved, grad, &mut GradSinks { grads, parents, tensors });
    }
}

/// Whether the fused bodies can run on this tensor: f32 on Flex.
pub(crate) fn fusable<const D: usize>(x: &Tensor<D>) -> bool {
    if x.dtype() != DType::F32 {
        return false;
    }
    match x.clone().into_dispatch().kind {
        DispatchTensorKind::Flex(BackendTensor::Float(_)) => true,
        DispatchTensorKind::Autodiff(inner) => {
            matches!(*inner, DispatchTensorKind::Flex(BackendTensor::Autodiff(_)))
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
    let kind = match context {
        DispatchAutodiffContext::Disabled => {
            let (result, _) = op.forward(operands.map(|x| contiguous(untracked(x))), [false; N]);
            DispatchTensorKind::Flex(BackendTensor::Float(result))
        }
        DispatchAutodiffContext::Enabled(_) => {
            let result = DispatchTensorKind::Flex(BackendTensor::Autodiff(apply_tracked(
                op,
                operands.map(tracked),
            )));
            DispatchTensorKind::Autodiff(Box::new(result))
        }
    };
    Tensor::from_dispatch(DispatchTensor { kind, autodiff: context })
}

fn apply_tracked<F: Fused<N>, const N: usize>(op: F, operands: [Tracked; N]) -> Tracked {
    let needs_grad = operands.each_ref().map(|x| x.is_tracked());
    let mut operand = 0;
    let tensors = operands.each_ref().map(|x| {
        let keep = x.is_tracked() && op.accumulates(operand);
        operand += 1;
        keep.then(|| x.clone())
    });
    let nodes = operands.each_ref().map(|x| x.node());
    let operands = operands.map(|x| contiguous(x.into_primitive()));
    let (result, saved) = op.forward(operands, needs_grad);
    // The strategy plays no part in an operation that is never recomputed.
    match Step(op).prepare::<NoCheckpointing>(nodes).compute_bound().stateful() {
        OpsKind::Tracked(step) => match saved {
            Some(saved) => step.finish((saved, tensors), result),
            None => unreachable!("a forward pass saves its state whenever a gradient is needed"),
        },
        OpsKind::UnTracked(step) => step.finish(result),
    }
}

/// The Flex tensor under a [`fusable`] operand, with its place in the graph left behind.
pub(crate) fn untracked(x: DispatchTensor) -> FlexTensor {
    match x.kind {
        DispatchTensorKind::Flex(BackendTensor::Float(x)) => x,
        DispatchTensorKind::Autodiff(inner) => match *inner {
            DispatchTensorKind::Flex(BackendTensor::Autodiff(x)) => x.into_primitive(),
            _ => unreachable!("callers check `fusable`"),
        },
        _ => unreachable!("callers check `fusable`"),
    }
}

/// The same with its place in the graph, a constant's if it has none.
pub(crate) fn tracked(x: DispatchTensor) -> Tracked {
    match x.kind {
        DispatchTensorKind::Autodiff(inner) => match *inner {
            DispatchTensorKind::Flex(BackendTensor::Autodiff(x)) => x,
            _ => unreachable!("callers check `fusable`"),
        },
        DispatchTensorKind::Flex(BackendTensor::Float(x)) => {
            <Autodiff<Flex> as AutodiffBackend>::from_inner(x)
        }
        _ => unreachable!("callers check `fusable`"),
    }
}

/// The indices in an integer tensor on the host, checked to be below `bound`.
///
/// # Panics
/// If one is not.
pub(crate) fn indices<const D: usize>(ids: Tensor<D, Int>, bound: usize) -> Vec<u32> {
    ids.into_data()
        .iter::<i64>()
        .map(|id| {
            assert!(id >= 0 && (id as usize) < bound, "index {id} is outside 0..{bound}");
            id as u32
        })
        .collect()
}

/// The same tensor, its elements side by side in row-major order.
pub(crate) fn contiguous(x: FlexTensor) -> FlexTensor {
    if x.is_contiguous() { x } else { x.to_contiguous() }
}

/// The three sizes of a tensor `[batch, seq, width]`.
pub(crate) fn sizes(x: &FlexTensor) -> [usize; 3] {
    let shape = x.layout().shape();
    [shape[0], shape[1], shape[2]]
}

/// The elements of a contiguous tensor.
pub(crate) fn slice(x: &FlexTensor) -> &[f32] {
    let storage = x.storage::<f32>();
    let start = x.layout().start_offset();
    &storage[start..start + x.layout().num_elements()]
}

/// The elements of a contiguous tensor, copied first if anyone else holds them.
pub(crate) fn slice_mut(x: &mut FlexTensor) -> &mut [f32] {
    let start = x.layout().start_offset();
    let end = start + x.layout().num_elements();
    &mut x.storage_mut::<f32>()[start..end]
}

/// A tensor made of `data`.
pub(crate) fn tensor(data: Vec<f32>, shape: impl Into<Shape>) -> FlexTensor {
    FlexTensor::from_data(TensorData::new(data, shape.into()))
}

/// `len` elements of no particular value, every one of which the caller is about to write.
///
/// Clearing them first would cost as much memory traffic as computing many of the results.
pub(crate) fn uninit(len: usize) -> Vec<f32> {
    if cfg!(miri) {
        return vec![0.0; len];
    }
    let mut data = Vec::with_capacity(len);
    // SAFETY: the capacity was just reserved, any bit pattern is an f32, and no caller reads an
    // element before writing it.
    #[allow(clippy::uninit_vec)]
    unsafe {
        data.set_len(len)
    };
    data
}

/// A slice that tasks may write to at the same time, each to elements of its own.
#[derive(Clone, Copy)]
pub(crate) struct SendPtr {
    start: *mut f32,
    len: usize,
}

// SAFETY: it is only dereferenced in `SendPtr::slice`, whose callers answer for disjoint elements.
unsafe impl Send for SendPtr {}
// SAFETY: as above.
unsafe impl Sync for SendPtr {}

impl SendPtr {
    pub(crate) fn new(slice: &mut [f32]) -> Self {
        Self { start: slice.as_mut_ptr(), len: slice.len() }
    }

    /// `len` elements from `start`.
    ///
    /// # Panics
    /// If they reach over the end of the slice.
    ///
    /// # Safety
    /// The slice that this came from outlives `'a`, and until then nothing else reads or writes these elements.
    pub(crate) unsafe fn slice<'a>(self, start: usize, len: usize) -> &'a mut [f32] {
        assert!(start <= self.len && len <= self.len - start, "the elements lie inside the slice");
        // SAFETY: they lie inside the slice, and the caller promises the rest.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(start), len) }
    }
}
