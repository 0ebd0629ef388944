//! One question with its reasoning steps and its answer.

use std::collections::BTreeMap;

use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::{Map, Value};

/// A question, the steps that lead to its answer, and the answer.
///
/// `serde_json` writes it as one flat object: the graph's fields, where there is a graph, stand beside
/// the three others, as in the `prosqa_symbol` files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Example {
    /// What is asked, without a newline at its end.
    pub question: String,
    /// The reasoning, one string a step; empty if the example has none.
    pub steps: Vec<String>,
    /// The answer alone, without `###`.
    pub answer: String,
    /// The graph behind the question, for the tasks that have one.
    pub graph: Option<Graph>,
}

/// A directed graph in which one of two nodes can be reached from the root.
///
/// Nodes are numbers from 0. Field names are those of the ProsQA files.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Graph {
    /// `[from, to]` pairs.
    pub edges: Vec<[usize; 2]>,
    /// Where the search starts.
    pub root: usize,
    /// The candidate that can be reached.
    pub target: usize,
    /// The candidate that cannot.
    pub neg_target: usize,
    /// Nodes at distance exactly k from the root that lie on a shortest path to the target, by k.
    /// Empty where the file does not give them: [`Graph::shortest_path_layers`] finds them.
    pub neighbor_k: BTreeMap<usize, Vec<usize>>,
    /// The word that stands for each node; empty for a graph without words.
    pub idx_to_symbol: Vec<String>,
}

/// Why an object is not an [`Example`]: the field at fault and what it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldProblem {
    /// The field's name.
    pub field: &'static str,
    /// What is wrong with it.
    pub problem: String,
}

impl Example {
    /// An example without a graph.
    pub fn new(
        question: impl Into<String>,
        steps: impl IntoIterator<Item = impl Into<String>>,
        answer: impl Into<String>,
    ) -> Self {
        Self {
            question: question.into(),
            steps: steps.into_iter().map(Into::into).collect(),
            answer: answer.into(),
            graph: None,
        }
    }

    /// Reads one object; fields it does not know are ignored.
    ///
    /// The answer may also be a number. A graph is taken up only if all of `edges`, `root`, `target`
    /// and `neg_target` are there and are numbers, since other data may use such names for other things.
    pub fn from_json(value: Value) -> Result<Self, FieldProblem> {
        let Value::Object(mut fields) = value else {
            let problem =
                format!("is missing: an example must be an object, this is {}", kind(&value));
            return Err(FieldProblem { field: "question", problem });
        };
        let question = match fields.remove("question") {
            Some(Value::String(text)) => text,
            other => return Err(wrong_type("question", "a string", other.as_ref())),
        };
        let steps = match fields.remove("steps") {
            Some(Value::Array(steps)) => {
                steps.into_iter().enumerate().map(step_from_json).collect::<Result<_, _>>()?
            }
            other => return Err(wrong_type("steps", "a list of strings", other.as_ref())),
        };
        let answer = match fields.remove("answer") {
            Some(Value::String(text)) => text,
            Some(Value::Number(number)) => number.to_string(),
            other => return Err(wrong_type("answer", "a string", other.as_ref())),
        };
        Ok(Self { question, steps, answer, graph: Graph::from_json(&fields) })
    }
}

fn step_from_json((index, step): (usize, Value)) -> Result<String, FieldProblem> {
    match step {
        Value::String(text) => Ok(text),
        other => {
            let problem = format!("item {} must be a string, this is {}", index + 1, kind(&other));
            Err(FieldProblem { field: "steps", problem })
        }
    }
}

