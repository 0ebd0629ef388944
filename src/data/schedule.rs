//! Which stage is trained in which epoch. What a stage shows is the [`curriculum`](super::curriculum)'s.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use super::{Method, Stage};

/// A clock: each stage has its number of epochs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schedule {
    /// What is trained; not every method has stages.
    pub method: Method,
    /// `M`: the last stage that still shows steps; M + 1 follows it.
    pub max_latent_stage: usize,
    /// Epochs at stage −1, first of all.
    pub cot_epochs: usize,
    /// Epochs at each stage 0 ..= M.
    pub epochs_per_stage: usize,
    /// All epochs; what the stages before leave is spent at stage M + 1.
    pub num_epochs: usize,
}

/// Where a run stands in its schedule; a part of the trainer's state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ScheduleState {
    /// The stage of the last epoch that was begun. `None` before the first, and in states of versions
    /// that did not save it.
    pub stage: Option<Stage>,
}

impl Schedule {
    /// The stages in order, each with its epochs (counted from 0); together they cover `0..num_epochs`.
    pub fn stages(&self) -> Vec<(Stage, Range<usize>)> {
        let staged =
            (0..=self.max_latent_stage).map(|s| (Stage::from_count(s), self.epochs_per_stage));
        let last = (self.last_stage(), self.num_epochs);
        let planned: Box<dyn Iterator<Item = (Stage, usize)>> = match self.method {
            Method::Cot => Box::new([(Stage::COT, self.num_epochs)].into_iter()),
            Method::NoCot | Method::NoCurriculum => Box::new([last].into_iter()),
            Method::Coconut | Method::NoThoughts | Method::Pause => {
                Box::new([(Stage::COT, self.cot_epochs)].into_iter().chain(staged).chain([last]))
            }
        };
        let mut start = 0_usize;
        let mut stages = Vec::new();
        for (stage, epochs) in planned {
            if start == self.num_epochs {
                break;
            }
            let end = start.saturating_add(epochs).min(self.num_epochs);
            if start < end {
                stages.push((stage, start..end));
            }
            start = end;
        }
        stages
    }

    /// M + 1: no step is shown.
    fn last_stage(&self) -> Stage {
        Stage::from_count(self.max_latent_stage.saturating_add(1))
    }

    /// The stage of an epoch (from 0); beyond the last epoch, the last stage.
    pub fn stage_at(&self, epoch: usize) -> Stage {
        let stages = self.stages();
        let current = stages.iter().find(|(_, epochs)| epochs.contains(&epoch));
        current.or(stages.last()).map_or(self.last_stage(), |&(stage, _)| stage)
    }

    /// Enters an epoch of which `steps` optimizer steps are done: its stage, and whether the stage begins
    /// with the next step.
    pub fn enter(&self, epoch: usize, steps: usize, state: &mut ScheduleState) -> (Stage, bool) {
        let stage = self.stage_at(epoch);
        let before = state.stage.or_else(|| epoch.checked_sub(1).map(|last| self.stage_at(last)));
        state.stage = Some(stage);
        (stage, steps == 0 && before != Some(stage))
    }

    /// Whether an epoch is its stage's last.
    pub fn ends_stage(&self, epoch: usize) -> bool {
        epoch + 1 >= self.num_epochs || self.stage_at(epoch + 1) != self.stage_at(epoch)
    }
}
