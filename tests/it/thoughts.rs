//! Answers with their thoughts: in the library against the forward pass of each question alone, and on the
//! command line as its user meets them.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    path::PathBuf,
    process::{Command, Output, Stdio},
};

use burn::tensor::Tensor;
use coconut::{
    Error,
    checkpoint::{self, Checkpoint, LatentInfo},
    config::{Resolved, RunConfig, resolved::ModelSource},
    data::{Format, Method, SampleKey, Stage},
    eval::{Answer, AnswerOptions, Question, Sampling, Thought, answer},
    latent::{
        self, LatentModel, PassPlan, ReadSet,
        batch::{Batch, Row},
    },
    model::Transformer,
    objective::{Learner, ObjectiveParameters},
    train::{Data, model_config},
};
use coconut_kernels::simd::{self, Level};
use serde_json::{Map, Value, json};
use tempfile::TempDir;

/// A recipe's data and a model with random weights that speaks its tokens.
fn untrained(more: Value) -> (Data, Checkpoint) {
    let Value::Object(mut keys) = json!({
        "task": "arithmetic", "operations": [1, 3], "train_examples": 4, "val_examples": 6,
        "n_layer": 2, "n_embd": 16, "n_head": 2, "c_thought": 2, "max_latent_stage": 2,
        "initializer_range": 0.5,
    }) else {
        unreachable!()
    };
    keys.extend(more.as_object().cloned().unwrap_or_default());
    let config = RunConfig::from_keys(Map::clone(&keys), &[], "test").unwrap();
    let run = Resolved::new(&config, None).unwrap();
    let data = Data::prepare(&run).unwrap();
    let ModelSource::Random(shape) = &run.model else { panic!("not from random weights") };
    let device = coconut::device::cpu(); // where the program computes
    let model = Transformer::random(model_config(shape, &run, &data), 0, &device);
    let latent = LatentInfo {
        method: config.method,
        row: config.row,
        stage: Stage(3),
        c_thought: 2,
        max_latent_stage: 2,
        pad_latent_to_max: false,
        remove_all_from: None,
        thinking: config.thinking(),
        step_decoder: None,
        format: data.format,
        prompt: Default::default(),
        frozen: Default::default(),
        bf16: false,
        plain: false,
    };
    let model = LatentModel::new(model, config.thinking(), Default::default()).unwrap();
    let tokenizer = data.tokenizer.clone();
    let objective = ObjectiveParameters { seq_vcr: None, decoder: None };
    (data, Checkpoint { model, objective, tokenizer, latent })
}

fn questions(data: &Data) -> Vec<Question> {
    data.val.examples.iter().map(|example| Question::from(example.question.as_str())).collect()
}

const OPTIONS: AnswerOptions =
    AnswerOptions { max_new_tokens: 6, sampling: Sampling::Greedy, thoughts: 4 };

/// Likeliest tokens before a position of a prompt run alone, by softmax in double precision.
fn read_before(checkpoint: &Checkpoint, ids: &[u32], position: usize) -> Vec<(String, f64)> {
    let fed_back = matches!(checkpoint.latent.method, Method::Coconut);
    let latent = fed_back.then_some(checkpoint.tokenizer.special_tokens().latent);
    let plan = PassPlan { latent, ..PassPlan::default() };
    let batch = Batch::new(&[Row::unlabelled(ids)], &plan).unwrap();
    let trace = latent::forward(&checkpoint.model, &batch, ReadSet::ALL);
    // One row alone has no padding: column and position are the same.
    let hidden = trace.last_hidden(&batch, &[(0, position - 1)]).unwrap();
    let logits = checkpoint.model.transformer.logits(hidden);
    let logits = logits.into_data().try_into_vec::<f32>().unwrap();
    let total: f64 = logits.iter().map(|&x| f64::from(x).exp()).sum();
    let mut read: Vec<(f64, u32)> =
        (0..).zip(&logits).map(|(id, &x)| (f64::from(x).exp() / total, id)).collect();
    read.sort_by(|a, b| b.0.total_cmp(&a.0));
    let token = |id: u32| checkpoint.tokenizer.token_strings(&[id]).concat();
    read.into_iter().map(|(p, id)| (token(id), p)).collect()
}

