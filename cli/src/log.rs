//! The text log: `log.txt` of the run, and warnings on stderr.

use crate::progress::SCREEN;
use coconut::{Error, Result};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use tracing_subscriber::filter::{EnvFilter, LevelFilter};
use tracing_subscriber::prelude::*;

/// Where the text log goes now; a process that trains several runs points it at each in turn.
static TARGET: Mutex<Option<File>> = Mutex::new(None);

/// Sends `tracing` events of level `info` and above (or what `RUST_LOG` asks for) to the end of `file`,
/// if one is given, and warnings and errors to stderr, above any progress bar.
///
/// May be called again to change the file.
///
/// # Errors
/// [`Error::Io`] if the file cannot be opened; the log then goes where it went before.
pub fn install(file: Option<&Path>) -> Result<()> {
    let opened = match file {
        Some(path) => {
            if let Some(folder) = path.parent() {
                fs::create_dir_all(folder).map_err(Error::io("create", folder))?;
            }
            let file = OpenOptions::new().append(true).create(true).open(path);
            Some(file.map_err(Error::io("open", path))?)
        }
        None => None,
    };
    *target() = opened;

    let level =
        EnvFilter::builder().with_default_directive(LevelFilter::INFO.into()).from_env_lossy();
    let to_file = tracing_subscriber::fmt::layer()
        .with_ansi(false)
        .with_writer(|| TextFile)
        .with_filter(level);
    let to_stderr = tracing_subscriber::fmt::layer()
        .with_ansi(false)
        .without_time()
        .with_target(false)
        .with_writer(|| AboveBars)
        .with_filter(LevelFilter::WARN);
    // An error says that a subscriber stands already: ours, from an earlier call, or a test's.
    let _ = tracing_subscriber::registry().with(to_file).with(to_stderr).try_init();
    Ok(())
}

/// A thread that panicked while logging leaves a usable file behind.
fn target() -> MutexGuard<'static, Option<File>> {
    TARGET.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Writes to the current [`TARGET`], or nowhere.
struct TextFile;

impl Write for TextFile {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        match target().as_mut() {
            Some(file) => file.write(text),
            None => Ok(text.len()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes to stderr with the bars out of the way.
struct AboveBars;

impl Write for AboveBars {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        SCREEN.suspend(|| io::stderr().write(text))
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One test only: the subscriber belongs to the whole process.
    #[test]
    fn goes_to_the_file_it_was_last_pointed_at() {
        let folder = tempfile::tempdir().unwrap();
        let (first, second) = (folder.path().join("a/log.txt"), folder.path().join("b/log.txt"));
        install(Some(&first)).unwrap();
        tracing::info!(stage = 2, "stage begins");
        tracing::debug!("not for the log");
        install(Some(&second)).unwrap();
        tracing::warn!("slow disk");

        let read = |path| fs::read_to_string(path).unwrap();
        let (first, second) = (read(first), read(second));
        assert_eq!((first.lines().count(), second.lines().count()), (1, 1));
        assert!(first.contains("INFO") && first.contains("stage begins stage=2"), "{first}");
        assert!(second.contains("WARN") && second.contains("slow disk"), "{second}");
        assert!(!second.contains('\x1b'), "{second}");

        let error = install(Some(folder.path())).unwrap_err();
        assert!(matches!(error, Error::Io { action: "open", .. }), "{error}");
    }
}
