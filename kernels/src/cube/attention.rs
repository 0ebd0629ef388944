//! Causal attention straight on the rows of queries, keys and values, without a matrix of scores or a bias in the
//! device's memory.
//!
//! The table of [`CellTable`](super::CellTable) says where the rows lie, so that padding, hidden tokens and chunks
//! cost no copies. Forward, a unit has one query of one head and meets its keys one after the other (online softmax);
//! it leaves the logarithm of the sum of its exponentials, from which the backward pass computes the weights again.
//! Backward, a unit has one query of one head, and then one key of one key/value head with all queries that see it:
//! each sum is one unit's, in a fixed order, so that results are the same each time.
//!
//! Neighbouring units have neighbouring queries (keys) of one head, and so read the same key (query) at a time.
//!
//! Sources: Milakov and Gimelshein 2018, arXiv 1805.02867; Dao et al. 2022, arXiv 2205.14135.

// A kernel's operands are its arguments, and its loops count.
#![allow(clippy::too_many_arguments, clippy::needless_range_loop)]

use burn::backend::TensorMetadata;
use burn::tensor::{DType, Shape, Tensor};
use burn_cubecl::cubecl::{self, calculate_cube_count_elemwise, prelude::*, server::Handle};
use burn_cubecl::ops::numeric::empty_device_contiguous_dtype;
use burn_cubecl::tensor::CubeTensor;

use super::bridge::{Fused, apply};
use crate::{Heads, TokenMask};

/// [`crate::attention`] on operands that were found fit.
pub(crate) fn attention(
    qkv: Tensor<3>,
    past: &[Tensor<3>],
    heads: Heads,
    mask: &TokenMask,
) -> Tensor<3> {
    let op = Attention { heads, mask: mask.clone() };
    let chunk = |x: &Tensor<3>| x.clone().into_dispatch();
    // The number of operands is part of a step's type.
    match past {
        [] => apply(op, [qkv.into_dispatch()]),
        [first] => apply(op, [chunk(first), qkv.into_dispatch()]),
        [first, second] => apply(op, [chunk(first), chunk(second), qkv.into_dispatch()]),
        [first, later @ ..] => {
            let later = Tensor::cat(later.to_vec(), 1);
            attention(qkv, &[first.clone(), later], heads, mask)
        }
    }
}

/// Operands: the past chunks, oldest first, then the new columns.
#[derive(Debug)]
struct Attention {
    heads: Heads,
    mask: TokenMask,
}

/// What the backward pass reads.
#[derive(Clone, Debug)]
struct Saved<const N: usize> {
    chunks: [CubeTensor; N],
    y: CubeTensor,
    stats: CubeTensor,
}

impl<const N: usize> Fused<N> for Attention {
    type Saved = Saved<N>;

    fn forward(&self, chunks: [CubeTensor; N]) -> (CubeTensor, Saved<N>) {
        let call = Call::new(self, &chunks);
        let own = call.own();
        let [rows, cells, _] = sizes(own);
        let y = empty(own, [rows, cells, self.heads.query * self.heads.dim]);
        let stats = empty(own, [rows * cells, self.heads.query, 2]);
        let (units, dim, count) = call.units(N - 1, self.heads.query);
        forward::launch(
            &own.client,
            count,
            dim,
            call.lanes(),
            call.past(0).into_buffer_arg(),
            call.past(1).into_buffer_arg(),
            own.clone().into_buffer_arg(),
            call.table(),
            y.clone().into_buffer_arg(),
            stats.clone().into_buffer_arg(),
            call.start(1),
            call.start(N - 1),
            self.mask.columns(),
            units,
            call.scale(),
            call.heads(),
        );
        (y.clone(), Saved { chunks, y, stats })
    }

