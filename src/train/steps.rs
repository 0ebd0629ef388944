//! A run's data cut into optimizer steps.

use std::{ops::Range, sync::mpsc};

use rand::seq::SliceRandom;

use super::{Data, Share};
use crate::{
    Error, Result,
    config::{Resolved, resolved::BatchSettings},
    data::{Curriculum, Encoded, RowKind, SampleKey, Sequence, SpecialTokens, Stage},
    latent::{
        LatentConfig, PassPlan,
        batch::{Batch, Row, SlotText, StepTarget, TeacherRow},
    },
    objective::Objective,
    rng,
};

/// What one process does of one optimizer step.
#[derive(Clone, Debug)]
pub struct StepBatches {
    /// This process's micro-batches.
    pub batches: Vec<MicroBatch>,
    /// The number of micro-batches in all processes.
    pub in_all: usize,
    /// The stage that they are of.
    pub stage: Stage,
}

/// Rows whose gradients are computed together.
#[derive(Clone, Debug)]
pub struct MicroBatch {
    /// The micro-batch's number in its step, from 0, counted over all processes; parts of a batch are counted apart.
    pub number: usize,
    /// The rows, laid out.
    pub batch: Batch,
    /// The examples' numbers in the training set, from 0.
    pub examples: Vec<usize>,
}

impl StepBatches {
    /// A step of one micro-batch.
    pub fn one(batch: Batch, examples: Vec<usize>) -> Self {
        Self {
            batches: vec![MicroBatch { number: 0, batch, examples }],
            in_all: 1,
            stage: Stage::COT,
        }
    }

    /// The sum of a count over this process's micro-batches.
    pub fn count(&self, count: impl Fn(&Batch) -> usize) -> usize {
        self.batches.iter().map(|micro| count(&micro.batch)).sum()
    }
}

/// The rows of one example.
struct ExampleRows {
    /// The example's number in the training set, from 0.
    example: usize,
    rows: Vec<Sequence>,
}

/// The optimizer steps of one epoch, in order.
///
/// Examples are shuffled, put into pools, sorted by length within a pool so that batch mates are
/// alike, cut into batches, and the batches of a pool shuffled again. Everything follows from seed and
/// epoch, so the n-th step is the same in a run that was interrupted.
#[derive(Clone, Debug)]
pub struct EpochSteps<'a> {
    encoded: &'a [Encoded],
    objective: &'a Objective,
    curriculum: &'a Curriculum,
    markers: SpecialTokens,
    latent: &'a LatentConfig,
    /// The stages of the epoch, each with its steps.
    stages: Vec<(Stage, Range<usize>)>,
    seed: u64,
    epoch: u64,
    batches: BatchSettings,
    share: Share,
    order: Vec<usize>,
    shares_prefix: bool,
}

impl<'a> EpochSteps<'a> {
    /// A process's share of the steps of `epoch` (from 0), which go through `stages`.
    pub fn new(
        data: &'a Data,
        run: &'a Resolved,
        stages: Vec<(Stage, Range<usize>)>,
        epoch: usize,
        share: Share,
    ) -> Self {
        let mut order: Vec<usize> = (0..data.train.encoded.len()).collect();
        order.shuffle(&mut rng::stream(run.seed, &[rng::ORDER, epoch as u64]));
        let markers = data.tokenizer.special_tokens();
        Self {
            encoded: &data.train.encoded,
            objective: &run.objective,
            curriculum: &run.curriculum,
            markers,
            latent: &run.latent,
            stages,
            seed: run.seed,
            epoch: epoch as u64,
            batches: run.batches,
            share,
            order,
            shares_prefix: false,
        }
    }

    /// The same whose batches compute once what all their rows begin with ([`PassPlan::shares_prefix`]), or not.
    pub fn sharing_prefixes(self, shares_prefix: bool) -> Self {
        Self { shares_prefix, ..self }
    }