/// The last hidden state before a position of a prompt run alone, which `hs[-1]` feeds back: its length.
fn length_before(checkpoint: &Checkpoint, ids: &[u32], position: usize) -> f64 {
    let latent = checkpoint.tokenizer.special_tokens().latent;
    let batch = Batch::new(&[Row::unlabelled(ids)], &PassPlan::sequential(latent)).unwrap();
    let trace = latent::forward(&checkpoint.model, &batch, ReadSet::ALL);
    let hidden: Tensor<2> = trace.last_hidden(&batch, &[(0, position - 1)]).unwrap();
    let values = hidden.into_data().try_into_vec::<f32>().unwrap();
    values.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>().sqrt()
}

#[test]
fn thoughts_are_those_that_were_fed_back() {
    let (data, checkpoint) = untrained(json!({}));
    let mut asked = questions(&data);
    // Unlike numbers of latents in one batch, none among them.
    for (question, latents) in asked.iter_mut().zip([None, Some(0), Some(1), Some(5)]) {
        question.latents = latents;
    }
    let trained = checkpoint.trained();
    let answers = answer(&trained, &asked, &OPTIONS).unwrap();
    let (start, end) = {
        let markers = checkpoint.tokenizer.special_tokens();
        (markers.start_latent, markers.end_latent)
    };
    let latent = checkpoint.tokenizer.special_tokens().latent;
    assert_eq!(answers.len(), 6);
    for (number, (answer_, question)) in answers.iter().zip(&asked).enumerate() {
        assert_eq!(answer_.question, question.text);
        // Without a number: as many as the last stage has for enough steps, 2 a step, 2 steps.
        let n = question.latents.unwrap_or(4);
        assert_eq!((answer_.latents, answer_.thoughts.len()), (n, n), "question {number}");
        let ids = &answer_.prompt_ids;
        let first = ids.iter().position(|&id| id == start).unwrap() + 1;
        assert_eq!(ids[first..], [vec![latent; n], vec![end]].concat());
        for (thought, position) in answer_.thoughts.iter().zip(first..) {
            let expected = read_before(&checkpoint, ids, position);
            assert_eq!(thought.tokens.len(), 4);
            for ((token, p), (expected, expected_p)) in thought.tokens.iter().zip(expected) {
                assert!((p - expected_p).abs() < 1e-5, "{p} {expected_p}");
                assert_eq!(*token, expected);
            }
            let length = length_before(&checkpoint, ids, position);
            assert!((thought.length.unwrap() / length - 1.0).abs() < 1e-5, "{thought:?} {length}");
        }
        assert!(answer_.ids.len() == 6 || answer_.finished);
        assert_eq!(answer_.text, checkpoint.tokenizer.decode(&answer_.ids).unwrap());

        // Alone, or without its thoughts: the same answer.
        let alone = answer(&trained, std::slice::from_ref(question), &OPTIONS).unwrap();
        assert_eq!((&alone[0].ids, &alone[0].prompt_ids), (&answer_.ids, ids));
    }
    let silent = answer(&trained, &asked, &AnswerOptions { thoughts: 0, ..OPTIONS }).unwrap();
    let without = |answer: &Answer| Answer { thoughts: Vec::new(), ..answer.clone() };
    assert_eq!(silent, answers.iter().map(without).collect::<Vec<_>>());
    assert!(answer(&trained, &[], &OPTIONS).unwrap().is_empty());
}

