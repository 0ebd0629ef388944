//! Generated examples against independent solvers: distances by relaxation instead of search, arithmetic by
//! parsing the question, multiplication by `u128`, pointers by walking the table that the question writes.

use std::{
    collections::{HashMap, HashSet},
    path::Path,
};

use coconut::{
    data::{
        Encoded, Example, Graph, Tokenizer,
        encode::{Text, unknown_in_question},
        encode_graphs, encode_texts, read,
        stats::Stats,
        tasks::{
            Task,
            arithmetic::{Arithmetic, Operator},
            dag::Shape,
            generate, key, keys,
            multiply::Multiply,
            pointer::Pointer,
        },
        tokenizer::Units,
    },
    eval::score::{is_right, read_answer, same_steps},
};
use proptest::prelude::*;

fn make(task: &Task, n: usize, seed: u64) -> Vec<Example> {
    generate(task, n, seed, &HashSet::new()).unwrap_or_else(|error| panic!("{error}"))
}

// ---- Graphs -------------------------------------------------------------------------------------

const FAR: usize = usize::MAX / 4;

/// Distances between all nodes (Floyd and Warshall).
fn distances(graph: &Graph) -> Vec<Vec<usize>> {
    let n = graph.n_nodes();
    let mut distance = vec![vec![FAR; n]; n];
    (0..n).for_each(|node| distance[node][node] = 0);
    graph.edges.iter().for_each(|&[from, to]| distance[from][to] = 1);
    for via in 0..n {
        for from in 0..n {
            for to in 0..n {
                let detour = distance[from][via] + distance[via][to];
                distance[from][to] = distance[from][to].min(detour);
            }
        }
    }
    distance
}

fn check_graph(graph: &Graph, n_steps: usize) -> Result<(), TestCaseError> {
    let distance = distances(graph);
    prop_assert_eq!(distance[graph.root][graph.target], n_steps);
    prop_assert_eq!(distance[graph.root][graph.neg_target], FAR);
    let has_edge = |node| graph.edges.iter().any(|edge| edge.contains(&node));
    prop_assert!((0..graph.n_nodes()).all(has_edge));
    let has_parent = |node| graph.edges.iter().any(|&[_, to]| to == node);
    prop_assert!(has_parent(graph.target) && has_parent(graph.neg_target));
    prop_assert!(!has_parent(graph.root));
    let distinct: HashSet<_> = graph.edges.iter().collect();
    prop_assert_eq!(distinct.len(), graph.edges.len());

    let layers = graph.shortest_path_layers().unwrap();
    prop_assert_eq!(layers.len(), n_steps + 1);
    let frontier = graph.frontier_layers();
    for k in 0..=n_steps {
        let at_k = |&node: &usize| distance[graph.root][node] == k;
        let on_path = |&node: &usize| distance[node][graph.target] == n_steps - k;
        let all: Vec<usize> = (0..graph.n_nodes()).filter(at_k).collect();
        let expected: Vec<usize> = all.iter().copied().filter(on_path).collect();
        prop_assert_eq!(&layers[k], &expected);
        prop_assert_eq!(&frontier[k], &all);
    }
    Ok(())
}