    /// Hands the steps after the first `skip` to `work`, made by another thread a few ahead. A sequence
    /// that cannot be laid out comes as an error in place of its step.
    pub fn ahead<T>(
        &self,
        skip: usize,
        work: impl FnOnce(mpsc::Receiver<Result<StepBatches>>) -> T,
    ) -> T {
        std::thread::scope(|scope| {
            let (sender, steps) = mpsc::sync_channel(4);
            scope.spawn(move || {
                let sent = self.for_each(skip, |step| sender.send(Ok(step)).is_ok());
                if let Err(error) = sent {
                    let _ = sender.send(Err(error));
                }
            });
            work(steps)
        })
    }

    /// Hands each step to `each`, leaving out the first `skip`, until it returns `false`.
    ///
    /// # Errors
    /// A sequence that cannot be laid out, by its example.
    pub fn for_each(&self, skip: usize, mut each: impl FnMut(StepBatches) -> bool) -> Result<()> {
        const STEPS_A_POOL: usize = 16;
        let BatchSettings { size, accumulation } = self.batches;
        let a_step = size * accumulation;
        let (mut number, mut pool) = (0, 0);
        for (stage, steps) in &self.stages {
            let (from, to) = (steps.start * a_step, steps.end * a_step);
            let of_stage = &self.order[from.min(self.order.len())..to.min(self.order.len())];
            for examples in of_stage.chunks(a_step * STEPS_A_POOL) {
                pool += 1;
                let steps_here = examples.len().div_ceil(a_step);
                if number + steps_here <= skip {
                    number += steps_here;
                    continue;
                }
                let batches = self.pool(pool - 1, examples, *stage);
                for batches in batches.chunks(accumulation) {
                    if number >= skip && !each(self.step(batches, *stage)?) {
                        return Ok(());
                    }
                    number += 1;
                }
            }
        }
        Ok(())
    }

    /// The batches of a pool of examples, before they are laid out.
    fn pool(&self, pool: u64, examples: &[usize], stage: Stage) -> Vec<Vec<ExampleRows>> {
        let rows = |&example: &usize| {
            let key = SampleKey { seed: self.seed, epoch: self.epoch, index: example as u64 };
            let Self { curriculum, markers, .. } = *self;
            let encoded = &self.encoded[example];
            let rows = self.objective.rows(curriculum, encoded, stage, markers, key);
            ExampleRows { example, rows }
        };
        let mut pooled: Vec<ExampleRows> = examples.iter().map(rows).collect();
        pooled.sort_by_key(|ExampleRows { example, rows }| {
            let latents = rows.iter().map(|row| row.n_latents).max();
            (latents, rows.iter().map(|row| row.ids.len()).max(), *example)
        });
        let mut batches = Vec::with_capacity(pooled.len().div_ceil(self.batches.size));
        while !pooled.is_empty() {
            let rest = pooled.split_off(self.batches.size.min(pooled.len()));
            batches.push(std::mem::replace(&mut pooled, rest));
        }
        batches.shuffle(&mut rng::stream(self.seed, &[rng::ORDER, self.epoch, pool]));
        batches
    }

    /// This process's share of a step's batches, laid out: whole batches dealt out in turn if that leaves no process
    /// without work, or if a batch's losses are more than those of its rows; else its part of each batch.
    fn step(&self, batches: &[Vec<ExampleRows>], stage: Stage) -> Result<StepBatches> {
        let Share { rank, world } = self.share;
        let whole = batches.len().is_multiple_of(world) || self.objective.has_batch_means();
        let dealt = batches.iter().enumerate();
        let own: Result<Vec<MicroBatch>> = match whole {
            true => dealt
                .skip(rank)
                .step_by(world)
                .map(|(number, batch)| self.lay_out(number, batch, batch, stage))
                .collect(),
            false => dealt
                .map(|(number, batch)| (number * world + rank, batch, self.share.of(batch)))
                .filter(|(.., part)| !part.is_empty())
                .map(|(number, batch, part)| self.lay_out(number, batch, part, stage))
                .collect(),
        };
        Ok(StepBatches { batches: own?, in_all: batches.len(), stage })
    }

