//! `coconut audit`: whether thoughts do any work.

use std::{
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
};

use clap::Args;
use coconut::{
    Error, Result,
    audit::{
        self, Direct, Intervention, ModelRecord, ReadingOptions, Readings, Record, Role, States,
        Store, Subject, With,
    },
    checkpoint::Checkpoint,
    data::Dataset,
    eval::{Evaluator, Sampling, score::Scorer},
    latent::{Places, Thinking},
    model::Transformer,
    report,
};
use serde_json::json;

use crate::{
    eval::examples,
    options::ModelOptions,
    progress::Progress,
    verbs::{self, stop_on_ctrl_c},
};

#[derive(Args)]
pub struct Audit {
    #[command(flatten)]
    model: ModelOptions,
    /// Examples to ask, with their steps.
    #[arg(long)]
    data: PathBuf,
    /// A checkpoint to hold it against, such as the pause model's; `untrained` is random weights of its shape. May be
    /// given again.
    #[arg(long, value_name = "CKPT")]
    control: Vec<PathBuf>,
    /// A model that was trained on the same task without thoughts (`method: no_cot`, or `no_thoughts` at its last stage):
    /// how many of the questions that stay right under an intervention it has right as well.
    #[arg(long, value_name = "CKPT")]
    direct: Option<PathBuf>,
    /// Folders of runs with other seeds of the same recipe, or of controls': their latest checkpoints are audited too.
    #[arg(long, value_name = "RUN", num_args = 1..)]
    seeds_of: Vec<PathBuf>,
    /// Only these interventions, such as `zero@all,noise[1.0]@2`; all of them if absent. The positive control is always
    /// made.
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    only: Vec<Intervention>,
    /// The length of noise, in lengths of what it is added to.
    #[arg(long, default_value_t = 1.0, value_parser = noise)]
    noise: f64,
    /// The chance of each number of a thought to be dropped, where answers are sampled under dropout.
    #[arg(long, default_value_t = 0.1, value_parser = rate)]
    dropout: f64,
    /// Answers to each question with noise on all thoughts, and with dropout, for the chance that one of several is right
    /// and for a vote.
    #[arg(long, default_value_t = 8)]
    draws: usize,
    /// Shuffles in the permutation test of each probe; 0 leaves all readings of thoughts out.
    #[arg(long, default_value_t = 199)]
    shuffles: usize,
    /// Read hidden states with the output head also through a map of each layer to the last one, fitted on other questions.
    #[arg(long)]
    tuned_lens: bool,
    /// Write what is fed, and all hidden states from the question's end to the last latent, to thoughts.safetensors, with
    /// thoughts.jsonl to say whose they are.
    #[arg(long)]
    thoughts: bool,
    /// Use only the first so many examples.
    #[arg(long, value_parser = verbs::at_least_one)]
    max_size: Option<usize>,
    /// Questions run at once.
    #[arg(long, default_value_t = 200, value_parser = verbs::at_least_one)]
    batch_size: usize,
    /// Most tokens generated for one question; twice what right answers take, if absent.
    #[arg(long, value_parser = verbs::at_least_one)]
    max_new_tokens: Option<usize>,
    /// Seed of noise and of donors.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Folder to write to: audit.json, audit.md and figures. Beside a run's checkpoints, `audit` in the run's folder, if
    /// absent.
    #[arg(short, long, value_name = "FOLDER")]
    output: Option<PathBuf>,
    /// Forget what an earlier audit found in the folder.
    #[arg(long)]
    overwrite: bool,
    /// Print audit.json on one line instead of tables.
    #[arg(long)]
    json: bool,
}

/// Questions at least: with fewer, even a change of all answers has p > 0.05.
const FEWEST: usize = 6;

fn noise(text: &str) -> Result<f64, String> {
    let noise = text.parse::<f64>().ok().filter(|noise| noise.is_finite() && *noise > 0.0);
    noise.ok_or_else(|| "expected a number above 0".into())
}

fn rate(text: &str) -> Result<f64, String> {
    let rate = text.parse::<f64>().ok().filter(|rate| *rate > 0.0 && *rate < 1.0);
    rate.ok_or_else(|| "expected a number between 0 and 1".into())
}

/// A model without thoughts, and which questions it has right.
struct Answered {
    checkpoint: Checkpoint,
    name: String,
    right: Vec<bool>,
}

/// A model of an audit, opened.
struct Opened {
    name: String,
    role: Role,
    checkpoint: Checkpoint,
}

