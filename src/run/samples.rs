//! `samples.jsonl`: what the model said, question by question.

use super::file::{read_lines, replace};
use crate::data::{Method, Stage};
use crate::eval::Evaluation;
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::io::Write;
use std::path::Path;

/// One line of `samples.jsonl`. Only the question, the generation and the answer must be there.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// Curriculum stage; −1 is chain of thought in words.
    #[serde(default)]
    pub stage: i32,
    /// Epoch, from 0; of several evaluations of a stage the last is shown.
    #[serde(default)]
    pub epoch: usize,
    /// `coconut`, `no_cot`, …
    #[serde(default)]
    pub method: String,
    /// The example's number in its file, from 0.
    #[serde(default)]
    pub index: usize,
    /// What was asked.
    pub question: String,
    /// What the model wrote after the latents.
    pub generation: String,
    /// The right answer.
    pub answer: String,
    /// The answer read from the generation, if it has one; earlier versions call it `read`.
    #[serde(default, alias = "read", skip_serializing_if = "Option::is_none")]
    pub prediction: Option<String>,
    /// Whether the generation's answer is the right one.
    #[serde(default)]
    pub correct: bool,
    /// For each latent the likeliest tokens if it were read through the output head (logit lens), with
    /// their probabilities, likeliest first. Empty if that was not looked at.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub thoughts: Vec<Vec<(String, f64)>>,
    /// For each slot of thoughts, the text that a step decoder reads in it. Empty if that was not looked at.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub readout: Vec<String>,
}

/// The last evaluation of one method at one stage.
pub(crate) struct SampleGroup {
    pub(crate) method: String,
    pub(crate) stage: i32,
    epoch: usize,
    pub(crate) samples: Vec<Sample>,
}

/// Groups in order of appearance.
pub(crate) fn read(path: &Path) -> Result<Vec<SampleGroup>> {
    let what = "a sample, a JSON object with question, generation and answer";
    let samples: Vec<Sample> = read_lines(path, what, |line| serde_json::from_slice(line).ok())?;
    let mut groups: Vec<SampleGroup> = Vec::new();
    for sample in samples {
        let place = groups
            .iter_mut()
            .find(|group| group.method == sample.method && group.stage == sample.stage);
        match place {
            Some(group) if sample.epoch == group.epoch => group.samples.push(sample),
            Some(group) if sample.epoch > group.epoch => *group = SampleGroup::of(sample),
            Some(_) => {}
            None => groups.push(SampleGroup::of(sample)),
        }
    }
    Ok(groups)
}

impl SampleGroup {
    fn of(first: Sample) -> Self {
        Self {
            method: first.method.clone(),
            stage: first.stage,
            epoch: first.epoch,
            samples: vec![first],
        }
    }
}

/// Appends an evaluation's samples, one JSON line each, with the file that they are of where there are several.
pub fn append_samples(
    path: &Path,
    found: &Evaluation,
    stage: Stage,
    epoch: usize,
    method: Method,
    data: Option<&str>,
) -> Result<()> {
    let mut lines = String::new();
    for sample in &found.answers.samples {
        let mut value =
            serde_json::json!({"stage": stage.0, "epoch": epoch, "method": method.to_string()});
        if let Some(data) = data {
            value["data"] = data.into();
        }
        let fields = serde_json::to_value(sample).unwrap_or_default();
        if let (Some(object), Some(fields)) = (value.as_object_mut(), fields.as_object()) {
            object.extend(fields.clone());
        }
        lines += &value.to_string();
        lines.push('\n');
    }
    let file = std::fs::OpenOptions::new().create(true).append(true).open(path);
    file.and_then(|mut file| file.write_all(lines.as_bytes())).map_err(Error::io("write", path))
}

/// Drops the samples of epochs that are to be trained again.
pub(crate) fn forget_samples(path: &Path, epoch: usize) -> Result<()> {
    let Ok(text) = std::fs::read(path) else { return Ok(()) };
    let text = String::from_utf8_lossy(&text); // a killed process may have cut a letter
    let kept: String = text
        .lines()
        .filter(|line| {
            let value: Option<serde_json::Value> = serde_json::from_str(line).ok();
            value.and_then(|v| v["epoch"].as_u64()).is_some_and(|e| (e as usize) < epoch)
        })
        .flat_map(|line| [line, "\n"])
        .collect();
    if kept == text { Ok(()) } else { replace(path, kept.as_bytes()) }
}
