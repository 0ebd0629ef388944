//! One question with its reasoning steps and its answer.

use std::{collections::BTreeMap, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor},
    ser::{Serialize, SerializeMap, Serializer},
};
use serde_json::{Value, value::RawValue};

/// A question, the steps that lead to its answer, and the answer.
///
/// `serde_json` writes it as one flat object: the graph's fields, where there is a graph, stand beside
/// the three others, as in the `prosqa_symbol` files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Example {
    /// The question, without a newline at its end.
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
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Graph {
    /// `[from, to]` pairs.
    pub edges: Vec<[usize; 2]>,
    /// The node at which the search starts.
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

/// Why an object is not an [`Example`]: the field at fault and what is wrong with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldProblem {
    /// The field's name.
    pub field: String,
    /// The end of a sentence that begins with the field.
    pub problem: String,
}

/// The fields of a JSON object in the file's order, their values as the file writes them.
///
/// A number keeps its digits so, and a field that stands there twice can be told.
#[derive(Clone, Debug)]
pub struct Fields<'a>(Vec<(String, &'a RawValue)>);

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
    /// The answer may also be a number; its digits are taken as they are written. A graph is taken up only if all of
    /// `edges`, `root`, `target` and `neg_target` are there and are numbers, since other data may use such names for
    /// other things.
    ///
    /// # Errors
    /// A value that is no object, a field that is missing, of another type or there twice.
    pub fn from_json(value: &RawValue) -> Result<Self, FieldProblem> {
        let Some(fields) = Fields::of(value)? else {
            let problem =
                format!("is missing: an example must be an object, this is {}", kind(value));
            return Err(FieldProblem { field: "question".into(), problem });
        };
        let question = fields.text("question")?;
        let question = question.ok_or_else(|| fields.wrong_type("question", "a string"))?;
        let steps = fields.list("steps");
        let steps = steps.ok_or_else(|| fields.wrong_type("steps", "a list of strings"))?;
        let steps = steps.into_iter().enumerate().map(step_from_json).collect::<Result<_, _>>()?;
        let answer = fields.text_or_number("answer")?;
        Ok(Self { question, steps, answer, graph: Graph::from_fields(&fields) })
    }
}

impl<'a> Fields<'a> {
    /// The fields of a value; `None` if it is not an object.
    ///
    /// # Errors
    /// The first field that stands there twice.
    pub fn of(value: &'a RawValue) -> Result<Option<Self>, FieldProblem> {
        let Ok(fields) = serde_json::from_str::<Self>(value.get()) else { return Ok(None) };
        let mut names: Vec<&str> = fields.0.iter().map(|(name, _)| name.as_str()).collect();
        names.sort_unstable();
        match names.windows(2).find(|pair| pair[0] == pair[1]) {
            None => Ok(Some(fields)),
            Some(pair) => {
                let problem = "stands there twice; keep one of the two".into();
                Err(FieldProblem { field: pair[0].into(), problem })
            }
        }
    }

    /// Names and values, in the file's order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &'a RawValue)> {
        self.0.iter().map(|(name, value)| (name.as_str(), *value))
    }

    /// The value of a field.
    pub fn get(&self, name: &str) -> Option<&'a RawValue> {
        self.iter().find(|(field, _)| *field == name).map(|(_, value)| value)
    }

    /// A field's text; `None` if it is missing or not a string.
    ///
    /// # Errors
    /// A string that stands for no text, such as half of a surrogate pair.
    pub fn text(&self, name: &str) -> Result<Option<String>, FieldProblem> {
        let string = self.get(name).filter(|value| value.get().starts_with('"'));
        string.map(|value| text_from_json(value, name)).transpose()
    }

    /// A field's text, or the digits of its number as they are written.
    ///
    /// # Errors
    /// A field that is missing or something else, and a string that stands for no text.
    pub fn text_or_number(&self, name: &str) -> Result<String, FieldProblem> {
        let number = || Some(self.get(name)?.get().to_owned()).filter(|text| is_number(text));
        let found = self.text(name)?.or_else(number);
        found.ok_or_else(|| self.wrong_type(name, "a string or a number"))
    }

    /// A field's list, item by item; `None` if it is missing or not a list.
    pub fn list(&self, name: &str) -> Option<Vec<&'a RawValue>> {
        serde_json::from_str(self.get(name)?.get()).ok()
    }

    /// The problem of a field that is not `wanted`: missing, or something else.
    pub fn wrong_type(&self, name: &str, wanted: &str) -> FieldProblem {
        let problem = match self.get(name) {
            None => format!("is missing; it must be {wanted}"),
            Some(value) => format!("must be {wanted}, this is {}", kind(value)),
        };
        FieldProblem { field: name.into(), problem }
    }

    fn value(&self, name: &str) -> Option<Value> {
        serde_json::from_str(self.get(name)?.get()).ok()
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Fields<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct InOrder;
        impl<'de> Visitor<'de> for InOrder {
            type Value = Fields<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields<'de>, A::Error> {
                let mut fields = Vec::new();
                while let Some(field) = map.next_entry()? {
                    fields.push(field);
                }
                Ok(Fields(fields))
            }
        }
        deserializer.deserialize_map(InOrder)
    }
}

