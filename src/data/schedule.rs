//! Which stage is trained when. What a stage shows is the [`curriculum`](super::curriculum)'s.

use std::{collections::BTreeMap, ops::Range};

use serde::{Deserialize, Serialize};

use super::{Method, RowKind, Stage};

/// When a run goes on to its next stage.
#[derive(Clone, Debug, PartialEq)]
pub struct Schedule {
    /// What is trained; not every method has stages.
    pub method: Method,
    /// Its rows; not all have stages.
    pub row: RowKind,
    /// `M`: the last stage that still shows steps; M + 1 follows it.
    pub max_latent_stage: usize,
    /// Epochs at stage −1, first of all.
    pub cot_epochs: usize,
    /// Epochs at each stage 0 ..= M; at most so many if the pace is gated.
    pub epochs_per_stage: usize,
    /// All epochs; what the stages before leave is spent at the last one.
    pub num_epochs: usize,
    /// What moves a run on.
    pub pace: Pace,
}

/// What moves a run on to its next stage.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Pace {
    /// Its number of epochs.
    #[default]
    Clock,
    /// The accuracy on held-out examples at the stage, from which on it is left. A stage before whose accuracy has
    /// fallen below is gone back to.
    Gated {
        /// The accuracy.
        accuracy: f64,
    },
    /// Optimizer steps: a stage for each token that is missing.
    Tokenwise {
        /// Tokens that are taken away in an epoch.
        per_epoch: usize,
        /// The stage at which all that is left is taken away at once, which is the last.
        all_from: usize,
    },
}

/// Where a run stands in its schedule; a part of the trainer's state.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ScheduleState {
    /// The stage of the last step that was begun. `None` before the first, and in states of versions
    /// that did not save it.
    pub stage: Option<Stage>,
    /// The stage of the next epoch, as a gated schedule has decided.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<Stage>,
    /// Epochs that a gated schedule has spent at each stage.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub spent: BTreeMap<i32, usize>,
    /// Whether a gated schedule's last stage has reached its accuracy.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub finished: bool,
}

/// The accuracy that a model has at a stage.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StageAccuracy {
    /// The stage.
    pub stage: Stage,
    /// The share of right answers.
    pub accuracy: f64,
}

impl Schedule {
    /// The stages in order, each with its epochs (counted from 0); together they cover `0..num_epochs`. Where the
    /// run itself decides, as if it passed no stage before its time; [`Schedule::all_stages`] has those beyond.
    pub fn stages(&self) -> Vec<(Stage, Range<usize>)> {
        let mut start = 0_usize;
        let mut stages: Vec<(Stage, Range<usize>)> = Vec::new();
        for (stage, epochs) in self.planned() {
            if start == self.num_epochs {
                break;
            }
            let end = start.saturating_add(epochs).min(self.num_epochs);
            match stages.last_mut() {
                Some((last, epochs)) if *last == stage => epochs.end = end,
                _ if start < end => stages.push((stage, start..end)),
                _ => {}
            }
            start = end;
        }
        stages
    }

    /// Every stage that a run may come to, in order.
    pub fn all_stages(&self) -> Vec<Stage> {
        match self.pace {
            Pace::Gated { .. } => self.in_order().collect(),
            Pace::Clock | Pace::Tokenwise { .. } => {
                self.stages().into_iter().map(|(stage, _)| stage).collect()
            }
        }
    }

