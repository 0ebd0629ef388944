//! Random directed acyclic graphs with a reachable and an unreachable candidate, as in ProsQA.
//!
//! Coconut's appendix gives the recipe: nodes come one by one, each with Poisson(1.5) parents, drawn with
//! weight 1.5·depth + 1 from the descendants of node 0 (probability 0.35), of node 1 (0.35) or from all nodes.
//! What the recipe leaves open was fitted to the published files (ProsQA valid and test, 800 graphs; ours, 4000
//! graphs of the default shape with 3 to 6 steps):
//!
//! | | published | ours |
//! | --- | --- | --- |
//! | nodes (mean ± sd) | 22.8 ± 2.0 | 23.1 ± 2.0 |
//! | edges | 36.0 ± 5.8 | 36.2 ± 5.8 |
//! | steps 3 / 4 / 5 / 6 | 0.41 / 0.44 / 0.13 / 0.02 | 0.43 / 0.40 / 0.14 / 0.03 |
//! | distractor's depth 1 / 2 / 3 / 4 | 0.20 / 0.52 / 0.25 / 0.03 | 0.23 / 0.50 / 0.24 / 0.03 |
//! | the root is node 1 | 0.64 | 0.61 |
//! | nodes without parents 2 / 3 / 4 | 0.58 / 0.32 / 0.09 | 0.45 / 0.35 / 0.15 |
//!
//! Found so: 28 nodes are drawn and those that stay without any edge dropped; a node without parents is a
//! candidate parent only among all nodes; the root is the one of nodes 0 and 1 whose own family (the nodes that
//! the other does not reach) is deeper, node 1 at a tie; the target is one of its deepest leaves, the distractor
//! any leaf of the other family.

use std::ops::RangeInclusive;

use rand::{
    Rng,
    seq::{IndexedRandom, SliceRandom},
};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use crate::data::Graph;

/// How large, how deep and how dense graphs are.
#[derive(Clone, Debug, PartialEq)]
pub struct Shape {
    /// Nodes drawn; about a fifth stay without an edge and are dropped.
    pub n_drawn: usize,
    /// Accepted distances from the root to the target.
    pub n_steps: RangeInclusive<usize>,
    /// Mean of the Poisson distribution that a node's number of parents is drawn from.
    pub mean_parents: f64,
    /// What becomes of that number.
    pub kind: Kind,
    /// Nodes are numbered at random; otherwise every edge leads to a larger number.
    pub permuted: bool,
    /// In symbols, a step is written as the edge that is followed rather than as the node reached.
    pub edge_steps: bool,
}

/// How many parents a node may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// As many as are drawn, none included.
    Published,
    /// One, whatever is drawn: there is one path to a node.
    Tree,
    /// Two or more, where there are so many nodes to choose from: paths join.
    Dag,
}

impl Kind {
    fn n_parents(self, drawn: usize) -> usize {
        match self {
            Self::Published => drawn,
            Self::Tree => 1,
            Self::Dag => drawn.max(2),
        }
    }
}

impl Shape {
    /// Graphs of Coconut's recipe.
    pub fn published(n_drawn: usize, n_steps: RangeInclusive<usize>) -> Self {
        let kind = Kind::Published;
        Self { n_drawn, n_steps, mean_parents: 1.5, kind, permuted: false, edge_steps: false }
    }

    pub(super) fn check(&self) -> Result<(), String> {
        let (fewest, most) = (*self.n_steps.start(), *self.n_steps.end());
        if fewest > most || fewest == 0 {
            return Err(format!("steps must be a range from 1, not {fewest} to {most}"));
        }
        // The longest possible chain uses all nodes but the other root and the distractor.
        if self.n_drawn < fewest + 3 || self.n_drawn > 10_000 {
            let least = fewest + 3;
            return Err(format!(
                "nodes must be from {least} (for {fewest} steps) to 10000, not {}",
                self.n_drawn
            ));
        }
        if !(0.1..=20.0).contains(&self.mean_parents) {
            return Err(format!("parents must be from 0.1 to 20, not {}", self.mean_parents));
        }
        Ok(())
    }
}

