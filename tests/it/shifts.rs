//! Shifted tasks and trivial rules, as a user meets them.

use std::collections::HashSet;

use assert_cmd::assert::OutputAssertExt;
use coconut::{
    config::RunConfig,
    data::{
        Graph, read,
        shortcuts::Shortcuts,
        tasks::{
            Task,
            dag::{Kind, Shape},
            generate, keys,
            pointer::Pointer,
            shift::Shift,
        },
    },
};
use serde_json::{Map, Value, json};

use crate::program::{Place, coconut, refused};

/// The task that a recipe of these keys trains.
fn task(name: &str, overrides: &[String]) -> Task {
    let keys = Map::from_iter([("task".to_owned(), Value::String(name.into()))]);
    RunConfig::from_keys(keys, overrides, "test").unwrap().task().unwrap().unwrap()
}

#[test]
fn the_printed_setting_makes_the_shift() {
    for name in Task::NAMES {
        let overrides: &[String] = match name {
            "pointer" => &["names=18".into()],
            _ => &[],
        };
        let trained = task(name, overrides);
        for shift in Shift::of(&trained) {
            let (shifted, setting) = shift.apply(&trained).unwrap();
            let set = [overrides, &[setting.replacen(": ", "=", 1)]].concat();
            assert_eq!(task(name, &set), shifted, "{name} {setting}");
            assert_ne!(shifted, trained);
            let examples = generate(&shifted, 20, 0, &HashSet::new()).unwrap();
            let steps: HashSet<usize> = examples.iter().map(|e| e.steps.len()).collect();
            if *shift == Shift::Longer && name != "multiply" {
                let before = generate(&trained, 200, 0, &HashSet::new()).unwrap();
                let most = before.iter().map(|e| e.steps.len()).max().unwrap();
                assert!(steps.iter().all(|n| (most + 1..=most + 2).contains(n)), "{steps:?}");
            }
        }
    }
}

#[test]
fn shifts_that_cannot_be_are_refused() {
    let refusal = |shift: Shift, task: &Task| shift.apply(task).unwrap_err();
    let prosqa = Task::named("prosqa").unwrap();
    let problem = refusal(Shift::Permuted, &prosqa);
    assert_eq!(problem, "has no shift `permuted`, only longer, tree, dag, denser");
    let pointer = Task::Pointer(Pointer::default());
    assert!(refusal(Shift::Larger, &pointer).contains("knows 12 names, too few for 18 entries"));
    let tree = Task::Graph(Shape { kind: Kind::Tree, ..Shape::published(16, 2..=6) });
    assert!(refusal(Shift::Tree, &tree).contains("has this setting already (`graph_kind: tree`)"));
}

fn parents(graph: &Graph) -> Vec<usize> {
    let n_parents = |node| graph.edges.iter().filter(|edge| edge[1] == node).count();
    (0..graph.n_nodes()).map(n_parents).collect()
}

#[test]
fn kinds_of_graphs_have_the_parents_that_they_promise() {
    let graphs = |shape: Shape| -> Vec<Graph> {
        let set = generate(&Task::Graph(shape), 300, 1, &HashSet::new()).unwrap();
        set.into_iter().filter_map(|example| example.graph).collect()
    };
    let plain = Shape::published(20, 2..=5);
    let edges = |graphs: &[Graph]| {
        graphs.iter().map(|graph| graph.edges.len()).sum::<usize>() as f64 / graphs.len() as f64
    };

    let tree = graphs(Shape { kind: Kind::Tree, ..plain.clone() });
    for graph in &tree {
        let mut parents = parents(graph);
        parents.sort_unstable();
        assert_eq!(parents[..2], [0, 0], "two roots");
        assert!(parents[2..].iter().all(|&n| n == 1), "{parents:?}");
    }
    let dag = graphs(Shape { kind: Kind::Dag, ..plain.clone() });
    let counts: Vec<usize> = dag.iter().flat_map(parents).collect();
    let (none, one) = (0, 1);
    let share = |n| counts.iter().filter(|&&count| count == n).count() as f64 / counts.len() as f64;
    // The two roots alone have none; one parent have those that came when a family had no second node.
    assert_eq!(share(none), 2.0 / 20.0);
    assert!(share(one) < 0.15, "{}", share(one));

    let published = graphs(plain.clone());
    let denser = graphs(Shape { mean_parents: 2.5, ..plain.clone() });
    assert!(edges(&denser) > edges(&published) + 8.0);

    // Unpermuted, every edge leads to a larger number; permuted, half of them.
    let permuted = graphs(Shape { permuted: true, ..plain });
    let upwards = |graphs: &[Graph]| {
        let edges: Vec<_> = graphs.iter().flat_map(|graph| &graph.edges).collect();
        edges.iter().filter(|edge| edge[0] < edge[1]).count() as f64 / edges.len() as f64
    };
    assert_eq!(upwards(&published), 1.0);
    assert!((upwards(&permuted) - 0.5).abs() < 0.03);
    for graph in &permuted {
        let given: Vec<_> = graph.neighbor_k.values().cloned().collect();
        assert_eq!(given, graph.shortest_path_layers().unwrap());
        assert!(graph.frontier_layers().iter().all(|layer| !layer.contains(&graph.neg_target)));
    }
}

