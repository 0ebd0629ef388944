//! Methods as points of one grid: each trains, goes on where it was stopped, is evaluated and answers; and what does
//! not go together is refused by its key.

use std::{fs, path::Path};

use assert_cmd::assert::OutputAssertExt;
use coconut::{
    config::RunConfig,
    data::{Method, RowKind, Sequence},
    objective::{Objective, StepsAt, Term},
};
use serde_json::{Value, json};

use crate::{
    cli::{losses, rows},
    program::{Place, coconut as program, refused, train},
};

type Keys<'a> = &'a [(&'a str, &'a str)];

/// Keys of the tiny recipe with each method, and more of the grid.
const METHODS: [(&str, &[(&str, &str)]); 9] = [
    ("codi", &[("method", "codi"), ("c_thought", "2"), ("cot_epochs", "0")]),
    ("pccot", &[("method", "pccot"), ("c_thought", "3"), ("iterations", "2")]),
    ("kava", &[("method", "kava"), ("c_thought", "3"), ("recompute", "passes")]),
    ("lotus", &[("method", "lotus"), ("recompute", "passes"), ("uniform_prob", "0.3")]),
    ("lotus, own", &[("method", "lotus"), ("steps_at", "own"), ("recompute", "blocks")]),
    ("icot", &[("method", "icot"), ("removed_per_epoch", "3"), ("remove_all_from", "4")]),
    ("gated", &[("schedule", "gated"), ("gate_accuracy", "0.1"), ("epochs_per_stage", "2")]),
    ("pause, taught", &[("method", "codi"), ("thinking", "none"), ("teacher_last_step", "True")]),
    ("stages, taught", &[("loss_teacher", "0.5"), ("loss_distil", "2"), ("loss_steps", "0.1")]),
];

#[test]
fn every_method_goes_on_from_the_middle_of_an_epoch_as_if_nothing_had_happened() {
    for (name, keys) in METHODS {
        let place = Place::new();
        let more = [("train_examples", "60"), ("save_steps", "2"), ("keep_checkpoints", "0")];
        let recipe = place.recipe(&[keys, &more].concat());
        train(&recipe, &[]).assert().success();
        let expected = (losses(&place.run()), rows(&place.run()));
        assert!(expected.0.len() > 6, "{name}: {} steps", expected.0.len());

        let checkpoints = place.run().join("checkpoints");
        let mut saved: Vec<(u64, std::path::PathBuf)> = fs::read_dir(&checkpoints)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| !path.ends_with("latest"))
            .map(|path| (step_of(&path), path))
            .collect();
        saved.sort();
        let middle = saved.len() / 2;
        for (_, path) in &saved[middle..] {
            fs::remove_dir_all(path).unwrap();
        }
        train(&recipe, &["--resume"]).assert().success();
        let found = (losses(&place.run()), rows(&place.run()));
        assert_eq!(found, expected, "{name}, resumed after step {}", saved[middle - 1].0);

        let newest = checkpoints.join("latest");
        program(["generate"]).arg(&newest).args(["--prompt", "3+4*2"]).assert().success();
        let mut logits = program(["logits"]);
        logits.arg(&newest).args(["--ids", "3,4,5,6", "--json"]).assert().success();
    }
}

fn step_of(checkpoint: &Path) -> u64 {
    let text = fs::read_to_string(checkpoint.join("trainer.json")).unwrap();
    serde_json::from_str::<Value>(&text).unwrap()["step"].as_u64().unwrap()
}

/// A gate of 0 lets every stage pass after one epoch; one that is never reached gives each its epochs and says so.
#[test]
fn a_gate_moves_the_run_on() {
    let stages = |gate: &str| {
        let place = Place::new();
        let keys = [
            ("schedule", "gated"),
            ("gate_accuracy", gate),
            ("epochs_per_stage", "2"),
            ("num_epochs", "9"),
            ("cot_epochs", "1"),
            ("eval_at", "epoch"),
            ("train_examples", "40"),
        ];
        let output = train(&place.recipe(&keys), &[]).output().unwrap();
        assert!(output.status.success());
        let found: Vec<i64> =
            rows(&place.run()).iter().map(|row| row["stage"].as_i64().unwrap()).collect();
        (found, String::from_utf8(output.stderr).unwrap())
    };
    let (open, said) = stages("0");
    assert_eq!(open, [-1, 0, 1, 2, 3]);
    assert!(!said.contains("below its gate"), "{said}");
    let (shut, said) = stages("1");
    assert_eq!(shut, [-1, 0, 0, 1, 1, 2, 2, 3, 3]);
    assert!(said.contains("stage 1 is left after 2 epochs with an accuracy of"), "{said}");
}

