//! The same graphs in words: `Every terpus is a brimpus. … Is Tom a lempus or scrompus?`
//!
//! Nodes without parents are persons, all others kinds; the names are those of the published files.

use rand::seq::{IndexedRandom, SliceRandom};
use rand_chacha::ChaCha8Rng;

use super::{dag::Shape, graph::path};
use crate::data::{Example, Graph};

/// The 17 persons of the published files.
pub const PERSONS: [&str; 17] = [
    "Alex", "Bob", "Carol", "Davis", "Eva", "Fae", "Gabriel", "Jack", "Max", "Oliver", "Polly",
    "Rex", "Sally", "Sam", "Stella", "Tom", "Wren",
];

/// The 38 kinds of the published files.
pub const KINDS: [&str; 38] = [
    "bompus", "boompus", "brimpus", "chorpus", "dumpus", "felpus", "fompus", "gerpus", "gorpus",
    "grimpus", "gwompus", "hilpus", "impus", "jelpus", "jompus", "kerpus", "lempus", "lorpus",
    "numpus", "quimpus", "rempus", "rompus", "rorpus", "scrompus", "shumpus", "sterpus", "storpus",
    "terpus", "timpus", "tumpus", "vumpus", "worpus", "wumpus", "yerpus", "yimpus", "yumpus",
    "zhorpus", "zumpus",
];

/// As in the published files: about 23 nodes and 36 edges, 3 to 6 steps.
pub fn published_shape() -> Shape {
    Shape::published(28, 3..=6)
}

pub(super) fn check(shape: &Shape) -> Result<(), String> {
    shape.check()?;
    let most = KINDS.len() + 2;
    if shape.n_drawn > most {
        return Err(format!("there are names for {most} nodes, not for {}", shape.n_drawn));
    }
    Ok(())
}

pub(super) fn example(shape: &Shape, rng: &mut ChaCha8Rng) -> Option<Example> {
    let mut graph = super::dag::draw(shape, rng)?;
    graph.idx_to_symbol = names(&graph, rng)?;
    let name = |node: usize| graph.idx_to_symbol[node].as_str();

    let mut facts: Vec<String> =
        graph.edges.iter().map(|&[from, to]| sentence(name(from), name(to))).collect();
    facts.shuffle(rng);
    let mut candidates = [name(graph.target), name(graph.neg_target)];
    candidates.shuffle(rng);
    let [first, second] = candidates;
    let root = name(graph.root);
    let question = format!("{} Is {root} a {first} or {second}?", facts.join(" "));

    let mut here = graph.root;
    let steps: Vec<String> = path(&graph, rng)
        .into_iter()
        .map(|next| sentence(name(std::mem::replace(&mut here, next)), name(next)))
        .collect();
    let answer = sentence(root, name(graph.target));
    // The published word files have no `neighbor_k`; who needs it computes it from the edges.
    graph.neighbor_k.clear();
    Some(Example { graph: Some(graph), ..Example::new(question, steps, answer) })
}

/// A name for each node, or `None` if there are more parentless nodes than persons.
fn names(graph: &Graph, rng: &mut ChaCha8Rng) -> Option<Vec<String>> {
    let mut has_parent = vec![false; graph.n_nodes()];
    graph.edges.iter().for_each(|&[_, to]| has_parent[to] = true);
    let mut persons = PERSONS.choose_multiple(rng, PERSONS.len());
    let mut kinds = KINDS.choose_multiple(rng, KINDS.len());
    let mut name = |has_parent| if has_parent { kinds.next() } else { persons.next() };
    has_parent.into_iter().map(|has_parent| name(has_parent).map(|&name| name.to_owned())).collect()
}

/// `Tom is a lempus.` or `Every terpus is a lempus.`
fn sentence(who: &str, kind: &str) -> String {
    let every = if PERSONS.contains(&who) { "" } else { "Every " };
    format!("{every}{who} is a {kind}.")
}
