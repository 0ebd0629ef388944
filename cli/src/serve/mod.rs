//! `coconut serve`: the model over HTTP, in OpenAI's forms.
//!
//! Requests are read and answered on two threads of their own (`http`, `answer`); the thread of a model (`worker`) runs
//! one batch that rows join and leave. Between them are a queue of jobs, and a channel of news for each row (`job`). The
//! `explorer` is a page that asks as any other client does.

mod answer;
mod explorer;
mod failure;
mod http;
mod job;
mod metrics;
mod model;
mod reply;
mod request;
mod speech;
mod visitor;
mod worker;

use std::{
    net::{IpAddr, TcpListener},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use clap::Args;
use coconut::{Error, Result};
use tokio::sync::mpsc::{self, Receiver};

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
    /// A second checkpoint, which requests ask by its name; the explorer shows both side by side.
    #[arg(long, value_name = "CHECKPOINT")]
    beside: Option<PathBuf>,
    /// Open the explorer in the browser: a page that shows a question's thoughts and lets one change them.
    #[arg(long)]
    open: bool,
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
    /// The model's name in requests; the run's or the folder's if absent.
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
    /// How long a client may take to send a request's head, its body, or to take more of its answer, in seconds.
    #[arg(long, default_value_t = 30, value_parser = verbs::at_least_one)]
    patience: usize,
}

/// What a request may ask for.
struct Limits {
    tokens: usize,
    /// In bytes.
    body: usize,
    queue: usize,
    time: Duration,
    /// How long a client may keep the server waiting.
    patience: Duration,
}

/// What those who answer requests share.
struct App {
    /// The models; the first one is asked where a request names none.
    models: Vec<Served>,
    metrics: Arc<Metrics>,
    limits: Limits,
    stopping: Arc<AtomicBool>,
    token: Option<String>,
    /// Answers begun so far.
    answers: AtomicU64,
}

/// A model, and the way to its thread.
struct Served {
    model: Arc<Model>,
    jobs: mpsc::Sender<Job>,
    /// Rows that are running.
    running: Arc<AtomicU64>,
}

/// What the thread of a model has.
struct Thread {
    model: Arc<Model>,
    queue: Receiver<Job>,
    running: Arc<AtomicU64>,
}

impl Served {
    /// A model, and what its thread is to have; `most_waiting` rows may wait for it.
    fn new(model: Model, most_waiting: usize) -> (Self, Thread) {
        let (jobs, queue) = mpsc::channel(most_waiting);
        let (model, running) = (Arc::new(model), Arc::new(AtomicU64::new(0)));
        let thread = Thread { model: Arc::clone(&model), queue, running: Arc::clone(&running) };
        (Self { model, jobs, running }, thread)
    }
}

impl App {
    /// Rows that wait.
    fn queued(&self) -> usize {
        self.models.iter().map(|served| served.jobs.max_capacity() - served.jobs.capacity()).sum()
    }

    /// Rows that run.
    fn running(&self) -> u64 {
        self.models.iter().map(|served| served.running.load(Ordering::Relaxed)).sum()
    }

    /// Whether no row waits or runs.
    fn is_idle(&self) -> bool {
        self.queued() == 0 && self.running() == 0
    }
}

impl Serve {
    pub fn run(self) -> Result<()> {
        let token = self.token()?;
        // Before the model is opened, which may take long.
        let listener = self.listen()?;
        let models = self.models()?;
        let metrics = Arc::new(Metrics::default());
        let stopping = stop_on_ctrl_c();
        let names: Vec<String> = models.iter().map(|model| model.name.clone()).collect();
        let served = models.into_iter().map(|model| Served::new(model, self.limits().queue));
        let (models, threads): (Vec<Served>, Vec<Thread>) = served.unzip();
        let address = listener.local_addr().map_err(|error| self.cannot_listen(&error))?;
        eprintln!("serving {} on http://{address}; Ctrl-C stops", names.join(" and "));
        let app = Arc::new(App {
            models,
            metrics: Arc::clone(&metrics),
            limits: self.limits(),
            stopping: Arc::clone(&stopping),
            token,
            answers: AtomicU64::new(0),
        });
        let http = std::thread::spawn(move || answer_requests(listener, app));
        if self.open {
            explorer::open(address);
        }
        compute(threads, self.rows, &metrics, &stopping);
        let ended = http.join();
        ended.unwrap_or_else(|_| Err(Error::Internal("the thread of the server broke off".into())))
    }

