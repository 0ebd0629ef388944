//! Adapters against PEFT: folders that `peft` wrote, their logits, latent loss and gradients by
//! PyTorch's multi-pass forward (`python/fixtures/make_fixtures.py`), and merging.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use burn::{
    module::Module,
    tensor::{DType, Tensor},
};
use coconut::{
    checkpoint::{self, Checkpoint, load_transformer},
    data::{Method, Stage, Tokenizer},
    eval::{GenerateOptions, Sampling, generate},
    latent::{
        self, BackwardOptions, LatentModel, PassPlan, ReadSet, Recompute, backward,
        batch::{Batch, Row},
    },
    model::{
        Lora, ModelConfig, Transformer,
        lora::{ADAPTER_FILE, ALL_LINEAR, Base, CONFIG_FILE, FrozenDtype, Targets},
        parameters,
        weights::{self, HostTensors},
    },
    objective::{self, Learner},
    optim::AdamW,
};
use serde::Deserialize;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::device;
use crate::torch::{
    Case, fixtures, generator, json as read_json, largest_difference, logits, tensors, thinking,
};

/// The second is tied, the others of that kind are not; the first stores its maps the other way round.
const MODELS: [&str; 4] = ["gpt2", "qwen2", "qwen3", "llama"];

#[derive(Deserialize)]
struct LoraCase {
    latent: u32,
    #[serde(flatten)]
    torch: Case,
}

/// A copy of a fixture's folder. The model below is named from the repository's root, where tests do not run.
fn copy(folder: &Path) -> TempDir {
    let place = tempfile::tempdir().unwrap();
    std::fs::copy(folder.join(ADAPTER_FILE), place.path().join(ADAPTER_FILE)).unwrap();
    let about = std::fs::read_to_string(folder.join(CONFIG_FILE)).unwrap();
    let about = about.replace("tests/fixtures", &crate::fixture("").display().to_string());
    std::fs::write(place.path().join(CONFIG_FILE), about).unwrap();
    place
}

fn load(name: &str) -> (Transformer, LoraCase, HostTensors) {
    let folder = copy(&fixtures().join("lora").join(name));
    let model = load_transformer(folder.path(), FrozenDtype::F32, &device()).unwrap();
    let name = format!("lora_{name}");
    (model, read_json(&name), tensors(&name))
}

impl LoraCase {
    fn batch(&self) -> Batch {
        self.torch.batch(self.latent)
    }
}

/// The largest difference of any row's logits from PyTorch's.
fn logits_off(model: &LatentModel, case: &LoraCase, reference: &HostTensors) -> f32 {
    let rows = logits(model, &case.batch()).into_iter().enumerate();
    rows.map(|(row, ours)| largest_difference(&ours, &reference[&format!("logits.{row}")].1))
        .fold(0.0, f32::max)
}

fn values(flat: &parameters::FlatTensor) -> Vec<f32> {
    flat.values.clone().into_data().try_into_vec().unwrap()
}

#[test]
fn adapters_of_peft_give_its_logits_and_merged_ones_too() {
    for name in MODELS {
        let (model, case, reference) = load(name);
        let adapted = thinking(model.clone());
        let off = logits_off(&adapted, &case, &reference);
        assert!(off < 1e-4, "{name}: {off:e}");

        let merged = thinking(model.merged());
        let off = logits_off(&merged, &case, &reference);
        assert!(off < 1e-4, "{name}, merged: {off:e}");
        let names: Vec<String> = parameters::named(&merged).into_keys().collect();
        assert!(names.iter().all(|n| !n.contains("lora") && !n.contains("adapter")), "{names:?}");
    }
}

