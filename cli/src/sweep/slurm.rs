//! A sweep's runs on Slurm: submitted as an array job, watched, asked for why they ended.

use std::{
    collections::BTreeMap,
    fs::{self, OpenOptions},
    io::{ErrorKind, Write},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::atomic::{AtomicBool, Ordering},
    thread::sleep,
    time::Duration,
};

use super::{here::Ended, log_of, named, program, queue_folder, reason, recipe_in_queue};
use crate::progress::Progress;
use coconut::{
    Error, Result,
    sweep::{
        Cell, Plan, Run, State,
        slurm::{ArrayJob, QUEUE_FORMAT, Resources, Standing, Submitted, Task, queue},
    },
};

/// Which runs were submitted as which tasks.
const JOBS: &str = "jobs.tsv";
const SCRIPT: &str = "job.sh";
/// Between two looks at the queue.
const PAUSE: Duration = Duration::from_secs(5);

/// A sweep and the cluster that trains it.
pub struct Cluster<'a> {
    plan: &'a Plan,
    runs: &'a [(&'a Cell, &'a Run)],
    states: &'a [State],
    resources: &'a Resources,
    at_once: Option<u16>,
}

impl<'a> Cluster<'a> {
    /// `states` are those of `runs`; `at_once` is the most of them that run side by side.
    pub fn new(
        plan: &'a Plan,
        runs: &'a [(&'a Cell, &'a Run)],
        states: &'a [State],
        resources: &'a Resources,
        at_once: Option<u16>,
    ) -> Self {
        Self { plan, runs, states, resources, at_once }
    }

    /// Prints the script of what is not done.
    pub fn show(&self) -> Result<()> {
        let undone = self.undone(|_| true);
        if !undone.is_empty() {
            say!("\n{}", self.script(&undone)?.trim_end());
        }
        Ok(())
    }

    /// Submits what is neither done nor in the queue; with `wait`, stays until nothing is in the queue any more or `stop`
    /// is set.
    pub fn run(&self, wait: bool, stop: &AtomicBool) -> Result<Ended> {
        let before = self.submitted()?;
        let in_queue = ask_queue()?;
        let waiting = |run: &Run| before.task(run.name()).is_some_and(|t| in_queue.contains_key(t));
        let undone = self.undone(|run| !waiting(run));
        for run in &undone {
            if let Some(task) = before.task(run.name()) {
                eprintln!("again: {} {}", run.name(), self.why(task));
            }
        }
        if !undone.is_empty() {
            let job = self.submit(&undone)?;
            eprintln!(
                "submitted {} of {} runs as job {job} ({})",
                undone.len(),
                self.runs.len(),
                self.script_path().display()
            );
        }
        let submitted = self.submitted()?;
        if wait {
            self.wait(&submitted, stop)?;
        }
        self.ended(&submitted)
    }

