//! Causal attention straight on the packed rows of queries, keys and values.
//!
//! Only visible columns are touched: each row of the batch lists its visible keys across all
//! chunks, and after that compaction the mask is the plain causal one, whatever the padding and
//! wherever a chunk's cells lie. Queries whose result is not wanted are left out. The
//! attention weights are computed again in the backward pass rather than kept. Two bodies:
//!
//! * blocks: keys and values of one head are gathered side by side and multiplied as matrices, a
//!   block of queries at a time against the keys that the block can see;
//! * streamed: a handful of queries (a latent pass, a generated token) read the rows where they lie.
//!
//! Sources: Vaswani et al. 2017, arXiv 1706.03762; for grouped heads, Ainslie et al. 2023,
//! arXiv 2305.13245.

use burn::tensor::Tensor;
use burn_flex::FlexTensor;
use rayon::prelude::*;

use super::bridge::{Fused, GradSinks, SendPtr, apply, slice, slice_mut, tensor, uninit};
use super::linear::sizes;
use super::matrix::{Matrix, Threads, multiply};
use super::simd::{axpy, dot, exp, max, prefetch, simd, sum};
use crate::{Heads, Visible};

/// Queries that a block holds. The weights above the diagonal of a block are wasted work, so it is
/// small; the products of a block must still be worth calling, so not too small.
const BLOCK: usize = 64;

/// Up to this many new columns are streamed.
const STREAMED: usize = 2;

/// Streamed rows are asked for so many before their turn: they lie too far apart for the processor to
/// guess, and a product is too long for it to look ahead by itself.
const AHEAD: usize = 8;

/// [`crate::attention`] on operands that were found fit.
pub(crate) fn attention(
    qkv: Tensor<3>,
    past: &[Tensor<3>],
    heads: Heads,
    visible: &Visible,
) -> Tensor<3> {
    // The number of operands is part of a step's type; beyond those named here, the newest chunks
    // (single columns, where there are that many) are joined.
    const MOST: usize = 12;
    let mut operands: Vec<_> = past.iter().take(MOST - 1).cloned().collect();
    if past.len() >= MOST {
        operands.push(Tensor::cat(past[MOST - 1..].to_vec(), 1));
    }
    operands.push(qkv);
    let op = Attention { heads, visible: visible.clone() };
    match operands.len() {
        1 => op.run::<1>(operands),
        2 => op.run::<2>(operands),
        3 => op.run::<3>(operands),
        4 => op.run::<4>(operands),
        5 => op.run::<5>(operands),
        6 => op.run::<6>(operands),
        7 => op.run::<7>(operands),
        8 => op.run::<8>(operands),
        9 => op.run::<9>(operands),
        10 => op.run::<10>(operands),
        11 => op.run::<11>(operands),
        12 => op.run::<12>(operands),
        _ => op.run::<{ MOST + 1 }>(operands),
    }
}

/// Operands: the past chunks, oldest first, then the packed rows of the new columns.
#[derive(Debug)]
struct Attention {
    heads: Heads,
    visible: Visible,
}

impl Attention {
    fn run<const N: usize>(self, operands: Vec<Tensor<3>>) -> Tensor<3> {
        let mut operands = operands.into_iter().map(Tensor::into_dispatch);
        apply(self, std::array::from_fn::<_, N, _>(|_| operands.next().expect("N operands")))
    }
}

impl<const N: usize> Fused<N> for Attention {
    type Saved = [FlexTensor; N];

    fn forward(
        &self,
        operands: [FlexTensor; N],
        needs_grad: [bool; N],
    ) -> (FlexTensor, Option<[FlexTensor; N]>) {
        let y = Call::new(self, &operands).forward();
        (y, needs_grad.contains(&true).then_some(operands))
    }

    fn backward(self, saved: [FlexTensor; N], grad: FlexTensor, sinks: &mut GradSinks<'_, N>) {
        let call = Call::new(&self, &saved);
        let mut grads: Vec<_> = (0..N)
            .map(|operand| {
                let shape = saved[operand].layout().shape().clone();
                let len = shape.num_elements();
                if !sinks.needs_grad(operand) {
                    None
                } else if operand < N - 1 {
                    let zeros = || tensor(vec![0.0; len], shape);
                    Some(sinks.take(operand).unwrap_or_else(zeros))
                } else {
                    Some(tensor(uninit(len), shape))
                }
            })
            .collect();
        call.backward(slice(&grad), &mut grads);
        for (operand, grad) in grads.into_iter().enumerate() {
            if let Some(grad) = grad {
                sinks.put(operand, grad);
            }
        }
    }

