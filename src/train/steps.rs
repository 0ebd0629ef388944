//! A run's data cut into optimizer steps.

use rand::seq::SliceRandom;

use super::Data;
use crate::{
    Error, Result,
    config::RunConfig,
    data::{Curriculum, Draw, Encoded, Markers, Sequence, Stage},
    latent::batch::{Batch, Row},
    rng,
};

/// What one optimizer step trains on.
#[derive(Clone, Debug)]
pub struct Step {
    /// Micro-batches.
    pub batches: Vec<Batch>,
    /// For each micro-batch, the examples' numbers in the training set, from 0.
    pub examples: Vec<Vec<usize>>,
    /// Labels in all of them.
    pub labels: usize,
}

/// The optimizer steps of one epoch, in order.
///
/// Examples are shuffled, put into pools, sorted by length within a pool so that batch mates are
/// alike, cut into batches, and the batches of a pool shuffled again. Everything follows from seed and
/// epoch, so the n-th step is the same in a run that was interrupted.
#[derive(Clone, Debug)]
pub struct EpochSteps<'a> {
    encoded: &'a [Encoded],
    curriculum: &'a Curriculum,
    markers: Markers,
    stage: Stage,
    seed: u64,
    epoch: u64,
    batch_size: usize,
    accumulation: usize,
    order: Vec<usize>,
}

impl<'a> EpochSteps<'a> {
    /// The steps of `epoch` (from 0) at `stage`.
    pub fn new(
        data: &'a Data,
        curriculum: &'a Curriculum,
        config: &RunConfig,
        stage: Stage,
        epoch: usize,
    ) -> Self {
        let mut order: Vec<usize> = (0..data.train.encoded.len()).collect();
        order.shuffle(&mut rng::stream(config.seed, &[rng::ORDER, epoch as u64]));
        Self {
            encoded: &data.train.encoded,
            curriculum,
            markers: data.tokenizer.markers(),
            stage,
            seed: config.seed,
            epoch: epoch as u64,
            batch_size: config.batch_size_training,
            accumulation: config.gradient_accumulation_steps,
            order,
        }
    }

    /// Number of optimizer steps of an epoch over `examples` examples.
    pub fn count(examples: usize, config: &RunConfig) -> usize {
        examples.div_ceil(config.batch_size_training).div_ceil(config.gradient_accumulation_steps)
    }

    /// Hands each step to `each`, leaving out the first `skip`, until it returns `false`.
    ///
    /// # Errors
    /// A sequence that cannot be laid out, by its example.
    pub fn for_each(&self, skip: usize, mut each: impl FnMut(Step) -> bool) -> Result<()> {
        const STEPS_A_POOL: usize = 16;
        let pool_size = self.batch_size * self.accumulation * STEPS_A_POOL;
        let mut number = 0;
        for (pool, indices) in self.order.chunks(pool_size).enumerate() {
            let steps_here = indices.len().div_ceil(self.batch_size * self.accumulation);
            if number + steps_here <= skip {
                number += steps_here;
                continue;
            }
            let batches = self.pool(pool as u64, indices);
            for batches in batches.chunks(self.accumulation) {
                if number >= skip && !each(self.step(batches)?) {
                    return Ok(());
                }
                number += 1;
            }
        }
        Ok(())
    }

    /// The batches of a pool, each of (example, sequence).
    fn pool(&self, pool: u64, indices: &[usize]) -> Vec<Vec<(usize, Sequence)>> {
        let sequence = |&index: &usize| {
            let draw = Draw { seed: self.seed, epoch: self.epoch, index: index as u64 };
            let example = &self.encoded[index];
            (index, self.curriculum.train_sequence(example, self.stage, self.markers, draw))
        };
        let mut sequences: Vec<(usize, Sequence)> = indices.iter().map(sequence).collect();
        sequences.sort_by_key(|(index, s)| (s.n_latents, s.ids.len(), *index));
        let mut batches = Vec::with_capacity(sequences.len().div_ceil(self.batch_size));
        while !sequences.is_empty() {
            let rest = sequences.split_off(self.batch_size.min(sequences.len()));
            batches.push(std::mem::replace(&mut sequences, rest));
        }
        batches.shuffle(&mut rng::stream(self.seed, &[rng::ORDER, self.epoch, pool]));
        batches
    }

    fn step(&self, batches: &[Vec<(usize, Sequence)>]) -> Result<Step> {
        let feedback = self.curriculum.feeds_back().then_some(self.markers.latent);
        let mut step = Step { batches: Vec::new(), examples: Vec::new(), labels: 0 };
        for sequences in batches {
            let examples: Vec<usize> = sequences.iter().map(|(index, _)| *index).collect();
            let rows: Vec<Row> =
                sequences.iter().map(|(_, s)| Row { ids: &s.ids, labels: &s.labels }).collect();
            let batch = Batch::new(&rows, feedback).map_err(|problem| {
                Error::Training(format!(
                    "the batch of examples {examples:?} cannot be laid out: {problem}"
                ))
            })?;
            step.labels += batch.targets.len();
            step.batches.push(batch);
            step.examples.push(examples);
        }
        Ok(step)
    }
}
