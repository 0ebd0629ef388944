//! The step decoder as its users meet it: texts of slots, runs that go on, thoughts read out, refusals.

use std::{fs, path::Path};

use assert_cmd::assert::OutputAssertExt;
use coconut::{
    data::{Curriculum, Encoded, Method, RowKind, SampleKey, SpecialTokens, Stage, encode::Text},
    objective::{DecoderSettings, DecoderStyle},
};
use serde_json::Value;

use crate::program::{Place, back_to, coconut, refused, train};

const MARKERS: SpecialTokens =
    SpecialTokens { start_latent: 91, end_latent: 92, latent: 90, eos: 99, pad: 98 };

/// The texts of the slots of an example's row; its k-th step is `10k, 10k + 1`, its answer `7 8 99`.
fn texts(
    style: DecoderStyle,
    curriculum: &Curriculum,
    (stage, steps, last_step): (i32, u32, bool),
) -> Vec<Option<Vec<u32>>> {
    let steps = (1..=steps).map(|k| vec![10 * k, 10 * k + 1]).collect();
    let (question, answer) = (vec![1, 2], vec![7, 8, 99]);
    let example = Encoded::Text(Text { question, steps, answer, value_start: 1 });
    let key = SampleKey { seed: 0, epoch: 0, index: 0 };
    let row = curriculum.train_sequence(&example, Stage(stage), MARKERS, key);
    DecoderSettings { style, blocks: None, last_step, cut: false }.texts(&row, curriculum)
}

#[test]
fn a_block_is_read_as_its_step() {
    let some = |ids: &[u32]| Some(ids.to_vec());
    let of = |curriculum: &Curriculum, stage, steps| {
        texts(DecoderStyle::Coconut, curriculum, (stage, steps, false))
    };
    // At most two stages that speak, two latents a block.
    let staged = Curriculum::new(Method::Coconut, 2, 2, false);
    assert_eq!(of(&staged, -1, 3), []);
    assert_eq!(of(&staged, 0, 3), []);
    assert_eq!(of(&staged, 1, 3), [some(&[10, 11, 99])]);
    assert_eq!(of(&staged, 2, 3), [some(&[10, 11, 99]), some(&[20, 21, 99])]);
    // At the last stage nothing is spoken: the last block has all that is left.
    assert_eq!(of(&staged, 3, 3), [some(&[10, 11, 99]), some(&[20, 21, 30, 31, 99])]);
    assert_eq!(of(&staged, 3, 1), [some(&[10, 11, 99])]);
    // Blocks beyond the steps have the answer.
    let padded = Curriculum { pad_latent_to_max: true, ..staged.clone() };
    assert_eq!(of(&padded, 2, 1), [some(&[10, 11, 99]), some(&[7, 8, 99])]);
    // Rows of blocks speak what is left for good.
    let blocks = Curriculum { row: RowKind::Blocks, ..staged };
    assert_eq!(of(&blocks, 3, 3), [some(&[10, 11, 99]), some(&[20, 21, 99])]);
}

#[test]
fn a_single_thought_is_read_as_the_teachers_step() {
    let some = |ids: &[u32]| Some(ids.to_vec());
    let codi = Curriculum::new(Method::Codi, 2, 3, false);
    let of = |stage, steps, last| texts(DecoderStyle::Codi, &codi, (stage, steps, last));
    assert_eq!(of(-1, 3, false), []);
    assert_eq!(of(1, 1, false), [None, None, None]);
    assert_eq!(of(1, 1, true), [some(&[10, 11, 99]), None, None]);
    assert_eq!(of(1, 3, false), [some(&[10, 11, 99]), some(&[20, 21, 99]), None]);
    // Two latents have three slots, the last of which has all that is left.
    let all = [some(&[10, 11, 99]), some(&[20, 21, 99]), some(&[30, 31, 40, 41, 99])];
    assert_eq!(of(1, 4, true), all);
    assert_eq!(of(1, 5, false), all);
}

