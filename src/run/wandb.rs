//! A run's folder of Weights & Biases, as its program leaves one without a network: `wandb sync` uploads it.
//!
//! `wandb/offline-run-DATE_TIME-ID/run-ID.wandb` is a header and a log (`leveldb`) of protobuf `Record`s
//! (`wandb_internal.proto`), of which these are written:
//!
//! ```text
//! header = ":W&B" | 0xbee1 u16 | version 0 u8
//! Record = 1: num int64
//!        | 2: HistoryRecord { 1: repeated Item, 2: HistoryStep { 1: num int64 } }
//!        | 3: SummaryRecord { 1: repeated Item }
//!        | 12: MetricRecord { 1: name, 4: step_metric, 6: Options { 1: step_sync bool, 3: defined bool } }
//!        | 17: RunRecord { 1: run_id, 3: project, 4: ConfigRecord { 1: repeated ConfigItem { 1: key, 16: value_json } },
//!                          8: display_name, 13: host, 17: Timestamp { 1: seconds int64 } }
//!        | 18: RunExitRecord { 2: runtime int32 }
//!        | 21: HeaderRecord { 1: VersionInfo { 1: producer, 2: min_consumer } }
//! Item   = 2: repeated nested_key, 16: value_json
//! ```

use std::{
    collections::BTreeSet,
    fs::{self, File, OpenOptions},
    io::{ErrorKind, Write},
    path::{Path, PathBuf},
};

use serde_json::{Map, Value};

use super::{
    Record,
    file::{create_folder, replace},
    leveldb,
    machine::{host, now},
    protobuf::{put_bytes, put_varint},
};
use crate::{Error, Result, config::RunConfig, rng};

/// The oldest reader that understands the file, as the Python package writes it.
const MIN_CONSUMER: &str = "0.70.0";
/// The chart that others are drawn over: optimizer steps.
const STEP_CHART: &str = "train/step";

/// One such folder, open for appending.
#[derive(Debug)]
pub(super) struct WandbRun {
    path: PathBuf,
    file: File,
    log: Log,
}

impl WandbRun {
    /// Writes the file of a run anew from the records that stand, under the name that it had, so that a resumed run
    /// goes on in it and steps that will be done again are gone.
    pub(super) fn open(folder: &Path, recipe: &RunConfig, records: &[Record]) -> Result<Self> {
        let label = label(folder, recipe);
        let parent = folder.join("wandb");
        let place = match Place::find(&parent)? {
            Some(place) => place,
            None => Place::new(&label),
        };
        let folder = parent.join(&place.name);
        create_folder(&folder)?;
        let path = folder.join(format!("run-{}.wandb", place.id));
        let mut log = Log::new(place.started);
        let mut content = log.begin(&place.id, &label, recipe)?;
        records.iter().for_each(|record| content.extend(log.history(record)));
        replace(&path, &content)?;
        forget_sync(&path)?;
        let file = OpenOptions::new().append(true).open(&path).map_err(Error::io("open", &path))?;
        Ok(Self { path, file, log })
    }

    /// Appends a record's values.
    pub(super) fn append(&mut self, record: &Record) -> Result<()> {
        let bytes = self.log.history(record);
        self.write(&bytes)
    }

    /// Tells that the run ended well.
    pub(super) fn finish(&mut self) -> Result<()> {
        let bytes = self.log.exit();
        self.write(&bytes)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes).map_err(Error::io("write", &self.path))
    }
}

/// What W&B shows as a run's name: its folder below `save_path`.
fn label(folder: &Path, recipe: &RunConfig) -> String {
    let below = folder.strip_prefix(&recipe.save_path).ok();
    below.map_or_else(|| recipe.name.clone(), |path| path.display().to_string())
}

/// Removes the notes that `wandb sync` leaves beside a file that it has uploaded, and would skip.
fn forget_sync(path: &Path) -> Result<()> {
    for note in ["wandb.synced", "wandb.syncstate"] {
        let note = path.with_extension(note);
        match fs::remove_file(&note) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(Error::io("remove", note)(error));
            }
            _ => {}
        }
    }
    Ok(())
}

/// The folder's name, and what it says: the run's id at W&B, and its start in seconds since 1970.
struct Place {
    name: String,
    id: String,
    started: u64,
}

impl Place {
    const PREFIX: &str = "offline-run-";