    /// The past chunks: each is shared by all later passes, which add to the keys and values that
    /// they saw instead of handing in a tensor of mostly zeros each.
    fn accumulates(&self, operand: usize) -> bool {
        operand < N - 1
    }
}

/// One call: the operands' elements, and what each row of the batch can see.
struct Call<'a> {
    heads: Heads,
    /// Elements of each operand, `[batch, n, packed]` or `[1, cells, packed]`.
    chunks: Vec<&'a [f32]>,
    /// New columns.
    new: usize,
    /// Shape of the result.
    shape: [usize; 3],
    rows: Vec<Row>,
    scale: f32,
}

/// One row of the batch.
struct Row {
    /// Visible columns, oldest first.
    keys: Vec<Key>,
    /// How many of the last keys ask.
    queries: usize,
    /// Cells of the newest chunk that do not ask: no result, no gradient of a query.
    idle: Vec<usize>,
    /// Those among them that are not visible: no gradient of a key or value either.
    unseen: Vec<usize>,
}

/// Where the packed row of a column lies.
#[derive(Clone, Copy)]
struct Key {
    chunk: usize,
    /// Its number in the chunk.
    cell: usize,
    /// Its first element.
    start: usize,
}

impl Row {
    /// The keys that ask.
    fn asking(&self) -> &[Key] {
        &self.keys[self.keys.len() - self.queries..]
    }
}

/// What one task reuses from one head to the next.
#[derive(Default)]
struct Scratch {
    q: Vec<f32>,       // [queries, dim], scaled
    k: Vec<f32>,       // [keys, dim]
    v: Vec<f32>,       // [keys, dim]
    weights: Vec<f32>, // [block, keys]
    grad_y: Vec<f32>,  // [queries, dim]
    grad_q: Vec<f32>,  // [queries, dim]
    grad_k: Vec<f32>,  // [keys, dim]
    grad_v: Vec<f32>,  // [keys, dim]
    grad_w: Vec<f32>,  // [block, keys]
}

impl<'a> Call<'a> {
    fn new(op: &Attention, operands: &'a [FlexTensor]) -> Self {
        let (packed, visible) = (op.heads.packed(), &op.visible);
        let shapes: Vec<[usize; 3]> = operands.iter().map(sizes).collect();
        let lens = visible.chunks(&shapes);
        let newest = lens.len() - 1;
        let new = lens[newest];
        let mut packed_cells = 0..; // of the oldest chunk, if it is packed
        let rows = (0..visible.batch())
            .map(|batch_row| {
                let mut row =
                    Row { keys: Vec::new(), queries: 0, idle: Vec::new(), unseen: Vec::new() };
                let mut cells = visible.row(batch_row).iter().enumerate();
                for (chunk, &len) in lens.iter().enumerate() {
                    let is_packed = chunk == 0 && visible.packed_columns() > 0;
                    for (column, (at, &seen)) in cells.by_ref().take(len).enumerate() {
                        let cell = match is_packed {
                            false => batch_row * len + column,
                            true if seen => packed_cells.next().unwrap_or(0),
                            true => continue,
                        };
                        if seen {
                            row.keys.push(Key { chunk, cell, start: cell * packed });
                        }
                        if chunk == newest && seen && at >= visible.first_wanted(batch_row) {
                            row.queries += 1;
                        } else if chunk == newest {
                            row.idle.push(cell);
                            row.unseen.extend((!seen).then_some(cell));
                        }
                    }
                }
                row
            })
            .collect();
        let [rows_of_result, cells_of_row, _] = shapes[newest];
        Self {
            heads: op.heads,
            chunks: operands.iter().map(slice).collect(),
            new,
            shape: [rows_of_result, cells_of_row, op.heads.query * op.heads.dim],
            rows,
            scale: 1.0 / (op.heads.dim as f32).sqrt(),
        }
    }

