//! A grid of runs, and the table that compares them.
//!
//! `axis` (what varies) → `plan` (cells and their runs) → `run` (how far each has come) → `summary` (means over
//! seeds, comparisons) → `table`, `plot` (what is printed and written). Running them is
//! the command line's; `slurm` has what a queue is told and tells.

mod axis;
mod plan;
mod plot;
mod run;
pub mod slurm;
mod summary;
pub mod table;

use std::{
    path::{Path, PathBuf},
    str::FromStr,
};

use serde::Serialize;

use crate::{Error, Result, run::file};

pub use axis::{Axis, Choice};
pub use plan::{Cell, Plan, Request};
pub use run::{Run, State};
pub use summary::{Comparison, Group, Summary, Variant, Verdict};

/// Which row of a run is compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ComparedRow {
    /// The last evaluation: the last epoch's.
    #[default]
    Last,
    /// The one with the highest accuracy, the earliest of equals. It was chosen by the test questions,
    /// so that it flatters every variant.
    Best,
}

impl FromStr for ComparedRow {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        match text {
            "last" => Ok(Self::Last),
            "best" => Ok(Self::Best),
            _ => Err(format!("`{text}` is neither `last` nor `best`")),
        }
    }
}

/// What the variants are compared with.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Reference {
    /// The most accurate one; as which that is was not known before, every pair counts as a comparison.
    #[default]
    Best,
    /// The first one of the grid.
    First,
    /// The one of that label.
    Label(String),
}

impl From<&str> for Reference {
    fn from(text: &str) -> Self {
        match text {
            "best" => Self::Best,
            "first" => Self::First,
            label => Self::Label(label.into()),
        }
    }
}

impl Summary {
    /// Writes `sweep.md`, `sweep.csv`, `sweep.json` and, if anything was measured, `sweep.svg` into a folder.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn write(&self, folder: &Path) -> Result<Vec<PathBuf>> {
        file::create_folder(folder)?;
        let json = serde_json::to_string_pretty(self)
            .map_err(|error| Error::io("write", folder.join("sweep.json"))(error.into()))?;
        let contents = [
            ("sweep.md", Some(table::markdown(self))),
            ("sweep.csv", Some(table::csv(self))),
            ("sweep.json", Some(json + "\n")),
            ("sweep.svg", plot::accuracy(self)),
        ];
        let mut files = Vec::new();
        for (name, content) in contents {
            if let Some(content) = content {
                let path = folder.join(name);
                file::replace(&path, content.as_bytes())?;
                files.push(path);
            }
        }
        Ok(files)
    }
}