/// A gate that never opens is stage 0 for good.
#[test]
fn a_gate_that_never_opens_is_stage_0() {
    let losses_of = |keys: &[(&str, &str)]| {
        let place = Place::new();
        let shared = [("cot_epochs", "0"), ("num_epochs", "3"), ("train_examples", "40")];
        train(&place.recipe(&[&shared, keys].concat()), &[]).assert().success();
        losses(&place.run())
    };
    let gated =
        [("schedule", "gated"), ("gate_accuracy", "1"), ("epochs_per_stage", "9")].as_slice();
    assert_eq!(losses_of(gated), losses_of(&[("epochs_per_stage", "9")]));
}

#[test]
fn what_does_not_go_together_is_refused_by_its_key() {
    let cases: [(Keys, &[&str]); 23] = [
        (&[("method", "kava"), ("row", "stages")], &["`loss_kv`", "row: stages"]),
        (&[("method", "kava"), ("c_thought", "0")], &["`loss_kv`", "c_thought"]),
        (&[("method", "kava"), ("task", "graph")], &["`loss_kv`", "graphs"]),
        (&[("method", "kava"), ("kv_importance", "1.5")], &["`kv_importance`", "1.5"]),
        (&[("method", "kava"), ("kv_distance", "l3")], &["`kv_distance`"]),
        (&[("method", "cot"), ("thinking", "parallel")], &["`thinking`", "hold no latents"]),
        (&[("method", "icot"), ("schedule", "clock")], &["`schedule`", "tokenwise"]),
        (&[("schedule", "tokenwise")], &["`schedule`", "row: stages"]),
        (&[("method", "codi"), ("loss_steps", "1")], &["`loss_steps`", "row: fixed"]),
        (&[("method", "no_cot"), ("loss_steps", "1")], &["`loss_steps`", "no_cot"]),
        (&[("loss_steps", "-1")], &["`loss_steps`", "-1"]),
        (&[("loss_distil", "-0.5")], &["`loss_distil`", "-0.5"]),
        (&[("loss_teacher", "-1")], &["`loss_teacher`"]),
        (&[("steps_at", "own")], &["`steps_at`", "thinking: parallel"]),
        (
            &[("method", "lotus"), ("steps_at", "own"), ("iterations", "2")],
            &["`steps_at`", "stage"],
        ),
        (&[("thinking", "parallel"), ("compat", "replication")], &["`compat`"]),
        (&[("thinking", "parallel"), ("latent_positions", "learned")], &["`latent_positions`"]),
        (&[("thinking", "parallel"), ("n_detached_recursions", "1")], &["`n_detached_recursions`"]),
        (&[("iterations", "-1")], &["`iterations`", "stage"]),
        (&[("latent_shift", "2")], &["`latent_shift`", "0 or 1"]),
        (&[("gate_accuracy", "1.5")], &["`gate_accuracy`", "1.5"]),
        (&[("row", "diagonal")], &["`row`", "diagonal"]),
        (&[("replacement_method", "mlp[0](hs[-1])")], &["replacement_method", "a width"]),
    ];
    for (keys, words) in cases {
        let place = Place::new();
        refused(train(&place.recipe(keys), &[]), words);
        assert!(!place.run().exists(), "{keys:?}");
    }
}

