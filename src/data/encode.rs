//! An example as pieces of token ids, from which the curriculum assembles each stage's sequence.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use rayon::prelude::*;

use super::{Example, Graph, Tokenizer};
use crate::{Error, Result};

/// An example in token ids.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Encoded {
    /// Question, steps and answer as text.
    Text(Text),
    /// A graph, whose edges are put in a new order for each epoch.
    Graph(GraphPieces),
}

/// The pieces of a text example, cut as docs/method.md 2 says.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Text {
    /// The question and a newline, with what the tokenizer puts around a text.
    pub question: Vec<u32>,
    /// Each step and a newline.
    pub steps: Vec<Vec<u32>>,
    /// `### `, the answer, and the eos.
    pub answer: Vec<u32>,
    /// How many of the answer's tokens come before the first of its value.
    pub value_start: usize,
}

/// The pieces of a graph example (docs/method.md 2 and 14): every node is one token.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct GraphPieces {
    /// `[from, to]`, in the file's order.
    pub edges: Vec<[u32; 2]>,
    /// The node at which the search starts.
    pub root: u32,
    /// The candidate that can be reached.
    pub target: u32,
    /// The candidate that cannot.
    pub neg_target: u32,
    /// Nodes at distance k that lie on a shortest path to the target, k = 0 ..= number of steps.
    pub neighbor_k: Vec<Vec<u32>>,
    /// All nodes at distance k, k = 0 ..= number of steps.
    pub frontier: Vec<Vec<u32>>,
    /// The four marks of the graph's text form.
    pub marks: GraphMarks,
}

/// Ids of the marks between a graph's parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct GraphMarks {
    /// `|`, between edges.
    pub bar: u32,
    /// `[Q]`, before the two candidates.
    pub question: u32,
    /// `[R]`, before the root.
    pub root: u32,
    /// `[A]`, before the answer.
    pub answer: u32,
}

impl Encoded {
    /// The number of reasoning steps; for a graph the distance from the root to the target.
    pub fn n_steps(&self) -> usize {
        match self {
            Self::Text(text) => text.steps.len(),
            Self::Graph(graph) => graph.n_steps(),
        }
    }

    /// The mark before the answer in generated text, unless the prompt already ends with it.
    pub fn answer_mark<'a>(&self, tokenizer: &'a Tokenizer) -> &'a str {
        match self {
            Self::Text(_) => tokenizer.answer_mark(),
            Self::Graph(_) => "[A]",
        }
    }
}

impl Text {
    /// The answer as generated text holds it: decoded from its own tokens, what stands after the mark.
    ///
    /// `None` if no generated text can hold it: one of its tokens is the unknown one, or decoding loses the mark.
    ///
    /// # Errors
    /// Only if the tokenizer itself fails.
    pub fn spoken_answer(&self, tokenizer: &Tokenizer) -> Result<Option<String>> {
        if has_unknown(&self.answer, tokenizer) {
            return Ok(None);
        }
        let without_eos = self.answer.split_last().map_or(&[][..], |(_, before)| before);
        let decoded = tokenizer.decode(without_eos)?;
        Ok(decoded.split_once(tokenizer.answer_mark()).map(|(_, answer)| answer.trim().to_owned()))
    }

    /// Some of the steps as generated text holds them, one a line; `None` if one of their tokens is the unknown one.
    ///
    /// # Errors
    /// Only if the tokenizer itself fails.
    pub fn spoken_steps(steps: &[Vec<u32>], tokenizer: &Tokenizer) -> Result<Option<String>> {
        let ids = steps.concat();
        if has_unknown(&ids, tokenizer) {
            return Ok(None);
        }
        tokenizer.decode(&ids).map(Some)
    }
}

fn has_unknown(ids: &[u32], tokenizer: &Tokenizer) -> bool {
    tokenizer.unknown().is_some_and(|unknown| ids.contains(&unknown))
}

