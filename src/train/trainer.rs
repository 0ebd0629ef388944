//! The training loop: the one owner of what changes during training.

use std::{
    io::Write,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
    sync::mpsc,
    time::Instant,
};

use burn::{module::Module, tensor::Device};

use super::{
    checkpoint::{self, LatentInfo, State},
    dataset::{Data, EpochSteps, Step},
    optim::{self, AdamW, Schedule},
};
use crate::{
    Error, Result,
    config::{EvalAt, RunConfig},
    data::{Curriculum, Markers, Stage},
    device,
    eval::{Evaluation, Evaluator, Sampling},
    latent::{LatentModel, Trace, Wanted, model::Extras, recompute},
    log,
    log::{MetricsLog, Progress, Record, StepMetrics},
    loss::{self, seq_vcr},
    model::{ModelConfig, Transformer, lora},
    report::{Results, Row},
    rng,
};

/// One run of one method.
pub struct Trainer<'a> {
    config: &'a RunConfig,
    data: &'a Data,
    curriculum: Curriculum,
    folder: PathBuf,
    /// With autodiff; empty only while the optimizer holds it.
    model: Option<LatentModel>,
    optimizer: AdamW,
    state: State,
    metrics: MetricsLog,
}

/// The model that a recipe starts from: a folder's, or random weights for the data's vocabulary.
pub fn initial_model(config: &RunConfig, data: &Data, device: &Device) -> Result<LatentModel> {
    let wrong = |key: &str, problem| Error::Config {
        origin: config.name.clone(),
        key: key.into(),
        problem,
    };
    let transformer = match config.model_folder()? {
        None => Transformer::random(model_config(config, data), config.seed, device),
        Some(folder) if folder.join(lora::CONFIG_FILE).is_file() => {
            return Err(Error::Usage(format!(
                "{} holds adapters, not a whole model. Make one of it first: `coconut merge {} -o FOLDER`.",
                folder.display(),
                folder.display()
            )));
        }
        Some(folder) => {
            let model = Transformer::load(&folder, device)?;
            checkpoint::check_vocabulary(&data.tokenizer, &model, &folder)?;
            data.check_context(config, model.config.n_positions)?;
            let (markers, source) =
                (data.tokenizer.added_markers(), data.tokenizer.marker_source());
            let model = model.start_rows(&markers, source);
            let Markers { start_latent, end_latent, latent, .. } = data.tokenizer.markers();
            match config.lora(model.config.family)? {
                Some(lora) => model
                    .with_lora(lora, &[start_latent, end_latent, latent], config.seed)
                    .map_err(|(key, problem)| wrong(key, problem))?
                    .hold(config.frozen_dtype),
                None => model,
            }
        }
    };
    let extras = Extras {
        latents: config.c_thought * config.max_latent_stage,
        seq_vcr: (config.seq_vcr())
            .filter(|_| config.seq_vcr_projection == seq_vcr::Projection::Trained)
            .map(|(_, dim)| dim),
        seed: config.seed,
    };
    LatentModel::new(transformer, config.thinking(), extras)
        .map_err(|(key, problem)| wrong(key, problem))
}

/// The shape of a model from random weights.
pub fn model_config(config: &RunConfig, data: &Data) -> ModelConfig {
    let context = config.n_positions.unwrap_or_else(|| data.longest(config));
    let vocabulary = data.tokenizer.vocab_size();
    let mut shape =
        ModelConfig::gpt2(vocabulary, context, config.n_embd, config.n_layer, config.n_head)
            .with_dropout(config.dropout);
    shape.initializer_range = config.initializer_range;
    let markers = data.tokenizer.markers();
    for (key, id) in [
        ("bos_token_id", markers.eos),
        ("eos_token_id", markers.eos),
        ("pad_token_id", markers.pad),
    ] {
        shape.note(key, id);
    }
    shape
}

