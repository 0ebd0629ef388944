//! Causal attention straight on the rows of queries, keys and values.
//!
//! Only tokens are touched, no padding: each row of the batch lists its keys across all
//! chunks, and after that compaction the mask is the plain causal one, whatever the padding and
//! wherever a chunk's cells lie. Queries whose result nobody reads are left out. The
//! attention weights are computed again in the backward pass rather than kept. Two bodies:
//!
//! * [`blocks`]: keys and values of one head are gathered side by side and multiplied as matrices, a
//!   block of queries at a time against the keys that the block can see;
//! * [`streamed`]: a handful of queries (a latent pass, a generated token) read the rows where they lie.
//!
//! Sources: Vaswani et al. 2017, arXiv 1706.03762; for grouped heads, Ainslie et al. 2023,
//! arXiv 2305.13245.

mod blocks;
mod streamed;

use std::ops::Range;

use burn::tensor::Tensor;
use burn_flex::FlexTensor;
use rayon::prelude::*;

use super::bridge::{Fused, GradSinks, SendPtr, apply, sizes, slice, slice_mut, tensor, uninit};
use super::simd::{dot, exp, max, simd, sum};
use crate::{Heads, TokenMask};
use blocks::Scratch;

/// Up to this many new columns are streamed.
const STREAMED: usize = 2;

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

    /// True of the past chunks: each is shared by all later passes, which add to the keys and values that
    /// they saw instead of handing in a tensor of mostly zeros each.
    fn accumulates(&self, operand: usize) -> bool {
        operand < N - 1
    }
}

/// One call: the operands' elements, and what each row of the batch can see.
struct Call<'a> {
    heads: Heads,
    /// Elements of each operand, `[batch, n, qkv_width]` or `[1, cells, qkv_width]`.
    chunks: Vec<&'a [f32]>,
    /// Number of new columns.
    new: usize,
    /// Shape of the result.
    shape: [usize; 3],
    rows: Vec<Row>,
    scale: f32,
}

/// One row of the batch.
struct Row {
    /// Tokens, oldest first.
    keys: Vec<Key>,
    /// How many of the last keys ask.
    queries: usize,
    /// Cells of the newest chunk that do not ask: they have no result, and no gradient of a query.
    idle: Vec<usize>,
    /// Those among the idle that hold no token: they have no gradient of a key or value either.
    unseen: Vec<usize>,
}

/// Where the queries, keys and values of a token lie.
#[derive(Clone, Copy)]
struct Key {
    chunk: usize,
    /// The row's number in the chunk.
    cell: usize,
    /// The row's first element.
    start: usize,
}

impl Row {
    /// The keys that ask.
    fn asking(&self) -> &[Key] {
        &self.keys[self.keys.len() - self.queries..]
    }
}

/// Some key/value heads of one row of the batch, and the query heads that share them.
struct Task<'a> {
    row: &'a Row,
    heads: Range<usize>,
}

/// The gradients that one task writes: its heads' parts of its row's cells.
struct GradParts<'a> {
    /// The queries' part for each key that asks; `None` if the new columns need no gradient.
    queries: Option<Vec<&'a mut [f32]>>,
    /// The keys' and the values' part for each key; `None` where its chunk needs no gradient.
    keys_values: Vec<Option<[&'a mut [f32]; 2]>>,
}