impl GraphPieces {
    /// The distance from the root to the target.
    pub fn n_steps(&self) -> usize {
        self.neighbor_k.len().saturating_sub(1)
    }
}

// ---- Text -----------------------------------------------------------------------------------------------------------

/// What the reader of a set should know of its encoding; examples are numbered from 1.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EncodingWarnings {
    /// Examples whose pieces give other ids than their whole text.
    pub differs: Option<Finding>,
    /// Examples with words or characters that have no token.
    pub unknown: Option<Finding>,
    /// Examples whose answer cannot be told from its own tokens.
    pub unreadable: Option<Finding>,
}

/// The first example of its kind, and what was found there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The example's number, from 1.
    pub example: usize,
    /// The number of examples of that kind.
    pub count: usize,
    /// What was found.
    pub what: String,
}

impl EncodingWarnings {
    /// One paragraph for each finding.
    pub fn warnings(&self) -> Vec<String> {
        let differs = self.differs.as_ref().map(|Finding { example, count, what }| {
            format!(
                "example {example}: its pieces, tokenized one by one, give other tokens than its whole text \
                 ({count} such examples): {what}. The model trains on the pieces' tokens."
            )
        });
        let unknown = self.unknown.as_ref().map(|Finding { example, count, what }| {
            format!(
                "example {example}: {what}, so the model sees the unknown token or nothing there ({count} such \
                 examples). Build the tokenizer from all of the data, or choose one that covers it."
            )
        });
        let unreadable = self.unreadable.as_ref().map(|Finding { example, count, what }| {
            format!(
                "example {example}: {what} ({count} such examples), so that a right answer would be counted as \
                 wrong. Choose another tokenizer, or write the answers differently."
            )
        });
        [differs, unknown, unreadable].into_iter().flatten().collect()
    }

    /// Refuses a set with words or characters that have no token; `path` is the set's file and `advice` says how to
    /// go on all the same.
    ///
    /// # Errors
    /// The first such example, by its number.
    pub fn refuse_unknown(&self, path: &Path, advice: &str) -> Result<()> {
        let Some(Finding { example, count, what }) = &self.unknown else { return Ok(()) };
        let problem = format!("{what} ({count} such examples). {advice}");
        Err(Error::input(path, format!("example {example}"), problem))
    }

    fn note(slot: &mut Option<Finding>, example: usize, what: Option<String>) {
        match (slot, what) {
            (_, None) => {}
            (Some(first), Some(_)) => first.count += 1,
            (slot, Some(what)) => *slot = Some(Finding { example, count: 1, what }),
        }
    }
}

/// Encodes examples as text, in order.
///
/// # Errors
/// Only if the tokenizer itself fails; what is merely suspicious comes back as [`EncodingWarnings`].
pub fn encode_texts(
    examples: &[Example],
    tokenizer: &Tokenizer,
) -> Result<(Vec<Encoded>, EncodingWarnings)> {
    let mut checked: Vec<Checked> = examples
        .par_iter()
        .map(|example| encode_checked(example, tokenizer))
        .collect::<Result<_>>()?;
    let dropped = dropped(examples, tokenizer)?;
    if !dropped.is_empty() {
        for (example, checked) in examples.iter().zip(&mut checked) {
            let lost = characters(example, tokenizer.answer_mark())
                .filter(|character| dropped.contains(character));
            checked.unknown.extend(lost.map(String::from));
        }
    }
    let mut warnings = EncodingWarnings::default();
    let mut encoded = Vec::with_capacity(checked.len());
    for (index, checked) in checked.into_iter().enumerate() {
        EncodingWarnings::note(&mut warnings.differs, index + 1, checked.differs);
        EncodingWarnings::note(&mut warnings.unknown, index + 1, no_token(&checked.unknown));
        EncodingWarnings::note(&mut warnings.unreadable, index + 1, checked.unreadable);
        encoded.push(Encoded::Text(checked.text));
    }
    Ok((encoded, warnings))
}