impl<'a> Trainer<'a> {
    /// A run in `folder`, fresh or, with `resume`, from its newest checkpoint.
    ///
    /// # Errors
    /// A folder that holds another run, and everything that reading the model can report.
    pub fn new(config: &'a RunConfig, data: &'a Data, folder: &Path, resume: bool) -> Result<Self> {
        let device = device::named(&config.device)?;
        let checkpoints = folder.join("checkpoints");
        let newest = checkpoint::newest(&checkpoints)?;
        if !resume && folder.join("metrics.jsonl").exists() {
            return Err(Error::Usage(format!(
                "{} already holds a run. Add `--resume` to go on with it, `--overwrite` to replace it, or choose another name with `-s name=…`.",
                folder.display()
            )));
        }
        let saved = folder.join("config.yaml");
        if resume && saved.exists() {
            let differences = RunConfig::load(&saved, &[])?.differences(config);
            if !differences.is_empty() {
                return Err(Error::Usage(format!(
                    "{} was begun with other settings of `{}`. Resume with the recipe it began with, or start another run with `-s name=…`.",
                    folder.display(),
                    differences.join("`, `")
                )));
            }
        }
        let mut optimizer = AdamW::new(config.betas, config.weight_decay);
        let (mut model, state) = match newest.filter(|_| resume) {
            Some(path) => {
                let model = checkpoint::load_transformer(&path, config.frozen_dtype, &device)?;
                let model = LatentModel::load(model, config.thinking(), &path)?;
                (model, checkpoint::restore(&path, &mut optimizer, &device)?)
            }
            None => {
                let state = State { epoch: config.resume, ..State::default() };
                (initial_model(config, data, &device)?, state)
            }
        };
        model.transformer.config.precision = checkpoint::precision(config.bf16);
        std::fs::create_dir_all(&checkpoints).map_err(Error::io("create", &checkpoints))?;
        let yaml = folder.join("config.yaml");
        std::fs::write(&yaml, config.to_yaml()?).map_err(Error::io("write", &yaml))?;
        let metrics = if state.step > 0 {
            MetricsLog::resume(folder, state.step as u64)?
        } else {
            MetricsLog::create(folder)?
        };
        forget_samples(&folder.join("samples.jsonl"), state.epoch)?;
        Ok(Self {
            config,
            data,
            curriculum: config.curriculum(),
            folder: folder.to_owned(),
            model: Some(model.train()),
            optimizer,
            state,
            metrics,
        })
    }

    /// Trains to the last epoch, evaluating and saving on the way. Once `stop` is set, the step in
    /// progress is finished and saved; an evaluation in progress is left, to be made anew.
    ///
    /// # Errors
    /// [`Error::Interrupted`] after `stop`; [`Error::Training`] if the loss is not finite.
    pub fn run(&mut self, stop: &AtomicBool) -> Result<Results> {
        let steps_an_epoch = EpochSteps::count(self.data.train.encoded.len(), self.config);
        let total = steps_an_epoch * self.config.num_epochs.saturating_sub(self.config.resume);
        let progress = Progress::new("training", "steps", self.state.step as u64, total as u64);
        self.write_results()?;
        while self.state.epoch < self.config.num_epochs {
            let epoch = self.state.epoch;
            let stage = self.curriculum.stage_at(epoch);
            let new_stage = epoch == 0 || self.curriculum.stage_at(epoch - 1) != stage;
            if new_stage && self.state.step_in_epoch == 0 && self.config.reset_optimizer {
                self.optimizer = AdamW::new(self.config.betas, self.config.weight_decay);
            }
            progress.label(format!(
                "{} stage {stage}, epoch {}",
                name(&self.config.method),
                epoch + 1
            ));
            self.epoch(stage, steps_an_epoch, &progress, stop)?;
            let train_loss = self.state.epoch_loss / self.state.epoch_labels.max(1) as f64;

            let last = epoch + 1 == self.config.num_epochs;
            let stage_ends = last || self.curriculum.stage_at(epoch + 1) != stage;
            let due = match self.config.eval_at {
                EvalAt::Epoch => true,
                EvalAt::Stage => stage_ends,
                EvalAt::End => last,
            };
            let mut improved = true;
            if due {
                progress.message("evaluating");
                let Some(accuracy) = self.evaluate(stage, epoch, train_loss, stop)? else {
                    return self.interrupted(stage);
                };
                improved = self.state.best_accuracy.is_none_or(|best| accuracy > best);
                if improved {
                    self.state.best_accuracy = Some(accuracy);
                }
            }
            self.state.epoch += 1;
            (self.state.step_in_epoch, self.state.epoch_loss, self.state.epoch_labels) =
                (0, 0.0, 0);
            if improved || !self.config.save_only_improve || last {
                self.save(stage, &format!("{}-{epoch}", stage.0))?;
            }
        }
        Ok(self.results())
    }

