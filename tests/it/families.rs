//! Every family against PyTorch and transformers: logits, latent loss, every gradient, generation.
//! The models are tiny and odd: grouped heads, heads wider than their share, scaled rotary positions,
//! tied and untied (`python/make_fixtures.py`).

use std::collections::BTreeMap;

use burn::{module::Module, tensor::Device};
use coconut::{
    eval::{GenerateOptions, Sampling, generate},
    latent::{
        self, LatentModel, Wanted,
        batch::{Batch, Row},
    },
    model::{Transformer, parameters},
    objective,
};
use serde::Deserialize;

use crate::torch::{Case, fixtures, json, largest_difference, logits, tensors, thinking};

const FAMILIES: [&str; 3] = ["qwen2", "qwen3", "llama"];

fn load(folder: &str) -> LatentModel {
    thinking(Transformer::load(&fixtures().join(folder), &Device::flex()).unwrap())
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
            let together = Batch::new(&rows, Some(cases.latent)).unwrap();
            let together = logits(&model, &together);
            for (at, row) in rows.iter().enumerate() {
                let theirs = &reference[&format!("{name}.logits.{at}")].1;
                let alone = Batch::new(&[Row { ..*row }], Some(cases.latent)).unwrap();
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
            let trace = latent::forward(&model, &batch, Wanted::Predictions);
            assert_eq!(batch.targets.len(), case.labelled_tokens);
            let loss = objective::cross_entropy(&model.transformer, &batch, &trace, &batch.targets)
                .unwrap()
                / case.labelled_tokens as f64;
            let value = f64::from(loss.clone().into_scalar::<f32>());
            assert!((value / case.loss - 1.0).abs() < 1e-4, "{family}, {name}: {value}");

            let gradients = parameters::take_gradients(&model, &mut loss.backward());
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
    }
}

#[test]
fn files_of_other_types_and_shards_give_their_logits() {
    let reference = tensors("families_files");
    let ids: Vec<u32> = reference["ids"].1.iter().map(|&id| id as u32).collect();
    for name in ["f16", "bf16", "shards"] {
        let model = load(&format!("families/qwen2_{name}"));
        let batch = Batch::new(&[Row { ids: &ids, labels: &[] }], None).unwrap();
        let difference = largest_difference(&logits(&model, &batch)[0], &reference[name].1);
        assert!(difference < 1e-4, "{name}: {difference:e}");
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
    for family in ["gpt2", "qwen2", "qwen3", "llama"] {
        let folder = if family == "gpt2" { family.into() } else { format!("families/{family}") };
        let model = load(&folder);
        let about: Generations = json(&format!("generate_{family}"));
        assert_eq!(about.prompts.len(), 200);
        let options = GenerateOptions {
            latent: Some(about.latent),
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
