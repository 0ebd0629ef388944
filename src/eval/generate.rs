//! Generation after latents: whole batches at once on the cache, a column of tokens at a time.

use burn::tensor::{Int, Tensor, activation::log_softmax};
use coconut_kernels::{TokenMask, host};
use rand::Rng;
use rand_chacha::ChaCha8Rng;

use crate::{
    Error, Result,
    data::Tokenizer,
    device,
    latent::{
        self, LatentModel, PassPlan, ReadSet, Trace,
        batch::{Batch, Row},
    },
    model::{Cache, PassLayout, TokenInts, Transformer},
    rng,
};

/// How the next token is chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Sampling {
    /// The most probable token; the smallest id among equals.
    #[default]
    Greedy,
    /// A token drawn from the softmax at a temperature.
    Random {
        /// The temperature divides the logits.
        temperature: f64,
        /// Only the `top_k` most probable tokens can be drawn; all of them if it is 0.
        top_k: usize,
        /// Each row draws from its own stream of this seed.
        seed: u64,
    },
}

/// When generation stops, and what is fed back.
#[derive(Clone, Copy, Debug)]
pub struct GenerateOptions<'a> {
    /// How prompts become passes: which tokens are latents, and in which order they are computed.
    pub plan: PassPlan,
    /// Tokens that end a row, each of them.
    pub stops: &'a [u32],
    /// Most tokens generated a row.
    pub max_new_tokens: usize,
    /// How tokens are chosen.
    pub sampling: Sampling,
}

/// What one row generated.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Generation {
    /// The new tokens only, the stop included if the row reached one.
    pub ids: Vec<u32>,
    /// Whether the row ended by itself rather than at a limit.
    pub finished: bool,
    /// Positions computed for the row: the prompt, latents included, and the tokens fed back in.
    pub positions: usize,
}

/// One row's part of a column of new tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NewToken {
    /// The row's number in the batch, from 0.
    pub row: usize,
    /// The token's id.
    pub id: u32,
    /// Why the row ends with this token; `None` if it goes on.
    pub end: Option<End>,
}

/// Why a row ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It said one of [`GenerateOptions::stops`], or a stop text.
    Stop,
    /// It reached [`GenerateOptions::max_new_tokens`] or the end of the model's context.
    Length,
}

/// Generates after each prompt. Rows end one by one: at a stop, after `max_new_tokens`, or where the
/// model's context ends. A row's tokens do not depend on its batch mates.
///
/// # Errors
/// As [`GenerationLoop::new`] and [`GenerationLoop::step`].
pub fn generate(
    model: &LatentModel,
    prompts: &[&[u32]],
    options: &GenerateOptions<'_>,
) -> Result<Vec<Generation>> {
    let mut rows = GenerationLoop::new(model, prompts, *options)?;
    while !rows.step()?.is_empty() {}
    Ok(rows.finish())
}

/// Runs prompts through the model, latents included: the batch that they were laid out as, and what
/// of it `reads` names.
///
/// # Errors
/// [`Error::Prompt`] for a prompt with a [`prompt_problem`].
pub fn forward_prompts(
    model: &LatentModel,
    prompts: &[&[u32]],
    options: &GenerateOptions<'_>,
    reads: ReadSet,
) -> Result<(Batch, Trace)> {
    check_prompts(model, prompts, &options.plan)?;
    let rows: Vec<Row> = prompts.iter().map(|ids| Row::unlabelled(ids)).collect();
    let batch = Batch::new(&rows, &options.plan).map_err(Error::Internal)?;
    let trace = latent::forward(model, &batch, reads);
    Ok((batch, trace))
}

/// Refuses the first prompt that has a [`prompt_problem`].
pub(super) fn check_prompts(
    model: &LatentModel,
    prompts: &[&[u32]],
    plan: &PassPlan,
) -> Result<()> {
    for (row, prompt) in prompts.iter().enumerate() {
        if let Some(problem) = prompt_problem(model, prompt, plan) {
            return Err(Error::Prompt { row, problem });
        }
    }
    Ok(())
}

/// Why a model cannot be given a prompt, as a clause about "it"; `None` if it can.
pub fn prompt_problem(model: &LatentModel, prompt: &[u32], plan: &PassPlan) -> Option<String> {
    let config = &model.transformer.config;
    let (context, vocabulary) = (config.n_positions, config.vocab_size);
    let length = prompt.len();
    if length == 0 {
        return Some("it has no tokens".into());
    }
    if length > context {
        return Some(format!("it has {length} tokens, but the model's context is {context}"));
    }
    let latents = || (0..length).filter(|&position| Some(prompt[position]) == plan.latent);
    if latents().next() == Some(0) {
        return Some("it begins with a latent; a latent needs a token before it".into());
    }
    if let (Some(first), Some(last), true) =
        (latents().next(), latents().next_back(), plan.parallel.is_some())
    {
        if last + 1 - first != latents().count() {
            return Some(
                "it has text between its latents; those of thinking in parallel stand side by side"
                    .into(),
            );
        }
        if first == 1 {
            return Some("its latents begin at the second token; thinking in parallel needs text before the token that they follow".into());
        }
    }
    let beyond = prompt.iter().find(|&&id| id as usize >= vocabulary)?;
    Some(format!("its token {beyond} is beyond the vocabulary of {vocabulary} tokens"))
}

