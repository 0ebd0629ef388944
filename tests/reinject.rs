//! Reinjections, early passes detached, and Seq-VCR against PyTorch (`python/make_fixtures.py`): losses
//! and every gradient.

use std::collections::BTreeMap;

use burn::{
    module::Module,
    tensor::{Device, Tensor, TensorData},
};
use coconut::{
    data::batch::{Batch, Row},
    latent::{LatentModel, Thinking, Wanted, forward::forward_partly, model::Extras},
    loss::{self, seq_vcr},
    model::{Transformer, parameters, weights},
};
use serde_json::Value;

mod torch;
use torch::{distance, fixtures, json, tensors};

fn load(name: &str) -> (Value, weights::HostTensors) {
    (json(name), tensors(name))
}

fn thinking(name: &str, expression: &str) -> Thinking {
    let expression = expression.trim_end_matches(" relative").trim_end_matches(" unnormed");
    Thinking {
        suppressed_epsilon: if name.ends_with("relative") { 0.5 } else { 0.1 },
        suppressed_relative: name.ends_with("relative"),
        last_state_unnormed: name.ends_with("unnormed"),
        ..Thinking::from(expression.parse::<coconut::latent::Reinject>().unwrap())
    }
}

/// The tiny model, its learned parts those of the fixture.
fn model(thinking: Thinking, tensors: &weights::HostTensors) -> LatentModel {
    let transformer = Transformer::load(&fixtures().join("latent"), &Device::flex()).unwrap();
    let model = LatentModel::new(transformer, thinking, Extras::default()).unwrap();
    let LatentModel { transformer, thoughts, thinking } = model;
    let thoughts = parameters::map(thoughts, |name, value| {
        let part = name.strip_prefix("reinject.").unwrap();
        Tensor::from_data(tensors[&format!("part.{part}")].1.as_slice(), &value.device())
    });
    LatentModel { transformer, thoughts, thinking }
}

#[test]
fn loss_and_every_gradient_equal_pytorch() {
    let (about, tensors) = load("reinject_cases");
    let rows: Vec<(Vec<u32>, Vec<Option<u32>>)> = (about["rows"].as_array().unwrap().iter())
        .map(|row| {
            let ids = serde_json::from_value(row["ids"].clone()).unwrap();
            let labels: Vec<i64> = serde_json::from_value(row["labels"].clone()).unwrap();
            (ids, labels.into_iter().map(|label| u32::try_from(label).ok()).collect())
        })
        .collect();
    let latent = about["latent"].as_u64().unwrap() as u32;
    let mut cases = 0;
    for (name, case) in about.as_object().unwrap() {
        let Some(expression) = case["reinject"].as_str() else { continue };
        cases += 1;
        let detached = case["detached"].as_u64().map(|k| k as usize);
        let model = model(thinking(name, expression), &tensors).train();
        // The reference counts each row's own passes, so with passes detached rows run alone.
        let rows: Vec<Row> = rows.iter().map(|(ids, labels)| Row { ids, labels }).collect();
        let batches: Vec<&[Row]> =
            if detached.is_some() { rows.chunks(1).collect() } else { vec![&rows] };
        let labels: usize = rows.iter().map(|r| r.labels.iter().flatten().count()).sum();
        let (mut value, mut gradients) = (0.0, None);
        for rows in batches {
            let batch = Batch::new(rows, Some(latent)).unwrap();
            let trace = forward_partly(&model, &batch, Wanted::Predictions, detached);
            let loss =
                loss::cross_entropy(&model.transformer, &batch, &trace, &batch.targets).unwrap();
            let loss = loss / labels as f64;
            value += loss.clone().into_scalar::<f32>() as f64;
            let found = parameters::take_gradients(&model, &mut loss.backward());
            gradients = Some(coconut::train::optim::accumulate(gradients, found));
        }
        let expected = case["loss"].as_f64().unwrap();
        assert!((value / expected - 1.0).abs() < 1e-5, "{name}: loss {value}, PyTorch {expected}");
        let gradients = gradients.unwrap();
        for parameter in parameters::named(&model).keys() {
            let Some((_, theirs)) = tensors.get(&format!("{name}.grad.{parameter}")) else {
                let named = gradients.contains_key(parameter);
                panic!("{name}: {parameter} has no gradient in PyTorch, ours: {named}");
            };
            let ours = gradients[parameter].values.clone().into_data().try_into_vec().unwrap();
            let distance = distance(&ours, theirs);
            assert!(distance < 1e-4, "{name}: gradient of {parameter} differs by {distance:e}");
        }
    }
    assert_eq!(cases, 16);
}

