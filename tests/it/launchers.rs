//! Runs of a sweep that another queue trains: Slurm, here three stand-ins for its programs (`dev/check_slurm.sh` has the
//! real one), and any command.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    process::{Command, Stdio},
};

use assert_cmd::assert::OutputAssertExt;
use serde_json::Value;

use crate::program::{Place, coconut, refused, stderr, stdout, train};

/// Two runs.
const GRID: [&str; 2] = ["--over", "method=cot,no_cot"];

struct Queue(Place);

impl Queue {
    fn new() -> Self {
        let queue = Self(Place::new());
        queue.0.recipe(&[("num_epochs", "2"), ("cot_epochs", "2"), ("name", "s")]);
        queue
    }

    fn sweep(&self, more: &[&str]) -> Command {
        let mut command = coconut(["sweep"]);
        command.arg(self.0.path("recipe.yaml")).args(GRID).args(more);
        command
    }

    /// The sweep on Slurm, whose `sbatch` notes that it was called and does `then`, and whose `squeue` prints `queue.txt`.
    fn on_slurm(&self, then: &str, more: &[&str]) -> Command {
        let folder = self.0.path("bin");
        fs::create_dir_all(&folder).unwrap();
        let place = self.0.folder().display();
        let program = |name: &str, body: String| {
            let path = folder.join(name);
            fs::write(&path, format!("#!/bin/bash\n{body}\n")).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        };
        program("squeue", format!("cat {place}/queue.txt 2>/dev/null || true"));
        // $2 is the script. Its job's number is the count of calls.
        program(
            "sbatch",
            format!("echo $* >> {place}/calls; job=$(wc -l < {place}/calls); {then}; echo $job"),
        );
        let mut command = self.sweep(&["--launcher", "slurm"]);
        let path = std::env::var("PATH").unwrap();
        command.args(more).env("PATH", format!("{}:{path}", folder.display()));
        command
    }

    fn folder(&self) -> PathBuf {
        self.0.path("runs/s")
    }

    fn calls(&self) -> usize {
        fs::read_to_string(self.0.path("calls")).map_or(0, |calls| calls.lines().count())
    }

    fn seeds_in_table(&self) -> usize {
        let text = fs::read_to_string(self.folder().join("sweep.json")).unwrap();
        let summary: Value = serde_json::from_str(&text).unwrap();
        let variants = summary["groups"][0]["variants"].as_array().unwrap();
        variants.iter().map(|variant| variant["seeds"].as_array().unwrap().len()).sum()
    }
}

/// What Slurm does with an array job: each task with its number, its output in a log beside the script.
const TRAIN_ALL: &str = r#"
last=$(sed -n 's/^#SBATCH --array=0-\([0-9]*\).*/\1/p' "$2")
for task in $(seq 0 "$last"); do
    SLURM_ARRAY_TASK_ID=$task bash "$2" > "$(dirname "$2")/${job}_$task.log" 2>&1
done"#;

#[test]
fn an_array_job_is_shown_before_it_is_submitted() {
    let queue = Queue::new();
    let more = [
        "--dry-run",
        "--partition",
        "gpu",
        "--time",
        "4:00:00",
        "--memory",
        "8G",
        "--cpus",
        "2",
        "--gres",
        "gpu:1",
        "--jobs",
        "3",
        "--sbatch=--account=lab",
        "--grace",
        "60",
    ];
    let shown = stdout(&queue.sweep(&["--launcher", "slurm"]).args(more).assert().success());
    assert!(!queue.folder().exists(), "a dry run writes nothing");
    let options: Vec<&str> =
        shown.lines().filter_map(|line| line.strip_prefix("#SBATCH --")).collect();
    for option in [
        "job-name=s",
        "array=0-1%3",
        "open-mode=append",
        "requeue",
        "signal=B:TERM@60",
        "partition=gpu",
        "time=4:00:00",
        "mem=8G",
        "cpus-per-task=2",
        "gres=gpu:1",
        "account=lab",
    ] {
        assert!(options.contains(&option), "{option} is missing from {options:?}");
    }
    assert!(shown.contains("export RAYON_NUM_THREADS=2\n"), "{shown}");
    assert!(shown.contains("    cot-seed0\n    no_cot-seed0\n"), "{shown}");
    assert!(shown.lines().all(|line| line.chars().count() < 200), "{shown}");
}

#[test]
fn a_name_that_a_shell_would_take_apart_comes_through() {
    let queue = Queue::new();
    let name = "it's 100% $HOME \"quoted\"";
    let set = format!("name={name}");
    let assert = queue.on_slurm(TRAIN_ALL, &["-s", &set, "--wait"]).assert().success();
    assert!(stdout(&assert).contains("no_cot"), "{}", stderr(&assert));
    assert!(queue.0.path("runs").join(name).join("cot-seed0/results.json").exists());
    // As sbatch reads it: quotes around, a backslash before a quote, percent signs twice.
    let script = fs::read_to_string(queue.0.path("runs").join(name).join("queue/job.sh")).unwrap();
    let output = script.lines().find(|line| line.starts_with("#SBATCH --output=")).unwrap();
    assert!(output.ends_with("/it's 100%% $HOME \\\"quoted\\\"/queue/%A_%a.log\""), "{output}");
}