#[test]
fn steps_of_graphs_are_nodes_or_edges() {
    let set = |edge_steps| {
        let shape = Shape { edge_steps, ..Shape::published(16, 2..=4) };
        generate(&Task::Graph(shape), 50, 1, &HashSet::new()).unwrap()
    };
    for (nodes, edges) in set(false).into_iter().zip(set(true)) {
        assert_eq!((&nodes.graph, &nodes.question), (&edges.graph, &edges.question));
        let mut here = nodes.graph.as_ref().unwrap().root.to_string();
        for (node, edge) in nodes.steps.into_iter().zip(&edges.steps) {
            assert_eq!(*edge, format!("{here} {node}"));
            assert!(edges.question.contains(edge.as_str()));
            here = node;
        }
        assert_eq!(here, edges.answer);
    }
}

/// Whoever trains on pointers or permuted graphs cannot answer by name, number or order.
#[test]
fn trivial_rules_are_at_chance_by_construction() {
    let of =
        |task: &Task| Shortcuts::of(&generate(task, 4000, 1, &HashSet::new()).unwrap()).unwrap();
    let pointer = of(&Task::named("pointer").unwrap());
    assert_eq!((pointer.chance * 11.0 * 1e9).round(), 1e9, "one of eleven names");
    // Two hops or more never end one hop away.
    assert!(pointer.rules.iter().all(|rule| rule.accuracy < pointer.chance + 0.03), "{pointer:#?}");
    assert_eq!(pointer.warning(), None);

    let shape = Shape::published(28, 3..=4);
    let by = |shortcuts: &Shortcuts, words: &str| {
        let found = shortcuts.rules.iter().find(|rule| rule.answer.contains(words));
        found.unwrap().accuracy
    };
    let (plain, permuted) =
        (of(&Task::Graph(shape.clone())), of(&Task::Graph(Shape { permuted: true, ..shape })));
    for words in ["number", "more often", "named"] {
        assert!(by(&permuted, words) < 0.53, "{words}: {permuted:#?}");
    }
    assert!(by(&plain, "larger number") > 0.55);
}

#[test]
fn a_test_set_is_made_from_a_recipe_with_one_shift() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let (recipe, output) = (path("recipe.yaml"), path("out.json"));
    let text = "task: arithmetic\noperands: [0, 2]\noperators: \"+\"\noperations: [1, 2]\nmodulus: 5\nvalue_steps: True\ntrain_examples: 20\nval_examples: 5\nseed: 3\n";
    std::fs::write(&recipe, text).unwrap();
    let run = RunConfig::load(recipe.as_ref(), &[]).unwrap();
    let [train, val] = coconut::config::resolved::Examples::of(&run).unwrap();
    let val = val.load(&[]).unwrap();
    let train = train.load(&val).unwrap();

    // Of 36 chains, 20 are trained on; the others can be had, and no more.
    let generate = |more: &[&str]| {
        let mut command = coconut(["data", "generate", &recipe, "-o", &output, "--json"]);
        let assert = command.args(more).assert();
        let made: Value = serde_json::from_slice(&assert.get_output().stdout).unwrap_or_default();
        (made, String::from_utf8_lossy(&assert.get_output().stderr).into_owned())
    };
    let (made, _) = generate(&["-n", "16"]);
    assert_eq!((&made["examples"], &made["shift"]), (&json!(16), &json!(null)));
    let examples = read::load(output.as_ref(), None).unwrap();
    assert!(keys(&examples).is_disjoint(&keys(&train)));
    assert!(generate(&["-n", "17"]).1.contains("16 were found"));

    let (made, warning) = generate(&["-n", "50", "--shift", "longer"]);
    assert_eq!(made["shift"], json!("operations: [3, 4]"));
    let examples = read::load(output.as_ref(), None).unwrap();
    // The recipe's other settings hold.
    assert!(examples.iter().all(|e| matches!(e.steps.len(), 3 | 4) && e.steps[0].len() == 1));
    let rules = made["shortcuts"]["rules"].as_array().unwrap();
    assert!(rules.iter().any(|rule| rule["answer"] == "the last number"), "{rules:?}");
    assert_eq!(warning, "", "what is printed as JSON warns there");

    for (source, words) in [("poinetr", "neither a task (arithmetic, graph,"), ("graph", "")] {
        let mut command = coconut(["data", "generate", source, "-n", "3", "-o", &output]);
        let said = command.args(["--shift", "operands"]).assert().failure().code(2);
        let said = String::from_utf8_lossy(&said.get_output().stderr).into_owned();
        let refused = "--shift operands: the task graph has no shift `operands`, only longer, tree";
        assert!(said.contains(if words.is_empty() { refused } else { words }), "{said}");
    }
}

