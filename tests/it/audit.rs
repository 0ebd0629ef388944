//! What an audit counts, and over what; how it goes on, and what it refuses.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use assert_cmd::assert::OutputAssertExt;
use coconut::{
    audit::{Intervention, ModelRecord, Record, Role, With, lens::LensReading, over_seeds},
    eval::{Continuation, log_probs},
    latent::{self, Batch, PassPlan, Places, ReadSet, batch::Row},
    model::Transformer,
    objective, report,
    stats::{Paired, Rate, holm},
};
use serde_json::{Value, json};

use crate::{
    device,
    program::{Place, coconut, interrupted, refused, train, wait_until},
    torch::{fixtures, thinking},
};

/// Chains of one, two and three operations, so that rows have one to three steps and two latents each of them.
fn trained(method: &str) -> (Place, PathBuf, PathBuf) {
    let place = Place::new();
    let keys = [
        ("method", method),
        ("operations", "[1, 3]"),
        ("max_latent_stage", "3"),
        ("num_epochs", "6"),
        ("lr", "1e-2"),
    ];
    train(&place.recipe(&keys), &[]).assert().success();
    let data = place.path("test.json");
    let mut make = coconut(["data", "generate", "arithmetic", "-n", "60", "-o"]);
    make.arg(&data).args(["-s", "operations=[1,3]", "-s", "value_steps=True", "-s", "modulus=10"]);
    make.assert().success();
    let checkpoint = place.run().join("checkpoints/latest");
    (place, checkpoint, data)
}

fn command(checkpoint: &Path, data: &Path, folder: &Path) -> Command {
    let mut command = coconut(["audit"]);
    command.arg(checkpoint).arg("--data").arg(data).arg("-o").arg(folder);
    command
}

fn read(folder: &Path) -> Record {
    report::audit::read(folder).unwrap().unwrap()
}

/// Numbers of steps, by example.
fn steps(data: &Path) -> Vec<usize> {
    let examples: Value = serde_json::from_slice(&fs::read(data).unwrap()).unwrap();
    examples.as_array().unwrap().iter().map(|e| e["steps"].as_array().unwrap().len()).collect()
}

/// Rule 1: the denominator is the rows that were really edited.
#[test]
fn every_rate_is_over_the_rows_that_have_the_thought() {
    let (place, checkpoint, data) = trained("coconut");
    let folder = place.path("audit");
    command(&checkpoint, &data, &folder).assert().success();
    let record = read(&folder);
    let model = &record.models[0];
    let steps = steps(&data);
    let with_at_least = |thoughts: usize| steps.iter().filter(|&&n| 2 * n >= thoughts).count();
    assert!(with_at_least(5) < with_at_least(3) && with_at_least(3) < 60, "{steps:?}");
    assert_eq!((model.plain.n, model.thoughts), (60, 6));
    for cell in &model.cells {
        let Intervention::Edit { with, places } = cell.intervention else {
            assert_eq!(cell.right.n, 60, "{}", cell.intervention);
            continue;
        };
        let n = match (with, places) {
            (_, Places::Question | Places::All | Places::First(_) | Places::Last(_)) => 60,
            (With::Zero | With::Noise(_) | With::Random | With::Mean, Places::One(at)) => {
                with_at_least(at + 1)
            }
            // A donor must be found.
            (_, Places::One(at)) => {
                assert!(cell.right.n <= with_at_least(at + 1));
                cell.right.n
            }
        };
        assert!(
            cell.right.n == n || with.has_donor(),
            "{}: {} {n}",
            cell.intervention,
            cell.right.n
        );
        assert_eq!(cell.plain.n, cell.right.n, "held against the same questions");
        assert_eq!(cell.changed.n, cell.right.n);
    }
    // Each line of the file has the rows that were touched, and what became of them; figures follow from them.
    let effects = fs::read_to_string(folder.join("effects.jsonl")).unwrap();
    let effects: Vec<Value> =
        effects.lines().skip(1).map(|l| serde_json::from_str(l).unwrap()).collect();
    let plain: BTreeMap<String, Rate> =
        model.cells.iter().map(|cell| (cell.intervention.to_string(), cell.right)).collect();
    for line in &effects {
        let effect = &line["effect"];
        let touched = effect["touched"].as_array().unwrap();
        let hits = touched.iter().filter(|of| of["correct"] == true).count();
        let Some(rate) = plain.get(effect["intervention"].as_str().unwrap()) else {
            assert!(touched.is_empty());
            continue;
        };
        assert_eq!(*rate, Rate { hits, n: touched.len() });
    }
    // Rule 5: p is McNemar's, corrected over the table.
    let p: Vec<f64> = model.cells.iter().map(|cell| cell.p).collect();
    let corrected: Vec<f64> = model.cells.iter().map(|cell| cell.p_holm).collect();
    assert_eq!(holm(&p), corrected);
    // Rule 2: a positive control stands first.
    assert!(model.cells[0].intervention.is_control());
    let table = fs::read_to_string(folder.join("audit.md")).unwrap();
    assert!(table.contains("| intervention | n |") && table.contains("| zero@5 |"), "{table}");
}

