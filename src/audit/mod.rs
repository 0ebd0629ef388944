//! Do the thoughts do any work? What is done to them, what comes of it, and how it is counted (docs/method.md 12.3).
//!
//! A [`Subject`] answers all questions once as it is ([`Plain`]); each [`Intervention`] is then an [`Effect`] on the
//! questions that it touched, and a [`Cell`] of figures over exactly these. The question's own pass, and all passes
//! before the first thing that is changed, are taken from the plain run.
//!
//! | to change … | open … |
//! | --- | --- |
//! | what can be done to thoughts, and how it is written | [`intervention`] |
//! | which of it an audit does | [`plan`] |
//! | whose thoughts a question is given | `donors.rs` |
//! | what a step works out, and which thought stands for it | [`values`] |
//! | how it is run | [`subject`] |
//! | what is read off thoughts | [`readings`](mod@readings), of [`states`]; [`mod@probes`], [`mod@lens`], [`mod@tuned`], [`attention`], by [`pieces`] of text |
//! | how it is counted | [`cell`], [`record`] |
//! | what a model without thoughts has right of it | [`direct`] |
//! | what is said of it | [`words`] |
//! | how the field's figures come out when the wrong rows are counted | [`miscount`] |
//! | how it goes on after it was stopped | [`store`] |

pub mod attention;
pub mod cell;
pub mod direct;
mod donors;
pub mod intervention;
pub mod lens;
pub mod miscount;
pub mod pieces;
pub mod plan;
pub mod probes;
pub mod readings;
pub mod record;
pub mod states;
pub mod store;
pub mod subject;
mod thoughts_file;
pub mod tuned;
pub mod values;
pub mod words;

pub use cell::{Cell, Sufficiency, cells, sufficiency};
pub use direct::{Direct, DirectCell};
pub use intervention::{Intervention, With, place_name};
pub use readings::{ReadingOptions, Readings, readings};
pub use record::{ModelRecord, OverSeeds, Record, Role, Samples, effects, over_seeds, samples};
pub use states::States;
pub use store::Store;
pub use subject::{Effect, Outcome, Plain, Subject, Touched, permuted};
pub use thoughts_file::write_thoughts;
pub use values::Values;
