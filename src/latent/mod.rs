//! Continuous thoughts: a hidden state fed back as the next input embedding (Hao et al. 2024).

pub mod forward;
pub mod reinject;

pub use forward::{Trace, forward};
pub use reinject::Reinject;
