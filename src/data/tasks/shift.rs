//! Shifts: the task that a model was trained on, changed in one thing.

use std::ops::RangeInclusive;

use super::{Task, dag::Kind};

/// In what a shifted task differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shift {
    /// More steps than any example had: one or two more operations, hops or edges to the target; longer factors.
    Longer,
    /// Chains of numbers beyond the largest one before.
    Operands,
    /// Graphs in which every node has one parent, so that one path leads to it.
    Tree,
    /// Graphs in which every node has two parents or more, so that paths join.
    Dag,
    /// Graphs with one more parent a node on average.
    Denser,
    /// Graphs whose nodes are numbered at random.
    Permuted,
    /// Pointer tables with half as many entries again.
    Larger,
}

impl Shift {
    /// All shifts.
    pub const ALL: [Self; 7] = [
        Self::Longer,
        Self::Operands,
        Self::Tree,
        Self::Dag,
        Self::Denser,
        Self::Permuted,
        Self::Larger,
    ];

    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Longer => "longer",
            Self::Operands => "operands",
            Self::Tree => "tree",
            Self::Dag => "dag",
            Self::Denser => "denser",
            Self::Permuted => "permuted",
            Self::Larger => "larger",
        }
    }

    /// The shift of a name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|shift| shift.name() == name)
    }

    /// The shifted task, and the setting that makes it so, as a recipe writes it.
    ///
    /// # Errors
    /// Why the task cannot be shifted so: the end of a sentence that begins with the task.
    pub fn apply(self, trained: &Task) -> Result<(Task, String), String> {
        let mut task = trained.clone();
        let setting = match (self, &mut task) {
            (Self::Longer, Task::Arithmetic(chain)) => {
                chain.n_operations = beyond(&chain.n_operations);
                range("operations", &chain.n_operations)
            }
            (Self::Longer, Task::Graph(shape) | Task::Prosqa(shape)) => {
                shape.n_steps = beyond(&shape.n_steps);
                range("distance", &shape.n_steps)
            }
            (Self::Longer, Task::Pointer(pointer)) => {
                pointer.hops = beyond(&pointer.hops);
                range("hops", &pointer.hops)
            }
            (Self::Longer, Task::Multiply(factors)) => {
                factors.a_digits += 1;
                factors.b_digits += 1;
                format!("digits: [{}, {}]", factors.a_digits, factors.b_digits)
            }
            (Self::Operands, Task::Arithmetic(chain)) => {
                let width = chain.operands.end() - chain.operands.start();
                let low = chain.operands.end() + 1;
                chain.operands = low..=low + width;
                format!("operands: [{low}, {}]", low + width)
            }
            (Self::Tree, Task::Graph(shape) | Task::Prosqa(shape)) => {
                shape.kind = Kind::Tree;
                "graph_kind: tree".to_owned()
            }
            (Self::Dag, Task::Graph(shape) | Task::Prosqa(shape)) => {
                shape.kind = Kind::Dag;
                "graph_kind: dag".to_owned()
            }
            (Self::Denser, Task::Graph(shape) | Task::Prosqa(shape)) => {
                shape.mean_parents += 1.0;
                format!("parents: {}", shape.mean_parents)
            }
            (Self::Permuted, Task::Graph(shape)) => {
                shape.permuted = true;
                "permuted_nodes: True".to_owned()
            }
            (Self::Larger, Task::Pointer(pointer)) => {
                pointer.entries += pointer.entries.div_ceil(2);
                if pointer.names < pointer.entries {
                    return Err(format!(
                        "knows {} names, too few for {} entries; train with more `names`",
                        pointer.names, pointer.entries
                    ));
                }
                format!("entries: {}", pointer.entries)
            }
            _ => {
                let names: Vec<&str> = Self::of(&task).iter().map(|shift| shift.name()).collect();
                return Err(format!("has no shift `{}`, only {}", self.name(), names.join(", ")));
            }
        };
        match task == *trained {
            true => Err(format!("has this setting already (`{setting}`)")),
            false => Ok((task, setting)),
        }
    }

    /// The shifts that a task has.
    pub fn of(task: &Task) -> &'static [Self] {
        match task {
            Task::Arithmetic(_) => &[Self::Longer, Self::Operands],
            Task::Graph(_) => &[Self::Longer, Self::Tree, Self::Dag, Self::Denser, Self::Permuted],
            Task::Multiply(_) => &[Self::Longer],
            Task::Pointer(_) => &[Self::Longer, Self::Larger],
            // Its nodes are named at random already.
            Task::Prosqa(_) => &[Self::Longer, Self::Tree, Self::Dag, Self::Denser],
        }
    }
}

/// One or two more than the most.
fn beyond(range: &RangeInclusive<usize>) -> RangeInclusive<usize> {
    range.end() + 1..=range.end() + 2
}

fn range(key: &str, range: &RangeInclusive<usize>) -> String {
    format!("{key}: [{}, {}]", range.start(), range.end())
}