#[test]
fn a_stopped_audit_goes_on_and_finds_the_same() {
    let (place, checkpoint, data) = trained("coconut");
    let folder = place.path("audit");
    command(&checkpoint, &data, &folder).assert().success();
    let whole = read(&folder);
    // Cut in the middle of a line, as by a kill.
    let path = folder.join("effects.jsonl");
    let effects = fs::read(&path).unwrap();
    fs::write(&path, &effects[..effects.len() / 2]).unwrap();
    fs::remove_file(folder.join("audit.json")).unwrap();
    command(&checkpoint, &data, &folder).assert().success();
    assert_eq!(read(&folder), whole);
    // In batches of another size the answers are the same.
    let other = place.path("other");
    command(&checkpoint, &data, &other).arg("--batch-size=7").assert().success();
    for (a, b) in read(&other).models[0].cells.iter().zip(&whole.models[0].cells) {
        assert_eq!(
            (a.right, a.changed, a.follows),
            (b.right, b.changed, b.follows),
            "{}",
            a.intervention
        );
    }
    // Another audit in its place is refused, and asked for, made.
    let mut another = command(&checkpoint, &data, &folder);
    another.arg("--noise=2");
    refused(another, &["audit", "other settings", "--overwrite"]);
    command(&checkpoint, &data, &folder).args(["--noise=2", "--overwrite"]).assert().success();
    assert!(read(&folder).models[0].cells[0].intervention == Intervention::control(2.0));
}

/// Ctrl-C leaves what was finished, and the same command goes on from there.
#[cfg(unix)]
#[test]
fn an_interrupted_audit_goes_on_and_finds_the_same() {
    let (place, checkpoint, data) = trained("coconut");
    let whole = place.path("whole");
    let slowly = |folder: &Path| {
        let mut audit = command(&checkpoint, &data, folder);
        audit.args(["--batch-size=1", "--shuffles=9"]);
        audit
    };
    slowly(&whole).assert().success();

    let folder = place.path("audit");
    let effects = folder.join("effects.jsonl");
    let lines = |path: &Path| -> Vec<String> {
        fs::read_to_string(path).unwrap_or_default().lines().map(str::to_owned).collect()
    };
    let mut audit = slowly(&folder);
    let child = audit.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    wait_until("4 effects", || lines(&effects).len() >= 5);
    let told = interrupted(child);
    assert!(told.contains("What was found is kept"), "{told}");
    assert!(!folder.join("audit.json").exists());
    let (kept, all) = (lines(&effects), lines(&whole.join("effects.jsonl")));
    assert!(kept.len() < all.len(), "it was not left");
    assert_eq!(kept, all[..kept.len()]);

    slowly(&folder).assert().success();
    let found = read(&folder);
    assert_eq!(found, read(&whole));
    // What was finished is not done again: another finding in its place is what is counted.
    let (right, wrong) = ("\"correct\":true", "\"correct\":false");
    let forged = match all[1].contains(right) {
        true => all.join("\n").replacen(right, wrong, 1),
        false => all.join("\n").replacen(wrong, right, 1),
    };
    fs::write(&effects, forged).unwrap();
    slowly(&folder).assert().success();
    assert_ne!(read(&folder).models[0].cells[0].right, found.models[0].cells[0].right);
}

