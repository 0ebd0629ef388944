//! The terms of an objective, and their sum.

use burn::tensor::Tensor;

use serde::{Deserialize, Serialize};

use super::{
    DecoderSettings, DistilLayers, KvSettings, ObjectiveParameters, SeqVcr, StepDecoder,
    cross_entropy::{cross_entropy, step_cross_entropy},
    decoder::decoder_loss,
    distil, kv_distance, seq_vcr,
};
use crate::{
    data::{Curriculum, Encoded, SampleKey, Sequence, SpecialTokens, Stage},
    latent::{
        LatentModel, ReadLayers, ReadPositions, ReadSet, Trace,
        batch::{Batch, SlotText, StepTarget},
    },
    model::{Transformer, parameters::constant},
};

/// The name under which a step's cross entropy is logged. The value is a sum over labels; the log has
/// the mean over all labels of the step.
pub const LOSS: &str = "loss";

/// The sum of its terms.
#[derive(Clone, Debug, PartialEq)]
pub struct Objective {
    /// The terms, in the order in which they are added and logged.
    pub terms: Vec<Term>,
}

/// One term of an objective, with its weights.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Term {
    /// Cross entropy at the labels, a mean over all labels of the step.
    CrossEntropy {
        /// The term's factor in the sum.
        weight: f64,
    },
    /// Cross entropy of latents at the tokens of the steps that they stand for, a mean over all these tokens of the
    /// step (LOTUS).
    Steps {
        /// The term's factor in the sum.
        weight: f64,
        /// When blocks of latents are read.
        at: StepsAt,
        /// Whether steps longer than a block are cut, or run on into the next one (as LOTUS is run).
        cut: bool,
    },
    /// Cross entropy at the labels of teachers' rows, a mean over all these labels of the step.
    Teacher {
        /// The term's factor in the sum.
        weight: f64,
        /// Whether teachers show the last step, which says what the answer is.
        last_step: bool,
    },
    /// Hidden states drawn to those of teachers' rows, a mean over the step's micro-batches.
    Distil {
        /// γ, the term's factor in the sum.
        weight: f64,
        /// Which hidden states.
        layers: DistilLayers,
        /// As of [`Term::Teacher`].
        last_step: bool,
    },
    /// Keys and values of latents drawn to those of teachers' steps, a mean over the step's micro-batches (KaVa).
    Kv {
        /// The term's factor in the sum.
        weight: f64,
        /// Which keys and values, and how.
        settings: KvSettings,
        /// As of [`Term::Teacher`].
        last_step: bool,
    },
    /// Cross entropy of a second network at the steps that it reads in slots of thoughts, a mean over the step's
    /// micro-batches (SIM-CoT).
    Decoder {
        /// The term's factor in the sum.
        weight: f64,
        /// What the network is, and what it reads.
        settings: DecoderSettings,
    },
    /// Variance and covariance of the hidden states, a mean over the step's micro-batches.
    SeqVcr {
        /// The loss, with its weights λ₁ and λ₂.
        loss: SeqVcr,
        /// The map that the states go through first.
        projection: seq_vcr::Projection,
        /// The width that they are projected to.
        projected: usize,
        /// The seed that the fixed projection is drawn from.
        seed: u64,
    },
}

/// When a block of latents that is thought of in parallel is to say its step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StepsAt {
    /// After the last iteration, all blocks.
    #[default]
    Last,
    /// Block k (from 0) after iteration k + 1.
    Own,
}

/// What the terms' sums are divided by: counts of the whole optimizer step, in all its micro-batches.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Denominators {
    /// The step's labels, at least 1.
    pub labels: f64,
    /// The labels of the step's teachers, at least 1.
    pub teacher_labels: f64,
    /// The tokens that the step's latents are to say, at least 1.
    pub step_targets: f64,
    /// The step's micro-batches.
    pub batches: f64,
}

/// The losses of one micro-batch, `[1]` each.
#[derive(Clone, Debug)]
pub struct Losses {
    /// The weighted sum of all terms, which backward starts from. Those of a step's micro-batches add up
    /// to the step's.
    pub total: Tensor<1>,
    /// The figures for the log, without autodiff, named as in `metrics.jsonl`. Those of a step's
    /// micro-batches add up; [`LOSS`] is then divided by the labels.
    pub logged: Vec<(&'static str, Tensor<1>)>,
}

/// One summand of a total.
struct Part {
    name: &'static str,
    /// What the log is told.
    logged: Tensor<1>,
    /// What is added to the total.
    summand: Tensor<1>,
}

impl Objective {
    /// The names of the logged figures, in order.
    pub fn names(&self) -> Vec<&'static str> {
        self.terms.iter().flat_map(|term| term.names()).copied().collect()
    }

