//! Offline runs of Weights & Biases, read by a reader of this file's own, which is first held to a file that the `wandb`
//! package wrote (`python/fixtures/make_wandb.py`).

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use assert_cmd::assert::OutputAssertExt;
use coconut::{
    Error,
    config::{RunConfig, Tracker},
    run::{MetricsLog, Record},
};
use serde_json::{Value, json};

use crate::{
    fixture,
    program::{Place, train},
};

/// What an offline run says.
#[derive(Debug, Default)]
struct Offline {
    id: String,
    project: String,
    name: String,
    config: BTreeMap<String, Value>,
    /// The chart over which each chart is drawn, empty for W&B's own step.
    charts: BTreeMap<String, String>,
    rows: Vec<BTreeMap<String, Value>>,
    summary: BTreeMap<String, Value>,
    /// Seconds, once it has ended.
    runtime: Option<u64>,
}

/// A protobuf field's content.
#[derive(Clone, Copy, Debug)]
enum Field<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

impl<'a> Field<'a> {
    fn bytes(self) -> &'a [u8] {
        match self {
            Self::Bytes(bytes) => bytes,
            Self::Number(number) => panic!("{number} is no bytes"),
        }
    }

    fn number(self) -> u64 {
        match self {
            Self::Number(number) => number,
            Self::Bytes(bytes) => panic!("{bytes:?} are no number"),
        }
    }

    fn text(self) -> String {
        String::from_utf8(self.bytes().to_vec()).unwrap()
    }
}

fn varint(rest: &mut &[u8]) -> u64 {
    let mut value = 0;
    for shift in (0..).step_by(7) {
        let (byte, after) = rest.split_first().unwrap();
        *rest = after;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            break;
        }
    }
    value
}

/// The fields of a message, by number.
fn fields(message: &[u8]) -> Vec<(u64, Field<'_>)> {
    let (mut rest, mut found) = (message, Vec::new());
    while !rest.is_empty() {
        let key = varint(&mut rest);
        let field = match key & 7 {
            0 => Field::Number(varint(&mut rest)),
            kind => {
                let length = match kind {
                    1 => 8,
                    2 => varint(&mut rest) as usize,
                    5 => 4,
                    _ => panic!("wire type {kind}"),
                };
                let (bytes, after) = rest.split_at(length);
                rest = after;
                Field::Bytes(bytes)
            }
        };
        found.push((key >> 3, field));
    }
    found
}

/// CRC-32 by the bit (polynomial 0xedb88320, reflected).
fn crc(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0xedb8_8320 * (crc & 1)))
    })
}

/// The records of a file, and how many of them are cut into several chunks.
fn records(file: &[u8]) -> (Vec<Vec<u8>>, usize) {
    assert_eq!(file[..7], *b":W&B\xe1\xbe\0");
    let (mut found, mut part, mut cut): (_, Option<Vec<u8>>, _) = (Vec::new(), None, 0);
    for (index, block) in file.chunks(32768).enumerate() {
        let mut rest = if index == 0 { &block[7..] } else { block };
        while rest.len() >= 7 {
            let length = usize::from(u16::from_le_bytes([rest[4], rest[5]]));
            let (kind, data) = (rest[6], &rest[7..7 + length]);
            assert_eq!(
                u32::from_le_bytes(rest[..4].try_into().unwrap()),
                crc(&rest[6..7 + length])
            );
            rest = &rest[7 + length..];
            match (kind, &mut part) {
                (1, None) => found.push(data.to_vec()),
                (2, None) => part = Some(data.to_vec()),
                (3, Some(part)) => part.extend(data),
                (4, Some(begun)) => {
                    begun.extend(data);
                    found.extend(part.take());
                    cut += 1;
                }
                (kind, part) => panic!("a chunk of kind {kind} while {part:?}"),
            }
        }
        assert!(rest.iter().all(|byte| *byte == 0), "what is left of a block is not zeros");
    }
    assert!(part.is_none(), "the last record has no end");
    (found, cut)
}

