//! Effects as they are found, one line each, so that an audit that was stopped goes on where it was.

use std::{
    collections::HashMap,
    fs::{self, File, OpenOptions},
    io::Write,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Effect;
use crate::{Error, Result, run::file};

/// The name of the file in an audit's folder.
const NAME: &str = "effects.jsonl";

/// The effects of an audit so far, by model.
#[derive(Debug)]
pub struct Store {
    path: PathBuf,
    file: File,
    found: HashMap<(String, String), Effect>,
}

/// A line of the file: the settings first, then effects.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Line {
    Effect { model: String, effect: Effect },
    Settings { settings: Value },
}

impl Store {
    /// Opens an audit's folder, which need not exist. What an earlier audit found there is kept if it had the same
    /// settings.
    ///
    /// # Errors
    /// [`Error::Usage`] if it had others, [`Error::Input`] with the line if the file is damaged, and [`Error::Io`].
    pub fn open(folder: &Path, settings: &Value) -> Result<Self> {
        let path = folder.join(NAME);
        file::create_folder(folder)?;
        let lines = match path.exists() {
            true => file::read_lines(&path, "an effect of an audit", |line| {
                serde_json::from_slice::<Line>(line).ok()
            })?,
            false => Vec::new(),
        };
        // What has found nothing yet is in nobody's way.
        let begun = lines.iter().any(|line| matches!(line, Line::Effect { .. }));
        let mut found = HashMap::new();
        for line in lines {
            match line {
                Line::Effect { model, effect } => {
                    found.insert((model, effect.intervention.to_string()), effect);
                }
                Line::Settings { settings: had } if had == *settings || !begun => {}
                Line::Settings { .. } => {
                    return Err(Error::Usage(format!(
                        "{} holds an audit with other settings. Give another folder with `-o`, or `--overwrite`.",
                        folder.display()
                    )));
                }
            }
        }
        // Written anew, so that a line that was cut short is gone.
        let mut text = line(&Line::Settings { settings: settings.clone() })?;
        let mut kept: Vec<_> = found.iter().collect();
        kept.sort_by_key(|(key, _)| *key);
        for ((model, _), effect) in kept {
            text += &line(&Line::Effect { model: model.clone(), effect: effect.clone() })?;
        }
        file::replace(&path, text.as_bytes())?;
        let file =
            OpenOptions::new().append(true).open(&path).map_err(Error::io("write", &path))?;
        Ok(Self { path, file, found })
    }

    /// Removes what an earlier audit found in a folder.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn clear(folder: &Path) -> Result<()> {
        let path = folder.join(NAME);
        match path.exists() {
            true => fs::remove_file(&path).map_err(Error::io("remove", &path)),
            false => Ok(()),
        }
    }

    /// What has been found of an intervention on a model, by its text.
    pub fn get(&self, model: &str, intervention: &str) -> Option<&Effect> {
        self.found.get(&(model.to_owned(), intervention.to_owned()))
    }

    /// Keeps what was found.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn put(&mut self, model: &str, effect: Effect) -> Result<()> {
        let text = line(&Line::Effect { model: model.to_owned(), effect: effect.clone() })?;
        self.file.write_all(text.as_bytes()).map_err(Error::io("write", &self.path))?;
        self.found.insert((model.to_owned(), effect.intervention.to_string()), effect);
        Ok(())
    }
}

fn line(line: &Line) -> Result<String> {
    let text = serde_json::to_string(line);
    text.map(|text| text + "\n").map_err(|error| Error::Internal(error.to_string()))
}
