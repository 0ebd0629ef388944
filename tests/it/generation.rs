//! GPT-2's logits against transformers, and generation against the teacher-forced argmax.

use coconut::{
    Error,
    eval::{
        End, GenerateOptions, Generation, GenerationLoop, NewToken, Sampling, generate,
        generate::{forward_prompts, prompt_problem},
    },
    latent::{
        self, LatentModel, PassPlan, ReadSet,
        batch::{Batch, Row},
    },
    model::Transformer,
};
use serde_json::Value;

use crate::device;
use crate::torch::{fixtures, json, logits, tensors, thinking};

#[test]
fn gpt2_logits_equal_transformers() {
    let model = thinking(Transformer::load(&fixtures().join("gpt2"), &device()).unwrap());
    let about: Value = json("gpt2_logits");
    let tensors = tensors("gpt2_logits");
    let ids: Vec<Vec<u32>> = serde_json::from_value(about["full"].clone()).unwrap();
    let rows: Vec<Row> = ids.iter().map(|ids| Row::unlabelled(ids)).collect();
    let batch = Batch::new(&rows, &PassPlan::default()).unwrap();
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
    let batch =
        Batch::new(&[Row::unlabelled(ids)], &PassPlan { latent, ..PassPlan::default() }).unwrap();
    let hidden = latent::forward(model, &batch, ReadSet::PREDICTIONS).ends(&batch).unwrap();
    let logits: Vec<f32> = model.transformer.logits(hidden).into_data().try_into_vec().unwrap();
    (0..logits.len()).max_by(|&a, &b| logits[a].total_cmp(&logits[b])).unwrap() as u32
}