/// An item's name, its last part, and value; JSON has no words for two values.
fn item(item: &[u8]) -> (String, Value) {
    let (mut names, mut value) = (Vec::new(), None);
    for (number, field) in fields(item) {
        match number {
            1 | 2 => names.push(field.text()),
            16 => value = Some(field.text()),
            _ => {}
        }
    }
    let value = value.unwrap();
    let value = serde_json::from_str(&value).unwrap_or(Value::String(value));
    (names.join("."), value)
}

impl Offline {
    fn read(path: &Path) -> Self {
        let (records, _) = records(&fs::read(path).unwrap());
        let mut run = Self::default();
        for (index, record) in records.iter().enumerate() {
            for (number, field) in fields(record) {
                match number {
                    1 => assert_eq!(field.number(), index as u64 + 1, "records are counted"),
                    2 => run.take_row(field.bytes()),
                    3 => run.summary.extend(items(field.bytes())),
                    12 => run.take_chart(field.bytes()),
                    17 => run.take_run(field.bytes()),
                    18 => {
                        let exit = fields(field.bytes());
                        assert!(exit.iter().all(|(number, _)| *number != 1), "exit code");
                        let runtime = exit.iter().find(|(number, _)| *number == 2);
                        run.runtime = Some(runtime.map_or(0, |(_, field)| field.number()));
                    }
                    _ => {}
                }
            }
        }
        run
    }

    /// The offline run in a run's folder; there is one.
    fn of(folder: &Path) -> (PathBuf, Self) {
        let path = offline_file(folder);
        let run = Self::read(&path);
        (path, run)
    }

    fn take_row(&mut self, row: &[u8]) {
        let row_items = items(row);
        let step = fields(row).into_iter().find(|(number, _)| *number == 2).unwrap().1;
        let step = fields(step.bytes()).first().map_or(0, |(_, field)| field.number());
        assert_eq!(step, self.rows.len() as u64, "W&B's own steps are counted");
        assert_eq!(row_items["_step"], json!(step));
        self.rows.push(row_items);
    }

    fn take_chart(&mut self, metric: &[u8]) {
        let (mut name, mut over) = (String::new(), String::new());
        for (number, field) in fields(metric) {
            match number {
                1 => name = field.text(),
                4 => over = field.text(),
                _ => {}
            }
        }
        assert!(self.charts.insert(name, over).is_none());
    }

    fn take_run(&mut self, record: &[u8]) {
        for (number, field) in fields(record) {
            match number {
                1 => self.id = field.text(),
                3 => self.project = field.text(),
                4 => self.config = items(field.bytes()),
                8 => self.name = field.text(),
                _ => {}
            }
        }
    }

    /// What was logged, without W&B's own: its step and times.
    fn logged(&self) -> Vec<BTreeMap<String, Value>> {
        let own = |name: &String| name.starts_with('_');
        let mut rows = self.rows.clone();
        rows.iter_mut().for_each(|row| row.retain(|name, _| !own(name)));
        rows
    }
}

fn items(message: &[u8]) -> BTreeMap<String, Value> {
    let items = fields(message).into_iter().filter(|(number, _)| *number == 1);
    items.map(|(_, field)| item(field.bytes())).collect()
}

fn offline_file(folder: &Path) -> PathBuf {
    let runs: Vec<PathBuf> =
        fs::read_dir(folder.join("wandb")).unwrap().map(|entry| entry.unwrap().path()).collect();
    let [run] = runs.as_slice() else { panic!("not one run: {runs:?}") };
    let name = run.file_name().unwrap().to_str().unwrap();
    let id = name.rsplit('-').next().unwrap();
    assert_eq!(name.len(), "offline-run-20260101_000000-abcdefgh".len(), "{name}");
    run.join(format!("run-{id}.wandb"))
}

/// The rows that a run's `metrics.jsonl` asks for.
fn expected(folder: &Path) -> Vec<BTreeMap<String, Value>> {
    let lines = fs::read_to_string(folder.join("metrics.jsonl")).unwrap();
    let row = |line: &str| {
        let record: BTreeMap<String, Value> = serde_json::from_str(line).unwrap();
        let value = |(name, value): (String, Value)| {
            let value = match (name.as_str(), value) {
                ("epoch", value) => json!(value.as_u64().unwrap() + 1),
                (_, Value::Null) => json!("NaN"),
                (_, value) => value,
            };
            (if name.contains('/') { name } else { format!("train/{name}") }, value)
        };
        record.into_iter().map(value).collect()
    };
    lines.lines().map(row).collect()
}