/// Encodes one example without checks, as for a question typed by a user.
pub fn encode_text(example: &Example, tokenizer: &Tokenizer) -> Result<Text> {
    Ok(encode_checked(example, tokenizer)?.text)
}

/// The words or characters of a question, as it is put to the model, that have no token.
///
/// # Errors
/// As [`Tokenizer::render_prompt`] and [`Tokenizer::encode`].
pub fn unknown_in_question(question: &str, tokenizer: &Tokenizer) -> Result<Vec<String>> {
    let (text, special) = tokenizer.render_prompt(question)?;
    let mut unknown = tokenizer.encode(&text, special)?.unknown;
    let dropped = dropped(&[Example::new(question, [""; 0], "")], tokenizer)?;
    unknown.extend(dropped.into_iter().map(String::from));
    Ok(unknown)
}

/// Letters, digits and ASCII marks that a tokenizer without an unknown token drops: alone they give no token.
fn dropped(examples: &[Example], tokenizer: &Tokenizer) -> Result<BTreeSet<char>> {
    let all: BTreeSet<char> = examples
        .par_iter()
        .map(|example| characters(example, tokenizer.answer_mark()).collect())
        .reduce(BTreeSet::new, |mut all, more| {
            all.extend(more);
            all
        });
    let mut dropped = BTreeSet::new();
    for character in all {
        if tokenizer.encode(character.encode_utf8(&mut [0; 4]), false)?.ids.is_empty() {
            dropped.insert(character);
        }
    }
    Ok(dropped)
}

/// The characters of an example that mean something: what is left out may well be normalized away.
fn characters<'a>(example: &'a Example, mark: &'a str) -> impl Iterator<Item = char> + 'a {
    let texts = [example.question.as_str(), mark, &example.answer].into_iter();
    let texts = texts.chain(example.steps.iter().map(String::as_str));
    texts.flat_map(str::chars).filter(|c| c.is_alphanumeric() || c.is_ascii_graphic())
}

/// The beginning of a sentence that names the first words or characters without a token; `None` if there are none.
pub fn no_token(unknown: &[String]) -> Option<String> {
    const NAMED: usize = 5;
    let mut pieces: Vec<&str> = Vec::new(); // each once
    for piece in unknown {
        if !pieces.contains(&piece.as_str()) {
            pieces.push(piece);
        }
    }
    let named = pieces.get(..NAMED).unwrap_or(&pieces).join("`, `");
    let more = match pieces.len() {
        0 => return None,
        n if n > NAMED => format!(" and {} more", n - NAMED),
        _ => String::new(),
    };
    Some(format!("the vocabulary has no token for `{named}`{more}"))
}

struct Checked {
    text: Text,
    differs: Option<String>,
    unknown: Vec<String>,
    unreadable: Option<String>,
}

fn encode_checked(example: &Example, tokenizer: &Tokenizer) -> Result<Checked> {
    let (question_text, special) = tokenizer.render_prompt(&example.question)?;
    let step_texts: Vec<String> = example.steps.iter().map(|step| format!("{step}\n")).collect();
    let mark = tokenizer.answer_mark();
    let answer_text = format!("{mark} {}", example.answer);

    let question = tokenizer.encode(&question_text, special)?;
    let steps: Vec<_> =
        step_texts.iter().map(|step| tokenizer.encode(step, false)).collect::<Result<_>>()?;
    let answer = tokenizer.encode(&answer_text, false)?;
    let prefix = tokenizer.encode(&format!("{mark} "), false)?;
    let common = answer.ids.iter().zip(&prefix.ids).take_while(|(a, b)| a == b).count();

    let whole =
        tokenizer.encode(&[question_text, step_texts.concat(), answer_text].concat(), special)?;
    let pieces: Vec<u32> = [&question]
        .into_iter()
        .chain(&steps)
        .chain([&answer])
        .flat_map(|tokens| tokens.ids.iter().copied())
        .collect();
    let differs = (pieces != whole.ids).then(|| first_difference(&pieces, &whole.ids, tokenizer));
    let unreadable = unreadable(&tokenizer.decode(&answer.ids)?, &example.answer, mark);

    let mut answer_ids = answer.ids;
    answer_ids.push(tokenizer.special_tokens().eos);
    let mut unknown = question.unknown;
    unknown.extend(steps.iter().flat_map(|step| step.unknown.iter().cloned()));
    unknown.extend(answer.unknown);
    Ok(Checked {
        differs,
        unknown,
        unreadable,
        text: Text {
            question: question.ids,
            steps: steps.into_iter().map(|step| step.ids).collect(),
            answer: answer_ids,
            value_start: common,
        },
    })
}

