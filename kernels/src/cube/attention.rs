//! Causal attention without its scores in memory, after Dao 2022, a thread a query and head: the softmax is summed as
//! the keys go by, and the backward pass computes the scores again.

use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::NoCheckpointing};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{
    Autodiff, AutodiffBackend, BackendTensor, Cube, DispatchAutodiffContext, DispatchTensor,
    DispatchTensorKind,
};
use burn::tensor::{DType, Shape, Tensor};
use burn_cubecl::{
    kernel::into_contiguous, ops::numeric::empty_device_contiguous_dtype, tensor::CubeTensor,
};
use cubecl::{calculate_cube_count_elemwise, prelude::*};

use super::layout::{HEADER, Layout};
use crate::{Heads, TokenMask};

/// A tensor with its place in the autodiff graph.
type Tracked = FloatTensor<Autodiff<Cube>>;

/// Whether this body can run on a tensor: f32 on a GPU.
pub(crate) fn fusable(x: &Tensor<3>) -> bool {
    if x.dtype() != DType::F32 {
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

/// [`crate::attention`] on operands that were found fit.
pub(crate) fn attention(
    qkv: Tensor<3>,
    past: &[Tensor<3>],
    heads: Heads,
    mask: &TokenMask,
) -> Tensor<3> {
    let [batch, new, _] = qkv.dims();
    // A chunk has a place in the kernels of its own, of which there are two beside the new columns'.
    let past: Vec<Tensor<3>> = match past {
        [first, rest @ ..] if rest.len() > 1 => {
            vec![first.clone(), Tensor::cat(rest.to_vec(), 1)]
        }
        few => few.to_vec(),
    };
    let chunks: Vec<Tensor<3>> = past.into_iter().chain([qkv]).collect();
    let shapes: Vec<[usize; 3]> = chunks.iter().map(|x| x.dims()).collect();
    let op = Attention {
        heads,
        layout: mask.layout(&shapes, &chunks[0].device()),
        output: [batch, new],
    };
    let mut operands = chunks.into_iter().map(Tensor::into_dispatch);
    macro_rules! run {
        ($n:literal) => {
            op.apply(std::array::from_fn::<_, $n, _>(|_| operands.next().expect("N operands")))
        };
    }
    // The number of operands is part of a step's type.
    match shapes.len() {
        1 => run!(1),
        2 => run!(2),
        _ => run!(3),
    }
}

/// The operation on its chunks, the oldest first, the new columns last.
#[derive(Clone, Debug)]
struct Attention {
    heads: Heads,
    layout: Layout,
    /// The first two sizes of the result.
    output: [usize; 2],
}

impl Attention {
    fn apply<const N: usize>(self, operands: [DispatchTensor; N]) -> Tensor<3> {
        let context = operands
            .iter()
            .fold(DispatchAutodiffContext::Disabled, |context, x| context.merge(x.autodiff));
        let kind = match context {
            DispatchAutodiffContext::Disabled => {
                let [result, _] = self.forward(&operands.map(|x| into_contiguous(untracked(x))));
                DispatchTensorKind::Cube(BackendTensor::Float(result))
            }
            DispatchAutodiffContext::Enabled(_) => {
                let operands = operands.map(tracked);
                let nodes = operands.each_ref().map(|x| x.node());
                let chunks = operands.map(|x| into_contiguous(x.into_primitive()));
                let [result, stats] = self.forward(&chunks);
                let result =
                    match Step::<N>.prepare::<NoCheckpointing>(nodes).compute_bound().stateful() {
                        OpsKind::Tracked(step) => {
                            step.finish((self, chunks, result.clone(), stats), result)
                        }
                        OpsKind::UnTracked(step) => step.finish(result),
                    };
                let result = DispatchTensorKind::Cube(BackendTensor::Autodiff(result));
                DispatchTensorKind::Autodiff(Box::new(result))
            }
        };
        Tensor::from_dispatch(DispatchTensor { kind, autodiff: context })
    }

    /// The result, and for each query and head the logarithm of the sum of its exponentiated scores, beside room for a
    /// number of the backward pass.
    fn forward<const N: usize>(&self, chunks: &[CubeTensor; N]) -> [CubeTensor; 2] {
        let Heads { query, key_value, dim } = self.heads;
        let own = &chunks[N - 1];
        let [rows, columns] = self.output;
        let result = empty(own, [rows, columns, query * dim]);
        let units = self.layout.asks * query;
        let stats = empty(own, [units, 2, 1]);
        let [first, second] = [0, 1].map(|i| if i + 1 < N { &chunks[i] } else { own });
        let (count, cube) = cubes(own, units);
        if units > 0 {
            forward_kernel::launch(
                &own.client,
                count,
                cube,
                buffer(first),
                buffer(second),
                buffer(own),
                buffer(&self.layout.table()),
                buffer(&result),
                buffer(&stats),
                query,
                key_value,
                dim,
            );
        }
        [result, stats]
    }

    /// The gradients of the chunks.
    fn backward<const N: usize>(
        &self,
        chunks: &[CubeTensor; N],
        [result, stats]: [&CubeTensor; 2],
        upstream: &CubeTensor,
    ) -> [CubeTensor; N] {
        let Heads { query, key_value, dim } = self.heads;
        let own = &chunks[N - 1];
        let grads = chunks.each_ref().map(|chunk| {
            let shape = chunk.meta.shape();
            empty(chunk, [shape[0], shape[1], shape[2]])
        });
        let [first, second] = [0, 1].map(|i| if i + 1 < N { &chunks[i] } else { own });
        let table = self.layout.table();
        let units = self.layout.asks * query;
        let (count, cube) = cubes(own, units);
        if units > 0 {
            backward_queries::launch(
                &own.client,
                count,
                cube,
                buffer(first),
                buffer(second),
                buffer(own),
                buffer(&table),
                buffer(result),
                buffer(upstream),
                buffer(&stats),
                buffer(&grads[N - 1]),
                query,
                key_value,
                dim,
            );
        }
        let mut offset = 0;
        for (i, (chunk, grad)) in chunks.iter().zip(&grads).enumerate() {
            let rows = chunk.meta.shape()[0] * chunk.meta.shape()[1];
            let (count, cube) = cubes(own, rows * key_value);
            if rows > 0 {
                backward_keys::launch(
                    &own.client,
                    count,
                    cube,
                    buffer(chunk),
                    buffer(own),
                    buffer(&table),
                    buffer(upstream),
                    buffer(stats),
                    buffer(grad),
                    offset as u32,
                    rows as u32,
                    i + 1 == N,
                    query,
                    key_value,
                    dim,
                );
            }
            offset += rows;
        }
        grads
    }
}

/// The step that Burn's graph keeps.
#[derive(Debug)]
struct Step<const N: usize>;

impl<const N: usize> Backward<Cube, N> for Step<N> {
    /// The operation, its chunks, its result and its sums.
    type State = (Attention, [CubeTensor; N], CubeTensor, CubeTensor);

    fn backward(self, ops: Ops<Self::State, N>, grads: &mut Gradients, _: &mut Checkpointer) {
        let upstream = into_contiguous(grads.consume::<Cube>(&ops.node));
        let (op, chunks, result, stats) = ops.state;
        let found = op.backward(&chunks, [&result, &stats], &upstream);
        for (parent, grad) in ops.parents.into_iter().zip(found) {
            if let Some(parent) = parent {
                grads.register::<Cube>(parent.id, grad);
            }
        }
    }
}

fn untracked(x: DispatchTensor) -> CubeTensor {
    match x.kind {
        DispatchTensorKind::Cube(BackendTensor::Float(x)) => x,
        DispatchTensorKind::Autodiff(inner) => match *inner {
            DispatchTensorKind::Cube(BackendTensor::Autodiff(x)) => x.into_primitive(),
            _ => unreachable!("callers check `fusable`"),
        },
        _ => unreachable!("callers check `fusable`"),
    }
}

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

/// Memory of no particular value where `like` is.
fn empty(like: &CubeTensor, shape: [usize; 3]) -> CubeTensor {
    let (client, device) = (like.client.clone(), like.device.clone());
    empty_device_contiguous_dtype(client, device, Shape::from(shape), DType::F32)
}

/// As many threads as there are units, in cubes.
fn cubes(of: &CubeTensor, units: usize) -> (CubeCount, CubeDim) {
    let cube = CubeDim::new(&of.client, units);
    (calculate_cube_count_elemwise(&of.client, units, cube), cube)
}

/// A contiguous tensor's elements.
fn buffer(x: &CubeTensor) -> BufferArg {
    // SAFETY: the handle is of as many elements as the shape says, side by side.
    unsafe { BufferArg::from_raw_parts(x.handle.clone(), x.meta.shape().num_elements()) }
}

/// `Σ x · from[start..]`.
#[cube]
fn dot(x: &Array<f32>, from: &[f32], start: usize, #[comptime] dim: usize) -> f32 {
    let mut sum = 0.0f32;
    for i in 0..dim {
        sum += x[i] * from[start + i];
    }
    sum
}

/// `to += times · from[start..]`.
#[cube]
fn add(to: &mut Array<f32>, times: f32, from: &[f32], start: usize, #[comptime] dim: usize) {
    for i in 0..dim {
        to[i] += times * from[start + i];
    }
}

/// [`dot`] with `dim` elements, from `column` on, of a row of the chunks.
#[cube]
fn dot_row(
    x: &Array<f32>,
    first: &[f32],
    second: &[f32],
    own: &[f32],
    layout: &[u32],
    row: usize,
    column: usize,
    #[comptime] width: usize,
    #[comptime] dim: usize,
) -> f32 {
    let rows_first = layout[3] as usize;
    let before_own = rows_first + layout[4] as usize;
    if row < rows_first {
        dot(x, first, row * width + column, dim)
    } else if row < before_own {
        dot(x, second, (row - rows_first) * width + column, dim)
    } else {
        dot(x, own, (row - before_own) * width + column, dim)
    }
}

/// [`add`] of `dim` elements, from `column` on, of a row of the chunks.
#[cube]
fn add_row(
    to: &mut Array<f32>,
    times: f32,
    first: &[f32],
    second: &[f32],
    own: &[f32],
    layout: &[u32],
    row: usize,
    column: usize,
    #[comptime] width: usize,
    #[comptime] dim: usize,
) {
    let rows_first = layout[3] as usize;
    let before_own = rows_first + layout[4] as usize;
    if row < rows_first {
        add(to, times, first, row * width + column, dim);
    } else if row < before_own {
        add(to, times, second, (row - rows_first) * width + column, dim);
    } else {
        add(to, times, own, (row - before_own) * width + column, dim);
    }
}

/// `to = times · from[start..]`.
#[cube]
fn load(to: &mut Array<f32>, times: f32, from: &[f32], start: usize, #[comptime] dim: usize) {
    for i in 0..dim {
        to[i] = times * from[start + i];
    }
}

/// `to[start..] = from`.
#[cube]
fn store(to: &mut [f32], start: usize, from: &Array<f32>, #[comptime] dim: usize) {
    for i in 0..dim {
        to[start + i] = from[i];
    }
}

#[cube(launch)]
fn forward_kernel(
    first: &[f32],
    second: &[f32],
    own: &[f32],
    layout: &[u32],
    result: &mut [f32],
    stats: &mut [f32],
    #[comptime] query: usize,
    #[comptime] key_value: usize,
    #[comptime] dim: usize,
) {
    let width = comptime!((query + 2 * key_value) * dim);
    let group = comptime!(query / key_value);
    let scale = comptime!(1.0 / (dim as f32).sqrt());
    let batch = layout[0] as usize;
    let columns = layout[1] as usize;
    let new = layout[2] as usize;
    let cells = batch * new;
    if ABSOLUTE_POS >= cells * query {
        terminate!();
    }
    let head = ABSOLUTE_POS % query;
    let cell = ABSOLUTE_POS / query;
    let asks = HEADER + batch * columns;
    let ask = layout[asks + cell] as usize;
    if ask == 0 {
        terminate!();
    }
    let bound = layout[asks + cells + cell] as usize;
    let key_column = query * dim + head / group * dim;
    let value_column = key_column + key_value * dim;

    let mut q = Array::<f32>::new(dim);
    load(&mut q, scale, own, (ask - 1) * width + head * dim, dim);
    let mut sum = Array::<f32>::new(dim);
    for i in 0..dim {
        sum[i] = 0.0f32;
    }
    let mut largest = f32::new(-1e30);
    let mut total = f32::new(0.0);
    let row_cells = HEADER + cell / new * columns;
    for column in 0..bound {
        let at = layout[row_cells + column] as usize;
        if at > 0 {
            let score = dot_row(&q, first, second, own, layout, at - 1, key_column, width, dim);
            if score > largest {
                let shrink = (largest - score).exp();
                total *= shrink;
                for i in 0..dim {
                    sum[i] *= shrink;
                }
                largest = score;
            }
            let weight = (score - largest).exp();
            total += weight;
            add_row(&mut sum, weight, first, second, own, layout, at - 1, value_column, width, dim);
        }
    }
    // Where nothing is seen the result is zero.
    let inverse = if total > 0.0f32 { 1.0f32 / total } else { 0.0f32 };
    for i in 0..dim {
        sum[i] *= inverse;
    }
    store(result, ((ask - 1) * query + head) * dim, &sum, dim);
    stats[ABSOLUTE_POS * 2] = largest + total.ln();
}

/// Gradients of the queries; and for each the product of its result and that's gradient, which the keys' need.
#[cube(launch)]
fn backward_queries(
    first: &[f32],
    second: &[f32],
    own: &[f32],
    layout: &[u32],
    result: &[f32],
    upstream: &[f32],
    stats: &mut [f32],
    grad: &mut [f32],
    #[comptime] query: usize,
    #[comptime] key_value: usize,
    #[comptime] dim: usize,
) {
    let width = comptime!((query + 2 * key_value) * dim);
    let group = comptime!(query / key_value);
    let scale = comptime!(1.0 / (dim as f32).sqrt());
    let batch = layout[0] as usize;
    let columns = layout[1] as usize;
    let new = layout[2] as usize;
    let cells = batch * new;
    if ABSOLUTE_POS >= cells * query {
        terminate!();
    }
    let head = ABSOLUTE_POS % query;
    let cell = ABSOLUTE_POS / query;
    let asks = HEADER + batch * columns;
    let ask = layout[asks + cell] as usize;
    if ask == 0 {
        terminate!();
    }
    let bound = layout[asks + cells + cell] as usize;
    let key_column = query * dim + head / group * dim;
    let value_column = key_column + key_value * dim;
    let at_result = ((ask - 1) * query + head) * dim;

    let mut q = Array::<f32>::new(dim);
    load(&mut q, scale, own, (ask - 1) * width + head * dim, dim);
    let mut up = Array::<f32>::new(dim);
    load(&mut up, 1.0f32, upstream, at_result, dim);
    let product = dot(&up, result, at_result, dim);
    let log_total = stats[ABSOLUTE_POS * 2];
    stats[ABSOLUTE_POS * 2 + 1] = product;
    let mut sum = Array::<f32>::new(dim);
    for i in 0..dim {
        sum[i] = 0.0f32;
    }
    let row_cells = HEADER + cell / new * columns;
    for column in 0..bound {
        let at = layout[row_cells + column] as usize;
        if at > 0 {
            let score = dot_row(&q, first, second, own, layout, at - 1, key_column, width, dim);
            let weight = (score - log_total).exp();
            let change = dot_row(&up, first, second, own, layout, at - 1, value_column, width, dim);
            let times = weight * (change - product) * scale;
            add_row(&mut sum, times, first, second, own, layout, at - 1, key_column, width, dim);
        }
    }
    store(grad, (ask - 1) * width + head * dim, &sum, dim);
}

/// Gradients of the keys and values of one chunk, whose rows are numbered from `offset` on; and zeros for its queries,
/// unless it is the new columns'.
#[cube(launch)]
fn backward_keys(
    chunk: &[f32],
    own: &[f32],
    layout: &[u32],
    upstream: &[f32],
    stats: &[f32],
    grad: &mut [f32],
    offset: u32,
    rows: u32,
    #[comptime] is_own: bool,
    #[comptime] query: usize,
    #[comptime] key_value: usize,
    #[comptime] dim: usize,
) {
    let width = comptime!((query + 2 * key_value) * dim);
    let group = comptime!(query / key_value);
    let scale = comptime!(1.0 / (dim as f32).sqrt());
    let batch = layout[0] as usize;
    let columns = layout[1] as usize;
    let new = layout[2] as usize;
    let cells = batch * new;
    if ABSOLUTE_POS >= rows as usize * key_value {
        terminate!();
    }
    let kv_head = ABSOLUTE_POS % key_value;
    let row = ABSOLUTE_POS / key_value;
    let asks = HEADER + batch * columns;
    let place = asks + 2 * cells + 2 * (offset as usize + row);
    let of_row = layout[place] as usize;
    let seen = layout[place + 1] as usize;
    let key_column = row * width + (query + kv_head) * dim;
    let value_column = key_column + key_value * dim;

    let mut key = Array::<f32>::new(dim);
    load(&mut key, scale, chunk, key_column, dim);
    let mut value = Array::<f32>::new(dim);
    load(&mut value, 1.0f32, chunk, value_column, dim);
    let mut of_key = Array::<f32>::new(dim);
    let mut of_value = Array::<f32>::new(dim);
    for i in 0..dim {
        of_key[i] = 0.0f32;
        of_value[i] = 0.0f32;
    }
    if seen > 0 {
        for asking in 0..new {
            let cell = of_row * new + asking;
            let ask = layout[asks + cell] as usize;
            let bound = layout[asks + cells + cell] as usize;
            if ask > 0 && bound >= seen {
                for of_group in 0..group {
                    let head = kv_head * group + of_group;
                    let at_query = (ask - 1) * width + head * dim;
                    let at_result = ((ask - 1) * query + head) * dim;
                    let at_stats = (cell * query + head) * 2;
                    let score = dot(&key, own, at_query, dim);
                    let weight = (score - stats[at_stats]).exp();
                    let change = dot(&value, upstream, at_result, dim);
                    let times = weight * (change - stats[at_stats + 1]) * scale;
                    add(&mut of_key, times, own, at_query, dim);
                    add(&mut of_value, weight, upstream, at_result, dim);
                }
            }
        }
    }
    store(grad, key_column, &of_key, dim);
    store(grad, value_column, &of_value, dim);
    if comptime!(!is_own) {
        for i in 0..group * dim {
            grad[row * width + kv_head * group * dim + i] = 0.0f32;
        }
    }
}