#[test]
fn controls_stand_beside_the_model() {
    let (place, checkpoint, data) = trained("coconut");
    let (pause_place, pause, _) = trained("pause");
    let folder = place.path("audit");
    let mut audit = command(&checkpoint, &data, &folder);
    audit.arg("--control").arg(&pause).args(["--control", "untrained", "--only=zero@all,mean@1"]);
    let printed = audit.assert().success();
    let printed = String::from_utf8(printed.get_output().stdout.clone()).unwrap();
    assert!(printed.lines().all(|line| line.chars().count() <= 100), "{printed}");
    let record = read(&folder);
    let of = |model: &ModelRecord| (model.role, model.method.clone(), model.cells.len());
    let found: Vec<_> = record.models.iter().map(of).collect();
    let expected =
        [(Role::Audited, "coconut"), (Role::Control, "pause"), (Role::Control, "untrained")];
    assert_eq!(found, expected.map(|(role, method)| (role, method.to_owned(), 3)));
    // Rule 6: pause pass by pass is pause in one pass, so that it can be edited and answers as `eval` says.
    let mut eval = coconut(["eval"]);
    eval.arg(&pause).arg("--data").arg(&data).arg("--json");
    let evaluated = eval.assert().success();
    let evaluated: Value = serde_json::from_slice(&evaluated.get_output().stdout).unwrap();
    assert_eq!(record.models[1].plain.rate(), evaluated["eval_acc"].as_f64());
    drop(pause_place);

    // The section of the run's report.
    let run = place.run();
    fs::rename(&folder, run.join("audit")).unwrap();
    coconut(["report"]).arg(&run).assert().success();
    let html = fs::read_to_string(run.join("report.html")).unwrap();
    assert!(html.contains("do the thoughts do any work?") && html.contains("zero@all"));
    // With `zero@all` and `mean@1` alone neither numbers of latents nor donors can be drawn.
    for (caption, drawn) in
        [("Change of accuracy", true), ("Selectivity", true), ("follow the question whose", false)]
    {
        assert_eq!(html.contains(caption), drawn, "{caption}");
    }
}

/// What is written for a notebook is what is fed, and what the model computed.
#[test]
fn thoughts_are_written_for_others_to_read() {
    let (place, checkpoint, data) = trained("coconut");
    let folder = place.path("audit");
    let mut audit = command(&checkpoint, &data, &folder);
    audit.args(["--thoughts", "--only=zero@1", "--shuffles=0", "--draws=0"]).assert().success();
    let tensors =
        coconut::model::tensors::read_tensors(&folder.join("thoughts.safetensors")).unwrap();
    let (shape, thoughts) = &tensors["thoughts"];
    let (of_states, states) = &tensors["hidden_states"];
    assert_eq!((&shape[..], &of_states[..]), (&[60, 6, 16][..], &[60, 7, 2, 16][..]));
    let index = fs::read_to_string(folder.join("thoughts.jsonl")).unwrap();
    let index: Vec<Value> = index.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    for (question, line) in index.iter().enumerate() {
        let latents = line["latents"].as_u64().unwrap() as usize;
        assert_eq!(latents, 2 * line["steps"].as_array().unwrap().len());
        for place in 0..6 {
            let thought = &thoughts[(question * 6 + place) * 16..][..16];
            // `hs[-1]`: the last hidden state of the position before.
            let made_at = &states[((question * 7 + place) * 2 + 1) * 16..][..16];
            match place < latents {
                true => {
                    thought.iter().zip(made_at).for_each(|(a, b)| assert!((a - b).abs() < 1e-5))
                }
                false => assert!(thought.iter().all(|x| *x == 0.0)),
            }
        }
    }
    assert!(read(&folder).models[0].readings.is_none());
}

