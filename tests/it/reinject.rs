//! Reinjections, early passes detached, and Seq-VCR against PyTorch (`python/fixtures/make_fixtures.py`): losses
//! and every gradient.

use std::collections::BTreeMap;

use burn::{
    module::Module,
    tensor::{Tensor, TensorData},
};
use coconut::{
    latent::{
        self, Compat, Feedback, ForwardOptions, LatentConfig, LatentModel, LatentPositions,
        LatentSizes, PassPlan, ReadSet,
        batch::{Batch, Row},
    },
    model::{ModelConfig, Transformer, parameters, weights},
    objective::{self, Learner, Objective, SeqVcr, Term, seq_vcr},
};
use serde_json::Value;

use crate::device;
use crate::torch::{distance, fixtures, json, tensors};

fn load(name: &str) -> (Value, weights::HostTensors) {
    (json(name), tensors(name))
}

fn thinking(name: &str, expression: &str) -> LatentConfig {
    let expression = expression.trim_end_matches(" relative").trim_end_matches(" unnormed");
    LatentConfig {
        suppressed_epsilon: if name.ends_with("relative") { 0.5 } else { 0.1 },
        suppressed_relative: name.ends_with("relative"),
        last_state_unnormed: name.ends_with("unnormed"),
        ..LatentConfig::from(expression.parse::<Feedback>().unwrap())
    }
}

/// The tiny model, its learned parts those of the fixture.
fn model(thinking: LatentConfig, tensors: &weights::HostTensors) -> LatentModel {
    let transformer = Transformer::load(&fixtures().join("latent"), &device()).unwrap();
    let model = LatentModel::new(transformer, thinking, LatentSizes::default()).unwrap();
    let LatentModel { transformer, parameters, config } = model;
    let parameters = parameters::map(parameters, |name, value| {
        let part = name.strip_prefix("reinject.").unwrap();
        Tensor::from_data(tensors[&format!("part.{part}")].1.as_slice(), &value.device())
    });
    LatentModel { transformer, parameters, config }
}

/// Rows of a fixture, and the latent token's id.
struct Rows {
    rows: Vec<(Vec<u32>, Vec<Option<u32>>)>,
    latent: u32,
}

impl Rows {
    fn of(about: &Value) -> Self {
        let row = |row: &Value| {
            let ids = serde_json::from_value(row["ids"].clone()).unwrap();
            let labels: Vec<i64> = serde_json::from_value(row["labels"].clone()).unwrap();
            (ids, labels.into_iter().map(|label| u32::try_from(label).ok()).collect())
        };
        Self {
            rows: about["rows"].as_array().unwrap().iter().map(row).collect(),
            latent: about["latent"].as_u64().unwrap() as u32,
        }
    }

    /// Compares a model's loss and every gradient with PyTorch's of case `name`.
    fn check(
        &self,
        name: &str,
        model: &LatentModel,
        detached: Option<usize>,
        (about, tensors): (&Value, &weights::HostTensors),
    ) {
        let rows: Vec<Row> = self.rows.iter().map(|(ids, labels)| Row::new(ids, labels)).collect();
        for batches in [vec![&rows[..]], rows.chunks(1).collect()] {
            self.check_batches(name, model, detached, (about, tensors), &batches);
        }
    }

