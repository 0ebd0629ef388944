//! Continuous thoughts: a hidden state fed back as the next input embedding (Hao et al. 2024).

pub mod backward;
pub mod batch;
pub mod feedback;
pub mod forward;
pub mod model;
pub mod position;

pub use backward::Recompute;
pub use batch::Batch;
pub use feedback::Reinject;
pub use forward::{Trace, Wanted, forward};
pub use model::{Compat, LatentModel, Thinking};
pub use position::LatentPositions;
