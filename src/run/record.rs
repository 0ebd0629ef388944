//! One record of metrics, and its line in each form.

use serde_json::{Map, Value};

use crate::memory::resident_mb;

/// One line of `metrics.jsonl`: where training stands, and what was measured there.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// Optimizer steps done, from 1.
    pub step: u64,
    /// Epoch, from 0, counted over all stages.
    pub epoch: usize,
    /// Curriculum stage; −1 is chain of thought in words.
    pub stage: i32,
    /// Names and values, in the order they were added. A value that is not finite is stored as
    /// `null` in JSON, which has no word for it, and read back as NaN.
    pub values: Vec<(String, f64)>,
}

/// What is measured at every optimizer step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepMetrics {
    /// Mean cross entropy over the labelled tokens, in nats.
    pub loss: f64,
    /// Learning rate used in this step.
    pub lr: f64,
    /// Global gradient norm before clipping.
    pub grad_norm: f64,
    /// Tokens per second, padding not counted.
    pub tokens_per_s: f64,
    /// Seconds of training so far, interruptions not counted.
    pub seconds: f64,
}

impl Record {
    /// A record without values yet.
    pub fn new(step: u64, epoch: usize, stage: i32) -> Self {
        Self { step, epoch, stage, values: Vec::new() }
    }

    /// The record of one optimizer step; adds the process's resident memory (`resident_mb`).
    pub fn of_step(step: u64, epoch: usize, stage: i32, measured: &StepMetrics) -> Self {
        Self::new(step, epoch, stage)
            .with("loss", measured.loss)
            .with("lr", measured.lr)
            .with("grad_norm", measured.grad_norm)
            .with("tokens_per_s", measured.tokens_per_s)
            .with("resident_mb", resident_mb())
            .with("seconds", measured.seconds)
    }

    /// Adds one value; names of evaluations start with `eval/`.
    pub fn with(mut self, name: impl Into<String>, value: f64) -> Self {
        self.values.push((name.into(), value));
        self
    }

    /// The value of that name, if it was measured.
    pub fn get(&self, name: &str) -> Option<f64> {
        self.values.iter().find(|(key, _)| key == name).map(|(_, value)| *value)
    }

    /// The values under the names of published runs' charts, which trackers group by what stands before the slash:
    /// `loss` is `train/loss`, `eval/acc` is itself.
    pub(super) fn charted(&self) -> impl Iterator<Item = (String, f64)> {
        self.values.iter().map(|(name, value)| match name.contains('/') {
            true => (name.clone(), *value),
            false => (format!("train/{name}"), *value),
        })
    }

    /// One line of JSON, newline included.
    pub(super) fn to_json_line(&self) -> String {
        let mut object = Map::new();
        object.insert("step".into(), self.step.into());
        object.insert("epoch".into(), self.epoch.into());
        object.insert("stage".into(), self.stage.into());
        for (name, value) in &self.values {
            object.insert(name.clone(), (*value).into());
        }
        format!("{}\n", Value::Object(object))
    }

    /// `None` if this is not the JSON of a record.
    pub(super) fn from_json_line(line: &[u8]) -> Option<Self> {
        let object: Map<String, Value> = serde_json::from_slice(line).ok()?;
        let integer = |name: &str| object.get(name)?.as_i64();
        let mut record = Self::new(
            integer("step")?.try_into().ok()?,
            integer("epoch")?.try_into().ok()?,
            integer("stage")?.try_into().ok()?,
        );
        for (name, value) in &object {
            match value {
                _ if ["step", "epoch", "stage"].contains(&name.as_str()) => {}
                Value::Null => record.values.push((name.clone(), f64::NAN)),
                Value::Number(number) => record.values.push((name.clone(), number.as_f64()?)),
                _ => return None,
            }
        }
        Some(record)
    }

    /// One line of CSV, newline included; a column without a value stays empty.
    pub(super) fn to_csv_line(&self, columns: &[String]) -> String {
        let cells: Vec<String> = columns
            .iter()
            .map(|column| match column.as_str() {
                "step" => self.step.to_string(),
                "epoch" => self.epoch.to_string(),
                "stage" => self.stage.to_string(),
                name => self.get(name).map(|value| value.to_string()).unwrap_or_default(),
            })
            .collect();
        cells.join(",") + "\n"
    }
}