#[test]
fn the_tuned_lens_is_read_on_request() {
    let (place, checkpoint, data) = trained("coconut");
    let folder = place.path("audit");
    let mut audit = command(&checkpoint, &data, &folder);
    audit.args(["--tuned-lens", "--only=zero@1", "--shuffles=1", "--draws=0"]).assert().success();
    let readings = read(&folder).models[0].readings.clone().unwrap();
    let steps = steps(&data);
    // One block: of the two states the first is mapped. A state at the question's end and at each latent.
    let [tuned] = readings.tuned.as_slice() else { panic!("{:?}", readings.tuned) };
    assert_eq!((tuned.layer, tuned.n), (0, steps.iter().map(|n| 1 + 2 * n).sum()));
    assert!(tuned.explained.unwrap() > 0.2, "{tuned:?}");
    let places = |of: &[LensReading]| -> Vec<(usize, usize, usize)> {
        of.iter().map(|of| (of.position, of.step, of.top.n)).collect()
    };
    let plain: Vec<LensReading> =
        readings.lens.iter().filter(|lens| lens.layer == 0).cloned().collect();
    assert_eq!(places(&tuned.steps), places(&plain), "the same questions as without a map");
    assert_ne!(tuned.steps, plain);
    let table = fs::read_to_string(folder.join("audit.md")).unwrap();
    assert!(table.contains("| layer | states | explained % |"), "{table}");
}

#[test]
fn wrong_use_gets_one_sentence_and_leaves_nothing() {
    let (place, checkpoint, data) = trained("coconut");
    let folder = place.path("audit");
    let few = place
        .file("few.json", &json!([{"question": "1+1", "steps": ["2"], "answer": "2"}]).to_string());
    refused(command(&checkpoint, &few, &folder), &["few.json", "1 examples", "at least 6"]);
    let refused_with = |more: &[&str], names: &[&str]| {
        let mut audit = command(&checkpoint, &data, &folder);
        audit.args(more);
        let assert = audit.assert().code(2);
        let message = String::from_utf8(assert.get_output().stderr.clone()).unwrap();
        names.iter().for_each(|name| assert!(message.contains(name), "{name}: {message}"));
    };
    refused_with(&["--only=zero"], &["zero", "does not say where"]);
    refused_with(&["--only=blank@all"], &["`blank` is not known"]);
    refused_with(&["--only=latents[999]"], &["999", "context"]);
    refused_with(&["--noise=0"], &["--noise"]);
    refused_with(&["--dropout=1"], &["--dropout", "between 0 and 1"]);
    refused_with(&["--tuned-lens", "--shuffles=0"], &["--tuned-lens", "--shuffles 0"]);
    refused_with(&["--control=nowhere"], &["nowhere"]);
    let (_cot_place, cot, _) = trained("cot");
    refused(command(&cot, &data, &folder), &["method: cot", "no latents"]);
    assert!(!folder.join("audit.json").exists());
}