    fn backward(
        self,
        saved: Saved<N>,
        grad: CubeTensor,
        needed: [bool; N],
    ) -> [Option<CubeTensor>; N] {
        let call = Call::new(&self, &saved.chunks);
        let own = call.own();
        let stats = || saved.stats.clone().into_buffer_arg();
        let upstream = || grad.clone().into_buffer_arg();

        let results = saved.stats.shape().num_elements() / 2;
        let (dim, count) = launch_size(own, results);
        let lanes = call.lanes();
        means::launch(
            &own.client,
            count,
            dim,
            lanes,
            saved.y.clone().into_buffer_arg(),
            upstream(),
            stats(),
            results,
            call.heads().dim,
        );

        let mut operand = 0..N;
        needed.map(|needed| {
            let chunk = operand.next().filter(|_| needed)?;
            let found = empty(own, sizes(&saved.chunks[chunk]));
            let is_own = chunk == N - 1;
            if is_own {
                let (units, dim, count) = call.units(chunk, self.heads.query);
                backward_queries::launch(
                    &own.client,
                    count,
                    dim,
                    lanes,
                    call.past(0).into_buffer_arg(),
                    call.past(1).into_buffer_arg(),
                    own.clone().into_buffer_arg(),
                    call.table(),
                    upstream(),
                    stats(),
                    found.clone().into_buffer_arg(),
                    call.start(1),
                    call.start(chunk),
                    self.mask.columns(),
                    units,
                    call.scale(),
                    call.heads(),
                );
            }
            let (units, dim, count) = call.units(chunk, self.heads.key_value);
            backward_keys::launch(
                &own.client,
                count,
                dim,
                lanes,
                saved.chunks[chunk].clone().into_buffer_arg(),
                own.clone().into_buffer_arg(),
                call.table(),
                upstream(),
                stats(),
                found.clone().into_buffer_arg(),
                call.start(chunk),
                call.lens[chunk],
                call.start(N - 1),
                self.mask.columns(),
                units,
                call.scale(),
                call.heads(),
                is_own,
            );
            Some(found)
        })
    }
}

/// One call: its chunks, and where their rows lie.
struct Call<'a> {
    op: &'a Attention,
    chunks: &'a [CubeTensor],
    /// Columns of each chunk.
    lens: Vec<usize>,
    table: Handle,
}

impl<'a> Call<'a> {
    fn new(op: &'a Attention, chunks: &'a [CubeTensor]) -> Self {
        let shapes: Vec<[usize; 3]> = chunks.iter().map(sizes).collect();
        let lens = op.mask.chunks(&shapes);
        let table = op.mask.table().on_device_of(&chunks[0], &op.mask, &lens);
        Self { op, chunks, lens, table }
    }

    /// The chunk of the new columns.
    fn own(&self) -> &CubeTensor {
        &self.chunks[self.chunks.len() - 1]
    }

    /// A past chunk; in place of an absent one, which is not read, the own.
    fn past(&self, chunk: usize) -> CubeTensor {
        self.chunks.get(chunk).unwrap_or(self.own()).clone()
    }

    /// The first column of a chunk: of an absent one, that after all past columns.
    fn start(&self, chunk: usize) -> usize {
        self.lens[..chunk.min(self.lens.len() - 1)].iter().sum()
    }

    /// How many units have a column of a chunk and one of some heads each, and how they are launched.
    fn units(&self, chunk: usize, heads: usize) -> (usize, CubeDim, CubeCount) {
        let units = self.op.mask.batch() * self.lens[chunk] * heads;
        let (dim, count) = launch_size(self.own(), units);
        (units, dim, count)
    }

    /// `[batch, 1 + columns]`
    fn table(&self) -> BufferArg {
        let len = self.op.mask.batch() * (1 + self.op.mask.columns());
        // SAFETY: the table has one entry a row and one a cell.
        unsafe { BufferArg::from_raw_parts(self.table.clone(), len) }
    }

    /// Elements that are read at once.
    fn lanes(&self) -> usize {
        [4, 2].into_iter().find(|lanes| self.op.heads.dim.is_multiple_of(*lanes)).unwrap_or(1)
    }

    /// The heads as kernels see them: widths are counted in vectors of [`Self::lanes`] elements.
    fn heads(&self) -> Heads {
        Heads { dim: self.op.heads.dim / self.lanes(), ..self.op.heads }
    }

    fn scale(&self) -> f32 {
        1.0 / (self.op.heads.dim as f32).sqrt()
    }
}