    fn check_batches(
        &self,
        name: &str,
        model: &LatentModel,
        detached: Option<usize>,
        (about, tensors): (&Value, &weights::HostTensors),
        batches: &[&[Row]],
    ) {
        let labels: usize =
            self.rows.iter().map(|(_, labels)| labels.iter().flatten().count()).sum();
        let (mut value, mut gradients) = (0.0, None);
        for rows in batches {
            let batch = Batch::new(rows, &model.config.plan(self.latent, 0)).unwrap();
            let options = ForwardOptions { tracked: detached, ..ForwardOptions::default() };
            let trace = latent::forward(model, &batch, options);
            let loss = objective::cross_entropy(&model.transformer, &batch, &trace, &batch.targets)
                .unwrap();
            let loss = loss / labels as f64;
            value += loss.clone().into_scalar::<f32>() as f64;
            let found = parameters::take_gradients(model, &mut loss.backward());
            gradients = Some(coconut::model::parameters::accumulate(gradients, found));
        }
        let expected = about["loss"].as_f64().unwrap();
        assert!((value / expected - 1.0).abs() < 1e-5, "{name}: loss {value}, PyTorch {expected}");
        let gradients = gradients.unwrap();
        for parameter in parameters::named(model).keys() {
            let Some((_, theirs)) = tensors.get(&format!("{name}.grad.{parameter}")) else {
                let named = gradients.contains_key(parameter);
                panic!("{name}: {parameter} has no gradient in PyTorch, ours: {named}");
            };
            let ours = gradients[parameter].values.clone().into_data().try_into_vec().unwrap();
            let distance = distance(&ours, theirs);
            assert!(distance < 1e-4, "{name}: gradient of {parameter} differs by {distance:e}");
        }
    }
}

#[test]
fn loss_and_every_gradient_equal_pytorch() {
    let (about, tensors) = load("reinject_cases");
    let rows = Rows::of(&about);
    let mut cases = 0;
    for (name, case) in about.as_object().unwrap() {
        let Some(expression) = case["reinject"].as_str() else { continue };
        cases += 1;
        let detached = case["detached"].as_u64().map(|k| k as usize);
        let model = model(thinking(name, expression), &tensors).train();
        rows.check(name, &model, detached, (case, &tensors));
    }
    assert_eq!(cases, 16);
}

#[test]
fn encodings_of_the_thoughts_index_equal_pytorch() {
    let (about, tensors) = load("position_cases");
    let rows = Rows::of(&about);
    let latents = about["latents"].as_u64().unwrap() as usize;
    for (name, latent_positions) in
        [("learned", LatentPositions::Learned), ("sinusoidal", LatentPositions::Sinusoidal)]
    {
        let transformer = Transformer::load(&fixtures().join("latent"), &device()).unwrap();
        let thinking = LatentConfig { latent_positions, ..LatentConfig::default() };
        let sizes = LatentSizes { latents, ..LatentSizes::default() };
        let mut model = LatentModel::new(transformer, thinking, sizes).unwrap();
        model.parameters = parameters::map(model.parameters, |_, value| {
            Tensor::from_data(tensors["table"].1.as_slice(), &value.device())
        });
        rows.check(name, &model.train(), None, (&about[name], &tensors));
    }
}

/// The solution of `A x = b` by Gauss elimination with pivots; `system` is `[A | b]`.
fn solve(mut system: Vec<Vec<f64>>) -> Vec<f64> {
    let n = system.len();
    for column in 0..n {
        let pivot = (column..n)
            .max_by(|&a, &b| system[a][column].abs().total_cmp(&system[b][column].abs()));
        system.swap(column, pivot.unwrap());
        for row in 0..n {
            if row != column {
                let factor = system[row][column] / system[column][column];
                let above = system[column].clone();
                system[row].iter_mut().zip(above).for_each(|(x, y)| *x -= factor * y);
            }
        }
    }
    (0..n).map(|i| system[i][n] / system[i][i]).collect()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
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
    let logits: Vec<f64> = w.iter().map(|row| dot(row, &change)).collect();
    // (WᵀW) x = Wᵀ (W change)
    let system = (0..D).map(|i| {
        let products = (0..D).map(|j| w.iter().map(|row| row[i] * row[j]).sum());
        let right = w.iter().zip(&logits).map(|(row, y)| row[i] * y).sum();
        products.chain([right]).collect()
    });
    for (x, change) in solve(system.collect()).iter().zip(change) {
        assert!((x - change).abs() < 1e-10);
    }
}