fn wrong_type(field: &'static str, wanted: &str, found: Option<&Value>) -> FieldProblem {
    let problem = match found {
        None => format!("is missing; it must be {wanted}"),
        Some(value) => format!("must be {wanted}, this is {}", kind(value)),
    };
    FieldProblem { field, problem }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

impl Graph {
    fn from_json(fields: &Map<String, Value>) -> Option<Self> {
        let number = |name: &str| fields.get(name).and_then(as_node);
        let edges =
            fields.get("edges")?.as_array()?.iter().map(|edge| match edge.as_array()?.as_slice() {
                [from, to] => Some([as_node(from)?, as_node(to)?]),
                _ => None,
            });
        let neighbor_k = match fields.get("neighbor_k") {
            None => BTreeMap::new(),
            Some(layers) => layers
                .as_object()?
                .iter()
                .map(|(k, nodes)| Some((k.parse().ok()?, nodes_from_json(nodes)?)))
                .collect::<Option<_>>()?,
        };
        let idx_to_symbol = match fields.get("idx_to_symbol").and_then(Value::as_array) {
            None => Vec::new(),
            Some(words) => {
                words.iter().map(|word| word.as_str().map(str::to_owned)).collect::<Option<_>>()?
            }
        };
        Some(Self {
            edges: edges.collect::<Option<_>>()?,
            root: number("root")?,
            target: number("target")?,
            neg_target: number("neg_target")?,
            neighbor_k,
            idx_to_symbol,
        })
    }

    /// One more than the largest node number, or 0 for a graph without nodes.
    pub fn n_nodes(&self) -> usize {
        let ends = self.edges.iter().flatten().chain([&self.root, &self.target, &self.neg_target]);
        ends.max().map_or(0, |largest| largest + 1)
    }

    /// The edges turned into a list of successors for each node.
    pub fn successors(&self) -> Vec<Vec<usize>> {
        let mut successors = vec![Vec::new(); self.n_nodes()];
        for &[from, to] in &self.edges {
            successors[from].push(to);
        }
        successors
    }

    /// All nodes at distance 0, 1, 2, … from the root: the search frontier after each step.
    ///
    /// Nodes are in increasing order; the last layer is the one farthest away.
    pub fn frontier_layers(&self) -> Vec<Vec<usize>> {
        layers(&self.successors(), self.root)
    }

    /// Nodes at distance 0, 1, …, d that lie on a shortest path from the root to the target (at
    /// distance d), or `None` if the target cannot be reached.
    ///
    /// This is `neighbor_k` of the `prosqa_symbol` files, computed from the edges.
    pub fn shortest_path_layers(&self) -> Option<Vec<Vec<usize>>> {
        let mut on_path = self.frontier_layers();
        let distance = on_path.iter().position(|layer| layer.contains(&self.target))?;
        on_path.truncate(distance + 1);
        on_path[distance] = vec![self.target];

        let successors = self.successors();
        for k in (0..distance).rev() {
            let (nearer, farther) = on_path.split_at_mut(k + 1);
            nearer[k].retain(|&node| successors[node].iter().any(|next| farther[0].contains(next)));
        }
        Some(on_path)
    }
}

/// Breadth-first search: the nodes at each distance from `root`, in increasing order.
fn layers(successors: &[Vec<usize>], root: usize) -> Vec<Vec<usize>> {
    let mut seen = vec![false; successors.len()];
    seen[root] = true;
    let mut found = Vec::new();
    let mut layer = vec![root];
    while !layer.is_empty() {
        let mut next = Vec::new();
        for &child in layer.iter().flat_map(|&node| &successors[node]) {
            if !seen[child] {
                seen[child] = true;
                next.push(child);
            }
        }
        next.sort_unstable();
        found.push(std::mem::replace(&mut layer, next));
    }
    found
}

fn as_node(value: &Value) -> Option<usize> {
    // A bound keeps a wild number in a file from asking for gigabytes of adjacency lists.
    const MAX_NODE: u64 = 1_000_000;
    value.as_u64().filter(|&node| node <= MAX_NODE).and_then(|node| node.try_into().ok())
}

fn nodes_from_json(value: &Value) -> Option<Vec<usize>> {
    value.as_array()?.iter().map(as_node).collect()
}

impl Serialize for Example {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("question", &self.question)?;
        map.serialize_entry("answer", &self.answer)?;
        map.serialize_entry("steps", &self.steps)?;
        if let Some(graph) = &self.graph {
            if !graph.idx_to_symbol.is_empty() {
                map.serialize_entry("idx_to_symbol", &graph.idx_to_symbol)?;
            }
            map.serialize_entry("edges", &graph.edges)?;
            map.serialize_entry("root", &graph.root)?;
            map.serialize_entry("target", &graph.target)?;
            map.serialize_entry("neg_target", &graph.neg_target)?;
            if !graph.neighbor_k.is_empty() {
                map.serialize_entry("neighbor_k", &graph.neighbor_k)?;
            }
        }
        map.end()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Two shortest paths 0→1→3→4 and 0→2→3→4, a detour over 5, and an unreachable 6.
    fn diamond() -> Graph {
        Graph {
            edges: vec![[0, 1], [0, 2], [1, 3], [2, 3], [3, 4], [0, 5], [5, 1], [6, 5]],
            root: 0,
            target: 4,
            neg_target: 6,
            neighbor_k: BTreeMap::new(),
            idx_to_symbol: Vec::new(),
        }
    }

    #[test]
    fn layers_of_a_diamond() {
        let frontier = diamond().frontier_layers();
        assert_eq!(frontier, [vec![0], vec![1, 2, 5], vec![3], vec![4]]);
        let on_path = diamond().shortest_path_layers().unwrap();
        assert_eq!(on_path, [vec![0], vec![1, 2], vec![3], vec![4]]);
    }

    #[test]
    fn unreachable_target_has_no_layers() {
        let swapped = Graph { target: 6, neg_target: 4, ..diamond() };
        assert_eq!(swapped.shortest_path_layers(), None);
    }

    #[test]
    fn json_round_trip_keeps_the_graph() {
        let graph = Graph { neighbor_k: BTreeMap::from([(0, vec![0])]), ..diamond() };
        let example = Example { graph: Some(graph), ..Example::new("q", ["s"], "a") };
        let value = serde_json::to_value(&example).unwrap();
        assert_eq!(value["neighbor_k"], json!({"0": [0]}));
        assert_eq!(Example::from_json(value).unwrap(), example);
    }

    #[test]
    fn unknown_and_unusable_extra_fields_are_ignored() {
        let value = json!({"question": "q", "steps": [], "answer": 7, "edges": "none", "root": 0,
            "target": "x", "neg_target": 1, "author": "me"});
        assert_eq!(Example::from_json(value).unwrap(), Example::new("q", [""; 0], "7"));
    }

    #[test]
    fn field_at_fault_is_named() {
        let missing = Example::from_json(json!({"question": "q", "answer": "a"})).unwrap_err();
        assert_eq!(missing.field, "steps");
        let wrong = Example::from_json(json!({"question": "q", "steps": ["a", 3], "answer": "a"}));
        assert_eq!(wrong.unwrap_err().problem, "item 2 must be a string, this is a number");
    }
}
