//! Hidden states from the end of the question to the last latent, of every layer and question.

use super::{
    Plain, Subject,
    subject::{Asked, PlainBatch},
};
use crate::{
    Result, device,
    latent::{self, LatentModel, ReadSet},
};

/// Hidden states at the position before the first latent (0, the end of the question) and at each latent (1, 2, …): state
/// k there is what block k is given, the last one what the head reads. Thought j is made at position j − 1 and is, with
/// its position's embedding, state 0 at position j.
#[derive(Clone, Debug)]
pub struct States {
    /// Width of a state.
    pub d_model: usize,
    /// Number of states of a position: the blocks and one.
    pub layers: usize,
    /// Positions of the question that has most.
    pub positions: usize,
    /// By layer and position: the questions that have it, and their states one after the other.
    cells: Vec<Cell>,
}

#[derive(Clone, Debug, Default)]
struct Cell {
    questions: Vec<usize>,
    values: Vec<f32>,
}

impl States {
    /// Runs all questions of a subject anew, as in its plain run. `advance` is told of each batch's questions; its error ends it.
    ///
    /// # Errors
    /// [`Error::Internal`](crate::Error::Internal) if the device failed.
    pub fn new(
        subject: &Subject<'_>,
        plain: &Plain,
        mut advance: impl FnMut(usize) -> Result<()>,
    ) -> Result<Self> {
        let config = &subject.model.transformer.config;
        let (positions, layers) = (plain.most_thoughts() + 1, config.n_layer + 1);
        let cells = vec![Cell::default(); layers * positions];
        let mut states = Self { d_model: config.d_model, layers, positions, cells };
        for batch in &plain.batches {
            states.read(subject.model, batch, &plain.asked)?;
            advance(batch.questions.len())?;
        }
        Ok(states)
    }

    fn read(
        &mut self,
        model: &LatentModel,
        PlainBatch { questions, layout: batch, .. }: &PlainBatch,
        asked: &[Asked],
    ) -> Result<()> {
        let trace = latent::forward(model, batch, ReadSet::ALL);
        for position in 0..self.positions {
            let has =
                |&(_, &question): &(usize, &usize)| asked[question].prompt.n_latents + 1 > position;
            let mut tokens: Vec<(usize, usize, usize)> = questions // column, row, question
                .iter()
                .enumerate()
                .filter(has)
                .filter_map(|(row, &question)| {
                    let at = (asked[question].prompt.latent_start + position).checked_sub(1)?;
                    Some((*batch.columns_of(row).get(at)?, row, question))
                })
                .collect();
            tokens.sort_unstable();
            let places: Vec<(usize, usize)> =
                tokens.iter().map(|&(column, row, _)| (row, column)).collect();
            for layer in 0..self.layers {
                let Some(hidden) = trace.hidden_at(batch, layer, &places) else { continue };
                let values: Vec<f32> = device::to_host(hidden)?;
                let cell = &mut self.cells[layer * self.positions + position];
                cell.questions.extend(tokens.iter().map(|&(_, _, question)| question));
                cell.values.extend(values);
            }
        }
        Ok(())
    }

    /// The questions that have a position, and their states there one after the other.
    pub fn at(&self, layer: usize, position: usize) -> (&[usize], &[f32]) {
        let cell = &self.cells[layer * self.positions + position];
        (&cell.questions, &cell.values)
    }
}