impl Audit {
    pub fn run(self) -> Result<()> {
        if self.tuned_lens && self.shuffles == 0 {
            return Err(Error::Usage(
                "--tuned-lens is a reading of thoughts, and --shuffles 0 leaves all of them out. Give one of the two.".into(),
            ));
        }
        let models = self.open()?;
        let data: Vec<Dataset> =
            models.iter().map(|model| self.questions(model)).collect::<Result<_>>()?;
        let direct = self.direct.as_deref().map(|path| self.open_direct(path)).transpose()?;
        let folder = self.folder();
        let settings = self.settings(&models);
        if self.overwrite {
            Store::clear(&folder)?;
        }
        let mut store = Store::open(&folder, &settings)?;
        let stop = stop_on_ctrl_c();
        let direct = direct.map(|direct| self.answered(direct, &stop)).transpose()?;
        let mut records = Vec::new();
        for (model, data) in models.iter().zip(&data) {
            records.push(self.audit(model, data, direct.as_ref(), &mut store, &stop)?);
        }
        let record = Record {
            settings: self.with_direct(settings),
            over_seeds: audit::over_seeds(&records),
            words: audit::words::words(&records),
            models: records,
        };
        let files = report::audit::write(&record, &folder)?;
        if self.json {
            verbs::print_json(&json!(record));
            return Ok(());
        }
        say!("{}", report::audit::terminal(&record, verbs::styled()));
        for file in files {
            say!("wrote {}", file.display());
        }
        Ok(())
    }

    fn open(&self) -> Result<Vec<Opened>> {
        let named = |path: &Path| path.display().to_string();
        let audited = self.model.open()?;
        let mut models = vec![Opened {
            name: named(&self.model.checkpoint),
            role: Role::Audited,
            checkpoint: audited,
        }];
        for run in &self.seeds_of {
            let checkpoint = self.other(&run.join("checkpoints").join("latest"))?;
            models.push(Opened { name: named(run), role: Role::Seed, checkpoint });
        }
        for control in &self.control {
            let checkpoint = match control.as_os_str() == "untrained" {
                true => untrained(&models[0].checkpoint),
                false => self.other(control)?,
            };
            models.push(Opened { name: named(control), role: Role::Control, checkpoint });
        }
        for model in &mut models {
            feed(&mut model.checkpoint, &model.name)?;
        }
        let mut names: Vec<&str> = models.iter().map(|model| model.name.as_str()).collect();
        names.sort_unstable();
        if let Some(twice) = names.windows(2).find(|two| two[0] == two[1]) {
            return Err(Error::Usage(format!("{} is given twice; once is enough.", twice[0])));
        }
        Ok(models)
    }

    fn other(&self, checkpoint: &Path) -> Result<Checkpoint> {
        let Self { model: ModelOptions { device, bf16, .. }, .. } = self;
        ModelOptions { checkpoint: checkpoint.to_owned(), device: *device, bf16: *bf16 }.open()
    }

    fn folder(&self) -> PathBuf {
        if let Some(folder) = &self.output {
            return folder.clone();
        }
        let checkpoint = &self.model.checkpoint;
        let parent = checkpoint.parent().filter(|parent| parent.ends_with("checkpoints"));
        match parent.and_then(Path::parent) {
            Some(run) => run.join("audit"),
            None => checkpoint.join("audit"),
        }
    }

    fn settings(&self, models: &[Opened]) -> serde_json::Value {
        let names: Vec<&str> = models.iter().map(|model| model.name.as_str()).collect();
        json!({
            "models": names,
            "data": self.data,
            "max_size": self.max_size,
            "only": self.only,
            "noise": self.noise,
            "dropout": self.dropout,
            "draws": self.draws,
            "shuffles": self.shuffles,
            "tuned_lens": self.tuned_lens,
            "batch_size": self.batch_size,
            "max_new_tokens": self.max_new_tokens,
            "seed": self.seed,
            "device": self.model.device.device,
        })
    }

    /// A model's questions, refused if it cannot be asked them or they are too few.
    fn questions(&self, Opened { checkpoint, .. }: &Opened) -> Result<Dataset> {
        let data = examples(checkpoint, &self.data, self.max_size, false)?;
        check_data(&data, &self.data)?;
        self.evaluator(checkpoint, &data).check(
            &checkpoint.model,
            checkpoint.latent.stage,
            &self.data,
        )?;
        Ok(data)
    }

