//! One run of a sweep: where it is, and how far it has come.

use std::{
    fs::File,
    io::{Read, Seek, SeekFrom},
    path::{Path, PathBuf},
};

use serde_json::Value;

use crate::{
    Error, Result, checkpoint,
    config::RunConfig,
    run::{Results, Row, RunFolder},
};

/// One training of one cell.
#[derive(Clone, Debug)]
pub struct Run {
    /// What is trained.
    pub config: RunConfig,
    /// Where.
    pub folder: PathBuf,
}

/// How far a run has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Its last epoch is trained and evaluated.
    Done,
    /// Interrupted: there is something to go on from.
    Begun,
    /// Nothing yet.
    Fresh,
}

impl Run {
    pub(super) fn new(config: RunConfig) -> Self {
        Self { folder: config.run_dir(), config }
    }

    /// The recipe of this run alone: `coconut train` takes it.
    pub fn recipe(&self) -> PathBuf {
        self.folder.join("config.yaml")
    }

    /// Its name within the sweep: its folder's.
    pub fn name(&self) -> &str {
        &self.config.name
    }

    /// How far it has come.
    ///
    /// # Errors
    /// A damaged file, and [`Error::Usage`] if its folder holds a run with other settings.
    pub fn state(&self) -> Result<State> {
        let folder = RunFolder::new(&self.folder);
        if folder.holds_run() && self.recipe().exists() {
            let differences = RunConfig::load(&self.recipe(), &[])?.differences(&self.config);
            if !differences.is_empty() {
                return Err(Error::Usage(format!(
                    "{} holds a run with other settings of `{}`. Replace it with `--overwrite`, or name this sweep anew with `-s name=…`.",
                    self.folder.display(),
                    differences.join("`, `")
                )));
            }
        }
        Ok(match self.results()? {
            Some(results) if self.last_row(&results).is_some() => State::Done,
            // Without a checkpoint there is nothing to go on from.
            _ if checkpoint::newest(&folder.checkpoints())?.is_some() => State::Begun,
            _ => State::Fresh,
        })
    }

    /// Its results so far, if it has any.
    pub fn results(&self) -> Result<Option<Results>> {
        let path = self.folder.join("results.json");
        path.exists().then(|| Results::read(&path)).transpose()
    }

    /// The row of its last epoch.
    pub(super) fn last_row<'a>(&self, results: &'a Results) -> Option<&'a Row> {
        let method = self.config.method.name();
        results
            .rows
            .iter()
            .rev()
            .find(|row| row.method == method && row.epoch + 1 == self.config.num_epochs)
    }

    /// Epochs trained, for a progress bar: whatever cannot be read counts as none.
    pub fn epochs_done(&self) -> usize {
        last_epoch(&self.folder.join("metrics.jsonl")).unwrap_or(0)
    }
}

/// The epoch that the last whole line of `metrics.jsonl` was written in.
fn last_epoch(path: &Path) -> Option<usize> {
    const TAIL: u64 = 4096;
    let mut file = File::open(path).ok()?;
    let length = file.metadata().ok()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL))).ok()?;
    let mut tail = Vec::new();
    file.read_to_end(&mut tail).ok()?;
    let whole = tail.iter().rposition(|&byte| byte == b'\n')?;
    let line = tail[..whole].rsplit(|&byte| byte == b'\n').next()?;
    let record: Value = serde_json::from_slice(line).ok()?;
    record["epoch"].as_u64().and_then(|epoch| usize::try_from(epoch).ok())
}