#[test]
fn pause_tokens_are_read_and_nothing_was_fed_back() {
    let (data, checkpoint) = untrained(json!({"coconut": false, "pause": true}));
    let answers = answer(&checkpoint.trained(), &questions(&data)[..2], &OPTIONS).unwrap();
    for answer in answers {
        let ids = &answer.prompt_ids;
        let latent = checkpoint.tokenizer.special_tokens().latent;
        let first = ids.iter().position(|&id| id == latent).unwrap();
        assert_eq!(answer.thoughts.len(), 4);
        for (thought, position) in answer.thoughts.iter().zip(first..) {
            assert_eq!(thought.length, None);
            let (expected, p) = read_before(&checkpoint, ids, position).swap_remove(0);
            assert_eq!(thought.tokens[0].0, expected);
            assert!((thought.tokens[0].1 - p).abs() < 1e-5);
        }
    }
}

/// The prompt of a question is the one that an evaluation gives an example with enough steps.
#[test]
fn questions_are_laid_out_as_examples_are() {
    let (data, checkpoint) = untrained(json!({"operations": [3, 3]}));
    let answers = answer(&checkpoint.trained(), &questions(&data), &OPTIONS).unwrap();
    let curriculum = checkpoint.latent.curriculum();
    for (answer, example) in answers.iter().zip(&data.val.encoded) {
        let key = SampleKey { seed: 0, epoch: 0, index: 0 };
        let markers = checkpoint.tokenizer.special_tokens();
        assert_eq!(answer.prompt_ids, curriculum.prompt(example, Stage(3), markers, key).ids);
    }
}

#[test]
fn questions_that_cannot_be_asked_are_refused() {
    let (data, mut checkpoint) = untrained(json!({}));
    let context = checkpoint.model.transformer.config.n_positions;
    let mut asked = questions(&data);
    for latents in [context, context + 1, usize::MAX] {
        asked[1].latents = Some(latents);
        let refused = answer(&checkpoint.trained(), &asked, &OPTIONS).unwrap_err();
        assert!(matches!(refused, Error::Prompt { row: 1, .. }), "{refused:?}");
        let message = refused.to_string();
        assert!(message.contains("context") && message.contains(&context.to_string()), "{message}");
    }
    checkpoint.latent.format = Format::Graph;
    let refused = answer(&checkpoint.trained(), &asked[..1], &OPTIONS).unwrap_err();
    assert!(refused.to_string().contains("answers graphs"), "{refused}");
}

// ---- The command line -----------------------------------------------------------------------------------------------

/// A checkpoint on disk, and examples in its tokens.
struct Place {
    folder: TempDir,
    checkpoint: Checkpoint,
    data: Data,
}

