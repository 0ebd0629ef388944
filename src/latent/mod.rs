//! Continuous thoughts: a hidden state fed back as the next input embedding (Hao et al. 2024).

pub mod backward;
pub mod batch;
pub mod config;
pub mod edit;
pub mod feedback;
pub mod forward;
mod grid;
pub mod model;
mod plan;
pub mod position;
pub mod reads;
mod row;
mod runs;
pub mod slots;
pub mod trace;
mod tracking;

pub use backward::{BackwardOptions, Recompute, backward};
pub use batch::{Batch, Parallel, PassPlan};
pub use config::{Compat, Iterations, LatentConfig, Shift, Thinking};
pub use edit::{Edit, Places, Replacement};
pub use feedback::Feedback;
pub use forward::{ForwardOptions, forward, forward_after, forward_edited};
pub use model::{LatentModel, LatentSizes};
pub use position::LatentPositions;
pub use reads::{ReadLayers, ReadPositions, ReadSet};
pub use trace::Trace;
