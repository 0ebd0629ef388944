//! `coconut serve`: the model over HTTP, in OpenAI's forms.
//!
//! Requests are read and answered on two threads of their own (`http`, `answer`); the thread of the model (`worker`) runs
//! one batch that rows join and leave. Between them are a queue of jobs, and a channel of news for each row (`job`).

mod answer;
mod failure;
mod http;
mod job;
mod metrics;
mod model;
mod reply;
mod request;
mod speech;
mod worker;

use std::{
    net::{IpAddr, TcpListener},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use clap::Args;
use coconut::{Error, Result};
use tokio::sync::mpsc;

use self::{job::Job, metrics::Metrics, model::Model, worker::Worker};
use crate::{
    options::{Dials, ModelOptions},
    verbs::{self, stop_on_ctrl_c},
};

/// The variable that may hold the token.
const TOKEN: &str = "COCONUT_TOKEN";

/// More would not fit what counts them.
const MOST_WAITING: usize = 1 << 30;
/// A year: clocks cannot add what is much longer.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 3600);

#[derive(Args)]
pub struct Serve {
    #[command(flatten)]
    model: ModelOptions,
    /// The address to listen on. One that others can reach needs a token.
    #[arg(long, default_value = "127.0.0.1")]
    host: IpAddr,
    /// The port to listen on; 0 for any that is free.
    #[arg(long, default_value_t = 8000)]
    port: u16,
    /// What clients must send as `Authorization: Bearer TOKEN`; better given in the environment variable COCONUT_TOKEN,
    /// where other users of the machine do not see it.
    #[arg(long)]
    token: Option<String>,
    /// The model's name in requests; the folder's if absent.
    #[arg(long)]
    name: Option<String>,
    #[command(flatten)]
    dials: Dials,
    /// Rows run at once.
    #[arg(long, default_value_t = 16, value_parser = verbs::at_least_one)]
    rows: usize,
    /// Rows that may wait; more are refused.
    #[arg(long, default_value_t = 256, value_parser = verbs::at_least_one)]
    queue: usize,
    /// Most tokens that a request may ask for.
    #[arg(long, default_value_t = 4096, value_parser = verbs::at_least_one)]
    max_tokens: usize,
    /// Longest body of a request, in KiB.
    #[arg(long, default_value_t = 1024, value_parser = verbs::at_least_one)]
    max_body: usize,
    /// Longest time of a request, waiting included, in seconds.
    #[arg(long, default_value_t = 600, value_parser = verbs::at_least_one)]
    timeout: usize,
}

/// What a request may ask for.
struct Limits {
    tokens: usize,
    /// In bytes.
    body: usize,
    queue: usize,
    time: Duration,
}

/// What those who answer requests share.
struct App {
    model: Arc<Model>,
    jobs: mpsc::Sender<Job>,
    metrics: Arc<Metrics>,
    limits: Limits,
    stopping: Arc<AtomicBool>,
    token: Option<String>,
    /// Answers begun so far.
    answers: AtomicU64,
}

impl App {
    /// Rows that wait.
    fn queued(&self) -> usize {
        self.jobs.max_capacity() - self.jobs.capacity()
    }

    /// Whether no row waits or runs.
    fn is_idle(&self) -> bool {
        self.queued() == 0 && self.metrics.rows.load(Ordering::Relaxed) == 0
    }
}

impl Serve {
    pub fn run(self) -> Result<()> {
        let token = self.token()?;
        // Before the model is opened, which may take long.
        let listener = self.listen()?;
        let model = Arc::new(self.open()?);
        let metrics = Arc::new(Metrics::default());
        let stopping = stop_on_ctrl_c();
        let (jobs, queue) = mpsc::channel(self.limits().queue);
        let app = Arc::new(App {
            model: Arc::clone(&model),
            jobs,
            metrics: Arc::clone(&metrics),
            limits: self.limits(),
            stopping: Arc::clone(&stopping),
            token,
            answers: AtomicU64::new(0),
        });
        let address = listener.local_addr().map_err(|error| self.cannot_listen(&error))?;
        let http = std::thread::spawn(move || answer_requests(listener, app));
        eprintln!("serving {} on http://{address}; Ctrl-C stops", model.name);
        let trained = model.checkpoint.trained();
        let most_rows = self.rows;
        Worker { model: &model, trained, most_rows, metrics: &metrics, stopping }.run(queue);
        let ended = http.join();
        ended.unwrap_or_else(|_| Err(Error::Internal("the thread of the server broke off".into())))
    }

    fn limits(&self) -> Limits {
        Limits {
            tokens: self.max_tokens,
            body: self.max_body.saturating_mul(1024),
            queue: self.queue.min(MOST_WAITING),
            time: Duration::from_secs(self.timeout as u64).min(LONGEST),
        }
    }

    /// The token that clients must send; needed where others than this machine can ask.
    fn token(&self) -> Result<Option<String>> {
        let set = std::env::var(TOKEN).ok();
        let token = self.token.clone().or(set).filter(|token| !token.is_empty());
        if token.is_none() && !self.host.is_loopback() {
            return Err(Error::Usage(format!(
                "--host {}: others can reach this address, so clients need a token. Give one with --token or in the environment variable {TOKEN}.",
                self.host
            )));
        }
        Ok(token)
    }

    fn listen(&self) -> Result<TcpListener> {
        let listener = TcpListener::bind((self.host, self.port));
        let listener = listener.map_err(|error| self.cannot_listen(&error))?;
        listener.set_nonblocking(true).map_err(|error| self.cannot_listen(&error))?;
        Ok(listener)
    }

    fn cannot_listen(&self, error: &std::io::Error) -> Error {
        let advice = match error.kind() {
            std::io::ErrorKind::AddrInUse => {
                "Another program listens there; choose another --port, or 0 for any that is free"
            }
            std::io::ErrorKind::PermissionDenied => "Choose a --port from 1024 up",
            _ => "Choose another --host or --port",
        };
        Error::Usage(format!("cannot listen on {}:{}: {error}. {advice}.", self.host, self.port))
    }

    fn open(&self) -> Result<Model> {
        let folder = &self.model.checkpoint;
        let mut checkpoint = self.model.open_to_ask(self.dials.latents.is_some())?;
        let stage = checkpoint.latent.stage;
        self.dials.set_iterations(&mut checkpoint, stage)?;
        let latents = self.dials.latents(&checkpoint, stage)?;
        let name = self.name.clone().unwrap_or_else(|| name_of(folder));
        Model::new(checkpoint, name, seconds_since_1970(), latents)
    }
}

/// A folder's name; of a run's newest checkpoint, the run's.
fn name_of(folder: &Path) -> String {
    let named = |path: &Path| path.file_name().map(|name| name.to_string_lossy().into_owned());
    let parent = folder.parent().filter(|parent| parent.ends_with("checkpoints"));
    let run = parent.and_then(Path::parent).and_then(named);
    let own = named(folder).or_else(|| named(&folder.canonicalize().ok()?));
    match (run, own) {
        (Some(run), _) => run,
        (None, Some(own)) => own,
        (None, None) => "model".into(),
    }
}

fn seconds_since_1970() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// Answers requests until the server is to stop. When this ends, nobody can send jobs any more.
fn answer_requests(listener: TcpListener, app: Arc<App>) -> Result<()> {
    const THREADS: usize = 2;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(THREADS)
        .enable_io()
        .enable_time()
        .build()
        .map_err(|error| Error::Run(format!("cannot start the server's threads: {error}.")))?;
    let served = runtime.block_on(async {
        let listener = tokio::net::TcpListener::from_std(listener)?;
        http::serve(listener, app).await;
        Ok::<_, std::io::Error>(())
    });
    served.map_err(|error| Error::Run(format!("cannot listen: {error}.")))
}
