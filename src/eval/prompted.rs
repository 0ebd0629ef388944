//! Prompts that were run: what was thought on the way, how likely their own tokens were, and the rows that go on after
//! them.

use serde::Serialize;

use super::{
    generate::{GenerateOptions, GenerationLoop, check_prompts},
    head::log_probs_by_rows,
    lens::{self, Reading},
    readout::readout,
    trained::{AnswerOptions, TrainedModel},
};
use crate::{
    Error, Result, device,
    latent::{
        self, Edit, ReadLayers, ReadPositions, ReadSet, Trace,
        batch::{Batch, Row},
    },
    stats::cosine,
};

/// What will be looked at besides the rows that go on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Looks {
    /// At thoughts.
    pub thoughts: bool,
    /// At the probabilities of the prompts' own tokens.
    pub log_probs: bool,
}

/// What can be seen of one thought.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Thought {
    /// The likeliest tokens, had the model spoken at this place instead ([`lens`](super::lens())).
    pub tokens: Reading,
    /// Euclidean length of the vector that was fed back; `None` if latents are ordinary tokens, so that
    /// nothing was.
    pub length: Option<f64>,
    /// Cosine of the vector that was fed back with that of each thought before it, in order; `None` where one of the two
    /// is zero.
    pub cosines: Vec<Option<f64>>,
}

/// How likely a token was at its place, and what was likelier.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenLogProb {
    /// The token.
    pub id: u32,
    /// Its log p, in nats.
    pub log_prob: f64,
    /// The likeliest tokens, likeliest first, the smallest id first among equals.
    pub top: Vec<(u32, f64)>,
}

impl TokenLogProb {
    /// A token among all, `log_probs: [vocab]`; `n` of the likeliest are kept.
    pub fn new(id: u32, log_probs: &[f32], n: usize) -> Self {
        let mut top: Vec<(u32, f64)> = Vec::with_capacity(n + 1);
        for (id, &log_prob) in (0..).zip(log_probs) {
            let log_prob = f64::from(log_prob);
            let place = top.partition_point(|&(_, above)| above >= log_prob);
            if place < n {
                top.insert(place, (id, log_prob));
                top.truncate(n);
            }
        }
        let log_prob = log_probs.get(id as usize).map_or(f64::NEG_INFINITY, |&x| f64::from(x));
        Self { id, log_prob, top }
    }
}

/// A batch of prompts after their forward pass.
#[derive(Debug)]
pub struct Prompted<'p, 'a> {
    trained: &'p TrainedModel<'a>,
    prompts: &'p [&'p [u32]],
    batch: Batch,
    trace: Trace,
}