    fn limits(&self) -> Limits {
        Limits {
            tokens: self.max_tokens,
            body: self.max_body.saturating_mul(1024),
            queue: self.queue.min(MOST_WAITING),
            time: Duration::from_secs(self.timeout as u64).min(LONGEST),
            patience: Duration::from_secs(self.patience as u64).min(LONGEST),
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

    /// The models that are asked for, each with a name of its own.
    fn models(&self) -> Result<Vec<Model>> {
        let first = self.first()?;
        let Some(beside) = &self.beside else { return Ok(vec![first]) };
        let mut second = second(beside, &self.model)?;
        if second.name == first.name {
            second.name = format!("{}/{}", second.name, own_name(beside));
        }
        Ok(vec![first, second])
    }

    fn first(&self) -> Result<Model> {
        let folder = &self.model.checkpoint;
        let mut checkpoint = self.model.open_to_ask(self.dials.latents.is_some())?;
        let stage = checkpoint.latent.stage;
        self.dials.set_iterations(&mut checkpoint, stage)?;
        let latents = self.dials.latents(&checkpoint, stage)?;
        let name = self.name.clone().unwrap_or_else(|| name_of(folder));
        Model::new(checkpoint, name, since_1970().as_secs(), latents)
    }
}

/// The model that stands beside the first one, as it was trained.
fn second(folder: &Path, first: &ModelOptions) -> Result<Model> {
    let device = first.device;
    let options = ModelOptions { checkpoint: folder.to_owned(), device, bf16: false };
    let checkpoint = options.open_to_ask(false).map_err(|error| match error {
        Error::Usage(problem) => Error::Usage(format!("--beside: {problem}")),
        other => other,
    })?;
    Model::new(checkpoint, name_of(folder), since_1970().as_secs(), None)
}

/// A folder's name; of a run's checkpoint, the run's.
fn name_of(folder: &Path) -> String {
    let parent = folder.parent().filter(|parent| parent.ends_with("checkpoints"));
    let run = parent.and_then(Path::parent).filter(|run| !run.as_os_str().is_empty());
    own_name(run.unwrap_or(folder))
}

/// A folder's own name.
fn own_name(folder: &Path) -> String {
    let named = |path: &Path| path.file_name().map(|name| name.to_string_lossy().into_owned());
    let own = named(folder).or_else(|| named(&folder.canonicalize().ok()?));
    own.unwrap_or_else(|| "model".into())
}

/// The time since 1970.
fn since_1970() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// Runs the models, the first of them on this thread, until nobody can send jobs any more.
fn compute(
    mut threads: Vec<Thread>,
    most_rows: usize,
    metrics: &Metrics,
    stopping: &Arc<AtomicBool>,
) {
    let run = |Thread { model, queue, running }: Thread| {
        let trained = model.checkpoint.trained();
        let stopping = Arc::clone(stopping);
        Worker { model: &model, trained, most_rows, metrics, running, stopping }.run(queue);
    };
    let first = threads.remove(0);
    std::thread::scope(|scope| {
        for thread in threads {
            scope.spawn(move || run(thread));
        }
        run(first);
    });
}

/// Answers requests until the server is to stop. When this ends, nobody can send jobs any more.
fn answer_requests(listener: TcpListener, app: Arc<App>) -> Result<()> {
    const THREADS: usize = 2;
    /// For long bodies.
    const READERS: usize = 4;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(THREADS)
        .max_blocking_threads(READERS)
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
