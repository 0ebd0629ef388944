//! A model's folder as another program writes it, where a checkpoint stands.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use assert_cmd::assert::OutputAssertExt;
use coconut::data::{Example, Tokenizer, tokenizer::chat::PromptStyle};
use serde_json::{Value, json};

use crate::{
    fixture,
    program::{Place, coconut, train},
};

/// A checkpoint trained in words, and a folder with what transformers knows of it.
fn trained() -> (Place, PathBuf) {
    let place = Place::new();
    let keys = [("method", "cot"), ("train_examples", "40"), ("num_epochs", "30")];
    let keys = [&keys[..], &[("lr", "1e-2"), ("n_positions", "64")]].concat();
    train(&place.recipe(&keys), &[]).assert().success();
    let folder = place.path("plain");
    fs::create_dir(&folder).unwrap();
    for file in ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"] {
        fs::copy(place.run().join("checkpoints/latest").join(file), folder.join(file)).unwrap();
    }
    (place, folder)
}

fn examples(place: &Place, name: &str, seed: &str) -> PathBuf {
    let path = place.path(name);
    let mut make = coconut(["data", "generate", "arithmetic", "-n", "12", "--seed", seed, "-o"]);
    make.arg(&path).args(["-s", "operations=[2,2]", "-s", "value_steps=True", "-s", "modulus=10"]);
    make.assert().success();
    path
}

fn verb(verb: &str, folder: &Path, more: &[&str]) -> Command {
    let mut command = coconut([verb]);
    command.arg(folder).args(more);
    command
}

/// What a verb prints as JSON, and what it says beside.
fn told(mut command: Command) -> (Value, String) {
    let assert = command.arg("--json").assert().success();
    let output = assert.get_output();
    let said = String::from_utf8(output.stderr.clone()).unwrap();
    (serde_json::from_slice(&output.stdout).unwrap(), said)
}

fn says(mut command: Command, words: &str) {
    let assert = command.assert().code(2);
    let said = String::from_utf8(assert.get_output().stderr.clone()).unwrap();
    assert!(said.contains("error: ") && said.contains(words), "{words} is not in {said}");
}

/// Without times, which differ.
fn found(mut row: Value) -> Value {
    let object = row.as_object_mut().unwrap();
    object.retain(|key, _| !key.contains("ms_per"));
    row
}

#[test]
fn a_plain_folder_is_evaluated_as_the_checkpoint_it_came_from() {
    let (place, folder) = trained();
    let data = examples(&place, "test.json", "3");
    let data = ["--data", data.to_str().unwrap()];
    let checkpoint = place.run().join("checkpoints/latest");
    let (trained, said) = told(verb("eval", &checkpoint, &data));
    assert_eq!(said, "");
    let (plain, said) = told(verb("eval", &folder, &[&data[..], &["--scorer=mark"]].concat()));
    assert_eq!(found(trained), found(plain));
    assert!(said.contains("is a plain model, run as `method: cot`"), "{said}");
    let (read, said) = told(verb("eval", &folder, &data));
    assert!(said.contains("answers are read with `--scorer number`"), "{said}");
    assert_eq!(read["scorer"], "number");
}

#[test]
fn latents_can_be_added() {
    let (_place, folder) = trained();
    let ask = ["--prompt", "3+4*2", "--latents", "2"];
    let (answer, said) = told(verb("generate", &folder, &ask));
    assert!(said.contains("with latents that nobody trained"), "{said}");
    assert_eq!(answer["latents"], 2);
    let tokenizer = Tokenizer::load(&folder).unwrap();
    let markers = tokenizer.special_tokens();
    let ids = answer["prompt_ids"].as_array().unwrap();
    let tail = [markers.start_latent, markers.latent, markers.latent, markers.end_latent];
    assert!(ids.ends_with(&tail.map(|id| json!(id))), "{ids:?}");
    let data = examples(&_place, "test.json", "3");
    let (row, _) = told(verb("eval", &folder, &["--data", data.to_str().unwrap(), "--latents=3"]));
    assert_eq!((&row["method"], &row["eval_latents"]), (&json!("coconut"), &json!(3.0)));
}

