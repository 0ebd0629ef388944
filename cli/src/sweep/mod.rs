//! `coconut sweep`.

mod here;
mod launcher;
mod slurm;

use std::{
    fs,
    path::{Path, PathBuf},
    sync::atomic::Ordering,
};

use self::{
    here::{Ended, Runner},
    launcher::Launcher,
};
use crate::{processes::refuse_several, verbs};
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
    /// Runs at once: one if absent, the processor's threads shared among several; on Slurm as many as it starts.
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..))]
    jobs: Option<u16>,
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
    #[command(flatten)]
    launcher: launcher::Options,
}

fn share(text: &str) -> Result<f64, String> {
    let share = text.parse::<f64>().ok().filter(|share| (0.0..=1.0).contains(share));
    share.ok_or_else(|| "expected a share from 0 to 1, such as 0.95".into())
}

impl Sweep {
    pub fn run(self) -> Result<()> {
        refuse_several(
            "a sweep starts its runs itself. Start it once, or train one run with several processes",
        )?;
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
        let launcher = self.launcher.launcher()?;
        if self.dry_run {
            list(&plan, &runs, &states);
            if let Launcher::Slurm(resources) = &launcher {
                slurm::Cluster::new(&plan, &runs, &states, resources, self.jobs).show()?;
            }
            return Ok(());
        }
        let stop = verbs::stop_on_ctrl_c();
        let jobs = usize::from(self.jobs.unwrap_or(1));
        let Ended { failures, handed_over } = match &launcher {
            Launcher::Slurm(resources) => {
                let cluster = slurm::Cluster::new(&plan, &runs, &states, resources, self.jobs);
                cluster.run(self.launcher.wait, &stop)?
            }
            Launcher::Here => Runner::new(&plan, &runs, &states, jobs, None).run(&stop)?,
            Launcher::Command(wrap) => {
                Runner::new(&plan, &runs, &states, jobs, Some(wrap)).run(&stop)?
            }
        };

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
            return Err(Error::Interrupted(match handed_over {
                0 => "Stopped; every run is saved. The same command goes on from here.".into(),
                n => format!("No longer waiting for {n} runs, which go on in their queue."),
            }));
        }
        if n_failed > 0 {
            return Err(Error::Run(format!(
                "{n_failed} of {} runs failed and are missing from the table. The same command tries them again.",
                runs.len()
            )));
        }
        if handed_over > 0 {
            eprintln!(
                "note: {handed_over} of {} runs are waiting or being trained elsewhere; the same command shows the table again.",
                runs.len()
            );
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

/// Prints the runs and how far each has come.
fn list(plan: &Plan, runs: &[(&Cell, &Run)], states: &[State]) {
    for ((cell, run), state) in runs.iter().zip(states) {
        let state = match state {
            State::Done => "done",
            State::Begun => "begun",
            State::Fresh => "to do",
        };
        let (folder, seed) = (run.folder.display(), run.config.seed);
        say!("{state:6}{folder}  ({}, seed {seed})", named(plan, cell));
    }
}

fn named(plan: &Plan, cell: &Cell) -> String {
    if cell.labels.is_empty() { plan.name.clone() } else { cell.label() }
}

/// This program.
fn program() -> Result<PathBuf> {
    std::env::current_exe().map_err(Error::io("find", "this program"))
}

/// The folder of what another queue reads and writes: not in the runs' own, which are removed and begun anew.
fn queue_folder(plan: &Plan) -> PathBuf {
    plan.folder.join("queue")
}

/// Writes a run's recipe for another queue.
fn recipe_in_queue(plan: &Plan, run: &Run) -> Result<PathBuf> {
    let folder = queue_folder(plan);
    fs::create_dir_all(&folder).map_err(Error::io("create", &folder))?;
    let path = folder.join(format!("{}.yaml", run.name()));
    fs::write(&path, run.config.to_yaml()?).map_err(Error::io("write", &path))?;
    Ok(path)
}

/// The log of that name there.
fn log_of(plan: &Plan, name: &str) -> PathBuf {
    queue_folder(plan).join(format!("{name}.log"))
}

/// Why a run ended badly: its error message, or else how it ended.
fn reason(log: &Path, code: Option<i32>) -> String {
    let errors = fs::read_to_string(log).unwrap_or_default();
    let last = errors.rfind("error: ").map(|at| &errors[at + "error: ".len()..]);
    match (last, code) {
        (Some(message), _) if !message.trim().is_empty() => message.trim().to_owned(),
        (_, Some(code)) => format!("ended with exit code {code}; see {}", log.display()),
        (_, None) => format!("was killed; see {}", log.display()),
    }
}