#[test]
fn loss_and_the_gradients_of_all_that_is_trained_equal_pytorch() {
    for name in MODELS {
        let (model, case, reference) = load(name);
        let model = thinking(model).train();
        let batch = case.batch();
        let trace = latent::forward(&model, &batch, ReadSet::PREDICTIONS);
        let loss = objective::cross_entropy(&model.transformer, &batch, &trace, &batch.targets)
            .unwrap()
            / case.torch.labelled_tokens as f64;
        let value = f64::from(loss.clone().into_scalar::<f32>());
        assert!(
            (value / case.torch.loss - 1.0).abs() < 1e-5,
            "{name}: {value}, PyTorch {}",
            case.torch.loss
        );

        let gradients = parameters::take_gradients(&model, &mut loss.backward());
        let theirs: BTreeMap<&str, _> = reference
            .iter()
            .filter_map(|(key, tensor)| Some((key.strip_prefix("grad.")?, tensor)))
            .collect();
        let names: Vec<&str> = gradients.keys().map(String::as_str).collect();
        assert_eq!(
            names,
            theirs.keys().copied().collect::<Vec<_>>(),
            "{name}: trained and no more"
        );
        for (parameter, gradient) in &gradients {
            let (shape, theirs) = theirs[parameter.as_str()];
            assert_eq!(&gradient.shape, shape, "{name}: {parameter}");
            let size = theirs.iter().fold(1e-12f32, |size, x| size.max(x.abs()));
            let off = largest_difference(&values(gradient), theirs) / size;
            assert!(off < 1e-4, "{name}, {parameter}: {off:e}");
        }

        // A step moves what has a gradient; what has none keeps every bit, and has none afterwards.
        let before = parameters::named(&model);
        let moved = AdamW::new([0.9, 0.999], 0.01).step(model, gradients.clone(), 1e-2, 1.0);
        for (parameter, flat) in parameters::named(&moved) {
            let same = values(&flat) == values(&before[&parameter]);
            assert_eq!(same, !gradients.contains_key(&parameter), "{name}: {parameter}");
        }
        let trace = latent::forward(&moved, &batch, ReadSet::PREDICTIONS);
        let loss =
            objective::cross_entropy(&moved.transformer, &batch, &trace, &batch.targets).unwrap();
        let again = parameters::take_gradients(&moved, &mut loss.backward());
        assert!(again.keys().eq(gradients.keys()), "{name}");
    }
}

#[test]
fn what_is_saved_is_what_peft_wrote() {
    for name in MODELS {
        let (model, ..) = load(name);
        let place = tempfile::tempdir().unwrap();
        model.save(place.path()).unwrap();
        let read = |folder: PathBuf| weights::read_tensors(&folder.join(ADAPTER_FILE)).unwrap();
        let theirs = copy(&fixtures().join("lora").join(name));
        assert_eq!(read(place.path().into()), read(theirs.path().into()), "{name}");
        let ours = Lora::find(place.path()).unwrap();
        assert_eq!(ours, Lora::find(theirs.path()).unwrap(), "{name}");
        assert!(ours.is_some());
    }
}