    /// The stages in order with the epochs that they would take, the last one as many as there are.
    fn planned(&self) -> Box<dyn Iterator<Item = (Stage, usize)> + '_> {
        let last = (self.last_stage(), self.num_epochs);
        let cot = std::iter::once((Stage::COT, self.cot_epochs));
        if let Pace::Tokenwise { per_epoch, all_from } = self.pace {
            let epochs = all_from.div_ceil(per_epoch.max(1));
            let staged = (0..epochs).map(move |epoch| (Stage::from_count(epoch * per_epoch), 1));
            return Box::new(cot.chain(staged).chain([last]));
        }
        match (self.method, self.row) {
            (Method::Cot, _) => Box::new([(Stage::COT, self.num_epochs)].into_iter()),
            (Method::NoCot | Method::NoCurriculum, _) => Box::new([last].into_iter()),
            (_, RowKind::Fixed) => Box::new(cot.chain([last])),
            _ => {
                let staged = (0..=self.max_latent_stage)
                    .map(|s| (Stage::from_count(s), self.epochs_per_stage));
                Box::new(cot.chain(staged).chain([last]))
            }
        }
    }

    /// The stage at which a run stays.
    pub fn last_stage(&self) -> Stage {
        let all_from = match self.pace {
            Pace::Tokenwise { all_from, .. } => Some(all_from),
            Pace::Clock | Pace::Gated { .. } => None,
        };
        match self.method {
            Method::Cot => Stage::COT,
            _ => self.row.last_stage(self.max_latent_stage, all_from),
        }
    }

    /// The stages of an epoch (from 0) of `steps` optimizer steps, each with the steps that it takes.
    pub fn stages_of(
        &self,
        epoch: usize,
        steps: usize,
        state: &ScheduleState,
    ) -> Vec<(Stage, Range<usize>)> {
        let Pace::Tokenwise { per_epoch, all_from } = self.pace else {
            return vec![(self.stage_at(epoch, state), 0..steps)];
        };
        let Some(before) = epoch.checked_sub(self.cot_epochs) else {
            return vec![(Stage::COT, 0..steps)];
        };
        let every = (steps as f64 / per_epoch.max(1) as f64).round_ties_even().max(1.0) as usize;
        let mut stages: Vec<(Stage, Range<usize>)> = Vec::new();
        for step in 0..steps {
            let removed = ((before * steps + step) / every).min(all_from);
            match stages.last_mut() {
                Some((stage, range)) if *stage == Stage::from_count(removed) => range.end += 1,
                _ => stages.push((Stage::from_count(removed), step..step + 1)),
            }
        }
        stages
    }

    /// The stage of an epoch (from 0); beyond the last epoch, the last stage.
    pub fn stage_at(&self, epoch: usize, state: &ScheduleState) -> Stage {
        let stages = self.stages();
        if let Pace::Gated { .. } = self.pace {
            let first = stages.first().map_or(self.last_stage(), |&(stage, _)| stage);
            return state.next.unwrap_or(first);
        }
        let current = stages.iter().find(|(_, epochs)| epochs.contains(&epoch));
        current.or(stages.last()).map_or(self.last_stage(), |&(stage, _)| stage)
    }

    /// Enters a stage: whether it begins with the next step, `steps` of whose epoch are done. `before` is the stage
    /// of the epoch before, for states that do not say it.
    pub fn enter(
        &self,
        stage: Stage,
        epoch: usize,
        steps: usize,
        state: &mut ScheduleState,
    ) -> bool {
        let known = state.stage.is_some();
        let before =
            state.stage.or_else(|| epoch.checked_sub(1).map(|last| self.stage_at(last, state)));
        state.stage = Some(stage);
        let begins = before != Some(stage);
        // A state that does not say its stage was saved in the middle of the epoch's one stage.
        begins && (steps == 0 || known)
    }

    /// Whether an epoch of `steps` optimizer steps at `stage` is its stage's last, given the state that it leaves.
    pub fn ends_stage(
        &self,
        stage: Stage,
        epoch: usize,
        steps: usize,
        state: &ScheduleState,
    ) -> bool {
        let next = self.stages_of(epoch + 1, steps, state);
        let last = state.finished || epoch + 1 >= self.num_epochs;
        last || next.last().is_none_or(|&(next, _)| next != stage)
    }

    /// The stages whose accuracy decides what comes after an epoch at `stage`, all so far; none if the clock does.
    pub fn deciding(&self, stage: Stage, state: &ScheduleState) -> Vec<Stage> {
        let furthest = Self::furthest(stage, state);
        match self.pace {
            Pace::Gated { .. } => self.in_order().take_while(|&s| s <= furthest).collect(),
            Pace::Clock | Pace::Tokenwise { .. } => Vec::new(),
        }
    }

    /// The furthest stage that a gated run has been at.
    fn furthest(stage: Stage, state: &ScheduleState) -> Stage {
        state.spent.keys().map(|&spent| Stage(spent)).max().map_or(stage, |most| most.max(stage))
    }

    /// The stages of a gated schedule.
    fn in_order(&self) -> impl Iterator<Item = Stage> + '_ {
        let mut before = None;
        self.planned().filter(|(_, epochs)| *epochs > 0).map(|(stage, _)| stage).filter(
            move |&stage| {
                let new = before != Some(stage);
                before = Some(stage);
                new
            },
        )
    }

    /// Leaves an epoch at `stage`, given what [`Schedule::deciding`] asks for: the first stage below the accuracy is
    /// next, the one after `stage` if there is none. A stage that has had its epochs counts as passed; what to tell
    /// of one that is left so.
    pub fn leave(
        &self,
        stage: Stage,
        found: &[StageAccuracy],
        state: &mut ScheduleState,
    ) -> Option<String> {
        let Pace::Gated { accuracy: gate } = self.pace else { return None };
        let furthest = Self::furthest(stage, state);
        *state.spent.entry(stage.0).or_default() += 1;
        let last = self.last_stage();
        let most = |stage: Stage| {
            let epochs = if stage == Stage::COT { self.cot_epochs } else { self.epochs_per_stage };
            epochs.max(1)
        };
        let spent = |stage: Stage| {
            let spent = state.spent.get(&stage.0).copied().unwrap_or(0);
            stage != last && spent >= most(stage)
        };
        let below = |of: &&StageAccuracy| of.accuracy < gate;
        let next = found.iter().filter(below).map(|of| of.stage).find(|&stage| !spent(stage));
        let given_up = found.iter().find(|of| of.stage == stage && of.accuracy < gate);
        let warning = given_up.filter(|_| spent(stage)).map(|of| {
            let epochs = most(stage);
            format!(
                "stage {stage} is left after {epochs} epoch{} with an accuracy of {:.3}, below its gate of {gate}",
                if epochs == 1 { "" } else { "s" },
                of.accuracy
            )
        });
        let following = self.in_order().find(|&s| s > furthest);
        state.finished = next.is_none() && following.is_none();
        state.next = Some(next.or(following).unwrap_or(stage));
        warning
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule(pace: Pace) -> Schedule {
        Schedule {
            method: Method::Coconut,
            row: RowKind::Stages,
            max_latent_stage: 2,
            cot_epochs: 0,
            epochs_per_stage: 3,
            num_epochs: 20,
            pace,
        }
    }

    fn found(accuracies: &[f64]) -> Vec<StageAccuracy> {
        let numbered = accuracies.iter().enumerate();
        numbered
            .map(|(s, &accuracy)| StageAccuracy { stage: Stage::from_count(s), accuracy })
            .collect()
    }

    #[test]
    fn a_gate_is_passed_gone_back_to_and_given_up() {
        let schedule = schedule(Pace::Gated { accuracy: 0.9 });
        let mut state = ScheduleState::default();
        let at = |state: &ScheduleState| schedule.stage_at(7, state).0;
        assert_eq!(at(&state), 0);
        assert_eq!(schedule.deciding(Stage(1), &state), [Stage(0), Stage(1)]);
        assert_eq!(schedule.all_stages(), [Stage(0), Stage(1), Stage(2), Stage(3)]);
        assert_eq!(schedule.leave(Stage(0), &found(&[0.5]), &mut state), None);
        assert_eq!(at(&state), 0);
        assert_eq!(schedule.leave(Stage(0), &found(&[0.9]), &mut state), None);
        assert_eq!(at(&state), 1);
        // The first stage has fallen, and has one epoch left.
        assert_eq!(schedule.leave(Stage(1), &found(&[0.8, 0.95]), &mut state), None);
        assert_eq!(at(&state), 0);
        // Gone back to, it is given up, and the run goes on from the furthest stage.
        assert_eq!(schedule.deciding(Stage(0), &state), [Stage(0), Stage(1)]);
        let warning = schedule.leave(Stage(0), &found(&[0.7, 0.99]), &mut state).unwrap();
        assert!(warning.contains("stage 0") && warning.contains("0.700"), "{warning}");
        assert_eq!(at(&state), 2);
        schedule.leave(Stage(2), &found(&[0.7, 0.99, 1.0]), &mut state);
        assert_eq!((at(&state), state.finished), (3, false));
        // The last stage has no limit but the run's.
        for _ in 0..5 {
            schedule.leave(Stage(3), &found(&[0.7, 0.99, 1.0, 0.2]), &mut state);
            assert_eq!((at(&state), state.finished), (3, false));
        }
        schedule.leave(Stage(3), &found(&[0.7, 0.99, 1.0, 0.92]), &mut state);
        assert!(state.finished);
    }

    /// 100 steps an epoch, eight tokens an epoch: every round(12.5) = 12 steps, half to even as Python rounds.
    #[test]
    fn tokens_are_taken_away_at_regular_steps() {
        let pace = Pace::Tokenwise { per_epoch: 8, all_from: 10 };
        let mut schedule = Schedule { row: RowKind::Tokenwise, ..schedule(pace) };
        let state = ScheduleState::default();
        let of = |schedule: &Schedule, epoch| schedule.stages_of(epoch, 100, &state);
        let first = of(&schedule, 0);
        assert_eq!(first[0], (Stage(0), 0..12));
        assert_eq!(first[1], (Stage(1), 12..24));
        assert_eq!(first.last(), Some(&(Stage(8), 96..100)));
        let second = of(&schedule, 1);
        assert_eq!(second[0], (Stage(8), 0..8));
        assert_eq!(second[1], (Stage(9), 8..20));
        assert_eq!(second.last(), Some(&(Stage(10), 20..100)));
        assert_eq!(of(&schedule, 9), [(Stage(10), 0..100)]);
        schedule.cot_epochs = 1;
        assert_eq!(of(&schedule, 0), [(Stage::COT, 0..100)]);
        assert_eq!(of(&schedule, 1), first);
    }

    #[test]
    fn rows_of_blocks_stay_at_their_last_block_and_fixed_ones_have_one_stage() {
        let blocks = Schedule { row: RowKind::Blocks, ..schedule(Pace::Clock) };
        let stages: Vec<i32> = blocks.stages().into_iter().map(|(stage, _)| stage.0).collect();
        assert_eq!(stages, [0, 1, 2]);
        assert_eq!(blocks.stage_at(19, &ScheduleState::default()), Stage(2));
        let fixed = Schedule { row: RowKind::Fixed, cot_epochs: 2, ..schedule(Pace::Clock) };
        assert_eq!(fixed.stages(), [(Stage::COT, 0..2), (Stage(1), 2..20)]);
    }
}
