//! Programs beside this one that show runs, each with its files in a run's folder.

use std::path::Path;

use super::{Record, tensorboard::EventWriter, wandb::WandbRun};
use crate::{
    Result,
    config::{RunConfig, Tracker},
};

/// What one of them is told of a run.
#[derive(Debug)]
pub(super) enum TrackerLog {
    Tensorboard(EventWriter),
    Wandb(WandbRun),
}

impl TrackerLog {
    /// Opens its files in a run's folder. `records` are those that stand; what earlier files say of `next_step` and
    /// beyond does not.
    pub(super) fn open(
        tracker: Tracker,
        folder: &Path,
        recipe: &RunConfig,
        records: &[Record],
        next_step: u64,
    ) -> Result<Self> {
        Ok(match tracker {
            Tracker::Tensorboard => {
                Self::Tensorboard(EventWriter::create(&folder.join("tb"), next_step)?)
            }
            Tracker::Wandb => Self::Wandb(WandbRun::open(folder, recipe, records)?),
        })
    }

    pub(super) fn append(&mut self, record: &Record) -> Result<()> {
        match self {
            Self::Tensorboard(events) => events.append(record),
            Self::Wandb(run) => run.append(record),
        }
    }

    /// Tells that the run has come to its end.
    pub(super) fn finish(&mut self) -> Result<()> {
        match self {
            Self::Tensorboard(_) => Ok(()),
            Self::Wandb(run) => run.finish(),
        }
    }
}
