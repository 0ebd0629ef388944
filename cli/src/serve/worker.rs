//! The thread of the model: one batch that rows join and leave.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Instant,
};

use coconut::{
    Error, Result,
    eval::{
        GenerateOptions, GenerationLoop, Looks, NewToken, Prompted, TokenLogProb, TrainedModel,
    },
};
use tokio::sync::mpsc::{Receiver, UnboundedSender};

use super::{
    failure::Failure,
    job::{Begun, Change, Job, News},
    metrics::Metrics,
    model::Model,
};

/// Runs jobs until nobody can send any more.
pub struct Worker<'a> {
    pub model: &'a Model,
    pub trained: TrainedModel<'a>,
    /// Rows that may run at once.
    pub most_rows: usize,
    pub metrics: &'a Metrics,
    /// Rows that are running, for others to see.
    pub running: Arc<AtomicU64>,
    /// Whether waiting jobs are to be refused.
    pub stopping: Arc<AtomicBool>,
}

/// The rows that are running, and who listens to each, in the same order.
#[derive(Default)]
struct Running<'a> {
    rows: Option<GenerationLoop<'a>>,
    clients: Vec<Client>,
}

struct Client {
    news: UnboundedSender<News>,
    log_probs: Option<usize>,
    deadline: Instant,
    ended: bool,
}

impl<'a> Worker<'a> {
    pub fn run(&self, mut jobs: Receiver<Job>) {
        let mut running = Running::default();
        loop {
            let mut waiting = Vec::new();
            if running.clients.is_empty() {
                match jobs.blocking_recv() {
                    Some(job) => waiting.push(job),
                    None => return,
                }
            }
            while running.live() + waiting.len() < self.most_rows {
                let Ok(job) = jobs.try_recv() else { break };
                waiting.push(job);
            }
            let rows = running.live() + waiting.len();
            self.running.store(rows as u64, Ordering::Relaxed);
            let started = Instant::now();
            let done = caught(|| {
                self.admit(waiting, &mut running)?;
                self.step(&mut running)
            });
            if let Err(error) = done {
                running.fail(&Failure::from_error("", error));
            }
            running.forget_ended();
            self.running.store(running.live() as u64, Ordering::Relaxed);
            self.metrics.add_busy(started.elapsed());
        }
    }

    /// Lets jobs join the batch: those that are thought of in a way of their own one by one, the others together.
    fn admit(&self, waiting: Vec<Job>, running: &mut Running<'a>) -> Result<()> {
        let (alone, plain): (Vec<Job>, Vec<Job>) = waiting
            .into_iter()
            .filter(|job| self.is_wanted(job))
            .partition(|job| job.change.is_some() || job.iterations.is_some());
        for job in alone {
            self.begin(vec![job], running)?;
        }
        if plain.is_empty() { Ok(()) } else { self.begin(plain, running) }
    }

    /// Whether there is still somebody to answer, and time and will to do so.
    fn is_wanted(&self, job: &Job) -> bool {
        let failure = if self.stopping.load(Ordering::Relaxed) {
            Failure::stopping()
        } else if Instant::now() >= job.deadline {
            Failure::too_slow()
        } else {
            return !job.news.is_closed();
        };
        let _ = job.news.send(News::Failed(failure));
        false
    }

    fn begin(&self, jobs: Vec<Job>, running: &mut Running<'a>) -> Result<()> {
        match self.first_column(&jobs) {
            Ok((rows, column)) => {
                let mut begun = Running { rows: Some(rows), clients: Vec::new() };
                begun.clients.extend(jobs.into_iter().map(Client::of));
                begun.tell(&column, self.metrics)?;
                running.join(begun)
            }
            Err(error) => {
                let failure = Failure::from_error("edit", error);
                for job in jobs {
                    let _ = job.news.send(News::Failed(failure.clone()));
                }
                Ok(())
            }
        }
    }

