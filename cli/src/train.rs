//! `coconut train`.

use std::{
    path::PathBuf,
    sync::{Arc, atomic::Ordering},
};

use crate::{dry_run, eval, log, processes::Processes, verbs, watcher::Watcher};
use clap::Args;
use coconut::{
    Error, Result,
    config::{Resolved, RunConfig},
    device::DeviceName,
    report,
    run::{Results, RunFolder},
    train::{Beginning, Data, Group, Trainer, agree_on_data, agree_on_recipe},
};
use serde_json::json;

#[derive(Args)]
pub struct Train {
    /// The recipe, flat YAML; or a run's folder, for its recipe.
    recipe: PathBuf,
    /// Override a key: `-s lr=3e-4 -s seed=1`.
    #[arg(short = 's', value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Where to compute, as the key `device`: `--device wgpu:1`.
    #[arg(long, value_name = "NAME")]
    device: Option<DeviceName>,
    /// Use a device that is not the CPU without holding its results against the CPU's first, as `device_check: False`.
    #[arg(long)]
    no_device_check: bool,
    /// Go on with an interrupted run.
    #[arg(long, conflicts_with = "overwrite")]
    resume: bool,
    /// Go on with the run if it has a checkpoint, and begin it otherwise: for queues that start a job again.
    #[arg(long, conflicts_with_all = ["resume", "overwrite"])]
    go_on: bool,
    /// Replace a run of the same name.
    #[arg(long)]
    overwrite: bool,
    /// Show what would be done, and do nothing: every key, and what an example becomes at each stage.
    #[arg(long)]
    dry_run: bool,
    /// Save and stop, as on Ctrl-C, when standard input closes: for programs that start runs.
    #[arg(long)]
    stop_with_stdin: bool,
    /// Print the results as one line of JSON.
    #[arg(long)]
    json: bool,
}

impl Train {
    /// The keys that the command line overrides.
    fn overrides(&self) -> Vec<String> {
        let device = self.device.map(|name| format!("device={name}"));
        let unchecked = self.no_device_check.then(|| "device_check=False".to_owned());
        self.set.iter().cloned().chain(device).chain(unchecked).collect()
    }

    pub fn run(self) -> Result<()> {
        let processes = Processes::join()?;
        let ended = self.train(processes.group());
        processes.leave(ended)
    }

    fn train(&self, group: Group) -> Result<()> {
        let config = group.first(|| RunConfig::load(&self.recipe, &self.overrides()))?;
        if (self.dry_run || config.only_eval) && !group.leads() {
            return Ok(());
        }
        if self.dry_run {
            return dry_run::show(&config);
        }
        if config.only_eval {
            return eval::evaluate_recipe(&config, self.json);
        }
        agree_on_recipe(group, &config)?;
        let folder = RunFolder::new(config.run_dir());
        let beginning = begin(group, &folder, || match self.overwrite {
            true => Ok(Beginning::Fresh),
            false if self.go_on => Beginning::wherever(&folder),
            false => Beginning::find(&folder, self.resume),
        })?;
        let run = group.first(|| Resolved::new(&config, beginning.checkpoint()))?;
        let data = group.heed(prepared(&run))?;
        agree_on_data(group, &data)?;
        // Whatever may be refused is, before anything is cleared away or written.
        let trainer = Trainer::new(&run, &data, folder.clone(), group)?;
        if group.leads() {
            self.open(&folder, &config)?;
        }
        let stop = verbs::stop_on_ctrl_c();
        if self.stop_with_stdin && group.leads() {
            let asked = Arc::clone(&stop);
            std::thread::spawn(move || {
                // An error is an end as well: whoever started the run is gone.
                let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
                asked.store(true, Ordering::Relaxed);
            });
        }

        let (mut rows, mut watcher) = (Vec::new(), Watcher::default());
        let mut train = |trainer: Trainer| -> Result<()> {
            let results = trainer.run(&stop, &mut |event| {
                if group.leads() {
                    watcher.see(event);
                }
            })?;
            rows.extend(results.rows);
            Ok(())
        };
        train(trainer)?;
        for &method in &config.baselines {
            let place = folder.baseline(method.name());
            let beginning = begin(group, &place, || Beginning::wherever(&place))?;
            let own = || Resolved::new(&config.with_method(method)?, beginning.checkpoint());
            let run = group.first(own)?;
            train(Trainer::new(&run, &data, place, group)?)?;
        }
        watcher.finish();
        if !group.leads() {
            return Ok(());
        }
        let results = Results { run: config.name.clone(), config: config.to_json()?, rows };
        results.write(&folder.results())?;
        let report = report::write(folder.path())?;
        if self.json {
            verbs::print_json(&json!(results));
        } else {
            verbs::print_report(&report);
        }
        Ok(())
    }

    /// Opens a run's folder and its log.
    fn open(&self, folder: &RunFolder, config: &RunConfig) -> Result<()> {
        if self.overwrite {
            folder.remove()?;
        }
        std::fs::create_dir_all(folder.path()).map_err(Error::io("create", folder.path()))?;
        log::install(Some(&folder.log()))?;
        let command: Vec<String> = std::env::args().collect();
        tracing::info!("{}", command.join(" "));
        let unchecked = if config.device_check { "" } else { ", not checked" };
        tracing::info!(
            "coconut {}, device {}{unchecked}",
            env!("CARGO_PKG_VERSION"),
            config.device
        );
        Ok(())
    }
}

/// The data of a run and of its baselines. What a baseline cannot do is told before anything is trained.
fn prepared(run: &Resolved) -> Result<Data> {
    let data = Data::prepare(run)?;
    for &method in &run.recipe.baselines {
        data.check_steps(&run.recipe.with_method(method)?)?;
    }
    Ok(data)
}

/// Where a run begins: what the first process finds, and the others are told.
fn begin(
    group: Group,
    folder: &RunFolder,
    find: impl FnOnce() -> Result<Beginning>,
) -> Result<Beginning> {
    let mut own = None;
    let goes_on = group.decide(|| Ok(own.insert(find()?).checkpoint().is_some()))?;
    own.map_or_else(|| Beginning::told(folder, goes_on), Ok)
}
