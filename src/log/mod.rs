//! What a run writes while it works: metrics, a text log, a progress bar.
//!
//! - [`MetricsLog`]: one record a step and an evaluation, as JSON lines, CSV and TensorBoard events.
//! - [`install`]: `log.txt`, and warnings on the terminal that do not tear the bar.
//! - [`Progress`]: the bar, with rate and time left.

pub(crate) mod file;
mod metrics;
mod progress;
mod tensorboard;
mod text;

pub use metrics::{MetricsLog, Record, StepMetrics, peak_resident_mb, read_metrics, resident_mb};
pub use progress::Progress;
pub use text::install;
