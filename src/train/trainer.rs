//! The training loop: the one owner of what changes during training.

use std::{
    ops::Range,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use burn::module::Module;

use super::{
    Data, EpochSteps, Event, Group, StepOptions, StepReport, initial_model,
    start::agree_on_weights,
    step::{NotFinite, step},
};
use crate::{
    Error, Result,
    checkpoint::{self, LatentInfo, TrainerState},
    config::{EvalAt, Resolved, RunConfig, resolved::ModelSource},
    data::{
        ScheduleState, Stage,
        schedule::{Pace, StageAccuracy},
    },
    device,
    eval::{Evaluator, Sampling, score::Scorer},
    memory,
    objective::{Learner, StepDecoder},
    optim::AdamW,
    rng,
    run::{
        MetricsLog, Record, Results, Row, RunFolder, StepMetrics, append_samples,
        samples::forget_samples,
    },
};

/// One run of one method.
pub struct Trainer<'a> {
    run: &'a Resolved,
    data: &'a Data,
    folder: RunFolder,
    /// With autodiff.
    learner: Learner,
    optimizer: AdamW,
    state: TrainerState,
    /// Open while the run goes on; `None` where another process writes them.
    metrics: Option<MetricsLog>,
    group: Group<'a>,
}

impl<'a> Trainer<'a> {
    /// A run in `folder`, trained by all processes of a group, of which one writes; nothing is written yet.
    ///
    /// # Errors
    /// Settings other than those it began with, everything that reading the model can report, and processes that cannot
    /// share the run's steps.
    pub fn new(
        run: &'a Resolved,
        data: &'a Data,
        folder: RunFolder,
        group: Group<'a>,
    ) -> Result<Self> {
        group.first(|| refuse_idle(run, group))?;
        let mut optimizer = optimizer(run);
        let (learner, resumed) = group.heed(start(run, data, &folder, &mut optimizer))?;
        agree_on_weights(group, &learner)?;
        let begun = || TrainerState { epoch: run.epochs.start, ..TrainerState::default() };
        let (state, learner) = (resumed.unwrap_or_else(begun), learner.train());
        let metrics = None;
        Ok(Self { run, data, folder, learner, optimizer, state, metrics, group })
    }

    /// Trains to the last epoch, evaluating and saving on the way, and tells `watch` of it. Once `stop`
    /// is set, the step in progress is finished and saved; an evaluation in progress is left, to be made
    /// anew.
    ///
    /// # Errors
    /// [`Error::Interrupted`] after `stop`; [`Error::Training`] if a loss or a gradient is not finite.
    pub fn run(mut self, stop: &AtomicBool, watch: &mut dyn FnMut(Event)) -> Result<Results> {
        if self.group.leads() {
            self.metrics = Some(open_folder(self.run, &self.folder, &self.state)?);
        }
        self.warn(watch);
        let steps = self.run.batches.steps(self.data.train.encoded.len());
        watch(Event::Begun { done: self.state.step, total: steps * self.run.epochs.len() });
        self.write_results()?;
        while self.state.epoch < self.run.epochs.end && !self.state.schedule.finished {
            let stages = self.run.schedule.stages_of(self.state.epoch, steps, &self.state.schedule);
            let Some(&(stage, _)) = stages.last() else { break };
            self.begin_epoch(&stages, watch);
            self = self.train(stages, steps, stop, watch)?;
            let next = self.decide(stage, stop, watch)?;
            let ends_stage = self.run.schedule.ends_stage(stage, self.state.epoch, steps, &next);
            let group = self.group;
            let improved = match self.evaluation_is_due(ends_stage, &next) {
                true => group.decide(|| self.evaluate(stage, stop, watch))?,
                false => true,
            };
            self.state.schedule = next;
            self.leave_epoch(stage, improved, ends_stage, watch)?;
        }
        if let Some(metrics) = &mut self.metrics {
            metrics.finish()?;
        }
        self.results()
    }