impl<'a> Call<'a> {
    fn new(op: &Attention, operands: &'a [FlexTensor]) -> Self {
        let (width, mask) = (op.heads.qkv_width(), &op.mask);
        let shapes: Vec<[usize; 3]> = operands.iter().map(sizes).collect();
        let lens = mask.chunks(&shapes);
        let newest = lens.len() - 1;
        let new = lens[newest];
        let mut unpadded_cells = 0..; // of the oldest chunk, if padding is left out of it
        let rows = (0..mask.batch())
            .map(|batch_row| {
                let mut row =
                    Row { keys: Vec::new(), queries: 0, idle: Vec::new(), unseen: Vec::new() };
                let mut cells = mask.row(batch_row).iter().enumerate();
                for (chunk, &len) in lens.iter().enumerate() {
                    let is_unpadded = chunk == 0 && mask.unpadded_columns() > 0;
                    for (column, (at, &token)) in cells.by_ref().take(len).enumerate() {
                        let cell = match is_unpadded {
                            false => batch_row * len + column,
                            true if token => unpadded_cells.next().unwrap_or(0),
                            true => continue,
                        };
                        let seen = token && !mask.is_hidden(batch_row, at);
                        if seen {
                            row.keys.push(Key { chunk, cell, start: cell * width });
                        }
                        if chunk == newest && seen && at >= mask.first_query(batch_row) {
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
        self.tasks().into_par_iter().for_each_init(Scratch::default, |scratch, task| {
            // SAFETY: no other task has these heads of this row.
            let parts = unsafe { self.result_parts(&task, out) };
            match self.is_streamed() {
                true => self.forward_streamed(&task, parts),
                false => self.forward_blocks(&task, scratch, parts),
            }
        });
        tensor(y, self.shape)
    }

    /// Fills the gradient of the new rows and adds to those of the past chunks.
    fn backward(&self, grad: &[f32], grads: &mut [Option<FlexTensor>]) {
        let grads: Vec<Option<SendPtr>> = grads
            .iter_mut()
            .map(|grad| grad.as_mut().map(|grad| SendPtr::new(slice_mut(grad))))
            .collect();
        self.tasks().into_par_iter().for_each_init(Scratch::default, |scratch, task| {
            // SAFETY: no other task has these heads of this row.
            let parts = unsafe { self.grad_parts(&task, &grads) };
            match self.is_streamed() {
                true => self.backward_streamed(&task, grad, parts),
                false => self.backward_blocks(&task, scratch, grad, parts),
            }
        });
    }

    fn is_streamed(&self) -> bool {
        self.new <= STREAMED
    }

    /// One task a head, or, streamed, a row if there are enough of them to go round. Each head of each row is
    /// in one of them.
    fn tasks(&self) -> Vec<Task<'_>> {
        let heads = self.heads.key_value;
        let at_once = match self.is_streamed() {
            true => {
                let threads = rayon::current_num_threads();
                heads.div_ceil(threads.div_ceil(self.rows.len().max(1)).clamp(1, heads.max(1)))
            }
            false => 1,
        };
        let of_row = |row| {
            let firsts = (0..heads).step_by(at_once.max(1));
            firsts.map(move |first| Task { row, heads: first..(first + at_once).min(heads) })
        };
        self.rows.iter().flat_map(of_row).collect()
    }

    /// The part of the result that a task writes: for each key that asks, its query heads. What has no result
    /// is zero.
    ///
    /// # Safety
    /// While the parts live, nothing else reads or writes these heads of this row in `y`.
    unsafe fn result_parts<'y>(&self, task: &Task, y: SendPtr) -> Vec<&'y mut [f32]> {
        let [.., width] = self.shape;
        let q = self.query_part(&task.heads);
        // SAFETY: the cells of a row are its own and differ from one another; so do the heads of a cell.
        let part = |cell: usize| unsafe { y.slice(cell * width + q.start, q.len()) };
        task.row.idle.iter().for_each(|&cell| part(cell).fill(0.0));
        task.row.asking().iter().map(|key| part(key.cell)).collect()
    }

    /// The part of the gradients that a task writes, given those of the chunks. What has no gradient is zero.
    ///
    /// # Safety
    /// While the parts live, nothing else reads or writes these heads of this row in `grads`.
    unsafe fn grad_parts<'g>(&self, task: &Task, grads: &[Option<SendPtr>]) -> GradParts<'g> {
        let (row, width) = (task.row, self.heads.qkv_width());
        let [q, k, v] = self.parts(&task.heads);
        // SAFETY: the cells of a row are its own and differ from one another; so do the heads of a cell, and
        // its queries, keys and values.
        let part = |grad: SendPtr, start: usize, part: &Range<usize>| unsafe {
            grad.slice(start + part.start, part.len())
        };
        let newest = grads[self.newest()];
        if let Some(grad) = newest {
            row.idle.iter().for_each(|cell| part(grad, cell * width, &q).fill(0.0));
            for cell in &row.unseen {
                [&k, &v].into_iter().for_each(|range| part(grad, cell * width, range).fill(0.0));
            }
        }
        GradParts {
            queries: newest
                .map(|grad| row.asking().iter().map(|key| part(grad, key.start, &q)).collect()),
            keys_values: (row.keys.iter())
                .map(|key| {
                    let grad = grads[key.chunk]?;
                    Some([&k, &v].map(|range| part(grad, key.start, range)))
                })
                .collect(),
        }
    }

    /// Number of the newest chunk.
    fn newest(&self) -> usize {
        self.chunks.len() - 1
    }

    /// Query heads that share a key/value head.
    fn group(&self) -> usize {
        self.heads.query / self.heads.key_value
    }

    /// Where the query heads that share some key/value heads lie in a row, and in a row of the result.
    fn query_part(&self, heads: &Range<usize>) -> Range<usize> {
        let width = self.group() * self.heads.dim;
        heads.start * width..heads.end * width
    }

    /// Where some key/value heads lie in a row: their queries, keys and values.
    fn parts(&self, heads: &Range<usize>) -> [Range<usize>; 3] {
        let Heads { query, key_value, dim } = self.heads;
        let from = |head: usize| (head + heads.start) * dim..(head + heads.end) * dim;
        [self.query_part(heads), from(query), from(query + key_value)]
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
}