/// W⁺ W (h' − h), with W⁺ = (WᵀW)⁻¹Wᵀ, is h' − h where W has full column rank.
#[test]
fn the_pseudo_inverse_of_the_head_changes_nothing() {
    const V: usize = 11;
    const D: usize = 6;
    let mut rng = coconut::rng::stream(5, &[1]);
    let mut normal = || f64::from(coconut::rng::standard_normal(&mut rng));
    let w: Vec<[f64; D]> = (0..V).map(|_| std::array::from_fn(|_| normal())).collect();
    let change: [f64; D] = std::array::from_fn(|_| normal());
    let logits: Vec<f64> = w.iter().map(|row| (0..D).map(|i| row[i] * change[i]).sum()).collect();
    // (WᵀW) x = Wᵀ (W change), by Gauss elimination with pivots.
    let mut system: Vec<Vec<f64>> = (0..D)
        .map(|i| {
            let products = (0..D).map(|j| w.iter().map(|row| row[i] * row[j]).sum());
            let right = w.iter().zip(&logits).map(|(row, y)| row[i] * y).sum();
            products.chain([right]).collect()
        })
        .collect();
    for column in 0..D {
        let pivot = (column..D)
            .max_by(|&a, &b| system[a][column].abs().total_cmp(&system[b][column].abs()));
        system.swap(column, pivot.unwrap());
        for row in 0..D {
            if row != column {
                let factor = system[row][column] / system[column][column];
                let above = system[column].clone();
                system[row].iter_mut().zip(above).for_each(|(x, y)| *x -= factor * y);
            }
        }
    }
    for i in 0..D {
        assert!((system[i][D] / system[i][i] - change[i]).abs() < 1e-10);
    }
}

#[test]
fn the_replications_last_hidden_state_is_zero() {
    let (about, tensors) = load("reinject_cases");
    let ids: Vec<u32> = serde_json::from_value(about["rows"][2]["ids"].clone()).unwrap();
    let batch = Batch::new(&[Row { ids: &ids, labels: &[] }], Some(40)).unwrap();
    let thoughts = |thinking: Thinking| -> Vec<Vec<f32>> {
        let model = model(thinking, &tensors);
        // Everything, so that both do the very same sums.
        let trace = forward_partly(&model, &batch, Wanted::Everything, None);
        trace.thoughts.into_iter().map(|x| x.into_data().try_into_vec().unwrap()).collect()
    };
    let compat = coconut::latent::Compat::Replication;
    let of = |text, compat| thoughts(Thinking { compat, ..thinking("", text) });
    assert!(of("hs[-1]", compat).concat().iter().all(|&x| x == 0.0));
    assert!(of("hs[-1]", Default::default()).concat().iter().any(|&x| x != 0.0));
    assert_eq!(of("suppressed[0:]", compat), of("suppressed[0:]", Default::default()));
}

#[test]
fn seq_vcr_equals_pytorch() {
    let (about, tensors) = load("seq_vcr");
    let mask: Vec<Vec<u8>> = serde_json::from_value(about["mask"].clone()).unwrap();
    let visible: Vec<Vec<bool>> =
        mask.iter().map(|row| row.iter().map(|&x| x == 1).collect()).collect();
    let number = |name: &str| about[name].as_f64().unwrap();
    for (name, divisor) in [("pairs", seq_vcr::Divisor::Pairs), ("width", seq_vcr::Divisor::Width)]
    {
        let loss = loss::SeqVcr {
            lambda1: number("lambda1"),
            lambda2: number("lambda2"),
            eta: number("eta"),
            layers: seq_vcr::Layers::All,
            divisor,
        };
        let (shape, values) = tensors["x"].clone();
        let x = Tensor::<3>::from_data(TensorData::new(values, shape), &Device::flex());
        let x = Tensor::from_inner(x).require_grad();
        let terms = loss.terms(x.clone(), &visible).unwrap();
        for (term, ours) in [("variance", &terms.variance), ("covariance", &terms.covariance)] {
            let ours = f64::from(ours.clone().into_scalar::<f32>());
            let theirs = about[name][term].as_f64().unwrap();
            assert!((ours / theirs - 1.0).abs() < 1e-5, "{name} {term}: {ours}, {theirs}");
        }
        let gradients = (terms.variance + terms.covariance).backward();
        let ours: Vec<f32> = x.grad(&gradients).unwrap().into_data().try_into_vec().unwrap();
        let distance = distance(&ours, &tensors[&format!("{name}.grad")].1);
        assert!(distance < 1e-5, "{name}: differs by {distance:e}");
        assert!(loss.terms(x.clone().narrow(0, 0, 1), &visible[..1]).is_none(), "one row");
    }
}

#[test]
fn learned_parts_are_saved_and_read_back() {
    let folder = tempfile::tempdir().unwrap();
    let transformer = Transformer::load(&fixtures().join("latent"), &Device::flex()).unwrap();
    let thinking = Thinking {
        latent_positions: coconut::latent::LatentPositions::Learned,
        ..thinking("", "mlp(hs[-1])+proj(ie)+pause")
    };
    let extras = Extras { latents: 3, seq_vcr: Some(5), seed: 9 };
    let model = LatentModel::new(transformer.clone(), thinking.clone(), extras).unwrap();
    model.save(folder.path()).unwrap();
    let back = LatentModel::load(
        Transformer::load(folder.path(), &Device::flex()).unwrap(),
        thinking,
        folder.path(),
    );
    let values = |model: &LatentModel| -> BTreeMap<String, Vec<f32>> {
        let named = parameters::named(model).into_iter();
        named.map(|(name, flat)| (name, flat.values.into_data().try_into_vec().unwrap())).collect()
    };
    assert_eq!(values(&back.unwrap()), values(&model));
    assert!(values(&model).contains_key("seq_vcr.weight"));
    // Another expression does not fit the file, and says which part is missing.
    let other = Thinking::from("pause+pause".parse::<coconut::latent::Reinject>().unwrap());
    let error = LatentModel::load(transformer, other, folder.path()).unwrap_err().to_string();
    assert!(error.contains("`reinject.pause.1.weight` is missing"), "{error}");
}