/// The files of a checkpoint that a resumed run must find again bit by bit.
fn weights(folder: &Path, transformer: &str) -> Vec<Vec<u8>> {
    let files = [transformer, "latent.safetensors", "optimizer.safetensors"];
    files.map(|file| fs::read(folder.join(file)).unwrap()).to_vec()
}

/// Trains, goes back to the checkpoint `back_to`, and on from there: the newest is the same both times.
fn resumed(recipe: &Path, run: &Path, checkpoint: &str, transformer: &str) {
    train(recipe, &[]).assert().success();
    let last = run.join("checkpoints/latest").canonicalize().unwrap();
    let whole = weights(&last, transformer);
    back_to(run, &[checkpoint]);
    train(recipe, &["--resume"]).assert().success();
    assert!(weights(&last, transformer) == whole, "resumed, it ends elsewhere");
}

/// The texts read out in the samples of a run's stage.
fn readouts(run: &Path, stage: i64) -> Vec<Vec<String>> {
    let text = fs::read_to_string(run.join("samples.jsonl")).unwrap();
    let samples = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let of_stage = samples.filter(|sample| sample["stage"] == stage);
    of_stage
        .map(|sample| serde_json::from_value(sample["readout"].clone()).unwrap_or_default())
        .collect()
}

/// What `coconut generate --thoughts` prints for a checkpoint.
fn generated(checkpoint: &Path, more: &[&str]) -> String {
    let mut generate = coconut(["generate"]);
    generate.arg(checkpoint).args(["--thoughts", "--prompt", "3+4*2"]).args(more);
    String::from_utf8(generate.assert().success().get_output().stdout.clone()).unwrap()
}

#[test]
fn a_run_with_a_decoder_goes_on_and_reads_thoughts_out() {
    let place = Place::new();
    let recipe = place.recipe(&[
        ("n_layer", "2"),
        ("decoder_layers", "1"),
        ("step_decoder", "coconut"),
        ("reset_optimizer", "False"),
        ("dropout", "0.1"),
        ("lr", "1e-2"),
        ("save_steps", "6"),
        ("keep_checkpoints", "0"),
        ("baselines", "[pause]"),
    ]);
    let run = place.run();
    resumed(&recipe, &run, "2-3.6", "model.safetensors");

    // The first eight questions of the last stage, two blocks of latents each.
    let read = readouts(&run, 3);
    assert_eq!(read.len(), 20);
    let slots: Vec<usize> = read.iter().map(Vec::len).collect();
    assert_eq!(slots, [vec![2; 8], vec![0; 12]].concat());
    assert!(read.iter().flatten().any(|text| !text.is_empty()), "{read:?}");
    assert!(readouts(&run, -1).iter().all(Vec::is_empty));
    let metrics = fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    assert!(metrics.contains("\"loss_decoder\""), "{metrics}");
    let checkpoint = run.join("checkpoints/3-4");
    let latent = fs::read_to_string(checkpoint.join("latent.json")).unwrap();
    assert!(latent.contains("\"step_decoder\": \"coconut\""), "{latent}");

    let found: Value = serde_json::from_str(&generated(&checkpoint, &["--json"])).unwrap();
    assert_eq!(found["readout"].as_array().unwrap().len(), 2, "{found}");
    coconut(["report"]).arg(&run).assert().success();
    let report = fs::read_to_string(run.join("report.html")).unwrap();
    assert!(report.contains("<dt>read 2</dt>"), "no thoughts are read out");
}