#[test]
fn shots_stand_before_the_question_and_are_not_asked() {
    let (place, folder) = trained();
    let shots = place.file(
        "shots.jsonl",
        "{\"question\": \"1+1\", \"steps\": [\"2\"], \"answer\": 2}\n{\"question\": \"2*3-1\", \"steps\": [\"6\", \"5\"], \"answer\": 5}\n",
    );
    let from = ["--shots-from", shots.to_str().unwrap()];
    let ask = [&["--prompt", "3+4*2"], &from[..]].concat();
    let (answer, _) = told(verb("generate", &folder, &ask));
    let tokenizer = Tokenizer::load(&folder).unwrap();
    let text = "1+1\n2\n### 2\n\n2*3-1\n6\n5\n### 5\n\n3+4*2\n";
    assert_eq!(answer["prompt_ids"], json!(tokenizer.encode(text, true).unwrap().ids));
    let (answer, _) = told(verb("generate", &folder, &[&ask[..], &["--shots=1"]].concat()));
    let text = "1+1\n2\n### 2\n\n3+4*2\n";
    assert_eq!(answer["prompt_ids"], json!(tokenizer.encode(text, true).unwrap().ids));

    let asked = place.file(
        "asked.jsonl",
        "{\"question\": \"1+1\", \"steps\": [], \"answer\": 2}\n{\"question\": \"4-1\", \"steps\": [], \"answer\": 3}\n",
    );
    let eval = [&["--data", asked.to_str().unwrap()], &from[..]].concat();
    let (row, said) = told(verb("eval", &folder, &eval));
    assert_eq!(row["n"], 1);
    assert!(said.contains("1 of 2 questions are among those shown"), "{said}");

    let only = [&["--data", shots.to_str().unwrap()], &from[..]].concat();
    says(verb("eval", &folder, &only), "has no questions but those that are shown");
    says(verb("eval", &folder, &[&eval[..], &["--shots=3"]].concat()), "has 2 examples");
    says(verb("eval", &folder, &["--data", "x", "--shots=3"]), "--shots-from");
    let long = place.file(
        "long.jsonl",
        &"{\"question\": \"1+1\", \"steps\": [\"2\"], \"answer\": 2}\n".repeat(20),
    );
    let many = ["--data", asked.to_str().unwrap(), "--shots-from", long.to_str().unwrap()];
    says(verb("eval", &folder, &many), "Show fewer solved examples");
    says(verb("generate", &folder, &["--prompt=1+1", "--chat"]), "chat template");
}

#[test]
fn an_answer_ends_at_a_stop_text() {
    let (place, folder) = trained();
    let ask = ["--prompt", "3+4*2"];
    let (answer, _) = told(verb("generate", &folder, &ask));
    let whole = answer["generation"].as_str().unwrap();
    let before = whole.split("###").next().unwrap();
    assert!(before.len() < whole.len(), "some mark to stop at: {whole:?}");
    let (cut, _) = told(verb("generate", &folder, &[&ask[..], &["--stop", "###"]].concat()));
    assert_eq!(cut["generation"], before);
    assert_eq!(cut["finished"], true);
    assert!(cut["ids"].as_array().unwrap().len() < answer["ids"].as_array().unwrap().len());

    let data = examples(&place, "test.json", "3");
    let tokens = |more: &[&str]| {
        let eval = [&["--data", data.to_str().unwrap()], more].concat();
        told(verb("eval", &folder, &eval)).0["eval_tokens"].as_f64().unwrap()
    };
    assert!(tokens(&["--stop", "x", "--stop", "\\n"]) < tokens(&[]), "the first line alone");
}