/// Draws a graph, or `None` if this one has no fitting target or distractor.
///
/// `neighbor_k` is filled in.
pub fn draw(shape: &Shape, rng: &mut ChaCha8Rng) -> Option<Graph> {
    let (n_nodes, edges) = without_isolated(shape.n_drawn, grow(shape, rng));
    let mut graph =
        Graph { edges, root: 0, target: n_nodes - 1, neg_target: 0, ..Graph::default() };
    let depths = [depths(&graph, 0), depths(&graph, 1)];
    let has_child = {
        let mut has_child = vec![false; n_nodes];
        graph.edges.iter().for_each(|&[from, _]| has_child[from] = true);
        has_child
    };
    // A candidate is never itself a root: node 0 or 1 may have stayed without children.
    let own_leaves = |root: usize| -> Vec<(usize, usize)> {
        let own = (2..n_nodes).filter(|&node| !has_child[node] && depths[1 - root][node].is_none());
        own.filter_map(|node| Some((node, depths[root][node]?))).collect()
    };
    let leaves = [own_leaves(0), own_leaves(1)];
    let deepest = |root: usize| leaves[root].iter().map(|&(_, depth)| depth).max();
    let n_steps = [deepest(0)?, deepest(1)?];

    graph.root = usize::from(n_steps[1] >= n_steps[0]);
    let n_steps = n_steps[graph.root];
    if !shape.n_steps.contains(&n_steps) {
        return None;
    }
    let targets: Vec<usize> =
        leaves[graph.root].iter().filter(|leaf| leaf.1 == n_steps).map(|leaf| leaf.0).collect();
    graph.target = *targets.choose(rng)?;
    graph.neg_target = leaves[1 - graph.root].choose(rng)?.0;
    if shape.permuted {
        permute(&mut graph, rng);
    }
    graph.neighbor_k = graph.shortest_path_layers()?.into_iter().enumerate().collect();
    Some(graph)
}

/// Which of nodes 0 and 1 a node descends from, as two bits.
const FAMILIES: [u8; 2] = [1, 2];

/// Edges between the nodes drawn, each to a larger number.
fn grow(shape: &Shape, rng: &mut ChaCha8Rng) -> Vec<[usize; 2]> {
    let mut families = FAMILIES.to_vec();
    let mut depths = vec![0_u32; 2];
    let mut edges = Vec::new();
    for node in 2..shape.n_drawn {
        let choice: f64 = rng.random();
        let family = match choice {
            ..0.35 => Some(FAMILIES[0]),
            ..0.70 => Some(FAMILIES[1]),
            _ => None,
        };
        let candidates =
            (0..node).filter(|&parent| family.is_none_or(|family| families[parent] == family));
        let candidates: Vec<(usize, f64)> =
            candidates.map(|parent| (parent, 1.5 * f64::from(depths[parent]) + 1.0)).collect();
        let n_parents = shape.kind.n_parents(poisson(shape.mean_parents, rng));
        let parents = weighted_sample(candidates, n_parents, rng);

        families.push(parents.iter().fold(0, |family, &parent| family | families[parent]));
        depths.push(parents.iter().map(|&parent| depths[parent] + 1).min().unwrap_or(0));
        edges.extend(parents.into_iter().map(|parent| [parent, node]));
    }
    edges
}

/// Poisson by Knuth's method: how many uniform numbers can be multiplied before e^−mean is passed.
fn poisson(mean: f64, rng: &mut ChaCha8Rng) -> usize {
    let least = (-mean).exp();
    let mut product: f64 = rng.random();
    let mut count = 0;
    while product > least {
        product *= rng.random::<f64>();
        count += 1;
    }
    count
}

/// Up to `n` of the candidates, without replacement, each draw in proportion to the weights left.
fn weighted_sample(
    mut candidates: Vec<(usize, f64)>,
    n: usize,
    rng: &mut ChaCha8Rng,
) -> Vec<usize> {
    let mut chosen = Vec::with_capacity(n);
    while chosen.len() < n && !candidates.is_empty() {
        let total: f64 = candidates.iter().map(|&(_, weight)| weight).sum();
        let mut rest = rng.random::<f64>() * total;
        let drawn = candidates.iter().position(|&(_, weight)| {
            rest -= weight;
            rest < 0.0
        });
        // Rounding can leave a rest of zero after the last weight.
        chosen.push(candidates.remove(drawn.unwrap_or(candidates.len() - 1)).0);
    }
    chosen
}

/// Drops nodes without edges (but keeps 0 and 1) and numbers the others anew, in order.
fn without_isolated(n_nodes: usize, mut edges: Vec<[usize; 2]>) -> (usize, Vec<[usize; 2]>) {
    let mut kept = vec![false; n_nodes];
    [0, 1].iter().chain(edges.iter().flatten()).for_each(|&node| kept[node] = true);
    let mut next = 0;
    let number: Vec<usize> = kept
        .into_iter()
        .map(|kept| {
            let number = next;
            next += usize::from(kept);
            number
        })
        .collect();
    edges.iter_mut().flatten().for_each(|node| *node = number[*node]);
    (next, edges)
}

/// Numbers the nodes anew, at random.
fn permute(graph: &mut Graph, rng: &mut ChaCha8Rng) {
    let mut number: Vec<usize> = (0..graph.n_nodes()).collect();
    number.shuffle(rng);
    let Graph { edges, root, target, neg_target, .. } = graph;
    let nodes = edges.iter_mut().flatten().chain([root, target, neg_target]);
    nodes.for_each(|node| *node = number[*node]);
}

/// Each node's distance from `root`.
fn depths(graph: &Graph, root: usize) -> Vec<Option<usize>> {
    let mut depths = vec![None; graph.n_nodes()];
    let layers = Graph { root, ..graph.clone() }.frontier_layers();
    for (depth, layer) in layers.into_iter().enumerate() {
        layer.into_iter().for_each(|node| depths[node] = Some(depth));
    }
    depths
}
