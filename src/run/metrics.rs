//! One record per optimizer step and per evaluation, in every form at once.

use super::file::{create_folder, read_lines, replace};
use super::record::Record;
use super::tracker::TrackerLog;
use crate::config::RunConfig;
use crate::{Error, Result};
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

/// Reads a `metrics.jsonl`. A last line that was cut short by a killed process is dropped.
///
/// # Errors
/// [`Error::Io`] if it cannot be read, [`Error::Input`] with the line's number if another line is
/// no record.
pub fn read_metrics(path: &Path) -> Result<Vec<Record>> {
    let what = "a record of metrics, a JSON object with step, epoch, stage and numbers";
    read_lines(path, what, Record::from_json_line)
}

/// Appends each record to `metrics.jsonl` and `metrics.csv` of a run's folder, and to the files of its trackers.
///
/// Every record is handed to the system before [`append`](Self::append) returns, so a killed
/// process loses at most half a line. `metrics.jsonl` is the source; the others follow from it.
#[derive(Debug)]
pub struct MetricsLog {
    folder: PathBuf,
    columns: Vec<String>,
    jsonl: File,
    csv: File,
    trackers: Vec<TrackerLog>,
}

impl MetricsLog {
    /// Starts the metrics of a new run, replacing those of an earlier run in the same folder.
    ///
    /// # Errors
    /// [`Error::Io`] if the folder or a file in it cannot be written.
    pub fn create(folder: &Path, recipe: &RunConfig) -> Result<Self> {
        create_folder(folder)?;
        let jsonl = folder.join("metrics.jsonl");
        // Emptied in place rather than replaced: whoever follows it with `tail -f` keeps following.
        File::create(&jsonl).map_err(Error::io("create", &jsonl))?;
        Self::open(folder, recipe, &[], 0)
    }

    /// Goes on after `step` optimizer steps, which is what the checkpoint holds: records beyond it
    /// are dropped, since those steps will be done again. Records at `step` itself are kept.
    ///
    /// # Errors
    /// [`Error::Io`], or [`Error::Input`] if `metrics.jsonl` is damaged before its last line.
    pub fn resume(folder: &Path, recipe: &RunConfig, step: u64) -> Result<Self> {
        let jsonl = folder.join("metrics.jsonl");
        let mut records = if jsonl.exists() { read_metrics(&jsonl)? } else { Vec::new() };
        records.retain(|record| record.step <= step);
        let lines: String = records.iter().map(Record::to_json_line).collect();
        replace(&jsonl, lines.as_bytes())?;
        Self::open(folder, recipe, &records, step.saturating_add(1))
    }

    /// Appends one record in all forms.
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

        self.trackers.iter_mut().try_for_each(|tracker| tracker.append(record))
    }

    /// Tells the trackers that the run has come to its end.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn finish(&mut self) -> Result<()> {
        self.trackers.iter_mut().try_for_each(TrackerLog::finish)
    }

    /// Opens all forms; `records` are those already in `metrics.jsonl`, and `next_step` is the first step that trackers
    /// must forget from earlier files.
    fn open(folder: &Path, recipe: &RunConfig, records: &[Record], next_step: u64) -> Result<Self> {
        let mut columns = COLUMNS.map(String::from).to_vec();
        for record in records {
            add_columns(&mut columns, record);
        }
        let trackers = recipe
            .tracker
            .iter()
            .map(|&tracker| TrackerLog::open(tracker, folder, recipe, records, next_step));
        Ok(Self {
            jsonl: open_append(&folder.join("metrics.jsonl"))?,
            csv: write_csv(&folder.join("metrics.csv"), &columns, records)?,
            trackers: trackers.collect::<Result<_>>()?,
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