/// Rule 1 again: what is over other questions each has no mean.
#[test]
fn seeds_that_touched_other_numbers_of_questions_have_no_mean() {
    let model = |n: usize, right: usize| {
        let paired: Paired = (0..n).map(|i| (i < right, true)).collect();
        let intervention = "mean@1".parse().unwrap();
        json!({
            "name": format!("{n} {right}"), "role": "seed", "method": "coconut", "stage": 1, "thoughts": 1,
            "plain": {"hits": n, "n": n}, "sufficiency": null,
            "cells": [{
                "intervention": String::from(Intervention::clone(&intervention)),
                "right": paired.a(), "plain": paired.b(), "difference": paired.difference(),
                "difference_interval": [0.0, 0.0], "p": 1.0, "p_holm": 1.0, "tokens": 1.0, "plain_tokens": 1.0,
                "changed": paired.a(), "log_prob": null, "log_prob_interval": null,
            }],
        })
    };
    let of = |models: &[Value]| -> Vec<ModelRecord> {
        models.iter().map(|model| serde_json::from_value(model.clone()).unwrap()).collect()
    };
    let same = over_seeds(&of(&[model(10, 6), model(10, 8)]));
    assert_eq!(same.len(), 1);
    assert!((same[0].difference.mean + 0.3).abs() < 1e-12);
    // Differences −0.4 and −0.2: mean −0.3, standard error 0.1, t = 3 with one degree of freedom: p = 2/π atan(1/3).
    let p = 2.0 / std::f64::consts::PI * (1f64 / 3.0).atan();
    assert!((same[0].p.unwrap() - p).abs() < 1e-9, "{:?}", same[0].p);
    assert!(over_seeds(&of(&[model(10, 6), model(9, 8)])).is_empty());
    assert!(over_seeds(&of(&[model(10, 6)])).is_empty());
}

#[test]
fn selectivity_is_drawn_by_layer_and_position() {
    let selectivity = |layer: usize, position: usize, value: f64| json!({"layer": layer, "position": position, "own": 1, "against": 2, "value": value, "n": 50});
    let found = [
        selectivity(0, 1, -0.25),
        selectivity(0, 3, 0.0),
        selectivity(2, 1, 0.5),
        selectivity(2, 3, 1.0),
    ];
    let record = |selectivity: &[Value]| -> Record {
        let readings = json!({"probes": [], "selectivity": selectivity, "lens": [], "spread": []});
        let model = json!({
            "name": "m", "role": "audited", "method": "coconut", "stage": 1, "thoughts": 3,
            "plain": {"hits": 50, "n": 50}, "cells": [], "sufficiency": null, "readings": readings,
        });
        serde_json::from_value(json!({"settings": {}, "models": [model], "words": []})).unwrap()
    };
    let folder = tempfile::tempdir().unwrap();
    report::audit::write(&record(&found), folder.path()).unwrap();
    let svg = fs::read_to_string(folder.path().join("audit_selectivity.svg")).unwrap();
    let texts: Vec<&str> = svg
        .lines()
        .map(str::trim)
        .filter(|line| !line.starts_with('<') && !line.is_empty())
        .collect();
    let expected = [
        "1",
        "3",
        "layer 2",
        "50",
        "100",
        "layer 0",
        "−25",
        "0",
        "position, from the first latent on",
    ];
    assert_eq!(texts, expected);
    let table = fs::read_to_string(folder.path().join("audit.md")).unwrap();
    assert!(table.contains("(audit_selectivity.svg)") && !table.contains("(audit_places.svg)"));

    let none = tempfile::tempdir().unwrap();
    report::audit::write(&record(&[]), none.path()).unwrap();
    assert!(!none.path().join("audit_selectivity.svg").exists());
}