/// With fewer tokens than features it is the part of h' − h in the span of W's rows, Wᵀ(WWᵀ)⁻¹W(h' − h).
#[test]
fn suppressed_looks_through_a_head_smaller_than_the_width() {
    const V: usize = 6;
    const D: usize = 16;
    let shape = ModelConfig::gpt2(V, 16, D, 3, 2);
    let transformer = Transformer::random(shape, 3, &device());
    let epsilon = 0.002;
    let thinking = LatentConfig {
        suppressed_epsilon: epsilon,
        ..thinking("suppressed[0:]", "suppressed[0:]")
    };
    let model = LatentModel::new(transformer, thinking, LatentSizes::default()).unwrap();
    let rows: [&[u32]; 2] = [&[0, 1, 2, 3, 5, 5, 1], &[2, 0, 5, 5, 4]];
    let rows = rows.map(Row::unlabelled);
    let batch = Batch::new(&rows, &PassPlan::sequential(5)).unwrap();
    let trace = latent::forward(&model, &batch, ReadSet::PREDICTIONS);

    let numbers = |x: Tensor<1>| x.into_data().convert::<f64>().try_into_vec::<f64>().unwrap();
    let head = numbers(model.transformer.head().whole().flatten(0, 1));
    let w: Vec<&[f64]> = head.chunks(D).collect();
    let (mut compared, mut elsewhere) = (0, 0);
    for (pass, thought) in batch.passes.iter().zip(&trace.thoughts) {
        let (Some(fed), Some(thought)) = (&pass.fed, thought) else { continue };
        let states = &trace.hidden[fed.states.pass];
        let state = |k| numbers(states.pick_columns(k, &fed.states.columns).flatten(0, 2));
        let states: Vec<Vec<f64>> = (0..4).map(state).collect();
        let thought = numbers(thought.clone().flatten(0, 2));
        for row in 0..2 {
            let of = |k: usize| &states[k][row * D..(row + 1) * D];
            let mut expected = [0.0; D];
            for k in 0..3 {
                let change: Vec<f64> = of(k + 1).iter().zip(of(k)).map(|(a, b)| a - b).collect();
                let system = w.iter().map(|a| {
                    w.iter().map(|b| dot(a, b)).chain([dot(a, &change)]).collect::<Vec<_>>()
                });
                let y = solve(system.collect());
                for i in 0..D {
                    let seen: f64 = y.iter().zip(&w).map(|(y, w)| y * w[i]).sum();
                    assert!((seen + epsilon).abs() > 1e-6, "too near the limit to compare");
                    if seen < -epsilon {
                        expected[i] += of(k + 1)[i];
                    }
                    elsewhere += usize::from((seen < -epsilon) != (change[i] < -epsilon));
                }
            }
            for (ours, expected) in thought[row * D..].iter().zip(expected) {
                assert!((ours - expected).abs() < 1e-5, "{ours} {expected}");
                compared += 1;
            }
        }
    }
    assert_eq!(compared, 2 * 2 * D);
    assert!(elsewhere > 10, "the head makes no difference: {elsewhere}");
}

/// Rows enough for the width, and too low a rank: three tokens' rows are copies of another's.
#[test]
fn suppressed_looks_through_a_head_of_deficient_rank() {
    let (about, tensors) = load("deficient_cases");
    let transformer = Transformer::load(&fixtures().join("deficient"), &device()).unwrap();
    let [vocab, d] = transformer.head().whole().dims();
    assert!(vocab >= d);
    let name = "suppressed[0:]";
    let sizes = LatentSizes::default();
    let model = LatentModel::new(transformer, thinking(name, name), sizes).unwrap().train();
    Rows::of(&about).check(name, &model, None, (&about[name], &tensors));
}

#[test]
fn the_replications_last_hidden_state_is_zero() {
    let (about, tensors) = load("reinject_cases");
    let ids: Vec<u32> = serde_json::from_value(about["rows"][2]["ids"].clone()).unwrap();
    let row = Row::unlabelled(&ids);
    let thoughts = |thinking: LatentConfig| -> Vec<Vec<f32>> {
        let model = model(thinking, &tensors);
        let batch = Batch::new(&[row], &model.config.plan(40, 0)).unwrap();
        // Everything, so that both do the very same sums.
        let trace = latent::forward(&model, &batch, ReadSet::ALL);
        trace
            .thoughts
            .into_iter()
            .flatten()
            .map(|x| x.into_data().try_into_vec().unwrap())
            .collect()
    };
    let compat = Compat::Replication;
    let of = |text, compat| thoughts(LatentConfig { compat, ..thinking("", text) });
    assert!(of("hs[-1]", compat).concat().iter().all(|&x| x == 0.0));
    assert!(of("hs[-1]", Default::default()).concat().iter().any(|&x| x != 0.0));
    assert_eq!(of("suppressed[0:]", compat), of("suppressed[0:]", Default::default()));
}

