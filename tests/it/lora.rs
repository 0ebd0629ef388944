//! Adapters against PEFT: folders that `peft` wrote, their logits, latent loss and gradients by
//! PyTorch's multi-pass forward (`python/make_fixtures.py`), and merging.

use std::{collections::BTreeMap, path::PathBuf};

use burn::{
    module::Module,
    tensor::{DType, Device},
};
use coconut::{
    checkpoint::load_transformer,
    latent::{
        self, LatentModel, Recompute, Wanted,
        backward::{BackwardOptions, backward},
        batch::{Batch, Row},
    },
    model::{
        Lora, Transformer,
        lora::{ADAPTER_FILE, ALL_LINEAR, Frozen, Targets},
        parameters,
        weights::{self, HostTensors},
    },
    objective,
    optim::AdamW,
};
use serde::Deserialize;

use crate::torch::{Case, fixtures, json, largest_difference, logits, tensors, thinking};

/// The second is tied, the third is not; the first stores its maps the other way round.
const MODELS: [&str; 3] = ["gpt2", "qwen2", "qwen3"];

#[derive(Deserialize)]
struct LoraCase {
    latent: u32,
    #[serde(flatten)]
    torch: Case,
}

fn load(name: &str) -> (Transformer, LoraCase, HostTensors) {
    let folder = fixtures().join("lora").join(name);
    let model = load_transformer(&folder, Frozen::F32, &Device::flex()).unwrap();
    let name = format!("lora_{name}");
    (model, json(&name), tensors(&name))
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

fn values(flat: &parameters::Flat) -> Vec<f32> {
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
        let trace = latent::forward(&model, &batch, Wanted::Predictions);
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
        let trace = latent::forward(&moved, &batch, Wanted::Predictions);
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
        let theirs = fixtures().join("lora").join(name);
        assert_eq!(read(place.path().into()), read(theirs.clone()), "{name}");
        let ours = Lora::find(place.path()).unwrap();
        assert_eq!(ours, Lora::find(&theirs).unwrap(), "{name}");
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
        let plain = Transformer::load(&fixtures().join(folder), &Device::flex()).unwrap();
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
        let batch = Batch::new(&[Row { ids: &ids, labels: &[] }], Some(40)).unwrap();
        let last = |model: Transformer| -> Vec<f32> {
            let ends = latent::forward(&thinking(model.clone()), &batch, Wanted::Predictions)
                .ends(&batch)
                .unwrap();
            model.logits(ends).into_data().try_into_vec().unwrap()
        };
        assert!(largest_difference(&last(plain), &last(adapted)) < 1e-5, "{folder} {targets:?}");
    }
    let plain = Transformer::load(&fixtures().join("latent"), &Device::flex()).unwrap();
    let none = Lora::new(4, Targets::Many(vec!["c_attn".into(), "q_proj".into()]));
    let (key, problem) = plain.with_lora(none, &[], 0).unwrap_err();
    assert_eq!(key, "lora_target_modules");
    assert!(problem.contains("`q_proj`") && problem.contains("`c_attn`, `c_fc`"), "{problem}");
}

#[test]
fn adapters_that_do_not_fit_are_refused_by_name() {
    let place = tempfile::tempdir().unwrap();
    let theirs = fixtures().join("lora/qwen2");
    let about = std::fs::read_to_string(theirs.join("adapter_config.json")).unwrap();
    let tensors = std::fs::read(theirs.join(ADAPTER_FILE)).unwrap();
    std::fs::write(place.path().join(ADAPTER_FILE), tensors).unwrap();
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
        std::fs::write(place.path().join("adapter_config.json"), &text).unwrap();
        match load_transformer(place.path(), Frozen::F32, &Device::flex()) {
            Ok(_) => assert_eq!(names, "", "{from} → {to} loads"),
            Err(error) => assert!(error.to_string().contains(names) && text != about, "{error}"),
        }
    }
}

/// Held in bf16, a model is the one whose matrices were rounded: same logits, loss and gradients.
#[test]
fn frozen_matrices_in_bf16_are_their_rounded_values() {
    for name in MODELS {
        let (model, case, _) = load(name);
        let batch = case.batch();
        let matrix = |name: &str, flat: &parameters::Flat| {
            flat.shape.len() == 2 && !name.contains("wpe") && !name.contains("lora_")
        };
        let flats = parameters::named(&model);
        let rounded = parameters::map(model.clone(), |name, x| {
            let own = name.contains("token_adapter") || !matrix(name, &flats[name]);
            if own { x } else { x.cast(DType::BF16).cast(DType::F32) }
        });
        let held = model.clone().hold(Frozen::Bf16);
        let off = logits_off_each_other(&thinking(model.clone()), &thinking(held.clone()), &case);
        assert!(off > 1e-4, "{name}: nothing was rounded, {off:e}");
        let off = logits_off_each_other(&thinking(rounded.clone()), &thinking(held.clone()), &case);
        assert!(off < 1e-6, "{name}: {off:e}");
        let merged = thinking(held.clone().merged());
        let off = logits_off_each_other(&thinking(rounded.clone()), &merged, &case);
        assert!(off < 1e-4, "{name}, merged: {off:e}");

        let gradients = [rounded, held].map(|model| {
            let model = thinking(model).train();
            let loss = |trace: &latent::Trace| {
                let targets = &batch.targets;
                Some((objective::cross_entropy(&model.transformer, &batch, trace, targets)?, ()))
            };
            let (reads, recompute) = (Wanted::Predictions, Recompute::Blocks);
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
        let ends = latent::forward(model, &batch, Wanted::Predictions).ends(&batch).unwrap();
        model.transformer.logits(ends).into_data().try_into_vec().unwrap()
    });
    largest_difference(&a, &b)
}
