//! Every family against PyTorch and transformers: logits, latent loss, every gradient, generation.
//! The models are tiny and odd: grouped heads, heads wider than their share, scaled rotary positions,
//! tied and untied (`python/fixtures/make_fixtures.py`).

use std::collections::BTreeMap;

use burn::module::Module;
use coconut::{
    eval::{GenerateOptions, Sampling, generate},
    latent::{
        self, LatentModel, PassPlan, ReadSet,
        batch::{Batch, Row},
    },
    model::{Transformer, parameters, weights::HostTensors},
    objective,
};
use serde::Deserialize;

use crate::device;
use crate::torch::{Case, fixtures, json, largest_difference, logits, tensors, thinking};

const FAMILIES: [&str; 7] =
    ["qwen2", "qwen3", "llama", "mistral", "smollm3", "olmo2", "gemma3_text"];

fn load(folder: &str) -> LatentModel {
    thinking(Transformer::load(&fixtures().join(folder), &device()).unwrap())
}

#[derive(Deserialize)]
struct Cases {
    latent: u32,
    mixed: Case,
    scattered: Case,
}

#[test]
fn logits_equal_pytorch_alone_and_among_batch_mates() {
    for family in FAMILIES {
        let model = load(&format!("families/{family}"));
        let cases: Cases = json(&format!("families_{family}"));
        let reference = tensors(&format!("families_{family}"));
        for (name, case) in [("mixed", &cases.mixed), ("scattered", &cases.scattered)] {
            let rows = case.unlabelled();
            let together = Batch::new(&rows, &PassPlan::sequential(cases.latent)).unwrap();
            let together = logits(&model, &together);
            for (at, row) in rows.iter().enumerate() {
                let theirs = &reference[&format!("{name}.logits.{at}")].1;
                let alone =
                    Batch::new(&[Row { ..*row }], &PassPlan::sequential(cases.latent)).unwrap();
                for ours in [&logits(&model, &alone)[0], &together[at]] {
                    let difference = largest_difference(ours, theirs);
                    assert!(difference < 1e-4, "{family}, {name} {at}: {difference:e}");
                }
            }
        }
    }
}

#[test]
fn loss_and_every_gradient_equal_pytorch() {
    for family in FAMILIES {
        let model = load(&format!("families/{family}")).train();
        let cases: Cases = json(&format!("families_{family}"));
        let reference = tensors(&format!("families_{family}"));
        for (name, case) in [("mixed", &cases.mixed), ("scattered", &cases.scattered)] {
            let batch = case.batch(cases.latent);
            check_loss_and_gradients(&model, &batch, case, &reference, name);
        }
    }
}

/// The latent loss of a batch, and every gradient against PyTorch's `<name>.grad.<parameter>`.
fn check_loss_and_gradients(
    model: &LatentModel,
    batch: &Batch,
    case: &Case,
    reference: &HostTensors,
    name: &str,
) {
    let family = model.transformer.config.family.name();
    let trace = latent::forward(model, batch, ReadSet::PREDICTIONS);
    assert_eq!(batch.targets.len(), case.labelled_tokens);
    let loss = objective::cross_entropy(&model.transformer, batch, &trace, &batch.targets).unwrap()
        / case.labelled_tokens as f64;
    let value = f64::from(loss.clone().into_scalar::<f32>());
    assert!((value / case.loss - 1.0).abs() < 1e-4, "{family}, {name}: {value}");

    let gradients = parameters::take_gradients(model, &mut loss.backward());
    let prefix = format!("{name}.grad.");
    let theirs: BTreeMap<&str, _> = reference
        .iter()
        .filter_map(|(key, tensor)| Some((key.strip_prefix(&prefix)?, tensor)))
        .collect();
    let names: Vec<&str> = gradients.keys().map(String::as_str).collect();
    assert_eq!(names, theirs.keys().copied().collect::<Vec<_>>(), "{family}");
    for (parameter, gradient) in &gradients {
        let (shape, theirs) = theirs[parameter.as_str()];
        assert_eq!(&gradient.shape, shape, "{family}: {parameter}");
        let ours: Vec<f32> = gradient.values.clone().into_data().try_into_vec().unwrap();
        // A bias of keys alone shifts all scores of a query alike, unless keys are turned
        // between: its gradient may be next to nothing, and is held to the others' size.
        let size = theirs.iter().fold(1e-3f32, |size, x| size.max(x.abs()));
        let difference = largest_difference(&ours, theirs) / size;
        assert!(difference < 1e-4, "{family}, {name}, {parameter}: {difference:e}");
    }
}

