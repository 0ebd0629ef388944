//! What a set of examples is like, in numbers.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{Encoded, Example, shortcuts::Shortcuts};

/// The statistics of a set, as `coconut data` prints them.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Stats {
    /// Number of examples.
    pub examples: usize,
    /// How many examples have 0, 1, 2, … steps.
    pub steps: BTreeMap<usize, usize>,
    /// Lengths in tokens; without a tokenizer there are none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokens: Option<TokenStats>,
    /// Sizes of the graphs, if all examples have one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub graphs: Option<GraphStats>,
    /// What trivial rules get right, if there are any examples.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shortcuts: Option<Shortcuts>,
}

/// Lengths in tokens.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TokenStats {
    /// Question with its newline.
    pub question: Quantiles,
    /// Each step with its newline.
    pub step: Quantiles,
    /// `###`, answer and eos.
    pub answer: Quantiles,
    /// All of an example: the row of stage −1.
    pub whole: Quantiles,
}

/// Sizes of graphs.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct GraphStats {
    /// Nodes.
    pub nodes: Quantiles,
    /// Edges.
    pub edges: Quantiles,
    /// Distance from the root to the target, over the examples whose target can be reached.
    pub path: Quantiles,
    /// Examples whose target cannot be reached; in a reachability task there must be none.
    pub unreachable_targets: usize,
    /// Examples whose distractor can be reached; likewise.
    pub reachable_distractors: usize,
}

/// Mean, deviation and quantiles of a count; all zero if nothing was counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Quantiles {
    /// Smallest.
    pub min: usize,
    /// Mean.
    pub mean: f64,
    /// Standard deviation (of the population).
    pub sd: f64,
    /// Median (as all percentiles here: the smallest value that so many percent do not exceed).
    pub p50: usize,
    /// 90th percentile.
    pub p90: usize,
    /// 99th percentile.
    pub p99: usize,
    /// Largest.
    pub max: usize,
}

impl Stats {
    /// Counts a set; `encoded` holds the same examples in tokens, if lengths are wanted.
    pub fn of(examples: &[Example], encoded: Option<&[Encoded]>) -> Self {
        let mut steps = BTreeMap::new();
        for example in examples {
            *steps.entry(example.steps.len()).or_insert(0) += 1;
        }
        Self {
            examples: examples.len(),
            steps,
            tokens: encoded.and_then(TokenStats::of),
            graphs: GraphStats::of(examples),
            shortcuts: Shortcuts::of(examples),
        }
    }
}

impl TokenStats {
    /// `None` if there is no text among the examples.
    fn of(encoded: &[Encoded]) -> Option<Self> {
        let texts = || {
            encoded.iter().filter_map(|example| match example {
                Encoded::Text(text) => Some(text),
                Encoded::Graph(_) => None,
            })
        };
        texts().next()?;
        Some(Self {
            question: texts().map(|text| text.question.len()).collect(),
            step: texts().flat_map(|text| &text.steps).map(Vec::len).collect(),
            answer: texts().map(|text| text.answer.len()).collect(),
            whole: texts()
                .map(|text| {
                    let steps: usize = text.steps.iter().map(Vec::len).sum();
                    text.question.len() + steps + text.answer.len()
                })
                .collect(),
        })
    }
}

impl GraphStats {
    fn of(examples: &[Example]) -> Option<Self> {
        let graphs: Vec<_> =
            examples.iter().map(|example| example.graph.as_ref()).collect::<Option<_>>()?;
        let distance =
            |layers: &[Vec<usize>], node| layers.iter().position(|layer| layer.contains(node));
        let reached: Vec<(Option<usize>, bool)> = graphs
            .iter()
            .map(|graph| {
                let layers = graph.frontier_layers();
                (distance(&layers, &graph.target), distance(&layers, &graph.neg_target).is_some())
            })
            .collect();
        (!graphs.is_empty()).then(|| Self {
            nodes: graphs.iter().map(|graph| graph.n_nodes()).collect(),
            edges: graphs.iter().map(|graph| graph.edges.len()).collect(),
            path: reached.iter().filter_map(|reached| reached.0).collect(),
            unreachable_targets: reached.iter().filter(|reached| reached.0.is_none()).count(),
            reachable_distractors: reached.iter().filter(|reached| reached.1).count(),
        })
    }
}

impl FromIterator<usize> for Quantiles {
    fn from_iter<I: IntoIterator<Item = usize>>(counts: I) -> Self {
        let mut counts: Vec<usize> = counts.into_iter().collect();
        counts.sort_unstable();
        let (Some(&min), Some(&max)) = (counts.first(), counts.last()) else {
            return Self::default();
        };
        let n = counts.len() as f64;
        let mean = counts.iter().map(|&count| count as f64).sum::<f64>() / n;
        let variance = counts.iter().map(|&count| (count as f64 - mean).powi(2)).sum::<f64>() / n;
        let percentile = |percent: usize| {
            let rank = (counts.len() * percent).div_ceil(100).max(1);
            counts.get(rank - 1).copied().unwrap_or(max)
        };
        Self {
            min,
            mean,
            sd: variance.sqrt(),
            p50: percentile(50),
            p90: percentile(90),
            p99: percentile(99),
            max,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::encode::Text;

    #[test]
    fn quantiles_of_known_counts() {
        let quantiles: Quantiles = [2, 4, 4, 4, 5, 5, 7, 9].into_iter().collect();
        let expected = Quantiles { min: 2, mean: 5.0, sd: 2.0, p50: 4, p90: 9, p99: 9, max: 9 };
        assert_eq!(quantiles, expected);
        assert_eq!(std::iter::empty().collect::<Quantiles>(), Quantiles::default());
    }

    #[test]
    fn lengths_and_steps() {
        let examples = [Example::new("q", ["a", "b"], "c"), Example::new("q", [""; 0], "c")];
        let text = |steps: Vec<Vec<u32>>| {
            Encoded::Text(Text { question: vec![1, 2], steps, answer: vec![3], value_start: 0 })
        };
        let encoded = [text(vec![vec![4], vec![5; 3]]), text(vec![])];
        let stats = Stats::of(&examples, Some(&encoded));
        assert_eq!(stats.steps, BTreeMap::from([(0, 1), (2, 1)]));
        let tokens = stats.tokens.unwrap();
        assert_eq!((tokens.whole.min, tokens.whole.max, tokens.step.mean), (3, 7, 2.0));
        assert_eq!(stats.graphs, None);
    }
}
