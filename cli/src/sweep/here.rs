//! Runs trained by processes of this machine, or by commands that are started on it.

use std::{
    collections::VecDeque,
    fs,
    fs::File,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicBool, Ordering},
    thread::{available_parallelism, sleep},
    time::{Duration, Instant},
};

use super::{log_of, named, program, reason, recipe_in_queue};
use crate::progress::Progress;
use coconut::{
    Error, Result,
    run::RunFolder,
    sweep::{Cell, Plan, Run, State, slurm::quoted},
};

/// What became of a run.
enum Outcome {
    Done,
    /// Its process ended badly, for this reason.
    Failed(String),
    /// It was told to stop, and saved.
    Stopped,
    /// Its command ended well before the run did: something else trains it.
    HandedOver,
}

/// Runs that are to be trained, each in a process of its own.
///
/// Not in threads: the processor's threads can be shared out to processes but not within one, each run's peak
/// memory is its own, and a run that dies takes none along.
pub struct Runner<'a> {
    plan: &'a Plan,
    runs: &'a [(&'a Cell, &'a Run)],
    states: &'a [State],
    waiting: VecDeque<usize>,
    active: Vec<Active>,
    jobs: usize,
    wrap: Option<&'a str>,
    done: usize,
    handed: usize,
    failures: Vec<String>,
}

/// How a sweep ended.
pub struct Ended {
    /// What failed, a line each.
    pub failures: Vec<String>,
    /// Runs that something else trains.
    pub handed_over: usize,
}

struct Active {
    index: usize,
    process: Child,
    since: Instant,
}

impl<'a> Runner<'a> {
    /// `wrap` is the command of another queue, if runs are not this program's own processes.
    pub fn new(
        plan: &'a Plan,
        runs: &'a [(&'a Cell, &'a Run)],
        states: &'a [State],
        jobs: usize,
        wrap: Option<&'a str>,
    ) -> Self {
        let waiting: VecDeque<usize> =
            (0..runs.len()).filter(|&index| states[index] != State::Done).collect();
        let done = runs.len() - waiting.len();
        let (active, failures) = (Vec::new(), Vec::new());
        Self { plan, runs, states, waiting, active, jobs, wrap, done, handed: 0, failures }
    }

    /// Trains until nothing is left or `stop` is set.
    pub fn run(mut self, stop: &AtomicBool) -> Result<Ended> {
        let total: usize = self.runs.iter().map(|(_, run)| run.config.num_epochs).sum();
        let mut epochs: Vec<usize> = self.runs.iter().map(|(_, run)| run.epochs_done()).collect();
        for (index, (_, run)) in self.runs.iter().enumerate() {
            if !self.waiting.contains(&index) {
                epochs[index] = run.config.num_epochs;
            }
        }
        let before: usize = epochs.iter().sum();
        let progress = Progress::new(&self.plan.name, "epochs", before as u64, total as u64);
        if self.done > 0 {
            progress.line(&format!("{} of {} runs were done before", self.done, self.runs.len()));
        }
        loop {
            let stopping = stop.load(Ordering::Relaxed);
            while !stopping && self.active.len() < self.jobs {
                let Some(index) = self.waiting.pop_front() else { break };
                let process = self.start(self.runs[index].1, self.states[index])?;
                self.active.push(Active { index, process, since: Instant::now() });
            }
            if self.active.is_empty() {
                return Ok(Ended { failures: self.failures, handed_over: self.handed });
            }
            for active in &mut self.active {
                epochs[active.index] = self.runs[active.index].1.epochs_done();
                if stopping {
                    // The run saves and stops once its standard input is closed.
                    drop(active.process.stdin.take());
                }
            }
            progress.at(epochs.iter().sum::<usize>() as u64);
            progress.message(self.message(stopping));
            sleep(Duration::from_millis(100));
            for index in self.ended(stop, &progress)? {
                epochs[index] = self.runs[index].1.config.num_epochs;
            }
        }
    }

    fn start(&self, run: &Run, state: State) -> Result<Child> {
        let mut command = match self.wrap {
            None => self.own_process(run, state)?,
            Some(wrap) => self.wrapped(run, wrap)?,
        };
        if self.jobs > 1 {
            let threads = available_parallelism().map_or(1, usize::from) / self.jobs;
            command.env("RAYON_NUM_THREADS", threads.max(1).to_string());
        }
        let errors = self.errors(run);
        let errors_file = File::create(&errors).map_err(Error::io("write", &errors))?;
        command.stdout(Stdio::null()).stderr(errors_file);
        command.spawn().map_err(Error::io("start", command.get_program()))
    }

