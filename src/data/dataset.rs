//! A set of examples, and how they become tokens.

use super::{Encoded, Example};

/// How examples become tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    /// Question, steps and answer as text.
    Text,
    /// Edges, candidates and root, one token a node.
    Graph,
}

/// Examples and their token ids, one to one.
#[derive(Clone, Debug)]
pub struct Dataset {
    /// As read or generated.
    pub examples: Vec<Example>,
    /// In token ids.
    pub encoded: Vec<Encoded>,
}
