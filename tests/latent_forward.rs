//! The latent forward pass against PyTorch's: logits, loss and every gradient. The reference runs
//! the whole model again for each latent, one row at a time (`python/make_fixtures.py`).

use std::{collections::BTreeMap, path::PathBuf};

use burn::module::Module;
use burn::tensor::Device;
use coconut::{
    data::batch::{Batch, Row},
    latent::{self, LatentModel},
    loss,
    model::{Transformer, parameters, weights},
};
use serde::Deserialize;

/// The latent token's id and the cases by name.
struct Cases {
    latent: u32,
    cases: BTreeMap<String, Case>,
}

#[derive(Deserialize)]
struct Case {
    loss: f64,
    labelled_tokens: usize,
    rows: Vec<CaseRow>,
}

#[derive(Deserialize)]
struct CaseRow {
    ids: Vec<u32>,
    labels: Vec<i64>,
}

type Tensors = BTreeMap<String, (Vec<usize>, Vec<f32>)>;

fn thinking(model: Transformer) -> LatentModel {
    LatentModel::new(model, Default::default(), Default::default()).unwrap()
}

fn fixtures() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/torch")
}

fn load() -> (LatentModel, Cases, Tensors) {
    let folder = fixtures();
    let model = thinking(Transformer::load(&folder.join("latent"), &Device::flex()).unwrap());
    let text = std::fs::read_to_string(folder.join("latent_cases.json")).unwrap();
    let file: BTreeMap<String, serde_json::Value> = serde_json::from_str(&text).unwrap();
    let latent = file["latent"].as_u64().unwrap() as u32;
    let cases: BTreeMap<_, _> = file
        .into_iter()
        .filter_map(|(name, value)| Some((name, serde_json::from_value(value).ok()?)))
        .collect();
    assert_eq!(cases.len(), 6);
    let tensors = weights::read_tensors(&folder.join("latent_cases.safetensors")).unwrap();
    (model, Cases { latent, cases }, tensors)
}

fn labels(row: &CaseRow) -> Vec<Option<u32>> {
    row.labels.iter().map(|&label| u32::try_from(label).ok()).collect()
}

/// Largest difference relative to the largest value of the reference.
fn distance(ours: &[f32], reference: &[f32]) -> f32 {
    assert_eq!(ours.len(), reference.len());
    let scale = reference.iter().fold(1e-12f32, |m, x| m.max(x.abs()));
    ours.iter().zip(reference).fold(0f32, |m, (a, b)| m.max((a - b).abs())) / scale
}

#[test]
fn loss_and_every_gradient_equal_pytorch() {
    let (model, cases, reference) = load();
    let model = model.train();
    for (name, case) in &cases.cases {
        let labels: Vec<_> = case.rows.iter().map(labels).collect();
        let rows: Vec<_> = case
            .rows
            .iter()
            .zip(&labels)
            .map(|(row, labels)| Row { ids: &row.ids, labels })
            .collect();
        let batch = Batch::new(&rows, Some(cases.latent)).unwrap();
        let trace = latent::forward(&model, &batch);
        assert_eq!(batch.targets.len(), case.labelled_tokens, "{name}");
        let loss = loss::cross_entropy(&model.transformer, &batch, &trace, &batch.targets).unwrap()
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

#[test]
fn logits_at_every_position_equal_pytorch_alone_and_among_batch_mates() {
    let (model, cases, reference) = load();
    for (name, case) in &cases.cases {
        let rows: Vec<_> = case.rows.iter().map(|row| Row { ids: &row.ids, labels: &[] }).collect();
        let batches = (rows.iter().map(std::slice::from_ref)).chain([rows.as_slice()]);
        for rows in batches {
            let batch = Batch::new(rows, Some(cases.latent)).unwrap();
            let trace = latent::forward(&model, &batch);
            for (index, row) in rows.iter().enumerate() {
                let cells: Vec<_> =
                    batch.columns_of(index).into_iter().map(|column| (index, column)).collect();
                let hidden = trace.last_hidden(&batch, &cells).unwrap();
                let ours: Vec<f32> =
                    model.transformer.logits(hidden).into_data().try_into_vec().unwrap();
                let position = case.rows.iter().position(|r| r.ids == row.ids).unwrap();
                let (_, theirs) = &reference[&format!("{name}.logits.{position}")];
                let distance = distance(&ours, theirs);
                assert!(distance < 1e-5, "{name}, row {position}: differs by {distance:e}");
            }
        }
    }
}
