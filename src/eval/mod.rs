//! Evaluation: generate, read the answer, count.

pub mod evaluate;
pub mod generate;
pub mod lens;
pub mod score;
pub mod spread;

pub use evaluate::{Evaluation, Evaluator, Sample};
pub use generate::{GenerateOptions, Generation, Sampling, generate};
pub use spread::Spread;