    fn own_process(&self, run: &Run, state: State) -> Result<Command> {
        let folder = RunFolder::new(&run.folder);
        if state == State::Fresh {
            folder.remove()?; // what a run left that ended before its first checkpoint
        }
        folder.write_config(&run.config.to_yaml()?)?;
        let mut command = Command::new(program()?);
        command.arg("train").arg(folder.config()).arg("--stop-with-stdin");
        command.args((state == State::Begun).then_some("--resume")).stdin(Stdio::piped());
        Ok(command)
    }

    fn wrapped(&self, run: &Run, wrap: &str) -> Result<Command> {
        let (program, recipe) = (program()?, recipe_in_queue(self.plan, run)?);
        let word = |path: &Path| quoted(&path.display().to_string());
        let train = format!("{} train {} --go-on", word(&program), word(&recipe));
        let mut command = Command::new("sh");
        command.arg("-c").arg(filled(wrap, &train)).stdin(Stdio::null());
        Ok(command)
    }

    /// Where a run's stderr goes.
    fn errors(&self, run: &Run) -> PathBuf {
        match self.wrap {
            None => run.folder.join(ERRORS),
            Some(_) => log_of(self.plan, run.name()),
        }
    }

    /// Takes the processes that have ended; the runs among them that are done or failed.
    fn ended(&mut self, stop: &AtomicBool, progress: &Progress) -> Result<Vec<usize>> {
        let mut ended = Vec::new();
        let mut place = 0;
        while place < self.active.len() {
            let status =
                self.active[place].process.try_wait().map_err(Error::io("wait for", "a run"))?;
            let Some(status) = status else {
                place += 1;
                continue;
            };
            let Active { index, since, .. } = self.active.remove(place);
            let (cell, run) = self.runs[index];
            let outcome = match status.code() {
                Some(0) if self.wrap.is_some() && run.state()? != State::Done => {
                    Outcome::HandedOver
                }
                Some(0) => Outcome::Done,
                Some(130) if stop.load(Ordering::Relaxed) => Outcome::Stopped,
                code => Outcome::Failed(reason(&self.errors(run), code)),
            };
            let name = format!("{}, seed {}", named(self.plan, cell), run.config.seed);
            match outcome {
                Outcome::Done => {
                    self.done += 1;
                    ended.push(index);
                    let _ = fs::remove_file(self.errors(run));
                    progress.line(&format!(
                        "{}/{}  {name}: {} in {:.0} s",
                        self.done,
                        self.runs.len(),
                        accuracy(run),
                        since.elapsed().as_secs_f64()
                    ));
                }
                Outcome::Failed(reason) => {
                    ended.push(index);
                    let line = format!("{name} ({}): {reason}", run.folder.display());
                    progress.line(&format!("failed: {line}"));
                    self.failures.push(line);
                }
                Outcome::HandedOver => {
                    self.handed += 1;
                    progress.line(&format!("handed over: {name}"));
                }
                Outcome::Stopped => {}
            }
        }
        Ok(ended)
    }

    fn message(&self, stopping: bool) -> String {
        let failed = match self.failures.len() {
            0 => String::new(),
            n => format!(", {n} failed"),
        };
        let count = format!("{} of {} runs done{failed}", self.done, self.runs.len());
        if stopping {
            return format!("{count}; saving");
        }
        let names = self.active.iter().map(|active| {
            let (cell, run) = self.runs[active.index];
            format!("{} seed {}", named(self.plan, cell), run.config.seed)
        });
        format!("{count}; {}", names.collect::<Vec<_>>().join(", "))
    }
}

/// What a run wrote to stderr; kept if it failed.
const ERRORS: &str = "errors.txt";

/// A command with a run's own in place of `{command}`, or after it.
fn filled(wrap: &str, train: &str) -> String {
    match wrap.contains(PLACE) {
        true => wrap.replace(PLACE, train),
        false => format!("{wrap} {train}"),
    }
}

/// Where a command of another queue has a run's own.
const PLACE: &str = "{command}";

fn accuracy(run: &Run) -> String {
    let results = run.results().ok().flatten();
    let accuracy = results.and_then(|results| results.rows.last()?.eval_acc);
    accuracy.map_or("done".into(), |accuracy| format!("{:.1} %", 100.0 * accuracy))
}