#[test]
fn files_of_other_types_and_shards_give_their_logits() {
    let reference = tensors("families_files");
    let ids: Vec<u32> = reference["ids"].1.iter().map(|&id| id as u32).collect();
    for name in ["f16", "bf16", "shards"] {
        let model = load(&format!("families/qwen2_{name}"));
        let batch = Batch::new(&[Row::unlabelled(&ids)], &PassPlan::default()).unwrap();
        let difference = largest_difference(&logits(&model, &batch)[0], &reference[name].1);
        assert!(difference < 1e-4, "{name}: {difference:e}");
    }
}

#[derive(Deserialize)]
struct Gelus {
    latent: u32,
    ids: Vec<u32>,
    names: Vec<String>,
    gelu: Case,
    gelu_fast: Case,
}

/// GPT-2 under each name that transformers has for GELU and its tanh form. The two functions are further apart than
/// the tolerance (`python/fixtures/make_model_files.py` checks that).
#[test]
fn each_gelu_of_gpt2_is_computed_by_its_name() {
    let about: Gelus = json("files/gelu");
    let reference = tensors("files/gelu");
    let named = |name: &str| {
        let place = tempfile::tempdir().unwrap();
        let from = fixtures().join("latent");
        let text = std::fs::read_to_string(from.join("config.json")).unwrap();
        let config = text.replace("\"gelu_new\"", &format!("\"{name}\""));
        assert_eq!(config == text, name == "gelu_new");
        std::fs::write(place.path().join("config.json"), config).unwrap();
        std::fs::copy(from.join("model.safetensors"), place.path().join("model.safetensors"))
            .unwrap();
        thinking(Transformer::load(place.path(), &device()).unwrap())
    };
    for name in &about.names {
        let batch = Batch::new(&[Row::unlabelled(&about.ids)], &PassPlan::default()).unwrap();
        let ours = &logits(&named(name), &batch)[0];
        let off = largest_difference(ours, &reference[&format!("{name}.logits")].1);
        assert!(off < 1e-4, "{name}: {off:e}");
    }
    for (name, case) in [("gelu", &about.gelu), ("gelu_fast", &about.gelu_fast)] {
        let model = named(name).train();
        let batch = case.batch(about.latent);
        check_loss_and_gradients(&model, &batch, case, &reference, name);
    }
}

#[derive(Deserialize)]
struct Generations {
    latent: u32,
    eos: u32,
    prompts: Vec<Vec<u32>>,
    generated: Vec<Vec<u32>>,
}

/// Cached, one prompt at a time and in batches padded on the left, against PyTorch's runs of the
/// whole row for each token.
#[test]
fn two_hundred_prompts_generate_the_same_tokens() {
    for family in ["gpt2"].into_iter().chain(FAMILIES) {
        let folder = if family == "gpt2" { family.into() } else { format!("families/{family}") };
        let model = load(&folder);
        let about: Generations = json(&format!("generate_{family}"));
        assert_eq!(about.prompts.len(), 200);
        let options = GenerateOptions {
            plan: PassPlan::sequential(about.latent),
            stops: &[about.eos],
            max_new_tokens: 8,
            sampling: Sampling::Greedy,
        };
        let prompts: Vec<&[u32]> = about.prompts.iter().map(Vec::as_slice).collect();
        for size in [1, 40] {
            for (at, prompts) in prompts.chunks(size).enumerate() {
                let ours = generate(&model, prompts, &options).unwrap();
                for (i, generation) in ours.iter().enumerate() {
                    let theirs = &about.generated[at * size + i];
                    assert_eq!(
                        &generation.ids, theirs,
                        "{family}, {size} at once: {:?}",
                        prompts[i]
                    );
                }
            }
        }
    }
}
