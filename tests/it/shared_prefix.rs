//! What all rows of a batch begin with, computed once, gives what each row for itself gives: values, every gradient,
//! generated tokens.

use burn::module::Module;
use coconut::{
    eval::{GenerateOptions, Sampling, generate},
    latent::{
        BackwardOptions, Batch, Feedback, Iterations, LatentConfig, LatentModel, LatentSizes,
        PassPlan, Recompute, Thinking, Trace, backward,
        batch::{Row, TeacherRow},
    },
    model::{
        Lora, Transformer,
        lora::{ALL_LINEAR, Targets},
        parameters::NamedTensors,
    },
    objective::{Denominators, DistilLayers, KvDistance, KvSettings, Learner, Objective, Term},
};

use crate::device;
use crate::torch::{fixtures, generator};

const L: u32 = 40;
/// What all rows begin with.
const PREFIX: [u32; 9] = [5, 6, 7, 8, 9, 10, 11, 12, 13];
const ENDS: [&[u32]; 4] = [
    &[14, 15, 16, 38, L, L, 39, 1, 2, 3],
    &[17, 38, L, L, 39, 4],
    &[18, 19, 20, 21, 22, 38, L, L, 39, 7, 7],
    &[14, 23, 38, L, L, 39, 1, 5],
];
const TEACHERS: [&[u32]; 4] = [&[24, 25, 1, 2, 3], &[26, 4], &[27, 28, 29, 7, 7], &[30, 31, 1, 5]];

/// A row's ids and labels, and its teacher's.
struct Parts {
    ids: Vec<u32>,
    labels: Vec<Option<u32>>,
    teacher: Vec<u32>,
    teacher_labels: Vec<Option<u32>>,
    anchors: [usize; 2],
}

fn parts() -> Vec<Parts> {
    let of = |(end, teacher): (&&[u32], &&[u32])| {
        let ids = [&PREFIX[..], end].concat();
        let start = ids.iter().position(|&id| id == 38).unwrap();
        let answer = ids.iter().position(|&id| id == 39).unwrap() + 1;
        let labels = ids.iter().enumerate().map(|(at, &id)| (at >= answer).then_some(id)).collect();
        let teacher = [&ids[..start], teacher].concat();
        let teacher_labels =
            teacher.iter().enumerate().map(|(at, &id)| (at >= start).then_some(id)).collect();
        let said = ids.len() - answer;
        let anchors = [answer - 1, teacher.len() - said - 1];
        Parts { ids, labels, teacher, teacher_labels, anchors }
    };
    ENDS.iter().zip(&TEACHERS).map(of).collect()
}

fn batch(model: &LatentModel, parts: &[Parts], teaches: bool, shares_prefix: bool) -> Batch {
    let row = |part: &'_ Parts| -> usize { part.ids.len() - part.anchors[0] - 1 };
    let rows: Vec<Row> = parts
        .iter()
        .map(|part| Row {
            teacher: teaches.then(|| TeacherRow {
                ids: &part.teacher,
                labels: &part.teacher_labels,
                anchors: Some(part.anchors),
                answer: Some(part.teacher.len() - row(part)),
            }),
            ..Row::new(&part.ids, &part.labels)
        })
        .collect();
    let plan = PassPlan { shares_prefix, ..model.config.plan(L, 0) };
    Batch::new(&rows, &plan).unwrap()
}

fn model(place: &str, text: &str, thinking: Thinking) -> LatentModel {
    let load = |place: &str| Transformer::load(&fixtures().join(place), &device()).unwrap();
    let transformer = match place {
        "adapters" => {
            let lora = Lora::new(3, Targets::One(ALL_LINEAR.into()));
            load("latent").with_lora(lora, &[38, 39, 40], 5).unwrap()
        }
        _ => load(place),
    };
    let iterations = Iterations::Times(2);
    let config = LatentConfig {
        thinking,
        iterations,
        ..LatentConfig::from(text.parse::<Feedback>().unwrap())
    };
    LatentModel::new(transformer, config, LatentSizes { latents: 4, seed: 3 }).unwrap().train()
}

/// The loss and every gradient.
fn trained(
    learner: &Learner,
    objective: &Objective,
    batch: &Batch,
    recompute: Recompute,
) -> (f32, NamedTensors) {
    let Learner { model, objective: parameters } = learner;
    let denominators =
        Denominators { labels: 9.0, teacher_labels: 11.0, step_targets: 1.0, batches: 1.0 };
    let options = BackwardOptions { reads: objective.reads(), recompute, tracked: None, seed: 11 };
    let loss = |trace: &Trace| {
        let losses = objective.losses(parameters, model, batch, trace, denominators)?;
        let value: f32 = losses.total.clone().into_scalar();
        Some((losses.total, value))
    };
    let (gradients, value) = backward(learner, model, batch, options, loss).unwrap();
    (value, gradients)
}

