//! GPT-2's logits against transformers, and generation against the teacher-forced argmax.

use burn::tensor::Device;
use coconut::{
    eval::{GenerateOptions, Sampling, generate},
    latent::{
        self, LatentModel, Wanted,
        batch::{Batch, Row},
    },
    model::Transformer,
};
use serde_json::Value;

use crate::torch::{fixtures, json, logits, tensors, thinking};

#[test]
fn gpt2_logits_equal_transformers() {
    let model = thinking(Transformer::load(&fixtures().join("gpt2"), &Device::flex()).unwrap());
    let about: Value = json("gpt2_logits");
    let tensors = tensors("gpt2_logits");
    let ids: Vec<Vec<u32>> = serde_json::from_value(about["full"].clone()).unwrap();
    let rows: Vec<Row> = ids.iter().map(|ids| Row { ids, labels: &[] }).collect();
    let batch = Batch::new(&rows, None).unwrap();
    let theirs = &tensors["logits_full"].1;
    let vocabulary = model.transformer.config.vocab_size;
    let rows = logits(&model, &batch);
    assert_eq!(rows.len(), 2);
    for (row, ours) in rows.iter().enumerate() {
        let from = row * ours.len();
        for (at, (a, b)) in ours.iter().zip(&theirs[from..]).enumerate() {
            let (token, place) = (at % vocabulary, at / vocabulary);
            assert!((a - b).abs() < 1e-4, "row {row}, position {place}, token {token}: {a}, {b}");
        }
    }
}

/// The token that is most probable after each row, by running the whole row again.
fn next(model: &LatentModel, ids: &[u32], latent: Option<u32>) -> u32 {
    let batch = Batch::new(&[Row { ids, labels: &[] }], latent).unwrap();
    let hidden = latent::forward(model, &batch, Wanted::Predictions).ends(&batch).unwrap();
    let logits: Vec<f32> = model.transformer.logits(hidden).into_data().try_into_vec().unwrap();
    (0..logits.len()).max_by(|&a, &b| logits[a].total_cmp(&logits[b])).unwrap() as u32
}

#[test]
fn generation_is_the_teacher_forced_argmax_alone_and_in_a_batch() {
    const LATENT: u32 = 40;
    let model = thinking(Transformer::load(&fixtures().join("gpt2"), &Device::flex()).unwrap());
    let mut compared = 0;
    let prompts: Vec<Vec<u32>> = vec![
        vec![5, 25, 30, 13, 38, LATENT, LATENT, LATENT, 39],
        vec![7, 38, LATENT, 39],
        vec![1, 2, 3, 4, 5, 6],
        vec![9, 9, 38, LATENT, LATENT],
    ];
    let options = GenerateOptions {
        latent: Some(LATENT),
        stops: &[1000],
        max_new_tokens: 12,
        sampling: Sampling::Greedy,
    };
    let rows: Vec<&[u32]> = prompts.iter().map(Vec::as_slice).collect();
    let together = generate(&model, &rows, &options).unwrap();
    for (prompt, batched) in prompts.iter().zip(&together) {
        let alone = generate(&model, &[prompt], &options).unwrap();
        assert_eq!(alone[0].ids, batched.ids, "batch mates change nothing");
        let mut row = prompt.clone();
        // A latent token that was spoken is an ordinary token here and a latent in the reference.
        for &token in batched.ids.iter().take_while(|&&token| token != LATENT) {
            assert_eq!(token, next(&model, &row, Some(LATENT)), "after {row:?}");
            row.push(token);
            compared += 1;
        }
        assert_eq!(batched.positions, prompt.len() + 11);

        // Generation stops at the eos, row by row, and the first new token may be it.
        let first = batched.ids[0];
        let stopped =
            generate(&model, &rows, &GenerateOptions { stops: &[first], ..options }).unwrap();
        let at = prompts.iter().position(|p| p == prompt).unwrap();
        assert_eq!(stopped[at].ids, [first]);
        assert!(stopped[at].finished);
    }
    assert!(compared >= 24, "only {compared} tokens of 48 could be compared");
}

#[test]
fn generation_ends_with_the_context() {
    let model = thinking(Transformer::load(&fixtures().join("latent"), &Device::flex()).unwrap());
    let context = model.transformer.config.n_positions;
    let options = GenerateOptions {
        latent: None,
        stops: &[1000],
        max_new_tokens: 100,
        sampling: Sampling::Greedy,
    };
    let prompt = vec![1; context - 2];
    // Two tokens fit the context, and the last position still says a third.
    assert_eq!(generate(&model, &[&prompt], &options).unwrap()[0].ids.len(), 3);
    let long = vec![1; context + 1];
    assert!(generate(&model, &[&long], &options).unwrap_err().contains("context"));
}
