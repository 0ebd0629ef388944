//! Keys and values of latents, drawn to those of the teacher's steps that an eviction keeps (KaVa, Kuzina et al. 2025,
//! arXiv 2510.02312; docs/method.md 8.7).

use burn::tensor::{Int, Tensor, TensorData, activation};
use coconut_kernels::{Heads, host};
use serde::{Deserialize, Serialize};

use crate::{
    latent::{
        Trace,
        batch::{Batch, Chain},
    },
    model::parameters::constant,
};

/// A score's value for what is not to be chosen.
const NEVER: f32 = -1e9;

/// How far two keys, or two values, are from one another, element by element.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KvDistance {
    /// |x|.
    L1,
    /// x².
    Mse,
    /// x²/2 below 1, |x| − 1/2 above.
    #[default]
    SmoothL1,
}

/// Which keys and values are followed, and how.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct KvSettings {
    /// λ: how much a token's importance weighs in its score; its diversity weighs 1 − λ.
    pub importance: f64,
    /// The distance.
    pub distance: KvDistance,
    /// Whether each layer's distances are divided by the standard deviation of the teacher's elements.
    pub by_std: bool,
}

/// The mean over layers, and over keys and values, of the mean distance of a latent's from those that the teacher
/// keeps: `[1]`. Per row, layer and key head the teacher keeps as many of its steps' tokens as the row has latents, those
/// with the highest scores, in their order; latent i follows the i-th. They are constants. `None` if no row has a latent
/// and a teacher with steps.
pub fn kv_distance(
    heads: Heads,
    batch: &Batch,
    trace: &Trace,
    settings: KvSettings,
) -> Option<Tensor<1>> {
    let [rows, teachers] = trace.caches.as_slice() else { return None };
    let first = batch.passes.first()?;
    let prefix = first.columns.len();
    let distances = (0..rows.n_layer()).map(|layer| {
        let [_, students] = rows.layer(layer) else { return None };
        let [shared, own] = teachers.layer(layer) else { return None };
        let [shared, own] = [shared, own].map(|x| constant(x.clone()));
        let teacher = TeacherLayer { heads, batch, shared: first.cached_tokens().pad(shared), own };
        let kept = teacher.kept(settings.importance);
        let pairs = pairs(batch, heads, prefix, &kept);
        if pairs.is_empty() {
            return None;
        }
        let [_, k, v] = parts(heads);
        let distance = |part: (usize, usize)| {
            let student = pick(students, heads, part, pairs.iter().map(|pair| pair[0]));
            let teacher = pick(&teacher.own, heads, part, pairs.iter().map(|pair| pair[1]));
            let teacher = if student.is_autodiff() { Tensor::from_inner(teacher) } else { teacher };
            settings.mean(student, teacher)
        };
        Some(distance(k) + distance(v))
    });
    let distances: Vec<Tensor<1>> = distances.collect::<Option<_>>()?;
    let count = 2 * distances.len();
    Some(distances.into_iter().reduce(|a, b| a + b)? / count as f64)
}

impl KvSettings {
    /// The mean distance of some vectors `[pairs, dim]` from constants: `[1]`.
    fn mean(self, student: Tensor<2>, teacher: Tensor<2>) -> Tensor<1> {
        let [n, dim] = teacher.dims();
        let x = student - teacher.clone();
        let size = x.clone().abs();
        let mean = match self.distance {
            KvDistance::L1 => size.mean(),
            KvDistance::Mse => x.square().mean(),
            KvDistance::SmoothL1 => {
                let near = size.clone().lower_elem(1.0);
                (size - 0.5).mask_where(near, x.square() / 2.0).mean()
            }
        };
        match self.by_std && n * dim > 1 {
            true => mean / teacher.reshape([n * dim]).var(0).sqrt(),
            false => mean,
        }
    }
}

/// The first element and the width of queries, keys and values in a fused row.
fn parts(Heads { query, key_value, dim }: Heads) -> [(usize, usize); 3] {
    let (q, kv) = (query * dim, key_value * dim);
    [(0, q), (q, kv), (q + kv, kv)]
}

/// Some heads' vectors of fused rows `[batch, columns, qkv]`: `[batch, heads, columns, dim]`.
fn by_head(x: Tensor<3>, dim: usize, (start, width): (usize, usize)) -> Tensor<4> {
    let [batch, columns, _] = x.dims();
    let x = x.narrow(2, start, width);
    x.reshape([batch, columns, width / dim.max(1), dim]).swap_dims(1, 2)
}

/// The vectors `(row, key head, column)` of a chunk of a cache: `[picked, dim]`.
fn pick(
    x: &Tensor<3>,
    heads: Heads,
    part: (usize, usize),
    at: impl Iterator<Item = (usize, usize, usize)>,
) -> Tensor<2> {
    let [batch, columns, _] = x.dims();
    let all = by_head(x.clone(), heads.dim, part);
    let index = |(row, head, column)| ((row * heads.key_value + head) * columns + column) as i32;
    let indices: Vec<i32> = at.map(index).collect();
    let indices = host::upload::<1, Int>(indices.as_slice(), &x.device());
    all.reshape([batch * heads.key_value * columns, heads.dim]).select(0, indices)
}

/// For each row and key head, the columns of the teacher's pass that are kept, in order.
type Kept = Vec<Vec<Vec<usize>>>;

/// Of each latent that follows a token, its place in the second chunk of its cache, and the token's: row, key head,
/// column.
fn pairs(
    batch: &Batch,
    heads: Heads,
    prefix: usize,
    kept: &Kept,
) -> Vec<[(usize, usize, usize); 2]> {
    let mut pairs = Vec::new();
    for (row, kept) in kept.iter().enumerate() {
        let latents = batch.latent_columns(row);
        for (head, kept) in kept.iter().enumerate().take(heads.key_value) {
            let both = latents.iter().zip(kept);
            pairs.extend(both.map(|(&to, &from)| [(row, head, to - prefix), (row, head, from)]));
        }
    }
    pairs
}