#[test]
fn seq_vcr_equals_pytorch() {
    let (about, tensors) = load("seq_vcr");
    let mask: Vec<Vec<u8>> = serde_json::from_value(about["mask"].clone()).unwrap();
    let attention_mask: Vec<Vec<bool>> =
        mask.iter().map(|row| row.iter().map(|&x| x == 1).collect()).collect();
    let number = |name: &str| about[name].as_f64().unwrap();
    for (name, divisor) in [("pairs", seq_vcr::Divisor::Pairs), ("width", seq_vcr::Divisor::Width)]
    {
        let loss = objective::SeqVcr {
            lambda1: number("lambda1"),
            lambda2: number("lambda2"),
            eta: number("eta"),
            layers: seq_vcr::Layers::All,
            divisor,
        };
        let (shape, values) = tensors["x"].clone();
        let x = Tensor::<3>::from_data(TensorData::new(values, shape), &device());
        let x = Tensor::from_inner(x).require_grad();
        let terms = loss.terms(x.clone(), &attention_mask).unwrap();
        for (term, ours) in [("variance", &terms.variance), ("covariance", &terms.covariance)] {
            let ours = f64::from(ours.clone().into_scalar::<f32>());
            let theirs = about[name][term].as_f64().unwrap();
            assert!((ours / theirs - 1.0).abs() < 1e-5, "{name} {term}: {ours}, {theirs}");
        }
        let gradients = (terms.variance + terms.covariance).backward();
        let ours: Vec<f32> = x.grad(&gradients).unwrap().into_data().try_into_vec().unwrap();
        let distance = distance(&ours, &tensors[&format!("{name}.grad")].1);
        assert!(distance < 1e-5, "{name}: differs by {distance:e}");
        assert!(loss.terms(x.clone().narrow(0, 0, 1), &attention_mask[..1]).is_none(), "one row");
    }
}

#[test]
fn learned_parts_are_saved_and_read_back() {
    let folder = tempfile::tempdir().unwrap();
    let transformer = Transformer::load(&fixtures().join("latent"), &device()).unwrap();
    let thinking = LatentConfig {
        latent_positions: LatentPositions::Learned,
        ..thinking("", "mlp(hs[-1])+proj(ie)+pause")
    };
    let sizes = LatentSizes { latents: 3, seed: 9 };
    let model = LatentModel::new(transformer.clone(), thinking.clone(), sizes).unwrap();
    let vcr = Term::SeqVcr {
        loss: SeqVcr {
            lambda1: 1.0,
            lambda2: 1.0,
            eta: 1e-3,
            layers: seq_vcr::Layers::Last,
            divisor: seq_vcr::Divisor::Width,
        },
        projection: seq_vcr::Projection::Trained,
        projected: 5,
        seed: 9,
    };
    let objective = Objective { terms: vec![vcr] }.parameters(&transformer, 9);
    let learner = Learner { model, objective };
    learner.save(folder.path()).unwrap();
    let back = Learner::load(
        Transformer::load(folder.path(), &device()).unwrap(),
        thinking,
        folder.path(),
    );
    let values = |learner: &Learner| -> BTreeMap<String, Vec<f32>> {
        let named = parameters::named(learner).into_iter();
        named.map(|(name, flat)| (name, flat.values.into_data().try_into_vec().unwrap())).collect()
    };
    assert_eq!(values(&back.unwrap()), values(&learner));
    assert!(values(&learner).contains_key("seq_vcr.weight"));
    // Another expression does not fit the file, and says which part is missing.
    let other = LatentConfig::from("pause+pause".parse::<Feedback>().unwrap());
    let error = Learner::load(transformer, other, folder.path()).unwrap_err().to_string();
    assert!(error.contains("`reinject.pause.1.weight` is missing"), "{error}");
}
