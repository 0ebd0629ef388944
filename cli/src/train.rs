//! `coconut train`.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, atomic::Ordering},
};

use crate::{eval, log, verbs, watcher::Watcher};
use clap::Args;
use coconut::{
    Error, Result, checkpoint,
    config::RunConfig,
    data::{Method, SampleKey, Tokenizer},
    model::Transformer,
    report,
    run::{Results, RunFolder},
    train::{Beginning, Data, EpochSteps, Trainer, model_config},
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
        // A checkpoint has all that a resumed run needs; the model it started from may be gone.
        let model = match beginning {
            Beginning::Fresh => config.model_folder()?,
            Beginning::Resumed(_) => None,
        };
        model.as_deref().map_or(Ok(()), checkpoint::refuse_adapters)?;
        let data = Data::prepare(&config, model.as_deref(), beginning.checkpoint())?;
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
        for method in std::iter::once(config.method).chain(config.baselines.iter().copied()) {
            let (run, place) = of_method(&config, method, &folder);
            let beginning = match place == folder {
                true => beginning.clone(),
                false => Beginning::of_baseline(&place)?,
            };
            let trainer = Trainer::new(&run, &data, place, &beginning)?;
            let results = trainer.run(&stop, &mut |event| watcher.see(event))?;
            rows.extend(results.rows.clone());
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

/// The configuration and folder of the run's method or one of its baselines.
fn of_method(config: &RunConfig, method: Method, folder: &RunFolder) -> (RunConfig, RunFolder) {
    if method == config.method {
        return (config.clone(), folder.clone());
    }
    (config.with_method(method), folder.baseline(method.name()))
}

fn dry_run(config: &RunConfig) -> Result<()> {
    println!("{}", config.to_yaml()?);
    let missing = missing(config);
    if config.only_eval && missing.is_empty() {
        let named =
            |path: &Option<PathBuf>| path.as_deref().unwrap_or(Path::new("")).display().to_string();
        println!(
            "# evaluates {} on {}, at the stage that it was trained to; trains nothing",
            named(&config.load_model_path),
            named(&config.val_path)
        );
        return Ok(());
    }
    if !missing.is_empty() {
        let stages = if config.only_eval { Vec::new() } else { config.schedule().stages() };
        for (stage, epochs) in stages {
            println!("# stage {stage}: epochs {} to {}", epochs.start + 1, epochs.end);
        }
        println!("\n# This run cannot start yet:");
        for problem in missing {
            println!("# {problem}");
        }
        return Ok(());
    }
    let folder = config.model_folder()?;
    let data = Data::prepare(config, folder.as_deref(), None)?;
    for warning in &data.warnings {
        println!("warning: {warning}");
    }
    let model = match &folder {
        Some(folder) => coconut::model::ModelConfig::load(folder)?,
        None => model_config(config, &data),
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
    let steps = EpochSteps::count(data.train.encoded.len(), config);
    println!(
        "# {} training examples, {} test examples, {steps} optimizer steps an epoch",
        data.train.encoded.len(),
        data.val.encoded.len()
    );
    let curriculum = config.curriculum();
    for (stage, epochs) in config.schedule().stages() {
        println!("\n# stage {stage}: epochs {} to {}", epochs.start + 1, epochs.end);
        let Some(example) = data.train.encoded.first() else { continue };
        let key = SampleKey { seed: config.seed, epoch: epochs.start as u64, index: 0 };
        let sequence = curriculum.train_sequence(example, stage, data.tokenizer.markers(), key);
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

/// What a recipe names and this machine does not have, a sentence each.
fn missing(config: &RunConfig) -> Vec<String> {
    let paths = [
        ("load_model_path", &config.load_model_path),
        ("train_path", &config.train_path),
        ("val_path", &config.val_path),
    ];
    let absent = paths.into_iter().filter_map(|(key, path)| Some((key, path.as_deref()?)));
    let absent = absent.filter(|(_, path)| !path.exists());
    let said = absent.map(|(key, path)| format!("`{key}`: {} is missing", path.display()));
    let model =
        config.model_folder().and_then(|folder| folder.map_or(Ok(()), |f| whole(config, &f)));
    model.err().map(|error| error.to_string()).into_iter().chain(said).collect()
}

/// Refuses a folder that no run can start from: adapters, weights that do not fit, no tokenizer.
fn whole(config: &RunConfig, folder: &Path) -> Result<()> {
    if !folder.exists() {
        return Ok(()); // said of the key that names it
    }
    checkpoint::refuse_adapters(folder)?;
    Transformer::check(folder)?;
    if config.tokenizer.is_none() {
        Tokenizer::load(folder)?;
    }
    Ok(())
}

fn shown(tokenizer: &Tokenizer, ids: &[u32]) -> String {
    let strings = tokenizer.token_strings(ids);
    strings.iter().map(|s| s.replace('\n', "\\n")).collect::<Vec<_>>().join(" ")
}
