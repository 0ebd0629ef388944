//! Passes, and blocks, computed again in backward give the trace and the gradients of those kept, dropout
//! included.

use std::cell::RefCell;

use burn::{
    module::Module,
    tensor::{Tensor, TensorData},
};
use coconut::{
    latent::{
        BackwardOptions, Batch, Compat, Feedback, LatentConfig, LatentModel, LatentPositions,
        LatentSizes, ReadLayers, ReadSet, Recompute, Trace, backward, batch::Row,
    },
    model::{
        Lora, Transformer,
        lora::{ALL_LINEAR, Targets},
        parameters::{FlatTensor, NamedTensors, accumulate, constant_like},
    },
    objective::{self, Denominators, Learner, Objective, SeqVcr, Term, seq_vcr},
};

use crate::device;
use crate::optim::norm_of;
use crate::torch::{distance, fixtures, generator};

const L: u32 = 40;
const ROWS: [&[u32]; 4] = [
    &[5, 6, 7, 38, L, L, L, L, 39, 1, 2, 3],
    &[8, 9, 38, L, L, 39, 4],
    &[3, 2, 38, L, 39, 7, 7, L, L, 1],
    &[1, 2, 3, 4],
];

/// A batch of some of [`ROWS`], by number. Words are labelled after the third token, so that much of the first pass is read by
/// nobody.
fn batch_of(model: &LatentModel, numbers: &[usize]) -> Batch {
    let label = |(at, &id): (usize, &u32)| (at > 3 && id < 38).then_some(id);
    let labels = ROWS.map(|ids| ids.iter().enumerate().map(label).collect::<Vec<_>>());
    let rows: Vec<Row> = numbers.iter().map(|&row| Row::new(ROWS[row], &labels[row])).collect();
    Batch::new(&rows, &model.config.plan(L, 0)).unwrap()
}

fn batch(model: &LatentModel) -> Batch {
    batch_of(model, &[0, 1, 2, 3])
}

/// A fixture's model, `adapters` being GPT-2's with LoRA.
fn model(place: &str, dropout: f64, config: LatentConfig) -> LatentModel {
    let load = |place: &str| Transformer::load(&fixtures().join(place), &device()).unwrap();
    let adapted = || {
        let lora = Lora { dropout, ..Lora::new(3, Targets::One(ALL_LINEAR.into())) };
        load("latent").with_lora(lora, &[38, 39, 40], 5).unwrap()
    };
    let mut transformer = if place == "adapters" { adapted() } else { load(place) };
    transformer.config = transformer.config.with_dropout(dropout);
    let sizes = LatentSizes { latents: 4, seed: 3 };
    LatentModel::new(transformer, config, sizes).unwrap().train()
}

/// The most that one gradient is off another, in parts of the largest value.
fn compare(what: &str, kept: &NamedTensors, again: &NamedTensors) -> usize {
    assert!(kept.keys().eq(again.keys()), "{what}");
    for (name, flat) in kept {
        let values =
            |x: &FlatTensor| -> Vec<f32> { x.values.clone().into_data().try_into_vec().unwrap() };
        let (a, b) = (values(flat), values(&again[name]));
        let scale = a.iter().fold(1e-12f32, |m, x| m.max(x.abs()));
        let difference = a.iter().zip(&b).fold(0f32, |m, (a, b)| m.max((a - b).abs()));
        assert!(difference < 1e-6 * scale.max(1.0), "{what}: {name} {difference:e} of {scale:e}");
    }
    kept.len()
}