    fn epoch(
        &mut self,
        stage: Stage,
        steps: usize,
        progress: &Progress,
        stop: &AtomicBool,
    ) -> Result<()> {
        let epoch = self.state.epoch;
        let curriculum = self.curriculum.clone();
        let plan = EpochSteps::new(self.data, &curriculum, self.config, stage, epoch);
        let skip = self.state.step_in_epoch;
        std::thread::scope(|scope| {
            // Sequences and layouts are made on another thread, a few steps ahead.
            let (sender, steps_ahead) = mpsc::sync_channel::<Result<Step>>(4);
            let plan = &plan;
            scope.spawn(move || {
                let sent = plan.for_each(skip, |step| sender.send(Ok(step)).is_ok());
                if let Err(error) = sent {
                    let _ = sender.send(Err(error));
                }
            });
            for step in steps_ahead {
                self.step(step?, stage, steps * self.config.num_epochs, progress)?;
                let unfinished = self.state.step_in_epoch < steps;
                if stop.load(Ordering::Relaxed) {
                    return self.interrupted(stage);
                }
                let every = self.config.save_steps;
                if every > 0 && self.state.step.is_multiple_of(every) && unfinished {
                    self.save(stage, &format!("{}-{epoch}.{}", stage.0, self.state.step_in_epoch))?;
                }
            }
            Ok(())
        })
    }

    fn interrupted<T>(&mut self, stage: Stage) -> Result<T> {
        let (epoch, step) = (self.state.epoch, self.state.step_in_epoch);
        self.save(stage, &format!("{}-{epoch}.{step}", stage.0))?;
        Err(Error::Interrupted(format!(
            "Stopped after optimizer step {}; everything is saved in {}. Run the same command with `--resume` to go on.",
            self.state.step,
            self.folder.display()
        )))
    }

    fn step(
        &mut self,
        step: Step,
        stage: Stage,
        horizon: usize,
        progress: &Progress,
    ) -> Result<()> {
        let start = Instant::now();
        let seed = rng::hash(self.config.seed, &[rng::DEVICE, self.state.step as u64]);
        let schedule = Schedule {
            scheduler: self.config.scheduler,
            peak: self.config.lr,
            warmup: self.config.warmup_steps,
            horizon,
        };
        let lr = schedule.lr(self.state.step);
        let labels = step.labels.max(1) as f64;
        let (mut gradients, mut nats, mut tokens) = (None, 0.0, 0);
        let mut vcr = [0.0; 2]; // variance and covariance term, mean over micro-batches
        let tracked = Some(self.config.n_detached_recursions).filter(|&k| k > 0);
        let wanted = match self.config.seq_vcr() {
            Some(_) => Wanted::Everything,
            None => Wanted::Predictions,
        };
        let model = self.model()?.clone();
        for (number, (batch, examples)) in step.batches.iter().zip(&step.examples).enumerate() {
            let seed = rng::hash(seed, &[number as u64]);
            let mut value = None;
            let losses = |trace: &Trace| {
                let sum = loss::cross_entropy(&model.transformer, batch, trace, &batch.targets)?;
                value = Some(f64::from(sum.clone().into_scalar::<f32>()));
                let mut total = sum / labels;
                if let Some((loss, dim)) = self.config.seq_vcr() {
                    let projection = seq_vcr::projection(&model, dim, self.config.seed);
                    let terms = loss.loss(batch, trace, &projection);
                    let terms = terms.map(|terms| [terms.variance, terms.covariance]);
                    for (logged, term) in vcr.iter_mut().zip(terms.into_iter().flatten()) {
                        let term = term / step.batches.len() as f64;
                        *logged += f64::from(term.clone().into_scalar::<f32>());
                        total = total + term;
                    }
                }
                Some(total)
            };
            let found = recompute::gradients(
                &model,
                batch,
                self.config.recompute,
                tracked,
                wanted,
                seed,
                losses,
            );
            let (Some(value), Some(found)) = (value, found) else { continue };
            if !value.is_finite() {
                return Err(self.not_finite("loss", examples));
            }
            nats += value;
            tokens += batch.tokens();
            gradients = Some(optim::accumulate(gradients, found));
        }
        drop(model);
        let mut grad_norm = 0.0;
        if let Some(gradients) = gradients {
            grad_norm = optim::global_norm(&gradients);
            if !grad_norm.is_finite() {
                return Err(self.not_finite("gradient", &step.examples.concat()));
            }
            let scale = optim::clip_scale(grad_norm, self.config.grad_clip);
            // The only handle to the weights is handed over, so that they are updated in place.
            self.model =
                self.model.take().map(|model| self.optimizer.step(model, gradients, lr, scale));
        }
        let seconds = start.elapsed().as_secs_f64();
        self.state.step += 1;
        self.state.step_in_epoch += 1;
        self.state.optimizer_steps = self.optimizer.steps;
        self.state.epoch_loss += nats;
        self.state.epoch_labels += step.labels;
        self.state.seconds += seconds;
        let measured = StepMetrics {
            loss: nats / labels,
            lr,
            grad_norm,
            tokens_per_s: tokens as f64 / seconds,
            seconds: self.state.seconds,
        };
        let mut record =
            Record::of_step(self.state.step as u64, self.state.epoch, stage.0, &measured);
        if self.config.loss_seq_vcr {
            record = record.with("loss_vcr_var", vcr[0]).with("loss_vcr_cov", vcr[1]);
        }
        self.metrics.append(&record)?;
        progress
            .message(format!("loss {:.3}, {:.0} tokens/s", measured.loss, measured.tokens_per_s));
        progress.advance(1);
        Ok(())
    }

