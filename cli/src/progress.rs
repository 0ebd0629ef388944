//! A progress bar with rate and time left.

use indicatif::{MultiProgress, ProgressBar, ProgressState, ProgressStyle};
use std::fmt::Write;
use std::sync::LazyLock;

/// All bars share one screen, so that text can be written above them without tearing any.
pub static SCREEN: LazyLock<MultiProgress> = LazyLock::new(MultiProgress::new);

/// A bar on stderr, hidden when stderr is no terminal; erased when dropped.
#[derive(Debug)]
pub struct Progress(ProgressBar);

impl Progress {
    /// `done` of `total` are behind us (not 0 after a resume); the rate counts from there. `unit` is
    /// a plural, such as `steps` or `questions`.
    pub fn new(label: impl Into<String>, unit: &'static str, done: u64, total: u64) -> Self {
        let bar = resumed(done, total).with_style(style(unit)).with_prefix(label.into());
        Self(SCREEN.add(bar))
    }

    /// Changes the label before the bar, as when a stage begins.
    pub fn label(&self, text: impl Into<String>) {
        self.0.set_prefix(text.into());
    }

    /// Changes the text after the bar.
    pub fn message(&self, text: impl Into<String>) {
        self.0.set_message(text.into());
    }

    /// Writes a line of text to stderr, above the bar where there is one.
    pub fn line(&self, text: &str) {
        SCREEN.suspend(|| eprintln!("{text}"));
    }

    /// So many are done by now.
    pub fn at(&self, done: u64) {
        self.0.set_position(done);
    }

    /// Counts `n` more as done.
    pub fn advance(&self, n: u64) {
        self.0.inc(n);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.0.finish_and_clear();
        SCREEN.remove(&self.0);
    }
}

/// A bar, not shown yet, whose rate does not count what was done before.
fn resumed(done: u64, total: u64) -> ProgressBar {
    let bar = ProgressBar::hidden().with_position(done);
    bar.set_length(total);
    // The estimate forgets its past only from the position that it saw last: let it see this one.
    bar.tick();
    bar.reset_eta();
    bar
}

fn style(unit: &'static str) -> ProgressStyle {
    const TEMPLATE: &str =
        "{prefix:.bold} {wide_bar:.cyan/dim} {pos}/{len} · {rate} · {eta} left · {msg}";
    ProgressStyle::with_template(TEMPLATE)
        .unwrap_or_else(|_| ProgressStyle::default_bar()) // the template is a constant, see the test
        .progress_chars("━╸─")
        .with_key("rate", move |state: &ProgressState, text: &mut dyn Write| {
            // Nothing sensible can be done when a bar's text cannot be written.
            let _ = write!(text, "{:.1} {unit}/s", state.per_sec());
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use indicatif::{ProgressDrawTarget, TermLike};
    use std::io;
    use std::sync::{Arc, Mutex};

    /// A terminal of 100 columns that keeps all that was written to it.
    #[derive(Clone, Debug, Default)]
    struct Paper(Arc<Mutex<String>>);

    impl TermLike for Paper {
        fn width(&self) -> u16 {
            100
        }
        fn move_cursor_up(&self, _: usize) -> io::Result<()> {
            Ok(())
        }
        fn move_cursor_down(&self, _: usize) -> io::Result<()> {
            Ok(())
        }
        fn move_cursor_right(&self, _: usize) -> io::Result<()> {
            Ok(())
        }
        fn move_cursor_left(&self, _: usize) -> io::Result<()> {
            Ok(())
        }
        fn write_line(&self, text: &str) -> io::Result<()> {
            self.write_str(text)
        }
        fn write_str(&self, text: &str) -> io::Result<()> {
            self.0.lock().unwrap().push_str(text);
            Ok(())
        }
        fn clear_line(&self) -> io::Result<()> {
            Ok(())
        }
        fn flush(&self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn the_rate_after_a_resume_counts_from_there() {
        let bar = resumed(1_000_000, 1_000_010);
        std::thread::sleep(std::time::Duration::from_millis(20));
        bar.tick();
        assert_eq!(
            (bar.position(), bar.length(), bar.per_sec()),
            (1_000_000, Some(1_000_010), 0.0)
        );
        bar.inc(1);
        bar.tick();
        // One step in 20 ms or more.
        assert!(bar.per_sec() > 0.0 && bar.per_sec() < 1000.0, "{}", bar.per_sec());
    }

    #[test]
    fn shows_label_count_rate_and_message() {
        let paper = Paper::default();
        let target = ProgressDrawTarget::term_like(Box::new(paper.clone()));
        let bar = ProgressBar::with_draw_target(Some(40), target).with_style(style("steps"));
        bar.set_prefix("stage 2");
        bar.set_message("loss 0.31");
        bar.inc(10);
        bar.force_draw();
        let screen = paper.0.lock().unwrap().clone();
        for part in ["stage 2", "━", "10/40", " steps/s", " left", "loss 0.31"] {
            assert!(screen.contains(part), "{part:?} is missing from {screen:?}");
        }
    }
}
