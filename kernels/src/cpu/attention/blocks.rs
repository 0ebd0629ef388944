//! Attention by blocks of queries, one key/value head at a time.

use std::ops::Range;

use super::super::matrix::{Dst, Matrix, Threads, multiply};
use super::{Call, GradParts, Row, Task, softmax, softmax_backward};

/// Queries that a block holds. The weights above the diagonal of a block are wasted work, so it is
/// small; the products of a block must still be worth calling, so not too small.
const BLOCK: usize = 64;

/// What one task reuses from one head to the next.
#[derive(Default)]
pub(super) struct Scratch {
    q: Vec<f32>,       // [queries, dim], scaled
    k: Vec<f32>,       // [keys, dim]
    v: Vec<f32>,       // [keys, dim]
    y: Vec<f32>,       // [queries, dim]
    weights: Vec<f32>, // [block, keys]
    grad_y: Vec<f32>,  // [queries, dim]
    grad_q: Vec<f32>,  // [queries, dim]
    grad_k: Vec<f32>,  // [keys, dim]
    grad_v: Vec<f32>,  // [keys, dim]
    grad_w: Vec<f32>,  // [block, keys]
}

/// Some of the queries of a row, and how many of the row's keys the last of them sees.
struct Block {
    queries: Range<usize>,
    seen: usize,
}

impl Row {
    fn blocks(&self) -> impl Iterator<Item = Block> + use<> {
        let (queries, past) = (self.queries, self.keys.len() - self.queries);
        (0..queries).step_by(BLOCK).map(move |first| {
            let last = (first + BLOCK).min(queries);
            Block { queries: first..last, seen: past + last }
        })
    }
}

impl Call<'_> {
    /// Writes the results of the query heads that share one key/value head.
    pub(super) fn forward_blocks(&self, task: &Task, s: &mut Scratch, mut y: Vec<&mut [f32]>) {
        let (row, dim) = (task.row, self.heads.dim);
        self.gather_keys(task, s);
        for (i, head) in self.query_heads(task).enumerate() {
            self.gather_queries(row, head, s);
            s.y.resize(row.queries * dim, 0.0);
            for Block { queries, seen } in row.blocks() {
                self.weigh(&queries, seen, s);
                let weights = Matrix::new(&s.weights, queries.len(), seen);
                let v = Matrix::new(&s.v, seen, dim);
                let y = &mut s.y[queries.start * dim..queries.end * dim];
                multiply(Dst::set(y, dim), weights, v, 1.0, Threads::One);
            }
            scatter(&s.y, dim, i, &mut y);
        }
    }

    /// Writes the gradients of one key/value head and of the query heads that share it.
    pub(super) fn backward_blocks(
        &self,
        task: &Task,
        s: &mut Scratch,
        grad: &[f32],
        mut parts: GradParts,
    ) {
        let (row, dim) = (task.row, self.heads.dim);
        self.gather_keys(task, s);
        for sums in [&mut s.grad_k, &mut s.grad_v] {
            sums.clear();
            sums.resize(row.keys.len() * dim, 0.0);
        }
        for (i, head) in self.query_heads(task).enumerate() {
            self.gather_queries(row, head, s);
            self.gather_grad(row, head, grad, s);
            s.grad_q.resize(row.queries * dim, 0.0);
            for block in row.blocks() {
                self.backward_block(block, s);
            }
            if let Some(queries) = &mut parts.queries {
                scatter(&s.grad_q, dim, i, queries);
            }
        }
        let sums = s.grad_k.chunks_exact(dim).zip(s.grad_v.chunks_exact(dim));
        for ((key, parts), sums) in row.keys.iter().zip(parts.keys_values).zip(sums) {
            let Some([grad_k, grad_v]) = parts else { continue };
            for (part, sums) in [(grad_k, sums.0), (grad_v, sums.1)] {
                if key.chunk == self.newest() {
                    part.copy_from_slice(sums);
                } else {
                    part.iter_mut().zip(sums).for_each(|(x, sum)| *x += sum);
                }
            }
        }
    }

    /// The gradients of a block's queries, and what it adds to those of the keys and values it sees.
    fn backward_block(&self, Block { queries, seen }: Block, s: &mut Scratch) {
        let (count, dim) = (queries.len(), self.heads.dim);
        let rows = queries.start * dim..queries.end * dim;
        self.weigh(&queries, seen, s);
        s.grad_w.resize(count * seen, 0.0);
        let weights = Matrix::new(&s.weights, count, seen);
        let grad_y = Matrix::new(&s.grad_y[rows.clone()], count, dim);
        let q = Matrix::new(&s.q[rows.clone()], count, dim);
        let k = Matrix::new(&s.k, seen, dim);
        let v = Matrix::new(&s.v, seen, dim);
        multiply(Dst::add(&mut s.grad_v, dim), weights.t(), grad_y, 1.0, Threads::One);
        multiply(Dst::set(&mut s.grad_w, seen), grad_y, v.t(), 1.0, Threads::One);
        softmax_backward(&s.weights, &mut s.grad_w, seen);
        let grad_w = Matrix::new(&s.grad_w, count, seen);
        multiply(Dst::set(&mut s.grad_q[rows], dim), grad_w, k, self.scale, Threads::One);
        multiply(Dst::add(&mut s.grad_k, dim), grad_w.t(), q, 1.0, Threads::One); // q is scaled
    }

    /// The query heads that share a task's key/value heads.
    fn query_heads(&self, task: &Task) -> Range<usize> {
        task.heads.start * self.group()..task.heads.end * self.group()
    }

    fn gather_keys(&self, task: &Task, s: &mut Scratch) {
        let [_, k, v] = self.parts(&task.heads);
        for (to, part) in [(&mut s.k, k), (&mut s.v, v)] {
            to.clear();
            for key in &task.row.keys {
                let row = &self.chunks[key.chunk][key.start..];
                to.extend_from_slice(&row[part.clone()]);
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

    /// Gathers the gradient of one head's results.
    fn gather_grad(&self, row: &Row, head: usize, grad: &[f32], s: &mut Scratch) {
        let ([.., width], dim) = (self.shape, self.heads.dim);
        s.grad_y.clear();
        for key in row.asking() {
            let start = key.cell * width + head * dim;
            s.grad_y.extend_from_slice(&grad[start..start + dim]);
        }
    }

    /// The attention weights of some queries over the first `seen` keys, of which the last query sees all.
    fn weigh(&self, queries: &Range<usize>, seen: usize, s: &mut Scratch) {
        let (count, dim) = (queries.len(), self.heads.dim);
        s.weights.resize(count * seen, 0.0);
        let q = Matrix::new(&s.q[queries.start * dim..], count, dim);
        let k = Matrix::new(&s.k, seen, dim);
        multiply(Dst::set(&mut s.weights, seen), q, k.t(), 1.0, Threads::One);
        softmax(&mut s.weights, seen, seen - count + 1);
    }
}

/// Copies `rows: [queries, dim]` of head number `head` to their places in `parts`, `[heads · dim]` a query.
fn scatter(rows: &[f32], dim: usize, head: usize, parts: &mut [&mut [f32]]) {
    for (part, row) in parts.iter_mut().zip(rows.chunks_exact(dim)) {
        part[head * dim..(head + 1) * dim].copy_from_slice(row);
    }
}