/// How to launch one unit each.
fn launch_size(like: &CubeTensor, units: usize) -> (CubeDim, CubeCount) {
    let dim = CubeDim::new(&like.client, units);
    (dim, calculate_cube_count_elemwise(&like.client, units, dim))
}

/// A tensor of no particular values on the device of another.
fn empty(like: &CubeTensor, shape: [usize; 3]) -> CubeTensor {
    let shape = Shape::from(shape);
    empty_device_contiguous_dtype(like.client.clone(), like.device.clone(), shape, DType::F32)
}

/// The three sizes of a tensor `[batch, seq, width]`.
fn sizes(x: &CubeTensor) -> [usize; 3] {
    let shape = x.shape();
    [shape[0], shape[1], shape[2]]
}

// In kernels, rows of queries, keys and values are `width` vectors wide, and positions count vectors.

/// Width of a row of queries, keys and values.
#[cube]
fn width(#[comptime] heads: Heads) -> comptime_type!(usize) {
    comptime!(heads.qkv_width())
}

/// `a · b[start..]`
#[cube]
fn dot<N: Size>(
    a: &Array<Vector<f32, N>>,
    b: &[Vector<f32, N>],
    start: usize,
    #[comptime] dim: usize,
) -> f32 {
    let mut sum = a[0] * b[start];
    #[unroll]
    for d in 1..dim {
        sum += a[d] * b[start + d];
    }
    sum.vector_sum()
}

/// `x[start..] · factor`
#[cube]
fn load<N: Size>(
    x: &[Vector<f32, N>],
    start: usize,
    factor: f32,
    #[comptime] dim: usize,
) -> Array<Vector<f32, N>> {
    let mut found = Array::<Vector<f32, N>>::new(dim);
    #[unroll]
    for d in 0..dim {
        found[d] = x[start + d] * Vector::new(factor);
    }
    found
}

/// Zeros.
#[cube]
fn zeros<N: Size>(#[comptime] dim: usize) -> Array<Vector<f32, N>> {
    let mut found = Array::<Vector<f32, N>>::new(dim);
    #[unroll]
    for d in 0..dim {
        found[d] = Vector::new(0.0);
    }
    found
}

/// `x[start..] = values · factor`
#[cube]
fn store<N: Size>(
    x: &mut [Vector<f32, N>],
    start: usize,
    values: &Array<Vector<f32, N>>,
    factor: f32,
    #[comptime] dim: usize,
) {
    #[unroll]
    for d in 0..dim {
        x[start + d] = values[d] * Vector::new(factor);
    }
}

/// The row of its chunk that a cell has, given its entry in the table (not −1).
#[cube]
fn place(cell: i32) -> usize {
    if cell >= 0 { cell as usize } else { (-2i32 - cell) as usize }
}

/// Online softmax over the keys of one chunk: `entries` of the table.
///
/// `q`: the query times the scale; `state`: the highest score so far, and the sum of all exponentials of scores less
/// it; `sum`: that of the values times these exponentials.
#[cube]
fn attend<N: Size>(
    chunk: &[Vector<f32, N>],
    table: &[i32],
    from: usize,
    to: usize,
    q: &Array<Vector<f32, N>>,
    head: usize,
    state: &mut Array<f32>,
    sum: &mut Array<Vector<f32, N>>,
    #[comptime] heads: Heads,
) {
    for entry in from..to {
        let cell = table[entry];
        if cell >= 0 {
            let k = cell as usize * width(heads) + (heads.query + head) * heads.dim;
            let v = k + heads.key_value * heads.dim;
            let score = dot::<N>(q, chunk, k, heads.dim);
            let before = state[0];
            let highest = max(before, score);
            let shrink = (before - highest).exp();
            let weight = (score - highest).exp();
            state[0] = highest;
            state[1] = state[1] * shrink + weight;
            #[unroll]
            for d in 0..heads.dim {
                sum[d] = sum[d] * Vector::new(shrink) + chunk[v + d] * Vector::new(weight);
            }
        }
    }
}

