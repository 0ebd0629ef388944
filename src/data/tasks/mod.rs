//! Generated tasks: each file makes one kind of example, this one makes sets of them.

pub mod arithmetic;
pub mod dag;
pub mod graph;
pub mod multiply;
pub mod pointer;
pub mod prosqa;
pub mod shift;

use std::collections::HashSet;

use rand_chacha::ChaCha8Rng;

use super::{Example, shortcuts};
use crate::{Error, Result, rng};

/// A task with its settings.
#[derive(Clone, Debug, PartialEq)]
pub enum Task {
    /// Chains of operations, evaluated from left to right.
    Arithmetic(arithmetic::Arithmetic),
    /// Reachability in a directed graph, in symbols.
    Graph(dag::Shape),
    /// Multiplication, digit by digit.
    Multiply(multiply::Multiply),
    /// Hops through a random table.
    Pointer(pointer::Pointer),
    /// Reachability in a directed graph, in words.
    Prosqa(dag::Shape),
}

impl Task {
    /// The names of all tasks.
    pub const NAMES: [&'static str; 5] = ["arithmetic", "graph", "multiply", "pointer", "prosqa"];

    /// A task with its default settings, those of the published files where there are such.
    pub fn named(name: &str) -> Option<Self> {
        match name {
            "arithmetic" => Some(Self::Arithmetic(arithmetic::Arithmetic::default())),
            "graph" => Some(Self::Graph(graph::published_shape())),
            "multiply" => Some(Self::Multiply(multiply::Multiply::default())),
            "pointer" => Some(Self::Pointer(pointer::Pointer::default())),
            "prosqa" => Some(Self::Prosqa(prosqa::published_shape())),
            _ => None,
        }
    }

    /// The task's name on the command line and in recipes.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Arithmetic(_) => "arithmetic",
            Self::Graph(_) => "graph",
            Self::Multiply(_) => "multiply",
            Self::Pointer(_) => "pointer",
            Self::Prosqa(_) => "prosqa",
        }
    }

    fn check(&self) -> Result<(), String> {
        match self {
            Self::Arithmetic(task) => task.check(),
            Self::Graph(shape) => shape.check(),
            Self::Multiply(task) => task.check(),
            Self::Pointer(task) => task.check(),
            Self::Prosqa(shape) => prosqa::check(shape),
        }
    }

    /// One example, or `None` if what was drawn does not fit the settings.
    fn example(&self, rng: &mut ChaCha8Rng) -> Option<Example> {
        match self {
            Self::Arithmetic(task) => Some(task.example(rng)),
            Self::Graph(shape) => graph::example(shape, rng),
            Self::Multiply(task) => Some(task.example(rng)),
            Self::Pointer(task) => Some(task.example(rng)),
            Self::Prosqa(shape) => prosqa::example(shape, rng),
        }
    }
}

/// What makes two examples the same: equal keys must not stand in both train and test.
///
/// The question, or for a graph its edges in a fixed order with root and candidates, since the same graph
/// can be asked in many orders and words.
pub fn key(example: &Example) -> String {
    match &example.graph {
        None => example.question.clone(),
        Some(graph) => {
            let mut edges = graph.edges.clone();
            edges.sort_unstable();
            let mut candidates = [graph.target, graph.neg_target];
            candidates.sort_unstable();
            format!("{edges:?} {} {candidates:?}", graph.root)
        }
    }
}

/// The keys of a set, to keep its examples out of another.
pub fn keys<'a>(examples: impl IntoIterator<Item = &'a Example>) -> HashSet<String> {
    examples.into_iter().map(key).collect()
}

/// Makes `n` distinct examples, none of whose [`key`]s is in `exclude`; the same seed makes the same ones.
///
/// Make the test set first, then the training set with `exclude` holding the test set's keys.
///
/// # Errors
/// Settings that make no sense, and a task with too few distinct examples left.
pub fn generate(
    task: &Task,
    n: usize,
    seed: u64,
    exclude: &HashSet<String>,
) -> Result<Vec<Example>> {
    // Tried in vain so often in a row, a further distinct example is not to be expected.
    const MAX_FAILURES: usize = 100_000;

    let name = task.name();
    task.check().map_err(|problem| Error::Usage(format!("the task {name}: {problem}")))?;
    let mut rng = rng::stream(seed, &[rng::GENERATED]);
    let mut seen = HashSet::new();
    let mut examples = Vec::new();
    let mut failures = 0;
    while examples.len() < n {
        let fresh = task.example(&mut rng).filter(|example| {
            let key = key(example);
            !exclude.contains(&key) && seen.insert(key)
        });
        match fresh {
            Some(example) => {
                examples.push(example);
                failures = 0;
            }
            None if failures < MAX_FAILURES => failures += 1,
            None => {
                let found = examples.len();
                return Err(Error::Usage(format!(
                    "the task {name} with these settings has too few distinct examples: {n} were asked for, \
                     {found} were found beside the {} to be kept out. Ask for fewer, or widen the settings.",
                    exclude.len()
                )));
            }
        }
    }
    Ok(examples)
}

/// Makes `n` examples that a trivial rule gets wrong ([`shortcuts::misled`], which says how it is named): many are made,
/// as by [`generate`], and those are kept.
///
/// # Errors
/// Also a rule that does not fit the task, and one that is wrong too seldom.
pub fn generate_misled(
    task: &Task,
    n: usize,
    seed: u64,
    exclude: &HashSet<String>,
    rule: &str,
) -> Result<Vec<Example>> {
    const AT_ONCE: usize = 10_000;
    /// Examples that are made at most for each that is asked for, beyond the first `AT_ONCE`.
    const MOST: usize = 1_000;

    let most = AT_ONCE.max(MOST.saturating_mul(n));
    let name = task.name();
    let mut exclude = exclude.clone();
    let mut kept = Vec::new();
    for drawn in (0..most).step_by(AT_ONCE) {
        let seed = rng::hash(seed, &[drawn as u64]);
        let examples = generate(task, AT_ONCE, seed, &exclude)?;
        exclude.extend(keys(&examples));
        let misled = shortcuts::misled(&examples, rule).map_err(|problem| {
            Error::Usage(format!("the task {name}: the rule `{rule}`: {problem}."))
        })?;
        kept.extend(examples.into_iter().zip(misled).filter(|of| of.1).map(|of| of.0));
        if kept.len() >= n {
            kept.truncate(n);
            return Ok(kept);
        }
    }
    Err(Error::Usage(format!(
        "the task {name}: the rule `{rule}` is wrong on {} of {most} examples, and {n} were asked for. Ask for fewer, or change the task's settings.",
        kept.len()
    )))
}
