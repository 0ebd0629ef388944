//! How much a model thinks, set anew for a trained one.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use assert_cmd::assert::OutputAssertExt;
use serde_json::Value;

use crate::program::{Place, coconut, refused, train};

/// A tiny run of a method, trained until its last stage.
fn trained(method: &str) -> Place {
    let place = Place::new();
    let keys =
        [("method", method), ("c_thought", "2"), ("train_examples", "40"), ("num_epochs", "5")];
    let more = [("max_latent_stage", "2"), ("lr", "1e-2")];
    train(&place.recipe(&[&keys[..], &more].concat()), &[]).assert().success();
    place
}

fn latest(place: &Place) -> PathBuf {
    place.run().join("checkpoints/latest")
}

fn data(place: &Place) -> PathBuf {
    let data = place.path("test.json");
    let mut make = coconut(["data", "generate", "arithmetic", "-n", "20", "-o"]);
    make.arg(&data).args(["-s", "operations=[2,2]", "-s", "value_steps=True", "-s", "modulus=10"]);
    make.assert().success();
    data
}

fn eval(checkpoint: &Path, data: &Path, more: &[&str]) -> Command {
    let mut command = coconut(["eval"]);
    command.arg(checkpoint).arg("--data").arg(data).args(more);
    command
}

fn generate(checkpoint: &Path, more: &[&str]) -> Command {
    let mut command = coconut(["generate"]);
    command.arg(checkpoint).args(["--prompt", "3+4*2"]).args(more);
    command
}

fn json(mut command: Command) -> Value {
    let assert = command.arg("--json").assert().success();
    serde_json::from_slice(&assert.get_output().stdout).unwrap()
}

#[test]
fn iterations_and_latents_are_dials_of_a_trained_model() {
    let place = trained("lotus");
    let (checkpoint, data) = (latest(&place), data(&place));
    let loss = |more: &[&str]| json(eval(&checkpoint, &data, more))["eval_loss"].as_f64().unwrap();
    let as_trained = loss(&[]);
    assert_eq!(loss(&["--iterations=2", "--latents=4"]), as_trained, "those of training");
    assert_ne!(loss(&["--iterations=0"]), as_trained);
    assert_ne!(loss(&["--iterations=1"]), loss(&["--iterations=5"]));
    let found = json(eval(&checkpoint, &data, &["--iterations=3", "--latents=1"]));
    assert_eq!((&found["iterations"], &found["eval_latents"]), (&3.into(), &1.0.into()));
    assert!(json(eval(&checkpoint, &data, &[])).get("iterations").is_none());
    let told = eval(&checkpoint, &data, &["--iterations=3"]).assert().success();
    let told = String::from_utf8(told.get_output().stdout.clone()).unwrap();
    assert!(told.contains("\niterations: 3\n"), "{told}");

    // The same thoughts, read: other iterations make others.
    let thoughts = |more: &[&str]| {
        let found = json(generate(&checkpoint, &[more, &["--thoughts"]].concat()));
        (found["thoughts"].clone(), found["iterations"].clone())
    };
    assert_eq!(thoughts(&["--iterations=2"]).0, thoughts(&[]).0);
    assert_ne!(thoughts(&["--iterations=1"]).0, thoughts(&[]).0);
    assert_eq!(thoughts(&["--iterations=1"]).1, 1);

    refused(eval(&checkpoint, &data, &["--latents=99"]), &["--latents 99", "context of"]);
    // They fit the context, but not beside a question.
    refused(
        eval(&checkpoint, &data, &["--latents=14"]),
        &["--latents 14", "example 1", "context is"],
    );
    refused(eval(&checkpoint, &data, &["--stage=-1", "--latents=2"]), &["--latents 2", "stage -1"]);
    refused(
        eval(&checkpoint, &data, &["--stage=-1", "--iterations=2"]),
        &["--iterations 2", "stage -1"],
    );
    refused(eval(&checkpoint, &data, &["--iterations=1001"]), &["--iterations", "0 to 1000"]);
    refused(generate(&checkpoint, &["--iterations=-1"]), &["--iterations", "0 to 1000"]);
    refused(generate(&checkpoint, &["--latents=99"]), &["99 latents", "context"]);
}