/// `y`: as [`crate::attention`]'s result; `stats: [cells, query, 2]`: the logarithm of the sum of the exponentials of
/// a query's scores, and room for [`means`].
#[cube(launch)]
fn forward<N: Size>(
    first: &[Vector<f32, N>],
    later: &[Vector<f32, N>],
    own: &[Vector<f32, N>],
    table: &[i32],
    y: &mut [Vector<f32, N>],
    stats: &mut [f32],
    later_start: usize,
    own_start: usize,
    columns: usize,
    units: usize,
    scale: f32,
    #[comptime] heads: Heads,
) {
    if ABSOLUTE_POS >= units {
        terminate!();
    }
    let new = columns - own_start;
    let column = own_start + ABSOLUTE_POS % new;
    let head = ABSOLUTE_POS / new % heads.query;
    let line = ABSOLUTE_POS / (new * heads.query) * (columns + 1);
    let cells = line + 1;
    let cell = table[cells + column];
    if cell == -1 {
        terminate!();
    }
    let result = place(cell) * heads.query + head;
    let mut state = Array::<f32>::new(2usize);
    state[0] = -3.0e38f32;
    state[1] = 0.0f32;
    let mut sum = zeros::<N>(heads.dim);
    if cell >= 0 && column >= table[line] as usize {
        let row = cell as usize * width(heads);
        let q = load::<N>(own, row + head * heads.dim, scale, heads.dim);
        let kv = head / comptime!(heads.query / heads.key_value);
        let later_at = cells + later_start;
        let own_at = cells + own_start;
        let end = cells + column + 1;
        attend::<N>(first, table, cells, later_at, &q, kv, &mut state, &mut sum, heads);
        attend::<N>(later, table, later_at, own_at, &q, kv, &mut state, &mut sum, heads);
        attend::<N>(own, table, own_at, end, &q, kv, &mut state, &mut sum, heads);
        stats[2 * result] = state[0] + state[1].ln();
        store::<N>(y, result * heads.dim, &sum, 1.0 / state[1], heads.dim);
    } else {
        stats[2 * result] = 0.0;
        store::<N>(y, result * heads.dim, &sum, 0.0, heads.dim);
    }
}

/// Gives `stats` the product of each result with its gradient, which is the mean over keys of the gradients of weights.
#[cube(launch)]
fn means<N: Size>(
    y: &[Vector<f32, N>],
    grad: &[Vector<f32, N>],
    stats: &mut [f32],
    units: usize,
    #[comptime] dim: usize,
) {
    if ABSOLUTE_POS < units {
        let start = ABSOLUTE_POS * dim;
        stats[2 * ABSOLUTE_POS + 1] = dot::<N>(&load::<N>(y, start, 1.0, dim), grad, start, dim);
    }
}

/// Adds to the gradient of a query, `sum`, what the keys of one chunk give it, but for the scale.
#[cube]
fn gather<N: Size>(
    chunk: &[Vector<f32, N>],
    table: &[i32],
    from: usize,
    to: usize,
    q: &Array<Vector<f32, N>>,
    grad: &Array<Vector<f32, N>>,
    head: usize,
    log_sum: f32,
    mean: f32,
    sum: &mut Array<Vector<f32, N>>,
    #[comptime] heads: Heads,
) {
    for entry in from..to {
        let cell = table[entry];
        if cell >= 0 {
            let k = cell as usize * width(heads) + (heads.query + head) * heads.dim;
            let v = k + heads.key_value * heads.dim;
            let weight = (dot::<N>(q, chunk, k, heads.dim) - log_sum).exp();
            let slope = weight * (dot::<N>(grad, chunk, v, heads.dim) - mean);
            #[unroll]
            for d in 0..heads.dim {
                sum[d] += chunk[k + d] * Vector::new(slope);
            }
        }
    }
}