    /// The batch of some rows, which are all or a part of a micro-batch.
    fn lay_out(
        &self,
        number: usize,
        batch: &[ExampleRows],
        part: &[ExampleRows],
        stage: Stage,
    ) -> Result<MicroBatch> {
        let examples: Vec<usize> = part.iter().map(|of| of.example).collect();
        // Rows of an earlier or later stage than the epoch's have blocks of their own.
        let blocks = |row: &Sequence| row.n_latents.div_ceil(self.curriculum.c_thought.max(1));
        let drawn = match self.curriculum.row {
            RowKind::Stages | RowKind::Blocks => batch.iter().map(|of| blocks(&of.rows[0])).max(),
            RowKind::Fixed | RowKind::Tokenwise => None,
        };
        let replaced = drawn.unwrap_or(0).max(self.curriculum.n_replaced(stage));
        let plan = self.latent.plan(self.markers.latent, replaced);
        let plan = PassPlan { shares_prefix: plan.shares_prefix && self.shares_prefix, ..plan };
        let rows: Vec<&[Sequence]> = part.iter().map(|of| of.rows.as_slice()).collect();
        let batch = lay_out(&rows, self.objective, self.curriculum, &plan).map_err(|problem| {
            Error::Internal(format!(
                "the batch of examples {examples:?} cannot be laid out: {problem}"
            ))
        })?;
        Ok(MicroBatch { number, batch, examples })
    }
}

