//! What a recipe's keys come to: rows, schedule, thoughts and losses.

use super::{RunConfig, ScheduleKind};
use crate::{
    data::{Curriculum, RowKind, Schedule, schedule::Pace},
    latent::{Compat, LatentConfig},
    objective::{
        DecoderSettings, KvSettings, Objective, Term,
        seq_vcr::{Projection, SeqVcr},
    },
};

impl RunConfig {
    /// Which tokens a stage shows.
    pub fn curriculum(&self) -> Curriculum {
        let Self { method, c_thought, max_latent_stage, pad_latent_to_max, .. } = *self;
        Curriculum {
            row: self.row,
            uniform_prob: self.uniform_prob,
            frontier: self.frontier,
            removal_smoothing: Some(self.removal_smoothing).filter(|&lambda| lambda > 0.0),
            remove_all_from: (self.row == RowKind::Tokenwise).then_some(self.remove_all_from),
            ..Curriculum::new(method, c_thought, max_latent_stage, pad_latent_to_max)
        }
    }

    /// Which stage is trained in which epoch.
    pub fn schedule(&self) -> Schedule {
        let pace = match self.schedule {
            ScheduleKind::Clock => Pace::Clock,
            ScheduleKind::Gated => Pace::Gated { accuracy: self.gate_accuracy },
            ScheduleKind::Tokenwise => Pace::Tokenwise {
                per_epoch: self.removed_per_epoch,
                all_from: self.remove_all_from,
            },
        };
        Schedule {
            method: self.method,
            row: self.row,
            pace,
            max_latent_stage: self.max_latent_stage,
            cot_epochs: self.cot_epochs,
            epochs_per_stage: self.epochs_per_stage,
            num_epochs: self.num_epochs,
        }
    }

    /// How thoughts are made.
    pub fn thinking(&self) -> LatentConfig {
        LatentConfig {
            feedback: self.replacement_method.clone(),
            suppressed_epsilon: self.suppressed_epsilon,
            suppressed_relative: self.suppressed_relative,
            last_state_unnormed: self.last_state_unnormed,
            compat: self.compat,
            latent_positions: self.latent_positions,
            thinking: self.thinking,
            iterations: self.iterations,
            latent_shift: self.latent_shift,
            latent_residual: self.latent_residual,
        }
    }

    /// What a step trains.
    pub fn objective(&self) -> Objective {
        let mut terms = vec![Term::CrossEntropy { weight: self.loss_answer }];
        if self.loss_steps > 0.0 {
            let (weight, at, cut) = (self.loss_steps, self.steps_at, self.steps_cut);
            terms.push(Term::Steps { weight, at, cut });
        }
        if self.loss_teacher > 0.0 {
            let last_step = self.teacher_last_step;
            terms.push(Term::Teacher { weight: self.loss_teacher, last_step });
        }
        if self.loss_distil > 0.0 {
            let (layers, last_step) = (self.distil_layers, self.teacher_last_step);
            terms.push(Term::Distil { weight: self.loss_distil, layers, last_step });
        }
        if self.loss_kv > 0.0 {
            let settings = KvSettings {
                importance: self.kv_importance,
                distance: self.kv_distance,
                by_std: self.kv_by_std,
            };
            let last_step = self.teacher_last_step;
            terms.push(Term::Kv { weight: self.loss_kv, settings, last_step });
        }
        if let Some(style) = self.step_decoder {
            terms.push(Term::Decoder {
                weight: self.loss_decoder,
                settings: DecoderSettings {
                    style,
                    blocks: self.decoder_layers,
                    last_step: self.teacher_last_step,
                    cut: self.compat == Compat::Simcot,
                },
            });
        }
        if self.loss_seq_vcr {
            let usual = if self.seq_vcr_projection == Projection::Trained { 2048 } else { 32 };
            let loss = SeqVcr {
                lambda1: self.seq_vcr_lambda1,
                lambda2: self.seq_vcr_lambda2,
                eta: self.seq_vcr_eta,
                layers: self.seq_vcr_layers,
                divisor: self.seq_vcr_divisor,
            };
            terms.push(Term::SeqVcr {
                loss,
                projection: self.seq_vcr_projection,
                projected: self.seq_vcr_dim.unwrap_or(usual),
                seed: self.seed,
            });
        }
        Objective { terms }
    }
}