    fn warn(&self, watch: &mut dyn FnMut(Event)) {
        let steps = self.run.batches.steps(self.data.train.encoded.len());
        let end = self.run.epochs.end.saturating_sub(1);
        let reached = self.run.schedule.stages_of(end, steps, &self.state.schedule);
        if let (Pace::Tokenwise { all_from, .. }, Some((stage, _))) =
            (self.run.schedule.pace, reached.last())
            && *stage < self.run.schedule.last_stage()
        {
            watch(Event::Warning(&format!(
                "the last epoch takes {stage} tokens of the steps away and not all, for which {all_from} are needed (`remove_all_from`): more epochs, or a higher `removed_per_epoch`, reach it"
            )));
        }
        self.data.warnings.iter().for_each(|warning| watch(Event::Warning(warning)));
        if let Some(warning) = device::bf16_warning(self.run.recipe.bf16) {
            watch(Event::Warning(warning));
        }
    }

    /// Tells of the epoch in progress, of whose stages the first step left has one.
    fn begin_epoch(&mut self, stages: &[(Stage, Range<usize>)], watch: &mut dyn FnMut(Event)) {
        let (method, epoch) = (self.run.curriculum.method, self.state.epoch);
        let next = stages.iter().find(|(_, steps)| self.state.step_in_epoch < steps.end);
        let Some(&(stage, _)) = next.or(stages.last()) else { return };
        self.enter(stage, watch);
        watch(Event::Epoch { method, stage, epoch });
    }

    /// Enters a stage; one that begins may begin with a fresh optimizer.
    fn enter(&mut self, stage: Stage, watch: &mut dyn FnMut(Event)) {
        let (epoch, steps) = (self.state.epoch, self.state.step_in_epoch);
        if self.run.schedule.enter(stage, epoch, steps, &mut self.state.schedule) {
            watch(Event::StageBegins { method: self.run.curriculum.method, stage });
            if self.run.optimizer.reset {
                self.optimizer = optimizer(self.run);
            }
        }
    }

    /// Takes the optimizer steps that are left of the epoch's `steps`, which go through `stages`.
    fn train(
        mut self,
        stages: Vec<(Stage, Range<usize>)>,
        steps: usize,
        stop: &AtomicBool,
        watch: &mut dyn FnMut(Event),
    ) -> Result<Self> {
        let (epoch, group) = (self.state.epoch, self.group);
        let objective = &self.run.objective;
        // Dropout and constants are each row's own.
        let shares =
            self.run.optimizer.tracked.is_none() && !self.learner.model.transformer.drops_out();
        let of_epoch = EpochSteps::new(self.data, self.run, stages, epoch, group.share())
            .sharing_prefixes(shares);
        of_epoch.ahead(self.state.step_in_epoch, |batches| {
            for batches in batches {
                let batches = batches?;
                let stage = batches.stage;
                self.enter(stage, watch);
                let (start, options) = (Instant::now(), self.step_options(steps));
                let report;
                (self.learner, report) =
                    step(self.learner, &mut self.optimizer, &batches, objective, options, group)
                        .map_err(|problem| not_finite(&self.folder, self.state.step, &problem))?;
                self.record(stage, &report, options.lr, start.elapsed(), watch)?;

                let every = self.run.saving.steps;
                let unfinished = self.state.step_in_epoch < steps;
                if group.any(stop.load(Ordering::Relaxed)) {
                    return self.interrupted(stage, watch);
                }
                if every > 0 && self.state.step.is_multiple_of(every) && unfinished {
                    let place = format!("{}-{epoch}.{}", stage.0, self.state.step_in_epoch);
                    self.save(stage, &place, watch)?;
                }
            }
            Ok(self)
        })
    }

    /// Whether the epoch that was trained, which may end its stage, is to be evaluated, given the schedule's state
    /// after it.
    fn evaluation_is_due(&self, ends_stage: bool, next: &ScheduleState) -> bool {
        match self.run.evaluation.at {
            EvalAt::Epoch => true,
            EvalAt::Stage => ends_stage,
            EvalAt::End => next.finished || self.state.epoch + 1 == self.run.epochs.end,
        }
    }