/// The decoder is the plain base, trained in full beside its adapters.
#[test]
fn a_decoder_beside_adapters_goes_on() {
    let place = Place::new();
    train(&place.recipe(&[("name", "base"), ("num_epochs", "1")]), &[]).assert().success();
    let base = place.path("runs/base/checkpoints/latest").canonicalize().unwrap();
    let recipe = place.recipe(&[
        ("load_model_path", base.to_str().unwrap()),
        ("method", "codi"),
        ("cot_epochs", "0"),
        ("step_decoder", "codi"),
        ("teacher_last_step", "True"),
        ("c_thought", "1"),
        ("loss_decoder", "0.5"),
        ("recompute", "passes"),
        ("lora_rank", "3"),
        ("lora_dropout", "0.1"),
        ("gradient_accumulation_steps", "2"),
        ("num_epochs", "2"),
        ("save_steps", "3"),
        ("keep_checkpoints", "0"),
        ("eval_at", "end"),
    ]);
    train(&recipe, &["-s", "name=once"]).assert().success();
    let last = place.path("runs/once/checkpoints/latest").canonicalize().unwrap();
    let stage = last.file_name().unwrap().to_str().unwrap().strip_suffix("-1").unwrap().to_owned();
    resumed(&recipe, &place.run(), &format!("{stage}-0.3"), "adapter_model.safetensors");
    let moments = fs::read(last.join("optimizer.safetensors")).unwrap();
    let trained = |name: &str| moments.windows(name.len()).any(|part| part == name.as_bytes());
    assert!(trained("\"first.decoder.transformer.h.0.mlp.c_fc.weight\""));
    assert!(trained("\"first.decoder.transformer.wte.weight\""));
    assert!(!trained("\"first.transformer.h.0.mlp.c_fc.weight\""));
    let read = readouts(&place.run(), stage.parse().unwrap());
    assert_eq!(read.iter().map(Vec::len).max(), Some(2), "one latent has two slots");
    let merged = place.path("merged");
    let mut merge = coconut(["merge"]);
    merge.arg(place.run().join("checkpoints/latest")).arg("-o").arg(&merged).assert().success();
    assert!(generated(&merged, &[]).contains("read 2: "));
}

#[test]
fn what_a_decoder_cannot_read_is_refused_by_its_key() {
    let place = Place::new();
    let with = |key: &str, more: &[(&str, &str)]| {
        refused(train(&place.recipe(more), &[]), &[&format!("`{key}`")]);
    };
    let coconut = ("step_decoder", "coconut");
    let codi = [("step_decoder", "codi"), ("method", "codi")];
    with("step_decoder", &[("step_decoder", "words")]);
    with("step_decoder", &[("step_decoder", "codi")]);
    with("step_decoder", &[coconut, ("method", "codi")]);
    with("step_decoder", &[coconut, ("method", "no_cot")]);
    with("step_decoder", &[coconut, ("method", "pause")]);
    with("step_decoder", &[coconut, ("c_thought", "0")]);
    with("step_decoder", &[coconut, ("thinking", "parallel"), ("iterations", "0")]);
    with("step_decoder", &[codi[0], codi[1], ("thinking", "parallel")]);
    with("compat", &[coconut, ("compat", "replication")]);
    with("compat", &[coconut, ("compat", "simcot")]);
    with("compat", &[("compat", "simcot")]);
    with("n_detached_recursions", &[coconut, ("n_detached_recursions", "1")]);
    with("loss_decoder", &[coconut, ("loss_decoder", "-1")]);
    with("loss_decoder", &[("loss_decoder", "2")]);
    with("decoder_layers", &[("decoder_layers", "1")]);
    with("decoder_layers", &[coconut, ("decoder_layers", "0")]);
    with("decoder_layers", &[coconut, ("decoder_layers", "2")]);
    let runs = format!("save_path: {}\n", place.path("graphs").display());
    let graph = "task: graph\ntrain_examples: 4\nval_examples: 2\nstep_decoder: coconut\n";
    refused(train(&place.file("graph.yaml", &(runs + graph)), &[]), &["`step_decoder`"]);
    // Absent is none, and none is absent.
    let none = [("step_decoder", "none"), ("num_epochs", "1"), ("n_positions", "40")];
    let none = place.recipe(&none);
    train(&none, &[]).assert().success();
    let base = place.run().join("checkpoints/latest").canonicalize().unwrap();
    let base = ("load_model_path", base.to_str().unwrap());
    with("decoder_layers", &[coconut, ("name", "s"), ("decoder_layers", "2"), base]);
}
