//! The metrics of a run: three forms, resuming, and disks that are full.

use coconut::Error;
use coconut::config::RunConfig;
use coconut::run::{MetricsLog, Record, StepMetrics, read_metrics};
use std::fs;
use std::path::Path;

fn recipe() -> RunConfig {
    RunConfig::default()
}

fn step(step: u64, loss: f64) -> Record {
    Record::new(step, 0, 1).with("loss", loss).with("lr", 1e-4)
}

fn losses(folder: &Path) -> Vec<(u64, f64)> {
    let records = read_metrics(&folder.join("metrics.jsonl")).unwrap();
    records.iter().filter_map(|record| Some((record.step, record.get("loss")?))).collect()
}

fn event_files(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(folder.join("tb"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn writes_jsonl_and_csv_with_a_stable_header() {
    let folder = tempfile::tempdir().unwrap();
    let mut log = MetricsLog::create(folder.path(), &recipe()).unwrap();
    log.append(&step(1, 2.5)).unwrap();
    log.append(&Record::new(1, 0, 1).with("eval/acc", 0.75).with("eval/tokens", 4.0)).unwrap();

    let jsonl = fs::read_to_string(folder.path().join("metrics.jsonl")).unwrap();
    assert_eq!(
        jsonl,
        "{\"step\":1,\"epoch\":0,\"stage\":1,\"loss\":2.5,\"lr\":0.0001}\n\
         {\"step\":1,\"epoch\":0,\"stage\":1,\"eval/acc\":0.75,\"eval/tokens\":4.0}\n"
    );
    let csv = fs::read_to_string(folder.path().join("metrics.csv")).unwrap();
    assert_eq!(
        csv,
        "step,epoch,stage,loss,lr,grad_norm,tokens_per_s,resident_mb,seconds,eval/acc,eval/cot_em,\
         eval/tokens,eval/latents,eval/ms_per_question,eval/loss,eval/answer_perplexity,\
         eval/perplexity_ratio\n\
         1,0,1,2.5,0.0001,,,,,,,,,,,,\n\
         1,0,1,,,,,,,0.75,,4,,,,,\n"
    );
}

#[test]
fn a_new_metric_gets_a_column_and_earlier_rows_keep_their_width() {
    let folder = tempfile::tempdir().unwrap();
    let mut log = MetricsLog::create(folder.path(), &recipe()).unwrap();
    log.append(&step(1, 2.5)).unwrap();
    log.append(&step(2, 2.0).with("loss/a,b", 0.125)).unwrap();
    log.append(&step(3, 1.5)).unwrap();

    let csv = fs::read_to_string(folder.path().join("metrics.csv")).unwrap();
    let lines: Vec<&str> = csv.lines().collect();
    assert!(lines[0].ends_with(",eval/perplexity_ratio,\"loss/a,b\""), "{}", lines[0]);
    assert_eq!(
        lines[1..],
        [
            "1,0,1,2.5,0.0001,,,,,,,,,,,,,",
            "2,0,1,2,0.0001,,,,,,,,,,,,,0.125",
            "3,0,1,1.5,0.0001,,,,,,,,,,,,,",
        ]
    );
}

#[test]
fn a_step_measures_the_memory_itself() {
    let measured =
        StepMetrics { loss: 1.0, lr: 1e-4, grad_norm: 0.5, tokens_per_s: 900.0, seconds: 2.0 };
    let record = Record::of_step(7, 2, -1, &measured);
    assert_eq!((record.step, record.epoch, record.stage), (7, 2, -1));
    assert_eq!(record.get("tokens_per_s"), Some(900.0));
    // A test process holds more than 1 MB and less than 100 GB: the unit is MB.
    assert!((1.0..1e5).contains(&record.get("resident_mb").unwrap()));
}

#[test]
fn resuming_gives_the_losses_of_an_unbroken_run() {
    let unbroken = tempfile::tempdir().unwrap();
    let mut log = MetricsLog::create(unbroken.path(), &recipe()).unwrap();
    for (at, loss) in [(1, 3.0), (2, 2.0), (3, 1.5), (4, 1.25)] {
        log.append(&step(at, loss)).unwrap();
    }

    let broken = tempfile::tempdir().unwrap();
    let mut log = MetricsLog::create(broken.path(), &recipe()).unwrap();
    // Step 3 was done, but the last checkpoint is of step 2; line 4 was cut short by the kill.
    for (at, loss) in [(1, 3.0), (2, 2.0), (3, 1.75)] {
        log.append(&step(at, loss)).unwrap();
    }
    log.append(&Record::new(2, 0, 1).with("eval/acc", 0.5)).unwrap();
    drop(log);
    let path = broken.path().join("metrics.jsonl");
    let mut content = fs::read_to_string(&path).unwrap();
    content.push_str("{\"step\":2,\"epo");
    fs::write(&path, content).unwrap();

    let mut log = MetricsLog::resume(broken.path(), &recipe(), 2).unwrap();
    assert_eq!(losses(broken.path()), [(1, 3.0), (2, 2.0)]);
    for (at, loss) in [(3, 1.5), (4, 1.25)] {
        log.append(&step(at, loss)).unwrap();
    }
    assert_eq!(losses(broken.path()), losses(unbroken.path()));

    let csv = fs::read_to_string(broken.path().join("metrics.csv")).unwrap();
    let steps: Vec<&str> = csv.lines().map(|line| line.split(',').next().unwrap()).collect();
    assert_eq!(steps, ["step", "1", "2", "2", "3", "4"]);
    assert_eq!(csv.lines().nth(3), Some("2,0,1,,,,,,,0.5,,,,,,,"));
    assert_eq!(event_files(broken.path()).len(), 2);
}

#[test]
fn resuming_many_times_in_one_second_keeps_event_files_in_order() {
    let folder = tempfile::tempdir().unwrap();
    MetricsLog::create(folder.path(), &recipe()).unwrap();
    let first = event_files(folder.path())[0].clone();
    MetricsLog::resume(folder.path(), &recipe(), 0).unwrap();
    MetricsLog::resume(folder.path(), &recipe(), 0).unwrap();
    let names = event_files(folder.path());
    assert_eq!(names.len(), 3);
    assert_eq!(names[0], first);
}

/// A fast JSON reader may be off by one in the last bit, as serde_json is by default for this number.
#[test]
fn resuming_keeps_the_last_bit_of_a_loss() {
    let folder = tempfile::tempdir().unwrap();
    MetricsLog::create(folder.path(), &recipe())
        .unwrap()
        .append(&step(1, 0.9433178485456247))
        .unwrap();
    let before = fs::read(folder.path().join("metrics.jsonl")).unwrap();
    MetricsLog::resume(folder.path(), &recipe(), 1).unwrap();
    assert_eq!(fs::read(folder.path().join("metrics.jsonl")).unwrap(), before);
}

#[test]
fn resuming_without_metrics_starts_them() {
    let folder = tempfile::tempdir().unwrap();
    let mut log = MetricsLog::resume(folder.path(), &recipe(), 5).unwrap();
    log.append(&step(6, 1.0)).unwrap();
    assert_eq!(losses(folder.path()), [(6, 1.0)]);
}

#[test]
fn a_new_run_in_an_old_folder_starts_empty() {
    let folder = tempfile::tempdir().unwrap();
    MetricsLog::create(folder.path(), &recipe()).unwrap().append(&step(1, 9.0)).unwrap();
    MetricsLog::create(folder.path(), &recipe()).unwrap().append(&step(1, 1.0)).unwrap();
    assert_eq!(losses(folder.path()), [(1, 1.0)]);
    let csv = fs::read_to_string(folder.path().join("metrics.csv")).unwrap();
    assert_eq!(csv.lines().count(), 2);
}

#[test]
fn values_that_are_not_finite_survive() {
    let folder = tempfile::tempdir().unwrap();
    let mut log = MetricsLog::create(folder.path(), &recipe()).unwrap();
    log.append(&step(1, f64::NAN)).unwrap();
    let records = read_metrics(&folder.path().join("metrics.jsonl")).unwrap();
    assert!(records[0].get("loss").unwrap().is_nan());
    assert_eq!(records[0].get("lr"), Some(1e-4));
}

#[test]
fn damage_before_the_last_line_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("metrics.jsonl");
    fs::write(
        &path,
        "{\"step\":1,\"epoch\":0,\"stage\":0}\n{\"step\"\n{\"step\":2,\"epoch\":0,\"stage\":0}\n",
    )
    .unwrap();
    let error = MetricsLog::resume(folder.path(), &recipe(), 9).unwrap_err();
    assert!(matches!(&error, Error::Input { place, .. } if place == "line 2"), "{error}");
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_an_error_that_says_so() {
    for name in ["metrics.jsonl", "metrics.csv"] {
        let folder = tempfile::tempdir().unwrap();
        let mut log = MetricsLog::create(folder.path(), &recipe()).unwrap();
        log.append(&step(1, 1.0)).unwrap();
        drop(log);

        // /dev/full takes everything that is opened and nothing that is written.
        let path = folder.path().join(name);
        let partial = folder.path().join(format!("{name}.partial"));
        std::os::unix::fs::symlink("/dev/full", &partial).unwrap();
        let error = MetricsLog::resume(folder.path(), &recipe(), 1).unwrap_err();
        assert!(matches!(error, Error::Io { .. }), "{error}");
        assert!(error.to_string().contains("Free some space"), "{error}");
        // What was complete before is intact.
        assert!(fs::read_to_string(path).unwrap().lines().count() >= 1);
        assert_eq!(losses(folder.path()), [(1, 1.0)]);
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_disk_that_fills_up_while_running_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink("/dev/full", folder.path().join("metrics.jsonl")).unwrap();
    let mut log = MetricsLog::create(folder.path(), &recipe()).unwrap();
    let error = log.append(&step(1, 1.0)).unwrap_err();
    assert!(matches!(error, Error::Io { action: "write", .. }), "{error}");
    assert!(error.to_string().contains("metrics.jsonl"), "{error}");
}

/// `PYTHON=…/bin/python cargo test --release --test it tensorboard_reads -- --ignored`
#[test]
#[ignore = "needs Python with the tensorboard package"]
fn tensorboard_reads_what_was_written() {
    let folder = tempfile::tempdir().unwrap();
    let mut log = MetricsLog::create(folder.path(), &recipe()).unwrap();
    for at in 1..=300 {
        log.append(&step(at, 9.0)).unwrap();
    }
    drop(log);
    // Steps 201 to 300 are done again and must replace what the first event file says of them.
    let mut log = MetricsLog::resume(folder.path(), &recipe(), 200).unwrap();
    for at in 201..=260 {
        log.append(&step(at, 1.0 / at as f64)).unwrap();
    }
    log.append(&Record::new(260, 0, 1).with("eval/acc", 0.75)).unwrap();

    let python = std::env::var("PYTHON").unwrap_or_else(|_| "python3".into());
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../dev/check_tensorboard.py");
    let output =
        std::process::Command::new(python).arg(script).arg(folder.path()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    println!("{}", String::from_utf8_lossy(&output.stdout));
}