    /// `[batch, new, query · dim]`, or `[1, cells, query · dim]`.
    fn forward(&self) -> FlexTensor {
        let mut y = uninit(self.shape.iter().product());
        let out = SendPtr::new(&mut y);
        if self.new <= STREAMED {
            self.streams().into_par_iter().for_each(|stream| self.stream_forward(stream, out));
        } else {
            (0..self.rows.len() * self.heads.key_value)
                .into_par_iter()
                .for_each_init(Scratch::default, |scratch, task| {
                    self.forward_head(task, scratch, out)
                });
        }
        tensor(y, self.shape)
    }

    /// Fills the gradient of the new rows and adds to those of the past chunks.
    fn backward(&self, grad: &[f32], grads: &mut [Option<FlexTensor>]) {
        let sinks: Vec<Option<SendPtr>> = grads
            .iter_mut()
            .map(|grad| grad.as_mut().map(|grad| SendPtr::new(slice_mut(grad))))
            .collect();
        if self.new <= STREAMED {
            self.streams()
                .into_par_iter()
                .for_each(|stream| self.stream_backward(stream, grad, &sinks));
        } else {
            (0..self.rows.len() * self.heads.key_value)
                .into_par_iter()
                .for_each_init(Scratch::default, |scratch, task| {
                    self.backward_head(task, scratch, grad, &sinks)
                });
        }
    }

    /// Start of a head's keys inside a packed row; its values follow all keys.
    fn key_start(&self, kv_head: usize) -> usize {
        (self.heads.query + kv_head) * self.heads.dim
    }

    fn value_start(&self, kv_head: usize) -> usize {
        (self.heads.query + self.heads.key_value + kv_head) * self.heads.dim
    }

    fn group(&self) -> usize {
        self.heads.query / self.heads.key_value
    }

    // --- Blocks -------------------------------------------------------------------------------

    /// Attention of the query heads that share one key/value head, in one row of the batch.
    fn forward_head(&self, task: usize, s: &mut Scratch, out: SendPtr) {
        let (batch_row, kv_head) = (task / self.heads.key_value, task % self.heads.key_value);
        let (row, dim) = (&self.rows[batch_row], self.heads.dim);
        self.gather_keys(row, kv_head, s);
        let (queries, keys) = (row.queries, row.keys.len());
        for head in kv_head * self.group()..(kv_head + 1) * self.group() {
            self.gather_queries(row, head, s);
            s.grad_q.resize(queries * dim, 0.0);
            for first in (0..queries).step_by(BLOCK) {
                let last = (first + BLOCK).min(queries);
                let seen = keys - queries + last;
                self.weigh(first, last, seen, s);
                multiply(
                    &mut s.grad_q[first * dim..last * dim], // the result, before it is scattered
                    false,
                    Matrix::new(&s.weights, last - first, seen),
                    Matrix::new(&s.v, seen, dim),
                    1.0,
                    Threads::One,
                );
            }
            let [.., width] = self.shape;
            // SAFETY: inside the result; this task alone has this row and head.
            let y = |cell: usize| unsafe { out.slice(cell * width + head * dim, dim) };
            for (key, result) in row.asking().iter().zip(s.grad_q.chunks_exact(dim)) {
                y(key.cell).copy_from_slice(result);
            }
            row.idle.iter().for_each(|&cell| y(cell).fill(0.0));
        }
    }