#[test]
fn dials_that_a_model_does_not_have_are_refused() {
    for (method, says) in [
        ("coconut", "one latent after the other"),
        ("pause", "feeds nothing back"),
        ("icot", "feeds nothing back"),
    ] {
        let place = trained(method);
        let (checkpoint, data) = (latest(&place), data(&place));
        for command in [
            eval(&checkpoint, &data, &["--iterations=2"]),
            generate(&checkpoint, &["--iterations=2"]),
        ] {
            refused(command, &["--iterations 2", says, "thinking: parallel"]);
        }
        let latents = eval(&checkpoint, &data, &["--latents=2"]);
        match method {
            "icot" => refused(latents, &["--latents 2", "`method: icot`"]),
            _ => assert_eq!(json(latents)["eval_latents"], 2.0),
        }
    }
}

#[test]
fn several_numbers_of_latents_make_a_curve() {
    let place = trained("coconut");
    let (checkpoint, data) = (latest(&place), data(&place));
    let figure = place.path("curve.svg");
    let drawn = format!("--figure={}", figure.display());
    let found = json(eval(&checkpoint, &data, &["--latents=0..3", "--by=steps", &drawn]));
    let latents = |row: &Value| row["eval_latents"].as_f64().unwrap();
    let rows = found.as_array().unwrap();
    assert_eq!(rows.iter().map(latents).collect::<Vec<_>>(), [0.0, 1.0, 2.0, 3.0]);
    for (latents, row) in rows.iter().enumerate() {
        let one = json(eval(&checkpoint, &data, &[&format!("--latents={latents}")]));
        assert_eq!((&one["eval_acc"], &one["eval_loss"]), (&row["eval_acc"], &row["eval_loss"]));
        // All 20 chains have two steps.
        assert_eq!(
            (&row["by_steps"]["2"]["n"], &row["by_steps"]["2"]["rate"]),
            (&20.into(), &row["eval_acc"])
        );
    }
    assert!(std::fs::read_to_string(figure).unwrap().contains("latents"));
    let table = eval(&checkpoint, &data, &["--latents=1..2"]).assert().success();
    let table = String::from_utf8(table.get_output().stdout.clone()).unwrap();
    assert_eq!(table.lines().count(), 2 + 1 + 2, "{table}");
    refused(eval(&checkpoint, &data, &["--latents=3..1"]), &["0..12"]);
    refused(eval(&checkpoint, &data, &["--latents=2..99"]), &["context"]);
    refused(eval(&checkpoint, &data, &[&drawn]), &["--figure"]);
}

#[test]
fn thoughts_are_edited_by_hand() {
    let place = trained("coconut");
    let checkpoint = latest(&place);
    let shown = |more: &[&str]| json(generate(&checkpoint, &[more, &["--thoughts"]].concat()));
    let lengths = |more: &[&str]| -> Vec<f64> {
        let thoughts = shown(more)["thoughts"].as_array().unwrap().clone();
        thoughts.iter().map(|thought| thought["length"].as_f64().unwrap()).collect()
    };
    let plain = lengths(&[]);
    assert_eq!(plain.len(), 4);
    let zero = lengths(&["--edit=zero@2"]);
    assert_eq!((zero[0], zero[1]), (plain[0], 0.0));
    assert_eq!(lengths(&["--edit=zero@all"]), [0.0; 4]);
    let random = lengths(&["--edit=random@1"]);
    assert!((random[0] - plain[0]).abs() < 1e-4 && random[1] != plain[1]);
    assert_eq!(lengths(&["--edit=dropout[0.0]@all"]), plain);
    let dropped = lengths(&["--edit=dropout[0.5]@1"]);
    assert!(dropped[0] != plain[0] && dropped[1] != plain[1], "{dropped:?} {plain:?}");
    // Its own question as donor changes nothing.
    let own = place.file("own.txt", "3+4*2\n");
    let own = format!("--edit=donor:{}", own.display());
    assert_eq!(shown(&[&own]), shown(&[]));
    let other = place.file("other.txt", "9*8-7\n");
    let other = format!("--edit=donor:{}@1", other.display());
    assert_ne!(shown(&[&other])["thoughts"], shown(&[])["thoughts"]);
    for (edit, names) in [
        ("zero", ["does not say where"]),
        ("zero@9", ["nothing to change"]),
        ("mean@all", ["donor:FILE"]),
        ("latents[3]", ["--latents 3"]),
        ("noise[1.0]@question", ["another question"]),
        ("donor:nowhere.txt", ["nowhere.txt"]),
    ] {
        refused(generate(&checkpoint, &[&format!("--edit={edit}")]), &names);
    }
    let pause = trained("pause");
    refused(generate(&latest(&pause), &["--edit=zero@1"]), &["has 0 thoughts"]);
}