    /// Fresh parameters of the terms, for a model as it is before adapters are added.
    pub fn parameters(&self, base: &Transformer, seed: u64) -> ObjectiveParameters {
        let trained = self.terms.iter().find_map(|term| match *term {
            Term::SeqVcr { projection: seq_vcr::Projection::Trained, projected, .. } => {
                Some(projected)
            }
            _ => None,
        });
        let parameters =
            ObjectiveParameters::new(trained, base.config.d_model, seed, &base.device());
        let copy = |of: DecoderSettings| base.first_blocks(of.blocks.unwrap_or(usize::MAX));
        ObjectiveParameters { decoder: self.decoder().map(copy), ..parameters }
    }

    /// The rows to train on that one example becomes; they are kept together in one batch. `key`
    /// decides what chance decides.
    pub fn rows(
        &self,
        curriculum: &Curriculum,
        example: &Encoded,
        stage: Stage,
        markers: SpecialTokens,
        key: SampleKey,
    ) -> Vec<Sequence> {
        let mut row = curriculum.train_sequence(example, stage, markers, key);
        if self.steps().is_none() && self.decoder().is_none() {
            row.replaced.clear();
        }
        let teacher = self
            .last_step()
            .map(|last_step| curriculum.teacher_sequence(example, markers, key, last_step));
        std::iter::once(row).chain(teacher).collect()
    }

    /// What tokens of a row are to predict besides labels, if a term reads it: latent k·c + i − 1, the token before
    /// the latents being number −1, token i of the k-th step that has given way to latents; and how many tokens there
    /// is no latent for. Steps longer than a block are cut, unless they are to run on into the next one: then their
    /// tokens behind the last latent have none.
    pub fn step_targets(&self, row: &Sequence, c_thought: usize) -> (Vec<StepTarget>, usize) {
        let Some((at, cut)) = self.steps() else { return (Vec::new(), 0) };
        let (mut targets, mut lost) = (Vec::new(), 0);
        let blocks = row.n_latents / c_thought.max(1);
        for (block, step) in row.replaced.iter().take(blocks).enumerate() {
            let iteration = (at == StepsAt::Own).then_some(block + 1);
            let most = if cut { c_thought } else { usize::MAX };
            for (number, &token) in (block * c_thought..).zip(step.iter().take(most)) {
                let position = (row.latent_start + number).saturating_sub(1);
                match number <= row.n_latents {
                    true => targets.push(StepTarget { position, token, iteration }),
                    false => lost += 1,
                }
            }
        }
        (targets, lost)
    }

    /// The slots of a row's thoughts that a step decoder reads, with what it is to read.
    pub fn slots(&self, row: &Sequence, curriculum: &Curriculum) -> Vec<SlotText> {
        self.decoder().map(|decoder| decoder.slots(row, curriculum)).unwrap_or_default()
    }

    /// The most positions that a step decoder needs for an example at some stages; 0 without one.
    pub fn decoder_len(
        &self,
        curriculum: &Curriculum,
        example: &Encoded,
        stages: &[Stage],
        markers: SpecialTokens,
    ) -> usize {
        let Some(decoder) = self.decoder() else { return 0 };
        let drawn = (0..=example.n_steps()).map(Stage::from_count);
        let drawn = drawn.filter(|_| curriculum.uniform_prob > 0.0);
        let curriculum = Curriculum { uniform_prob: 0.0, ..curriculum.clone() };
        let key = SampleKey { seed: 0, epoch: 0, index: 0 };
        let longest = |stage: Stage| {
            let row = curriculum.train_sequence(example, stage, markers, key);
            let slots = decoder.slots(&row, &curriculum);
            slots.iter().map(|slot| decoder.style.positions(slot)).max()
        };
        stages.iter().copied().chain(drawn).filter_map(longest).max().unwrap_or(0)
    }

    /// The step decoder, if there is one.
    pub fn decoder(&self) -> Option<DecoderSettings> {
        self.terms.iter().find_map(|term| match term {
            Term::Decoder { settings, .. } => Some(*settings),
            _ => None,
        })
    }

    /// When blocks of latents say their steps, and whether these are cut; `None` if they say none.
    fn steps(&self) -> Option<(StepsAt, bool)> {
        self.terms.iter().find_map(|term| match term {
            Term::Steps { at, cut, .. } => Some((*at, *cut)),
            _ => None,
        })
    }

    /// Whether latents are to say the steps that they stand for.
    pub fn reads_steps(&self) -> bool {
        self.steps().is_some()
    }

    /// Whether rows have teachers, and whether these show the last step.
    pub fn last_step(&self) -> Option<bool> {
        self.terms.iter().find_map(|term| match term {
            Term::Teacher { last_step, .. }
            | Term::Distil { last_step, .. }
            | Term::Kv { last_step, .. } => Some(*last_step),
            _ => None,
        })
    }

    /// Whether a loss of a batch is more than the sum of its rows' losses, so that the batch cannot be taken in parts.
    pub fn has_batch_means(&self) -> bool {
        self.terms.iter().any(|term| match term {
            Term::CrossEntropy { .. } | Term::Steps { .. } | Term::Teacher { .. } => false,
            Term::Distil { .. } | Term::Kv { .. } | Term::Decoder { .. } | Term::SeqVcr { .. } => {
                true
            }
        })
    }