fn shape() -> impl Strategy<Value = Shape> {
    (1..=4_usize, 0..=2_usize, 8..=36_usize).prop_map(|(fewest, more, n_drawn)| {
        Shape::published(n_drawn.max(fewest + 12), fewest..=fewest + more)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn graphs_are_as_promised(shape in shape(), seed: u64) {
        for example in make(&Task::Graph(shape.clone()), 20, seed) {
            let graph = example.graph.as_ref().unwrap();
            prop_assert!(shape.n_steps.contains(&example.steps.len()));
            check_graph(graph, example.steps.len())?;
            let given: Vec<_> = graph.neighbor_k.values().cloned().collect();
            prop_assert_eq!(given, graph.shortest_path_layers().unwrap());

            // The text says the same as the fields.
            let (edges, asked) = example.question.split_once(" [Q] ").unwrap();
            let mut edges: Vec<String> = edges.split(" | ").map(str::to_owned).collect();
            let mut expected: Vec<String> =
                graph.edges.iter().map(|[from, to]| format!("{from} {to}")).collect();
            edges.sort();
            expected.sort();
            prop_assert_eq!(edges, expected);
            let Graph { root, target, neg_target, .. } = graph;
            let either = [
                format!("{target} {neg_target} [R] {root}"),
                format!("{neg_target} {target} [R] {root}"),
            ];
            prop_assert!(either.iter().any(|expected| expected == asked));
            check_path(graph, &example)?;
        }
    }

    #[test]
    fn prosqa_says_what_its_graph_says(seed: u64) {
        let task = Task::named("prosqa").unwrap();
        for example in make(&task, 20, seed) {
            let graph = example.graph.as_ref().unwrap();
            check_graph(graph, example.steps.len())?;
            let name = |node: usize| graph.idx_to_symbol[node].as_str();
            let distinct: HashSet<_> = graph.idx_to_symbol.iter().collect();
            prop_assert_eq!(distinct.len(), graph.n_nodes());

            let (facts, asked) = example.question.rsplit_once(" Is ").unwrap();
            let fact = |fact: &str| -> [usize; 2] {
                let (from, to) = fact.trim_end_matches('.').split_once(" is a ").unwrap();
                [from.trim_start_matches("Every "), to].map(|name| {
                    graph.idx_to_symbol.iter().position(|known| known == name).unwrap()
                })
            };
            let mut edges: Vec<_> = facts.split_inclusive('.').map(|text| fact(text.trim())).collect();
            edges.sort_unstable();
            let mut expected = graph.edges.clone();
            expected.sort_unstable();
            prop_assert_eq!(edges, expected);

            let (root, target, other) = (name(graph.root), name(graph.target), name(graph.neg_target));
            let either =
                [format!("{root} a {target} or {other}?"), format!("{root} a {other} or {target}?")];
            prop_assert!(either.iter().any(|expected| expected == asked));
            prop_assert_eq!(&example.answer, &format!("{root} is a {target}."));

            let mut here = graph.root;
            for step in &example.steps {
                let [from, to] = fact(step);
                prop_assert_eq!(from, here);
                prop_assert!(facts.contains(step.as_str()));
                here = to;
            }
            prop_assert_eq!(here, graph.target);
        }
    }
}

fn check_path(graph: &Graph, example: &Example) -> Result<(), TestCaseError> {
    let mut here = graph.root;
    for step in &example.steps {
        let next = step.parse().unwrap();
        prop_assert!(graph.edges.contains(&[here, next]));
        here = next;
    }
    prop_assert_eq!(here, graph.target);
    prop_assert_eq!(&example.answer, &graph.target.to_string());
    Ok(())
}

#[test]
fn graphs_have_the_statistics_of_the_published_files() {
    let set = make(&Task::named("prosqa").unwrap(), 4000, 1);
    let stats = Stats::of(&set, None);
    let graphs = stats.graphs.clone().unwrap();
    // Means and deviations of the 800 published graphs, with room for what the fit leaves.
    let near = |value: f64, published: f64, room: f64| {
        assert!((value - published).abs() < room, "{value} against {published}: {stats:#?}");
    };
    near(graphs.nodes.mean, 22.81, 0.5);
    near(graphs.nodes.sd, 1.98, 0.3);
    near(graphs.edges.mean, 36.00, 0.5);
    near(graphs.edges.sd, 5.75, 0.5);
    for (n_steps, published) in [(3, 0.407), (4, 0.438), (5, 0.131), (6, 0.024)] {
        near(stats.steps[&n_steps] as f64 / 4000.0, published, 0.08);
    }
    assert_eq!((graphs.unreachable_targets, graphs.reachable_distractors), (0, 0));
}

#[test]
fn generated_graphs_are_encoded() {
    let set = make(&Task::named("graph").unwrap(), 200, 1);
    let tokenizer = Tokenizer::for_graphs(31, Path::new("graphs")).unwrap();
    let encoded = encode_graphs(&set, &tokenizer, Path::new("generated")).unwrap();
    assert!(
        encoded.iter().zip(&set).all(|(encoded, example)| encoded.n_steps() == example.steps.len())
    );
}

// ---- Numbers ------------------------------------------------------------------------------------

/// Reads `3+5*2-7` from left to right.
fn value(question: &str, modulus: Option<i64>) -> (i64, usize) {
    let numbers = question.split(['+', '-', '*']).map(|number| number.parse::<i64>().unwrap());
    let operators: Vec<char> = question.chars().filter(|c| !c.is_ascii_digit()).collect();
    let mut numbers = numbers;
    let mut value = numbers.next().unwrap();
    for (number, operator) in numbers.zip(&operators) {
        value = match operator {
            '+' => value + number,
            '-' => value - number,
            _ => value * number,
        };
        value = modulus.map_or(value, |modulus| ((value % modulus) + modulus) % modulus);
    }
    (value, operators.len())
}

proptest! {
    #[test]
    fn arithmetic_is_right(
        seed: u64,
        low in 0..20_i64,
        range in 3..200_i64,
        fewest in 1..3_usize,
        more in 0..4_usize,
        modulus in prop::option::of(2..200_i64),
        subtract: bool,
    ) {
        let mut operators = vec![Operator::Add, Operator::Multiply];
        operators.extend(subtract.then_some(Operator::Subtract));
        let task = Arithmetic {
            operands: low..=low + range,
            operators,
            n_operations: fewest..=fewest + more,
            modulus, value_steps: false };
        for example in make(&Task::Arithmetic(task), 20, seed) {
            let (answer, n_operations) = value(&example.question, modulus);
            prop_assert_eq!(&example.answer, &answer.to_string());
            prop_assert_eq!(example.steps.len(), n_operations);
            prop_assert!((fewest..=fewest + more).contains(&n_operations));
            prop_assert_eq!(example.question.contains('-') && !subtract, false);

            let mut so_far = None;
            for step in &example.steps {
                let (calculation, result) =
                    step.strip_prefix("<<").unwrap().strip_suffix(">>").unwrap().split_once('=').unwrap();
                let split = calculation.rfind(['+', '-', '*']).unwrap();
                let (left, right) = calculation.split_at(split);
                if let Some(so_far) = so_far {
                    prop_assert_eq!(left, so_far);
                }
                // A negative left side cannot be re-read as a chain, so only its sign is set aside.
                let left: i64 = left.parse().unwrap();
                let right_value: i64 = right[1..].parse().unwrap();
                let expected = match &right[..1] {
                    "+" => left + right_value,
                    "-" => left - right_value,
                    _ => left * right_value,
                };
                let expected = modulus.map_or(expected, |m| ((expected % m) + m) % m);
                prop_assert_eq!(result, expected.to_string());
                so_far = Some(result);
            }
        }
    }

    #[test]
    fn multiplication_is_right(seed: u64, a_digits in 2..=18_u32, b_digits in 2..=18_u32) {
        let task = Multiply { a_digits, b_digits };
        for example in make(&Task::Multiply(task), 5, seed) {
            let number = |text: &str| -> (u128, u32) {
                let digits: Vec<&str> = text.split(' ').collect();
                let value = digits.iter().rev().fold(0, |value, digit| {
                    value * 10 + digit.parse::<u128>().unwrap()
                });
                (value, digits.len() as u32)
            };
            let (a, b) = example.question.split_once(" * ").unwrap();
            let ((a, a_width), (b, b_width)) = (number(a), number(b));
            prop_assert_eq!((a_width, b_width), (a_digits, b_digits));
            prop_assert!(a >= 10_u128.pow(a_digits - 1) && b >= 10_u128.pow(b_digits - 1));
            prop_assert_eq!(number(&example.answer), (a * b, a_digits + b_digits));

            prop_assert_eq!(example.steps.len() as u32, b_digits);
            for (place, step) in (0_u32..).zip(&example.steps) {
                let (partial, sum) = match step.split_once(" ( ") {
                    Some((partial, sum)) => (partial, Some(sum.strip_suffix(" )").unwrap())),
                    None => (step.as_str(), None),
                };
                let digit = b / 10_u128.pow(place) % 10;
                let width = a_digits + 1 + place;
                prop_assert_eq!(number(partial), (a * digit * 10_u128.pow(place), width));
                prop_assert_eq!(sum.is_some(), place > 0 && place + 1 < b_digits);
                if let Some(sum) = sum {
                    prop_assert_eq!(number(sum), (a * (b % 10_u128.pow(place + 1)), width));
                }
            }
        }
    }
}

// ---- Pointers -----------------------------------------------------------------------------------

proptest! {
    #[test]
    fn pointers_are_followed(
        seed: u64,
        fewest in 1..4_usize,
        more in 0..3_usize,
        spare in 0..6_usize,
        unused in 0..40_usize,
    ) {
        let hops = fewest..=fewest + more;
        let entries = 2 * hops.end() + spare + 2;
        let task = Pointer { entries, names: entries + unused, hops: hops.clone() };
        for example in make(&Task::Pointer(task), 20, seed) {
            let (table, asked) = example.question.split_once(" [Q] ").unwrap();
            let pairs: Vec<_> =
                table.split(" | ").map(|entry| entry.split_once(' ').unwrap()).collect();
            let table: HashMap<&str, &str> = pairs.iter().copied().collect();
            prop_assert_eq!((pairs.len(), table.len()), (entries, entries));

            let (start, n_hops) = asked.split_once(' ').unwrap();
            let n_hops: usize = n_hops.parse().unwrap();
            prop_assert!(hops.contains(&n_hops));
            let mut walk = vec![start];
            (0..entries).for_each(|_| walk.push(table[walk[walk.len() - 1]]));
            prop_assert_eq!(&example.steps, &walk[1..=n_hops]);
            prop_assert_eq!(&example.answer, walk[n_hops]);
            // One cycle: no other number of hops leads to the same name.
            let met: HashSet<_> = walk[..entries].iter().collect();
            prop_assert_eq!((met.len(), walk[entries]), (entries, start));
        }
    }
}

/// By position in the table and by name, answers are as even as chance makes them.
#[test]
fn pointers_lead_anywhere() {
    let n = 12_000;
    let (mut by_name, mut by_place) = (HashMap::new(), [0; 12]);
    for example in make(&Task::named("pointer").unwrap(), n, 1) {
        let place =
            example.question.split(" | ").position(|entry| entry.starts_with(&example.answer));
        by_place[place.unwrap()] += 1;
        *by_name.entry(example.answer).or_insert(0) += 1;
    }
    // Five standard deviations of a binomial count of 12,000 draws of one in twelve.
    let even = |count: i32| (count - 1000).abs() < 152;
    assert!(by_name.values().copied().all(even) && by_name.len() == 12, "{by_name:?}");
    assert!(by_place.into_iter().all(even), "{by_place:?}");
}

// ---- Sets ---------------------------------------------------------------------------------------

fn any_task() -> impl Strategy<Value = Task> {
    prop_oneof![
        Just(Task::Arithmetic(Arithmetic { n_operations: 2..=2, ..Arithmetic::default() })),
        Just(Task::Graph(Shape::published(12, 2..=3))),
        Just(Task::Multiply(Multiply { a_digits: 2, b_digits: 2 })),
        Just(Task::Pointer(Pointer { entries: 6, names: 6, hops: 2..=3 })),
        Just(Task::Prosqa(Shape::published(14, 2..=3))),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn nothing_leaks_from_test_to_train(task in any_task(), seed: u64) {
        let test = make(&task, 60, seed);
        let train = generate(&task, 300, seed.wrapping_add(1), &keys(&test)).unwrap();
        let both: Vec<&Example> = test.iter().chain(&train).collect();
        prop_assert_eq!(keys(both.iter().copied()).len(), 360);
        let questions: HashSet<&str> = both.iter().map(|example| example.question.as_str()).collect();
        prop_assert_eq!(questions.len(), 360);
        // The test set's own seed must not bring its examples into train either.
        let same_seed = generate(&task, 60, seed, &keys(&test)).unwrap();
        prop_assert!(keys(&same_seed).is_disjoint(&keys(&test)));
    }

    #[test]
    fn seeds_repeat(task in any_task(), seed: u64) {
        let once = make(&task, 10, seed);
        prop_assert_eq!(&once, &make(&task, 10, seed));
        prop_assert_ne!(&once, &make(&task, 10, seed.wrapping_add(1)));
        prop_assert_eq!(&once[..5], &make(&task, 5, seed)[..]);
    }

    #[test]
    fn every_task_survives_its_tokenizer(task in any_task(), seed: u64) {
        let set = make(&task, 50, seed);
        let units = match task {
            Task::Prosqa(_) => Units::Words,
            _ => Units::for_symbols(&set),
        };
        let tokenizer = Tokenizer::build(&set, units, Path::new("built")).unwrap();
        let (encoded, found) = encode_texts(&set, &tokenizer).unwrap();
        prop_assert_eq!(found.warnings(), Vec::<String>::new());
        for (encoded, example) in encoded.iter().zip(&set) {
            let Encoded::Text(text) = encoded else { panic!("a text") };
            let question = tokenizer.decode(&text.question).unwrap();
            prop_assert_eq!(question.trim_end(), &example.question);
            let spoken = [text.steps.concat(), text.answer.clone()].concat();
            let expected: String = example.steps.iter().map(|step| format!("{step}\n")).collect();
            prop_assert_eq!(tokenizer.decode(&spoken).unwrap(), format!("{expected}### {}", example.answer));
        }
    }
}

#[test]
fn key_of_a_graph_ignores_order_and_words() {
    let example = make(&Task::named("prosqa").unwrap(), 1, 3).remove(0);
    let mut other = Example { question: "in other words".into(), ..example.clone() };
    other.graph.as_mut().unwrap().edges.reverse();
    assert_eq!(key(&example), key(&other));
}

#[test]
fn shapes_that_make_no_sense_are_refused() {
    for (task, words) in [
        (Task::Graph(Shape::published(4, 3..=4)), "nodes must be from 6"),
        (Task::Graph(Shape::published(28, 0..=4)), "steps must be a range from 1"),
        (Task::Prosqa(Shape::published(41, 3..=4)), "names for 40 nodes"),
        (Task::Multiply(Multiply { a_digits: 0, b_digits: 4 }), "1 to 18 digits"),
    ] {
        let message = generate(&task, 1, 0, &HashSet::new()).unwrap_err().to_string();
        assert!(message.contains(words), "{message:?} lacks {words:?}");
    }
}

// ---- Files ------------------------------------------------------------------------------------------

fn any_example() -> impl Strategy<Value = Example> {
    let text = any::<String>;
    (text(), prop::collection::vec(text(), 0..3), text())
        .prop_map(|(question, steps, answer)| Example::new(question, steps, answer))
}

proptest! {
    #[test]
    fn every_layout_of_json_reads_the_same(examples in prop::collection::vec(any_example(), 1..4)) {
        let objects = |write: fn(&Example) -> serde_json::Result<String>| -> Vec<String> {
            examples.iter().map(|example| write(example).unwrap()).collect()
        };
        let compact = objects(serde_json::to_string);
        let pretty = objects(serde_json::to_string_pretty);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("data");
        for text in [
            compact.join("\n"),
            pretty.join("\n"),
            pretty.concat(),
            format!("[{}]", compact.join(",")),
            format!("[\n{}\n]", pretty.join(",\n")),
            format!("{{\"data\": [{}]}}", compact.join(",")),
            format!("{{\n\"n\": 1,\n\"data\": [{}]}}", pretty.join(", ")),
        ] {
            std::fs::write(&path, &text).unwrap();
            let read = read::load(&path, None);
            prop_assert_eq!(read.as_ref().ok(), Some(&examples), "{} of {}", text, read.is_err());
        }
    }
}

// ---- Answers ----------------------------------------------------------------------------------------

proptest! {
    /// Values against whole numbers over a common power of ten, in `i128`.
    #[test]
    fn numbers_are_right_by_value(
        [a, b] in [-2_000_i64..2_000, -2_000..2_000],
        [a_places, b_places] in [0..4_usize, 0..4],
        zeros in 0..3_usize,
    ) {
        let written = |number: i64, places: usize| {
            let digits = format!("{:0>width$}", number.abs(), width = places + 1);
            let (whole, fraction) = digits.split_at(digits.len() - places);
            let sign = if number < 0 { "-" } else { "" };
            let padding = "0".repeat(zeros);
            match places {
                0 => format!("{sign}{padding}{whole}"),
                _ => format!("{sign}{padding}{whole}.{fraction}{padding}"),
            }
        };
        let scaled = |number: i64, places: usize| i128::from(number) * 10_i128.pow(4 - places as u32);
        let equal = scaled(a, a_places) == scaled(b, b_places);
        let (left, right) = (written(a, a_places), written(b, b_places));
        prop_assert_eq!(is_right(Some(&left), &right, None), equal, "{} and {}", left, right);
        let power = format!("{a}e-{a_places}");
        prop_assert_eq!(is_right(Some(&power), &right, None), equal, "{} and {}", power, right);
        let over = format!("{a}/1{}", "0".repeat(a_places));
        prop_assert_eq!(is_right(Some(&over), &right, None), equal, "{} and {}", over, right);
        prop_assert!(is_right(Some(&left), &over, None) && is_right(Some(&power), &over, None));
    }

    /// The answer of every example is right when its own tokens are spoken, whatever it is made of.
    #[test]
    fn spoken_answers_are_right(answer in "[a-c0-9 ,.:$()/%<>='\u{e9}-]{1,12}", words: bool) {
        let units = if words { Units::Words } else { Units::Characters };
        let examples = [Example::new("q", ["s"], answer.trim())];
        let tokenizer = Tokenizer::build(&examples, units, Path::new("built")).unwrap();
        let (encoded, found) = encode_texts(&examples, &tokenizer).unwrap();
        prop_assert_eq!(found.warnings(), Vec::<String>::new());
        let Encoded::Text(text) = &encoded[0] else { panic!("a text") };
        let generated = tokenizer.decode(&[text.steps.concat(), text.answer.clone()].concat()).unwrap();
        let spoken = text.spoken_answer(&tokenizer).unwrap();
        let prediction = read_answer(&generated, "###");
        prop_assert!(is_right(prediction.as_deref(), &examples[0].answer, spoken.as_deref()), "{}", generated);
    }
}

/// Tokenizers of well-known families, which cover every text byte by byte.
fn families() -> Vec<Tokenizer> {
    let load = |name: &str| Tokenizer::load(&crate::fixture("tokenizers").join(name)).unwrap();
    ["gpt2", "qwen", "llama3", "smollm2"].map(load).into()
}

#[test]
fn an_answer_is_right_in_either_form_of_unicode() {
    for tokenizer in families() {
        for (composed, decomposed) in
            [("café", "cafe\u{301}"), ("Å", "\u{212b}"), ("각", "\u{1100}\u{1161}\u{11a8}")]
        {
            let examples = [composed, decomposed].map(|text| Example::new("q", [text], text));
            let (encoded, found) = encode_texts(&examples, &tokenizer).unwrap();
            assert_eq!((found.unreadable, found.unknown), (None, None));
            let texts: Vec<_> = encoded
                .iter()
                .map(|encoded| match encoded {
                    Encoded::Text(text) => text,
                    Encoded::Graph(_) => panic!("a text"),
                })
                .collect();
            for (expected, example) in texts.iter().zip(&examples) {
                for generated in &texts {
                    let ids = [generated.steps.concat(), generated.answer.clone()].concat();
                    let generated = tokenizer.decode(&ids).unwrap();
                    let spoken = expected.spoken_answer(&tokenizer).unwrap();
                    let prediction = read_answer(&generated, "###");
                    assert!(is_right(prediction.as_deref(), &example.answer, spoken.as_deref()));
                    let steps = Text::spoken_steps(&expected.steps, &tokenizer).unwrap().unwrap();
                    assert!(same_steps(&generated, &steps, "###"));
                }
            }
        }
    }
}

proptest! {
    #[test]
    fn byte_tokenizers_have_a_token_for_everything(text: String) {
        for tokenizer in families() {
            let unknown = unknown_in_question(&text, &tokenizer).unwrap();
            prop_assert_eq!(unknown, Vec::<String>::new(), "{}", tokenizer.origin().display());
        }
    }
}

/// A tokenizer may drop what it lacks instead of writing an unknown token.
#[test]
fn characters_that_become_nothing_are_unknown() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tokenizer.json");
    let bpe = serde_json::json!({"version": "1.0", "added_tokens": [], "normalizer": null, "pre_tokenizer": null,
        "post_processor": null, "decoder": null, "truncation": null, "padding": null, "model": {"type": "BPE",
        "vocab": {"</s>": 0, "a": 1, "b": 2, " ": 3, "ab": 4, "#": 5, "\n": 6}, "merges": [["a", "b"]]}});
    std::fs::write(&path, bpe.to_string()).unwrap();
    let tokenizer = Tokenizer::load(&path).unwrap();
    assert_eq!(unknown_in_question("ab xa zz", &tokenizer).unwrap(), ["x", "z"]);
    assert_eq!(unknown_in_question("ab # ba", &tokenizer).unwrap(), [""; 0]);
    let examples = ["ab", "axe", "b"].map(|answer| Example::new("a", ["b"], answer));
    let (_, found) = encode_texts(&examples, &tokenizer).unwrap();
    let unknown = found.unknown.unwrap();
    assert_eq!((unknown.example, unknown.count), (2, 1));
    assert_eq!(unknown.what, "the vocabulary has no token for `x`, `e`");
}