/// Why an answer cannot be read from its own tokens: they lose the mark, or what is read after the last mark of a
/// generated text is not all of it.
fn unreadable(decoded: &str, answer: &str, mark: &str) -> Option<String> {
    let Some((_, spoken)) = decoded.split_once(mark) else {
        return Some(format!("`{mark}` before the answer `{answer}` is decoded as `{decoded}`"));
    };
    let read = spoken.rsplit(mark).next().unwrap_or_default().trim();
    let lost = read.is_empty() && !answer.trim().is_empty();
    (lost || read != spoken.trim())
        .then(|| format!("the answer `{answer}` is read back as `{read}`"))
}

fn first_difference(pieces: &[u32], whole: &[u32], tokenizer: &Tokenizer) -> String {
    let same = pieces.iter().zip(whole).take_while(|(piece, whole)| piece == whole).count();
    let around = |ids: &[u32]| {
        let end = ids.len().min(same + 4);
        let start = same.saturating_sub(2).min(end);
        tokenizer.token_strings(ids.get(start..end).unwrap_or_default()).join(" ")
    };
    format!("`{}` against `{}` at token {}", around(pieces), around(whole), same + 1)
}

// ---- Graphs ---------------------------------------------------------------------------------------------------------

/// Encodes examples as graphs, in order; `path` is the file that errors name.
///
/// # Errors
/// An example without a graph, a target that cannot be reached, a `neighbor_k` that the edges contradict,
/// and a node or a mark for which the tokenizer has no token.
pub fn encode_graphs(
    examples: &[Example],
    tokenizer: &Tokenizer,
    path: &Path,
) -> Result<Vec<Encoded>> {
    let mark = |mark: &str| {
        tokenizer.id_of(mark).ok_or_else(|| {
            let problem =
                format!("has no token `{mark}`; the graph task needs a tokenizer made for it");
            Error::input(tokenizer.origin(), "", problem)
        })
    };
    let marks = GraphMarks {
        bar: mark("|")?,
        question: mark("[Q]")?,
        root: mark("[R]")?,
        answer: mark("[A]")?,
    };
    let numbered = examples.iter().enumerate();
    numbered
        .map(|(index, example)| {
            graph_pieces(example.graph.as_ref(), tokenizer, marks)
                .map(Encoded::Graph)
                .map_err(|problem| Error::input(path, format!("example {}", index + 1), problem))
        })
        .collect()
}

fn graph_pieces(
    graph: Option<&Graph>,
    tokenizer: &Tokenizer,
    marks: GraphMarks,
) -> Result<GraphPieces, String> {
    let graph = graph.ok_or(
        "has no graph: the graph task needs `edges` (pairs of numbers), `root`, `target` and `neg_target`",
    )?;
    let on_path = graph.shortest_path_layers().ok_or_else(|| {
        format!("the target {} cannot be reached from the root {}", graph.target, graph.root)
    })?;
    if on_path.len() < 2 {
        return Err(format!("the root and the target are the same node, {}", graph.root));
    }
    contradicts(&graph.neighbor_k, &on_path)?;

    let token = |node: usize| {
        tokenizer
            .id_of(&node.to_string())
            .ok_or_else(|| format!("the tokenizer has no token for node {node}"))
    };
    let all = |layer: &Vec<usize>| layer.iter().map(|&node| token(node)).collect::<Result<_, _>>();
    let edges = graph.edges.iter().map(|&[from, to]| Ok([token(from)?, token(to)?]));
    Ok(GraphPieces {
        edges: edges.collect::<Result<_, String>>()?,
        root: token(graph.root)?,
        target: token(graph.target)?,
        neg_target: token(graph.neg_target)?,
        neighbor_k: on_path.iter().map(all).collect::<Result<_, _>>()?,
        frontier: graph
            .frontier_layers()
            .iter()
            .take(on_path.len())
            .map(all)
            .collect::<Result<_, _>>()?,
        marks,
    })
}

