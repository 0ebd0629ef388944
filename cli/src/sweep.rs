//! `coconut sweep`.

use std::{
    collections::VecDeque,
    fs,
    fs::File,
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicBool, Ordering},
    thread::{available_parallelism, sleep},
    time::{Duration, Instant},
};

use crate::{progress::Progress, verbs};
use clap::Args;
use coconut::{
    Error, Result,
    run::RunFolder,
    sweep::{Cell, ComparedRow, Plan, Reference, Request, Run, State, Summary, table},
};
use serde_json::json;

#[derive(Args)]
pub struct Sweep {
    /// The recipe; its key `sweep` may hold the grid.
    recipe: PathBuf,
    /// Vary a key: `--over lr=1e-3,3e-4`. Commas within brackets belong to a value; a value `{label: …, key:
    /// …, key: …}` sets several keys. May be given again, for another key or for more values.
    #[arg(long, value_name = "KEY=V1,V2,…")]
    over: Vec<String>,
    /// Seeds of every variant; the recipe's if absent.
    #[arg(long, value_delimiter = ',')]
    seeds: Option<Vec<u64>>,
    /// Override a key in every run: `-s train_examples=1000`.
    #[arg(short = 's', value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Runs at once, the processor's threads shared among them.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    jobs: u16,
    /// Which evaluation of each run is compared: `last`, or `best`, which flatters.
    #[arg(long, value_parser = |text: &str| text.parse::<ComparedRow>())]
    compare: Option<ComparedRow>,
    /// What variants are compared with: `best`, `first`, or a variant's label.
    #[arg(long, value_parser = |text: &str| Ok::<_, String>(Reference::from(text)))]
    against: Option<Reference>,
    /// The accuracy, 0 to 1, from which on a run counts as solved: 0.95, or the recipe's, if absent.
    #[arg(long, value_parser = share)]
    solved: Option<f64>,
    /// Replace runs in the sweep's folder that have other settings.
    #[arg(long)]
    overwrite: bool,
    /// List the runs and how far each has come, and do nothing.
    #[arg(long)]
    dry_run: bool,
    /// Print the table as one line of JSON.
    #[arg(long)]
    json: bool,
}

fn share(text: &str) -> Result<f64, String> {
    let share = text.parse::<f64>().ok().filter(|share| (0.0..=1.0).contains(share));
    share.ok_or_else(|| "expected a share from 0 to 1, such as 0.95".into())
}

/// What became of a run.
enum Outcome {
    Done,
    /// Its process ended badly, for this reason.
    Failed(String),
    /// It was told to stop, and saved.
    Stopped,
}

impl Sweep {
    pub fn run(self) -> Result<()> {
        let request = Request {
            set: self.set,
            over: self.over,
            seeds: self.seeds,
            compare: self.compare,
            against: self.against,
            solved: self.solved,
        };
        let plan = Plan::load(&self.recipe, &request)?;
        let runs = plan.runs();
        let states = states(&runs, self.overwrite && !self.dry_run)?;
        for note in &plan.notes {
            eprintln!("note: {note}");
        }
        if self.dry_run {
            for ((cell, run), state) in runs.iter().zip(&states) {
                let state = match state {
                    State::Done => "done",
                    State::Begun => "begun",
                    State::Fresh => "to do",
                };
                say!(
                    "{state:6}{}  ({}, seed {})",
                    run.folder.display(),
                    named(&plan, cell),
                    run.config.seed
                );
            }
            return Ok(());
        }
        let stop = verbs::stop_on_ctrl_c();
        let failures = Runner::new(&plan, &runs, &states, usize::from(self.jobs)).run(&stop)?;

        let n_failed = failures.len();
        let summary = Summary::read(&plan, failures)?;
        let files = summary.write(&plan.folder)?;
        if self.json {
            verbs::print_json(&json!(summary));
        } else {
            say!("{}", table::text(&summary, verbs::styled()));
            say!();
            for file in &files {
                say!("wrote {}", file.display());
            }
        }
        if stop.load(Ordering::Relaxed) {
            return Err(Error::Interrupted(
                "Stopped; every run is saved. The same command goes on from here.".into(),
            ));
        }
        if n_failed > 0 {
            return Err(Error::Run(format!(
                "{n_failed} of {} runs failed and are missing from the table. The same command tries them again.",
                runs.len()
            )));
        }
        Ok(())
    }
}

