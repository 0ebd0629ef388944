//! Where keys stand, for the errors that name them; and paths as a user writes them.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use super::RunConfig;
use crate::Error;

/// Where a configuration's keys stand.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Origin {
    /// The recipe's path.
    pub(super) recipe: String,
    /// Keys that `-s` gave.
    pub(super) overridden: BTreeSet<String>,
}

impl Origin {
    pub(super) fn error(&self, key: &str, problem: impl Into<String>) -> Error {
        let origin = if self.overridden.contains(key) { "-s" } else { self.recipe.as_str() };
        Error::Config { origin: origin.into(), key: key.into(), problem: problem.into() }
    }
}

/// `~/x` in the home folder, if the system tells of one; any other path as it is.
fn home(path: &Path) -> PathBuf {
    let Ok(below) = path.strip_prefix("~") else { return path.to_owned() };
    std::env::home_dir().map_or_else(|| path.to_owned(), |home| home.join(below))
}

impl RunConfig {
    /// The error of a key, with the file that holds it, or `-s`.
    pub fn error(&self, key: &str, problem: impl Into<String>) -> Error {
        self.origin.error(key, problem)
    }

    /// Paths that begin with `~/` begin with the home folder.
    pub(super) fn expand_home(&mut self) {
        let paths = [Some(&mut self.save_path), self.load_model_path.as_mut()];
        let data = [self.train_path.as_mut(), self.val_path.as_mut()];
        for path in paths.into_iter().chain(data).flatten() {
            *path = home(path);
        }
        for text in [self.model_id.as_mut(), self.tokenizer.as_mut()].into_iter().flatten() {
            *text = home(Path::new(text)).display().to_string();
        }
    }
}
