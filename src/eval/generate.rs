//! Generation after latents, whole batches at once on the cache.

use burn::tensor::{Int, Tensor, TensorData};
use coconut_kernels::Visible;
use rand::Rng;

use crate::{
    latent::{
        self, LatentModel, Wanted,
        batch::{Batch, Row},
    },
    model::Layout,
    rng,
};

/// How the next token is chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Sampling {
    /// The most probable one; the smallest id among equals.
    #[default]
    Greedy,
    /// Drawn at a temperature, from the `top_k` most probable ones (0 for all).
    Random {
        /// Divides the logits.
        temperature: f64,
        /// 0 for all.
        top_k: usize,
        /// Each question draws from its own stream of this seed.
        seed: u64,
    },
}

/// When generation stops, and what is fed back.
#[derive(Clone, Copy, Debug)]
pub struct GenerateOptions<'a> {
    /// The latent token's id; `None` if latents are ordinary tokens.
    pub latent: Option<u32>,
    /// Each of them ends a row.
    pub stops: &'a [u32],
    /// Most tokens generated a row.
    pub max_new_tokens: usize,
    /// How tokens are chosen.
    pub sampling: Sampling,
}

/// What one row generated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Generation {
    /// New tokens only, the eos included if the row reached it.
    pub ids: Vec<u32>,
    /// Whether the row ended by itself rather than at a limit.
    pub finished: bool,
    /// Positions computed for it: the prompt, latents included, and the tokens fed back in.
    pub positions: usize,
}

/// Generates after each prompt. Rows end one by one: at a stop, after `max_new_tokens`, or where the
/// model's context ends. A row's tokens do not depend on its batch mates.
///
/// # Errors
/// A sentence naming the row (from 0) of a prompt that is empty, begins with a latent or is longer
/// than the model's context.
pub fn generate(
    model: &LatentModel,
    prompts: &[&[u32]],
    options: &GenerateOptions<'_>,
) -> Result<Vec<Generation>, String> {
    let context = model.transformer.config.n_positions;
    if let Some(row) = prompts.iter().position(|prompt| prompt.len() > context) {
        let length = prompts[row].len();
        return Err(format!("row {row} has {length} tokens; the model's context is {context}"));
    }
    let rows: Vec<Row> = prompts.iter().map(|ids| Row { ids, labels: &[] }).collect();
    let batch = Batch::new(&rows, options.latent)?;
    let device = model.device();
    let trace = latent::forward(model, &batch, Wanted::Predictions);
    let model = &model.transformer;
    let Some(mut hidden) = trace.ends(&batch) else { return Ok(Vec::new()) }; // [batch, d_model]
    let packed = trace.packed_columns(&batch);
    let mut cache = trace.cache;
    let mut visible: Vec<Vec<bool>> =
        (0..batch.rows).map(|row| batch.visible(batch.columns).row(row).to_vec()).collect();
    let mut generations: Vec<Generation> = prompts
        .iter()
        .map(|p| Generation { ids: Vec::new(), finished: false, positions: p.len() })
        .collect();
    let mut choose = Chooser::new(options.sampling, prompts.len());
    let mut done = vec![options.max_new_tokens == 0; prompts.len()];

    while !done.iter().all(|&done| done) {
        let tokens = choose.next(model.logits(hidden));
        for (row, generation) in generations.iter_mut().enumerate() {
            if done[row] {
                continue;
            }
            let token = tokens[row];
            generation.ids.push(token);
            generation.finished = options.stops.contains(&token);
            let length = prompts[row].len() + generation.ids.len();
            done[row] = generation.finished
                || generation.ids.len() >= options.max_new_tokens
                || length > context;
        }
        if done.iter().all(|&done| done) {
            break;
        }

        // One more column: the tokens just chosen, invisible in rows that have ended.
        let mut ids = vec![0i32; prompts.len()];
        let mut position_ids = vec![0i32; prompts.len()];
        for (row, generation) in generations.iter_mut().enumerate() {
            visible[row].push(!done[row]);
            if !done[row] {
                ids[row] = tokens[row] as i32;
                position_ids[row] = (prompts[row].len() + generation.ids.len() - 1) as i32;
                generation.positions += 1;
            }
        }
        let column = |cells: Vec<i32>| {
            Tensor::<2, Int>::from_data(TensorData::new(cells, [prompts.len(), 1]), &device)
        };
        let columns = visible[0].len();
        let seen = Visible::new(prompts.len(), columns, visible.concat()).packed(packed);
        let layout = Layout::whole(seen, 1);
        let (states, longer) =
            model.forward(model.embed(column(ids)), column(position_ids), cache, &layout, None);
        cache = longer;
        hidden = states.last().squeeze_dim(1);
    }
    Ok(generations)
}

