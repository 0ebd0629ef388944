//! Attention of a few queries, which read the rows of keys and values where they lie.

use std::ops::Range;

use super::super::simd::{axpy, dot, prefetch, simd};
use super::{Call, GradParts, Key, Row, Task, softmax, softmax_backward};

/// Rows are asked for so many before their turn: they lie too far apart for the processor to
/// guess, and a product is too long for it to look ahead by itself.
const AHEAD: usize = 8;

impl<'a> Call<'a> {
    /// Writes the results of a task's heads.
    pub(super) fn forward_streamed(&self, task: &Task, y: Vec<&mut [f32]>) {
        let (row, dim, group) = (task.row, self.heads.dim, self.group());
        let [queries, keys, values] = self.parts(&task.heads).map(|part| self.rows_of(row, part));
        let heads = task.heads.len() * group;
        let mut weights = vec![0.0; heads * keys.len()];
        for (at, y) in (row.keys.len() - row.queries..).zip(y) {
            let seen = at + 1;
            let weights = &mut weights[..heads * seen];
            products(queries[at], &keys[..seen], dim, group, self.scale, weights);
            softmax(weights, seen, seen);
            mix(weights, &values[..seen], dim, group, y);
        }
    }

    /// Writes the gradients of a task's heads.
    pub(super) fn backward_streamed(&self, task: &Task, grad: &[f32], mut parts: GradParts) {
        let (row, dim, group) = (task.row, self.heads.dim, self.group());
        let [queries, keys, values] = self.parts(&task.heads).map(|part| self.rows_of(row, part));
        for (key, parts) in row.keys.iter().zip(&mut parts.keys_values) {
            if key.chunk == self.newest() {
                parts.iter_mut().flatten().for_each(|part| part.fill(0.0));
            }
        }
        let ([.., width], q) = (self.shape, self.query_part(&task.heads));
        let heads = task.heads.len() * group;
        let mut weights = vec![0.0; heads * keys.len()];
        let mut grad_w = weights.clone();
        for (i, key) in row.asking().iter().enumerate() {
            let at = keys.len() - row.queries + i;
            let seen = at + 1;
            let grad_y = &grad[key.cell * width..][q.clone()];
            let weights = &mut weights[..heads * seen];
            let grad_w = &mut grad_w[..heads * seen];
            products(queries[at], &keys[..seen], dim, group, self.scale, weights);
            softmax(weights, seen, seen);
            products(grad_y, &values[..seen], dim, group, 1.0, grad_w);
            softmax_backward(weights, grad_w, seen);
            grad_w.iter_mut().for_each(|x| *x *= self.scale);
            if let Some(grad_q) = &mut parts.queries {
                mix(grad_w, &keys[..seen], dim, group, grad_q[i]);
            }
            let sums = &mut parts.keys_values[..seen];
            scatter_grads(queries[at], grad_y, weights, grad_w, dim, group, sums);
        }
    }

    /// A part of each key's row.
    fn rows_of(&self, row: &Row, part: Range<usize>) -> Vec<&'a [f32]> {
        let rows = row.keys.iter().map(|key: &Key| &self.chunks[key.chunk][key.start..]);
        rows.map(|row| &row[part.clone()]).collect()
    }
}

simd! {
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
