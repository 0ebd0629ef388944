//! Attention in full: scores of all queries and keys, masked by a bias.

use burn::tensor::{Distribution, Int, Tensor, TensorData, activation};

use crate::{Heads, TokenMask, host};

/// See [`crate::attention`].
pub fn attention(
    qkv: Tensor<3>,
    past: &[Tensor<3>],
    heads: Heads,
    mask: &TokenMask,
    dropout: f64,
) -> Tensor<3> {
    if mask.unpadded_columns() > 0 {
        return unpadded_attention(qkv, past, heads, mask, dropout);
    }
    let [batch, new, _] = qkv.dims();
    let columns = mask.columns();
    let Heads { query, key_value, dim } = heads;
    let group = query / key_value;
    let (q_width, kv_width) = (query * dim, key_value * dim);

    let q = qkv.clone().narrow(2, 0, q_width).reshape([batch, new, query, dim]).swap_dims(1, 2); // [batch, query, new, dim]
    let all = if past.is_empty() {
        qkv
    } else {
        Tensor::cat(past.iter().cloned().chain([qkv]).collect(), 1)
    };
    let keys_or_values = |start: usize| {
        let x = all
            .clone()
            .narrow(2, start, kv_width)
            .reshape([batch, columns, key_value, dim])
            .swap_dims(1, 2); // [batch, key_value, columns, dim]
        if group == 1 {
            return x;
        }
        x.unsqueeze_dim::<5>(2)
            .expand([batch, key_value, group, columns, dim])
            .reshape([batch, query, columns, dim])
    };
    let k = keys_or_values(q_width);
    let v = keys_or_values(q_width + kv_width);

    let scores = q.matmul(k.swap_dims(2, 3)) / (dim as f64).sqrt() // [batch, query, new, columns]
        + causal_bias(mask, new, &all);
    let mut weights = activation::softmax(scores, 3);
    if dropout > 0.0 {
        let keep = weights.random_like(Distribution::Bernoulli(1.0 - dropout));
        weights = weights * keep / (1.0 - dropout);
    }
    weights.matmul(v).swap_dims(1, 2).reshape([batch, new, q_width])
}

/// [`attention`] where padding is left out of the oldest chunk: it is put back for the products, and left out of
/// the result again.
fn unpadded_attention(
    qkv: Tensor<3>,
    past: &[Tensor<3>],
    heads: Heads,
    mask: &TokenMask,
    dropout: f64,
) -> Tensor<3> {
    let columns = mask.unpadded_columns();
    let (numbers, cells) = unpad_indices(mask, columns);
    let [numbers, cells] =
        [numbers, cells].map(|indices| host::upload::<1, Int>(indices.as_slice(), &qkv.device()));
    let pad = |x: Tensor<3>| {
        let [_, n, width] = x.dims();
        let rows = x.reshape([n, width]).select(0, numbers.clone());
        rows.reshape([mask.batch(), columns, width])
    };
    let mask = mask.clone().unpadded(0);
    match past.split_first() {
        None => {
            let y = attention(pad(qkv), &[], heads, &mask, dropout);
            let [batch, columns, width] = y.dims();
            y.reshape([batch * columns, width]).select(0, cells).unsqueeze()
        }
        Some((first, rest)) => {
            let past: Vec<_> = [pad(first.clone())].into_iter().chain(rest.to_vec()).collect();
            attention(qkv, &past, heads, &mask, dropout)
        }
    }
}

/// For each cell of the first `columns` columns the number of its token, 0 if it is padding; and for each token
/// its cell.
fn unpad_indices(mask: &TokenMask, columns: usize) -> (Vec<i32>, Vec<i32>) {
    let (mut numbers, mut cells) = (Vec::with_capacity(mask.batch() * columns), Vec::new());
    for row in 0..mask.batch() {
        for &token in &mask.row(row)[..columns] {
            numbers.push(if token { cells.len() as i32 } else { 0 });
            if token {
                cells.push(numbers.len() as i32 - 1);
            }
        }
    }
    (numbers, cells)
}

/// A bias of 0 where a query may look and a large negative number elsewhere: `[batch, 1, new, columns]`.
fn causal_bias(mask: &TokenMask, new: usize, like: &Tensor<3>) -> Tensor<4> {
    let (batch, columns) = (mask.batch(), mask.columns());
    let mut bias = Vec::with_capacity(batch * new * columns);
    for row in 0..batch {
        for query in columns - new..columns {
            let sees =
                |(at, &token): (usize, &bool)| token && at <= query && !mask.is_hidden(row, at);
            let sees = mask.row(row).iter().enumerate().map(sees);
            bias.extend(sees.map(|sees| if sees { 0.0f32 } else { -1e9 }));
        }
    }
    let options = (&like.device(), like.dtype());
    host::upload(TensorData::new(bias, [batch, 1, new, columns]), options)
}