    /// The settings with the direct model, which changes nothing that is kept for an audit that goes on.
    fn with_direct(&self, mut settings: serde_json::Value) -> serde_json::Value {
        if let Some(direct) = &self.direct {
            settings["direct"] = json!(direct);
        }
        settings
    }

    /// The model without thoughts and its questions; refused if it thinks or speaks before it answers.
    fn open_direct(&self, path: &Path) -> Result<(Checkpoint, Dataset)> {
        let checkpoint = self.other(path)?;
        check_direct(&checkpoint, path)?;
        let data = examples(&checkpoint, &self.data, self.max_size, false)?;
        self.evaluator(&checkpoint, &data).check(
            &checkpoint.model,
            checkpoint.latent.stage,
            &self.data,
        )?;
        Ok((checkpoint, data))
    }

    /// Which questions a model without thoughts has right.
    fn answered(
        &self,
        (checkpoint, data): (Checkpoint, Dataset),
        stop: &AtomicBool,
    ) -> Result<Answered> {
        let evaluator = self.roomy(&checkpoint, &data);
        let stage = checkpoint.latent.stage;
        let answers = evaluator.answers(&checkpoint.model, stage, |_| unless(stop))?;
        let right = answers.samples.iter().map(|sample| sample.correct).collect();
        let name = self.direct.as_deref().unwrap_or(Path::new("")).display().to_string();
        Ok(Answered { checkpoint, name, right })
    }

    /// How a model is asked; it is given no room to answer yet.
    fn evaluator<'a>(&self, checkpoint: &'a Checkpoint, data: &'a Dataset) -> Evaluator<'a> {
        Evaluator {
            data,
            decoder: None,
            tokenizer: &checkpoint.tokenizer,
            curriculum: checkpoint.latent.curriculum(),
            batch_size: self.batch_size,
            max_new_tokens: 0,
            sampling: Sampling::Greedy,
            scorer: Scorer::Mark,
            seed: 0,
        }
    }

    /// As [`Audit::evaluator`], with room to answer.
    fn roomy<'a>(&self, checkpoint: &'a Checkpoint, data: &'a Dataset) -> Evaluator<'a> {
        let roomless = self.evaluator(checkpoint, data);
        let (model, stage) = (&checkpoint.model, checkpoint.latent.stage);
        let subject = Subject { evaluator: &roomless, model, stage, seed: self.seed };
        let max_new_tokens = self.max_new_tokens.unwrap_or_else(|| 2 * subject.longest_right() + 8);
        Evaluator { max_new_tokens, ..roomless }
    }

    fn audit(
        &self,
        model: &Opened,
        data: &Dataset,
        direct: Option<&Answered>,
        store: &mut Store,
        stop: &AtomicBool,
    ) -> Result<ModelRecord> {
        let Opened { name, role, checkpoint } = model;
        let evaluator = self.roomy(checkpoint, data);
        let (stage, seed) = (checkpoint.latent.stage, self.seed);
        let subject = Subject { evaluator: &evaluator, model: &checkpoint.model, stage, seed };
        let stopped = || unless(stop);
        let plain = subject.plain(|_| stopped())?;
        let plan = match self.only.is_empty() {
            true => audit::plan::standard(plain.most_thoughts(), subject.room(&plain), self.noise),
            false => {
                let control = Intervention::control(self.noise);
                let only = self.only.iter().copied().filter(|one| *one != control);
                std::iter::once(control).chain(only).collect()
            }
        };
        let sampled = [With::Noise(self.noise), With::Dropout(self.dropout)]
            .map(|with| Intervention::edit(with, Places::All));
        let progress = Progress::new(
            format!("auditing {name}"),
            "interventions",
            0,
            (plan.len() + sampled.len() * self.draws) as u64,
        );
        let effects = audit::effects(&subject, &plain, &plan, (store, name), || {
            progress.advance(1);
            stopped()
        })?;
        let mut samples = Vec::new();
        for under in sampled {
            samples.extend(audit::samples(&subject, &plain, under, self.draws, || {
                progress.advance(1);
                stopped()
            })?);
        }
        drop(progress);
        let readings = self.readings(model, &subject, &plain, &stopped)?;
        let method = checkpoint.latent.method.to_string();
        let method = if name == "untrained" { name } else { &method };
        let record = ModelRecord::new((name, *role, method), &subject, &plain, &effects, samples);
        let direct = direct.filter(|_| *role == Role::Audited).map(|of| {
            let Checkpoint { latent, .. } = &of.checkpoint;
            let named = (of.name.as_str(), latent.method.to_string(), latent.stage.0);
            Direct::new((named.0, &named.1, named.2), &of.right, &plain.outcomes, &effects)
        });
        Ok(ModelRecord { readings, direct, ..record })
    }