    /// Measures what decides the next epoch's stage, and decides it, if the clock does not: the schedule's state
    /// after the epoch in progress.
    fn decide(
        &mut self,
        stage: Stage,
        stop: &AtomicBool,
        watch: &mut dyn FnMut(Event),
    ) -> Result<ScheduleState> {
        let mut next = self.state.schedule.clone();
        let (model, questions) = (self.learner.model.valid(), self.data.val.encoded.len());
        let mut found = Vec::new();
        for of in self.run.schedule.deciding(stage, &next) {
            let accuracy = self.group.lead(|| {
                let mut answered = 0;
                let answers = self.evaluator().answers(&model, of, |more| {
                    answered += more;
                    watch(Event::Evaluating { answered, questions });
                    go_on(stop)
                });
                match answers {
                    Err(Error::Interrupted(_)) => self.interrupted(stage, watch),
                    answers => Ok(answers?.accuracy.rate().unwrap_or(f64::NAN)),
                }
            })?;
            found.push(StageAccuracy { stage: of, accuracy });
        }
        if let Some(warning) = self.run.schedule.leave(stage, &found, &mut next) {
            watch(Event::Warning(&warning));
        }
        Ok(next)
    }

    /// Counts the epoch as done, and saves unless only improvements are saved and this is none.
    fn leave_epoch(
        &mut self,
        stage: Stage,
        improved: bool,
        ends_stage: bool,
        watch: &mut dyn FnMut(Event),
    ) -> Result<()> {
        let (method, epoch) = (self.run.curriculum.method, self.state.epoch);
        self.state.epoch += 1;
        (self.state.step_in_epoch, self.state.epoch_loss, self.state.epoch_labels) = (0, 0.0, 0);
        let last = self.state.epoch == self.run.epochs.end || self.state.schedule.finished;
        if improved || !self.run.saving.only_improved || last {
            self.save(stage, &format!("{}-{epoch}", stage.0), watch)?;
        }
        if ends_stage {
            watch(Event::StageEnds { method, stage });
        }
        Ok(())
    }

    fn interrupted<T>(&mut self, stage: Stage, watch: &mut dyn FnMut(Event)) -> Result<T> {
        let (epoch, step) = (self.state.epoch, self.state.step_in_epoch);
        self.save(stage, &format!("{}-{epoch}.{step}", stage.0), watch)?;
        Err(Error::Interrupted(format!(
            "Stopped after optimizer step {}; everything is saved in {}. Run the same command with `--resume` to go on.",
            self.state.step,
            self.folder.path().display()
        )))
    }

    /// How the next step of a run is taken whose epochs have `steps` steps.
    fn step_options(&self, steps: usize) -> StepOptions {
        let settings = &self.run.optimizer;
        StepOptions {
            lr: self.run.lr_schedule(steps).lr(self.state.step),
            grad_clip: settings.grad_clip,
            recompute: settings.recompute,
            tracked: settings.tracked,
            seed: rng::hash(self.run.seed, &[rng::DEVICE, self.state.step as u64]),
        }
    }

    /// Counts a step as done and logs it.
    fn record(
        &mut self,
        stage: Stage,
        report: &StepReport,
        lr: f64,
        took: Duration,
        watch: &mut dyn FnMut(Event),
    ) -> Result<()> {
        let seconds = took.as_secs_f64();
        let state = &mut self.state;
        state.step += 1;
        state.step_in_epoch += 1;
        state.optimizer_steps = self.optimizer.steps;
        state.epoch_loss += report.loss_sum;
        state.epoch_labels += report.labels;
        state.seconds += seconds;
        let measured = StepMetrics {
            loss: report.loss(),
            lr,
            grad_norm: report.grad_norm,
            tokens_per_s: report.tokens as f64 / seconds,
            seconds: state.seconds,
        };
        let record = Record::of_step(state.step as u64, state.epoch, stage.0, &measured);
        let logged = report.logged.iter();
        if let Some(metrics) = &mut self.metrics {
            metrics.append(&logged.fold(record, |record, &(name, x)| record.with(name, x)))?;
        }
        let (step, StepMetrics { loss, tokens_per_s, .. }) = (self.state.step, measured);
        watch(Event::Step { step, loss, tokens_per_s });
        Ok(())
    }

