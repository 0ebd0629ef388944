//! The latent forward pass against PyTorch's: logits, loss and every gradient. The reference runs
//! the whole model again for each latent, one row at a time (`python/fixtures/make_fixtures.py`).

use std::collections::BTreeMap;

use burn::{module::Module, tensor::Device};
use coconut::{
    latent::{self, Batch, LatentModel, PassPlan, ReadSet},
    model::{Transformer, parameters, weights::HostTensors},
    objective,
};
use coconut_kernels::Precision;

use crate::device;
use crate::torch::{Case, distance, fixtures, json, logits, tensors, thinking};

/// The latent token's id and the cases by name.
struct Cases {
    latent: u32,
    cases: BTreeMap<String, Case>,
}

fn load(device: &Device) -> (LatentModel, Cases, HostTensors) {
    let model = thinking(Transformer::load(&fixtures().join("latent"), device).unwrap());
    let file: BTreeMap<String, serde_json::Value> = json("latent_cases");
    let latent = file["latent"].as_u64().unwrap() as u32;
    let cases: BTreeMap<_, _> = file
        .into_iter()
        .filter_map(|(name, value)| Some((name, serde_json::from_value(value).ok()?)))
        .collect();
    assert_eq!(cases.len(), 6);
    (model, Cases { latent, cases }, tensors("latent_cases"))
}

#[test]
fn loss_and_every_gradient_equal_pytorch() {
    let (model, cases, reference) = load(&device());
    let model = model.train();
    let reads = [ReadSet::ALL, ReadSet::PREDICTIONS];
    for ((name, case), reads) in cases.cases.iter().flat_map(|case| reads.map(|w| (case, w))) {
        let batch = case.batch(cases.latent);
        let trace = latent::forward(&model, &batch, reads);
        assert_eq!(batch.targets.len(), case.labelled_tokens, "{name}");
        let loss = objective::cross_entropy(&model.transformer, &batch, &trace, &batch.targets)
            .unwrap()
            / case.labelled_tokens as f64;
        let value = loss.clone().into_scalar::<f32>() as f64;
        assert!(
            (value / case.loss - 1.0).abs() < 1e-5,
            "{name}: loss {value}, PyTorch {}",
            case.loss
        );

        let gradients = parameters::take_gradients(&model, &mut loss.backward());
        assert_eq!(gradients.len(), 28, "{name}: every parameter has a gradient");
        for (parameter, gradient) in gradients {
            let ours: Vec<f32> = gradient.values.into_data().try_into_vec().unwrap();
            let (shape, theirs) = &reference[&format!("{name}.grad.{parameter}")];
            assert_eq!(&gradient.shape, shape, "{name}: {parameter}");
            let distance = distance(&ours, theirs);
            assert!(distance < 1e-4, "{name}: gradient of {parameter} differs by {distance:e}");
        }
    }
}

/// Products in bf16 give nearly the same, and not the same: a number of 8 bits is off by up to 1/512.
#[test]
fn products_in_bf16_are_near_pytorch_in_f32() {
    // The CPU alone has them.
    let (mut model, cases, reference) = load(&coconut::device::cpu());
    model.transformer.config.precision = Precision::Bf16;
    let model = model.train();
    for (name, case) in &cases.cases {
        let batch = case.batch(cases.latent);
        let trace = latent::forward(&model, &batch, ReadSet::PREDICTIONS);
        let loss = objective::cross_entropy(&model.transformer, &batch, &trace, &batch.targets)
            .unwrap()
            / case.labelled_tokens as f64;
        let value = loss.clone().into_scalar::<f32>() as f64;
        assert!((value / case.loss - 1.0).abs() < 1e-2, "{name}: {value}, f32 {}", case.loss);
        for (parameter, gradient) in parameters::take_gradients(&model, &mut loss.backward()) {
            let ours: Vec<f32> = gradient.values.into_data().try_into_vec().unwrap();
            let (_, theirs) = &reference[&format!("{name}.grad.{parameter}")];
            let distance = distance(&ours, theirs);
            assert!((1e-4..0.1).contains(&distance), "{name}: {parameter} differs by {distance:e}");
        }
    }
}

#[test]
fn logits_at_every_position_equal_pytorch_alone_and_among_batch_mates() {
    let (model, cases, reference) = load(&device());
    for (name, case) in &cases.cases {
        let rows = case.unlabelled();
        let batches = (rows.iter().map(std::slice::from_ref)).chain([rows.as_slice()]);
        for rows in batches {
            let batch = Batch::new(rows, &PassPlan::sequential(cases.latent)).unwrap();
            for (row, ours) in rows.iter().zip(logits(&model, &batch)) {
                let position = case.rows.iter().position(|r| r.ids == row.ids).unwrap();
                let (_, theirs) = &reference[&format!("{name}.logits.{position}")];
                let distance = distance(&ours, theirs);
                assert!(distance < 1e-5, "{name}, row {position}: differs by {distance:e}");
            }
        }
    }
}