    /// What can be read off a model's thoughts; writes the audited one's if they are asked for.
    fn readings(
        &self,
        Opened { name, role, .. }: &Opened,
        subject: &Subject<'_>,
        plain: &audit::Plain,
        stopped: &dyn Fn() -> Result<()>,
    ) -> Result<Option<Readings>> {
        let wanted = self.thoughts && *role == Role::Audited;
        if self.shuffles == 0 && !wanted {
            return Ok(None);
        }
        let states = States::new(subject, plain, |_| stopped())?;
        if wanted {
            audit::write_thoughts(&self.folder(), subject, plain, &states)?;
        }
        if self.shuffles == 0 {
            return Ok(None);
        }
        let options = ReadingOptions { shuffles: self.shuffles, tuned_lens: self.tuned_lens };
        let places = options.places(&states) as u64;
        let progress = Progress::new(format!("reading {name}"), "places", 0, places);
        let readings = audit::readings(subject, plain, &states, options, || {
            progress.advance(1);
            stopped()
        })?;
        Ok(Some(readings))
    }
}

/// An error once a person has asked to stop.
fn unless(stop: &AtomicBool) -> Result<()> {
    match stop.load(Ordering::Relaxed) {
        true => Err(Error::Interrupted(
            "Stopped. What was found is kept; the same command goes on from there.".into(),
        )),
        false => Ok(()),
    }
}

/// Refuses a model that has latents or words before its answer: what it has right says nothing of answering directly.
fn check_direct(checkpoint: &Checkpoint, path: &Path) -> Result<()> {
    let (stage, method) = (checkpoint.latent.stage, checkpoint.latent.method);
    let curriculum = checkpoint.latent.curriculum();
    let problem = if checkpoint.latent.plain {
        "is a plain model, which was not trained on the task".to_owned()
    } else if curriculum.n_latents(stage, curriculum.max_latent_stage) > 0 {
        format!("was trained with `method: {method}` and has latents at stage {stage}")
    } else if !curriculum.remaining_steps(stage, curriculum.max_latent_stage).is_empty() {
        format!("was trained with `method: {method}` and writes steps in words at stage {stage}")
    } else {
        return Ok(());
    };
    Err(Error::Usage(format!(
        "--direct {} {problem}; give a model that was trained to answer without thoughts (`method: no_cot`, or `no_thoughts` at its last stage).",
        path.display()
    )))
}

/// Refuses too few questions for any test, and says what cannot be done without steps.
fn check_data(data: &Dataset, path: &Path) -> Result<()> {
    let n = data.examples.len();
    if n < FEWEST {
        let problem = format!(
            "holds {n} examples; an audit needs at least {FEWEST}, below which no difference could pass its test"
        );
        return Err(Error::input(path, "", problem));
    }
    if data.examples.iter().all(|example| example.steps.is_empty()) {
        eprintln!(
            "note: the examples of {} have no steps, so that thoughts of questions with the same or another step's value are left out",
            path.display()
        );
    }
    Ok(())
}

/// Random weights of a checkpoint's shape.
fn untrained(checkpoint: &Checkpoint) -> Checkpoint {
    let mut untrained = checkpoint.clone();
    let config = checkpoint.model.transformer.config.clone();
    untrained.model.transformer = Transformer::random(config, 0, &checkpoint.model.device());
    untrained
}

/// Lets latents to which nothing is fed be fed their own embedding one after the other, which computes the same and can
/// be edited; refuses a model without latents.
fn feed(checkpoint: &mut Checkpoint, name: &str) -> Result<()> {
    let (stage, method) = (checkpoint.latent.stage, checkpoint.latent.method);
    let curriculum = checkpoint.latent.curriculum();
    if checkpoint.latent.plain {
        return Err(Error::Usage(format!(
            "{name} is a plain model, which has no thoughts; an audit needs a checkpoint that was trained with latents."
        )));
    }
    if !curriculum.has_latents() || curriculum.n_replaced(stage) == 0 {
        return Err(Error::Usage(format!(
            "{name} was trained with `method: {method}` and stands at stage {stage}, where rows have no latents; an audit needs a checkpoint with latents."
        )));
    }
    if checkpoint.model.config.thinking == Thinking::None {
        let latent = checkpoint.tokenizer.special_tokens().latent;
        checkpoint.model = checkpoint.model.clone().pausing(latent);
    }
    Ok(())
}
