//! Runs of a sweep as an array job of Slurm: the script, and who is in the queue.

use std::{collections::BTreeMap, path::Path};

/// What each task asks Slurm for; what is absent, the partition decides.
#[derive(Clone, Debug, Default)]
pub struct Resources {
    /// `--partition`.
    pub partition: Option<String>,
    /// `--time`, as Slurm reads it: minutes, `hours:minutes:seconds`, `days-hours`, …
    pub time: Option<String>,
    /// `--mem`, such as `8G`.
    pub memory: Option<String>,
    /// `--cpus-per-task`.
    pub cpus: Option<u16>,
    /// `--gres`: devices, such as `gpu:1`.
    pub gres: Option<String>,
    /// Other options of `sbatch`, each as it stands there: `--account=lab`.
    pub more: Vec<String>,
    /// Seconds before its time is up at which a run is told to save and stop.
    pub grace: u32,
}

/// An array job.
#[derive(Clone, Debug)]
pub struct ArrayJob<'a> {
    /// The sweep's name.
    pub name: &'a str,
    /// The program.
    pub program: &'a Path,
    /// The folder that relative paths start from.
    pub current: &'a Path,
    /// The folder of each run's recipe, `RUN.yaml`, and of logs.
    pub queue: &'a Path,
    /// The runs by name, a task each.
    pub runs: Vec<&'a str>,
    /// Tasks at once, at most.
    pub at_once: Option<u16>,
    /// What each asks for.
    pub resources: &'a Resources,
}

impl ArrayJob<'_> {
    /// The script that `sbatch` takes.
    pub fn script(&self) -> String {
        let resources = self.resources;
        let last = self.runs.len().saturating_sub(1);
        let at_once = self.at_once.map_or(String::new(), |most| format!("%{most}"));
        // In patterns of file names Slurm fills in `%` and a letter.
        let log = self.queue.join("%A_%a.log");
        let log = log.display().to_string().replace('%', "%%").replace("%%A_%%a", "%A_%a");
        let given = |option: &str, value: &Option<String>| {
            value.as_ref().map(|value| format!("--{option}={}", word(value)))
        };
        let mut options = vec![
            format!("--job-name={}", word(self.name)),
            format!("--array=0-{last}{at_once}"),
            format!("--chdir={}", word(&self.current.display().to_string())),
            format!("--output={}", word(&log)),
            "--open-mode=append".into(),
            "--requeue".into(),
            format!("--signal=B:TERM@{}", resources.grace),
        ];
        options.extend(given("partition", &resources.partition));
        options.extend(given("time", &resources.time));
        options.extend(given("mem", &resources.memory));
        options.extend(resources.cpus.map(|cpus| format!("--cpus-per-task={cpus}")));
        options.extend(given("gres", &resources.gres));
        options.extend(resources.more.iter().cloned());
        let options: String = options.iter().map(|option| format!("#SBATCH {option}\n")).collect();
        let runs: String = self.runs.iter().map(|run| format!("    {}\n", quoted(run))).collect();
        let threads = resources
            .cpus
            .map_or(String::new(), |cpus| format!("\nexport RAYON_NUM_THREADS={cpus}\n"));
        let program = quoted(&self.program.display().to_string());
        let queue = quoted(&self.queue.display().to_string());
        format!(
            "#!/bin/bash
# A sweep's runs as an array job, a task each. `coconut sweep … --launcher slurm` wrote this file. The same command shows
# what has come of them, and submits again what has not come to its end.
{options}
runs=(
{runs})
run=${{runs[$SLURM_ARRAY_TASK_ID]}}
{threads}
# Told to stop (SIGTERM), the program saves and ends; started again, it goes on from there.
exec {program} train {queue}/\"$run\".yaml --go-on
"
        )
    }
}

/// A value in a line `#SBATCH --option=value`.
fn word(value: &str) -> String {
    let plain = |c: char| !c.is_whitespace() && !"\"'#\\".contains(c);
    match value.chars().all(plain) {
        true => value.to_owned(),
        false => format!("\"{}\"", value.replace('\\', "\\\\").replace('"', "\\\"")),
    }
}

/// A word that a shell takes as it is.
pub fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=+:,@%".contains(c);
    match !word.is_empty() && word.chars().all(plain) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', "'\\''")),
    }
}

/// A task of an array job.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Task {
    /// The array job's number.
    pub job: u64,
    /// The task's number in it.
    pub index: usize,
}

/// The newest task of each run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Submitted(BTreeMap<String, Task>);

impl Submitted {
    /// Reads lines `job, task, run`, parted by tabs; others are left out.
    pub fn read(lines: &str) -> Self {
        let task = |line: &str| {
            let mut cells = line.split('\t');
            let (job, index) = (cells.next()?.parse().ok()?, cells.next()?.parse().ok()?);
            Some((cells.next()?.to_owned(), Task { job, index }))
        };
        Self(lines.lines().filter_map(task).collect())
    }

    /// The lines of one more job.
    pub fn lines(job: u64, runs: &[&str]) -> String {
        let line = |(index, run): (usize, &&str)| format!("{job}\t{index}\t{run}\n");
        runs.iter().enumerate().map(line).collect()
    }

    /// The newest task of a run.
    pub fn task(&self, run: &str) -> Option<&Task> {
        self.0.get(run)
    }
}

/// Where a task is in the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It waits for its turn.
    Waiting,
    /// It was started.
    Running,
}

/// What `squeue` is asked to print of each task.
pub const QUEUE_FORMAT: &str = "%F %K %T";

/// Reads what `squeue --noheader --array` prints in [`QUEUE_FORMAT`]; tasks of no array are left out.
pub fn queue(printed: &str) -> BTreeMap<Task, Standing> {
    let task = |line: &str| {
        let mut words = line.split_whitespace();
        let (job, index) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
        let standing = match words.next()? {
            "PENDING" | "REQUEUED" | "REQUEUE_HOLD" | "SPECIAL_EXIT" => Standing::Waiting,
            _ => Standing::Running,
        };
        Some((Task { job, index }, standing))
    };
    printed.lines().filter_map(task).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_come_through_a_shell_as_they_are() {
        for text in ["plain-1.0_x", "", "a b", "it's", "$HOME `date` \\ \"", "a\nb", "*", "é"] {
            let shell = std::process::Command::new("sh")
                .args(["-c", &format!("printf %s {}", quoted(text))])
                .output()
                .unwrap();
            assert_eq!(String::from_utf8(shell.stdout).unwrap(), text);
        }
        assert_eq!(quoted("runs/s/a=1-seed0"), "runs/s/a=1-seed0");
    }

    #[test]
    fn the_newest_task_of_a_run_counts() {
        let lines = Submitted::lines(7, &["a", "b"]) + "torn\n" + &Submitted::lines(9, &["b"]);
        let submitted = Submitted::read(&lines);
        assert_eq!(submitted.task("a"), Some(&Task { job: 7, index: 0 }));
        assert_eq!(submitted.task("b"), Some(&Task { job: 9, index: 0 }));
        assert_eq!(submitted.task("c"), None);
    }

    #[test]
    fn the_queue_is_read() {
        let printed = "7 0 RUNNING\n7 12 PENDING\n8 N/A RUNNING\n9 1 COMPLETING\n";
        let queue = queue(printed);
        assert_eq!(queue.len(), 3);
        assert_eq!(queue[&Task { job: 7, index: 0 }], Standing::Running);
        assert_eq!(queue[&Task { job: 7, index: 12 }], Standing::Waiting);
    }
}
