//! From a file or a generator to rows of tokens; [`crate::latent::batch`] lays them out as tensors.
//!
//! ```text
//! read::load ─┐
//!             ├─► Example ─► encode (Tokenizer) ─► Encoded ─► Curriculum::train_sequence ─► Sequence
//! tasks ──────┘                                          └──► Curriculum::prompt ─────────►
//! ```
//!
//! | to change … | open … |
//! | --- | --- |
//! | what an example is | [`example`] |
//! | a file format | [`read`], [`write`](mod@write) |
//! | token ids | [`tokenizer`] |
//! | how an example becomes pieces of ids | [`encode`] |
//! | which tokens a stage shows, and which it trains | [`curriculum`] |
//! | a method, a kind of rows | [`method`] |
//! | which stage is trained when | [`schedule`] |
//! | a generated task | [`tasks`] |
//! | the statistics of a set | [`stats`] |
//! | what trivial rules get right in a set | [`shortcuts`] |
//! | what a step of a search knows of each node | [`superposition`] |
//! | how chance is drawn | [`draw`] |
//! | examples with their encodings | [`dataset`] |

pub mod curriculum;
pub mod dataset;
pub mod draw;
pub mod encode;
pub mod example;
pub mod method;
mod parquet;
pub mod published;
pub mod read;
pub mod schedule;
pub mod shortcuts;
pub mod stats;
pub mod superposition;
pub mod tasks;
pub mod tokenizer;
pub mod write;

pub use curriculum::{Curriculum, Sequence};
pub use dataset::{Dataset, Format};
pub use draw::SampleKey;
pub use encode::{Encoded, encode_graphs, encode_texts};
pub use example::{Example, Graph};
pub use method::{Method, RowKind, Stage};
pub use schedule::{Schedule, ScheduleState};
pub use superposition::NodeClass;
pub use tokenizer::{SpecialTokens, Tokenizer};
