//! The program as its users meet it: commands, files, messages and exit codes.

use std::{fs, path::Path, process::Stdio};

use assert_cmd::assert::OutputAssertExt;
use serde_json::{Value, json};

use crate::program::{Place, coconut, interrupted, refused, stdout, train, wait_until};

/// A tiny run, trained.
fn trained() -> Place {
    let place = Place::new();
    train(&place.recipe(&[]), &[]).assert().success();
    place
}

fn records(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn read_json(path: &Path) -> Value {
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

/// (step, loss) of each optimizer step of a run, in the file's order.
pub fn losses(run: &Path) -> Vec<(u64, f64)> {
    let records = records(&run.join("metrics.jsonl"));
    let steps = records.iter().filter(|record| record.get("loss").is_some());
    steps.map(|r| (r["step"].as_u64().unwrap(), r["loss"].as_f64().unwrap())).collect()
}

/// The rows of a run's results without what a clock or the system's memory decides.
pub fn rows(run: &Path) -> Vec<Value> {
    let mut rows = read_json(&run.join("results.json"))["rows"].as_array().unwrap().clone();
    for row in &mut rows {
        let measured = |key: &str| ["seconds", "ms_per", "_mb"].iter().any(|m| key.contains(m));
        row.as_object_mut().unwrap().retain(|key, _| !measured(key));
    }
    rows
}

fn prosqa_like() -> String {
    let example = |a: &str, b: &str| {
        json!({
            "question": format!("Every {a} is a {b}. Tom is a {a}. Is Tom a {b} or a rompus?"),
            "steps": [format!("Tom is a {a}."), format!("Every {a} is a {b}.")],
            "answer": format!("Tom is a {b}."),
        })
    };
    json!([example("lempus", "yumpus"), example("yumpus", "zumpus")]).to_string()
}

/// As in `coconut data stats FILE | head -0`.
#[test]
fn a_reader_that_goes_away_ends_the_program_quietly() {
    let place = Place::new();
    let data = place.file("d.json", r#"[{"question": "1+1", "steps": ["2"], "answer": "2"}]"#);
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut stats = coconut(["data", "stats"]);
    stats.arg(&data).stdout(writer).stderr(Stdio::piped());
    let ended = stats.spawn().unwrap().wait_with_output().unwrap();
    assert_eq!(ended.status.code(), Some(141));
    assert_eq!(String::from_utf8(ended.stderr).unwrap(), "");
}

#[test]
fn training_leaves_a_whole_run() {
    let place = Place::new();
    train(&place.recipe(&[("baselines", "[no_cot]")]), &[]).assert().success();
    let run = place.run();
    for file in [
        "results.json",
        "metrics.jsonl",
        "metrics.csv",
        "tb",
        "samples.jsonl",
        "accuracy.svg",
        "report.html",
        "config.yaml",
        "no_cot/metrics.jsonl",
        "no_cot/checkpoints",
    ] {
        assert!(run.join(file).exists(), "{file} is missing");
    }
    let events: Vec<_> = fs::read_dir(run.join("tb")).unwrap().flatten().collect();
    assert!(events.iter().any(|event| event.metadata().unwrap().len() > 0));
    for file in
        ["model.safetensors", "config.json", "tokenizer.json", "latent.json", "trainer.json"]
    {
        assert!(place.checkpoint().join(file).is_file(), "{file} is missing");
    }

    let rows = rows(&run);
    let stages = |method: &str| -> Vec<i64> {
        let of_method = rows.iter().filter(|row| row["method"] == method);
        of_method.map(|row| row["stage"].as_i64().unwrap()).collect()
    };
    assert_eq!(stages("coconut"), [-1, 0, 1, 2, 3]);
    assert_eq!(stages("no_cot").len(), 1);

    let steps = 5 * 200 / 20;
    let losses = losses(&run);
    assert_eq!(losses.len(), steps);
    assert!(losses.iter().all(|(_, loss)| loss.is_finite()));
    let lines = records(&run.join("metrics.jsonl")).len();
    assert_eq!(lines, steps + 5);
    let csv = fs::read_to_string(run.join("metrics.csv")).unwrap();
    assert_eq!(csv.lines().count(), 1 + lines);
    assert_eq!(records(&run.join("samples.jsonl")).len(), 5 * 20);
}

#[test]
fn a_killed_run_goes_on_as_if_unbroken() {
    const STEPS: usize = 5 * 800 / 20;
    // Every parameter that thoughts can have, and dropout, which is drawn by step.
    let keys = [
        ("train_examples", "800"),
        ("save_steps", "3"),
        ("replacement_method", "mlp(hs[-1])+proj(ie)+pause"),
        ("latent_positions", "learned"),
        ("loss_seq_vcr", "True"),
        ("seq_vcr_projection", "trained"),
        ("seq_vcr_dim", "8"),
        ("recompute", "passes"),
        ("dropout", "0.1"),
    ];
    let whole = Place::new();
    train(&whole.recipe(&keys), &[]).assert().success();
    let expected = losses(&whole.run());
    assert_eq!(
        expected.iter().map(|(step, _)| *step).collect::<Vec<_>>(),
        (1..=STEPS as u64).collect::<Vec<_>>()
    );

    // Within the first epoch, and after a few evaluations.
    for lines in [8, STEPS / 2] {
        let place = Place::new();
        let recipe = place.recipe(&keys);
        let metrics = place.run().join("metrics.jsonl");
        let mut child =
            train(&recipe, &[]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        wait_until(&format!("{lines} lines"), || {
            assert!(child.try_wait().unwrap().is_none(), "the run ended before it could be killed");
            fs::read_to_string(&metrics).map_or(0, |text| text.lines().count()) >= lines
        });
        child.kill().unwrap();
        let status = child.wait().unwrap();
        assert_eq!(status.code(), None, "the run ended before it was killed");
        let done = fs::read_to_string(&metrics).unwrap().lines().count();
        assert!(done < STEPS, "{done} lines: nothing is left to resume");

        train(&recipe, &["--resume"]).assert().success();
        assert_eq!(losses(&place.run()), expected, "killed after {done} lines");
        assert_eq!(rows(&place.run()), rows(&whole.run()), "killed after {done} lines");
        let samples = |run: &Path| records(&run.join("samples.jsonl")).len();
        assert_eq!(samples(&place.run()), samples(&whole.run()), "killed after {done} lines");
    }
}

/// Methods whose latents are ordinary tokens, which nothing is fed back into.
#[test]
fn every_method_trains_and_is_evaluated() {
    for method in ["pause", "no_thoughts", "no_curriculum", "cot", "no_cot"] {
        let place = Place::new();
        let keys = [("method", method), ("baselines", "[]"), ("train_examples", "40")];
        train(&place.recipe(&keys), &[]).assert().success();
        assert!(!rows(&place.run()).is_empty(), "{method}");
    }
}

/// Products in bf16: other weights than in f32, a checkpoint that remembers, and a run that resumes.
#[test]
fn a_run_in_bf16_is_resumed_and_evaluated() {
    let place = Place::new();
    let weights = |place: &Place| fs::read(place.checkpoint().join("model.safetensors")).unwrap();
    train(&place.recipe(&[]), &[]).assert().success();
    let narrow = Place::new();
    let recipe = narrow.recipe(&[("bf16", "True")]);
    train(&recipe, &[]).assert().success();
    assert_ne!(weights(&place), weights(&narrow));
    let latent = fs::read_to_string(narrow.checkpoint().join("latent.json")).unwrap();
    assert!(latent.contains("\"bf16\": true"), "{latent}");
    let whole = weights(&narrow);
    fs::remove_dir_all(narrow.checkpoint()).unwrap();
    train(&recipe, &["--resume"]).assert().success();
    assert!(weights(&narrow) == whole, "resumed, the run ends elsewhere");
}

/// Ctrl-C in an evaluation does not wait for its end: it is made anew on resuming.
#[cfg(unix)]
#[test]
fn an_interrupted_evaluation_is_made_anew() {
    // One step an epoch; an evaluation takes two thousand batches, a wide margin under load.
    let keys = [
        ("train_examples", "20"),
        ("val_examples", "2000"),
        ("eval_batch_size", "1"),
        ("eval_at", "end"),
        ("max_new_tokens", "48"),
    ];
    let whole = Place::new();
    train(&whole.recipe(&keys), &[]).assert().success();

    let place = Place::new();
    let recipe = place.recipe(&keys);
    let metrics = place.run().join("metrics.jsonl");
    let child = train(&recipe, &[]).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let steps = || fs::read_to_string(&metrics).map_or(0, |text| text.lines().count());
    wait_until("5 steps", || steps() >= 5);
    let told = interrupted(child);
    assert!(told.contains("Stopped after optimizer step 5"), "{told}");
    assert_eq!(records(&metrics).len(), 5, "the evaluation was not left");

    train(&recipe, &["--resume"]).assert().success();
    assert_eq!(losses(&place.run()), losses(&whole.run()));
    assert_eq!(rows(&place.run()), rows(&whole.run()));
}

#[test]
fn a_run_is_not_overwritten_by_accident() {
    let place = trained();
    let recipe = place.recipe(&[]);
    let before = fs::read(place.run().join("metrics.jsonl")).unwrap();
    refused(train(&recipe, &[]), &["--resume", "--overwrite", "runs/r"]);
    assert_eq!(fs::read(place.run().join("metrics.jsonl")).unwrap(), before);
    train(&recipe, &["--overwrite"]).assert().success();
    assert_eq!(losses(&place.run()).len(), 50);
}

#[test]
fn resuming_a_finished_run_changes_nothing() {
    let place = trained();
    let (losses_before, rows_before) = (losses(&place.run()), rows(&place.run()));
    train(&place.recipe(&[]), &["--resume"]).assert().success();
    assert_eq!(losses(&place.run()), losses_before);
    assert_eq!(rows(&place.run()), rows_before);
}

#[test]
fn faults_of_a_recipe_are_named() {
    let place = Place::new();
    let with = |key, value| train(&place.recipe(&[(key, value)]), &[]);
    refused(
        with("epochs_per_stge", "1"),
        &["`epochs_per_stge`", "`epochs_per_stage`", "recipe.yaml"],
    );
    refused(with("opt_8b", "True"), &["`opt_8b`"]);
    refused(
        train(&place.recipe(&[("bf16", "True"), ("device", "vulkan")]), &[]),
        &["`bf16`", "cpu"],
    );
    refused(
        with("replacement_method", "hs[-1]+hx"),
        &["`replacement_method`", "`hx` is no term", "  hs[-1]+hx\n         ^"],
    );
    refused(with("replacement_method", "hs[7]"), &["`replacement_method`", "`hs[7]`", "1 blocks"]);
    refused(with("use_position_ids", "True"), &["`latent_positions`", "offset[100000]", "gpt2"]);
    refused(with("latent_positions", "left"), &["`latent_positions`", "sinusoidal"]);
    refused(
        train(&place.recipe(&[("loss_seq_vcr", "True"), ("batch_size_training", "1")]), &[]),
        &["`batch_size_training`", "Seq-VCR", "at least 2"],
    );
    refused(with("lr", "fast"), &["`lr`", "fast"]);
    refused(with("n_embd", "15"), &["`n_embd`", "`n_head`"]);
    refused(with("task", "chess"), &["`task`", "chess", "arithmetic"]);
    refused(
        train(&place.recipe(&[("coconut", "True"), ("cot", "True")]), &[]),
        &["`coconut", "`cot`"],
    );
    refused(train(&place.recipe(&[]), &["-s", "lr"]), &["-s lr", "key=value"]);
    refused(train(&place.recipe(&[]), &["-s", "epochs_per_stge=1"]), &["-s", "`epochs_per_stage`"]);
    refused(train(&place.path("nowhere.yaml"), &[]), &["nowhere.yaml"]);
    refused(train(&place.file("list.yaml", "- a\n- b\n"), &[]), &["list.yaml"]);
    assert!(!place.path("runs").exists(), "a refused recipe leaves a run behind");
}

#[test]
fn faults_of_data_are_named() {
    let place = Place::new();
    let of = |name: &str, content: &str| {
        train(&place.recipe_of_data(&place.file(name, content), &[]), &[])
    };
    refused(train(&place.recipe_of_data(&place.path("nowhere.json"), &[]), &[]), &["nowhere.json"]);

    let whole = prosqa_like();
    refused(of("cut.json", &whole[..whole.len() / 2]), &["cut.json", "line"]);
    refused(of("empty.json", ""), &["empty.json"]);
    let missing = r#"[{"question": "1+1", "steps": ["2"], "answer": "2"}, {"question": "1+2", "steps": ["3"]}]"#;
    refused(of("missing.json", missing), &["missing.json", "example 2", "`answer`"]);

    let long = json!([
        {"question": "a", "steps": ["b"], "answer": "c"},
        {"question": "a ".repeat(60), "steps": ["b"], "answer": "c"},
    ]);
    let long = place.file("long.json", &long.to_string());
    let recipe = place.recipe_of_data(&long, &[("n_positions", "32")]);
    refused(train(&recipe, &[]), &["long.json", "example 2", "32", "n_positions"]);
    assert!(!place.path("runs").exists(), "refused data leaves a run behind");
}

#[test]
fn the_published_prosqa_recipe_loads() {
    let place = Place::new();
    let data = place.file("prosqa.json", &prosqa_like());
    let (data, runs) = (data.display(), place.path("runs").display().to_string());
    let recipe = format!(
        r#"# need 4 gpus

project: coconut
save_path: {runs}
name: prosqa-coconut

only_eval: False

coconut: True
cot: False
no_thoughts: False
no_cot: False

c_thought: 1
epochs_per_stage: 5
max_latent_stage: 6
pad_latent_to_max: True

save_only_improve: False
uniform_prob: 0.0
model_id: None
load_model_path: None
seed: 0
resume: 0
bf16: False
train_path: {data}
val_path: {data}
reset_optimizer: True
batch_size_training: 32
debug: False
gradient_accumulation_steps: 1
num_epochs: 50
lr: !!float "1e-4"
weight_decay: 0.01
"#
    );
    let recipe = place.file("prosqa_coconut.yaml", &recipe);
    let assert = train(&recipe, &["--dry-run"]).assert().success();
    let shown = stdout(&assert);
    assert!(shown.contains("lr: 0.0001"), "{shown}");
    assert!(shown.contains("method: coconut"), "{shown}");
    assert!(shown.contains("stage 6"), "{shown}");
    assert!(!place.path("runs").exists(), "--dry-run leaves a run behind");
}

#[test]
fn logits_have_a_row_a_position() {
    let place = trained();
    let checkpoint = place.checkpoint();
    let tokenizer = read_json(&checkpoint.join("tokenizer.json"));
    let added = tokenizer["added_tokens"].as_array().unwrap();
    let latent = added.iter().find(|token| token["content"] == "<|latent|>").unwrap();
    let latent = latent["id"].as_u64().unwrap();
    let vocabulary = read_json(&checkpoint.join("config.json"))["vocab_size"].as_u64().unwrap();
    let logits = |ids: &[u64]| {
        let ids: Vec<String> = ids.iter().map(u64::to_string).collect();
        let mut command = coconut(["logits"]);
        command.arg(&checkpoint).args(["--ids", &ids.join(","), "--json"]);
        command
    };
    let last = vocabulary - 1;

    for ids in [vec![last], vec![last, last - 1, last], vec![last, latent, latent, last]] {
        let printed = stdout(&logits(&ids).assert().success());
        let found: Value = serde_json::from_str(&printed).unwrap();
        let rows = found["logits"].as_array().unwrap();
        assert_eq!(rows.len(), ids.len(), "{ids:?}");
        for row in rows {
            let row = row.as_array().unwrap();
            assert_eq!(row.len() as u64, vocabulary);
            assert!(row.iter().all(Value::is_number), "{row:?}");
        }
    }
    let printed = stdout(&logits(&[last, latent, 7]).assert().success());
    let whole: Value = serde_json::from_str(&printed).unwrap();
    let lines = format!("{last},{latent},7\n\n {last}, 7\n");
    let from_lines = |lines: &str| {
        let mut command = assert_cmd::Command::from_std(coconut(["logits"]));
        command.arg(&checkpoint).arg("--last").write_stdin(lines).assert()
    };
    let printed = stdout(&from_lines(&lines).success());
    let rows: Vec<Value> = printed.lines().map(|row| serde_json::from_str(row).unwrap()).collect();
    assert_eq!(rows.len(), 2);
    assert_eq!(rows[0]["logits"].as_array().unwrap()[..], whole["logits"].as_array().unwrap()[2..]);
    let refusal = from_lines("7\n7;8\n").code(2);
    let said = String::from_utf8_lossy(&refusal.get_output().stderr).into_owned();
    assert!(said.contains("line 2 of standard input") && said.contains("`7;8`"), "{said}");
    refused(logits(&[latent, last]), &["--ids", "latent"]);
    refused(logits(&[last, vocabulary]), &["--ids", &vocabulary.to_string()]);
    refused(logits(&vec![last; 1000]), &["--ids", "1000"]);

    let weights = checkpoint.join("model.safetensors");
    let bytes = fs::read(&weights).unwrap();
    for length in [0, 4, 100, bytes.len() / 2, bytes.len() - 1] {
        fs::write(&weights, &bytes[..length]).unwrap();
        refused(logits(&[last]), &["model.safetensors"]);
    }
    fs::remove_file(&weights).unwrap();
    refused(logits(&[last]), &["model.safetensors"]);
}

#[test]
fn a_checkpoint_answers_and_is_evaluated() {
    let place = trained();
    let checkpoint = place.checkpoint();

    let mut generate = coconut(["generate"]);
    generate.arg(&checkpoint).args(["--latents", "2", "--prompt", "3+4*2", "--json"]);
    let printed = stdout(&generate.assert().success());
    let found: Value = serde_json::from_str(&printed).unwrap();
    assert!(found["answer"].is_string(), "{found}");
    assert_eq!(found["latents"], 2);
    assert_eq!(found["prompt"], "3+4*2");

    let data = place.path("f.json");
    let mut make = coconut(["data", "generate", "arithmetic", "-n", "20", "-o"]);
    make.arg(&data);
    make.args(["-s", "operations=[2,2]", "-s", "value_steps=True", "-s", "modulus=10"]);
    make.assert().success();
    assert_eq!(read_json(&data).as_array().unwrap().len(), 20);

    let mut eval = coconut(["eval"]);
    eval.arg(&checkpoint).arg("--data").arg(&data).arg("--json");
    let printed = stdout(&eval.assert().success());
    let row: Value = serde_json::from_str(&printed).unwrap();
    assert_eq!(row["method"], "coconut");
    assert_eq!(row["n"], 20, "{row}");
}

#[test]
fn every_recipe_can_be_tried_without_weights_or_data() {
    let place = Place::new();
    let recipes = Path::new(crate::ROOT).join("configs");
    for (name, last_stage, fetch) in [
        ("gsm_gpt2_cot", "stage CoT", "hf download openai-community/gpt2`"),
        ("gsm_gpt2", "stage 4", "runs/gsm_gpt2_cot/checkpoints/-1-21 is missing"),
        ("gsm_gpt2_codi", "stage 1: epochs 1 to 40", "hf download openai-community/gpt2`"),
        ("gsm_gpt2_pccot", "stage 1: epochs 1 to 40", "hf download openai-community/gpt2`"),
        ("gsm_gpt2_icot", "stage 39", "hf download openai-community/gpt2`"),
        ("gsm_gpt2_lotus", "stage 6: epochs 7 to 30", "gsm_gpt2_cot/checkpoints/-1-21 is missing"),
        ("gsm_gpt2_simcot", "stage 6: epochs 19 to 35", "gsm_gpt2_5/checkpoints/latest is missing"),
        ("gsm_llama_1b_codi", "stage 1", "hf download meta-llama/Llama-3.2-1B-Instruct`"),
        ("gsm_llama_1b_kava", "loss_kv: 1.0", "hf download meta-llama/Llama-3.2-1B-Instruct`"),
        ("gsm_llama_1b_lotus", "stage 6", "gsm_llama_1b_cot/checkpoints/latest is missing"),
        ("gsm_qwen3_0.6b", "stage 4", "hf download Qwen/Qwen3-0.6B`"),
        ("gsm_qwen3_0.6b_lora", "stage 4", "hf download Qwen/Qwen3-0.6B`"),
        ("gsm_smollm2", "stage 3", "hf download HuggingFaceTB/SmolLM2-135M-Instruct`"),
        ("prosqa_gpt2", "stage 7", "hf download openai-community/gpt2`"),
        ("prontoqa_gpt2", "stage 7", "hf download openai-community/gpt2`"),
    ] {
        let mut command = train(&recipes.join(format!("{name}.yaml")), &["--dry-run"]);
        command.current_dir(place.folder()).env("HF_HUB_CACHE", place.path("cache"));
        let shown = stdout(&command.assert().success());
        for words in [last_stage, fetch, "`val_path`: data/", "cannot start yet"] {
            assert!(shown.contains(words), "{name}: {words:?} is not in: {shown}");
        }
        assert_eq!(fs::read_dir(place.folder()).unwrap().count(), 0, "{name} leaves files");
    }
}

#[test]
fn a_checkpoint_keeps_how_questions_are_put() {
    let place = Place::new();
    let fixtures = crate::fixture("tokenizers/qwen");
    let tokenizer = fixtures.join("tokenizer.json").display().to_string();
    let keys = [
        ("tokenizer", tokenizer.as_str()),
        ("chat_template", "True"),
        ("system_prompt", "Answer after ###."),
    ];
    train(&place.recipe(&keys), &[]).assert().success();
    let generation = read_json(&place.checkpoint().join("generation_config.json"));
    assert_eq!(generation["eos_token_id"], json!([318, 316]), "im_end, endoftext");

    let mut generate = coconut(["generate"]);
    generate.arg(place.checkpoint()).args(["--latents", "1", "--prompt", "3+4*2", "--json"]);
    let found: Value = serde_json::from_str(&stdout(&generate.assert().success())).unwrap();
    let ids = found["prompt_ids"].as_array().unwrap();
    let turns = ids.iter().filter(|id| **id == 317).count(); // <|im_start|>
    assert_eq!((&ids[0], turns), (&json!(317), 3), "system, user, assistant: {found}");

    let gpt2 = fixtures.with_file_name("gpt2").join("tokenizer.json").display().to_string();
    let recipe = place.recipe(&[("tokenizer", &gpt2), ("chat_template", "True"), ("name", "s")]);
    refused(train(&recipe, &[]), &["gpt2", "chat template"]);
}

#[test]
fn a_model_that_is_not_here_is_told_how_to_fetch() {
    let place = Place::new();
    let recipe = place.recipe(&[("model_id", "org/name"), ("revision", "v2")]);
    let mut command = train(&recipe, &[]);
    command.env("HF_HUB_CACHE", place.path("cache"));
    refused(command, &["`model_id`", "hf download org/name --revision v2"]);
}

/// A snapshot whose weights, or whose tokenizer, were not fetched is no model to start from; one fetched by its commit
/// alone is.
#[test]
fn a_model_that_was_fetched_in_part_is_told_how_to_fetch_the_rest() {
    let trained = trained();
    let cache = trained.path("cache");
    let snapshot =
        cache.join("models--org--name/snapshots/607a30d783dfa663caf39e06633721c8d4cfcd7e");
    fs::create_dir_all(&snapshot).unwrap();
    for file in ["config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"] {
        fs::copy(trained.checkpoint().join(file), snapshot.join(file)).unwrap();
    }
    let recipe = trained.recipe(&[("model_id", "org/name"), ("name", "again")]);
    let dry_run = || {
        let mut command = train(&recipe, &["--dry-run"]);
        stdout(&command.env("HF_HUB_CACHE", &cache).assert().success())
    };
    assert!(!dry_run().contains("cannot start"), "{}", dry_run());
    for file in ["model.safetensors", "tokenizer.json"] {
        let aside = trained.path("aside");
        fs::rename(snapshot.join(file), &aside).unwrap();
        let printed = dry_run();
        for words in ["cannot start yet", file, "hf download org/name"] {
            assert!(printed.contains(words), "{words} is not in {printed}");
        }
        let mut command = train(&recipe, &[]);
        command.env("HF_HUB_CACHE", &cache);
        refused(command, &[file, "hf download org/name"]);
        fs::rename(&aside, snapshot.join(file)).unwrap();
    }
}

/// Adapters on a model that was trained before: resumed, used as they are, and merged.
#[test]
fn adapters_are_trained_resumed_and_merged() {
    let place = trained();
    let base = place.checkpoint();
    let keys = [
        ("load_model_path", base.to_str().unwrap()),
        ("lora_rank", "3"),
        ("lora_alpha", "9"),
        ("lora_dropout", "0.1"),
        ("lora_target_modules", "all-linear"),
        ("frozen_dtype", "bf16"),
        ("replacement_method", "proj(hs[-1])"),
        ("lr", "1e-2"),
        ("num_epochs", "2"),
        ("save_steps", "3"),
        ("keep_checkpoints", "0"),
        ("name", "adapted"),
    ];
    let recipe = place.recipe(&keys);
    train(&recipe, &[]).assert().success();
    let run = place.path("runs/adapted");
    let checkpoint = run.join("checkpoints/0-1");
    for (file, there) in [
        ("adapter_config.json", true),
        ("adapter_model.safetensors", true),
        ("latent.safetensors", true),
        ("tokenizer.json", true),
        ("model.safetensors", false),
        ("config.json", false),
    ] {
        assert_eq!(checkpoint.join(file).exists(), there, "{file}");
    }

    // Back to the middle of the first epoch, and on from there.
    let expected = (losses(&run), rows(&run));
    for entry in fs::read_dir(run.join("checkpoints")).unwrap() {
        let path = entry.unwrap().path();
        if !path.ends_with("-1-0.6") {
            fs::remove_dir_all(path).unwrap();
        }
    }
    train(&recipe, &["--resume"]).assert().success();
    assert_eq!((losses(&run), rows(&run)), expected);

    let logits = |checkpoint: &Path| -> Vec<f64> {
        let mut command = coconut(["logits"]);
        command.arg(checkpoint).args(["--ids", "3,4,5,6,7,8", "--json"]);
        let printed: Value = serde_json::from_str(&stdout(&command.assert().success())).unwrap();
        let rows = printed["logits"].as_array().unwrap().iter();
        rows.flat_map(|row| row.as_array().unwrap()).map(|x| x.as_f64().unwrap()).collect()
    };
    let merged = place.path("merged");
    coconut(["merge"]).arg(&checkpoint).arg("-o").arg(&merged).assert().success();
    let [before, adapted, merged_logits] = [&base, &checkpoint, &merged].map(|x| logits(x));
    let off =
        |a: &[f64], b: &[f64]| a.iter().zip(b).fold(0f64, |most, (a, b)| most.max((a - b).abs()));
    assert!(off(&adapted, &merged_logits) < 1e-4, "{}", off(&adapted, &merged_logits));
    assert!(off(&adapted, &before) > 1e-2, "training moved nothing");
    assert!(!merged.join("adapter_config.json").exists());
    let mut generate = coconut(["generate"]);
    generate.arg(&checkpoint).args(["--prompt", "3+4*2"]).assert().success();
    let mut again = coconut(["merge"]);
    again.arg(&checkpoint).arg("-o").arg(&merged);
    refused(again, &["merged", "not empty"]);
    let mut whole = coconut(["merge"]);
    whole.arg(&base).arg("-o").arg(place.path("other"));
    refused(whole, &["whole model already"]);
    let onto = [("load_model_path", checkpoint.to_str().unwrap()), ("name", "onto")];
    refused(train(&place.recipe(&onto), &[]), &["coconut merge"]);
    let planned = train(&place.recipe(&onto), &["--dry-run"]).assert().success();
    let planned = stdout(&planned);
    assert!(planned.contains("cannot start yet") && planned.contains("coconut merge"), "{planned}");
    refused(train(&place.recipe(&[("lora_rank", "4")]), &[]), &["`lora_rank`", "`model_id`"]);
    refused(train(&place.recipe(&[("lora_alpha", "4")]), &[]), &["`lora_alpha`", "`lora_rank`"]);
    let other = [("lora_target_modules", "q_proj"), ("name", "other")];
    let other = place.recipe(&[&keys[..2], &other].concat());
    refused(train(&other, &[]), &["`lora_target_modules`", "`q_proj`", "`c_attn`"]);
}
