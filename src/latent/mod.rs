//! Continuous thoughts: a hidden state fed back as the next input embedding (Hao et al. 2024).

pub mod forward;
pub mod model;
pub mod position;
pub mod recompute;
pub mod reinject;

pub use forward::{Trace, Wanted, forward};
pub use model::{Compat, LatentModel, Thinking};
pub use position::LatentPositions;
pub use recompute::Recompute;
pub use reinject::Reinject;