    fn new(label: &str) -> Self {
        const DIGITS: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";
        let now = now();
        let place: Vec<u64> = [u64::from(std::process::id())]
            .into_iter()
            .chain(label.bytes().map(u64::from))
            .collect();
        let mut number = rng::hash(now.as_nanos() as u64, &place);
        let id = (0..8).map(|_| {
            let digit = DIGITS[(number % 36) as usize];
            number /= 36;
            char::from(digit)
        });
        let (id, started) = (id.collect::<String>(), now.as_secs());
        Self { name: format!("{}{}-{id}", Self::PREFIX, stamp(started)), id, started }
    }

    /// The newest one in a folder that need not exist.
    fn find(parent: &Path) -> Result<Option<Self>> {
        let entries = match fs::read_dir(parent) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            entries => entries.map_err(Error::io("read", parent))?,
        };
        let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        let places = names.filter_map(Self::read);
        Ok(places.max_by(|one, other| one.name.cmp(&other.name)))
    }

    fn read(name: String) -> Option<Self> {
        let (stamp, id) = name.strip_prefix(Self::PREFIX)?.split_once('-')?;
        let (id, started) = (id.to_owned(), seconds(stamp)?);
        Some(Self { name, id, started })
    }
}

/// Seconds since 1970 as `YYYYMMDD_HHMMSS` of universal time.
fn stamp(seconds: u64) -> String {
    // Years that begin in March have their leap day last; 400 of them have 146097 days.
    let (days, second) = (seconds / 86400 + 719_468, seconds % 86400);
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1460 + day / 36524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (year, month) = match month {
        0..=9 => (400 * era + year, month + 3),
        _ => (400 * era + year + 1, month - 9),
    };
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}{month:02}{day:02}_{hour:02}{minute:02}{second:02}")
}

/// The inverse of [`stamp`].
fn seconds(stamp: &str) -> Option<u64> {
    let (date, time) = stamp.split_once('_')?;
    let part = |text: &str, from, to| text.get(from..to)?.parse::<u64>().ok();
    let (year, month, day) = (part(date, 0, 4)?, part(date, 4, 6)?, part(date, 6, 8)?);
    let (hour, minute, second) = (part(time, 0, 2)?, part(time, 2, 4)?, part(time, 4, 6)?);
    let (year, month) = match month {
        1..=2 => (year.checked_sub(1)?, month + 9),
        3..=12 => (year, month - 3),
        _ => return None,
    };
    let days = 365 * year + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + day;
    Some(86400 * days.checked_sub(719_469)? + 3600 * hour + 60 * minute + second)
}

/// What is to be appended next, and what it depends on.
#[derive(Debug)]
struct Log {
    /// Bytes written, the header included.
    length: u64,
    /// Records written.
    records: u64,
    /// Rows of history written: W&B's own step.
    rows: u64,
    /// Seconds since 1970.
    started: u64,
    /// Seconds of training at the last row.
    seconds: f64,
    /// Charts that were told of.
    charts: BTreeSet<String>,
}

impl Log {
    fn new(started: u64) -> Self {
        Self { length: 0, records: 0, rows: 0, started, seconds: 0.0, charts: BTreeSet::new() }
    }

    /// The file up to the first row.
    fn begin(&mut self, id: &str, label: &str, recipe: &RunConfig) -> Result<Vec<u8>> {
        let mut content = b":W&B\xe1\xbe\0".to_vec();
        self.length = content.len() as u64;

        let (mut version, mut header) = (Vec::new(), Vec::new());
        put_bytes(&mut version, 1, concat!("coconut ", env!("CARGO_PKG_VERSION")).as_bytes());
        put_bytes(&mut version, 2, MIN_CONSUMER.as_bytes());
        put_bytes(&mut header, 1, &version);
        content.extend(self.record(21, &header));

        let mut config = Vec::new();
        let mut keys = match recipe.to_json()? {
            Value::Object(keys) => keys,
            _ => Map::new(),
        };
        // Without a place of their own, charts are not uploaded by versions up to 0.27.
        keys.insert("_wandb".into(), Value::Object(Map::new()));
        for (key, value) in &keys {
            let mut item = Vec::new();
            put_bytes(&mut item, 1, key.as_bytes());
            put_bytes(&mut item, 16, value.to_string().as_bytes());
            put_bytes(&mut config, 1, &item);
        }
        let (mut started, mut run) = (Vec::new(), Vec::new());
        put_varint(&mut started, 1, self.started);
        put_bytes(&mut run, 1, id.as_bytes());
        put_bytes(&mut run, 3, recipe.project.as_bytes());
        put_bytes(&mut run, 4, &config);
        put_bytes(&mut run, 8, label.as_bytes());
        put_bytes(&mut run, 13, host().as_bytes());
        put_bytes(&mut run, 17, &started);
        content.extend(self.record(17, &run));
        content.extend(self.chart(STEP_CHART));
        Ok(content)
    }