    fn model(&self) -> Result<&LatentModel> {
        self.model
            .as_ref()
            .ok_or_else(|| Error::Training("the model was lost in a failed step".into()))
    }

    fn not_finite(&self, what: &str, examples: &[usize]) -> Error {
        let numbers: Vec<String> = examples.iter().map(|index| (index + 1).to_string()).collect();
        let last = checkpoint::newest(&self.folder.join("checkpoints")).ok().flatten();
        let last = last.map_or("There is no checkpoint yet".into(), |path| {
            format!("The last good checkpoint is {}", path.display())
        });
        Error::Training(format!(
            "the {what} of optimizer step {} is not finite; its batch holds the training examples {}. {last}. Lower `lr`, or set `grad_clip: 1.0`.",
            self.state.step + 1,
            numbers.join(", ")
        ))
    }

    /// The accuracy, logged and written; `None` if `stop` was set meanwhile.
    fn evaluate(
        &mut self,
        stage: Stage,
        epoch: usize,
        train_loss: f64,
        stop: &AtomicBool,
    ) -> Result<Option<f64>> {
        let evaluator = Evaluator {
            data: &self.data.val,
            tokenizer: &self.data.tokenizer,
            curriculum: self.curriculum.clone(),
            batch_size: self.config.eval_batch_size,
            max_new_tokens: self.config.max_new_tokens,
            sampling: Sampling::Greedy,
            seed: 0,
        };
        let go_on = |_| match stop.load(Ordering::Relaxed) {
            true => Err(Error::Interrupted(String::new())),
            false => Ok(()),
        };
        let found = match evaluator.evaluate(&self.model()?.valid(), stage, go_on) {
            Err(Error::Interrupted(_)) => return Ok(None),
            found => found?,
        };
        let row = Row {
            train_seconds: Some(self.state.seconds),
            train_loss: Some(train_loss),
            resident_mb: Some(log::peak_mb()).filter(|mb| mb.is_finite()),
            ..row(
                &found,
                stage,
                epoch,
                &self.config.method,
                &self.config.replacement_method.to_string(),
                self.curriculum.feeds_back(),
            )
        };
        self.metrics.append(&row.to_record(self.state.step as u64))?;
        append_samples(
            &self.folder.join("samples.jsonl"),
            &found,
            stage,
            epoch,
            &name(&self.config.method),
        )?;
        self.state.rows.push(row);
        self.write_results()?;
        Ok(Some(found.accuracy.rate()))
    }