    /// Whether hidden states are compared with those of teachers.
    pub fn distils(&self) -> bool {
        self.terms.iter().any(|term| matches!(term, Term::Distil { .. }))
    }

    /// Whether keys and values are compared with those of teachers.
    pub fn follows_kv(&self) -> bool {
        self.terms.iter().any(|term| matches!(term, Term::Kv { .. }))
    }

    /// The hidden states that the losses read.
    pub fn reads(&self) -> ReadSet {
        let of_term = |term: &Term| match term {
            Term::SeqVcr { .. } => ReadSet::ALL,
            Term::Distil { .. } => {
                ReadSet { positions: ReadPositions::Predictions, layers: ReadLayers::All }
            }
            Term::Decoder { settings, .. } => settings.style.reads(),
            Term::CrossEntropy { .. }
            | Term::Steps { .. }
            | Term::Teacher { .. }
            | Term::Kv { .. } => ReadSet::PREDICTIONS,
        };
        self.terms.iter().map(of_term).fold(ReadSet::PREDICTIONS, ReadSet::union)
    }

    /// The losses of a micro-batch whose `trace` holds what [`Objective::reads`] names; `None` if no
    /// term has one.
    pub fn losses(
        &self,
        parameters: &ObjectiveParameters,
        model: &LatentModel,
        batch: &Batch,
        trace: &Trace,
        denominators: Denominators,
    ) -> Option<Losses> {
        let parts = self.terms.iter().flat_map(|term| {
            term.parts(parameters, model, batch, trace, denominators).unwrap_or_default()
        });
        let (logged, summands): (Vec<_>, Vec<_>) =
            parts.map(|part| ((part.name, constant(part.logged)), part.summand)).unzip();
        let total = summands.into_iter().reduce(|total, summand| total + summand)?;
        Some(Losses { total, logged })
    }
}

impl Term {
    fn names(&self) -> &'static [&'static str] {
        match self {
            Self::CrossEntropy { .. } => &[LOSS],
            Self::Steps { .. } => &["loss_steps"],
            Self::Teacher { .. } => &["loss_teacher"],
            Self::Distil { .. } => &["loss_distil"],
            Self::Kv { .. } => &["loss_kv"],
            Self::Decoder { .. } => &["loss_decoder"],
            Self::SeqVcr { .. } => &["loss_vcr_var", "loss_vcr_cov"],
        }
    }

    fn parts(
        &self,
        parameters: &ObjectiveParameters,
        model: &LatentModel,
        batch: &Batch,
        trace: &Trace,
        denominators: Denominators,
    ) -> Option<Vec<Part>> {
        let weighted = |mean: Tensor<1>, weight: f64| vec![(mean.clone(), mean * weight)];
        let values = match *self {
            Self::CrossEntropy { weight } => {
                let sum = cross_entropy(&model.transformer, batch, trace, &batch.targets)?;
                let mean = sum.clone() / denominators.labels;
                vec![(sum, if weight == 1.0 { mean } else { mean * weight })]
            }
            Self::Steps { weight, .. } => {
                let sum = step_cross_entropy(&model.transformer, batch, trace)?;
                weighted(sum / denominators.step_targets, weight)
            }
            Self::Teacher { weight, .. } => {
                let targets = &batch.teacher_targets;
                let sum = cross_entropy(&model.transformer, batch, trace, targets)?;
                weighted(sum / denominators.teacher_labels, weight)
            }
            Self::Distil { weight, layers, .. } => {
                let distance = distil::distil(batch, trace, layers)?;
                weighted(distance / denominators.batches, weight)
            }
            Self::Kv { weight, settings, .. } => {
                let heads = model.transformer.config.heads;
                let distance = kv_distance(heads, batch, trace, settings)?;
                weighted(distance / denominators.batches, weight)
            }
            Self::Decoder { weight, settings: DecoderSettings { style, .. } } => {
                let decoder = StepDecoder { network: parameters.decoder.as_ref()?, style };
                let loss = decoder_loss(decoder, model, batch, trace)?;
                weighted(loss / denominators.batches, weight)
            }
            Self::SeqVcr { loss, projected, seed, .. } => {
                let projection = match &parameters.seq_vcr {
                    Some(trained) => trained.weight.val(),
                    None => seq_vcr::fixed_projection(&model.transformer, projected, seed),
                };
                let terms = loss.loss(batch, trace, &projection)?;
                let mean = |term: Tensor<1>| term / denominators.batches;
                let twice = |term: Tensor<1>| (term.clone(), term);
                vec![twice(mean(terms.variance)), twice(mean(terms.covariance))]
            }
        };
        let named = self.names().iter().zip(values);
        Some(named.map(|(&name, (logged, summand))| Part { name, logged, summand }).collect())
    }
}
