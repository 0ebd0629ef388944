//! What is counted, in Prometheus' text form.

use std::{
    collections::BTreeMap,
    fmt::Write,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

#[derive(Debug, Default)]
pub struct Metrics {
    /// By path and status.
    requests: Mutex<BTreeMap<(&'static str, u16), u64>>,
    request_micros: AtomicU64,
    busy_micros: AtomicU64,
    prompt_tokens: AtomicU64,
    tokens: AtomicU64,
}

impl Metrics {
    /// A request that was answered with a status after some time.
    pub fn add_request(&self, path: &'static str, status: u16, took: Duration) {
        let mut requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        *requests.entry((path, status)).or_default() += 1;
        self.request_micros.fetch_add(took.as_micros() as u64, Ordering::Relaxed);
    }

    /// Time in which the model computed.
    pub fn add_busy(&self, took: Duration) {
        self.busy_micros.fetch_add(took.as_micros() as u64, Ordering::Relaxed);
    }

    pub fn add_prompt_tokens(&self, n: usize) {
        self.prompt_tokens.fetch_add(n as u64, Ordering::Relaxed);
    }

    pub fn add_tokens(&self, n: usize) {
        self.tokens.fetch_add(n as u64, Ordering::Relaxed);
    }

    /// The text, with how many rows run and wait.
    pub fn text(&self, running: u64, queued: usize) -> String {
        let mut text = String::new();
        let head = |name: &str, kind: &str, help: &str| {
            format!("# HELP coconut_{name} {help}\n# TYPE coconut_{name} {kind}\n")
        };
        text += &head("requests_total", "counter", "Requests answered, by path and status.");
        let requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        for ((path, status), n) in requests.iter() {
            let labels = format!("path=\"{path}\",status=\"{status}\"");
            let _ = writeln!(text, "coconut_requests_total{{{labels}}} {n}");
        }
        let seconds = |micros: &AtomicU64| micros.load(Ordering::Relaxed) as f64 / 1e6;
        let count = |n: &AtomicU64| n.load(Ordering::Relaxed) as f64;
        for (name, kind, help, value) in [
            (
                "request_seconds_total",
                "counter",
                "Seconds from requests to their answers, of streams to the first part.",
                seconds(&self.request_micros),
            ),
            (
                "model_seconds_total",
                "counter",
                "Seconds in which the model computed.",
                seconds(&self.busy_micros),
            ),
            (
                "prompt_tokens_total",
                "counter",
                "Tokens of prompts, latents included.",
                count(&self.prompt_tokens),
            ),
            ("generated_tokens_total", "counter", "Tokens generated.", count(&self.tokens)),
            ("rows_running", "gauge", "Rows in a batch.", running as f64),
            ("queue_length", "gauge", "Rows that wait.", queued as f64),
        ] {
            text += &head(name, kind, help);
            let _ = writeln!(text, "coconut_{name} {value}");
        }
        text
    }
}