#[test]
fn several_files_stand_in_one_table() {
    let (place, folder) = trained();
    let (one, two) = (examples(&place, "one.json", "3"), examples(&place, "two.json", "4"));
    let [one, two] = [one.to_str().unwrap(), two.to_str().unwrap()];
    let both = format!("{one},{two}");
    let (rows, _) = told(verb("eval", &folder, &["--data", &both]));
    for (path, row) in [one, two].iter().zip(rows.as_array().unwrap()) {
        let (mut alone, _) = told(verb("eval", &folder, &["--data", path]));
        alone["data"] = json!(Path::new(path).file_stem().unwrap().to_str());
        assert_eq!(found(alone), found(row.clone()));
    }
    let (rows, _) =
        told(verb("eval", &folder, &["--data", &both, "--latents=0..1", "--max-size=2"]));
    assert_eq!(rows.as_array().unwrap().len(), 4);

    let samples = place.path("samples.jsonl");
    let eval = ["--data", &both, "--samples", samples.to_str().unwrap()];
    let table = verb("eval", &folder, &eval).assert().success();
    let table = String::from_utf8(table.get_output().stdout.clone()).unwrap();
    let lines: Vec<&str> = table.lines().map(str::trim).collect();
    assert!(
        lines[lines.len() - 2].starts_with("one ") && lines[lines.len() - 1].starts_with("two "),
        "{table}"
    );
    let samples = fs::read_to_string(samples).unwrap();
    let of: Vec<Value> = samples.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((&of[0]["data"], &of[12]["data"]), (&json!(one), &json!(two)));
}

/// ChatML by hand, with the blank lines that this template has.
#[test]
fn shots_are_turns_of_a_chat() {
    let style = PromptStyle {
        system_prompt: Some("Think.".into()),
        chat_template: true,
        ..PromptStyle::default()
    };
    let tokenizer = Tokenizer::load(&fixture("tokenizers/smollm2")).unwrap();
    let tokenizer = tokenizer.with_prompt(&style).unwrap();
    let tokenizer = tokenizer.with_shots(vec![Example::new("1+1?", ["1+1=2"], "2")]);
    assert!(tokenizer.stop_texts().is_empty(), "a turn ends by itself");
    let expected = "<|im_start|>system\nThink.<|im_end|>\n\n<|im_start|>user\n1+1?<|im_end|>\n\n\
        <|im_start|>assistant\n1+1=2\n### 2<|im_end|>\n\n<|im_start|>user\n2+2?<|im_end|>\n\n\
        <|im_start|>assistant\n";
    assert_eq!(tokenizer.render_prompt("2+2?").unwrap(), (expected.to_owned(), false));
}

#[test]
fn a_model_in_the_cache_is_found_by_its_name() {
    let (place, folder) = trained();
    let repository = place.path("hub").join("models--org--name");
    fs::create_dir_all(repository.join("refs")).unwrap();
    fs::create_dir(repository.join("snapshots")).unwrap();
    fs::write(repository.join("refs/main"), "abc").unwrap();
    fs::rename(&folder, repository.join("snapshots/abc")).unwrap();
    let ask = |name: &str| {
        let mut command = verb("generate", Path::new(name), &["--prompt", "3+4*2"]);
        command.env("HF_HUB_CACHE", place.path("hub"));
        command
    };
    let (answer, said) = told(ask("org/name"));
    assert_eq!(answer["latents"], 0);
    assert!(said.contains("org/name is a plain model"), "{said}");
    says(ask("org/other"), "hf download org/other");
    says(ask("no/such/folder"), "neither a folder");
    says(ask(place.file("model", "").to_str().unwrap()), "a file; a model is a folder");
    says(ask(place.run().to_str().unwrap()), "checkpoints/latest");
}

#[test]
fn an_audit_needs_thoughts() {
    let (place, folder) = trained();
    let data = examples(&place, "test.json", "3");
    says(
        verb("audit", &folder, &["--data", data.to_str().unwrap()]),
        "plain model, which has no thoughts",
    );
}