#[test]
fn fresh_adapters_change_nothing_and_are_where_they_were_asked_for() {
    for (folder, targets, adapters) in [
        ("latent", Targets::One(ALL_LINEAR.into()), 8),
        ("latent", Targets::Many(vec!["c_proj".into()]), 4),
        ("latent", Targets::Many(vec!["mlp.c_proj".into()]), 2),
        ("families/qwen3", Targets::One("v_proj".into()), 2),
        ("families/qwen3", Targets::One(ALL_LINEAR.into()), 14),
    ] {
        let plain = Transformer::load(&fixtures().join(folder), &device()).unwrap();
        let rank = 5;
        let lora = Lora { alpha: 10.0, ..Lora::new(rank, targets.clone()) };
        let adapted = plain.clone().with_lora(lora, &[38, 39, 40], 7).unwrap();
        let named = parameters::named(&adapted);
        let factor =
            |which: &'static str| named.iter().filter(move |(name, _)| name.ends_with(which));
        assert_eq!(factor("lora_A.weight").count(), adapters, "{folder} {targets:?}");
        for (name, flat) in factor("lora_A.weight") {
            // Uniform in ±1/√d_in: the mean square is a third of the bound's.
            let (values, bound) = (values(flat), 1.0 / (flat.shape[1] as f32).sqrt());
            assert_eq!(flat.shape[0], rank);
            assert!(values.iter().all(|x| x.abs() <= bound), "{name}");
            let square = values.iter().map(|x| x * x).sum::<f32>() / values.len() as f32;
            assert!((0.5..1.7).contains(&(3.0 * square / (bound * bound))), "{name}: {square}");
        }
        assert!(factor("lora_B.weight").all(|(_, flat)| values(flat).iter().all(|&x| x == 0.0)));

        let ids = [3, 38, 40, 40, 39, 7];
        let batch = Batch::new(&[Row::unlabelled(&ids)], &PassPlan::sequential(40)).unwrap();
        let last = |model: Transformer| -> Vec<f32> {
            let ends = latent::forward(&thinking(model.clone()), &batch, ReadSet::PREDICTIONS)
                .ends(&batch)
                .unwrap();
            model.logits(ends).into_data().try_into_vec().unwrap()
        };
        assert!(largest_difference(&last(plain), &last(adapted)) < 1e-5, "{folder} {targets:?}");
    }
    let plain = Transformer::load(&fixtures().join("latent"), &device()).unwrap();
    let none = Lora::new(4, Targets::Many(vec!["c_attn".into(), "q_proj".into()]));
    let (key, problem) = plain.with_lora(none, &[], 0).unwrap_err();
    assert_eq!(key, "lora_target_modules");
    assert!(problem.contains("`q_proj`") && problem.contains("`c_attn`, `c_fc`"), "{problem}");
}

fn variants() -> PathBuf {
    fixtures().join("files/adapters")
}

/// Less common folders of PEFT (`python/fixtures/make_model_files.py`): whole tables, resized vocabularies, ranks and scales a map.
#[test]
fn every_kind_of_folder_that_peft_writes_gives_its_logits() {
    let reference = tensors("files/adapters");
    let ids = [3, 14, 15, 9, 26, 5, 35, 8]; // as in the script
    let off = |model: &Transformer, name: &str| {
        let batch = Batch::new(&[Row::unlabelled(&ids)], &PassPlan::default()).unwrap();
        largest_difference(&logits(&thinking(model.clone()), &batch)[0], &reference[name].1)
    };
    assert!(reference.len() > 12);
    for name in reference.keys() {
        let folder = copy(&variants().join(name));
        let load = |folder: &Path| load_transformer(folder, FrozenDtype::F32, &device()).unwrap();
        let model = load(folder.path());
        assert!(off(&model, name) < 1e-4, "{name}: {:e}", off(&model, name));

        // Written again and merged it is the same model.
        let again = tempfile::tempdir().unwrap();
        model.save(again.path()).unwrap();
        let reread = load(again.path());
        assert!(off(&reread, name) < 1e-4, "{name}, written: {:e}", off(&reread, name));
        let merged = model.merged();
        assert!(off(&merged, name) < 1e-4, "{name}, merged: {:e}", off(&merged, name));
        let whole = tempfile::tempdir().unwrap();
        merged.save(whole.path()).unwrap();
        let reread = Transformer::load(whole.path(), &device()).unwrap();
        assert!(off(&reread, name) < 1e-4, "{name}, merged and written: {:e}", off(&reread, name));
    }
}

/// A copy of one folder with its `adapter_config.json` changed.
fn changed(name: &str, changes: &[(&str, Value)]) -> TempDir {
    let place = copy(&variants().join(name));
    let path = place.path().join(CONFIG_FILE);
    let mut about: Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
    for (key, value) in changes {
        about[*key] = value.clone();
    }
    std::fs::write(path, about.to_string()).unwrap();
    place
}

fn refused(folder: &Path, words: &[&str]) {
    let error = load_transformer(folder, FrozenDtype::F32, &device()).unwrap_err().to_string();
    for word in words {
        assert!(error.contains(word), "`{word}` is not in: {error}");
    }
}

