//! `coconut sweep` as its users meet it.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use assert_cmd::assert::{Assert, OutputAssertExt};
use coconut::sweep::{Plan, Request};
use serde_json::Value;
use tempfile::TempDir;

use crate::program::{interrupted, wait_until};

const RECIPE: &str = "
name: s
coconut: True
task: arithmetic
operands: [0, 9]
operations: [2, 2]
modulus: 10
value_steps: True
train_examples: 200
val_examples: 20
n_layer: 1
n_embd: 16
n_head: 2
max_latent_stage: 1
num_epochs: 3
batch_size_training: 20
lr: 1e-3
eval_at: stage
";

struct Place(TempDir);

impl Place {
    fn new(more: &str) -> Self {
        let place = Self(tempfile::tempdir().unwrap());
        let runs = place.path("runs");
        let recipe = format!("{RECIPE}save_path: {}\n{more}", runs.display());
        fs::write(place.path("recipe.yaml"), recipe).unwrap();
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn sweep(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_coconut"));
        command.arg("sweep").arg(self.path("recipe.yaml")).args(args).stdin(Stdio::null());
        command
    }

    fn folder(&self) -> PathBuf {
        self.path("runs/s")
    }

    fn summary(&self) -> Value {
        read_json(&self.folder().join("sweep.json"))
    }
}

fn read_json(path: &Path) -> Value {
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

fn text(assert: &Assert) -> (String, String) {
    let output = assert.get_output();
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (text(&output.stdout), text(&output.stderr))
}

fn variants(summary: &Value) -> Vec<&Value> {
    let groups = summary["groups"].as_array().unwrap();
    groups.iter().flat_map(|group| group["variants"].as_array().unwrap()).collect()
}

/// When each file of a kind was last written.
fn written(folder: &Path, name: &str) -> BTreeMap<PathBuf, std::time::SystemTime> {
    let runs = fs::read_dir(folder).unwrap().flatten().map(|entry| entry.path().join(name));
    let files = runs.filter(|path| path.is_file());
    files.map(|path| (path.clone(), path.metadata().unwrap().modified().unwrap())).collect()
}

#[test]
fn trains_the_grid_once_and_tells_of_it_four_ways() {
    let place = Place::new("");
    let grid = [
        "--over",
        "replacement_method=hs[-1],zero",
        "--over",
        "lr=1e-3",
        "--seeds",
        "0,1",
        "--jobs",
        "2",
    ];
    let (printed, _) = text(&place.sweep(&grid).assert().success());
    let folder = place.folder();
    for run in ["hs_-1_lr=0.001-seed0", "hs_-1_lr=0.001-seed1", "zero_lr=0.001-seed1"] {
        assert!(folder.join(run).join("results.json").is_file(), "{run}");
    }
    assert!(printed.contains("hs[-1], lr=0.001") && printed.contains(" ± "), "{printed}");
    assert!(printed.contains("last evaluation") && printed.contains("Holm"), "{printed}");
    assert_eq!(fs::read_to_string(folder.join("sweep.csv")).unwrap().lines().count(), 3);
    assert!(fs::read_to_string(folder.join("sweep.md")).unwrap().contains("| --- |"));
    let figure = fs::read_to_string(folder.join("sweep.svg")).unwrap();
    assert!(figure.starts_with("<svg") && figure.contains("zero, lr=0.001"));

    // Numbers are those of the runs.
    let summary = place.summary();
    let found = variants(&summary);
    assert_eq!(found.len(), 2);
    for variant in found {
        let mut accuracies = Vec::new();
        for run in variant["folders"].as_array().unwrap() {
            let results = read_json(&Path::new(run.as_str().unwrap()).join("results.json"));
            let last = results["rows"].as_array().unwrap().last().unwrap().clone();
            assert_eq!((&last["stage"], &variant["stage"]), (&Value::from(2), &Value::from(2)));
            accuracies.push(last["eval_acc"].as_f64().unwrap());
        }
        let mean = accuracies.iter().sum::<f64>() / 2.0;
        let error = (accuracies[0] - accuracies[1]).abs() / 2.0; // of two values: |a - b| / 2
        assert!((variant["accuracy"]["mean"].as_f64().unwrap() - mean).abs() < 1e-12);
        let found = variant["accuracy"]["standard_error"].as_f64().unwrap();
        assert!((found - error).abs() < 1e-12);
        // Solved: both seeds if the share that is asked for is the lower one's, one if it is the higher one's.
        let solved = |share: f64| {
            let share = share.to_string();
            let grid = [grid.as_slice(), &["--solved", &share, "--json"]].concat();
            let (printed, _) = text(&place.sweep(&grid).assert().success());
            let summary: Value = serde_json::from_str(printed.trim()).unwrap();
            let same = |other: &&Value| other["label"] == variant["label"];
            variants(&summary).into_iter().find(same).unwrap()["n_solved"].as_u64().unwrap()
        };
        let (low, high) = (accuracies[0].min(accuracies[1]), accuracies[0].max(accuracies[1]));
        assert_eq!(solved(low), 2);
        assert_eq!(solved(high), if low == high { 2 } else { 1 });
    }

    // Again: nothing is trained, the same is told.
    let before = written(&folder, "metrics.jsonl");
    let (again, told) = text(&place.sweep(&grid).assert().success());
    assert_eq!(again, printed);
    assert!(told.contains("4 of 4 runs were done before"), "{told}");
    assert_eq!(written(&folder, "metrics.jsonl"), before);
    // One more seed: only its runs are trained.
    let grid = [&grid[..5], &["0,1,2"]].concat();
    place.sweep(&grid).assert().success();
    let after = written(&folder, "metrics.jsonl");
    assert_eq!(after.len(), 6);
    assert!(before.iter().all(|(path, time)| after[path] == *time));
}

#[test]
fn a_failed_run_is_told_of_and_the_others_go_on() {
    let place = Place::new("");
    let grid = ["--over", "method=cot", "--over", "lr=1e9,1e-3", "--json"];
    let (printed, told) = text(&place.sweep(&grid).assert().code(1));
    assert!(told.contains("failed: cot, lr=1000000000.0, seed 0"), "{told}");
    assert!(told.contains("1 of 2 runs failed"), "{told}");
    let summary: Value = serde_json::from_str(&printed).unwrap();
    assert_eq!(summary, place.summary());
    let failure = summary["failures"][0].as_str().unwrap();
    assert!(failure.contains("not finite"), "{failure}");
    let seeds = |label: &str| {
        let found = variants(&summary).into_iter().find(|v| v["label"] == label);
        found.unwrap()["seeds"].as_array().unwrap().len()
    };
    assert_eq!((seeds("cot, lr=0.001"), seeds("cot, lr=1000000000.0")), (1, 0));
}

/// Two runs of 600 steps each.
const LONG: [&str; 6] =
    ["-s", "train_examples=4000", "-s", "save_steps=5", "--over", "method=cot,no_cot"];

/// Lines in the first one's metrics.
fn lines(place: &Place) -> usize {
    let metrics = place.folder().join("cot-seed0/metrics.jsonl");
    fs::read_to_string(metrics).map_or(0, |text| text.lines().count())
}

/// Starts them, and waits for the first steps.
fn begun(place: &Place) -> Child {
    let mut command = place.sweep(&LONG);
    let child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    wait_until("20 steps", || lines(place) >= 20);
    child
}

/// Runs the sweep again: the first run goes on from where it was.
fn goes_on(place: &Place) {
    assert!(lines(place) < 600, "nothing is left to resume");
    let (listed, _) = text(&place.sweep(&[&LONG[..], &["--dry-run"]].concat()).assert().success());
    assert!(listed.contains("begun") && listed.contains("to do"), "{listed}");
    place.sweep(&LONG).assert().success();
    let metrics = fs::read_to_string(place.folder().join("cot-seed0/metrics.jsonl")).unwrap();
    let steps: Vec<u64> = (metrics.lines())
        .map(|line| serde_json::from_str::<Value>(line).unwrap())
        .filter(|record| record.get("loss").is_some())
        .map(|record| record["step"].as_u64().unwrap())
        .collect();
    assert_eq!(steps, (1..=600).collect::<Vec<_>>());
}

#[cfg(unix)]
#[test]
fn ctrl_c_saves_every_run_and_the_sweep_goes_on_from_there() {
    let place = Place::new("");
    let child = begun(&place);
    let told = interrupted(child);
    assert!(told.contains("every run is saved"), "{told}");
    let errors = fs::read_to_string(place.folder().join("cot-seed0/errors.txt")).unwrap();
    assert!(errors.contains("saved"), "{errors}");
    assert!(
        !place.folder().join("no_cot-seed0/metrics.jsonl").exists(),
        "a run was begun after it"
    );
    goes_on(&place);
}

#[test]
fn a_killed_sweep_goes_on_from_where_it_was() {
    let place = Place::new("");
    let mut child = begun(&place);
    let start = Instant::now();
    child.kill().unwrap();
    child.wait().unwrap();
    // The run's own process sees that the sweep is gone, saves and ends.
    let folder = place.folder();
    let ended =
        || fs::read_to_string(folder.join("cot-seed0/errors.txt")).unwrap().contains("saved");
    while !ended() {
        assert!(start.elapsed() < Duration::from_secs(60), "the run outlives its sweep");
        sleep(Duration::from_millis(10));
    }
    goes_on(&place);
}

#[test]
fn a_recipe_may_hold_the_grid_and_cells_of_several_keys() {
    let place = Place::new(
        "sweep:
  seeds: [3, 4]
  against: plain
  over:
    task:
      - {label: short, operations: [2, 2]}
      - {label: long, operations: [3, 3]}
    variant:
      - {label: plain, replacement_method: zero}
      - {label: none, method: no_cot}
",
    );
    let (listed, _) = text(&place.sweep(&["--dry-run"]).assert().success());
    assert_eq!(listed.lines().count(), 8, "{listed}");
    assert!(!place.folder().exists());
    place.sweep(&["--seeds", "3"]).assert().success();
    let summary = place.summary();
    let groups = summary["groups"].as_array().unwrap();
    let titles: Vec<&str> = groups.iter().map(|group| group["title"].as_str().unwrap()).collect();
    assert_eq!(titles, ["short", "long"], "different questions are not compared");
    for group in groups {
        assert_eq!(group["n_comparisons"], 1);
        let of = |label: &str| {
            let all = group["variants"].as_array().unwrap();
            all.iter().find(|variant| variant["label"] == label).unwrap()["comparison"].clone()
        };
        assert!(of("plain").is_null());
        let comparison = of("none");
        assert_eq!(comparison["with"], "plain");
        assert!(comparison["p_seeds"].is_null(), "one seed says nothing of seeds");

        // Discordant answers, counted anew from the samples.
        let answers = |name: &str| -> BTreeMap<u64, bool> {
            let folder = format!("{}_{name}-seed3", group["title"].as_str().unwrap());
            let samples = fs::read_to_string(place.folder().join(folder).join("samples.jsonl"));
            let samples = samples.unwrap();
            let samples = samples.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
            let last = samples.filter(|sample| sample["epoch"] == 2);
            last.map(|s| (s["index"].as_u64().unwrap(), s["correct"].as_bool().unwrap())).collect()
        };
        let (none, plain) = (answers("none"), answers("plain"));
        let count = |a: &BTreeMap<u64, bool>, b: &BTreeMap<u64, bool>| {
            a.iter().filter(|(index, right)| **right && !b[index]).count()
        };
        assert_eq!(none.len(), 20);
        assert_eq!(comparison["only_this"], count(&none, &plain));
        assert_eq!(comparison["only_reference"], count(&plain, &none));
    }

    // Half of a run's last samples are gone: said, and that seed is not paired.
    let samples = place.folder().join("short_none-seed3/samples.jsonl");
    let lines = fs::read_to_string(&samples).unwrap();
    let lines: Vec<&str> = lines.lines().collect();
    fs::write(&samples, lines[..lines.len() - 10].join("\n") + "\n").unwrap();
    let (table, _) = text(&place.sweep(&["--seeds", "3"]).assert().success());
    assert!(table.contains("10 of the 20 answers") && table.contains("Not paired"), "{table}");
    let short = place.summary()["groups"][0]["variants"].clone();
    let compared = short.as_array().unwrap().iter().find(|v| v["label"] == "none").unwrap();
    assert_eq!(compared["comparison"]["n_paired_seeds"], 0);
    assert!(compared["comparison"]["p_questions"].is_null());
}

#[test]
fn faults_are_named_before_anything_is_trained() {
    let place = Place::new("");
    let refused = |args: &[&str], parts: &[&str]| {
        let (_, told) = text(&place.sweep(args).assert().code(2));
        for part in parts {
            assert!(told.contains(part), "{part:?} is missing from {told:?}");
        }
    };
    refused(&["--over", "lr=1e-3,fast"], &["the variant `fast`", "`lr`"]);
    refused(&["--over", "lrr=1"], &["`lrr`", "`lr`"]);
    refused(&["--over", "x=a(b"], &["not closed", "^"]);
    refused(&["--over", "lr=1,2", "-s", "lr=3"], &["-s lr=3", "--over lr"]);
    refused(&["--over", "lr=1,1"], &["twice", "label"]);
    refused(&["--over", "lr=1,2", "--against", "three"], &["--against three", "lr=1; lr=2"]);
    refused(&["--seeds", "a"], &["--seeds"]);
    assert!(!place.path("runs").exists());

    place.sweep(&["--over", "lr=1e-3"]).assert().success();
    let other = ["--over", "lr=1e-3", "-s", "n_embd=8"];
    refused(&other, &["other settings of `n_embd`", "--overwrite"]);
    place.sweep(&[&other[..], &["--overwrite"]].concat()).assert().success();

    let sweep = Place::new("sweep: {over: {lr: 1}}\n");
    let (_, told) = text(&sweep.sweep(&[]).assert().code(2));
    assert!(told.contains("`sweep`") && told.contains("not a list"), "{told}");
    let mut train = Command::new(env!("CARGO_BIN_EXE_coconut"));
    train.arg("train").arg(sweep.path("recipe.yaml"));
    let (_, told) = text(&train.assert().code(2));
    assert!(told.contains("coconut sweep"), "{told}");
}

#[test]
fn what_the_axes_give_the_recipe_need_not() {
    let place = Place::new("");
    let recipe = "
name: s
sweep:
  over:
    task:
      - {label: sums, task: arithmetic, operations: [2, 2]}
      - {label: graphs, task: graph, nodes: 10}
";
    fs::write(place.path("recipe.yaml"), recipe).unwrap();
    let (listed, _) = text(&place.sweep(&["--dry-run"]).assert().success());
    assert_eq!(listed.lines().count(), 2, "{listed}");
}

/// The values of a key in the variants of a sweep, by their labels.
fn values(place: &Place, over: &[&str], set: &[&str], key: &str) -> Vec<(String, Value)> {
    let texts = |texts: &[&str]| texts.iter().map(|&text| text.to_owned()).collect::<Vec<_>>();
    let request = Request { over: texts(over), set: texts(set), ..Request::default() };
    let plan = Plan::load(&place.path("recipe.yaml"), &request).unwrap();
    let value = |config: &coconut::config::RunConfig| config.to_json().unwrap()[key].clone();
    plan.cells.iter().map(|cell| (cell.label(), value(&cell.runs[0].config))).collect()
}

#[test]
fn every_method_of_an_axis_has_its_own_preset() {
    let place = Place::new("sweep: {over: {method: [coconut, lotus, codi, icot]}}\n");
    let of = |key: &str, set: &[&str]| -> Vec<Value> {
        values(&place, &[], set, key).into_iter().map(|(_, value)| value).collect()
    };
    let labels: Vec<String> = values(&place, &[], &[], "row").into_iter().map(|x| x.0).collect();
    assert_eq!(labels, ["coconut", "lotus", "codi", "icot"]);
    assert_eq!(of("row", &[]), ["stages", "blocks", "fixed", "tokenwise"]);
    assert_eq!(of("thinking", &[]), ["sequential", "parallel", "sequential", "none"]);
    assert_eq!(of("c_thought", &[]), [1, 13, 6, 1]);
    assert_eq!(of("loss_steps", &[]), [0.0, 0.05, 0.0, 0.0]);
    assert_eq!(of("loss_distil", &[]), [0.0, 0.0, 1.0, 0.0]);
    // The recipe has this key: its value is everybody's. So is that of an override.
    assert_eq!(of("max_latent_stage", &[]), [1, 1, 1, 1]);
    assert_eq!(of("c_thought", &["c_thought=2"]), [2, 2, 2, 2]);

    let keys = |over: &str, set: &[&str], key: &str| values(&place, &[over], set, key);
    let set = ["pad_latent_to_max=True"];
    let found = keys("method=pccot,lotus", &set, "iterations");
    assert_eq!(found, [("pccot".into(), 3.into()), ("lotus".into(), "stage".into())]);
    let over = ["method=lotus", "iterations=1,2,3"];
    let found: Vec<Value> =
        values(&place, &over, &[], "iterations").into_iter().map(|x| x.1).collect();
    assert_eq!(found, [1, 2, 3]);
    let over = ["method=coconut", "thinking=none,sequential"];
    let found: Vec<Value> =
        values(&place, &over, &[], "thinking").into_iter().map(|x| x.1).collect();
    assert_eq!(found, ["none", "sequential"]);
}

#[test]
fn methods_are_swept_side_by_side() {
    let place = Place::new(
        "c_thought: 2
sweep:
  against: lotus, R = 1
  over:
    variant:
      - {label: coconut, method: coconut}
      - {label: unfed, method: coconut, thinking: none}
      - {label: codi, method: codi}
      - {label: \"lotus, R = 1\", method: lotus, iterations: 1}
      - {label: \"lotus, R = 2\", method: lotus, iterations: 2}
",
    );
    place.sweep(&["-s", "train_examples=40"]).assert().success();
    let summary = place.summary();
    assert_eq!(summary["groups"].as_array().unwrap().len(), 1, "all answer the same questions");
    assert_eq!(variants(&summary).len(), 5);
    assert!(summary["failures"].as_array().unwrap().is_empty());
    let config = place.folder().join("codi-seed0/config.yaml");
    let config = fs::read_to_string(config).unwrap();
    for line in ["row: fixed", "c_thought: 2", "loss_distil: 1.0"] {
        assert!(config.contains(line), "{line} is not in {config}");
    }
    // What was done stands: the presets are those of the first time.
    let (_, told) = text(&place.sweep(&["-s", "train_examples=40"]).assert().success());
    assert!(told.contains("5 of 5 runs were done before"), "{told}");
}
