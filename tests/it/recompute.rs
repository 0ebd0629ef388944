//! Passes, and blocks, computed again in backward give the gradients of those kept, dropout included. One
//! test, since the device's generator is shared.

use burn::{module::Module, tensor::Device};
use coconut::{
    latent::{
        Compat, LatentModel, LatentPositions, Recompute, Thinking, Trace,
        backward::{BackwardOptions, backward},
        batch::{Batch, Row},
        model::Extras,
    },
    model::{
        Lora, Transformer,
        lora::{ALL_LINEAR, Targets},
    },
    objective::{Denominators, Learner, Objective, SeqVcr, Term, seq_vcr},
};

#[test]
fn what_is_computed_again_gives_the_same_gradients() {
    const L: u32 = 40;
    let rows: [&[u32]; 4] = [
        &[5, 6, 7, 38, L, L, L, L, 39, 1, 2, 3],
        &[8, 9, 38, L, L, 39, 4],
        &[3, 2, 38, L, 39, 7, 7, L, L, 1],
        &[1, 2, 3, 4],
    ];
    // Words after the third token, so that much of the first pass is read by nobody.
    let label = |(at, &id): (usize, &u32)| (at > 3 && id < 38).then_some(id);
    let labels: Vec<Vec<Option<u32>>> =
        rows.iter().map(|ids| ids.iter().enumerate().map(label).collect()).collect();
    let rows: Vec<Row> =
        rows.iter().zip(&labels).map(|(ids, labels)| Row { ids, labels }).collect();
    let batch = Batch::new(&rows, Some(L)).unwrap();
    let fixtures = crate::fixture("torch");
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
    let denominators = Denominators { labels: 9.0, batches: 1.0 };
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
        ("latent", "pause", None, 0.3, Compat::None, LatentPositions::None),
        ("latent", "zero", None, 0.0, Compat::None, LatentPositions::None),
        ("latent", "ie+hs[-2]", None, 0.0, Compat::Replication, LatentPositions::None),
        ("families/qwen3", "hs[-1]", None, 0.0, Compat::None, LatentPositions::Offset(3)),
        ("families/qwen2", "ie+hs[1]", Some(2), 0.0, Compat::None, LatentPositions::None),
        ("adapters", "hs[-1]", None, 0.3, Compat::None, LatentPositions::None),
        ("adapters", "proj(ie)+soft[0.7]", None, 0.3, Compat::None, LatentPositions::Learned),
    ] {
        let load = |place: &str| Transformer::load(&fixtures.join(place), &Device::flex()).unwrap();
        let adapted = |dropout| {
            let lora = Lora { dropout, ..Lora::new(3, Targets::One(ALL_LINEAR.into())) };
            load("latent").with_lora(lora, &[38, 39, 40], 5).unwrap()
        };
        let mut transformer = if place == "adapters" { adapted(dropout) } else { load(place) };
        transformer.config = transformer.config.with_dropout(dropout);
        let thinking = Thinking {
            compat,
            latent_positions,
            ..Thinking::from(text.parse::<coconut::latent::Reinject>().unwrap())
        };
        let model =
            LatentModel::new(transformer, thinking, Extras { latents: 4, seed: 3 }).unwrap();
        let (d_model, device) = (model.transformer.config.d_model, model.device());
        let parameters = objectives[0].parameters(d_model, 3, &device);
        let learner = Learner { model, objective: parameters }.train();
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
                let again = gradients(recompute);
                let what =
                    format!("{place} {text} {tracked:?} {:?} {recompute:?}", objective.reads());
                assert!(kept.keys().eq(again.keys()), "{what}");
                for (name, flat) in &kept {
                    let values = |x: &coconut::model::parameters::FlatTensor| -> Vec<f32> {
                        x.values.clone().into_data().try_into_vec().unwrap()
                    };
                    let (a, b) = (values(flat), values(&again[name]));
                    let scale = a.iter().fold(1e-12f32, |m, x| m.max(x.abs()));
                    let difference = a.iter().zip(&b).fold(0f32, |m, (a, b)| m.max((a - b).abs()));
                    assert!(
                        difference < 1e-6 * scale.max(1.0),
                        "{what}: {name} {difference:e} of {scale:e}"
                    );
                    compared += 1;
                }
            }
        }
    }
    assert!(compared > 2 * 2 * 9 * 20, "{compared} parameters compared");
}
