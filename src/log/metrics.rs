//! One record per optimizer step and per evaluation, in three forms at once.

use super::file::{create_folder, read_lines, replace};
use super::tensorboard::EventWriter;
use crate::{Error, Result};
use serde_json::{Map, Value};
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

/// The CSV's first columns, in order; a metric not named here gets a column after them when it first appears.
const COLUMNS: [&str; 17] = [
    "step",
    "epoch",
    "stage",
    "loss",
    "lr",
    "grad_norm",
    "tokens_per_s",
    "resident_mb",
    "seconds",
    "eval/acc",
    "eval/cot_em",
    "eval/tokens",
    "eval/latents",
    "eval/ms_per_question",
    "eval/loss",
    "eval/answer_perplexity",
    "eval/perplexity_ratio",
];

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

    /// One line of JSON, newline included.
    fn to_json_line(&self) -> String {
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
    fn from_json_line(line: &[u8]) -> Option<Self> {
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
    fn to_csv_line(&self, columns: &[String]) -> String {
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

/// Resident memory of this process in MB (10⁶ bytes); NaN where the system does not tell.
pub fn resident_mb() -> f64 {
    memory_stats::memory_stats().map_or(f64::NAN, |stats| stats.physical_mem as f64 / 1e6)
}

/// The most that was ever resident of this process, in MB (10⁶ bytes), where the system keeps that
/// (Linux: `VmHWM`); elsewhere what is resident now.
pub fn peak_resident_mb() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = peak.and_then(|text| text.trim().strip_suffix("kB")?.trim().parse::<f64>().ok());
    kib.map_or_else(resident_mb, |kib| kib * 1024.0 / 1e6)
}

/// Reads a `metrics.jsonl`. A last line that was cut short by a killed process is dropped.
///
/// # Errors
/// [`Error::Io`] if it cannot be read, [`Error::Input`] with the line's number if another line is
/// no record.
pub fn read_metrics(path: &Path) -> Result<Vec<Record>> {
    let what = "a record of metrics, a JSON object with step, epoch, stage and numbers";
    read_lines(path, what, Record::from_json_line)
}

/// Appends each record to `metrics.jsonl`, `metrics.csv` and `tb/` of a run's folder.
///
/// Every record is handed to the system before [`append`](Self::append) returns, so a killed
/// process loses at most half a line. `metrics.jsonl` is the source; the CSV follows from it.
#[derive(Debug)]
pub struct MetricsLog {
    folder: PathBuf,
    columns: Vec<String>,
    jsonl: File,
    csv: File,
    events: EventWriter,
}

impl MetricsLog {
    /// Starts the metrics of a new run, replacing those of an earlier run in the same folder.
    ///
    /// # Errors
    /// [`Error::Io`] if the folder or a file in it cannot be written.
    pub fn create(folder: &Path) -> Result<Self> {
        create_folder(folder)?;
        let jsonl = folder.join("metrics.jsonl");
        // Emptied in place rather than replaced: whoever follows it with `tail -f` keeps following.
        File::create(&jsonl).map_err(Error::io("create", &jsonl))?;
        Self::open(folder, &[], 0)
    }

    /// Goes on after `step` optimizer steps, which is what the checkpoint holds: records beyond it
    /// are dropped, since those steps will be done again. Records at `step` itself are kept.
    ///
    /// # Errors
    /// [`Error::Io`], or [`Error::Input`] if `metrics.jsonl` is damaged before its last line.
    pub fn resume(folder: &Path, step: u64) -> Result<Self> {
        let jsonl = folder.join("metrics.jsonl");
        let mut records = if jsonl.exists() { read_metrics(&jsonl)? } else { Vec::new() };
        records.retain(|record| record.step <= step);
        let lines: String = records.iter().map(Record::to_json_line).collect();
        replace(&jsonl, lines.as_bytes())?;
        Self::open(folder, &records, step.saturating_add(1))
    }

    /// Appends one record in all three forms.
    ///
    /// # Errors
    /// [`Error::Io`] when the system refuses to write, as on a full disk.
    pub fn append(&mut self, record: &Record) -> Result<()> {
        let path = self.folder.join("metrics.jsonl");
        write(&mut self.jsonl, &path, &record.to_json_line())?;

        let path = self.folder.join("metrics.csv");
        if add_columns(&mut self.columns, record) {
            // A metric seen for the first time: the whole table gets its column.
            let records = read_metrics(&self.folder.join("metrics.jsonl"))?;
            self.csv = write_csv(&path, &self.columns, &records)?;
        } else {
            write(&mut self.csv, &path, &record.to_csv_line(&self.columns))?;
        }

        self.events.append(record)
    }

    /// Opens the three forms; `records` are those already in `metrics.jsonl`, and `next_step` is the
    /// first step that TensorBoard must forget from earlier event files.
    fn open(folder: &Path, records: &[Record], next_step: u64) -> Result<Self> {
        let mut columns = COLUMNS.map(String::from).to_vec();
        for record in records {
            add_columns(&mut columns, record);
        }
        Ok(Self {
            jsonl: open_append(&folder.join("metrics.jsonl"))?,
            csv: write_csv(&folder.join("metrics.csv"), &columns, records)?,
            events: EventWriter::create(&folder.join("tb"), next_step)?,
            columns,
            folder: folder.to_owned(),
        })
    }
}

/// True if the record brought names that had no column.
fn add_columns(columns: &mut Vec<String>, record: &Record) -> bool {
    let before = columns.len();
    for (name, _) in &record.values {
        if !columns.contains(name) {
            columns.push(name.clone());
        }
    }
    columns.len() > before
}

fn write_csv(path: &Path, columns: &[String], records: &[Record]) -> Result<File> {
    let header: Vec<String> = columns.iter().map(|name| quoted(name)).collect();
    let mut table = header.join(",") + "\n";
    table.extend(records.iter().map(|record| record.to_csv_line(columns)));
    replace(path, table.as_bytes())?;
    open_append(path)
}

/// A name as a CSV cell (RFC 4180).
fn quoted(name: &str) -> String {
    if name.contains([',', '"', '\n', '\r']) {
        format!("\"{}\"", name.replace('"', "\"\""))
    } else {
        name.to_owned()
    }
}

fn open_append(path: &Path) -> Result<File> {
    OpenOptions::new().append(true).create(true).open(path).map_err(Error::io("open", path))
}

fn write(file: &mut File, path: &Path, line: &str) -> Result<()> {
    file.write_all(line.as_bytes()).map_err(Error::io("write", path))
}