#[test]
fn what_is_computed_again_gives_the_same_gradients() {
    let _alone = generator();
    let cross_entropy = Term::CrossEntropy { weight: 1.0 };
    let vcr = Term::SeqVcr {
        loss: SeqVcr {
            lambda1: 0.3,
            lambda2: 0.2,
            eta: 1e-3,
            layers: seq_vcr::Layers::All,
            divisor: seq_vcr::Divisor::Pairs,
        },
        projection: seq_vcr::Projection::Trained,
        projected: 6,
        seed: 0,
    };
    let objectives =
        [vec![cross_entropy, vcr], vec![cross_entropy]].map(|terms| Objective { terms });
    let denominators =
        Denominators { labels: 9.0, teacher_labels: 1.0, step_targets: 1.0, batches: 1.0 };
    let mut compared = 0;
    for (place, text, tracked, dropout, compat, latent_positions) in [
        ("latent", "hs[-1]", None, 0.0, Compat::None, LatentPositions::None),
        ("latent", "hs[-1]", None, 0.3, Compat::None, LatentPositions::Learned),
        ("latent", "hs[-1]", Some(2), 0.3, Compat::None, LatentPositions::None),
        ("latent", "hs[-1]", Some(1), 0.0, Compat::None, LatentPositions::None),
        (
            "latent",
            "norm(hs[1]+suppressed[0:])+ie",
            None,
            0.3,
            Compat::None,
            LatentPositions::Sinusoidal,
        ),
        (
            "latent",
            "mlp(hs[-1])+proj(ie)+soft[0.7]",
            None,
            0.0,
            Compat::None,
            LatentPositions::None,
        ),
        (
            "latent",
            "mlp(hs[1])+proj(ie)+soft[0.7]",
            Some(2),
            0.0,
            Compat::None,
            LatentPositions::Learned,
        ),
        ("latent", "pause", None, 0.3, Compat::None, LatentPositions::None),
        ("latent", "pause", Some(1), 0.3, Compat::None, LatentPositions::None),
        ("latent", "zero", None, 0.0, Compat::None, LatentPositions::None),
        ("latent", "ie+hs[-2]", None, 0.0, Compat::Replication, LatentPositions::None),
        ("latent", "ie+hs[-2]", Some(2), 0.0, Compat::Replication, LatentPositions::None),
        ("families/qwen3", "hs[-1]", None, 0.0, Compat::None, LatentPositions::Offset(3)),
        ("families/qwen2", "ie+hs[1]", Some(2), 0.0, Compat::None, LatentPositions::None),
        ("adapters", "hs[-1]", None, 0.3, Compat::None, LatentPositions::None),
        ("adapters", "proj(ie)+soft[0.7]", None, 0.3, Compat::None, LatentPositions::Learned),
    ] {
        let feedback = text.parse::<Feedback>().unwrap();
        let config = LatentConfig { compat, latent_positions, ..LatentConfig::from(feedback) };
        let model = model(place, dropout, config);
        let batch = batch(&model);
        let objective = objectives[0].parameters(&model.transformer, 3);
        let learner = Learner { model, objective }.train();
        for objective in &objectives {
            let gradients = |recompute| {
                let reads = objective.reads();
                let options = BackwardOptions { reads, recompute, tracked, seed: 11 };
                let Learner { model, objective: parameters } = &learner;
                let loss = |trace: &Trace| {
                    let losses =
                        objective.losses(parameters, model, &batch, trace, denominators)?;
                    Some((losses.total, ()))
                };
                backward(&learner, model, &batch, options, loss).unwrap().0
            };
            let kept = gradients(Recompute::None);
            let projected = kept.contains_key("seq_vcr.weight");
            assert_eq!(projected, objective.terms.contains(&vcr), "{place} {text}");
            for recompute in [Recompute::Passes, Recompute::Blocks] {
                let reads = objective.reads();
                let what = format!("{place} {text} {tracked:?} {reads:?} {recompute:?}");
                compared += compare(&what, &kept, &gradients(recompute));
            }
        }
    }
    assert!(compared > 2 * 2 * 9 * 20, "{compared} parameters compared");
}

/// A loss that reads everything that a trace promises sees what a plain forward gives, and its gradients at all of it
/// go on into the passes.
#[test]
fn a_trace_keeps_its_word() {
    let _alone = generator();
    let all_layers = ReadSet { layers: ReadLayers::All, ..ReadSet::PREDICTIONS };
    for (place, text, tracked, dropout) in [
        ("latent", "hs[-1]", None, 0.3),
        ("latent", "mlp(hs[1])+ie", None, 0.0),
        ("latent", "mlp(hs[1])+ie", Some(2), 0.3),
        ("families/llama", "hs[-1]", None, 0.0),
        ("families/qwen3", "ie+hs[1]", Some(2), 0.0),
        ("adapters", "proj(hs[-1])", None, 0.3),
    ] {
        let model = model(place, dropout, text.parse::<Feedback>().unwrap().into());
        let batch = batch(&model);
        // Where labels are predicted, rows end and thoughts come from, in the first pass and in later ones.
        let targets = batch.targets.iter().map(|target| (target.row, target.column));
        let ends = batch.ends.iter().copied().enumerate();
        let feeds = (0..3).map(|row| (row, batch.columns_of(row)[[3, 2, 2][row]]));
        let mut tokens: Vec<(usize, usize)> = targets.chain(ends).chain(feeds).collect();
        tokens.sort_by_key(|&(row, column)| (column, row));
        for reads in [all_layers, ReadSet::ALL] {
            let seen = RefCell::new(Vec::new());
            let loss = |trace: &Trace| {
                let states = (0..trace.hidden[0].count())
                    .map(|k| trace.hidden_at(&batch, k, &tokens).unwrap().unsqueeze());
                let unnormed = trace.hidden.iter().map(|states| states.unnormed());
                let thoughts = trace.thoughts.iter().flatten().cloned();
                let layers =
                    (0..trace.caches[0].n_layer()).flat_map(|layer| trace.caches[0].layer(layer));
                let all: Vec<Tensor<3>> =
                    states.chain(unnormed).chain(thoughts).chain(layers.cloned()).collect();
                let sum = all.iter().map(weighed).reduce(|a, b| a + b);
                let values = |x: Tensor<3>| x.into_data().try_into_vec::<f32>().unwrap();
                seen.borrow_mut().push(all.into_iter().map(values).collect::<Vec<_>>());
                Some((sum?, ()))
            };
            let options = BackwardOptions { reads, tracked, seed: 5, ..BackwardOptions::default() };
            let kept = backward(&model, &model, &batch, options, loss).unwrap().0;
            for recompute in [Recompute::Passes, Recompute::Blocks] {
                let options = BackwardOptions { recompute, ..options };
                let again = backward(&model, &model, &batch, options, loss).unwrap().0;
                let what = format!("{place} {text} {tracked:?} {reads:?} {recompute:?}");
                let seen = seen.borrow();
                assert!(seen[0] == seen[seen.len() - 1], "{what}: other values");
                assert!(compare(&what, &kept, &again) >= 14, "{what}");
            }
        }
    }
}