#[test]
fn adapters_that_are_not_computed_are_refused_by_key_with_a_way_out() {
    let convert = "path_initial_model_for_weight_conversion";
    let merge = "merge_and_unload";
    for (key, value, words) in [
        ("init_lora_weights", json!("pissa"), [convert, merge]),
        ("init_lora_weights", json!("pissa_niter_4"), [convert, merge]),
        ("init_lora_weights", json!("olora"), [convert, merge]),
        ("init_lora_weights", json!("corda"), [convert, merge]),
        ("init_lora_weights", json!("lora_ga"), [convert, merge]),
        ("init_lora_weights", json!("loftq"), [convert, merge]),
        ("init_lora_weights", json!("nonsense"), [convert, merge]),
        ("use_dora", json!(true), ["not computed", merge]),
        ("kasa_config", json!({"beta": 1.0}), ["not computed", merge]),
        ("a_key_of_another_version", json!(3), ["not computed", merge]),
        ("bias", json!("lora_only"), ["none", merge]),
        ("modules_to_save", json!(["norm"]), ["`norm`", merge]),
        ("target_modules", json!(["q_proj", "lm_head"]), ["`lm_head`", merge]),
        ("target_modules", json!(["model.embed_tokens"]), ["embed_tokens", merge]),
        ("target_modules", json!(["wte", "c_attn"]), ["`wte`", merge]),
        ("rank_pattern", json!({"^model.*": 4}), ["regular expression", "^model.*"]),
        ("rank_pattern", json!({"q_proj": 0}), ["`r` is 0", "65536"]),
    ] {
        let place = changed("patterns", &[(key, value)]);
        refused(
            place.path(),
            &[&["adapter_config.json", key][..usize::from(key != "rank_pattern") + 1], &words]
                .concat(),
        );
    }
    for value in [json!(true), json!(false), json!("gaussian"), json!("orthogonal"), json!("eva")] {
        let place = changed("patterns", &[("init_lora_weights", value)]);
        load_transformer(place.path(), FrozenDtype::F32, &device()).unwrap();
    }

    // A table that is named and not there, and tables of two lengths.
    let place =
        changed("saved_embedding", &[("modules_to_save", json!(["embed_tokens", "lm_head"]))]);
    refused(place.path(), &["`lm_head.weight` is missing"]);
    let mut tensors =
        weights::read_tensors(&variants().join("resized_untied").join(ADAPTER_FILE)).unwrap();
    let place = changed("resized_untied", &[]);
    tensors.remove("base_model.model.lm_head.weight");
    weights::write_tensors(&place.path().join(ADAPTER_FILE), &named(tensors)).unwrap();
    refused(place.path(), &["[44, 41] rows"]);
}

fn named(tensors: HostTensors) -> parameters::NamedTensors {
    let flat = |(name, (shape, values)): (String, (Vec<usize>, Vec<f32>))| {
        (
            name,
            parameters::FlatTensor {
                shape,
                values: Tensor::from_data(values.as_slice(), &device()),
            },
        )
    };
    tensors.into_iter().map(flat).collect()
}

#[test]
fn adapters_elsewhere_or_pickled_are_named_with_what_to_do() {
    let place = changed("patterns", &[]);
    std::fs::rename(place.path().join(ADAPTER_FILE), place.path().join("adapter_model.bin"))
        .unwrap();
    refused(place.path(), &["adapter_model.bin", "pickled", "save_pretrained"]);

    let above = tempfile::tempdir().unwrap();
    let inner = above.path().join("french");
    std::fs::create_dir(&inner).unwrap();
    std::fs::write(inner.join("adapter_config.json"), "{}").unwrap();
    refused(above.path(), &["holds no model", &inner.display().to_string()]);
    let error = Checkpoint::load(above.path(), &device()).unwrap_err().to_string();
    assert!(error.contains(&inner.display().to_string()), "{error}");
}