    /// Evaluates the model, and writes what it answered; whether it is the best so far.
    fn evaluate(
        &mut self,
        stage: Stage,
        stop: &AtomicBool,
        watch: &mut dyn FnMut(Event),
    ) -> Result<bool> {
        let learner = self.learner.valid();
        let trained = learner.objective.decoder.as_ref().zip(self.run.objective.decoder());
        let decoder = trained.map(|(network, of)| StepDecoder { network, style: of.style });
        let evaluator = Evaluator { decoder, ..self.evaluator() };
        let (epoch, questions) = (self.state.epoch, self.data.val.encoded.len());
        let mut answered = 0;
        watch(Event::Evaluating { answered, questions });
        let advance = |more| {
            answered += more;
            watch(Event::Evaluating { answered, questions });
            go_on(stop)
        };
        let found = match evaluator.evaluate(&learner.model, stage, advance) {
            Err(Error::Interrupted(_)) => return self.interrupted(stage, watch),
            found => found?,
        };
        let feeds_back = self.run.latent.feeds_back();
        let reinject = feeds_back.then(|| self.run.latent.feedback.to_string());
        let row = Row {
            train_seconds: Some(self.state.seconds),
            train_loss: Some(self.state.epoch_loss / self.state.epoch_labels.max(1) as f64),
            resident_mb: Some(memory::peak_mb()).filter(|mb| mb.is_finite()),
            ..Row::of(&found, stage, epoch, self.run.curriculum.method, reinject)
        };
        if let Some(metrics) = &mut self.metrics {
            metrics.append(&row.to_record(self.state.step as u64))?;
        }
        let method = self.run.curriculum.method;
        append_samples(&self.folder.samples(), &found, stage, epoch, method, None)?;
        self.state.rows.push(row);
        self.write_results()?;
        if let Some(row) = self.state.rows.last() {
            watch(Event::Evaluated(row));
        }
        let accuracy = found.answers.accuracy.rate().unwrap_or(f64::NAN);
        let improved = self.state.best_accuracy.is_none_or(|best| accuracy > best);
        if improved {
            self.state.best_accuracy = Some(accuracy);
        }
        Ok(improved)
    }

    fn evaluator(&self) -> Evaluator<'a> {
        Evaluator {
            data: &self.data.val,
            decoder: None,
            tokenizer: &self.data.tokenizer,
            curriculum: self.run.curriculum.clone(),
            batch_size: self.run.evaluation.batch_size,
            max_new_tokens: self.run.evaluation.max_new_tokens,
            sampling: Sampling::Greedy,
            scorer: Scorer::Mark,
            seed: 0,
        }
    }

    fn results(&self) -> Result<Results> {
        Ok(Results {
            run: self.run.recipe.name.clone(),
            config: self.run.recipe.to_json()?,
            rows: self.state.rows.clone(),
        })
    }

    fn write_results(&self) -> Result<()> {
        if !self.group.leads() {
            return Ok(());
        }
        self.results()?.write(&self.folder.results())
    }

    fn save(&mut self, stage: Stage, place: &str, watch: &mut dyn FnMut(Event)) -> Result<()> {
        if !self.group.leads() {
            return Ok(());
        }
        let latent = LatentInfo {
            step_decoder: self.run.objective.decoder().map(|decoder| decoder.style),
            format: self.data.format,
            prompt: self.run.data.prompt.clone(),
            frozen: self.run.frozen,
            bf16: self.run.recipe.bf16,
            ..LatentInfo::of(&self.run.curriculum, stage, self.run.latent.clone())
        };
        let folder = self.folder.checkpoints();
        let path = folder.join(place);
        checkpoint::save(
            &path,
            &self.learner.valid(),
            &self.data.tokenizer,
            &latent,
            &self.optimizer,
            &self.state,
        )?;
        checkpoint::prune(&folder, self.run.saving.keep)?;
        watch(Event::Saved(&path));
        Ok(())
    }
}

