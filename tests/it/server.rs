//! A server in tests: how it is started, asked and ended.

use std::{
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
    sync::OnceLock,
    time::Duration,
};

use assert_cmd::assert::OutputAssertExt;
use serde_json::Value;

use crate::program::{Place, coconut, train};

pub const QUESTIONS: [&str; 4] = ["3+4*2", "1+1-1", "9*9+9", "2-3*4"];
pub const COMPLETIONS: &str = "/v1/completions";

/// A checkpoint whose answers are long enough to be compared, trained once.
pub fn place() -> &'static Place {
    static PLACE: OnceLock<Place> = OnceLock::new();
    PLACE.get_or_init(|| {
        let place = Place::new();
        train(&place.recipe(&[("n_positions", "256")]), &[]).assert().success();
        place
    })
}

/// A server that ends with the test.
pub struct Server {
    pub process: Child,
    pub address: String,
}

impl Server {
    pub fn start(more: &[&str]) -> Self {
        Self::of(&place().checkpoint(), more)
    }

    pub fn of(checkpoint: &Path, more: &[&str]) -> Self {
        let mut command = coconut(["serve", "--port=0", "--name=tiny"]);
        command.arg(checkpoint).args(more).stderr(Stdio::piped());
        Self::wait_for(command)
    }

    pub fn wait_for(mut command: Command) -> Self {
        let mut process = command.spawn().unwrap();
        let mut said = BufReader::new(process.stderr.take().unwrap());
        let mut line = String::new();
        while !line.contains("http://") {
            line.clear();
            assert!(said.read_line(&mut line).unwrap() > 0, "the server ended");
        }
        let address = line.split("http://").nth(1).unwrap().split(';').next().unwrap().to_owned();
        // Whoever writes to a pipe that nobody reads would stop some day.
        std::thread::spawn(move || std::io::copy(&mut said, &mut std::io::sink()));
        Self { process, address }
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// The status and the body of an answer.
    pub fn send(&self, path: &str, body: &[u8], token: &str) -> (u16, String) {
        let agent = agent();
        let mut request = agent.post(self.url(path)).header("Content-Type", "application/json");
        if !token.is_empty() {
            request = request.header("Authorization", format!("Bearer {token}"));
        }
        let mut response = request.send(body).unwrap();
        (response.status().as_u16(), response.body_mut().read_to_string().unwrap())
    }

    #[track_caller]
    pub fn ask(&self, path: &str, body: &Value) -> Value {
        let (status, text) = self.send(path, body.to_string().as_bytes(), "");
        assert_eq!(status, 200, "{body}: {text}");
        serde_json::from_str(&text).unwrap()
    }

    /// What is wrong with a request, in OpenAI's form.
    #[track_caller]
    pub fn refuses(&self, path: &str, body: &Value, status: u16) -> Value {
        let (found, text) = self.send(path, body.to_string().as_bytes(), "");
        assert_eq!(found, status, "{body}: {text}");
        let answer: Value = serde_json::from_str(&text).unwrap();
        let error = answer["error"].clone();
        let mut keys: Vec<&String> = error.as_object().unwrap().keys().collect();
        keys.sort();
        assert_eq!(keys, ["code", "message", "param", "type"], "{text}");
        error
    }

    pub fn text(&self, body: &Value) -> String {
        self.ask(COMPLETIONS, body)["choices"][0]["text"].as_str().unwrap().to_owned()
    }

    pub fn get(&self, path: &str) -> (u16, String) {
        let mut response = agent().get(self.url(path)).call().unwrap();
        (response.status().as_u16(), response.body_mut().read_to_string().unwrap())
    }

    /// A figure of `/metrics`.
    pub fn metric(&self, name: &str) -> f64 {
        let (_, text) = self.get("/metrics");
        let line = text.lines().find(|line| line.starts_with(&format!("coconut_{name} "))).unwrap();
        line.rsplit(' ').next().unwrap().parse().unwrap()
    }

    /// The parts of a streamed answer.
    pub fn events(&self, path: &str, body: &Value) -> Vec<Value> {
        let (status, text) = self.send(path, body.to_string().as_bytes(), "");
        assert_eq!(status, 200, "{text}");
        let mut events: Vec<&str> =
            text.lines().filter_map(|line| line.strip_prefix("data: ")).collect();
        assert_eq!(events.pop(), Some("[DONE]"));
        events.into_iter().map(|event| serde_json::from_str(event).unwrap()).collect()
    }

    pub fn interrupt(&self) {
        let pid = self.process.id().to_string();
        Command::new("kill").args(["-INT", &pid]).assert().success();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

pub fn agent() -> ureq::Agent {
    let config = ureq::Agent::config_builder().http_status_as_error(false);
    config.timeout_global(Some(Duration::from_secs(60))).build().into()
}

/// What `coconut generate` says of a question.
pub fn generate(question: &str, more: &[&str]) -> Value {
    let mut command = coconut(["generate", "--json", "--prompt", question]);
    let assert = command.arg(place().checkpoint()).args(more).assert().success();
    serde_json::from_slice(&assert.get_output().stdout).unwrap()
}
