//! `coconut bench`.

use std::process::Command;

use assert_cmd::assert::OutputAssertExt;
use serde_json::Value;

use crate::program::{coconut, refused, stderr};

/// A tiny model, and examples of 10 tokens, 3 steps of 4 tokens and an answer of 5.
const SHAPE: [&str; 8] = [
    "--dim=16",
    "--layers=1",
    "--heads=2",
    "--batch=2",
    "--question=10",
    "--steps=3",
    "--step-tokens=4",
    "--answer=5",
];

fn bench(more: &[&str]) -> Command {
    let mut command = coconut(["bench"]);
    command.args(SHAPE).args(more);
    command
}

fn lines(output: &[u8]) -> Vec<Value> {
    let text = std::str::from_utf8(output).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// One step: for each row, its tokens and how many of them have labels; all tokens; and its losses by name.
fn step(more: &[&str]) -> (Vec<[usize; 2]>, u64, Vec<(String, f64)>) {
    let command = bench(&[more, &["--step-on-stdin"]].concat());
    let output =
        assert_cmd::Command::from_std(command).write_stdin("step\nsingle\n").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let answers = lines(&output.stdout);
    assert!(answers[1]["ms"].as_f64().unwrap() > 0.0);
    let labelled =
        |row: &Value| row.as_array().unwrap().iter().filter(|label| **label != -100).count();
    let rows = answers[0]["ids"].as_array().unwrap().iter();
    let rows = rows.zip(answers[0]["labels"].as_array().unwrap());
    let rows =
        rows.map(|(ids, labels)| [ids.as_array().unwrap().len(), labelled(labels)]).collect();
    let losses = answers[0]["losses"].as_object().unwrap().iter();
    let mut losses: Vec<_> = losses.map(|(name, x)| (name.clone(), x.as_f64().unwrap())).collect();
    losses.push(("loss".into(), answers[0]["loss"].as_f64().unwrap()));
    (rows, answers[0]["tokens"].as_u64().unwrap(), losses)
}

/// Losses of the rows' method, near that of a guess among 512 tokens where they are cross entropies.
#[track_caller]
fn near_a_guess(losses: &[(String, f64)], expected: &[&str]) {
    let names: Vec<&str> = losses.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, expected);
    for (name, loss) in losses {
        let right =
            if name == "loss_distil" { 0.0..2.0 } else { 512f64.ln() - 0.5..512f64.ln() + 0.5 };
        assert!(right.contains(loss), "{name} {loss}");
    }
}

#[test]
fn a_step_of_each_method_is_measured() {
    // Two blocks of 13 latents, and one step that is still spoken.
    let (rows, tokens, losses) = step(&["--method=lotus", "--stages=2"]);
    assert_eq!((rows, tokens), (vec![[10 + 28 + 4 + 5, 9]; 2], 94));
    near_a_guess(&losses, &["loss_steps", "loss"]);

    let (rows, tokens, losses) = step(&["--method=codi"]);
    let (student, teacher) = ([10 + 8 + 5, 5], [10 + 8 + 5, 13]);
    assert_eq!(rows, [student, teacher, student, teacher]);
    assert_eq!(tokens, 2 * (23 + 13), "the question counts once");
    near_a_guess(&losses, &["loss_teacher", "loss_distil", "loss"]);

    let (apart, tokens, losses) = step(&["--method=codi", "--apart"]);
    assert_eq!((apart, tokens), (rows, 2 * (23 + 23)));
    near_a_guess(&losses, &["loss"]);

    let (rows, _, losses) = step(&["--method=pccot", "--c-thought=3"]);
    assert_eq!(rows[0], [10 + 5 + 5, 5]);
    near_a_guess(&losses, &["loss_teacher", "loss_distil", "loss"]);
    let (rows, _, losses) = step(&["--method=icot", "--stages=12"]);
    assert_eq!(rows, [[15, 5]; 2], "no token of the steps is left");
    near_a_guess(&losses, &["loss"]);
    let (rows, _, losses) = step(&["--stages=2"]);
    assert_eq!(rows, [[10 + 4 + 4 + 5, 9]; 2], "Coconut");
    near_a_guess(&losses, &["loss"]);
}