/// A batch of rows in the middle of generation. Each [`step`](Self::step) gives one more token to every row
/// that has not ended; rows of another loop may [`join`](Self::join), and rows may [`leave`](Self::leave).
#[derive(Debug)]
pub struct GenerationLoop<'a> {
    model: &'a Transformer,
    rows: Vec<RowState<'a>>,
    /// Last hidden states at the prompts' ends, `[batch, d_model]`, until the first step takes them.
    prompt_ends: Option<Tensor<2>>,
    /// What the column chosen last was chosen from, `[batch, vocab]`.
    logits: Option<Tensor<2>>,
    /// Keys and values of all columns so far.
    cache: Cache,
    /// How many columns the cache's first chunk stands for if it leaves padding out, else 0.
    unpadded: usize,
}

#[derive(Debug)]
struct RowState<'a> {
    options: GenerateOptions<'a>,
    /// For random choices.
    rng: Option<ChaCha8Rng>,
    generation: Generation,
    ended: bool,
    /// For each column of the cache, whether it holds a token of this row.
    attention_mask: Vec<bool>,
}

impl<'a> GenerationLoop<'a> {
    /// Rows that begin with `prompts`, whose latents are computed here.
    ///
    /// # Errors
    /// As [`forward_prompts`].
    pub fn new(
        model: &'a LatentModel,
        prompts: &[&[u32]],
        options: GenerateOptions<'a>,
    ) -> Result<Self> {
        let (batch, trace) = forward_prompts(model, prompts, &options, ReadSet::PREDICTIONS)?;
        Ok(Self::after(model, &batch, trace, options))
    }

    /// Rows that go on after prompts which [`forward_prompts`] has computed.
    pub fn after(
        model: &'a LatentModel,
        batch: &Batch,
        trace: Trace,
        options: GenerateOptions<'a>,
    ) -> Self {
        let streams = 0..batch.rows as u64;
        Self::begin(model, batch, trace, streams.map(|stream| (options, stream)))
    }

