//! The logit lens of an evaluation against the forward pass of one question alone.

use coconut::{
    Error,
    config::{Resolved, RunConfig, resolved::ModelSource},
    data::{SampleKey, Stage},
    eval::{Evaluator, Sample, Sampling, score::Scorer},
    latent::{
        self, LatentModel, PassPlan, ReadSet,
        batch::{Batch, Row},
    },
    model::Transformer,
    train::{Data, model_config},
};
use serde_json::{Map, Value, json};

#[test]
fn each_thought_is_read_where_it_is_fed_back() {
    let Value::Object(keys) = json!({
        "task": "arithmetic", "operations": [1, 3], "train_examples": 4, "val_examples": 12,
        "n_layer": 2, "n_embd": 16, "n_head": 2, "c_thought": 2, "initializer_range": 0.5,
    }) else {
        unreachable!()
    };
    let config = RunConfig::from_keys(Map::clone(&keys), &[], "test").unwrap();
    let run = Resolved::new(&config, None).unwrap();
    let data = Data::prepare(&run).unwrap();
    let ModelSource::Random(shape) = &run.model else { panic!("not from random weights") };
    let device = crate::device();
    let model = Transformer::random(model_config(shape, &run, &data), 0, &device);
    let model = LatentModel::new(model, config.thinking(), Default::default()).unwrap();
    let evaluator = Evaluator {
        data: &data.val,
        decoder: None,
        tokenizer: &data.tokenizer,
        curriculum: config.curriculum(),
        batch_size: 5,
        max_new_tokens: 2,
        sampling: Sampling::Greedy,
        scorer: Scorer::Mark,
        seed: 0,
    };
    let stage = Stage(4);
    let found = evaluator.evaluate(&model, stage, |_| Ok(())).unwrap();
    let markers = data.tokenizer.special_tokens();
    let mut lengths = std::collections::BTreeSet::new();
    for sample in &found.answers.samples {
        let key = SampleKey { seed: 0, epoch: 0, index: sample.index as u64 };
        let example = &data.val.encoded[sample.index];
        let prompt = config.curriculum().prompt(example, stage, markers, key);
        if sample.index >= 8 {
            assert!(sample.thoughts.is_empty());
            continue;
        }
        assert_eq!(sample.thoughts.len(), prompt.n_latents);
        lengths.insert(prompt.n_latents);
        let row = Row::unlabelled(&prompt.ids);
        let batch = Batch::new(&[row], &PassPlan::sequential(markers.latent)).unwrap();
        let trace = latent::forward(&model, &batch, ReadSet::PREDICTIONS);
        for (position, thought) in prompt.latents().zip(&sample.thoughts) {
            // One row alone has no padding: column and position are the same.
            let hidden = trace.last_hidden(&batch, &[(0, position - 1)]).unwrap();
            let logits =
                model.transformer.logits(hidden).into_data().try_into_vec::<f32>().unwrap();
            let total: f64 = logits.iter().map(|&x| f64::from(x).exp()).sum();
            let mut expected: Vec<(f64, u32)> =
                (0..).zip(&logits).map(|(id, &x)| (f64::from(x).exp() / total, id)).collect();
            expected.sort_by(|a, b| b.0.total_cmp(&a.0));
            assert_eq!(thought.len(), 5);
            for ((token, p), (expected_p, id)) in thought.iter().zip(expected) {
                assert!((p - expected_p).abs() < 1e-5, "{p} {expected_p}");
                assert_eq!(*token, data.tokenizer.token_strings(&[id]).concat());
            }
        }
    }
    assert!(lengths.len() > 1, "questions with different numbers of thoughts");

    // Each part alone is what the whole finds, and costs no more than itself.
    let mut told = 0;
    let count = |n: usize| -> coconut::Result<()> {
        told += n;
        Ok(())
    };
    let answers = evaluator.answers(&model, stage, count).unwrap();
    assert_eq!(told, 12);
    assert_eq!(answers.accuracy, found.answers.accuracy);
    assert_eq!(answers.forward_positions, found.answers.forward_positions);
    let without_thoughts = |sample: &Sample| Sample { thoughts: Vec::new(), ..sample.clone() };
    let expected: Vec<Sample> = found.answers.samples.iter().map(without_thoughts).collect();
    assert_eq!(answers.samples, expected);
    let likelihoods = evaluator.likelihoods(&model, stage, |_| Ok(())).unwrap();
    assert_eq!(likelihoods, found.likelihoods);
    assert!(likelihoods.loss > 0.0 && likelihoods.diversity.is_some(), "{likelihoods:?}");
    let stopped = evaluator.answers(&model, stage, |_| Err(Error::Interrupted("now".into())));
    assert!(matches!(stopped, Err(Error::Interrupted(_))));
}
