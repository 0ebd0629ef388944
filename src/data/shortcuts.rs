//! Trivial rules: what answers a set's questions right without reasoning, and how often.
//!
//! A rule that is above chance is a shortcut that a model can take instead of the steps, so that its accuracy is the
//! one to beat. Rules that need counts ("most frequent") are counted on one half of the set and judged on the other;
//! where a rule leaves several answers open, each counts as its share.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::{Example, Graph};

/// The trivial rules that fit a set, beside chance.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Shortcuts {
    /// Examples.
    pub n: usize,
    /// The share of right answers when guessing among the candidates: the two of a graph, a table's names but the one
    /// asked about, else all answers of the set.
    pub chance: f64,
    /// The rules, best first.
    pub rules: Vec<Rule>,
}

/// A trivial rule.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Rule {
    /// What it answers.
    pub answer: String,
    /// Its share of right answers.
    pub accuracy: f64,
    /// Whether that is above chance by more than [`MARGIN`] and than two standard errors.
    pub above_chance: bool,
}

/// So far above chance, as a share, a rule is worth a warning.
pub const MARGIN: f64 = 0.05;

/// How often a rule is right on each example: 0, 1, or a share where it leaves several answers open.
type Hits = Vec<f64>;

/// Chance, and the rules that fit a set that is not empty.
fn tried(examples: &[Example]) -> (f64, Vec<(&'static str, Hits)>) {
    let graphs: Option<Vec<&Graph>> =
        examples.iter().map(|example| example.graph.as_ref()).collect();
    let tables: Option<Vec<Table>> = examples.iter().map(Table::of).collect();
    let (chance, mut rules) = match (graphs, tables) {
        (Some(graphs), _) => (0.5, of_graphs(examples, &graphs)),
        (None, Some(tables)) => {
            let one_of = tables.iter().map(|table| 1.0 / (table.pairs.len() - 1) as f64);
            (mean(&one_of.collect::<Vec<_>>()), of_tables(examples, &tables))
        }
        (None, None) => {
            let answers: BTreeSet<&str> = examples.iter().map(|e| e.answer.as_str()).collect();
            (1.0 / answers.len() as f64, of_texts(examples))
        }
    };
    rules.push(("the most frequent answer", most_frequent(examples, |_| "")));
    (chance, rules)
}

/// Which examples of a set a rule gets wrong, a tie not counted as wrong. The rule is the one whose answer is, or else has,
/// these words.
///
/// # Errors
/// What is the matter with the words: no rule that fits the set has them, or several have.
pub fn misled(examples: &[Example], words: &str) -> Result<Vec<bool>, String> {
    if examples.is_empty() {
        return Ok(Vec::new());
    }
    let (_, rules) = tried(examples);
    let whole = rules.iter().any(|(answer, _)| *answer == words);
    let has = |answer: &str| if whole { answer == words } else { answer.contains(words) };
    let named: Vec<_> = rules.iter().filter(|(answer, _)| has(answer)).collect();
    match named[..] {
        [(_, hits)] => Ok(hits.iter().map(|&hit| hit == 0.0).collect()),
        _ => {
            let how = if named.is_empty() { "no rule has" } else { "more than one rule has" };
            let all: Vec<&str> = rules.iter().map(|&(answer, _)| answer).collect();
            Err(format!("{how} these words; the rules are: {}", all.join("; ")))
        }
    }
}

impl Shortcuts {
    /// Tries the rules that fit a set; `None` for an empty one.
    pub fn of(examples: &[Example]) -> Option<Self> {
        if examples.is_empty() {
            return None;
        }
        let (chance, rules) = tried(examples);
        let found = Self { n: examples.len(), chance, rules: Vec::new() };
        let rule = |(answer, hits): (&str, Hits)| {
            let accuracy = mean(&hits);
            let above_chance = found.is_above(accuracy, MARGIN);
            Rule { answer: answer.into(), accuracy, above_chance }
        };
        let mut rules: Vec<Rule> = rules.into_iter().map(rule).collect();
        rules.sort_by(|a, b| b.accuracy.total_cmp(&a.accuracy));
        Some(Self { rules, ..found })
    }

    /// Whether an accuracy is above chance by more than `margin`, a share, and than two standard errors of chance.
    fn is_above(&self, accuracy: f64, margin: f64) -> bool {
        let error = (self.chance * (1.0 - self.chance) / self.n as f64).sqrt();
        accuracy - self.chance > margin.max(2.0 * error)
    }

    /// The rules that are above chance by more than `margin`, a share, and than two standard errors: what they answer
    /// and how often that is right.
    pub fn above(&self, margin: f64) -> Option<String> {
        let above = self.rules.iter().filter(|rule| self.is_above(rule.accuracy, margin));
        let above: Vec<String> =
            above.map(|rule| format!("{} {:.1} %", rule.answer, 100.0 * rule.accuracy)).collect();
        (!above.is_empty()).then(|| above.join("; "))
    }

    /// A paragraph about the rules above chance, if there are any.
    pub fn warning(&self) -> Option<String> {
        let above = self.above(MARGIN)?;
        Some(format!(
            "trivial rules are right more often than chance ({:.1} %): {above}. Hold a model's accuracy against the best of them.",
            100.0 * self.chance,
        ))
    }
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

// ---- By counting ----------------------------------------------------------------------------------------------------

/// The answer that is most frequent among the examples of the other half that share the key.
fn most_frequent<'a>(examples: &'a [Example], key: impl Fn(&'a Example) -> &'a str) -> Hits {
    let mut counts: [BTreeMap<&str, BTreeMap<&str, usize>>; 2] = Default::default();
    for (index, example) in examples.iter().enumerate() {
        let of_key = counts[index % 2].entry(key(example)).or_default();
        *of_key.entry(&example.answer).or_default() += 1;
    }
    let hit = |(index, example): (usize, &'a Example)| {
        let Some(of_key) = counts[1 - index % 2].get(key(example)) else { return 0.0 };
        let most = of_key.values().max();
        let open: Vec<&&str> =
            of_key.iter().filter(|(_, n)| Some(*n) == most).map(|(answer, _)| answer).collect();
        if open.contains(&&example.answer.as_str()) { 1.0 / open.len() as f64 } else { 0.0 }
    };
    examples.iter().enumerate().map(hit).collect()
}

// ---- Texts ----------------------------------------------------------------------------------------------------------

fn of_texts(examples: &[Example]) -> Vec<(&'static str, Hits)> {
    let mut rules = vec![(
        "the most frequent answer after the question's last piece",
        most_frequent(examples, |example| last_piece(&example.question)),
    )];
    let all: Vec<Vec<&str>> = examples.iter().map(|example| numbers(&example.question)).collect();
    if all.iter().all(|numbers| !numbers.is_empty()) {
        let same = |pick: fn(&[&str]) -> Option<String>| {
            let of = |(example, numbers): (&Example, &Vec<&str>)| {
                f64::from(pick(numbers).is_some_and(|number| number == example.answer))
            };
            examples.iter().zip(&all).map(of).collect::<Hits>()
        };
        rules.push(("the first number", same(|all| Some((*all.first()?).to_owned()))));
        rules.push(("the last number", same(|all| Some((*all.last()?).to_owned()))));
    }
    rules
}

/// `-7` of `3+5*2-7`, and the last word of a question in words.
fn last_piece(question: &str) -> &str {
    let question = question.trim_end();
    if let Some((_, last)) = question.rsplit_once(char::is_whitespace) {
        return last;
    }
    let start = question.rfind(|c: char| !c.is_alphanumeric());
    &question[start.unwrap_or(0)..]
}

/// The whole numbers of a text.
fn numbers(text: &str) -> Vec<&str> {
    text.split(|c: char| !c.is_ascii_digit()).filter(|piece| !piece.is_empty()).collect()
}

// ---- Pointer tables -------------------------------------------------------------------------------------------------

/// `c a | a d | d b | b c [Q] a 2`.
struct Table<'a> {
    pairs: Vec<(&'a str, &'a str)>,
    start: &'a str,
}

impl<'a> Table<'a> {
    fn of(example: &'a Example) -> Option<Self> {
        let (table, asked) = example.question.split_once(" [Q] ")?;
        let pairs: Option<Vec<_>> = table.split(" | ").map(|entry| entry.split_once(' ')).collect();
        let (start, hops) = asked.split_once(' ')?;
        hops.parse::<usize>().ok()?;
        let pairs = pairs.filter(|pairs| pairs.len() > 1)?;
        Some(Self { pairs, start })
    }

    fn place_of_start(&self) -> Option<usize> {
        self.pairs.iter().position(|(from, _)| *from == self.start)
    }
}

fn of_tables(examples: &[Example], tables: &[Table]) -> Vec<(&'static str, Hits)> {
    let named = |pick: fn(&Table) -> Option<String>| {
        let of = |(example, table): (&Example, &Table)| {
            f64::from(pick(table).is_some_and(|name| name == example.answer))
        };
        examples.iter().zip(tables).map(of).collect::<Hits>()
    };
    vec![
        ("the first name of the table", named(|t| Some(t.pairs.first()?.0.to_owned()))),
        ("the last name of the table", named(|t| Some(t.pairs.last()?.1.to_owned()))),
        ("one hop", named(|t| Some(t.pairs.get(t.place_of_start()?)?.1.to_owned()))),
        (
            "one hop back",
            named(|t| Some(t.pairs.iter().find(|(_, to)| *to == t.start)?.0.to_owned())),
        ),
        (
            "the name that is written after the first hop",
            named(|t| Some(t.pairs.get(t.place_of_start()? + 1)?.0.to_owned())),
        ),
    ]
}

// ---- Graphs ---------------------------------------------------------------------------------------------------------

fn of_graphs(examples: &[Example], graphs: &[&Graph]) -> Vec<(&'static str, Hits)> {
    let by = |score: fn(&Graph, usize) -> usize| -> Hits {
        let of = |graph: &&Graph| {
            preferred(score(graph, graph.target) as f64, score(graph, graph.neg_target) as f64)
        };
        graphs.iter().map(of).collect()
    };
    let mut rules = vec![
        ("the candidate that is the answer more often", more_often(graphs)),
        either(["the candidate with more edges", "the candidate with fewer edges"], by(edges_at)),
        either(
            ["the candidate with more ancestors", "the candidate with fewer ancestors"],
            by(ancestors),
        ),
        either(
            [
                "the candidate farther from the root, edges taken both ways",
                "the candidate nearer to the root, edges taken both ways",
            ],
            by(distance_both_ways),
        ),
    ];
    // Nodes of the word files are told apart by their names alone.
    if graphs.iter().all(|graph| !graph.neighbor_k.is_empty()) {
        let names =
            ["the candidate with the larger number", "the candidate with the smaller number"];
        rules.push(either(names, by(|_, node| node)));
    }
    let order = |(example, graph): (&Example, &&Graph)| {
        let place = |node| last_place(&example.question, &name(graph, node));
        Some(preferred(place(graph.target)? as f64, place(graph.neg_target)? as f64))
    };
    let order: Option<Hits> = examples.iter().zip(graphs).map(order).collect();
    let names = ["the candidate named last", "the candidate named first"];
    rules.extend(order.map(|hits| either(names, hits)));
    rules
}

/// 1 if the target's score is the higher one, a half at a tie.
fn preferred(target: f64, other: f64) -> f64 {
    match target.total_cmp(&other) {
        std::cmp::Ordering::Greater => 1.0,
        std::cmp::Ordering::Equal => 0.5,
        std::cmp::Ordering::Less => 0.0,
    }
}

/// Of a rule between two candidates and its opposite, the better one.
fn either(names: [&'static str; 2], hits: Hits) -> (&'static str, Hits) {
    if mean(&hits) >= 0.5 {
        return (names[0], hits);
    }
    (names[1], hits.into_iter().map(|hit| 1.0 - hit).collect())
}

/// The candidate whose name was the target in a larger share of the other half's questions that had it to choose.
fn more_often(graphs: &[&Graph]) -> Hits {
    let mut counts: [BTreeMap<String, [f64; 2]>; 2] = Default::default();
    for (index, graph) in graphs.iter().enumerate() {
        for (which, node) in [graph.target, graph.neg_target].into_iter().enumerate() {
            counts[index % 2].entry(name(graph, node)).or_default()[which] += 1.0;
        }
    }
    let hit = |(index, graph): (usize, &&Graph)| {
        let share = |node| {
            let [target, other] =
                counts[1 - index % 2].get(&name(graph, node)).copied().unwrap_or_default();
            (target + 1.0) / (target + other + 2.0)
        };
        preferred(share(graph.target), share(graph.neg_target))
    };
    graphs.iter().enumerate().map(hit).collect()
}

fn edges_at(graph: &Graph, node: usize) -> usize {
    graph.edges.iter().filter(|edge| edge.contains(&node)).count()
}

fn ancestors(graph: &Graph, node: usize) -> usize {
    let edges = graph.edges.iter().map(|&[from, to]| [to, from]).collect();
    let backwards = Graph { edges, root: node, ..graph.clone() };
    backwards.frontier_layers().iter().skip(1).map(Vec::len).sum()
}

/// A node that is not connected with the root is farther than any other.
fn distance_both_ways(graph: &Graph, node: usize) -> usize {
    let edges = graph.edges.iter().flat_map(|&[from, to]| [[from, to], [to, from]]).collect();
    let layers = Graph { edges, ..graph.clone() }.frontier_layers();
    layers.iter().position(|layer| layer.contains(&node)).unwrap_or(layers.len())
}

fn name(graph: &Graph, node: usize) -> String {
    graph.idx_to_symbol.get(node).cloned().unwrap_or_else(|| node.to_string())
}

/// Which word of the question is the last one to be this name.
fn last_place(question: &str, name: &str) -> Option<usize> {
    let words: Vec<&str> = question.split(|c: char| !c.is_alphanumeric()).collect();
    words.iter().rposition(|word| *word == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accuracy(shortcuts: &Shortcuts, answer: &str) -> f64 {
        let rule = shortcuts.rules.iter().find(|rule| rule.answer == answer);
        rule.unwrap_or_else(|| panic!("{answer:?} is not in {shortcuts:#?}")).accuracy
    }

    #[test]
    fn rules_of_chains_by_hand() {
        // Even examples count for odd ones and the other way round.
        let examples =
            [("3+5", "8"), ("1+0", "1"), ("2+5", "7"), ("4*0", "0"), ("9+5", "8"), ("7*0", "0")]
                .map(|(question, answer)| Example::new(question, [""; 0], answer));
        let found = Shortcuts::of(&examples).unwrap();
        assert_eq!((found.n, found.chance), (6, 0.25));
        // Even answers 8, 7, 8; odd answers 1, 0, 0: never each other's most frequent one.
        assert_eq!(accuracy(&found, "the most frequent answer"), 0.0);
        // `*0` and `+5` are of one half each.
        assert_eq!(
            accuracy(&found, "the most frequent answer after the question's last piece"),
            0.0
        );
        assert_eq!(accuracy(&found, "the first number"), 1.0 / 6.0);
        assert_eq!(accuracy(&found, "the last number"), 2.0 / 6.0);

        let twice: Vec<Example> = examples.iter().flat_map(|e| [e.clone(), e.clone()]).collect();
        let found = Shortcuts::of(&twice).unwrap();
        // 8 and 0 are as frequent: either is right on two of six.
        assert_eq!(accuracy(&found, "the most frequent answer"), (2.0 * 0.5 + 2.0 * 0.5) / 6.0);
        // After `+5`: 8 (two of three); after `+0`: 1; after `*0`: 0.
        let by_end = accuracy(&found, "the most frequent answer after the question's last piece");
        assert_eq!(by_end, 5.0 / 6.0);
        assert!(found.rules[0].above_chance);
        assert!(found.warning().unwrap().contains("last piece 83.3 %"));
    }

    #[test]
    fn rules_of_tables_by_hand() {
        let examples =
            [("c a | a d | d b | b c [Q] a 2", "b"), ("a b | b c | d a | c d [Q] b 1", "c")]
                .map(|(question, answer)| Example::new(question, [""; 0], answer));
        let found = Shortcuts::of(&examples).unwrap();
        assert!((found.chance - 1.0 / 3.0).abs() < 1e-12);
        for (answer, hits) in [
            ("the first name of the table", 0.0),
            ("the last name of the table", 0.0),
            ("one hop", 0.5),
            ("one hop back", 0.0),
            ("the name that is written after the first hop", 0.0),
        ] {
            assert_eq!(accuracy(&found, answer), hits, "{answer}");
        }
        // One hop from a is d, not b; from b it is c. "one hop back" has its words too, and is not meant.
        assert_eq!(misled(&examples, "one hop"), Ok(vec![true, false]));
        assert_eq!(misled(&examples, "back"), Ok(vec![true, true]));
        let several = misled(&examples, "name of the table").unwrap_err();
        assert!(several.starts_with("more than one rule has these words"), "{several}");
        let none = misled(&examples, "nearer").unwrap_err();
        assert!(
            none.starts_with("no rule has these words; the rules are: the first name"),
            "{none}"
        );
    }

    #[test]
    fn rules_of_graphs_by_hand() {
        // 0→2→4 and 1→3, 1→5: the target 4 has two ancestors and one edge; 5 has one of each.
        let graph = Graph {
            edges: vec![[0, 2], [2, 4], [1, 3], [1, 5], [3, 2]],
            root: 0,
            target: 4,
            neg_target: 5,
            neighbor_k: BTreeMap::from([(0, vec![0])]),
            idx_to_symbol: Vec::new(),
        };
        let question = "0 2 | 2 4 | 1 3 | 1 5 | 3 2 [Q] 4 5 [R] 0";
        let example = Example { graph: Some(graph), ..Example::new(question, ["2", "4"], "4") };
        let found = Shortcuts::of(&[example]).unwrap();
        assert_eq!(found.chance, 0.5);
        for (answer, hits) in [
            ("the candidate with more edges", 0.5),
            ("the candidate with more ancestors", 1.0), // 2, 0, 3, 1 and 1
            ("the candidate nearer to the root, edges taken both ways", 1.0), // 2 and 4
            ("the candidate with the smaller number", 1.0),
            ("the candidate named first", 1.0),
            ("the candidate that is the answer more often", 0.5),
            ("the most frequent answer", 0.0),
        ] {
            assert_eq!(accuracy(&found, answer), hits, "{answer}");
        }
        assert_eq!(found.warning(), None, "one example shows nothing");
    }
}