    /// As [`after`](Self::after), each row by options of its own and as if it were alone.
    pub fn after_each(
        model: &'a LatentModel,
        batch: &Batch,
        trace: Trace,
        options: &[GenerateOptions<'a>],
    ) -> Self {
        Self::begin(model, batch, trace, options.iter().map(|&options| (options, 0)))
    }

    fn begin(
        model: &'a LatentModel,
        batch: &Batch,
        trace: Trace,
        options: impl Iterator<Item = (GenerateOptions<'a>, u64)>,
    ) -> Self {
        let row = |(row, (options, stream)): (usize, (GenerateOptions<'a>, u64))| {
            let mut attention_mask = vec![false; batch.columns];
            batch.columns_of(row).iter().for_each(|&column| attention_mask[column] = true);
            RowState {
                options,
                rng: options.sampling.rng(stream),
                generation: Generation { positions: batch.lengths[row], ..Generation::default() },
                ended: options.max_new_tokens == 0,
                attention_mask,
            }
        };
        Self {
            model: &model.transformer,
            rows: (0..batch.rows).zip(options).map(row).collect(),
            prompt_ends: trace.ends(batch),
            logits: None,
            unpadded: batch.unpadded_columns(),
            cache: trace.caches.into_iter().next().unwrap_or_default(),
        }
    }

    /// Chooses the next column: a token for each row that has not ended, in the rows' order. Empty once all
    /// rows have ended.
    ///
    /// # Errors
    /// [`Error::Internal`] if the device failed.
    pub fn step(&mut self) -> Result<Vec<NewToken>> {
        if self.rows.iter().all(|row| row.ended) {
            return Ok(Vec::new());
        }
        let hidden = match self.prompt_ends.take() {
            Some(hidden) => hidden,
            None => self.feed(),
        };
        let logits = self.model.logits(hidden);
        self.logits = Some(logits.clone());
        let chosen = choose(&mut self.rows, logits)?;
        let context = self.model.config.n_positions;
        let mut column = Vec::new();
        for (number, (row, id)) in self.rows.iter_mut().zip(chosen).enumerate() {
            if row.ended {
                continue;
            }
            let generation = &mut row.generation;
            generation.ids.push(id);
            generation.finished = row.options.stops.contains(&id);
            let full = generation.ids.len() >= row.options.max_new_tokens
                || generation.positions >= context;
            let end = match (generation.finished, full) {
                (true, _) => Some(End::Stop),
                (false, true) => Some(End::Length),
                (false, false) => None,
            };
            row.ended = end.is_some();
            column.push(NewToken { row: number, id, end });
        }
        Ok(column)
    }

    /// As [`step`](Self::step), but a row also ends where it has said one of the tokenizer's stop texts.
    ///
    /// # Errors
    /// As [`step`](Self::step), and if the tokenizer fails.
    pub fn step_until(&mut self, tokenizer: &Tokenizer) -> Result<Vec<NewToken>> {
        let mut column = self.step()?;
        if tokenizer.stop_texts().is_empty() {
            return Ok(column);
        }
        for new in &mut column {
            let row = &mut self.rows[new.row];
            let said = || tokenizer.decode(&row.generation.ids);
            if new.end.is_none() && tokenizer.stop_in(&said()?).is_some() {
                (row.ended, row.generation.finished, new.end) = (true, true, Some(End::Stop));
            }
        }
        Ok(column)
    }

    /// Log probabilities of all tokens, `[vocab]` each, where some rows' last tokens were chosen.
    ///
    /// # Errors
    /// [`Error::Internal`] if the device failed, or before the first step.
    pub fn log_probs(&self, rows: &[usize]) -> Result<Vec<Vec<f32>>> {
        let logits = self.logits.clone();
        let logits = logits.ok_or_else(|| Error::Internal("no token was chosen yet".into()))?;
        let log_probs = log_softmax(select(logits, rows), 1);
        let [_, vocab] = log_probs.dims();
        let log_probs: Vec<f32> = device::to_host(log_probs)?;
        Ok(log_probs.chunks(vocab).map(<[f32]>::to_vec).collect())
    }

    /// Ends a row, which gets no more tokens; one that does not exist has left already.
    pub fn leave(&mut self, row: usize) {
        if let Some(row) = self.rows.get_mut(row) {
            row.ended = true;
        }
    }

    /// How many rows there are, ended ones included.
    pub fn rows(&self) -> usize {
        self.rows.len()
    }

    /// Forgets the rows that have ended, and what the cache holds of them. The others keep their order.
    pub fn retain_running(&mut self) {
        let running: Vec<bool> = self.rows.iter().map(|row| !row.ended).collect();
        if running.contains(&false) {
            self.pack();
        }
    }

    /// Takes another loop's rows in after the own ones; of both, rows that have ended are forgotten. What a row says
    /// does not change by it.
    ///
    /// # Errors
    /// [`Error::Internal`] if either loop has not made its first step.
    pub fn join(&mut self, mut other: Self) -> Result<()> {
        if self.prompt_ends.is_some() || other.prompt_ends.is_some() {
            return Err(Error::Internal("rows joined before their first token".into()));
        }
        self.pack();
        other.pack();
        self.cache = std::mem::take(&mut self.cache).beside(other.cache);
        self.rows.append(&mut other.rows);
        self.unpadded = self.unpadded.max(other.unpadded);
        for row in &mut self.rows {
            row.attention_mask.resize(self.unpadded, false);
        }
        Ok(())
    }

    /// What each row has generated, whether or not it has ended.
    pub fn finish(self) -> Vec<Generation> {
        self.rows.into_iter().map(|row| row.generation).collect()
    }

    /// Puts the cells of rows that have not ended side by side, row after row, as one chunk without padding.
    fn pack(&mut self) {
        let n_rows = self.rows.len();
        let columns = self.rows.first().map_or(0, |row| row.attention_mask.len());
        // In the cache's order: chunk by chunk, row after row.
        let (mut cells, mut cell) = (vec![Vec::new(); n_rows], 0);
        let parts = [0..self.unpadded, self.unpadded..columns];
        let parts = match self.unpadded {
            0 => self.cache.chunk_columns(),
            _ => parts.to_vec(),
        };
        for part in parts {
            let leaves_padding_out = part.end <= self.unpadded;
            for (row, cells) in self.rows.iter().zip(&mut cells) {
                for &token in &row.attention_mask[part.clone()] {
                    if token && !row.ended {
                        cells.push(cell);
                    }
                    cell += i32::from(token || !leaves_padding_out);
                }
            }
        }
        let width = cells.iter().map(Vec::len).max().unwrap_or(0);
        for (row, cells) in self.rows.iter_mut().zip(&cells) {
            row.attention_mask = (0..width).map(|column| column < cells.len()).collect();
        }
        self.rows.retain(|row| !row.ended);
        self.cache = self.cache.select(&cells.concat());
        self.unpadded = width;
        self.logits = None;
    }

    /// Runs the column chosen last, which is invisible in rows that have ended: last hidden states
    /// `[batch, d_model]`.
    fn feed(&mut self) -> Tensor<2> {
        let n_rows = self.rows.len();
        let (mut ids, mut position_ids) = (vec![0i32; n_rows], vec![0i32; n_rows]);
        let mut tokens = Vec::new();
        for (number, row) in self.rows.iter_mut().enumerate() {
            tokens.extend(row.attention_mask.iter().copied().chain([!row.ended]));
            if let (false, Some(&id)) = (row.ended, row.generation.ids.last()) {
                ids[number] = id as i32;
                position_ids[number] = row.generation.positions as i32;
                row.generation.positions += 1;
            }
        }
        let device = self.model.device();
        let column = |values: Vec<i32>| TokenInts::new(values, [n_rows, 1]);
        let columns = tokens.len() / n_rows;
        let attention_mask = TokenMask::new(n_rows, columns, tokens).unpadded(self.unpadded);
        let layout = PassLayout::whole(column(position_ids), attention_mask);
        let embeddings = self.model.embed(column(ids).tensor(&device));
        let (states, new) = self.model.forward(embeddings, &self.cache, &layout, None);
        let at = columns - 1 - self.cache.spare();
        self.cache = std::mem::take(&mut self.cache).store(new);
        for row in &mut self.rows {
            row.attention_mask.resize(at + 1 + self.cache.spare(), false);
            row.attention_mask[at] = !row.ended;
        }
        states.last().squeeze_dim(1) // [batch, 1, d_model] → [batch, d_model]
    }
}

impl Sampling {
    /// The draws of one of a batch's rows, if there are any.
    fn rng(self, stream: u64) -> Option<ChaCha8Rng> {
        match self {
            Self::Greedy => None,
            Self::Random { seed, .. } => Some(rng::stream(seed, &[rng::SAMPLING, stream])),
        }
    }
}

/// `logits: [batch, vocab]` → a token a row. Greedy choices are made on the device, so that ids alone are
/// read from it.
fn choose(rows: &mut [RowState<'_>], logits: Tensor<2>) -> Result<Vec<u32>> {
    let [_, vocab] = logits.dims();
    let random: Vec<usize> = (0..rows.len()).filter(|&row| rows[row].rng.is_some()).collect();
    let mut chosen = match random.len() == rows.len() {
        true => vec![0; rows.len()],
        false => argmax(logits.clone())?,
    };
    if random.is_empty() {
        return Ok(chosen);
    }
    let logits: Vec<f32> = device::to_host(select(logits, &random))?;
    for (&number, logits) in random.iter().zip(logits.chunks(vocab)) {
        let row = &mut rows[number];
        if let (Sampling::Random { temperature, top_k, .. }, Some(rng)) =
            (row.options.sampling, &mut row.rng)
        {
            chosen[number] = sample(logits, temperature, top_k, rng.random());
        }
    }
    Ok(chosen)
}

/// Some rows of `[batch, n]`, in their order.
fn select(x: Tensor<2>, rows: &[usize]) -> Tensor<2> {
    let [batch, _] = x.dims();
    if rows.len() == batch {
        return x;
    }
    let rows: Vec<i32> = rows.iter().map(|&row| row as i32).collect();
    let rows = host::upload::<1, Int>(rows.as_slice(), &x.device());
    x.select(0, rows)
}

/// The id of each row's largest logit, the smallest id among equals: `[batch, vocab]` → one a row.
pub(super) fn argmax(logits: Tensor<2>) -> Result<Vec<u32>> {
    device::to_host(logits.argmax(1))
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
    use burn::tensor::{Device, TensorData};

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

    /// Short and long rows: devices may take different ways for them.
    #[test]
    fn greedy_takes_the_first_of_equals() {
        for vocab in [3, 64, 1000, 50_257] {
            let mut logits = vec![0f32; 3 * vocab];
            logits[1] = 3.0;
            logits[vocab - 1] = 3.0;
            logits[vocab..2 * vocab].fill(-0.0);
            logits[vocab + 1] = 0.0; // equal to −0
            logits[2 * vocab..].fill(f32::NEG_INFINITY);
            logits[3 * vocab - 2..].fill(-7.0);
            let rows = TensorData::new(logits, [3, vocab]);
            let chosen = argmax(Tensor::from_data(rows, &Device::flex())).unwrap();
            assert_eq!(chosen, [1, 0, vocab as u32 - 2], "{vocab} tokens");
        }
    }
}