    fn backward_head(&self, task: usize, s: &mut Scratch, grad: &[f32], sinks: &[Option<SendPtr>]) {
        let (batch_row, kv_head) = (task / self.heads.key_value, task % self.heads.key_value);
        let (row, dim) = (&self.rows[batch_row], self.heads.dim);
        let (queries, keys) = (row.queries, row.keys.len());
        let (packed, [.., width]) = (self.heads.packed(), self.shape);
        let newest = self.chunks.len() - 1;
        self.gather_keys(row, kv_head, s);
        for sums in [&mut s.grad_k, &mut s.grad_v] {
            sums.clear();
            sums.resize(keys * dim, 0.0);
        }
        for head in kv_head * self.group()..(kv_head + 1) * self.group() {
            self.gather_queries(row, head, s);
            s.grad_y.clear();
            for key in row.asking() {
                let start = key.cell * width + head * dim;
                s.grad_y.extend_from_slice(&grad[start..start + dim]);
            }
            s.grad_q.resize(queries * dim, 0.0);
            for first in (0..queries).step_by(BLOCK) {
                let last = (first + BLOCK).min(queries);
                let (count, seen) = (last - first, keys - queries + last);
                self.weigh(first, last, seen, s);
                s.grad_w.resize(count * seen, 0.0);
                let weights = Matrix::new(&s.weights, count, seen);
                let grad_y = Matrix::new(&s.grad_y[first * dim..], count, dim);
                let (q, k, v) = (
                    Matrix::new(&s.q[first * dim..], count, dim),
                    Matrix::new(&s.k, seen, dim),
                    Matrix::new(&s.v, seen, dim),
                );
                multiply(&mut s.grad_v, true, weights.t(), grad_y, 1.0, Threads::One);
                multiply(&mut s.grad_w, false, grad_y, v.t(), 1.0, Threads::One);
                softmax_backward(&s.weights, &mut s.grad_w, seen);
                let grad_w = Matrix::new(&s.grad_w, count, seen);
                let grad_q = &mut s.grad_q[first * dim..last * dim];
                multiply(grad_q, false, grad_w, k, self.scale, Threads::One);
                multiply(&mut s.grad_k, true, grad_w.t(), q, 1.0, Threads::One); // q is scaled
            }
            if let Some(sink) = sinks[newest] {
                // SAFETY: inside the gradient; this task alone has this row and head.
                let x = |cell: usize| unsafe { sink.slice(cell * packed + head * dim, dim) };
                for (key, result) in row.asking().iter().zip(s.grad_q.chunks_exact(dim)) {
                    x(key.cell).copy_from_slice(result);
                }
                row.idle.iter().for_each(|&cell| x(cell).fill(0.0));
            }
        }
        if let Some(sink) = sinks[newest] {
            for cell in &row.unseen {
                let start = cell * packed;
                for part in [self.key_start(kv_head), self.value_start(kv_head)] {
                    // SAFETY: as above; no other task has this key/value head of this row.
                    unsafe { sink.slice(start + part, dim) }.fill(0.0);
                }
            }
        }
        let sums = s.grad_k.chunks_exact(dim).zip(s.grad_v.chunks_exact(dim));
        for (key, (grad_k, grad_v)) in row.keys.iter().zip(sums) {
            let Some(sink) = sinks[key.chunk] else { continue };
            let parts = [(self.key_start(kv_head), grad_k), (self.value_start(kv_head), grad_v)];
            for (part, sums) in parts {
                // SAFETY: as above.
                let x = unsafe { sink.slice(key.start + part, dim) };
                if key.chunk == newest {
                    x.copy_from_slice(sums);
                } else {
                    x.iter_mut().zip(sums).for_each(|(x, sum)| *x += sum);
                }
            }
        }
    }

    fn gather_keys(&self, row: &Row, kv_head: usize, s: &mut Scratch) {
        let dim = self.heads.dim;
        for (to, start) in
            [(&mut s.k, self.key_start(kv_head)), (&mut s.v, self.value_start(kv_head))]
        {
            to.clear();
            for key in &row.keys {
                let start = key.start + start;
                to.extend_from_slice(&self.chunks[key.chunk][start..start + dim]);
            }
        }
    }

    /// Queries are scaled as they are gathered, which scales the products of all of them.
    fn gather_queries(&self, row: &Row, head: usize, s: &mut Scratch) {
        let dim = self.heads.dim;
        s.q.clear();
        for key in row.asking() {
            let start = key.start + head * dim;
            let q = &self.chunks[key.chunk][start..start + dim];
            s.q.extend(q.iter().map(|x| x * self.scale));
        }
    }

    /// The attention weights of queries `first..last` over the first `seen` keys, of which the last
    /// query sees all.
    fn weigh(&self, first: usize, last: usize, seen: usize, s: &mut Scratch) {
        let dim = self.heads.dim;
        s.weights.resize((last - first) * seen, 0.0);
        multiply(
            &mut s.weights,
            false,
            Matrix::new(&s.q[first * dim..], last - first, dim),
            Matrix::new(&s.k, seen, dim).t(),
            1.0,
            Threads::One,
        );
        softmax(&mut s.weights, seen, seen - (last - first) + 1);
    }

    // --- Streamed -----------------------------------------------------------------------------