/// Against the cross entropy of whole rows.
#[test]
fn a_continuation_is_as_likely_as_in_a_row_of_its_own() {
    const LATENT: u32 = 40;
    let model = thinking(Transformer::load(&fixtures().join("latent"), &device()).unwrap());
    let prompts: [&[u32]; 3] =
        [&[5, 6, 7, 38, LATENT, LATENT, 39], &[8, 9, 38, LATENT, 39], &[3, 2]];
    let after: [&[u32]; 3] = [&[1, 2, 7], &[4], &[9, 9, 1, 3]];
    let scored = [2, 1, 4];
    let plan = PassPlan::sequential(LATENT);
    let rows: Vec<Row> = prompts.iter().map(|ids| Row::unlabelled(ids)).collect();
    let batch = Batch::new(&rows, &plan).unwrap();
    let trace = latent::forward(&model, &batch, ReadSet::PREDICTIONS);
    let continuations: Vec<Continuation> =
        after.iter().zip(scored).map(|(ids, scored)| Continuation { ids, scored }).collect();
    let ours = log_probs(&model, &batch, &trace, &continuations).unwrap();
    for (row, ours) in ours.into_iter().enumerate() {
        let ids = [prompts[row], after[row]].concat();
        let first = ids.len() - scored[row];
        let labels: Vec<Option<u32>> =
            ids.iter().enumerate().map(|(at, &id)| (at >= first).then_some(id)).collect();
        let whole = Batch::new(&[Row::new(&ids, &labels)], &plan).unwrap();
        let trace = latent::forward(&model, &whole, ReadSet::PREDICTIONS);
        let loss =
            objective::cross_entropy(&model.transformer, &whole, &trace, &whole.targets).unwrap();
        let loss: Vec<f32> = loss.into_data().try_into_vec().unwrap();
        assert!((ours.unwrap() + f64::from(loss[0])).abs() < 1e-4, "{row}: {ours:?} {loss:?}");
    }
    // Longer than the context.
    let long = vec![1; model.transformer.config.n_positions];
    let continuations = [&long[..], &[4], &[9]].map(|ids| Continuation { ids, scored: 1 });
    let ours = log_probs(&model, &batch, &trace, &continuations).unwrap();
    assert!(ours[0].is_none() && ours[1].is_some() && ours[2].is_some());
}

/// Rule 4: what stays right under an intervention is held, question by question, against a model without thoughts.
#[test]
fn a_model_without_thoughts_stands_beside_what_stays_right() {
    let (place, checkpoint, data) = trained("coconut");
    let (direct_place, direct, _) = trained("no_cot");
    let folder = place.path("audit");
    let audit = |more: &[&str]| {
        let mut audit = command(&checkpoint, &data, &folder);
        audit.args(["--only=zero@all,mean@5,early[0]", "--shuffles=0", "--draws=0"]).args(more);
        audit
    };
    audit(&[]).assert().success();
    assert_eq!(read(&folder).models[0].direct, None);
    // What was found without it is taken as it is: a store that had to be made anew would refuse.
    let path = direct.to_str().unwrap();
    let printed = audit(&["--direct", path]).assert().success();
    let printed = String::from_utf8(printed.get_output().stdout.clone()).unwrap();
    assert!(printed.lines().all(|line| line.chars().count() <= 100), "{printed}");
    assert!(printed.contains("stay right,"), "{printed}");
    let record = read(&folder);
    assert_eq!(record.settings["direct"], path);
    let model = &record.models[0];
    let found = model.direct.as_ref().unwrap();
    assert_eq!((found.method.as_str(), found.name.as_str()), ("no_cot", path));
    // It answers as `eval` says.
    let mut eval = coconut(["eval"]);
    eval.arg(&direct).arg("--data").arg(&data).arg("--json");
    let evaluated = eval.assert().success();
    let evaluated: Value = serde_json::from_slice(&evaluated.get_output().stdout).unwrap();
    assert_eq!(found.as_it_is.b().rate(), evaluated["eval_acc"].as_f64());
    assert_eq!(found.as_it_is.a(), model.plain);
    // Each line is over the questions of its cell, and the two kinds are all that were right.
    assert_eq!(found.cells.len(), model.cells.len());
    for (beside, cell) in found.cells.iter().zip(&model.cells) {
        assert_eq!((beside.intervention, beside.paired.a()), (cell.intervention, cell.right));
        assert_eq!(beside.stay.n + beside.fall.n, cell.plain.hits);
    }
    let with_latent_5 = steps(&data).iter().filter(|&&n| n == 3).count();
    assert_eq!(found.cell("mean@5".parse().unwrap()).unwrap().paired.n(), with_latent_5);
    assert!(record.words.iter().any(|words| words.starts_with("Trained without thoughts")));
    let table = fs::read_to_string(folder.join("audit.md")).unwrap();
    assert!(table.contains("| intervention | n | right % | direct % |"), "{table}");
    fs::rename(&folder, place.run().join("audit")).unwrap();
    coconut(["report"]).arg(place.run()).assert().success();
    let html = fs::read_to_string(place.run().join("report.html")).unwrap();
    assert!(html.contains("trained without thoughts: of questions that stay right"), "{html}");
    drop(direct_place);

    // Who thinks, or speaks, before answering is no direct model.
    let folder = place.path("refused");
    let refused_with = |given: &Path, names: &[&str]| {
        let mut audit = command(&checkpoint, &data, &folder);
        audit.arg("--direct").arg(given);
        refused(audit, names);
        assert!(!folder.join("audit.json").exists());
    };
    refused_with(&checkpoint, &["--direct", "method: coconut", "has latents", "`method: no_cot`"]);
    let (_cot_place, cot, _) = trained("cot");
    refused_with(&cot, &["--direct", "method: cot", "writes steps in words", "`method: no_cot`"]);
    refused_with(Path::new("nowhere"), &["nowhere"]);
}