impl Place {
    fn new() -> Self {
        let (data, checkpoint) = untrained(json!({}));
        let place = Self { folder: tempfile::tempdir().unwrap(), checkpoint, data };
        let Checkpoint { model, objective, tokenizer, latent } = place.checkpoint.clone();
        let learner = Learner { model, objective };
        checkpoint::write_model(&place.path("c"), &learner, &tokenizer, &latent).unwrap();
        let example = |e: &coconut::data::Example| json!({"question": e.question, "steps": e.steps, "answer": e.answer});
        let examples: Vec<Value> = place.data.val.examples.iter().map(example).collect();
        fs::write(place.path("examples.json"), json!(examples).to_string()).unwrap();
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn run(&self, verb: &str, more: &[&str]) -> Output {
        let mut command = coconut(&[verb]);
        command.arg(self.path("c")).args(more).stdin(Stdio::null()).output().unwrap()
    }

    fn question(&self, number: usize) -> &str {
        &self.data.val.examples[number].question
    }
}

fn coconut(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_coconut"));
    command.args(args);
    command
}

#[track_caller]
fn stdout(output: &Output) -> String {
    assert!(output.status.success(), "{}", stderr(output));
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn of_library(place: &Place, number: usize, thoughts: usize) -> Answer {
    let options = AnswerOptions { thoughts, ..OPTIONS };
    let asked = Question::from(place.question(number));
    answer(&place.checkpoint.trained(), &[asked], &options).unwrap().remove(0)
}

fn as_json(answer: &Answer) -> Value {
    json!({
        "prompt": answer.question,
        "generation": answer.text,
        "answer": answer.prediction,
        "prompt_ids": answer.prompt_ids,
        "ids": answer.ids,
        "latents": answer.latents,
        "finished": answer.finished,
    })
}

#[test]
fn generate_shows_what_the_library_answers() {
    let place = Place::new();
    let limit = ["--max-new-tokens", "6"];
    let generate = |more: &[&str]| {
        place.run("generate", &[&limit, &["--prompt", place.question(0)], more].concat())
    };
    let expected = of_library(&place, 0, 5);

    let plain: Value = serde_json::from_str(&stdout(&generate(&["--json"]))).unwrap();
    assert_eq!(plain, as_json(&expected));
    let mut with: Value =
        serde_json::from_str(&stdout(&generate(&["--json", "--thoughts"]))).unwrap();
    let shown = with.as_object_mut().unwrap().remove("thoughts").unwrap();
    assert_eq!(with, plain);
    assert_eq!(shown.as_array().unwrap().len(), 4);
    for (shown, thought) in shown.as_array().unwrap().iter().zip(&expected.thoughts) {
        let Thought { tokens, length, cosines } = thought;
        assert_eq!(*shown, json!({"tokens": tokens, "length": length, "cosines": cosines}));
    }

    // The text alone, then thoughts above it.
    let text = format!("{}\n", expected.text.trim_end());
    assert_eq!(stdout(&generate(&[])), text);
    let shown = stdout(&generate(&["--thoughts=3"]));
    assert!(shown.ends_with(&format!("\n\n{text}")), "{shown}");
    assert!(!shown.contains('\x1b'), "{shown}");
    let table = shown.strip_suffix(&format!("\n\n{text}")).unwrap();
    let lines: Vec<&str> = table.lines().collect();
    assert_eq!(lines.len(), 5, "a head and four thoughts:\n{table}");
    assert!(lines[0].starts_with("thought  length  tokens"), "{table}");
    for (number, (line, thought)) in lines[1..].iter().zip(&expected.thoughts).enumerate() {
        assert!(line.chars().count() <= 100, "{line}");
        let mut cells = vec![(number + 1).to_string(), format!("{:.2}", thought.length.unwrap())];
        for (token, p) in &thought.tokens[..3] {
            cells.extend([token.replace('\n', "\\n").replace(' ', "␣"), format!("{p:.2}")]);
        }
        assert_eq!(line.split_whitespace().collect::<Vec<_>>(), cells);
        // Columns stand below one another.
        let column = |line: &str| line.find(&cells[1]).map(|at| at + cells[1].len());
        assert_eq!(column(line), Some("thought  length".len()), "{table}");
    }
}

/// Each line is answered before the next one is read.
#[test]
fn lines_are_answered_as_they_come() {
    let place = Place::new();
    let mut command = coconut(&["generate", "--json", "--thoughts", "--max-new-tokens", "6"]);
    command.arg(place.path("c")).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    let mut answers = BufReader::new(child.stdout.take().unwrap()).lines();
    for number in [2, 0, 1] {
        writeln!(input, "{}\n", place.question(number)).unwrap(); // and an empty line, passed over
        let line: Value = serde_json::from_str(&answers.next().unwrap().unwrap()).unwrap();
        let expected = of_library(&place, number, 5);
        assert_eq!(line["prompt"], expected.question);
        assert_eq!(line["ids"], json!(expected.ids));
        assert_eq!(line["thoughts"][3]["tokens"], json!(expected.thoughts[3].tokens));
    }
    drop(input);
    assert!(answers.next().is_none());
    assert!(child.wait().unwrap().success());
}

#[test]
fn faults_of_questions_and_devices_are_named() {
    let place = Place::new();
    let question = place.question(0);
    for (verb, args, words) in [
        ("generate", &["--prompt", question, "--latents", "5000"][..], &["context", question][..]),
        ("generate", &["--prompt", question, "--thoughts=0"], &["--thoughts"]),
        (
            "generate",
            &["--prompt", question, "--device", "abacus"],
            &["--device", "`abacus`", "cpu"],
        ),
        ("eval", &["--data", "examples.json", "--device", "abacus"], &["--device", "`abacus`"]),
        ("logits", &["--ids", "1", "--device", "abacus"], &["--device", "`abacus`"]),
        ("merge", &["-o", "merged", "--device", "abacus"], &["--device", "`abacus`"]),
    ] {
        let output = place.run(verb, args);
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(2), "{verb}: {said}");
        assert!(words.iter().all(|word| said.contains(word)), "{verb}: {said}");
    }
    let device: Value = serde_json::from_str(&stdout(
        &place.run("generate", &["--prompt", question, "--device", "cpu", "--json"]),
    ))
    .unwrap();
    assert_eq!(device["prompt"], question);

    // An example that does not fit is named in its file.
    let mut examples: Value =
        serde_json::from_str(&fs::read_to_string(place.path("examples.json")).unwrap()).unwrap();
    examples[3]["question"] = json!("1+".repeat(5000));
    fs::write(place.path("long.json"), examples.to_string()).unwrap();
    let long = place.path("long.json").display().to_string();
    let output = place.run("eval", &["--data", &long]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("long.json, example 4"), "{}", stderr(&output));
}

/// A recipe's `bf16: True` is what the evaluation computes with; without it the checkpoint decides.
#[test]
fn only_eval_follows_the_recipe_in_bf16() {
    let place = Place::new();
    let examples = place.path("examples.json").display().to_string();
    let recipe = place.path("eval.yaml");
    let keys = format!(
        "only_eval: True\nload_model_path: {}\nval_path: {examples}\neval_batch_size: 4\nmax_new_tokens: 6\n",
        place.path("c").display()
    );
    let evaluate = |bf16: &str| {
        fs::write(&recipe, format!("{keys}{bf16}")).unwrap();
        let output = coconut(&["train", "--json"]).arg(&recipe).output().unwrap();
        let row: Value = serde_json::from_str(&stdout(&output)).unwrap();
        (row["eval_loss"].as_f64().unwrap(), stderr(&output))
    };
    let slow = |said: &str| {
        assert_eq!(said.contains("AVX512-BF16"), simd::level() < Level::Avx512Bf16, "{said}");
    };
    let (exact, said) = evaluate("");
    assert!(!said.contains("bf16"), "{said}");
    let (rounded, said) = evaluate("bf16: True\n");
    assert!(said.contains("note:") && said.contains("`bf16: True`"), "{said}");
    slow(&said);
    assert!(rounded != exact && (rounded / exact - 1.0).abs() < 0.05, "{rounded} {exact}");

    // The same checkpoint, as if it had been trained so: the same numbers, nothing to note.
    let latent = place.path("c/latent.json");
    let text = fs::read_to_string(&latent).unwrap();
    let trained_so = text.replace("\"bf16\": false", "\"bf16\": true");
    assert_ne!(trained_so, text);
    fs::write(&latent, trained_so).unwrap();
    for bf16 in ["", "bf16: True\n"] {
        let (loss, said) = evaluate(bf16);
        assert_eq!(loss, rounded);
        assert!(!said.contains("note:"), "{said}");
        slow(&said);
    }
    slow(&stderr(&place.run("generate", &["--prompt", place.question(0)])));
    slow(&stderr(&place.run("logits", &["--ids", "1,2"])));
    let eval = place.run(
        "eval",
        &["--data", &examples, "--batch-size", "4", "--max-new-tokens", "6", "--json"],
    );
    slow(&stderr(&eval));
    let row: Value = serde_json::from_str(&stdout(&eval)).unwrap();
    assert_eq!(row["eval_loss"].as_f64(), Some(rounded));
}