    /// Row of the batch and range of key/value heads for each task: whole rows when there are
    /// enough of them to go round, else slices of rows.
    fn streams(&self) -> Vec<(usize, usize, usize)> {
        let spans =
            rayon::current_num_threads().div_ceil(self.rows.len().max(1)).min(self.heads.key_value);
        let span = self.heads.key_value.div_ceil(spans.max(1));
        let row_spans = |row| {
            (0..self.heads.key_value)
                .step_by(span)
                .map(move |first| (row, first, (first + span).min(self.heads.key_value)))
        };
        (0..self.rows.len()).flat_map(row_spans).collect()
    }

    /// The parts of each visible packed row that a span of heads reads.
    fn parts(&self, row: &Row, start: usize, len: usize) -> Vec<&'a [f32]> {
        let part = |key: &Key| &self.chunks[key.chunk][key.start + start..key.start + start + len];
        row.keys.iter().map(part).collect()
    }

    fn stream_forward(&self, (batch_row, first, last): (usize, usize, usize), out: SendPtr) {
        let (row, dim, group) = (&self.rows[batch_row], self.heads.dim, self.group());
        let (kv_len, q_len) = ((last - first) * dim, (last - first) * group * dim);
        let [.., width] = self.shape;
        let y_start = |cell| cell * width + first * group * dim;
        let keys = self.parts(row, self.key_start(first), kv_len);
        let values = self.parts(row, self.value_start(first), kv_len);
        let queries = self.parts(row, first * group * dim, q_len);
        let mut weights = vec![0.0; (last - first) * group * keys.len()];
        for &cell in &row.idle {
            // SAFETY: inside the result; this task alone has these heads of this row.
            unsafe { out.slice(y_start(cell), q_len) }.fill(0.0);
        }
        for (i, key) in row.asking().iter().enumerate() {
            let seen = keys.len() - row.queries + i + 1;
            // SAFETY: as above.
            let y = unsafe { out.slice(y_start(key.cell), q_len) };
            let weights = &mut weights[..(last - first) * group * seen];
            products(queries[seen - 1], &keys[..seen], dim, group, self.scale, weights);
            softmax(weights, seen, seen);
            mix(weights, &values[..seen], dim, group, y);
        }
    }

    fn stream_backward(
        &self,
        (batch_row, first, last): (usize, usize, usize),
        grad: &[f32],
        sinks: &[Option<SendPtr>],
    ) {
        let (row, dim, group) = (&self.rows[batch_row], self.heads.dim, self.group());
        let (kv_len, q_len) = ((last - first) * dim, (last - first) * group * dim);
        let (packed, [.., width]) = (self.heads.packed(), self.shape);
        let q_start = first * group * dim;
        let keys = self.parts(row, self.key_start(first), kv_len);
        let values = self.parts(row, self.value_start(first), kv_len);
        let queries = self.parts(row, q_start, q_len);
        let newest = self.chunks.len() - 1;
        if let Some(sink) = sinks[newest] {
            for cell in row.asking().iter().map(|key| key.cell).chain(row.idle.iter().copied()) {
                let start = cell * packed;
                let parts = [
                    (q_start, q_len),
                    (self.key_start(first), kv_len),
                    (self.value_start(first), kv_len),
                ];
                for (part, len) in parts {
                    // SAFETY: inside the gradient; this task alone has these heads of this row.
                    unsafe { sink.slice(start + part, len) }.fill(0.0);
                }
            }
        }
        let mut sums: Vec<_> = row
            .keys
            .iter()
            .map(|key| {
                sinks[key.chunk].map(|sink| {
                    let (k, v) = (self.key_start(first), self.value_start(first));
                    // SAFETY: as above; keys and values of a row lie apart.
                    unsafe {
                        [sink.slice(key.start + k, kv_len), sink.slice(key.start + v, kv_len)]
                    }
                })
            })
            .collect();
        let mut unwanted = vec![0.0; q_len];
        let mut weights = vec![0.0; (last - first) * group * keys.len()];
        let mut grad_w = weights.clone();
        for (i, key) in row.asking().iter().enumerate() {
            let seen = keys.len() - row.queries + i + 1;
            let query = queries[seen - 1];
            let start = key.cell * width + q_start;
            let grad_y = &grad[start..start + q_len];
            let weights = &mut weights[..(last - first) * group * seen];
            let grad_w = &mut grad_w[..(last - first) * group * seen];
            products(query, &keys[..seen], dim, group, self.scale, weights);
            softmax(weights, seen, seen);
            products(grad_y, &values[..seen], dim, group, 1.0, grad_w);
            softmax_backward(weights, grad_w, seen);
            grad_w.iter_mut().for_each(|x| *x *= self.scale);
            mix(
                grad_w,
                &keys[..seen],
                dim,
                group,
                match sinks[newest] {
                    // SAFETY: as above; the queries of a row lie apart from its keys and values.
                    Some(sink) => unsafe { sink.slice(row.keys[seen - 1].start + q_start, q_len) },
                    None => &mut unwanted,
                },
            );
            scatter_grads(query, grad_y, weights, grad_w, dim, group, &mut sums[..seen]);
        }
    }
}