#[test]
fn generating_shows_what_trivial_rules_get_right() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("g.json").display().to_string();
    let mut command = coconut(["data", "generate", "graph", "-n", "500", "-o", &output]);
    let made = command.assert().success();
    let shown = String::from_utf8_lossy(&made.get_output().stdout).into_owned();
    assert!(shown.lines().all(|line| line.chars().count() <= 100), "{shown}");
    assert!(
        shown.contains("the candidate with fewer edges") && shown.contains("chance"),
        "{shown}"
    );
    let warned = String::from_utf8_lossy(&made.get_output().stderr).into_owned();
    assert!(warned.contains("right more often than chance (50.0 %)"), "{warned}");

    let stats = coconut(["data", "stats", &output]).assert().success();
    let stats: Value = serde_json::from_slice(&stats.get_output().stdout).unwrap();
    let best = &stats["shortcuts"]["rules"][0];
    assert_eq!(best["above_chance"], true, "{stats}");
}

#[test]
fn a_shortcut_beyond_what_is_allowed_is_refused() {
    let place = Place::new();
    let output = place.path("graph.json");
    let generate = |task: &str, points: &str| {
        let mut command = coconut(["data", "generate", task, "-n", "300", "-o"]);
        command.arg(&output).arg(format!("--max-shortcut={points}"));
        command
    };
    // The nearer candidate is the target in most graphs.
    let rule = "the candidate nearer to the root, edges taken both ways";
    refused(
        generate("graph", "5"),
        &["graph.json is not written", "--max-shortcut 5", "chance (50.0 %)", rule],
    );
    assert!(!output.exists());
    // What was there before stays.
    std::fs::write(&output, "mine").unwrap();
    refused(generate("graph", "20"), &[rule]);
    assert_eq!(std::fs::read_to_string(&output).unwrap(), "mine");
    generate("graph", "100").assert().success();
    assert_eq!(read::load(&output, None).unwrap().len(), 300);
    generate("pointer", "5").assert().success();
    let wrong = generate("graph", "-1").assert().code(2);
    let told = String::from_utf8(wrong.get_output().stderr.clone()).unwrap();
    assert!(told.contains("0 to 100"), "{told}");
}

/// Steps from the root to a node where edges are taken both ways, by spreading along the edges until nothing is new.
fn steps_both_ways(graph: &Graph, node: usize) -> usize {
    let mut reached = std::collections::BTreeSet::from([graph.root]);
    for steps in 0.. {
        if reached.contains(&node) {
            return steps;
        }
        let before = reached.clone();
        for [from, to] in &graph.edges {
            if before.contains(from) {
                reached.insert(*to);
            }
            if before.contains(to) {
                reached.insert(*from);
            }
        }
        if reached == before {
            break;
        }
    }
    usize::MAX
}

#[test]
fn only_questions_that_mislead_a_rule() {
    let place = Place::new();
    let output = place.path("misled.json");
    let generate = |n: &str, rule: &str, settings: &[&str]| {
        let mut command =
            coconut(["data", "generate", "graph", "-n", n, "--misled-by", rule, "-o"]);
        command.arg(&output).args(settings);
        command
    };
    // Who goes for the nearer candidate is wrong each time, so that the opposite is right each time.
    let made = generate("40", "nearer", &[]).assert().success();
    let shown = String::from_utf8_lossy(&made.get_output().stdout).into_owned();
    assert!(
        shown.contains("the candidate farther from the root, edges taken both ways  100.0"),
        "{shown}"
    );
    let examples = read::load(&output, None).unwrap();
    assert_eq!((examples.len(), keys(&examples).len()), (40, 40));
    for graph in examples.iter().map(|example| example.graph.as_ref().unwrap()) {
        let [target, other] =
            [graph.target, graph.neg_target].map(|node| steps_both_ways(graph, node));
        assert!(other < target, "{graph:?}");
    }

    refused(
        generate("2", "nearest", &[]),
        &["the rule `nearest`: no rule has these words", "more ancestors"],
    );
    // In a tree only descendants of the root are connected with it.
    refused(
        generate("2", "nearer", &["-s", "graph_kind=tree"]),
        &["the rule `nearer` is wrong on 0 of 10000 examples, and 2 were asked for"],
    );
}