/// A model of another program with a tokenizer that knows no markers, and adapters on it without a tokenizer of
/// their own: as `peft` leaves them.
fn plain_folders() -> (TempDir, PathBuf, PathBuf) {
    let place = tempfile::tempdir().unwrap();
    let [base, adapters] = ["base", "adapters"].map(|name| place.path().join(name));
    for folder in [&base, &adapters] {
        std::fs::create_dir(folder).unwrap();
    }
    let from = fixtures().with_file_name("tokenizers").join("smollm2");
    for file in ["tokenizer.json", "tokenizer_config.json"] {
        std::fs::copy(from.join(file), base.join(file)).unwrap();
    }
    let vocabulary = Tokenizer::load(&base).unwrap().loaded_size();
    let config = ModelConfig::gpt2(vocabulary, 64, 16, 1, 2);
    let model = Transformer::random(config, 3, &device());
    model.save(&base).unwrap();
    let below = Base { name: base.display().to_string(), revision: None };
    let lora = Lora { base: below, ..Lora::new(2, Targets::One(ALL_LINEAR.into())) };
    let model = model.with_lora(lora, &[], 4).unwrap();
    // Fresh adapters change nothing: these are to be seen.
    let model = parameters::map(model, |name, x| if name.contains("lora_B") { x + 0.3 } else { x });
    model.save(&adapters).unwrap();
    (place, base, adapters)
}

#[test]
fn folders_of_other_programs_are_opened_and_markers_without_rows_start_as_in_training() {
    let (place, base, adapters) = plain_folders();
    for folder in [&base, &adapters] {
        let Checkpoint { model, objective, tokenizer, latent } =
            Checkpoint::load(folder, &device()).unwrap();
        assert_eq!((latent.method, latent.stage), (Method::Cot, Stage::COT));
        let vocabulary = tokenizer.loaded_size();
        assert_eq!(tokenizer.vocab_size(), vocabulary + 3);
        assert_eq!(model.transformer.config.vocab_size, vocabulary + 3);
        let expected = load_transformer(folder, FrozenDtype::F32, &device()).unwrap();
        let expected =
            expected.init_token_rows(&tokenizer.added_markers(), tokenizer.marker_source());
        let table = |model: &Transformer| -> Vec<f32> {
            model.embeddings().whole().into_data().try_into_vec().unwrap()
        };
        assert_eq!(table(&model.transformer), table(&expected));
        let markers = tokenizer.special_tokens();
        let prompt = [3, 4, markers.start_latent, markers.end_latent];
        let options = GenerateOptions {
            plan: PassPlan::default(),
            stops: tokenizer.stops(),
            max_new_tokens: 3,
            sampling: Sampling::Greedy,
        };
        generate(&model, &[&prompt], &options).unwrap();

        // Merged and written, it opens again and is the same.
        let out = place.path().join("merged");
        let transformer = model.transformer.clone().merged();
        let whole = Learner { model: LatentModel { transformer, ..model.clone() }, objective };
        checkpoint::write_model(&out, &whole, &tokenizer, &latent).unwrap();
        let again = Checkpoint::load(&out, &device()).unwrap();
        assert_eq!(again.tokenizer.vocab_size(), vocabulary + 3);
        let batch = Batch::new(&[Row::unlabelled(&prompt)], &PassPlan::default()).unwrap();
        let off = largest_difference(&logits(&model, &batch)[0], &logits(&again.model, &batch)[0]);
        assert!(off < 1e-5, "{off:e}");
        std::fs::remove_dir_all(&out).unwrap();
    }

    // A checkpoint of this program that has lost its `latent.json` is damaged.
    std::fs::write(base.join("trainer.json"), "{}").unwrap();
    let error = Checkpoint::load(&base, &device()).unwrap_err().to_string();
    assert!(error.contains("latent.json"), "{error}");
}