#[test]
fn sharing_the_question_is_measured_as_a_ratio() {
    let output =
        bench(&["--method=codi", "--apart", "--repeats=2", "--steps-only", "--json"]).output();
    let output = output.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let rows = lines(&output.stdout);
    let told: Vec<_> =
        rows.iter().map(|row| (row["stage"].as_i64(), row["apart"].as_bool())).collect();
    assert_eq!(told, [(Some(1), Some(false)), (Some(1), Some(true))]);
    assert!(
        rows.iter().all(|row| row["method"] == "codi" && row["ms_per_step"].as_f64() > Some(0.0))
    );
    assert_eq!(rows[0]["ratio"], 1.0);
    assert!(rows[1]["ratio"].as_f64() > Some(0.0));
    assert!(rows[0]["losses"]["loss_distil"].is_number());
    let table =
        bench(&["--method=codi", "--apart", "--repeats=1", "--steps-only"]).output().unwrap();
    let table = String::from_utf8(table.stdout).unwrap();
    assert!(table.contains("1, apart"), "{table}");
}

#[test]
fn what_a_method_cannot_be_measured_with_is_said() {
    refused(bench(&["--apart"]), &["--apart", "`--method coconut`", "codi"]);
    refused(bench(&["--method=cava"]), &["--method", "cava", "kava"]);
    refused(bench(&["--vocab=5"]), &["--vocab 5"]);
    refused(bench(&["--method=lotus", "--c-thought=0"]), &["--method lotus", "`c_thought`"]);
    refused(
        coconut(["bench", "--question=9", "--steps=18446744073709551615"]),
        &["tokens", "1000000"],
    );
    refused(bench(&["--tokens=40"]), &["--tokens", "--question"]);
    for method in ["lotus", "codi"] {
        let tokens = coconut(["bench", "--tokens=64", "--method", method]);
        refused(tokens, &["--tokens", method, "--step-tokens"]);
    }
    refused(coconut(["bench", "--tokens=64", "--answer=4"]), &["--answer", "--tokens"]);
}