/// Writes the queries' part of `found`, the gradient of the own chunk.
#[cube(launch)]
fn backward_queries<N: Size>(
    first: &[Vector<f32, N>],
    later: &[Vector<f32, N>],
    own: &[Vector<f32, N>],
    table: &[i32],
    grad: &[Vector<f32, N>],
    stats: &[f32],
    found: &mut [Vector<f32, N>],
    later_start: usize,
    own_start: usize,
    columns: usize,
    units: usize,
    scale: f32,
    #[comptime] heads: Heads,
) {
    if ABSOLUTE_POS >= units {
        terminate!();
    }
    let new = columns - own_start;
    let column = own_start + ABSOLUTE_POS % new;
    let head = ABSOLUTE_POS / new % heads.query;
    let line = ABSOLUTE_POS / (new * heads.query) * (columns + 1);
    let cells = line + 1;
    let cell = table[cells + column];
    if cell == -1 {
        terminate!();
    }
    let at = place(cell) * width(heads) + head * heads.dim;
    let mut sum = zeros::<N>(heads.dim);
    if cell >= 0 && column >= table[line] as usize {
        let result = cell as usize * heads.query + head;
        let q = load::<N>(own, at, scale, heads.dim);
        let grad = load::<N>(grad, result * heads.dim, 1.0, heads.dim);
        let log_sum = stats[2 * result];
        let mean = stats[2 * result + 1];
        let kv = head / comptime!(heads.query / heads.key_value);
        let later_at = cells + later_start;
        let own_at = cells + own_start;
        let end = cells + column + 1;
        gather::<N>(first, table, cells, later_at, &q, &grad, kv, log_sum, mean, &mut sum, heads);
        gather::<N>(later, table, later_at, own_at, &q, &grad, kv, log_sum, mean, &mut sum, heads);
        gather::<N>(own, table, own_at, end, &q, &grad, kv, log_sum, mean, &mut sum, heads);
    }
    store::<N>(found, at, &sum, scale, heads.dim);
}

/// Writes the keys' and the values' part of `found`, the gradient of one chunk; and zeros as the queries' part unless
/// it is the own one.
#[cube(launch)]
fn backward_keys<N: Size>(
    chunk: &[Vector<f32, N>],
    own: &[Vector<f32, N>],
    table: &[i32],
    grad: &[Vector<f32, N>],
    stats: &[f32],
    found: &mut [Vector<f32, N>],
    start: usize,
    len: usize,
    own_start: usize,
    columns: usize,
    units: usize,
    scale: f32,
    #[comptime] heads: Heads,
    #[comptime] is_own: bool,
) {
    if ABSOLUTE_POS >= units {
        terminate!();
    }
    let column = start + ABSOLUTE_POS % len;
    let head = ABSOLUTE_POS / len % heads.key_value;
    let line = ABSOLUTE_POS / (len * heads.key_value) * (columns + 1);
    let cells = line + 1;
    let cell = table[cells + column];
    if cell == -1 {
        terminate!();
    }
    let group = comptime!(heads.query / heads.key_value);
    let row = place(cell) * width(heads);
    let key = row + (heads.query + head) * heads.dim;
    let value = key + heads.key_value * heads.dim;
    let mut k_sum = zeros::<N>(heads.dim);
    let mut v_sum = zeros::<N>(heads.dim);
    if cell >= 0 {
        let k = load::<N>(chunk, key, scale, heads.dim);
        let v = load::<N>(chunk, value, 1.0, heads.dim);
        for asking in max(max(column, own_start), table[line] as usize)..columns {
            let query = table[cells + asking];
            if query >= 0 {
                for member in 0..group {
                    let query_head = head * group + member;
                    let q = query as usize * width(heads) + query_head * heads.dim;
                    let result = query as usize * heads.query + query_head;
                    let up = result * heads.dim;
                    let weight = (dot::<N>(&k, own, q, heads.dim) - stats[2 * result]).exp();
                    let mean = stats[2 * result + 1];
                    let slope = weight * (dot::<N>(&v, grad, up, heads.dim) - mean);
                    #[unroll]
                    for d in 0..heads.dim {
                        k_sum[d] += own[q + d] * Vector::new(slope);
                        v_sum[d] += grad[up + d] * Vector::new(weight);
                    }
                }
            }
        }
    }
    store::<N>(found, key, &k_sum, scale, heads.dim);
    store::<N>(found, value, &v_sum, 1.0, heads.dim);
    if comptime!(!is_own) {
        let queries = row + head * comptime!(group * heads.dim);
        for d in 0..comptime!(group * heads.dim) {
            found[queries + d] = Vector::new(0.0);
        }
    }
}