    /// Runs that are not done, of those that `wanted` takes.
    fn undone(&self, wanted: impl Fn(&Run) -> bool) -> Vec<&'a Run> {
        let runs = self.runs.iter().zip(self.states).filter(|(_, state)| **state != State::Done);
        runs.map(|((_, run), _)| *run).filter(|run| wanted(run)).collect()
    }

    fn script(&self, runs: &[&Run]) -> Result<String> {
        let current = std::env::current_dir().map_err(Error::io("find", "the current folder"))?;
        let job = ArrayJob {
            name: &self.plan.name,
            program: &program()?,
            current: &current,
            queue: &queue_folder(self.plan),
            runs: runs.iter().map(|run| run.name()).collect(),
            at_once: self.at_once,
            resources: self.resources,
        };
        Ok(job.script())
    }

    fn script_path(&self) -> PathBuf {
        queue_folder(self.plan).join(SCRIPT)
    }

    /// Hands runs to Slurm; the array job's number.
    fn submit(&self, runs: &[&Run]) -> Result<u64> {
        for run in runs {
            recipe_in_queue(self.plan, run)?;
        }
        let (path, jobs) = (self.script_path(), queue_folder(self.plan).join(JOBS));
        fs::write(&path, self.script(runs)?).map_err(Error::io("write", &path))?;
        // Opened before anything is submitted: what cannot be noted is not submitted.
        let file = OpenOptions::new().append(true).create(true).open(&jobs);
        let mut file = file.map_err(Error::io("open", &jobs))?;
        let answer = called(Command::new("sbatch").arg("--parsable").arg(&path))?;
        // NUMBER, or NUMBER;CLUSTER
        let number = answer.trim().split(';').next().and_then(|number| number.parse().ok());
        let number = number.ok_or_else(|| {
            Error::Run(format!("sbatch answered `{}`, which is no job's number.", answer.trim()))
        })?;
        let names: Vec<&str> = runs.iter().map(|run| run.name()).collect();
        let lines = Submitted::lines(number, &names);
        file.write_all(lines.as_bytes()).map_err(Error::io("write", &jobs))?;
        Ok(number)
    }

    fn submitted(&self) -> Result<Submitted> {
        let path = queue_folder(self.plan).join(JOBS);
        match fs::read_to_string(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(Submitted::default()),
            lines => Ok(Submitted::read(&lines.map_err(Error::io("read", &path))?)),
        }
    }

    /// Shows how far runs have come until none is in the queue.
    fn wait(&self, submitted: &Submitted, stop: &AtomicBool) -> Result<()> {
        let total: usize = self.runs.iter().map(|(_, run)| run.config.num_epochs).sum();
        let epochs = || self.runs.iter().map(|(_, run)| run.epochs_done() as u64).sum::<u64>();
        let progress = Progress::new(&self.plan.name, "epochs", epochs(), total as u64);
        loop {
            let in_queue = ask_queue()?;
            let names = self.runs.iter().map(|(_, run)| run.name());
            let standing: Vec<Standing> =
                names.filter_map(|run| in_queue.get(submitted.task(run)?).copied()).collect();
            if standing.is_empty() || stop.load(Ordering::Relaxed) {
                return Ok(());
            }
            let running = standing.iter().filter(|one| **one == Standing::Running).count();
            progress.at(epochs());
            progress.message(format!("{running} running, {} waiting", standing.len() - running));
            for _ in 0..PAUSE.as_millis() / 100 {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                sleep(Duration::from_millis(100));
            }
        }
    }

    /// What has become of the runs.
    fn ended(&self, submitted: &Submitted) -> Result<Ended> {
        let in_queue = ask_queue()?;
        let mut ended = Ended { failures: Vec::new(), handed_over: 0 };
        for (cell, run) in self.runs {
            match submitted.task(run.name()) {
                _ if run.state()? == State::Done => {}
                Some(task) if !in_queue.contains_key(task) => {
                    let (name, seed) = (named(self.plan, cell), run.config.seed);
                    let line = format!("{name}, seed {seed} {}", self.why(task));
                    eprintln!("failed: {line}");
                    ended.failures.push(line);
                }
                _ => ended.handed_over += 1,
            }
        }
        Ok(ended)
    }

    /// Why a task came to no end, as its log has it.
    fn why(&self, task: &Task) -> String {
        let Task { job, index } = task;
        let log = log_of(self.plan, &format!("{job}_{index}"));
        let reason = match log.exists() {
            true => reason(&log, None),
            false => "never began; it was cancelled, or its log is elsewhere".into(),
        };
        format!("(task {index} of job {job}): {reason}")
    }
}

/// The user's tasks.
fn ask_queue() -> Result<BTreeMap<Task, Standing>> {
    let format = format!("--format={QUEUE_FORMAT}");
    let printed =
        called(Command::new("squeue").args(["--me", "--noheader", "--array"]).arg(format))?;
    Ok(queue(&printed))
}

/// What one of Slurm's programs prints.
fn called(command: &mut Command) -> Result<String> {
    let name = Path::new(command.get_program()).display().to_string();
    let output = command.stdin(Stdio::null()).output();
    let Output { status, stdout, stderr } = output.map_err(|error| match error.kind() {
        ErrorKind::NotFound => Error::Usage(format!(
            "--launcher slurm: there is no `{name}` on this machine. Start the sweep where jobs are submitted to Slurm, or with another launcher: `--launcher here`, `--launcher command:TEXT`."
        )),
        _ => Error::io("start", &name)(error),
    })?;
    if !status.success() {
        let said = String::from_utf8_lossy(&stderr);
        return Err(Error::Run(format!("{name} refused: {}", said.trim())));
    }
    Ok(String::from_utf8_lossy(&stdout).into_owned())
}