/// Stages are measured by processes that take turns; the numbers are a training step's.
#[test]
fn stages_are_measured_in_turns() {
    let bench = |more: &[&str]| -> Vec<serde_json::Value> {
        let data = crate::fixture("data/list.json").display().to_string();
        let mut command =
            coconut(["bench", "--data", &data, "--dim=16", "--layers=1", "--heads=2"]);
        let output = command.args(["--stages=0,3", "--repeats=2", "--json"]).args(more).output();
        let output = output.unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let lines = String::from_utf8(output.stdout).unwrap();
        lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    let number = |row: &serde_json::Value, key: &str| row[key].as_f64().unwrap();
    let turns = bench(&[]);
    assert_eq!(turns.iter().map(|row| number(row, "stage")).collect::<Vec<_>>(), [0.0, 3.0]);
    assert_eq!(number(&turns[0], "ratio"), 1.0);
    for row in &turns {
        for key in ["ms_per_step", "ratio", "gen_ms_per_question", "gen_batch_ms_per_question"] {
            assert!(number(row, key) > 0.0, "{key}: {row}");
        }
    }
    let narrow = bench(&["--in-sequence", "--bf16", "--steps-only"]);
    for (row, narrow) in turns.iter().zip(&narrow) {
        assert_eq!(row["tokens_last_batch"], narrow["tokens_last_batch"]);
        let (loss, narrow) = (number(row, "loss"), number(narrow, "loss"));
        assert!(loss != narrow && (narrow / loss - 1.0).abs() < 1e-2, "{loss} {narrow}");
    }
    refused(coconut(["bench", "--data", "nowhere.json"]), &["nowhere.json"]);
}

/// A mistake is found before any process starts, whichever stage it belongs to.
#[test]
fn a_mistake_in_a_bench_is_said_once() {
    let shape = ["--dim=16", "--layers=1", "--heads=2"];
    for (flags, names) in [
        (&["--tokens=64", "--frozen-dtype=bf16"][..], &["--frozen-dtype", "--lora"][..]),
        (&["--tokens=64", "--lora-targets=c_attn"], &["--lora-targets", "--lora"]),
        (&["--tokens=64", "--lora=2", "--lora-targets=q_proj"], &["--lora-targets", "`c_attn`"]),
        (&["--tokens=16", "--stages=0,3,14"], &["--tokens", "14 latents"]),
        (&["--tokens=64", "--heads=3"], &["16", "3"]),
    ] {
        let mut command = coconut(["bench"]);
        command
            .args(shape.iter().filter(|flag| !flags.contains(&"--heads=3") || **flag != shape[2]));
        command.args(flags);
        let message = stderr(&command.assert().code(2));
        assert_eq!(message.matches("error").count(), 1, "{message}");
        names.iter().for_each(|name| assert!(message.contains(name), "{name}: {message}"));
    }
}

/// One measurement a line of standard input, also under the flag's former name.
#[test]
fn a_bench_takes_steps_from_standard_input() {
    let losses = ["--step-on-stdin", "--paced"].map(|flag| {
        let mut command = assert_cmd::Command::from_std(coconut(["bench", flag, "--tokens=24"]));
        command.args(["--dim=16", "--layers=1", "--heads=2", "--batch=2", "--stages=1"]);
        let output = command.write_stdin("step\nstep\nsingle\n").output().unwrap();
        let lines = String::from_utf8(output.stdout).unwrap();
        let lines: Vec<Value> = lines.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
        assert_eq!(lines.len(), 3, "{lines:?}");
        // Other rows, of 24 tokens and with the answer's quarter labelled.
        assert_ne!(lines[0]["ids"], lines[1]["ids"]);
        for row in lines[0]["labels"].as_array().unwrap() {
            let labels: Vec<i64> = serde_json::from_value(row.clone()).unwrap();
            assert_eq!(labels.iter().filter(|&&label| label == -100).count(), 18, "{labels:?}");
        }
        assert_eq!(lines[2]["ids"].as_array().unwrap().len(), 1);
        [&lines[0], &lines[1]].map(|line| line["loss"].as_f64().unwrap())
    });
    assert_eq!(losses[0], losses[1]);
    // Random weights guess among 512 tokens.
    assert!(losses[0].iter().all(|loss| (loss - 512f64.ln()).abs() < 0.5), "{losses:?}");
}

/// On the CPU these are counts of what would cross: one read a step, whatever the layers, thoughts and losses; one read
/// of ids a generated token.
#[test]
fn what_crosses_between_host_and_device_is_counted() {
    let traffic = |more: &[&str]| -> Vec<[u64; 4]> {
        let mut command = coconut(["bench", "--step-on-stdin"]);
        let shape = SHAPE.iter().filter(|flag| !flag.starts_with("--layers"));
        command.args(shape).args(more);
        let output = assert_cmd::Command::from_std(command)
            .write_stdin("step\nstep\nsingle\nbatch\n")
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let counts = |answer: &Value| {
            ["reads", "bytes_read", "uploads", "bytes_uploaded"]
                .map(|key| answer["traffic"][key].as_u64().unwrap())
        };
        lines(&output.stdout)[1..].iter().map(counts).collect()
    };
    for method in ["coconut", "codi", "lotus"] {
        let [few, many] = ["--layers=1", "--layers=3"]
            .map(|layers| traffic(&["--method", method, "--stages=1", layers]));
        assert_eq!(few, many, "{method}: as much whatever the layers");
        assert_eq!(few[0][0], 1, "{method}: one read a step");
        let [alone, batch] = [few[1], few[2]];
        assert_eq!([alone[0], batch[0]], [32, 32], "{method}: one read a token");
        assert_eq!([alone[1], batch[1]], [32 * 4, 2 * 32 * 4], "{method}: of ids");
    }
}
