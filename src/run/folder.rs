//! Where a run keeps what it writes.

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::file;
use crate::{Error, Result};

/// The folder of one run, `<save_path>/<name>`, or of a baseline in it. Other programs read these files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunFolder {
    path: PathBuf,
}

impl RunFolder {
    /// A folder that need not exist yet.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// The folder itself.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The folder of a baseline that is trained beside the run.
    pub fn baseline(&self, method: &str) -> Self {
        Self::new(self.path.join(method))
    }

    /// The resolved recipe.
    pub fn config(&self) -> PathBuf {
        self.path.join("config.yaml")
    }

    /// One record a step and an evaluation, JSON lines.
    pub fn metrics(&self) -> PathBuf {
        self.path.join("metrics.jsonl")
    }

    /// One row an evaluation.
    pub fn results(&self) -> PathBuf {
        self.path.join("results.json")
    }

    /// One line a question of each evaluation.
    pub fn samples(&self) -> PathBuf {
        self.path.join("samples.jsonl")
    }

    /// The text log.
    pub fn log(&self) -> PathBuf {
        self.path.join("log.txt")
    }

    /// The folder of checkpoints.
    pub fn checkpoints(&self) -> PathBuf {
        self.path.join("checkpoints")
    }

    /// Whether a run was begun here.
    pub fn holds_run(&self) -> bool {
        let filled = fs::read_dir(self.checkpoints()).is_ok_and(|mut found| found.next().is_some());
        filled || self.metrics().exists()
    }

    /// Writes the resolved recipe; one that stands there already is left alone, so that a kill never empties it.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn write_config(&self, yaml: &str) -> Result<()> {
        let path = self.config();
        if fs::read(&path).is_ok_and(|found| found == yaml.as_bytes()) {
            return Ok(());
        }
        file::create_folder(&self.path)?;
        file::replace(&path, yaml.as_bytes())
    }

    /// Removes the folder with all that is in it. It is renamed away first: a kill leaves nothing that looks like
    /// a run.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn remove(&self) -> Result<()> {
        let name = self.path.file_name().unwrap_or_default().to_string_lossy();
        let removed = self.path.with_file_name(format!(".removed-{name}"));
        for folder in [&removed, &self.path] {
            if !folder.exists() {
                continue;
            }
            if *folder == self.path {
                fs::rename(folder, &removed).map_err(Error::io("rename", folder))?;
            }
            fs::remove_dir_all(&removed).map_err(Error::io("remove", &removed))?;
        }
        Ok(())
    }
}