#[test]
fn losses_and_gradients_are_those_of_rows_by_themselves() {
    let _alone = generator();
    let answer = vec![Term::CrossEntropy { weight: 1.0 }];
    let kv = KvSettings { importance: 0.5, distance: KvDistance::Mse, by_std: false };
    let taught = vec![
        Term::CrossEntropy { weight: 1.0 },
        Term::Teacher { weight: 0.7, last_step: false },
        Term::Distil { weight: 0.3, layers: DistilLayers::All, last_step: false },
        Term::Kv { weight: 0.2, settings: kv, last_step: false },
    ];
    let parts = parts();
    let mut compared = 0;
    for (place, text, thinking, teaches) in [
        ("latent", "hs[-1]", Thinking::Sequential, false),
        ("latent", "ie+hs[1]", Thinking::Sequential, true),
        ("latent", "hs[-1]", Thinking::Parallel, true),
        ("families/llama", "hs[-1]", Thinking::Sequential, true),
        ("families/gemma3_text", "ie+hs[-1]", Thinking::Parallel, false),
        ("families/olmo2", "hs[-1]", Thinking::Sequential, false),
        ("adapters", "hs[-1]", Thinking::Sequential, true),
    ] {
        let model = model(place, text, thinking);
        let objective = Objective { terms: if teaches { taught.clone() } else { answer.clone() } };
        let apart = batch(&model, &parts, teaches, false);
        let shared = batch(&model, &parts, teaches, true);
        let held = |batch: &Batch| batch.passes[0].tokens().len();
        assert_eq!(held(&shared) + 3 * PREFIX.len(), held(&apart), "{place}");
        let parameters = objective.parameters(&model.transformer, 3);
        let learner = Learner { model, objective: parameters }.train();
        let (value, gradients) = trained(&learner, &objective, &apart, Recompute::None);
        for recompute in [Recompute::None, Recompute::Passes, Recompute::Blocks] {
            let what = format!("{place} {text} {thinking:?} {recompute:?}");
            let (again, found) = trained(&learner, &objective, &shared, recompute);
            assert!((again / value - 1.0).abs() < 1e-5, "{what}: {again}, not {value}");
            assert!(gradients.keys().eq(found.keys()), "{what}");
            for (name, gradient) in &gradients {
                let values = |x: &coconut::model::parameters::FlatTensor| -> Vec<f32> {
                    x.values.clone().into_data().try_into_vec().unwrap()
                };
                let (a, b) = (values(gradient), values(&found[name]));
                let size = a.iter().fold(1e-3f32, |size, x| size.max(x.abs()));
                let off = a.iter().zip(&b).fold(0f32, |off, (a, b)| off.max((a - b).abs()));
                assert!(off < 1e-5 * size, "{what}: {name} {off:e} of {size:e}");
                compared += 1;
            }
        }
    }
    assert!(compared > 7 * 3 * 10, "{compared} parameters compared");
}

/// Prompts alone share nothing, being alone.
#[test]
fn batches_with_a_prefix_generate_as_prompts_alone() {
    for (place, thinking) in [
        ("latent", Thinking::Sequential),
        ("families/llama", Thinking::Parallel),
        ("families/gemma3_text", Thinking::Sequential),
    ] {
        let model = model(place, "hs[-1]", thinking).valid();
        let options = GenerateOptions {
            plan: model.config.plan(L, 0),
            stops: &[37],
            max_new_tokens: 8,
            sampling: Sampling::Greedy,
        };
        assert!(options.plan.shares_prefix);
        let prompts: Vec<Vec<u32>> = parts().into_iter().map(|part| part.ids).collect();
        let prompts: Vec<&[u32]> = prompts.iter().map(Vec::as_slice).collect();
        let together = generate(&model, &prompts, &options).unwrap();
        for (prompt, together) in prompts.iter().zip(together) {
            assert_eq!(generate(&model, &[prompt], &options).unwrap()[0], together, "{place}");
        }
    }
}

/// A prefix is shared up to what is read of it, and as far as each row has a token besides.
#[test]
fn what_is_read_is_not_shared() {
    let plan = PassPlan { shares_prefix: true, ..PassPlan::sequential(L) };
    let held = |rows: &[Row]| Batch::new(rows, &plan).unwrap().passes[0].tokens().len();
    let long: Vec<u32> = (0..20).collect();
    let other: Vec<u32> = [&long[..], &[30, 31]].concat();
    let none = vec![None; 22];
    assert_eq!(held(&[Row::unlabelled(&other), Row::unlabelled(&other)]), 22 + 1);
    assert_eq!(held(&[Row::unlabelled(&long), Row::unlabelled(&other)]), 20 + 3, "19 are shared");
    let mut labels = none.clone();
    labels[11] = Some(11); // predicted at position 10
    assert_eq!(held(&[Row::new(&other, &labels), Row::new(&other, &none)]), 22 + 12);
    labels[3] = Some(3);
    assert_eq!(held(&[Row::new(&other, &labels), Row::new(&other, &none)]), 44, "too few");
    let mut changed = other.clone();
    changed[7] = 33;
    assert_eq!(held(&[Row::unlabelled(&changed), Row::unlabelled(&other)]), 44, "too few");
    assert_eq!(held(&[Row::unlabelled(&other)]), 22);
}