/// The model that a run in `folder` starts from, and where it was left if it goes on.
fn start(
    run: &Resolved,
    data: &Data,
    folder: &RunFolder,
    optimizer: &mut AdamW,
) -> Result<(Learner, Option<TrainerState>)> {
    let resumed = match &run.model {
        ModelSource::Checkpoint(path) => {
            refuse_other_settings(run, folder)?;
            Some(checkpoint::restore(path, optimizer, &run.device)?)
        }
        ModelSource::Random(_) | ModelSource::Folder { .. } => None,
    };
    Ok((initial_model(run, data)?.with_precision(run.precision), resumed))
}

/// A run's folder, ready to be written to after what `state` says.
fn open_folder(run: &Resolved, folder: &RunFolder, state: &TrainerState) -> Result<MetricsLog> {
    folder.write_config(&run.recipe.to_yaml()?)?;
    let checkpoints = folder.checkpoints();
    std::fs::create_dir_all(&checkpoints).map_err(Error::io("create", &checkpoints))?;
    // Killed before its last pruning, a run has one too many.
    checkpoint::prune(&checkpoints, run.saving.keep)?;
    let metrics = match run.model {
        ModelSource::Checkpoint(_) => {
            MetricsLog::resume(folder.path(), &run.recipe, state.step as u64)?
        }
        ModelSource::Random(_) | ModelSource::Folder { .. } => {
            MetricsLog::create(folder.path(), &run.recipe)?
        }
    };
    forget_samples(&folder.samples(), state.epoch)?;
    Ok(metrics)
}

/// Refuses more processes than there are batches in a step, where batches cannot be taken in parts.
fn refuse_idle(run: &Resolved, group: Group) -> Result<()> {
    let (world, batches) = (group.share().world, run.batches.accumulation);
    if run.objective.has_batch_means() && batches < world {
        return Err(run.recipe.error(
            "gradient_accumulation_steps",
            format!(
                "{world} processes share the batches of an optimizer step, of which there are {batches}: losses of this recipe are means over whole batches, which cannot be taken in parts. Start at most {batches}, or use more and smaller batches"
            ),
        ));
    }
    Ok(())
}

/// An error once the user has asked to stop.
fn go_on(stop: &AtomicBool) -> Result<()> {
    match stop.load(Ordering::Relaxed) {
        true => Err(Error::Interrupted(String::new())),
        false => Ok(()),
    }
}

/// A fresh optimizer.
fn optimizer(run: &Resolved) -> AdamW {
    AdamW::new(run.optimizer.betas, run.optimizer.weight_decay)
}

/// Refuses to go on with a run that was begun with other settings; it may go on on another device.
fn refuse_other_settings(run: &Resolved, folder: &RunFolder) -> Result<()> {
    let saved = folder.config();
    if !saved.exists() {
        return Ok(());
    }
    let (device, device_check) = (run.recipe.device, run.recipe.device_check);
    let saved = RunConfig { device, device_check, ..RunConfig::load(&saved, &[])? };
    let differences = saved.differences(&run.recipe);
    if differences.is_empty() {
        return Ok(());
    }
    Err(Error::Usage(format!(
        "{} was begun with other settings of `{}`. Resume with the recipe it began with, or start another run with `-s name=…`.",
        folder.path().display(),
        differences.join("`, `")
    )))
}

/// The error of a step after `steps` whole ones, with the checkpoint to go back to.
fn not_finite(folder: &RunFolder, steps: usize, problem: &NotFinite) -> Error {
    let numbers: Vec<String> =
        problem.examples.iter().map(|example| (example + 1).to_string()).collect();
    let last = checkpoint::newest(&folder.checkpoints()).ok().flatten();
    let last = last.map_or("There is no checkpoint yet".into(), |path| {
        format!("The last good checkpoint is {}", path.display())
    });
    Error::Training(format!(
        "the {} of optimizer step {} is not finite; its batch holds the training examples {}. {last}. Lower `lr`, or set `grad_clip: 1.0`.",
        problem.what,
        steps + 1,
        numbers.join(", ")
    ))
}