fn recipe() -> RunConfig {
    let mut recipe = RunConfig::default();
    (recipe.project, recipe.name) = ("chains".into(), "r".into());
    recipe.tracker = vec![Tracker::Wandb];
    recipe
}

fn step(step: u64, loss: f64) -> Record {
    let seconds = 2.5 * step as f64;
    Record::new(step, 0, -1).with("loss", loss).with("lr", 1e-4).with("seconds", seconds)
}

#[test]
fn what_the_package_wrote_is_read() {
    let path = fixture("wandb/run-fixture1.wandb");
    let given: Value =
        serde_json::from_str(&fs::read_to_string(fixture("wandb/given.json")).unwrap()).unwrap();
    let run = Offline::read(&path);
    assert_eq!(
        (run.id.as_str(), run.project.as_str(), run.name.as_str()),
        ("fixture1", "project", "a name")
    );
    for (key, value) in given["config"].as_object().unwrap() {
        assert_eq!(run.config[key], *value, "{key}");
    }
    let rows: Vec<BTreeMap<String, Value>> = serde_json::from_value(given["rows"].clone()).unwrap();
    assert_eq!(run.logged(), rows);
    assert_eq!(run.charts["eval/acc"], "train/step");
    assert_eq!(
        (&run.summary["train/loss"], &run.summary["eval/acc"]),
        (&json!(1.0 / 39.0), &json!(0.75))
    );
    assert!(run.runtime.is_some());
    assert!(records(&fs::read(&path).unwrap()).1 > 0, "a record of it goes over blocks");
}

#[test]
fn a_run_says_what_its_metrics_say() {
    let folder = tempfile::tempdir().unwrap();
    let mut log = MetricsLog::create(folder.path(), &recipe()).unwrap();
    log.append(&step(1, 2.5)).unwrap();
    log.append(&step(2, f64::NAN)).unwrap();
    log.append(&Record::new(2, 0, -1).with("eval/acc", 0.75).with("eval/cot_em", 0.5)).unwrap();
    let (_, unfinished) = Offline::of(folder.path());
    assert_eq!(unfinished.runtime, None);
    log.finish().unwrap();

    let (_, run) = Offline::of(folder.path());
    assert_eq!((run.project.as_str(), run.name.as_str()), ("chains", "r"));
    assert_eq!(run.config["c_thought"], json!(1));
    assert_eq!(run.config["replacement_method"], json!("hs[-1]"));
    assert_eq!(run.config["_wandb"], json!({}));
    assert_eq!(run.logged(), expected(folder.path()));
    assert_eq!(run.rows[1]["train/loss"], json!("NaN"));
    assert_eq!(run.rows[2]["eval/acc"], json!(0.75));
    // Names and epochs as published runs have them.
    let row = json!({"train/loss": 2.5, "train/lr": 1e-4, "train/seconds": 2.5, "train/step": 1, "train/epoch": 1, "train/stage": -1});
    assert_eq!(json!(run.logged()[0]), row);
    assert_eq!((&run.summary["eval/acc"], &run.summary["train/lr"]), (&json!(0.75), &json!(1e-4)));
    assert_eq!(run.runtime, Some(5));
    let runtimes: Vec<&Value> = run.rows.iter().map(|row| &row["_runtime"]).collect();
    assert_eq!(runtimes, [&json!(2.5), &json!(5.0), &json!(5.0)]);
    assert!(run.rows[0]["_timestamp"].as_f64().unwrap() > 1.7e9);
    for (chart, over) in &run.charts {
        assert_eq!(over, if chart == "train/step" { "" } else { "train/step" }, "{chart}");
    }
    assert!(run.charts.contains_key("eval/cot_em"));
}