#[test]
fn what_is_done_or_in_the_queue_is_not_submitted_again() {
    let queue = Queue::new();
    // Submitted, and waiting: nothing is trained yet.
    let waits =
        format!("printf '1 0 RUNNING\\n1 1 PENDING\\n' > {}", queue.0.path("queue.txt").display());
    let first = queue.on_slurm(&waits, &[]).assert().success();
    assert!(stderr(&first).contains("submitted 2 of 2 runs as job 1"), "{}", stderr(&first));
    let second = queue.on_slurm("true", &[]).assert().success();
    assert!(stderr(&second).contains("2 of 2 runs are waiting"), "{}", stderr(&second));
    assert_eq!(queue.calls(), 1);

    // One of them ran into its time limit, as Slurm words it; the other is still there.
    fs::write(queue.0.path("queue.txt"), "1 1 RUNNING\n").unwrap();
    let killed = "slurmstepd: error: *** JOB 7 ON n1 CANCELLED AT 2026-01-01T00:00:00 DUE TO TIME LIMIT ***\n";
    fs::write(queue.folder().join("queue/1_0.log"), killed).unwrap();
    let third = queue.on_slurm(TRAIN_ALL, &[]).assert().success();
    let told = stderr(&third);
    assert!(told.contains("again: cot-seed0 (task 0 of job 1): *** JOB 7"), "{told}");
    assert!(told.contains("DUE TO TIME LIMIT") && told.contains("submitted 1 of 2"), "{told}");
    assert_eq!((queue.calls(), queue.seeds_in_table()), (2, 1));

    // The other one failed; both are done in the end.
    fs::write(queue.0.path("queue.txt"), "").unwrap();
    let fourth = queue.on_slurm(TRAIN_ALL, &["--wait"]).assert().success();
    assert!(stderr(&fourth).contains("again: no_cot-seed0"), "{}", stderr(&fourth));
    assert_eq!((queue.calls(), queue.seeds_in_table()), (3, 2));
    queue.on_slurm("true", &[]).assert().success();
    assert_eq!(queue.calls(), 3, "everything is done");
    // Nothing of it differs from runs of one's own processes.
    let here = stdout(&queue.sweep(&[]).assert().success());
    let there = stdout(&queue.on_slurm("true", &[]).assert().success());
    assert_eq!(here, there);
}

#[test]
fn a_run_that_fails_on_the_cluster_is_told_of() {
    let queue = Queue::new();
    let lr = ["-s", "lr=1e9", "--wait"];
    let told = stderr(&queue.on_slurm(TRAIN_ALL, &lr).assert().code(1));
    assert!(told.contains("failed: cot, seed 0 (task 0 of job 1): the "), "{told}");
    assert!(told.contains("is not finite") && told.contains("2 of 2 runs failed"), "{told}");
}

#[test]
fn what_slurm_refuses_is_told_in_its_words() {
    let queue = Queue::new();
    let mut command = queue.on_slurm("echo 'invalid partition specified: x' >&2; exit 1", &[]);
    let told = stderr(&command.assert().code(1));
    assert!(told.contains("sbatch refused: invalid partition specified: x"), "{told}");
    let mut without = queue.sweep(&["--launcher", "slurm"]);
    without.env("PATH", queue.0.path("nowhere"));
    refused(without, &["no `squeue`", "--launcher here"]);
    refused(queue.sweep(&["--partition", "gpu"]), &["--partition", "--launcher slurm"]);
    refused(queue.sweep(&["--launcher", "pbs"]), &["pbs", "command:TEXT"]);
    refused(queue.sweep(&["--launcher", "slurm", "--sbatch", "account"]), &["--sbatch=--account"]);
}

#[test]
fn any_command_may_train_runs() {
    let queue = Queue::new();
    let mark = queue.0.path("mark");
    let wrap = format!("command:echo x >> {} && {{command}} && true", mark.display());
    let first = queue.sweep(&["--launcher", &wrap, "--jobs", "2"]).assert().success();
    assert!(stdout(&first).contains("cot"), "{}", stdout(&first));
    assert_eq!(fs::read_to_string(&mark).unwrap().lines().count(), 2);
    assert_eq!(queue.seeds_in_table(), 2);
    queue.sweep(&["--launcher", &wrap]).assert().success();
    assert_eq!(fs::read_to_string(&mark).unwrap().lines().count(), 2, "all was done");

    // Without a place of its own, the run's command stands at the end.
    let queue = Queue::new();
    queue.sweep(&["--launcher", "command:env MARK=1"]).assert().success();
    assert_eq!(queue.seeds_in_table(), 2);

    // A command that only takes the run for later, and one that fails.
    let queue = Queue::new();
    let told = stderr(&queue.sweep(&["--launcher", "command:true"]).assert().success());
    assert!(told.contains("handed over: cot, seed 0"), "{told}");
    assert!(told.contains("2 of 2 runs are waiting"), "{told}");
    let fails = "command:echo error: no such queue >&2; false";
    let told = stderr(&queue.sweep(&["--launcher", fails]).assert().code(1));
    assert!(told.contains("no such queue") && told.contains("2 of 2 runs failed"), "{told}");
}

#[test]
fn a_run_goes_on_or_begins_as_it_stands() {
    let place = Place::new();
    let recipe = place.recipe(&[("save_steps", "3")]);
    let metrics = place.run().join("metrics.jsonl");
    // Killed before its first checkpoint: begun anew.
    fs::create_dir_all(place.run()).unwrap();
    fs::write(&metrics, "{\"step\":1,\"epoch\":0,\"stage\":-1,\"loss\":99.0}\n").unwrap();
    train(&recipe, &["--go-on"]).assert().success();
    let first = fs::read_to_string(&metrics).unwrap();
    // The whole figure: a rate or a time may well hold these digits.
    assert!(!first.contains("\"loss\":99.0"), "{first}");
    // Done: nothing is trained.
    train(&recipe, &["--go-on"]).stdout(Stdio::null()).assert().success();
    assert_eq!(fs::read_to_string(&metrics).unwrap(), first);
    refused(train(&recipe, &["--go-on", "--resume"]), &["--go-on", "--resume"]);
}