/// The batch of some examples' rows, each example's as [`Objective::rows`] gives them.
///
/// # Errors
/// As [`Batch::new`].
pub fn lay_out(
    examples: &[&[Sequence]],
    objective: &Objective,
    curriculum: &Curriculum,
    plan: &PassPlan,
) -> Result<Batch, String> {
    let steps: Vec<(Vec<StepTarget>, usize)> = examples
        .iter()
        .map(|rows| objective.step_targets(&rows[0], curriculum.c_thought))
        .collect();
    let mut slots: Vec<Vec<SlotText>> =
        examples.iter().map(|rows| objective.slots(&rows[0], curriculum)).collect();
    objective.decoder().into_iter().for_each(|decoder| decoder.cut_texts(&mut slots));
    let mut rows = Vec::with_capacity(examples.len());
    for ((own, (step_targets, lost)), slots) in examples.iter().zip(&steps).zip(&slots) {
        let teacher = own.get(1).map(|teacher| TeacherRow {
            ids: &teacher.ids,
            labels: &teacher.labels,
            anchors: objective.distils().then_some([own[0].anchor, teacher.anchor]),
            // Both end with the same answer, which is all that a row with latents for all steps says.
            answer: objective.follows_kv().then(|| teacher.ids.len() - own[0].n_labels()),
        });
        rows.push(Row {
            ids: &own[0].ids,
            labels: &own[0].labels,
            step_targets,
            lost_step_targets: *lost,
            slots,
            teacher,
        });
    }
    // Only slots of single thoughts reach beyond the latents, and these are as many in every row.
    let beyond = |(own, slots): (&&[Sequence], &Vec<SlotText>)| {
        slots.iter().any(|slot| slot.thoughts.end > own[0].n_latents)
    };
    let reads_last_latent = examples.iter().zip(&slots).any(beyond);
    Batch::new(&rows, &PassPlan { reads_last_latent, ..*plan })
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, path::Path};

    use super::*;
    use crate::{
        config::RunConfig,
        data::{Dataset, Example, Format, Tokenizer, encode_texts, tokenizer::Units},
    };

    /// 21 examples of one to three steps.
    fn data() -> Data {
        let example = |i: usize| {
            let steps: Vec<String> = (0..1 + i % 3).map(|step| format!("{step} + {i}")).collect();
            Example::new(format!("what is {i} ?"), steps, i.to_string())
        };
        let examples: Vec<Example> = (0..21).map(example).collect();
        let tokenizer = Tokenizer::build(&examples, Units::Words, Path::new("test")).unwrap();
        let (encoded, _) = encode_texts(&examples, &tokenizer).unwrap();
        let train = Dataset { examples, encoded };
        let val = Dataset { examples: Vec::new(), encoded: Vec::new() };
        Data { tokenizer, format: Format::Text, train, val, warnings: Vec::new() }
    }

    fn run(batch_size_training: usize, gradient_accumulation_steps: usize) -> Resolved {
        let recipe =
            RunConfig { batch_size_training, gradient_accumulation_steps, ..RunConfig::default() };
        Resolved::new(&recipe, None).unwrap()
    }

    #[test]
    fn several_processes_share_what_one_does_alone() {
        let (data, run) = (data(), run(2, 3));
        let steps_of = |share: Share| {
            let steps = EpochSteps::new(&data, &run, vec![(Stage(2), 0..4)], 1, share);
            let mut found = Vec::new();
            steps
                .for_each(0, |step| {
                    found.push(step);
                    true
                })
                .unwrap();
            found
        };
        let examples = |step: &StepBatches| -> BTreeMap<usize, Vec<usize>> {
            step.batches.iter().map(|micro| (micro.number, micro.examples.clone())).collect()
        };
        let sorted = |of: BTreeMap<usize, Vec<usize>>| {
            let mut all = of.into_values().flatten().collect::<Vec<_>>();
            all.sort_unstable();
            all
        };
        let labels = |step: &StepBatches| step.count(|batch| batch.targets.len());
        let alone = steps_of(Share::WHOLE);
        assert_eq!(alone.len(), run.batches.steps(21));
        for world in [2, 3, 5] {
            let shares: Vec<_> = (0..world).map(|rank| steps_of(Share { rank, world })).collect();
            for (number, step) in alone.iter().enumerate() {
                let parts: Vec<&StepBatches> = shares.iter().map(|share| &share[number]).collect();
                assert!(parts.iter().all(|part| part.in_all == step.batches.len()));
                assert_eq!(parts.iter().map(|&part| labels(part)).sum::<usize>(), labels(step));
                let mut all = BTreeMap::new();
                for batches in parts.iter().map(|&part| examples(part)) {
                    for (micro, examples) in batches {
                        assert!(all.insert(micro, examples).is_none(), "two with number {micro}");
                    }
                }
                match step.batches.len().is_multiple_of(world) {
                    // Whole micro-batches, the same as alone.
                    true => assert_eq!(all, examples(step), "step {number} of {world}"),
                    false => assert_eq!(sorted(all), sorted(examples(step))),
                }
            }
        }
        assert_eq!(alone[3].batches.len(), 2, "11 micro-batches, three a step");
        let mut all: Vec<usize> = alone.iter().flat_map(examples).flat_map(|(_, e)| e).collect();
        all.sort_unstable();
        assert!(all.into_iter().eq(0..21));
    }

    #[test]
    fn steps_made_ahead_are_the_same_and_end_with_who_takes_them() {
        let (data, run) = (data(), run(1, 1));
        let steps = EpochSteps::new(&data, &run, vec![(Stage(1), 0..21)], 0, Share::WHOLE);
        let mut all = Vec::new();
        steps
            .for_each(0, |step| {
                all.push(step.batches[0].examples.clone());
                true
            })
            .unwrap();
        assert_eq!(all.len(), 21);
        let taken = |skip: usize, n: usize| {
            steps.ahead(skip, |steps| {
                let steps = steps.into_iter().take(n).map(Result::unwrap);
                steps.map(|step| step.batches[0].examples.clone()).collect::<Vec<_>>()
            })
        };
        assert_eq!(taken(5, 99), all[5..]);
        assert_eq!(taken(17, 2), all[17..19]); // two more are waiting, and nobody waits for them
    }
}