/// How far each run has come, before anything is started. With `overwrite`, a run that has other settings
/// is removed.
fn states(runs: &[(&Cell, &Run)], overwrite: bool) -> Result<Vec<State>> {
    let state = |(_, run): &(&Cell, &Run)| match run.state() {
        Err(Error::Usage(_)) if overwrite => {
            RunFolder::new(&run.folder).remove()?;
            Ok(State::Fresh)
        }
        state => state,
    };
    runs.iter().map(state).collect()
}

fn named(plan: &Plan, cell: &Cell) -> String {
    if cell.labels.is_empty() { plan.name.clone() } else { cell.label() }
}

/// Runs that are to be trained, each in a process of its own.
///
/// Not in threads: the processor's threads can be shared out to processes but not within one, each run's peak
/// memory is its own, and a run that dies takes none along.
struct Runner<'a> {
    plan: &'a Plan,
    runs: &'a [(&'a Cell, &'a Run)],
    states: &'a [State],
    waiting: VecDeque<usize>,
    active: Vec<Active>,
    jobs: usize,
    done: usize,
    failures: Vec<String>,
}

struct Active {
    index: usize,
    process: Child,
    since: Instant,
}

impl<'a> Runner<'a> {
    fn new(
        plan: &'a Plan,
        runs: &'a [(&'a Cell, &'a Run)],
        states: &'a [State],
        jobs: usize,
    ) -> Self {
        let waiting: VecDeque<usize> =
            (0..runs.len()).filter(|&index| states[index] != State::Done).collect();
        let done = runs.len() - waiting.len();
        Self { plan, runs, states, waiting, active: Vec::new(), jobs, done, failures: Vec::new() }
    }

    /// Trains until nothing is left or `stop` is set; what failed, a line each.
    fn run(mut self, stop: &AtomicBool) -> Result<Vec<String>> {
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
                return Ok(self.failures);
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
        let folder = RunFolder::new(&run.folder);
        if state == State::Fresh {
            folder.remove()?; // what a run left that ended before its first checkpoint
        }
        folder.write_config(&run.config.to_yaml()?)?;
        let recipe = folder.config();
        let errors = run.folder.join(ERRORS);
        let errors_file = File::create(&errors).map_err(Error::io("write", &errors))?;
        let program = std::env::current_exe().map_err(Error::io("find", "this program"))?;
        let mut command = Command::new(&program);
        command.arg("train").arg(&recipe).arg("--stop-with-stdin");
        command.args((state == State::Begun).then_some("--resume"));
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(errors_file);
        if self.jobs > 1 {
            let threads = available_parallelism().map_or(1, usize::from) / self.jobs;
            command.env("RAYON_NUM_THREADS", threads.max(1).to_string());
        }
        command.spawn().map_err(Error::io("start", &program))
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
                Some(0) => Outcome::Done,
                Some(130) if stop.load(Ordering::Relaxed) => Outcome::Stopped,
                code => Outcome::Failed(reason(run, code)),
            };
            let name = format!("{}, seed {}", named(self.plan, cell), run.config.seed);
            match outcome {
                Outcome::Done => {
                    self.done += 1;
                    ended.push(index);
                    let _ = fs::remove_file(run.folder.join(ERRORS));
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

/// Why a run ended badly: its error message, or else how it ended.
fn reason(run: &Run, code: Option<i32>) -> String {
    let path = run.folder.join(ERRORS);
    let errors = fs::read_to_string(&path).unwrap_or_default();
    let last = errors.rfind("error: ").map(|at| &errors[at + "error: ".len()..]);
    match (last, code) {
        (Some(message), _) if !message.trim().is_empty() => message.trim().to_owned(),
        (_, Some(code)) => format!("ended with exit code {code}; see {}", path.display()),
        (_, None) => format!("was killed; see {}", path.display()),
    }
}

fn accuracy(run: &Run) -> String {
    let results = run.results().ok().flatten();
    let accuracy = results.and_then(|results| results.rows.last()?.eval_acc);
    accuracy.map_or("done".into(), |accuracy| format!("{:.1} %", 100.0 * accuracy))
}
