//! Continuous thoughts: a hidden state fed back as the next input embedding (Hao et al. 2024).

pub mod backward;
pub mod batch;
pub mod config;
pub mod edit;
pub mod feedback;
pub mod forward;
pub mod model;
pub mod position;
pub mod reads;
pub mod trace;
mod tracking;

pub use backward::{BackwardOptions, Recompute, backward};
pub use batch::{Batch, PassPlan};
pub use config::{Compat, LatentConfig};
pub use edit::{Edit, Places, Replacement};
pub use feedback::Feedback;
pub use forward::{ForwardOptions, forward};
pub use model::{LatentModel, LatentSizes};
pub use position::LatentPositions;
pub use reads::{ReadLayers, ReadPositions, ReadSet};
pub use trace::Trace;