    fn results(&self) -> Results {
        Results {
            run: self.config.name.clone(),
            config: serde_json::to_value(self.config).unwrap_or_default(),
            rows: self.state.rows.clone(),
        }
    }

    fn write_results(&self) -> Result<()> {
        self.results().write(&self.folder.join("results.json"))
    }

    fn save(&mut self, stage: Stage, place: &str) -> Result<()> {
        let latent = LatentInfo {
            method: self.config.method,
            stage,
            c_thought: self.config.c_thought,
            max_latent_stage: self.config.max_latent_stage,
            pad_latent_to_max: self.config.pad_latent_to_max,
            thinking: self.config.thinking(),
            format: self.data.format,
            prompt: self.config.prompt_style(),
            frozen: self.config.frozen_dtype,
            bf16: self.config.bf16,
        };
        let folder = self.folder.join("checkpoints");
        let path = folder.join(place);
        checkpoint::save(
            &path,
            &self.model()?.valid(),
            &self.data.tokenizer,
            &latent,
            &self.optimizer,
            &self.state,
        )?;
        let keep = self.config.keep_checkpoints;
        if keep > 0 {
            let mut old = checkpoint::all(&folder)?;
            old.truncate(old.len().saturating_sub(keep));
            for path in old {
                std::fs::remove_dir_all(&path).map_err(Error::io("remove", &path))?;
            }
        }
        Ok(())
    }
}

/// A method's name in files.
pub fn name(method: &crate::data::Method) -> String {
    serde_json::to_value(method)
        .ok()
        .and_then(|v| v.as_str().map(str::to_owned))
        .unwrap_or_default()
}

/// The row of `results.json` for an evaluation.
pub fn row(
    found: &Evaluation,
    stage: Stage,
    epoch: usize,
    method: &crate::data::Method,
    reinject: &str,
    feeds_back: bool,
) -> Row {
    Row {
        stage: stage.0,
        epoch,
        method: name(method),
        reinject: feeds_back.then(|| reinject.to_owned()),
        eval_tokens: Some(found.tokens),
        eval_latents: Some(found.latents),
        eval_ms_per_question: Some(found.ms_per_question),
        eval_loss: Some(found.loss).filter(|loss| loss.is_finite()),
        eval_forward_positions: Some(found.forward_positions),
        eval_answer_perplexity: found.answer_perplexity,
        eval_perplexity_ratio: found.perplexity_ratio,
        eval_thought_entropy: found.thoughts.map(|spread| spread.entropy),
        eval_thought_cosine: found.thoughts.map(|spread| spread.cosine),
        ..Row::default()
    }
    .with_accuracy(found.accuracy.hits, found.accuracy.n)
    .with_cot_em(found.cot_em.hits, found.cot_em.n)
}

/// Appends an evaluation's samples, one JSON line each.
pub fn append_samples(
    path: &Path,
    found: &Evaluation,
    stage: Stage,
    epoch: usize,
    method: &str,
) -> Result<()> {
    let mut lines = String::new();
    for sample in &found.samples {
        let mut value = serde_json::json!({"stage": stage.0, "epoch": epoch, "method": method});
        let fields = serde_json::to_value(sample).unwrap_or_default();
        if let (Some(object), Some(fields)) = (value.as_object_mut(), fields.as_object()) {
            object.extend(fields.clone());
        }
        lines += &value.to_string();
        lines.push('\n');
    }
    let file = std::fs::OpenOptions::new().create(true).append(true).open(path);
    file.and_then(|mut file| file.write_all(lines.as_bytes())).map_err(Error::io("write", path))
}

/// Drops the samples of epochs that are to be trained again.
fn forget_samples(path: &Path, epoch: usize) -> Result<()> {
    let Ok(text) = std::fs::read_to_string(path) else { return Ok(()) };
    let kept: String = text
        .lines()
        .filter(|line| {
            let value: Option<serde_json::Value> = serde_json::from_str(line).ok();
            value.and_then(|v| v["epoch"].as_u64()).is_some_and(|e| (e as usize) < epoch)
        })
        .flat_map(|line| [line, "\n"])
        .collect();
    std::fs::write(path, kept).map_err(Error::io("write", path))
}