    /// One row: the charts that are new in it, what the run has come to, and the row itself.
    fn history(&mut self, record: &Record) -> Vec<u8> {
        self.seconds = record.get("seconds").unwrap_or(self.seconds);
        let mut values: Vec<(String, String)> =
            record.charted().map(|(name, value)| (name, json(value))).collect();
        values.push((STEP_CHART.into(), record.step.to_string()));
        // Published runs count epochs from 1.
        values.push(("train/epoch".into(), (record.epoch + 1).to_string()));
        values.push(("train/stage".into(), record.stage.to_string()));
        let mut content: Vec<u8> = values.iter().flat_map(|(name, _)| self.chart(name)).collect();
        values.push(("_step".into(), self.rows.to_string()));
        values.push(("_runtime".into(), json(self.seconds)));
        values.push(("_timestamp".into(), json(self.started as f64 + self.seconds)));

        let items = items(&values);
        content.extend(self.record(3, &items));
        let (mut history, mut step) = (items, Vec::new());
        put_varint(&mut step, 1, self.rows);
        put_bytes(&mut history, 2, &step);
        content.extend(self.record(2, &history));
        self.rows += 1;
        content
    }

    /// The run's end.
    fn exit(&mut self) -> Vec<u8> {
        let mut exit = Vec::new();
        put_varint(&mut exit, 2, self.seconds as u64);
        self.record(18, &exit)
    }

    /// Tells of a chart, if it is new.
    fn chart(&mut self, name: &str) -> Vec<u8> {
        if !self.charts.insert(name.to_owned()) {
            return Vec::new();
        }
        let (mut metric, mut options) = (Vec::new(), Vec::new());
        put_bytes(&mut metric, 1, name.as_bytes());
        if name != STEP_CHART {
            put_bytes(&mut metric, 4, STEP_CHART.as_bytes());
            put_varint(&mut options, 1, 1);
        }
        put_varint(&mut options, 3, 1);
        put_bytes(&mut metric, 6, &options);
        self.record(12, &metric)
    }

    /// A record whose content is this field.
    fn record(&mut self, field: u32, content: &[u8]) -> Vec<u8> {
        self.records += 1;
        let mut record = Vec::new();
        put_varint(&mut record, 1, self.records);
        put_bytes(&mut record, field, content);
        let chunks = leveldb::chunks(&record, self.length);
        self.length += chunks.len() as u64;
        chunks
    }
}

/// The items of a row of history or of a summary.
fn items(values: &[(String, String)]) -> Vec<u8> {
    let mut items = Vec::new();
    for (name, value) in values {
        let mut item = Vec::new();
        put_bytes(&mut item, 2, name.as_bytes());
        put_bytes(&mut item, 16, value.as_bytes());
        put_bytes(&mut items, 1, &item);
    }
    items
}

/// A number as W&B writes it, which has words for what JSON has none for.
fn json(value: f64) -> String {
    match value {
        _ if value.is_nan() => "NaN".into(),
        f64::INFINITY => "Infinity".into(),
        f64::NEG_INFINITY => "-Infinity".into(),
        _ => Value::from(value).to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `date -u -d @SECONDS +%Y%m%d_%H%M%S`, around leap days and the ends of months and years.
    #[test]
    fn dates_are_those_of_the_date_program() {
        for (at, written) in [
            (0, "19700101_000000"),
            (951_782_399, "20000228_235959"),
            (951_868_799, "20000229_235959"),
            (951_868_800, "20000301_000000"),
            (1_709_164_800, "20240229_000000"),
            (1_798_761_599, "20261231_235959"),
            (1_798_761_600, "20270101_000000"),
            (4_107_542_399, "21000228_235959"),
            (4_107_542_400, "21000301_000000"),
        ] {
            assert_eq!(stamp(at), written);
            assert_eq!(seconds(written), Some(at));
        }
        assert_eq!(seconds("notadate_000000"), None);
        assert_eq!(seconds("19690101_000000"), None);
    }

    #[test]
    fn a_folder_is_found_again_by_its_name() {
        let place = Place::new("runs/a");
        let found = Place::read(place.name.clone()).unwrap();
        assert_eq!((found.id, found.started), (place.id.clone(), place.started));
        assert!(place.id.len() == 8 && place.id.bytes().all(|c| c.is_ascii_alphanumeric()));
        assert!(Place::read("offline-run-x".into()).is_none());
    }
}