#[test]
fn generation_is_the_teacher_forced_argmax_alone_and_in_a_batch() {
    const LATENT: u32 = 40;
    let model = thinking(Transformer::load(&fixtures().join("gpt2"), &device()).unwrap());
    let mut compared = 0;
    let prompts: Vec<Vec<u32>> = vec![
        vec![5, 25, 30, 13, 38, LATENT, LATENT, LATENT, 39],
        vec![7, 38, LATENT, 39],
        vec![1, 2, 3, 4, 5, 6],
        vec![9, 9, 38, LATENT, LATENT],
    ];
    let options = GenerateOptions {
        plan: PassPlan::sequential(LATENT),
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
    let model = thinking(Transformer::load(&fixtures().join("latent"), &device()).unwrap());
    let context = model.transformer.config.n_positions;
    let options = GenerateOptions {
        plan: PassPlan::default(),
        stops: &[1000],
        max_new_tokens: 100,
        sampling: Sampling::Greedy,
    };
    let prompt = vec![1; context - 2];
    // Two tokens fit the context, and the last position still says a third.
    assert_eq!(generate(&model, &[&prompt], &options).unwrap()[0].ids.len(), 3);
    let mut loop_ = GenerationLoop::new(&model, &[&prompt], options).unwrap();
    let ends: Vec<_> =
        (0..4).map(|_| loop_.step().unwrap().first().map(|token| token.end)).collect();
    assert_eq!(ends, [Some(None), Some(None), Some(Some(End::Length)), None]);
}

/// What a model cannot be given is named with its place in the batch, whoever asks.
#[test]
fn prompts_that_do_not_fit_are_named() {
    let model = thinking(Transformer::load(&fixtures().join("latent"), &device()).unwrap());
    let (context, vocabulary) =
        (model.transformer.config.n_positions, model.transformer.config.vocab_size as u32);
    let options = GenerateOptions {
        plan: PassPlan::sequential(2),
        stops: &[],
        max_new_tokens: 1,
        sampling: Sampling::Greedy,
    };
    let long = vec![1; context + 1];
    for (prompt, words) in [
        (long.as_slice(), format!("context is {context}")),
        (&[], "no tokens".into()),
        (&[2, 1], "begins with a latent".into()),
        (&[1, vocabulary], format!("beyond the vocabulary of {vocabulary}")),
    ] {
        let refused = generate(&model, &[&[1], prompt], &options).unwrap_err();
        assert!(matches!(refused, Error::Prompt { row: 1, .. }), "{refused:?}");
        let message = refused.to_string();
        assert!(message.starts_with("prompt 2: it") && message.contains(&words), "{message}");
        assert_eq!(refused.exit_code(), 2);
        assert!(prompt_problem(&model, prompt, &options.plan).unwrap().contains(&words));
    }
    assert!(generate(&model, &[&[1, 2], &[1]], &options).is_ok());
    assert!(generate(&model, &[], &options).unwrap().is_empty());
    assert_eq!(
        generate(&model, &[&[2, 1]], &GenerateOptions { plan: PassPlan::default(), ..options })
            .unwrap()
            .len(),
        1
    );
}

/// Rows of unlike lengths that end one by one, driven a column at a time.
#[test]
fn a_loop_driven_step_by_step_is_generation() {
    const LATENT: u32 = 40;
    let model = thinking(Transformer::load(&fixtures().join("gpt2"), &device()).unwrap());
    let prompts: [&[u32]; 4] =
        [&[5, 25, 30, 13, 38, LATENT, LATENT, 39], &[7, 38, LATENT, 39], &[1, 2, 3], &[9, 38, 39]];
    let random = Sampling::Random { temperature: 1.0, top_k: 0, seed: 3 };
    for sampling in [Sampling::Greedy, random] {
        let free = GenerateOptions {
            plan: PassPlan::sequential(LATENT),
            stops: &[],
            max_new_tokens: 9,
            sampling,
        };
        // Stops that different rows reach at different places: the third token of one, the fifth of another.
        let spoken = generate(&model, &prompts, &free).unwrap();
        let stops = [spoken[0].ids[2], spoken[1].ids[4]];
        let options = GenerateOptions { stops: &stops, ..free };
        let expected = generate(&model, &prompts, &options).unwrap();

        // By hand: each row is the free one up to its first stop.
        for (generation, free) in expected.iter().zip(&spoken) {
            let stop = free.ids.iter().position(|id| stops.contains(id));
            assert_eq!(generation.ids, free.ids[..stop.map_or(9, |at| at + 1)]);
            assert_eq!(generation.finished, stop.is_some());
        }
        let lengths: std::collections::BTreeSet<usize> =
            expected.iter().map(|generation| generation.ids.len()).collect();
        assert!(lengths.len() > 1, "all rows end together: {lengths:?}");

        let mut rows = GenerationLoop::new(&model, &prompts, options).unwrap();
        let mut columns: Vec<Vec<NewToken>> = Vec::new();
        loop {
            let column = rows.step().unwrap();
            if column.is_empty() {
                break;
            }
            columns.push(column);
        }
        assert!(rows.step().unwrap().is_empty(), "over is over");
        assert_eq!(columns.len(), *lengths.last().unwrap());
        for (row, generation) in expected.iter().enumerate() {
            let own: Vec<NewToken> =
                columns.iter().flatten().filter(|token| token.row == row).copied().collect();
            assert_eq!(own.iter().map(|token| token.id).collect::<Vec<_>>(), generation.ids);
            let (last, before) = own.split_last().unwrap();
            assert!(before.iter().all(|token| token.end.is_none()));
            let end = if generation.finished { End::Stop } else { End::Length };
            assert_eq!(last.end, Some(end));
            // A row speaks in each column until it ends.
            assert!(columns[..own.len()].iter().all(|c| c.iter().any(|token| token.row == row)));
        }
        assert_eq!(rows.finish(), expected);

        // Left in the middle: what was said so far. After prompts that were computed before: the same.
        let (batch, trace) =
            forward_prompts(&model, &prompts, &options, ReadSet::PREDICTIONS).unwrap();
        let mut begun = GenerationLoop::after(&model, &batch, trace, options);
        begun.step().unwrap();
        begun.step().unwrap();
        for (generation, whole) in begun.finish().iter().zip(&expected) {
            let n = whole.ids.len().min(2);
            let positions = |g: &Generation| g.positions - g.ids.len();
            assert_eq!(generation.ids, whole.ids[..n]);
            assert_eq!(positions(generation), positions(whole));
        }
    }
}

/// A row says the same whether it is alone, joins others or others join it, wherever in their text they are, and whatever
/// they ask for.
#[test]
fn rows_join_and_leave_without_changing_what_others_say() {
    const LATENT: u32 = 40;
    let model = thinking(Transformer::load(&fixtures().join("gpt2"), &device()).unwrap());
    let prompts: [&[u32]; 5] = [
        &[5, 25, 30, 13, 38, LATENT, LATENT, LATENT, 39],
        &[7, 38, LATENT, 39],
        &[1, 2, 3, 4, 5, 6],
        &[9, 9, 38, LATENT, LATENT],
        &[8, 7, 6],
    ];
    let options = |row: usize| GenerateOptions {
        plan: PassPlan::sequential(LATENT),
        stops: &[],
        max_new_tokens: 6 + 3 * row,
        sampling: match row % 2 {
            0 => Sampling::Greedy,
            _ => Sampling::Random { temperature: 3.0, top_k: 0, seed: row as u64 },
        },
    };
    let alone = |row: usize| generate(&model, &[prompts[row]], &options(row)).unwrap().remove(0);
    let begin = |rows: &[usize]| {
        let prompts: Vec<&[u32]> = rows.iter().map(|&row| prompts[row]).collect();
        let options: Vec<_> = rows.iter().map(|&row| options(row)).collect();
        let (batch, trace) =
            forward_prompts(&model, &prompts, &options[0], ReadSet::PREDICTIONS).unwrap();
        let mut rows = GenerationLoop::after_each(&model, &batch, trace, &options);
        assert_eq!(rows.step().unwrap().len(), prompts.len());
        rows
    };
    // Rows 0 and 1 run, 2 joins after five tokens, row 0 ends, then 3 and 4 join together and 1 leaves.
    let mut rows = begin(&[0, 1]);
    (0..4).for_each(|_| drop(rows.step().unwrap()));
    rows.join(begin(&[2])).unwrap();
    assert_eq!(rows.step().unwrap().last().unwrap().end, None);
    rows.retain_running();
    assert_eq!(rows.rows(), 2, "row 0 has ended");
    rows.step().unwrap();
    rows.join(begin(&[3, 4])).unwrap();
    rows.leave(0);
    let log_probs = |rows: &GenerationLoop<'_>| rows.log_probs(&[1]).unwrap().remove(0);
    rows.step().unwrap();
    assert!((log_probs(&rows).iter().map(|x| f64::from(*x).exp()).sum::<f64>() - 1.0).abs() < 1e-5);
    while !rows.step().unwrap().is_empty() {}
    let said = rows.finish();
    assert_eq!(said.len(), 4);
    assert_eq!(said[0].ids, alone(1).ids[..7], "what it said before it left");
    for (at, row) in [2, 3, 4].into_iter().enumerate() {
        assert_eq!(said[at + 1], alone(row), "row {row}");
    }

    let mut early = GenerationLoop::new(&model, &prompts[..1], options(0)).unwrap();
    assert!(early.log_probs(&[0]).is_err());
    assert!(early.join(begin(&[1])).is_err());
}