/// Compares the file's `neighbor_k`, where it gives one, with what the edges say.
fn contradicts(given: &BTreeMap<usize, Vec<usize>>, computed: &[Vec<usize>]) -> Result<(), String> {
    for (&k, nodes) in given {
        let mut nodes = nodes.clone();
        nodes.sort_unstable();
        let expected = computed.get(k).map_or(&[][..], Vec::as_slice);
        if nodes != expected {
            return Err(format!(
                "`neighbor_k` at {k} is {nodes:?}, but by the edges it is {expected:?}"
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::tokenizer::Units;

    fn example() -> Example {
        Example::new("Is Tom a cat?", ["Tom is a cat.", "Every cat is red."], "Tom is red.")
    }

    #[test]
    fn pieces_end_with_newlines_and_eos() {
        let examples = [example()];
        let tokenizer = Tokenizer::build(&examples, Units::Words, Path::new("t")).unwrap();
        let (encoded, warnings) = encode_texts(&examples, &tokenizer).unwrap();
        assert_eq!(warnings, EncodingWarnings::default());
        let [Encoded::Text(text)] = encoded.as_slice() else { panic!("one text") };
        let strings = |ids: &[u32]| tokenizer.token_strings(ids).join(" ");
        assert_eq!(strings(&text.question), "Is Tom a cat ? \n");
        assert_eq!(strings(&text.steps[1]), "Every cat is red . \n");
        assert_eq!(strings(&text.answer), "### Tom is red . <eos>");
    }

    #[test]
    fn warnings_name_the_first_example() {
        let tokenizer = Tokenizer::build([&example()], Units::Words, Path::new("t")).unwrap();
        let strange = Example::new("Is Tom a dog?", ["dog eats eel"], "1 ### 2");
        let (_, warnings) =
            encode_texts(&[example(), strange.clone(), strange], &tokenizer).unwrap();
        let unknown = warnings.unknown.clone().unwrap();
        assert_eq!((unknown.example, unknown.count), (2, 2));
        assert_eq!(unknown.what, "the vocabulary has no token for `dog`, `eats`, `eel`");
        assert_eq!(
            warnings.unreadable.clone().unwrap().what,
            "the answer `1 ### 2` is read back as `2`"
        );
        assert_eq!(warnings.warnings().len(), 2);
        let refused = warnings.refuse_unknown(Path::new("d.json"), "Remove it.").unwrap_err();
        assert_eq!(
            refused.to_string(),
            "d.json, example 2: the vocabulary has no token for `dog`, `eats`, `eel` (2 such examples). Remove it."
        );
    }

    #[test]
    fn many_unknown_pieces_are_counted() {
        let pieces = ["a", "b", "a", "c", "d", "e", "f", "g"].map(str::to_owned);
        let named = "the vocabulary has no token for `a`, `b`, `c`, `d`, `e` and 2 more";
        assert_eq!(no_token(&pieces).unwrap(), named);
        assert_eq!(no_token(&[]), None);
    }

    #[test]
    fn answers_are_spoken_as_their_tokens_are_decoded() {
        let spoken = |answer: &str| {
            let examples = [Example::new("q", [""; 0], answer)];
            let tokenizer = Tokenizer::build(&examples, Units::Words, Path::new("t")).unwrap();
            let (encoded, warnings) = encode_texts(&examples, &tokenizer).unwrap();
            assert_eq!(warnings, EncodingWarnings::default(), "{answer}");
            let [Encoded::Text(text)] = encoded.as_slice() else { panic!("one text") };
            text.spoken_answer(&tokenizer).unwrap().unwrap()
        };
        // Words stand apart, digits together: what generated text looks like, in which nothing is lost.
        for (answer, decoded) in
            [("(A)", "( A)"), ("1,234", "1, 234"), ("$18", "$ 18"), ("1 2", "12")]
        {
            assert_eq!(spoken(answer), decoded);
        }
        let tokenizer = Tokenizer::build([&example()], Units::Words, Path::new("t")).unwrap();
        let text = encode_text(&Example::new("q", [""; 0], "an eel"), &tokenizer).unwrap();
        assert_eq!(text.spoken_answer(&tokenizer).unwrap(), None, "no text has the unknown token");
    }

    #[test]
    fn pieces_that_differ_from_the_whole_are_found() {
        // A tokenizer that knows `\n###` as one token, as some byte-pair vocabularies do.
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokenizer.json");
        let text = r####"{"version": "1.0", "added_tokens": [], "normalizer": null, "pre_tokenizer": null,
            "post_processor": null, "decoder": null, "truncation": null, "padding": null, "model":
            {"type": "BPE", "vocab": {"</s>": 0, "q": 1, "\n": 2, "#": 3, " ": 4, "a": 5, "\n#": 6},
            "merges": [["\n", "#"]]}}"####;
        std::fs::write(&path, text).unwrap();
        let tokenizer = Tokenizer::load(&path).unwrap();
        let (_, warnings) = encode_texts(&[Example::new("q", [""; 0], "a")], &tokenizer).unwrap();
        let differs = warnings.differs.unwrap();
        assert_eq!(differs.what, "`q \n # # #` against `q \n# # #  ` at token 2");
    }

    fn graph() -> Graph {
        Graph {
            edges: vec![[0, 2], [0, 3], [2, 4], [1, 5]],
            root: 0,
            target: 4,
            neg_target: 5,
            neighbor_k: BTreeMap::from([(0, vec![0]), (1, vec![2]), (2, vec![4])]),
            idx_to_symbol: Vec::new(),
        }
    }

    fn encode_graph(graph: Option<Graph>, n_nodes: usize) -> Result<GraphPieces> {
        let tokenizer = Tokenizer::for_graphs(n_nodes, Path::new("t")).unwrap();
        let example = Example { graph, ..example() };
        match encode_graphs(&[example], &tokenizer, Path::new("data.json"))?.remove(0) {
            Encoded::Graph(pieces) => Ok(pieces),
            Encoded::Text(_) => panic!("a graph was asked for"),
        }
    }

    #[test]
    fn graph_layers_are_token_ids() {
        let pieces = encode_graph(Some(graph()), 6).unwrap();
        assert_eq!(pieces.neighbor_k, [vec![0], vec![2], vec![4]]);
        assert_eq!(pieces.frontier, [vec![0], vec![2, 3], vec![4]]);
        assert_eq!(pieces.n_steps(), 2);
    }

    #[test]
    fn bad_graphs_are_refused() {
        let wrong_layer = BTreeMap::from([(1, vec![3])]);
        for (graph, n_nodes, words) in [
            (None, 6, "has no graph"),
            (Some(Graph { target: 5, ..graph() }), 6, "cannot be reached"),
            (Some(Graph { target: 0, ..graph() }), 6, "the same node"),
            (Some(Graph { neighbor_k: wrong_layer, ..graph() }), 6, "`neighbor_k` at 1 is [3]"),
            (Some(graph()), 5, "no token for node 5"),
        ] {
            let message = encode_graph(graph, n_nodes).unwrap_err().to_string();
            assert!(message.starts_with("data.json, example 1: "), "{message}");
            assert!(message.contains(words), "{message:?} lacks {words:?}");
        }
    }
}