#[test]
fn adapters_that_do_not_fit_are_refused_by_name() {
    let place = copy(&fixtures().join("lora/qwen2"));
    let about = std::fs::read_to_string(place.path().join(CONFIG_FILE)).unwrap();
    for (from, to, names) in [
        ("\"use_dora\": false", "\"use_dora\": true", "use_dora"),
        ("\"bias\": \"none\"", "\"bias\": \"all\"", "`bias`"),
        ("\"LORA\"", "\"IA3\"", "peft_type"),
        ("\"r\": 3", "\"r\": 4", "q_proj.lora_A.weight"),
        ("families/qwen2", "families/none", "base_model_name_or_path"),
        ("families/qwen2", "latent", "has no place in the model"),
        ("\"lora_alpha\": 5", "\"lora_alpha\": 6.5", ""),
    ] {
        let text = about.replace(from, to);
        std::fs::write(place.path().join(CONFIG_FILE), &text).unwrap();
        match load_transformer(place.path(), FrozenDtype::F32, &device()) {
            Ok(_) => assert_eq!(names, "", "{from} → {to} loads"),
            Err(error) => assert!(error.to_string().contains(names) && text != about, "{error}"),
        }
    }
}

/// Held in bf16, a model is the one whose matrices were rounded: same logits, loss and gradients.
#[test]
fn frozen_matrices_in_bf16_are_their_rounded_values() {
    if device() != coconut::device::cpu() {
        return; // the program refuses it there
    }
    for name in MODELS {
        let (model, case, _) = load(name);
        let batch = case.batch();
        let matrix = |name: &str, flat: &parameters::FlatTensor| {
            flat.shape.len() == 2 && !name.contains("wpe") && !name.contains("lora_")
        };
        let flats = parameters::named(&model);
        let rounded = parameters::map(model.clone(), |name, x| {
            let own = name.contains("token_adapter") || !matrix(name, &flats[name]);
            if own { x } else { x.cast(DType::BF16).cast(DType::F32) }
        });
        let held = model.clone().store_frozen_as(FrozenDtype::Bf16);
        let off = logits_off_each_other(&thinking(model.clone()), &thinking(held.clone()), &case);
        assert!(off > 1e-4, "{name}: nothing was rounded, {off:e}");
        let off = logits_off_each_other(&thinking(rounded.clone()), &thinking(held.clone()), &case);
        assert!(off < 1e-6, "{name}: {off:e}");
        let merged = thinking(held.clone().merged());
        let off = logits_off_each_other(&thinking(rounded.clone()), &merged, &case);
        assert!(off < 1e-4, "{name}, merged: {off:e}");

        let _alone = generator();
        let gradients = [rounded, held].map(|model| {
            let model = thinking(model).train();
            let loss = |trace: &latent::Trace| {
                let targets = &batch.targets;
                Some((objective::cross_entropy(&model.transformer, &batch, trace, targets)?, ()))
            };
            let (reads, recompute) = (ReadSet::PREDICTIONS, Recompute::Blocks);
            let options = BackwardOptions { reads, recompute, ..BackwardOptions::default() };
            backward(&model, &model, &batch, options, loss).unwrap().0
        });
        assert!(gradients[0].keys().eq(gradients[1].keys()), "{name}");
        for (parameter, flat) in &gradients[0] {
            let (ours, theirs) = (values(&gradients[1][parameter]), values(flat));
            let size = theirs.iter().fold(1e-12f32, |size, x| size.max(x.abs()));
            let off = largest_difference(&ours, &theirs) / size;
            assert!(off < 1e-6, "{name}, {parameter}: {off:e}");
        }
    }
}

fn logits_off_each_other(a: &LatentModel, b: &LatentModel, case: &LoraCase) -> f32 {
    let batch = case.batch();
    let [a, b] = [a, b].map(|model| -> Vec<f32> {
        let ends = latent::forward(model, &batch, ReadSet::PREDICTIONS).ends(&batch).unwrap();
        model.transformer.logits(ends).into_data().try_into_vec().unwrap()
    });
    largest_difference(&a, &b)
}
