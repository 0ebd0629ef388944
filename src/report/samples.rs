//! `samples.jsonl`: what the model said, question by question.

use crate::Result;
use crate::log::file::read_lines;
use serde::{Deserialize, Serialize};
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
    /// Whether the generation's answer is the right one.
    #[serde(default)]
    pub correct: bool,
    /// For each latent the likeliest tokens if it were read through the output head (logit lens), with
    /// their probabilities, likeliest first. Empty if that was not looked at.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub thoughts: Vec<Vec<(String, f64)>>,
}

/// The last evaluation of one method at one stage.
pub(super) struct SampleGroup {
    pub(super) method: String,
    pub(super) stage: i32,
    epoch: usize,
    pub(super) samples: Vec<Sample>,
}

/// Groups in order of appearance.
pub(super) fn read(path: &Path) -> Result<Vec<SampleGroup>> {
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