    /// Runs prompts, tells what was seen of them, and lets each row say its first token.
    fn first_column(&self, jobs: &[Job]) -> Result<(GenerationLoop<'a>, Vec<NewToken>)> {
        let prompts: Vec<&[u32]> = jobs.iter().map(|job| job.prompt.as_slice()).collect();
        let iterations = jobs.first().and_then(|job| job.iterations);
        let trained = TrainedModel { iterations, ..self.trained.clone() };
        let edit = match jobs {
            [Job { change: Some(Change { edit, donor }), prompt, .. }] => {
                Some(edit.of_prompt(&trained, prompt, donor.as_deref())?)
            }
            _ => None,
        };
        let most_thoughts = jobs.iter().filter_map(|job| job.thoughts).max();
        let looks = Looks {
            thoughts: most_thoughts.is_some(),
            log_probs: jobs.iter().any(|job| job.scored),
        };
        let prompted = Prompted::new(&trained, &prompts, edit.as_ref(), looks)?;
        let (mut thoughts, mut readouts) = match most_thoughts {
            Some(n_tokens) => (prompted.thoughts(n_tokens)?, prompted.readouts()?),
            None => (vec![Vec::new(); jobs.len()], vec![Vec::new(); jobs.len()]),
        };
        for (row, job) in jobs.iter().enumerate() {
            let mut begun = Begun::default();
            if let Some(n_tokens) = job.thoughts {
                begun.thoughts = std::mem::take(&mut thoughts[row]);
                begun.thoughts.iter_mut().for_each(|thought| thought.tokens.truncate(n_tokens));
                begun.readout = std::mem::take(&mut readouts[row]);
            }
            if job.scored {
                begun.log_probs = prompted.log_probs(row, job.log_probs.unwrap_or(0))?;
            }
            let _ = job.news.send(News::Begun(begun));
        }
        self.metrics.add_prompt_tokens(prompts.iter().map(|ids| ids.len()).sum());
        let plan = trained.plan();
        let options = |job: &Job| GenerateOptions {
            plan,
            stops: if job.endless { &[] } else { self.model.stops(job.chat) },
            max_new_tokens: job.max_new_tokens,
            sampling: job.sampling,
        };
        let options: Vec<GenerateOptions<'a>> = jobs.iter().map(options).collect();
        let mut rows = prompted.speak(&options);
        let column = rows.step()?;
        Ok((rows, column))
    }

    /// One more token for every row whose client still listens.
    fn step(&self, running: &mut Running<'a>) -> Result<()> {
        running.let_go();
        running.forget_ended();
        let Some(rows) = &mut running.rows else { return Ok(()) };
        let column = rows.step()?;
        running.tell(&column, self.metrics)
    }
}

impl Client {
    fn of(Job { news, log_probs, deadline, max_new_tokens, .. }: Job) -> Self {
        Self { news, log_probs, deadline, ended: max_new_tokens == 0 }
    }
}

impl Running<'_> {
    fn live(&self) -> usize {
        self.clients.iter().filter(|client| !client.ended).count()
    }

    /// Sends each row its part of a column.
    fn tell(&mut self, column: &[NewToken], metrics: &Metrics) -> Result<()> {
        let asked: Vec<usize> = column
            .iter()
            .map(|new| new.row)
            .filter(|&row| self.clients[row].log_probs.is_some())
            .collect();
        let log_probs = match &self.rows {
            Some(rows) if !asked.is_empty() => rows.log_probs(&asked)?,
            _ => Vec::new(),
        };
        let mut log_probs = asked.iter().zip(&log_probs).peekable();
        for new in column {
            let client = &mut self.clients[new.row];
            let of_row = log_probs.next_if(|(row, _)| **row == new.row);
            let log_prob =
                of_row.zip(client.log_probs).map(|((_, all), n)| TokenLogProb::new(new.id, all, n));
            let _ = client.news.send(News::Token { id: new.id, end: new.end, log_prob });
            client.ended = new.end.is_some();
        }
        metrics.add_tokens(column.len());
        Ok(())
    }

    /// Ends the rows whose client went away or whose time is over.
    fn let_go(&mut self) {
        let Some(rows) = &mut self.rows else { return };
        let now = Instant::now();
        for (row, client) in self.clients.iter_mut().enumerate() {
            let late = now >= client.deadline;
            if late {
                let _ = client.news.send(News::Failed(Failure::too_slow()));
            }
            if late || client.news.is_closed() {
                rows.leave(row);
                client.ended = true;
            }
        }
    }

    /// Rows that have ended are forgotten when they are half of the batch or more: until then it costs less to carry
    /// them along than to move the others' cache.
    fn forget_ended(&mut self) {
        let ended = self.clients.iter().filter(|client| client.ended).count();
        if ended == self.clients.len() {
            *self = Self::default();
        } else if 2 * ended >= self.clients.len() {
            self.clients.retain(|client| !client.ended);
            if let Some(rows) = &mut self.rows {
                rows.retain_running();
            }
        }
    }

    fn join(&mut self, mut begun: Self) -> Result<()> {
        for clients in [&mut self.clients, &mut begun.clients] {
            clients.retain(|client| !client.ended);
        }
        match (&mut self.rows, begun.rows) {
            (Some(rows), Some(new)) => rows.join(new)?,
            (none, new) => {
                *none = new;
                if let Some(rows) = none {
                    rows.retain_running();
                }
            }
        }
        self.clients.append(&mut begun.clients);
        Ok(())
    }

    fn fail(&mut self, failure: &Failure) {
        for client in self.clients.iter().filter(|client| !client.ended) {
            let _ = client.news.send(News::Failed(failure.clone()));
        }
        *self = Self::default();
    }
}

/// So that a fault of the program in one batch does not end the server.
fn caught<T>(run: impl FnOnce() -> Result<T>) -> Result<T> {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(run))
        .unwrap_or_else(|_| Err(Error::Internal("the computation broke off".into())))
}