#[test]
fn data_that_a_loss_cannot_use_is_refused_or_told_of() {
    let data = |steps: &[&[&str]]| {
        let example = |steps: &&[&str]| serde_json::json!({"question": "1 + 1", "steps": steps, "answer": "2"});
        Value::from(steps.iter().map(example).collect::<Vec<_>>()).to_string()
    };
    let place = Place::new();
    let one = place.file("one.json", &data(&[&["a b"], &[]]));
    let codi = [("method", "codi"), ("name", "r"), ("num_epochs", "1"), ("c_thought", "2")];
    refused(train(&place.recipe_of_data(&one, &codi), &[]), &["one.json", "two steps"]);
    let some = place.file("some.json", &data(&[&["a b"], &["a", "b c"]]));
    let output = train(&place.recipe_of_data(&some, &codi), &[]).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success() && said.contains("1 of 2 examples have fewer"), "{said}");

    let lotus = [("method", "lotus"), ("name", "l"), ("num_epochs", "1"), ("c_thought", "2")];
    let long = place.file("long.json", &data(&[&["a b c d"], &["a"]]));
    let output = train(&place.recipe_of_data(&long, &lotus), &[]).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success() && said.contains("1 of 2 steps have more tokens"), "{said}");
    let short = [lotus.as_slice(), &[("n_positions", "8")]].concat();
    refused(train(&place.recipe_of_data(&long, &short), &["--overwrite"]), &["example 1", "8"]);
}

/// A gated run that passes early is evaluated all the same, at the stages and in the contexts that it comes to.
#[test]
fn a_gate_that_is_passed_early_is_evaluated_and_fits() {
    for eval_at in ["epoch", "stage", "end"] {
        let place = Place::new();
        let keys = [
            ("schedule", "gated"),
            ("gate_accuracy", "0"),
            ("c_thought", "10"),
            ("cot_epochs", "0"),
            ("epochs_per_stage", "5"),
            ("num_epochs", "6"),
            ("train_examples", "40"),
            ("eval_at", eval_at),
        ];
        train(&place.recipe(&keys), &[]).assert().success();
        let stages: Vec<i64> =
            rows(&place.run()).iter().map(|row| row["stage"].as_i64().unwrap()).collect();
        let expected: &[i64] = if eval_at == "end" { &[3] } else { &[0, 1, 2, 3] };
        assert_eq!(stages, expected, "{eval_at}");
    }
    // A method of one stage has nothing to pass on to, and ends when its gate is reached or its epochs are over.
    let place = Place::new();
    let keys =
        [("method", "cot"), ("schedule", "gated"), ("num_epochs", "3"), ("train_examples", "40")];
    train(&place.recipe(&keys), &[]).assert().success();
    assert_eq!(losses(&place.run()).len(), 6, "two steps in each of three epochs");
}

/// What is left of the steps goes at once; the dry run shows the stages that the run goes through.
#[test]
fn tokenwise_rows_end_without_steps() {
    let place = Place::new();
    let keys = [
        ("method", "icot"),
        ("removed_per_epoch", "5"),
        ("remove_all_from", "3"),
        ("removal_smoothing", "0"),
        ("cot_epochs", "0"),
        ("train_examples", "100"),
    ];
    let output = train(&place.recipe(&keys), &["--dry-run"]).output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    let (first, last) = said.split_once("# stage 3: epochs 2 to 5").expect(&said);
    assert!(first.contains("# stage 0: epoch 1, which ends at stage 3"), "{said}");
    let tokens = last.lines().find(|line| line.contains("tokens")).unwrap();
    let after = tokens.split("\\n").nth(1).unwrap();
    assert!(after.trim_start().starts_with("###"), "{tokens}");
}

