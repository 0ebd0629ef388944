//! `coconut train`.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, atomic::Ordering},
};

use crate::{eval, log, verbs, watcher::Watcher};
use clap::Args;
use coconut::{
    Error, Result,
    config::{
        Resolved, RunConfig,
        resolved::{ModelSource, TokenizerSource},
    },
    data::{SampleKey, Tokenizer},
    model::{ModelConfig, Transformer},
    report,
    run::{Results, RunFolder},
    train::{Beginning, Data, Trainer, model_config},
};
use serde_json::json;

#[derive(Args)]
pub struct Train {
    /// The recipe, flat YAML.
    recipe: PathBuf,
    /// Override a key: `-s lr=3e-4 -s seed=1`.
    #[arg(short = 's', value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Go on with an interrupted run.
    #[arg(long, conflicts_with = "overwrite")]
    resume: bool,
    /// Replace a run of the same name.
    #[arg(long)]
    overwrite: bool,
    /// Show what would be done, and do nothing.
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
    pub fn run(self) -> Result<()> {
        let config = RunConfig::load(&self.recipe, &self.set)?;
        if self.dry_run {
            return dry_run(&config);
        }
        if config.only_eval {
            return eval::evaluate_recipe(&config, self.json);
        }
        let folder = RunFolder::new(config.run_dir());
        let beginning = match self.overwrite {
            true => Beginning::Fresh,
            false => Beginning::find(&folder, self.resume)?,
        };
        let run = Resolved::new(&config, beginning.checkpoint())?;
        let data = Data::prepare(&run)?;
        if self.overwrite {
            folder.remove()?;
        }
        std::fs::create_dir_all(folder.path()).map_err(Error::io("create", folder.path()))?;
        log::install(Some(&folder.log()))?;
        let command: Vec<String> = std::env::args().collect();
        tracing::info!("{}", command.join(" "));
        tracing::info!("coconut {}, device {}", env!("CARGO_PKG_VERSION"), config.device);
        let stop = verbs::stop_on_ctrl_c();
        if self.stop_with_stdin {
            let asked = Arc::clone(&stop);
            std::thread::spawn(move || {
                // An error is an end as well: whoever started the run is gone.
                let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
                asked.store(true, Ordering::Relaxed);
            });
        }

        let (mut rows, mut watcher) = (Vec::new(), Watcher::default());
        let mut train = |run: &Resolved, place: RunFolder| -> Result<()> {
            let trainer = Trainer::new(run, &data, place)?;
            let results = trainer.run(&stop, &mut |event| watcher.see(event))?;
            rows.extend(results.rows);
            Ok(())
        };
        train(&run, folder.clone())?;
        for &method in &config.baselines {
            let place = folder.baseline(method.name());
            let beginning = Beginning::of_baseline(&place)?;
            train(&Resolved::new(&config.with_method(method)?, beginning.checkpoint())?, place)?;
        }
        watcher.finish();
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
}

fn dry_run(config: &RunConfig) -> Result<()> {
    config.task()?;
    println!("{}", config.to_yaml()?);
    let (run, missing) = match Resolved::new(config, None) {
        Ok(run) => {
            let problem = whole(&run).err().map(|error| error.to_string());
            (Some(run), problem.into_iter().chain(absent(config)).collect::<Vec<_>>())
        }
        Err(problem) => {
            (None, std::iter::once(problem.to_string()).chain(absent(config)).collect())
        }
    };
    match run {
        Some(_) if config.only_eval && missing.is_empty() => {
            let named = |path: &Option<PathBuf>| {
                path.as_deref().unwrap_or(Path::new("")).display().to_string()
            };
            println!(
                "# evaluates {} on {}, at the stage that it was trained to; trains nothing",
                named(&config.load_model_path),
                named(&config.val_path)
            );
            Ok(())
        }
        Some(run) if missing.is_empty() => show_run(&run),
        _ => {
            let stages = if config.only_eval { Vec::new() } else { config.schedule().stages() };
            for (stage, epochs) in stages {
                println!("# stage {stage}: epochs {} to {}", epochs.start + 1, epochs.end);
            }
            println!("\n# This run cannot start yet:");
            missing.iter().for_each(|problem| println!("# {problem}"));
            Ok(())
        }
    }
}

/// Prints the size of a run's model and data, and what its first example becomes at each stage.
fn show_run(run: &Resolved) -> Result<()> {
    let data = Data::prepare(run)?;
    for warning in &data.warnings {
        println!("warning: {warning}");
    }
    let model = match &run.model {
        ModelSource::Random(shape) => model_config(shape, run, &data),
        ModelSource::Folder { path, .. } | ModelSource::Checkpoint(path) => {
            ModelConfig::load(path)?
        }
    };
    println!(
        "# {} parameters: {} blocks, width {}, {} heads, context {}, vocabulary {}",
        model.num_parameters(),
        model.n_layer,
        model.d_model,
        model.heads.query,
        model.n_positions,
        model.vocab_size
    );
    println!(
        "# {} training examples, {} test examples, {} optimizer steps an epoch",
        data.train.encoded.len(),
        data.val.encoded.len(),
        run.batches.steps(data.train.encoded.len())
    );
    for (stage, epochs) in run.schedule.stages() {
        println!("\n# stage {stage}: epochs {} to {}", epochs.start + 1, epochs.end);
        let Some(example) = data.train.encoded.first() else { continue };
        let key = SampleKey { seed: run.seed, epoch: epochs.start as u64, index: 0 };
        let markers = data.tokenizer.special_tokens();
        let sequence = run.curriculum.train_sequence(example, stage, markers, key);
        println!("tokens: {}", shown(&data.tokenizer, &sequence.ids));
        let labels: Vec<String> = sequence
            .labels
            .iter()
            .map(|label| label.map_or("-100".into(), |id| shown(&data.tokenizer, &[id])))
            .collect();
        println!("labels: {}", labels.join(" "));
    }
    Ok(())
}

/// The files that a recipe names and this machine does not have, a sentence each.
fn absent(config: &RunConfig) -> Vec<String> {
    let paths = [
        ("load_model_path", &config.load_model_path),
        ("train_path", &config.train_path),
        ("val_path", &config.val_path),
    ];
    let absent = paths.into_iter().filter_map(|(key, path)| Some((key, path.as_deref()?)));
    let absent = absent.filter(|(_, path)| !path.exists());
    absent.map(|(key, path)| format!("`{key}`: {} is missing", path.display())).collect()
}

/// Refuses a folder that no run can start from: weights that do not fit, no tokenizer.
fn whole(run: &Resolved) -> Result<()> {
    let ModelSource::Folder { path, .. } = &run.model else { return Ok(()) };
    if !path.exists() {
        return Ok(()); // said of the key that names it
    }
    Transformer::check(path)?;
    if run.data.tokenizer == TokenizerSource::Path(path.clone()) {
        Tokenizer::load(path)?;
    }
    Ok(())
}

fn shown(tokenizer: &Tokenizer, ids: &[u32]) -> String {
    let strings = tokenizer.token_strings(ids);
    strings.iter().map(|s| s.replace('\n', "\\n")).collect::<Vec<_>>().join(" ")
}
