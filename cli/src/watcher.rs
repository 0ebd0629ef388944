//! What a person sees of a run in progress, and what its log keeps.

use std::time::{Duration, Instant};

use coconut::{data::Stage, train::Event};

use crate::progress::Progress;

/// Shows runs as bars, warns, and notes in the log what happened.
#[derive(Default)]
pub struct Watcher {
    steps: Option<Progress>,
    questions: Option<Progress>,
    /// Warnings that were given; runs of several methods share their data and give the same.
    warned: Vec<String>,
    /// When the event before came.
    before: Option<Instant>,
    training: Duration,
    evaluating: Duration,
    saving: Duration,
}

impl Watcher {
    pub fn see(&mut self, event: Event) {
        self.count(&event);
        match event {
            Event::Warning(warning) => {
                if !self.warned.iter().any(|given| given == warning) {
                    tracing::warn!("{warning}");
                    self.warned.push(warning.into());
                }
            }
            Event::Begun { done, total } => {
                tracing::info!("training begins after {done} of {total} optimizer steps");
                let bar = Progress::new("training", "steps", done as u64, total as u64);
                self.steps = Some(bar);
            }
            Event::StageBegins { method, stage } => tracing::info!("{method} stage {stage} begins"),
            Event::Epoch { method, stage, epoch } => {
                let label = format!("{method} stage {stage}, epoch {}", epoch + 1);
                if let Some(bar) = &self.steps {
                    bar.label(label);
                }
            }
            Event::Step { loss, tokens_per_s, .. } => {
                if let Some(bar) = &self.steps {
                    bar.message(format!("loss {loss:.3}, {tokens_per_s:.0} tokens/s"));
                    bar.advance(1);
                }
            }
            Event::Evaluating { answered, questions } => {
                let new = || Progress::new("evaluating", "questions", 0, questions as u64);
                self.questions.get_or_insert_with(new).at(answered as u64);
            }
            Event::Evaluated(row) => {
                self.questions = None;
                let (method, stage, epoch) = (&row.method, Stage(row.stage), row.epoch + 1);
                let correct = 100.0 * row.eval_acc.unwrap_or(f64::NAN);
                tracing::info!(
                    "{method} stage {stage}, epoch {epoch}: {correct:.1} % of the answers are right"
                );
            }
            Event::Saved(path) => tracing::info!("saved {}", path.display()),
            Event::StageEnds { method, stage } => tracing::info!("{method} stage {stage} ends"),
        }
    }

    /// Counts the time since the event before.
    fn count(&mut self, event: &Event) {
        let now = Instant::now();
        let since = self.before.replace(now).map_or(Duration::ZERO, |before| now - before);
        match event {
            Event::Step { .. } => self.training += since,
            Event::Evaluating { .. } | Event::Evaluated(_) => self.evaluating += since,
            Event::Saved(_) => self.saving += since,
            _ => {}
        }
    }

    /// Notes in the log where the time went.
    pub fn finish(&self) {
        let [training, evaluating, saving] =
            [self.training, self.evaluating, self.saving].map(|time| time.as_secs_f64());
        tracing::info!(
            "done: {training:.1} s training, {evaluating:.1} s evaluating, {saving:.1} s saving"
        );
    }
}