/// A graph's prompt ends with the answer's mark, and one token is the answer, as in `eval`.
#[test]
fn graphs_are_answered_as_eval_has_them_answered() {
    let graph = |method: &str| {
        let place = Place::new();
        let runs = place.path("runs").display().to_string();
        // Made by the task, a graph is one to the model, not text.
        let keys = [
            ("name", "r"),
            ("save_path", runs.as_str()),
            ("method", method),
            ("task", "graph"),
            ("nodes", "8"),
            ("distance", "[2, 2]"),
            ("train_examples", "200"),
            ("val_examples", "20"),
            ("n_layer", "1"),
            ("n_embd", "16"),
            ("n_head", "2"),
            ("c_thought", "1"),
            ("max_latent_stage", "2"),
            ("cot_epochs", "0"),
            ("epochs_per_stage", "1"),
            ("num_epochs", "6"),
            ("batch_size_training", "20"),
            ("lr", "1e-2"),
        ];
        let recipe: String = keys.iter().map(|(key, value)| format!("{key}: {value}\n")).collect();
        train(&place.file("recipe.yaml", &recipe), &[]).assert().success();
        let data = place.path("graphs.json");
        let mut make = coconut(["data", "generate", "graph", "-n", "60", "-o"]);
        make.arg(&data).args(["-s", "nodes=8", "-s", "distance=[2,2]"]).assert().success();
        let checkpoint = place.run().join("checkpoints/latest");
        (place, checkpoint, data)
    };
    let evaluated = |checkpoint: &Path, data: &Path| -> Option<f64> {
        let mut eval = coconut(["eval"]);
        eval.arg(checkpoint).arg("--data").arg(data).arg("--json");
        let evaluated = eval.assert().success();
        let evaluated: Value = serde_json::from_slice(&evaluated.get_output().stdout).unwrap();
        evaluated["eval_acc"].as_f64()
    };
    let (place, checkpoint, data) = graph("coconut");
    let (_direct_place, direct, _) = graph("no_cot");
    let folder = place.path("audit");
    let mut audit = command(&checkpoint, &data, &folder);
    audit.args(["--only=zero@all", "--shuffles=1", "--draws=0", "--direct"]).arg(&direct);
    audit.assert().success();
    let record = read(&folder);
    let model = &record.models[0];
    assert!(model.plain.hits > 0, "{:?}", model.plain);
    assert_eq!(model.plain.rate(), evaluated(&checkpoint, &data));
    for cell in &model.cells {
        assert_eq!((cell.tokens, cell.plain_tokens), (1.0, 1.0), "{cell:?}");
    }
    let beside = model.direct.as_ref().unwrap();
    assert_eq!(beside.as_it_is.b().rate(), evaluated(&direct, &data));
    let nodes = &model.readings.as_ref().unwrap().nodes;
    assert!(nodes.iter().any(|of| of.class == "frontier"), "{nodes:?}");
}