fn step_from_json((index, step): (usize, &RawValue)) -> Result<String, FieldProblem> {
    if step.get().starts_with('"') {
        return text_from_json(step, "steps");
    }
    let problem = format!("item {} must be a string, this is {}", index + 1, kind(step));
    Err(FieldProblem { field: "steps".into(), problem })
}

fn text_from_json(value: &RawValue, field: &str) -> Result<String, FieldProblem> {
    serde_json::from_str(value.get()).map_err(|error| {
        let error = error.to_string();
        let reason = error.split(" at line ").next().unwrap_or(&error);
        FieldProblem { field: field.into(), problem: format!("holds no valid text: {reason}") }
    })
}

fn is_number(json: &str) -> bool {
    json.starts_with(|first: char| first == '-' || first.is_ascii_digit())
}

fn kind(value: &RawValue) -> &'static str {
    match value.get().as_bytes().first() {
        Some(b'n') => "null",
        Some(b't' | b'f') => "true or false",
        Some(b'"') => "a string",
        Some(b'[') => "a list",
        Some(b'{') => "an object",
        _ => "a number",
    }
}

impl Graph {
    fn from_fields(fields: &Fields) -> Option<Self> {
        let number = |name: &str| as_node(&fields.value(name)?);
        let edges = fields.value("edges")?;
        let edges = edges.as_array()?.iter().map(|edge| match edge.as_array()?.as_slice() {
            [from, to] => Some([as_node(from)?, as_node(to)?]),
            _ => None,
        });
        let neighbor_k = match fields.value("neighbor_k") {
            None => BTreeMap::new(),
            Some(layers) => layers
                .as_object()?
                .iter()
                .map(|(k, nodes)| Some((k.parse().ok()?, nodes_from_json(nodes)?)))
                .collect::<Option<_>>()?,
        };
        let idx_to_symbol = match fields.value("idx_to_symbol").as_ref().and_then(Value::as_array) {
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
    use serde_json::{json, value::to_raw_value};

    use super::*;

    fn read(value: &Value) -> Result<Example, FieldProblem> {
        Example::from_json(&to_raw_value(value).unwrap())
    }

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
        assert_eq!(read(&value).unwrap(), example);
    }

    #[test]
    fn unknown_and_unusable_extra_fields_are_ignored() {
        let value = json!({"question": "q", "steps": [], "answer": 7, "edges": "none", "root": 0,
            "target": "x", "neg_target": 1, "author": "me"});
        assert_eq!(read(&value).unwrap(), Example::new("q", [""; 0], "7"));
    }

    #[test]
    fn field_at_fault_is_named() {
        for (text, field, problem) in [
            (
                r#"{"question": "q", "answer": "a"}"#,
                "steps",
                "is missing; it must be a list of strings",
            ),
            (
                r#"{"question": "q", "steps": ["a", 3], "answer": "a"}"#,
                "steps",
                "item 2 must be a string, this is a number",
            ),
            (
                r#"{"question": "q", "steps": [], "answer": null}"#,
                "answer",
                "must be a string or a number, this is null",
            ),
            (r"[1]", "question", "is missing: an example must be an object, this is a list"),
            (
                r#"{"question": "\ud83d", "steps": [], "answer": "a"}"#,
                "question",
                "holds no valid text: unexpected end of hex escape",
            ),
        ] {
            let value = serde_json::from_str(text).unwrap();
            let found = Example::from_json(value).unwrap_err();
            assert_eq!((found.field.as_str(), found.problem.as_str()), (field, problem));
        }
    }

    #[test]
    fn fields_that_stand_twice_are_refused() {
        for (text, field) in [
            (r#"{"question": "a", "question": "b", "steps": [], "answer": "1"}"#, "question"),
            (r#"{"question": "a", "steps": [], "answer": "1", "steps": []}"#, "steps"),
            (r#"{"id": 1, "question": "a", "steps": [], "answer": "1", "id": 1}"#, "id"),
            (r#"{"question": "a", "steps": [], "answer": 1, "\u0061nswer": 1}"#, "answer"),
        ] {
            let found = Example::from_json(serde_json::from_str(text).unwrap()).unwrap_err();
            assert_eq!(found.field, field);
            assert!(found.problem.contains("twice"), "{}", found.problem);
        }
    }

    #[test]
    fn numbers_keep_their_digits() {
        for digits in [
            "18446744073709551616",
            "123456789012345678901234567890",
            "-9223372036854775809",
            "-0",
            "1.0",
            "0.10",
            "1e+400",
            "0.1234567890123456789012345678901234567890",
        ] {
            let text = format!(r#"{{"question": "q", "steps": [], "answer": {digits} }}"#);
            let example = Example::from_json(serde_json::from_str(&text).unwrap()).unwrap();
            assert_eq!(example.answer, digits);
        }
    }
}