impl<'p, 'a> Prompted<'p, 'a> {
    /// Runs prompts, latents included, whose thoughts are changed if there is an edit before they are fed.
    ///
    /// # Errors
    /// [`Error::Prompt`] for a prompt that the model cannot be given.
    pub fn new(
        trained: &'p TrainedModel<'a>,
        prompts: &'p [&'p [u32]],
        edit: Option<&Edit>,
        looks: Looks,
    ) -> Result<Self> {
        let (model, plan) = (trained.model, trained.plan());
        check_prompts(model, prompts, &plan)?;
        let rows: Vec<Row> = prompts.iter().map(|ids| Row::unlabelled(ids)).collect();
        let batch = Batch::new(&rows, &plan).map_err(Error::Internal)?;
        // What feeds a thought, one after the other, is among the predictions; what only stands before a pause token, or
        // is left of the last iteration, is not.
        let fed_once = plan.latent.is_some() && plan.parallel.is_none();
        let all = looks.log_probs || (looks.thoughts && !fed_once);
        let positions = if all { ReadPositions::All } else { ReadPositions::Predictions };
        let reads = ReadSet { positions, layers: ReadLayers::Last };
        let mut trace = latent::forward(model, &batch, reads);
        if let Some(edit) = edit {
            trace = latent::forward_edited(model, &batch, reads, edit, &trace);
        }
        Ok(Self { trained, prompts, batch, trace })
    }

    /// For each prompt, what can be seen of its thoughts, each read as `n_tokens` tokens. They are read as what was
    /// thought; their lengths and cosines are those of what was fed.
    ///
    /// # Errors
    /// [`Error::Internal`] if the device failed.
    pub fn thoughts(&self, n_tokens: usize) -> Result<Vec<Vec<Thought>>> {
        let Self { batch, trace, .. } = self;
        let TrainedModel { model, tokenizer, .. } = self.trained;
        let readings = lens::read(model, tokenizer, self.prompts, batch, trace, n_tokens)?;
        let fed = fed(batch, trace)?;
        let of_row = |(row, readings): (usize, Vec<Reading>)| {
            let thought = |(number, tokens): (usize, Reading)| Thought {
                tokens,
                length: fed[row].get(number).map(|vector| length(vector)),
                cosines: fed[row].get(number).map_or(Vec::new(), |vector| {
                    fed[row][..number].iter().map(|before| cosine(vector, before)).collect()
                }),
            };
            readings.into_iter().enumerate().map(thought).collect()
        };
        Ok(readings.into_iter().enumerate().map(of_row).collect())
    }

    /// For each prompt, what the step decoder reads in its thoughts; nothing without one.
    ///
    /// # Errors
    /// [`Error::Internal`] if the device failed.
    pub fn readouts(&self) -> Result<Vec<Vec<String>>> {
        let TrainedModel { model, tokenizer, curriculum, .. } = self.trained;
        let Some(decoder) = self.trained.decoder else {
            return Ok(vec![Vec::new(); self.prompts.len()]);
        };
        let width = decoder.style.width(curriculum.c_thought);
        let options = self.trained.generation(&AnswerOptions::default());
        let read = |ids: &&[u32]| readout(model, decoder, tokenizer, ids, &options, width);
        self.prompts.iter().map(read).collect()
    }

    /// How likely one prompt's tokens were, each after those before it, from the second token on; `n` of the likeliest
    /// tokens at each place beside it. The prompts were to be looked at so ([`Looks::log_probs`]).
    ///
    /// # Errors
    /// [`Error::Internal`] if the device failed.
    pub fn log_probs(&self, row: usize, n: usize) -> Result<Vec<TokenLogProb>> {
        let ids = self.prompts[row];
        let cells: Vec<(usize, usize)> =
            self.batch.columns_of(row).iter().map(|&column| (row, column)).collect();
        let before = &cells[..cells.len().saturating_sub(1)];
        let Some(hidden) = self.trace.last_hidden(&self.batch, before) else {
            return Ok(Vec::new());
        };
        let mut found = Vec::with_capacity(before.len());
        log_probs_by_rows(&self.trained.model.transformer, &hidden, |rows, log_probs| {
            let [_, vocab] = log_probs.dims();
            let log_probs: Vec<f32> = device::to_host(log_probs)?;
            let ids = &ids[rows.start + 1..=rows.end];
            let tokens = ids.iter().zip(log_probs.chunks(vocab));
            found.extend(tokens.map(|(&id, of)| TokenLogProb::new(id, of, n)));
            Ok(())
        })?;
        Ok(found)
    }

    /// The rows that go on after the prompts, each by options of its own and as if it were alone.
    pub fn speak(self, options: &[GenerateOptions<'a>]) -> GenerationLoop<'a> {
        GenerationLoop::after_each(self.trained.model, &self.batch, self.trace, options)
    }

    /// As [`speak`](Self::speak), all rows by the same options.
    pub fn speak_alike(self, options: GenerateOptions<'a>) -> GenerationLoop<'a> {
        GenerationLoop::after(self.trained.model, &self.batch, self.trace, options)
    }
}

/// What was fed back: for each row, a vector `[d_model]` for each of its thoughts.
fn fed(batch: &Batch, trace: &Trace) -> Result<Vec<Vec<Vec<f32>>>> {
    let mut fed = vec![Vec::new(); batch.rows];
    for (number, thought) in trace.thoughts_in_order(batch).into_iter().enumerate() {
        let [_, _, d] = thought.dims(); // [batch, 1, d_model]
        let values: Vec<f32> = device::to_host(thought)?;
        for (row, vector) in values.chunks(d).enumerate() {
            if number < batch.latents[row] {
                fed[row].push(vector.to_vec());
            }
        }
    }
    Ok(fed)
}

/// Euclidean length.
fn length(vector: &[f32]) -> f64 {
    vector.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>().sqrt()
}