/// A baseline is what its name stands for, and is refused as the same recipe would be.
#[test]
fn baselines_are_methods_of_their_own() {
    let config = |keys: Value| {
        let Value::Object(keys) = keys else { panic!("keys") };
        RunConfig::from_keys(keys, &[], "test").unwrap()
    };
    let coconut = config(json!({"task": "arithmetic", "c_thought": 3}));
    let lotus = coconut.with_method(Method::Lotus).unwrap();
    assert_eq!(
        (lotus.c_thought, lotus.max_latent_stage),
        (3, 6),
        "the recipe's own c_thought stays"
    );
    let codi = config(json!({"task": "arithmetic"})).with_method(Method::Codi).unwrap();
    assert_eq!(codi.replacement_method.to_string(), "ln(mlp[1](hs[-1]))");
    assert_eq!((codi.c_thought, codi.loss_distil), (6, 1.0));
    let back = config(json!({"task": "arithmetic", "method": "codi"}));
    let back = back.with_method(Method::Coconut).unwrap();
    assert_eq!(back.replacement_method.to_string(), "hs[-1]");
    assert_eq!((back.c_thought, back.loss_distil, back.loss_teacher), (1, 0.0, 0.0));
    let icot = config(json!({"task": "arithmetic", "method": "icot"}));
    assert_eq!(icot.with_method(Method::Pause).unwrap().row, RowKind::Stages);

    let refusals: [(Keys, &[&str]); 4] = [
        (&[("task", "graph"), ("baselines", "[lotus]")], &["`baselines`", "lotus", "loss_steps"]),
        (&[("compat", "replication"), ("baselines", "[lotus]")], &["`baselines`", "compat"]),
        (&[("c_thought", "0"), ("baselines", "[lotus]")], &["`baselines`", "no latents"]),
        (&[("operations", "[1, 1]"), ("baselines", "[codi]")], &["two steps"]),
    ];
    for (keys, words) in refusals {
        let place = Place::new();
        let mut keys = keys.to_vec();
        if keys[0].1 == "graph" {
            let of_chains = ["operands", "operations", "modulus", "value_steps"];
            keys.extend(of_chains.map(|key| (key, "")));
        }
        refused(train(&place.recipe(&keys), &[]), words);
        assert!(!place.run().exists(), "{keys:?}");
    }
}

/// Rows of other stages than the epoch's are thought about as often as they have blocks.
#[test]
fn drawn_stages_have_their_iterations() {
    let place = Place::new();
    let keys = [
        ("method", "lotus"),
        ("uniform_prob", "1"),
        ("steps_at", "own"),
        ("cot_epochs", "0"),
        ("num_epochs", "1"),
        ("train_examples", "60"),
    ];
    train(&place.recipe(&keys), &[]).assert().success();
    let text = fs::read_to_string(place.run().join("metrics.jsonl")).unwrap();
    let steps = text.lines().filter(|line| line.contains("loss_steps"));
    let losses: Vec<f64> = steps
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["loss_steps"].as_f64().unwrap())
        .collect();
    // A batch may hold rows of stage 0 alone, which have nothing to say.
    assert!(losses.iter().filter(|&&loss| loss > 0.5).count() >= 2, "{losses:?}");
}

/// Keys that say nothing beside the others are told of.
#[test]
fn idle_keys_are_told_of() {
    let keys = json!({"task": "arithmetic", "iterations": 2, "gate_accuracy": 0.5, "teacher_last_step": true});
    let Value::Object(keys) = keys else { panic!("keys") };
    let unused = RunConfig::from_keys(keys, &[], "test").unwrap().unused();
    assert_eq!(unused.len(), 3, "{unused:?}");
    let presets =
        ["coconut", "cot", "pause", "codi", "pccot", "kava", "lotus", "icot", "no_curriculum"];
    for method in presets {
        let Value::Object(keys) = json!({"task": "arithmetic", "method": method}) else {
            panic!("keys")
        };
        let unused = RunConfig::from_keys(keys, &[], "test").unwrap().unused();
        assert!(unused.is_empty(), "{method}: {unused:?}");
    }
}

/// By hand: steps of five and two tokens, blocks of three latents from position 3 on, `bot` at position 2.
#[test]
fn long_steps_are_cut_or_run_on() {
    let row = Sequence {
        ids: vec![0; 12],
        labels: vec![None; 12],
        n_latents: 6,
        latent_start: 3,
        prompt_len: 10,
        replaced: vec![vec![1, 2, 3, 4, 5], vec![6, 7, 8, 9, 10]],
        anchor: 0,
    };
    let targets = |cut| {
        let steps = Term::Steps { weight: 1.0, at: StepsAt::Last, cut };
        let (targets, lost) = Objective { terms: vec![steps] }.step_targets(&row, 3);
        let said = targets.iter().map(|target| (target.position, target.token));
        (said.collect::<Vec<_>>(), lost)
    };
    let (cut, lost) = targets(true);
    assert_eq!(cut, [(2, 1), (3, 2), (4, 3), (5, 6), (6, 7), (7, 8)]);
    assert_eq!(lost, 0);
    let (whole, lost) = targets(false);
    let on = [(2, 1), (3, 2), (4, 3), (5, 4), (6, 5), (5, 6), (6, 7), (7, 8), (8, 9)];
    assert_eq!(whole, on);
    assert_eq!(lost, 1, "position 9 is no latent's");
}