/// Chooses a token for each row.
struct Chooser {
    sampling: Sampling,
    rngs: Vec<rand_chacha::ChaCha8Rng>,
}

impl Chooser {
    fn new(sampling: Sampling, rows: usize) -> Self {
        let rngs = match sampling {
            Sampling::Greedy => Vec::new(),
            Sampling::Random { seed, .. } => {
                (0..rows as u64).map(|row| rng::stream(seed, &[rng::SAMPLING, row])).collect()
            }
        };
        Self { sampling, rngs }
    }

    /// `logits: [batch, vocab]` → a token a row.
    fn next(&mut self, logits: Tensor<2>) -> Vec<u32> {
        let [_, vocab] = logits.dims();
        let logits = logits.into_data().convert::<f32>().try_into_vec::<f32>().unwrap_or_default();
        let rows = logits.chunks(vocab);
        match self.sampling {
            Sampling::Greedy => rows.map(argmax).collect(),
            Sampling::Random { temperature, top_k, .. } => (rows.zip(&mut self.rngs))
                .map(|(row, rng)| sample(row, temperature, top_k, rng.random()))
                .collect(),
        }
    }
}

fn argmax(logits: &[f32]) -> u32 {
    let better = |best: usize, at: usize| if logits[at] > logits[best] { at } else { best };
    (0..logits.len()).reduce(better).unwrap_or(0) as u32
}

/// The token at quantile `u` of the softmax over the `top_k` largest logits.
fn sample(logits: &[f32], temperature: f64, top_k: usize, u: f64) -> u32 {
    let mut order: Vec<usize> = (0..logits.len()).collect();
    order.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]));
    if top_k > 0 {
        order.truncate(top_k);
    }
    let Some(&top) = order.first() else { return 0 };
    let largest = f64::from(logits[top]);
    let weight =
        |token: usize| ((f64::from(logits[token]) - largest) / temperature.max(1e-6)).exp();
    let total: f64 = order.iter().map(|&token| weight(token)).sum();
    let mut rest = u * total;
    for &token in &order {
        rest -= weight(token);
        if rest < 0.0 {
            return token as u32;
        }
    }
    top as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sampling_follows_the_softmax() {
        // Probabilities 1/2, 1/4, 1/4 by hand.
        let logits = [4f32.ln(), 2f32.ln(), 2f32.ln()];
        let at = |u| sample(&logits, 1.0, 0, u);
        assert_eq!(
            [at(0.0), at(0.49), at(0.51), at(0.74), at(0.76), at(0.999)],
            [0, 0, 1, 1, 2, 2]
        );
        assert_eq!(sample(&logits, 1.0, 1, 0.999), 0, "top_k 1 is greedy");
        // At temperature 1/2 the weights are squared: 16, 4, 4 of 24.
        assert_eq!([sample(&logits, 0.5, 0, 0.66), sample(&logits, 0.5, 0, 0.67)], [0, 1]);
    }

    #[test]
    fn greedy_takes_the_first_of_equals() {
        assert_eq!(argmax(&[1.0, 3.0, 3.0]), 1);
    }
}