simd! {
    /// Turns rows of scores into weights: row `r` sees its first `first + r` columns (all of them at
    /// most) and gives the others none.
    fn softmax<FMA>(scores: &mut [f32], width: usize, first: usize) {
        for (row, scores) in scores.chunks_exact_mut(width).enumerate() {
            let (seen, unseen) = scores.split_at_mut((first + row).min(width));
            let highest = max(seen);
            for x in seen.iter_mut() {
                *x = exp::<FMA>(*x - highest);
            }
            let inverse = 1.0 / sum(seen, |x| x);
            for x in seen {
                *x *= inverse;
            }
            unseen.fill(0.0);
        }
    }

    /// Turns the gradient of softmax's result into that of its scores.
    fn softmax_backward<FMA>(weights: &[f32], grad: &mut [f32], width: usize) {
        for (weights, grad) in weights.chunks_exact(width).zip(grad.chunks_exact_mut(width)) {
            let mean = dot::<FMA>(weights, grad);
            for (grad, weight) in grad.iter_mut().zip(weights) {
                *grad = weight * (*grad - mean);
            }
        }
    }

    /// `scale · x_h · row_h` for each head `h` of `x: [heads · dim]`, of which `group` share a head
    /// of each row; `out: [heads, rows]`.
    fn products<FMA>(x: &[f32], rows: &[&[f32]], dim: usize, group: usize, scale: f32, out: &mut [f32]) {
        for (j, row) in rows.iter().enumerate() {
            if let Some(ahead) = rows.get(j + AHEAD) {
                prefetch(ahead);
            }
            for (head, x) in x.chunks_exact(dim).enumerate() {
                let start = head / group * dim;
                out[head * rows.len() + j] = scale * dot::<FMA>(x, &row[start..start + dim]);
            }
        }
    }

    /// `y_h = Σ_j weights[h, j] · row_jh`, with heads as in `products`.
    fn mix<FMA>(weights: &[f32], rows: &[&[f32]], dim: usize, group: usize, y: &mut [f32]) {
        y.fill(0.0);
        for (j, row) in rows.iter().enumerate() {
            if let Some(ahead) = rows.get(j + AHEAD) {
                prefetch(ahead);
            }
            for (head, y) in y.chunks_exact_mut(dim).enumerate() {
                let start = head / group * dim;
                axpy::<FMA>(weights[head * rows.len() + j], &row[start..start + dim], y);
            }
        }
    }

    /// Adds each query head's share to the gradients `[keys, values]` of the rows it saw.
    fn scatter_grads<FMA>(
        query: &[f32],
        grad_y: &[f32],
        weights: &[f32],
        grad_w: &[f32],
        dim: usize,
        group: usize,
        sums: &mut [Option<[&mut [f32]; 2]>],
    ) {
        let rows = sums.len();
        for (j, sums) in sums.iter_mut().enumerate() {
            let Some([grad_k, grad_v]) = sums else { continue };
            for (head, (query, grad_y)) in
                query.chunks_exact(dim).zip(grad_y.chunks_exact(dim)).enumerate()
            {
                let part = head / group * dim..(head / group + 1) * dim;
                axpy::<FMA>(grad_w[head * rows + j], query, &mut grad_k[part.clone()]);
                axpy::<FMA>(weights[head * rows + j], grad_y, &mut grad_v[part]);
            }
        }
    }
}
