//! A run that is killed before any change of any of its files, and each of its resumed starts too, ends as the
//! one that was left alone: the same losses, rows, samples and weights.

use std::{
    fs,
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use serde_json::Value;
use tempfile::TempDir;

use crate::program::{Place, train};

/// The shim that kills, compiled.
fn shim(folder: &Path) -> PathBuf {
    let (source, library) =
        (Path::new(crate::ROOT).join("tests/it/kill.c"), folder.join("kill.so"));
    let compiled = Command::new("cc")
        .args(["-shared", "-fPIC", "-O1", "-o"])
        .arg(&library)
        .arg(&source)
        .status();
    assert!(compiled.unwrap().success());
    library
}

struct Killer {
    folder: TempDir,
    shim: PathBuf,
}

impl Killer {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let shim = shim(folder.path());
        Self { folder, shim }
    }

    /// Runs, killed before change `at` if one is given.
    fn run(&self, place: &Place, flags: &[&str], at: Option<usize>) -> Output {
        let mut command = train(&place.path("recipe.yaml"), flags);
        command.env("LD_PRELOAD", &self.shim).env("RAYON_NUM_THREADS", "1");
        command.env("KILL_UNDER", place.path("runs"));
        match at {
            Some(at) => command.env("KILL_AT", at.to_string()),
            None => command.env("KILL_COUNT", self.folder.path().join("count")),
        };
        command.output().unwrap()
    }

    /// How many changes the run before made, which was left alone.
    fn count(&self) -> usize {
        fs::read_to_string(self.folder.path().join("count")).unwrap().parse().unwrap()
    }

    /// Goes on to the end after a kill; how often that took another flag than `--resume`.
    fn finish(&self, place: &Place) {
        let resumed = self.run(place, &["--resume"], None);
        if resumed.status.success() {
            return;
        }
        // Killed before its first checkpoint, a run has nothing to resume, and says so.
        let said = String::from_utf8_lossy(&resumed.stderr);
        assert!(resumed.status.code() == Some(2) && said.contains("nothing to resume"), "{said}");
        let fresh = self.run(place, &["--overwrite"], None);
        assert!(fresh.status.success(), "{}", String::from_utf8_lossy(&fresh.stderr));
    }
}

/// Three epochs of one step each, two checkpoints kept, an evaluation an epoch, and a baseline of one epoch more.
fn place() -> Place {
    let place = Place::new();
    place.recipe(&[
        ("train_examples", "4"),
        ("val_examples", "2"),
        ("batch_size_training", "2"),
        ("max_latent_stage", "1"),
        ("num_epochs", "3"),
        ("eval_at", "epoch"),
        ("max_new_tokens", "3"),
        ("n_embd", "4"),
        ("n_head", "1"),
        ("save_steps", "1"),
        ("keep_checkpoints", "1"),
    ]);
    place
}

/// All that a run leaves which does not tell of time or memory.
fn left(place: &Place) -> Vec<(String, String)> {
    let run = place.run();
    let mut found = Vec::new();
    for name in ["metrics.jsonl", "results.json", "samples.jsonl"] {
        let text = fs::read_to_string(run.join(name)).unwrap();
        let timeless = match name {
            "results.json" => timeless(serde_json::from_str(&text).unwrap()).to_string(),
            _ => text
                .lines()
                .map(|line| timeless(serde_json::from_str(line).unwrap()).to_string() + "\n")
                .collect(),
        };
        found.push((name.to_owned(), timeless));
    }
    let config = fs::read_to_string(run.join("config.yaml")).unwrap();
    found.push(("config.yaml".into(), config.replace(&place.path("").display().to_string(), "")));
    let mut checkpoints: Vec<PathBuf> =
        fs::read_dir(run.join("checkpoints")).unwrap().map(|entry| entry.unwrap().path()).collect();
    checkpoints.sort();
    for path in checkpoints {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let weights = fs::read(path.join("model.safetensors")).unwrap();
        let moments = fs::read(path.join("optimizer.safetensors")).unwrap();
        found.push((name, format!("{weights:?} {moments:?}")));
    }
    found
}

fn timeless(mut value: Value) -> Value {
    match &mut value {
        Value::Object(object) => {
            let timed = |key: &str| {
                ["seconds", "per_s", "ms_per", "resident_mb", "save_path"]
                    .iter()
                    .any(|word| key.contains(word))
            };
            object.retain(|key, _| !timed(key));
            object.values_mut().for_each(|value| *value = timeless(value.take()));
        }
        Value::Array(array) => array.iter_mut().for_each(|value| *value = timeless(value.take())),
        _ => {}
    }
    value
}

#[track_caller]
fn assert_same(found: &[(String, String)], expected: &[(String, String)], when: &str) {
    let names =
        |of: &[(String, String)]| of.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
    assert_eq!(names(found), names(expected), "{when}");
    for ((name, found), (_, expected)) in found.iter().zip(expected) {
        assert!(found == expected, "{when}: {name} is\n{found:.2000}\nnot\n{expected:.2000}");
    }
}

/// Every `stride`-th change of a run, and of its start after that.
fn kill_everywhere(stride: usize) {
    let killer = Killer::new();
    let whole = place();
    let output = killer.run(&whole, &[], None);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let (expected, changes) = (left(&whole), killer.count());
    assert!(changes > 100, "only {changes} changes were seen");

    for at in (1..=changes).step_by(stride) {
        let place = place();
        let output = killer.run(&place, &[], Some(at));
        assert_eq!(output.status.signal(), Some(9), "{}", String::from_utf8_lossy(&output.stderr));
        killer.finish(&place);
        assert_same(&left(&place), &expected, &format!("killed before change {at} of {changes}"));
    }
    // Killed in the middle, then in the start that resumes it.
    for at in [changes / 3, changes / 2, changes - 2] {
        let mut again = 1 + at % stride;
        loop {
            let place = place();
            killer.run(&place, &[], Some(at));
            let output = killer.run(&place, &["--resume"], Some(again));
            if output.status.signal() != Some(9) {
                break;
            }
            killer.finish(&place);
            let when =
                format!("killed before change {at}, and before change {again} after resuming");
            assert_same(&left(&place), &expected, &when);
            again += stride;
        }
    }
}

#[test]
fn killed_before_changes_of_its_files_a_run_ends_the_same() {
    kill_everywhere(7);
}

/// Minutes; the other takes some of these.
#[test]
#[ignore = "cargo test --release --test it -- --ignored killed_before_any"]
fn killed_before_any_change_of_its_files_a_run_ends_the_same() {
    kill_everywhere(1);
}
