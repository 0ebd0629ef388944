//! The program in tests: where it runs, how it is called, and what it says.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use assert_cmd::assert::{Assert, OutputAssertExt};
use tempfile::TempDir;

const LAST_TRAINED: &str = "3-4";

pub fn coconut<S: AsRef<std::ffi::OsStr>>(args: impl IntoIterator<Item = S>) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_coconut"));
    command.args(args).stdin(Stdio::null());
    command
}

/// A folder with the smallest recipe that passes through every kind of stage.
pub struct Place {
    folder: TempDir,
}

impl Place {
    pub fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder().join(name)
    }

    pub fn file(&self, name: &str, content: &str) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, content).unwrap();
        path
    }

    /// The tiny recipe, `more` in place of its keys or after them.
    pub fn recipe(&self, more: &[(&str, &str)]) -> PathBuf {
        let runs = self.path("runs").display().to_string();
        let mut keys = vec![
            ("task", "arithmetic"),
            ("operands", "[0, 9]"),
            ("operations", "[2, 2]"),
            ("modulus", "10"),
            ("value_steps", "True"),
            ("train_examples", "200"),
            ("val_examples", "20"),
            ("n_layer", "1"),
            ("n_embd", "16"),
            ("n_head", "2"),
            ("c_thought", "2"),
            ("max_latent_stage", "2"),
            ("cot_epochs", "1"),
            ("epochs_per_stage", "1"),
            ("num_epochs", "5"),
            ("batch_size_training", "20"),
            ("eval_at", "stage"),
            ("name", "r"),
            ("save_path", runs.as_str()),
        ];
        for (key, value) in more {
            keys.retain(|(known, _)| known != key);
            keys.push((key, value));
        }
        let text: String = keys.iter().map(|(key, value)| format!("{key}: {value}\n")).collect();
        self.file("recipe.yaml", &text)
    }

    /// A recipe that reads its examples from `data` instead of generating them, `more` in place of its keys or after
    /// them.
    pub fn recipe_of_data(&self, data: &Path, more: &[(&str, &str)]) -> PathBuf {
        let data = data.display().to_string();
        let runs = self.path("runs").display().to_string();
        let mut keys = vec![
            ("train_path", data.as_str()),
            ("val_path", data.as_str()),
            ("n_layer", "1"),
            ("n_embd", "16"),
            ("n_head", "2"),
            ("save_path", runs.as_str()),
        ];
        keys.retain(|(known, _)| more.iter().all(|(key, _)| key != known));
        keys.extend(more);
        let text: String = keys.iter().map(|(key, value)| format!("{key}: {value}\n")).collect();
        self.file("recipe.yaml", &text)
    }

    pub fn run(&self) -> PathBuf {
        self.path("runs/r")
    }

    pub fn checkpoint(&self) -> PathBuf {
        self.run().join("checkpoints").join(LAST_TRAINED)
    }
}

pub fn train(recipe: &Path, more: &[&str]) -> Command {
    let mut command = coconut(["train"]);
    command.arg(recipe).args(more);
    command
}

pub fn stdout(assert: &Assert) -> String {
    String::from_utf8(assert.get_output().stdout.clone()).unwrap()
}

pub fn stderr(assert: &Assert) -> String {
    String::from_utf8(assert.get_output().stderr.clone()).unwrap()
}

/// The mistake is the user's: exit code 2, one paragraph that names what is at fault, no panic.
#[track_caller]
pub fn refused(mut command: Command, names: &[&str]) {
    let assert = command.assert().code(2);
    let message = stderr(&assert);
    assert!(!message.contains("panicked"), "{message}");
    assert!(message.starts_with("error: "), "{message}");
    for name in names {
        assert!(message.contains(name), "{name} is not in: {message}");
    }
}

/// Goes back in a run: of its checkpoints these alone stay.
pub fn back_to(run: &Path, kept: &[&str]) {
    for entry in fs::read_dir(run.join("checkpoints")).unwrap() {
        let path = entry.unwrap().path();
        if !path.is_symlink() && !kept.iter().any(|name| path.ends_with(name)) {
            fs::remove_dir_all(path).unwrap();
        }
    }
}

/// Waits until something has come about, a minute at most.
pub fn wait_until(what: &str, mut has_come: impl FnMut() -> bool) {
    let start = Instant::now();
    while !has_come() {
        assert!(start.elapsed() < Duration::from_secs(60), "no {what} within a minute");
        sleep(Duration::from_millis(1));
    }
}

/// Presses Ctrl-C; how the program ends by it: with code 130, and what it says.
pub fn interrupted(child: Child) -> String {
    let interrupt = Command::new("kill").args(["-INT", &child.id().to_string()]).status();
    assert!(interrupt.unwrap().success());
    let Output { status, stderr, .. } = child.wait_with_output().unwrap();
    let told = String::from_utf8_lossy(&stderr).into_owned();
    assert_eq!(status.code(), Some(130), "{told}");
    told
}