/// One layer's queries, keys and values of teachers, constants.
struct TeacherLayer<'a> {
    heads: Heads,
    batch: &'a Batch,
    /// Of the first pass, padded: `[batch, columns, qkv]`.
    shared: Tensor<3>,
    /// Of the teachers' own pass: `[batch, columns, qkv]`.
    own: Tensor<3>,
}

impl TeacherLayer<'_> {
    /// The tokens of steps with the highest scores, as many as the row has latents.
    fn kept(&self, importance: f64) -> Kept {
        let score = self.importance() * importance + self.diversity() * (1.0 - importance);
        let [_, heads, columns] = score.dims();
        let scores: Vec<f32> = host::data(score).iter::<f32>().collect();
        let of_head = |row: usize, head: usize| {
            let Chain { steps, .. } = &self.batch.chains[row];
            let scores = &scores[(row * heads + head) * columns..][..columns];
            let mut order: Vec<usize> = steps.clone().collect();
            // The earlier token among equals.
            order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]));
            order.truncate(self.batch.latents[row]);
            order.sort_unstable();
            order
        };
        let of_row = |row| (0..heads).map(|head| of_head(row, head)).collect();
        (0..self.batch.chains.len()).map(of_row).collect()
    }

    /// The mean attention that the answer's tokens pay to each token, of the query heads that share a key head the
    /// largest: `[batch, key heads, columns]`.
    fn importance(&self) -> Tensor<3> {
        let Heads { query, key_value, dim } = self.heads;
        let [q, k, _] = parts(self.heads);
        let queries = by_head(self.own.clone(), dim, q);
        let all = Tensor::cat(vec![self.shared.clone(), self.own.clone()], 1);
        let keys = by_head(all, dim, k); // [batch, key heads, prefix + columns, dim]
        let [batch, _, columns, _] = queries.dims();
        let seen = keys.dims()[2];
        let group = query / key_value;
        let keys = keys.unsqueeze_dim::<5>(2).expand([batch, key_value, group, seen, dim]);
        let keys = keys.reshape([batch, query, seen, dim]);
        let scores = queries.matmul(keys.swap_dims(2, 3)) / (dim as f64).sqrt() + self.bias(seen);
        let attention = activation::softmax(scores, 3).narrow(3, seen - columns, columns);
        let paid = (attention * self.asking()).sum_dim(2); // [batch, query heads, 1, columns]
        let paid = paid.reshape([batch, key_value, group, columns]).max_dim(2);
        paid.reshape([batch, key_value, columns])
    }

    /// The softmax over the steps' tokens of minus a key's mean cosine to all of them: `[batch, key heads, columns]`.
    fn diversity(&self) -> Tensor<3> {
        let [_, k, _] = parts(self.heads);
        let keys = by_head(self.own.clone(), self.heads.dim, k);
        let [batch, heads, columns, _] = keys.dims();
        let keys = keys.clone() / keys.square().sum_dim(3).sqrt().add_scalar(1e-8);
        let share = self.host([batch, 1, columns, 1], |row, column, _| {
            let Chain { steps, .. } = &self.batch.chains[row];
            if steps.contains(&column) { 1.0 / steps.len() as f32 } else { 0.0 }
        });
        // The mean of a key's cosines to the steps' keys is its product with the mean of these.
        let mean = (keys.clone() * share).sum_dim(2); // [batch, heads, 1, dim]
        let cosine = (keys * mean).sum_dim(3).reshape([batch, heads, 1, columns]);
        let never = self.host([batch, 1, 1, columns], |row, _, column| {
            if self.batch.chains[row].steps.contains(&column) { 0.0 } else { NEVER }
        });
        activation::softmax(never - cosine, 3).reshape([batch, heads, columns])
    }

    /// 0 where a column of the teacher's sees a token among `seen`, very low elsewhere: `[batch, 1, columns, seen]`.
    fn bias(&self, seen: usize) -> Tensor<4> {
        let [batch, columns, _] = self.own.dims();
        let prefix = seen - columns;
        let mask = self.batch.attention_mask(prefix);
        self.host([batch, 1, columns, seen], |row, query, key| {
            let Chain { answer, .. } = &self.batch.chains[row];
            let sees = match key.checked_sub(prefix) {
                None => mask.row(row)[key] && !self.batch.unshared[row].contains(&key),
                Some(own) => own <= query && own < answer.end,
            };
            if sees { 0.0 } else { NEVER }
        })
    }

    /// One over the number of the answer's tokens at each of them: `[batch, 1, columns, 1]`.
    fn asking(&self) -> Tensor<4> {
        let [batch, columns, _] = self.own.dims();
        self.host([batch, 1, columns, 1], |row, column, _| {
            let Chain { answer, .. } = &self.batch.chains[row];
            if answer.contains(&column) { 1.0 / answer.len() as f32 } else { 0.0 }
        })
    }

    /// A tensor `[batch, 1, a, b]` of what `value(row, a, b)` says.
    fn host(&self, shape: [usize; 4], value: impl Fn(usize, usize, usize) -> f32) -> Tensor<4> {
        let [batch, _, a, b] = shape;
        let value = &value;
        let of_row = |row| (0..a).flat_map(move |a| (0..b).map(move |b| value(row, a, b)));
        let values: Vec<f32> = (0..batch).flat_map(of_row).collect();
        host::upload(TensorData::new(values, shape), &self.own.device())
    }
}
