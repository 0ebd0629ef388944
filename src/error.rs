//! The one error type of the library: what happened, where, and what to do about it.

use std::path::{Path, PathBuf};

/// Everything that can go wrong, each printed as one paragraph.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A recipe or an override that cannot be used.
    #[error("{origin}: `{key}`: {problem}")]
    Config {
        /// The recipe's path, or `-s` for an override.
        origin: String,
        /// The key at fault.
        key: String,
        /// What is wrong, and which values are allowed.
        problem: String,
    },
    /// A command line that cannot be carried out as given.
    #[error("{0}")]
    Usage(String),
    /// A prompt that the model cannot be given.
    #[error("prompt {}: {problem}.", row + 1)]
    Prompt {
        /// The prompt's number among those given together, from 0.
        row: usize,
        /// What is wrong with it.
        problem: String,
    },
    /// A file whose content cannot be used.
    #[error("{}{}: {problem}", path.display(), if place.is_empty() { String::new() } else { format!(", {place}") })]
    Input {
        /// The file.
        path: PathBuf,
        /// `line 3`, `example 17`, a tensor's name; empty if it is the file as a whole.
        place: String,
        /// What is wrong and what to do.
        problem: String,
    },
    /// The system refused to read or write.
    #[error("cannot {action} {}: {source}.{}", path.display(), advice(source))]
    Io {
        /// `read`, `write`, `create`, …
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A loss or a gradient that is not finite, so that training cannot go on.
    #[error("{0}")]
    Training(String),
    /// A run, or a measurement, that another process carried out and that failed there.
    #[error("{0}")]
    Run(String),
    /// Something that the program promises itself did not hold: a fault of the program, not of what it was given.
    #[error("internal error: {0}. Please report it with the command that led here.")]
    Internal(String),
    /// The user asked to stop; everything is saved.
    #[error("{0}")]
    Interrupted(String),
}

/// Shorthand for results of this library.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// Wraps a system error with what was being done to which path.
    pub fn io(action: &'static str, path: impl AsRef<Path>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.as_ref().to_owned();
        move |source| Self::Io { action, path, source }
    }

    /// A file whose content cannot be used; `place` may be empty.
    pub fn input(
        path: impl AsRef<Path>,
        place: impl Into<String>,
        problem: impl Into<String>,
    ) -> Self {
        let path = path.as_ref().to_owned();
        Self::Input { path, place: place.into(), problem: problem.into() }
    }

    /// The process's exit code: 2 for a mistake of the user's, 1 for a failure, 130 for Ctrl-C.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Config { .. } | Self::Usage(_) | Self::Prompt { .. } | Self::Input { .. } => 2,
            Self::Io { action: "read", source, .. }
                if source.kind() == std::io::ErrorKind::NotFound =>
            {
                2
            }
            Self::Io { .. } | Self::Training(_) | Self::Run(_) | Self::Internal(_) => 1,
            Self::Interrupted(_) => 130,
        }
    }
}

fn advice(source: &std::io::Error) -> &'static str {
    use std::io::ErrorKind::{NotFound, PermissionDenied, StorageFull};
    match source.kind() {
        NotFound => " Check the path; relative paths start at the current folder.",
        PermissionDenied => " Check who owns it and its permissions.",
        StorageFull => {
            " Free some space, or choose another `save_path`; what was complete before is intact."
        }
        _ => "",
    }
}
