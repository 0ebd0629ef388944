//! Reachability in symbols: `0 2 | 1 5 | 2 4 [Q] 4 5 [R] 0` → `2`, `4` → `4`.
//!
//! The files have the fields of `prosqa_symbol_*.json` (Zhu et al. 2025), so that
//! [`encode_graphs`](crate::data::encode_graphs) takes them; read as plain text they are the same task with
//! a fixed order of edges.

use rand::seq::{IndexedRandom, SliceRandom};
use rand_chacha::ChaCha8Rng;

use super::dag::Shape;
use crate::data::{Example, Graph};

/// As in the published symbol files: about 23 nodes and 36 edges, 3 or 4 steps.
pub fn published_shape() -> Shape {
    Shape::published(28, 3..=4)
}

pub(super) fn example(shape: &Shape, rng: &mut ChaCha8Rng) -> Option<Example> {
    let mut graph = super::dag::draw(shape, rng)?;
    graph.idx_to_symbol = (0..graph.n_nodes()).map(|node| node.to_string()).collect();

    let mut edges: Vec<String> =
        graph.edges.iter().map(|[from, to]| format!("{from} {to}")).collect();
    edges.shuffle(rng);
    let mut candidates = [graph.target, graph.neg_target];
    candidates.shuffle(rng);
    let [first, second] = candidates;
    let question = format!("{} [Q] {first} {second} [R] {}", edges.join(" | "), graph.root);
    let mut here = graph.root;
    let step = |next: usize| {
        let from = std::mem::replace(&mut here, next);
        if shape.edge_steps { format!("{from} {next}") } else { next.to_string() }
    };
    let steps: Vec<String> = path(&graph, rng).into_iter().map(step).collect();
    let answer = graph.target.to_string();
    Some(Example { graph: Some(graph), ..Example::new(question, steps, answer) })
}

/// One of the shortest paths to the target, without the root.
pub(super) fn path(graph: &Graph, rng: &mut ChaCha8Rng) -> Vec<usize> {
    let mut here = graph.root;
    let mut path = Vec::new();
    for layer in graph.neighbor_k.values().skip(1) {
        let ahead: Vec<usize> =
            layer.iter().copied().filter(|&next| graph.edges.contains(&[here, next])).collect();
        let Some(&next) = ahead.choose(rng) else { break };
        path.push(next);
        here = next;
    }
    path
}