/// Passes are tracked from each row's own last latent: mates, their order and micro-batches change no row's gradient,
/// whatever is computed again.
#[test]
fn detached_passes_are_counted_row_by_row() {
    let _alone = generator();
    for (place, text) in [
        ("latent", "hs[-1]"),
        ("latent", "mlp(hs[1])+ie+pause"),
        ("adapters", "proj(hs[-1])+soft[0.7]"),
        ("families/qwen3", "ie+suppressed[0:]"),
    ] {
        let model = model(place, 0.0, text.parse::<Feedback>().unwrap().into());
        let gradients = |numbers: &[usize], tracked, recompute| {
            let batch = batch_of(&model, numbers);
            // Besides labels, thoughts and last states are read at every row's end, in whichever pass that is.
            let reads = ReadSet { layers: ReadLayers::All, ..ReadSet::PREDICTIONS };
            let options = BackwardOptions { reads, tracked, recompute, seed: 0 };
            let loss = |trace: &Trace| {
                let targets = &batch.targets;
                let sum = objective::cross_entropy(&model.transformer, &batch, trace, targets);
                let ends = trace.ends(&batch)?;
                let sum = sum.unwrap_or_else(|| ends.clone().sum() * 0.0);
                Some((sum + (ends.clone() * ends).sum(), ()))
            };
            backward(&model, &model, &batch, options, loss).unwrap().0
        };
        for tracked in [Some(1), Some(2), Some(3), None] {
            let alone = (0..4).map(|row| gradients(&[row], tracked, Recompute::None));
            let sum = alone.fold(None, |sum, found| Some(accumulate(sum, found))).unwrap();
            for recompute in [Recompute::None, Recompute::Passes, Recompute::Blocks] {
                for numbers in [[0, 1, 2, 3], [3, 1, 0, 2]] {
                    let together = gradients(&numbers, tracked, recompute);
                    let what = format!("{place} {text} {tracked:?} {recompute:?} {numbers:?}");
                    off(&what, &sum, &together, 1e-5);
                }
                let halves = [[2, 3], [0, 1]].map(|half| gradients(&half, tracked, recompute));
                let [a, b] = halves;
                let what = format!("{place} {text} {tracked:?} {recompute:?} in two");
                off(&what, &sum, &accumulate(Some(a), b), 1e-5);
            }
        }
        // The row without latents has all of its gradient, and the others do not.
        let norm = |row, tracked| norm_of(&gradients(&[row], tracked, Recompute::None));
        assert_eq!(norm(3, Some(1)), norm(3, None));
        assert!((norm(0, Some(1)) / norm(0, None) - 1.0).abs() > 1e-3);
    }
}

/// Fails where a gradient is off the expected one by more than `most` parts of the largest value.
fn off(what: &str, expected: &NamedTensors, ours: &NamedTensors, most: f32) {
    let values =
        |x: &FlatTensor| -> Vec<f32> { x.values.clone().into_data().try_into_vec().unwrap() };
    for (name, flat) in expected {
        let theirs = values(flat);
        let ours = ours.get(name).map_or(vec![0.0; theirs.len()], values);
        let distance = distance(&ours, &theirs);
        // A gradient that is all rounding has no largest value to speak of.
        let size = theirs.iter().fold(0f32, |m, x| m.max(x.abs()));
        assert!(distance < most || size < 1e-5, "{what}: {name} {distance:e} of {size:e}");
    }
    assert!(ours.keys().all(|name| expected.contains_key(name)), "{what}");
}

/// A number that depends on every element: `Σ_i (x_i + x_i²) sin i / n`.
fn weighed(x: &Tensor<3>) -> Tensor<1> {
    let shape = x.dims();
    let n: usize = shape.iter().product();
    let weights = (0..n).map(|i| (i as f32).sin() / n as f32).collect();
    let weights = Tensor::from_data(TensorData::new(weights, shape), &x.device());
    let weights: Tensor<3> = constant_like(weights, x);
    ((x.clone() + x.clone() * x.clone()) * weights).sum()
}