#[test]
fn a_resumed_run_goes_on_in_the_same_file_over_many_blocks() {
    let folder = tempfile::tempdir().unwrap();
    let mut log = MetricsLog::create(folder.path(), &recipe()).unwrap();
    (1..=900).for_each(|at| log.append(&step(at, 9.0)).unwrap());
    log.finish().unwrap();
    drop(log);
    let (path, before) = Offline::of(folder.path());
    // `wandb sync` leaves these, and would take the run for uploaded.
    let notes = ["synced", "syncstate"].map(|end| path.with_extension(format!("wandb.{end}")));
    notes.iter().for_each(|note| fs::write(note, "").unwrap());
    // The kill cut the last record short.
    let content = fs::read(&path).unwrap();
    fs::write(&path, &content[..content.len() - 3]).unwrap();

    let mut log = MetricsLog::resume(folder.path(), &recipe(), 800).unwrap();
    assert!(notes.iter().all(|note| !note.exists()));
    (801..=850).for_each(|at| log.append(&step(at, 1.0 / at as f64)).unwrap());
    let (again, run) = Offline::of(folder.path());
    assert_eq!((&again, &run.id), (&path, &before.id));
    assert_eq!(run.runtime, None);
    assert_eq!(run.logged(), expected(folder.path()));
    assert_eq!((run.rows.len(), &run.rows[849]["train/loss"]), (850, &json!(1.0 / 850.0)));
    assert_eq!(run.rows[..800], before.rows[..800], "what stood has changed");
    assert!(records(&fs::read(&path).unwrap()).1 > 5, "the file has several blocks");
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_leaves_what_was_there() {
    let folder = tempfile::tempdir().unwrap();
    let mut log = MetricsLog::create(folder.path(), &recipe()).unwrap();
    log.append(&step(1, 1.0)).unwrap();
    drop(log);
    let (path, before) = Offline::of(folder.path());
    std::os::unix::fs::symlink("/dev/full", path.with_extension("wandb.partial")).unwrap();
    let error = MetricsLog::resume(folder.path(), &recipe(), 1).unwrap_err();
    assert!(matches!(error, Error::Io { .. }), "{error}");
    assert!(error.to_string().contains("Free some space"), "{error}");
    assert_eq!(Offline::of(folder.path()).1.rows, before.rows);
}

#[test]
fn a_recipe_names_its_trackers() {
    let place = Place::new();
    let recipe = place.recipe(&[("tracker", "[wandb]"), ("baselines", "[no_cot]")]);
    train(&recipe, &[]).assert().success();
    for (folder, name) in [(place.run(), "r"), (place.run().join("no_cot"), "r/no_cot")] {
        let (_, run) = Offline::of(&folder);
        assert_eq!(run.name, name);
        assert_eq!(run.logged(), expected(&folder));
        assert!(run.runtime.is_some() && run.summary.contains_key("eval/acc"));
        assert!(!folder.join("tb").exists());
    }
    crate::program::refused(
        train(&recipe, &["-s", "tracker=[mlflow]"]),
        &["tracker", "mlflow", "wandb"],
    );
    crate::program::refused(
        train(&recipe, &["-s", "tracker=[wandb, wandb]"]),
        &["tracker", "twice"],
    );
}

/// `PYTHON=…/bin/python cargo test --release --test it wandb_takes -- --ignored`
#[test]
#[ignore = "needs Python with the wandb package"]
fn wandb_takes_what_was_written() {
    let folder = tempfile::tempdir().unwrap();
    let mut log = MetricsLog::create(folder.path(), &recipe()).unwrap();
    (1..=300).for_each(|at| log.append(&step(at, 9.0)).unwrap());
    drop(log);
    let mut log = MetricsLog::resume(folder.path(), &recipe(), 200).unwrap();
    (201..=260).for_each(|at| log.append(&step(at, 1.0 / at as f64)).unwrap());
    log.append(&Record::new(260, 0, 1).with("eval/acc", 0.75).with("eval/loss", f64::NAN)).unwrap();
    log.finish().unwrap();

    let python = std::env::var("PYTHON").unwrap_or_else(|_| "python3".into());
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../dev/check_wandb.py");
    let output = Command::new(python).arg(script).arg(folder.path()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    println!("{}", String::from_utf8_lossy(&output.stdout));
}
