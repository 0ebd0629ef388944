//! Audits of models whose workings are known, since their weights are written by hand.
//!
//! One block of attention and nothing else, on questions of three digits at positions 0 to 2. The embedding of a token
//! is one direction and that of a position another; a table says which positions each position attends to, and what it
//! reads there it says. Thoughts stand at positions 5 to 7: made to attend to the digits one by one, thought k is the
//! k-th digit. What the answer is read from is what is planted.

use std::{
    fs,
    path::{Path, PathBuf},
};

use assert_cmd::assert::OutputAssertExt;
use coconut::{
    audit::{Cell, Intervention, ModelRecord, Record, With, pieces::TokenClass},
    latent::Places,
    report,
};
use serde_json::{Value, json};

use crate::program::{Place, coconut, train};

const D: usize = 48;
/// Where the directions of positions begin; those of tokens begin at 0.
const POSITIONS: usize = 26;
/// Tokens of the tokenizer of words.
const EOS: usize = 1;
const EOT: usize = 4;
const MARK: usize = 7;
/// Positions of the first thought, of `eot` and of the answer's mark, which is the first generated token.
const THOUGHT: usize = 5;
const END: usize = 8;
const SAID: usize = 9;

/// A question, its digits as steps, and the answer.
fn examples(answer: impl Fn(&[usize; 3]) -> String) -> Value {
    let digits = |n: usize| [n / 100, n / 10 % 10, n % 10];
    let all = (0..80).map(|i| digits(i * 37 % 1000)).map(|digits| {
        let words = digits.map(|digit| digit.to_string());
        json!({"question": words.join(" "), "steps": words, "answer": answer(&digits)})
    });
    all.collect()
}

/// A model that attends from a position to others, `(from, to)`, in a checkpoint folder; and its examples.
fn plant(examples: &Value, attends: &[(usize, &[usize])]) -> (Place, PathBuf, PathBuf) {
    let place = Place::new();
    let data = place.file("data.json", &examples.to_string());
    let width = D.to_string();
    let recipe = place.recipe_of_data(
        &data,
        &[
            ("name", "r"),
            ("tokenizer", "words"),
            ("method", "coconut"),
            ("max_latent_stage", "3"),
            ("num_epochs", "5"),
            ("batch_size_training", "80"),
            ("n_embd", &width),
            ("n_head", "1"),
            ("replacement_method", "hs[-1]"),
            ("eval_at", "end"),
        ],
    );
    train(&recipe, &[]).assert().success();
    let checkpoint = place.path("runs/r/checkpoints/latest");
    write_weights(&checkpoint, attends);
    (place, checkpoint, data)
}

/// Thought k reads digit k.
const COPIES: [(usize, &[usize]); 3] = [(4, &[0]), (5, &[1]), (6, &[2])];

fn write_weights(checkpoint: &Path, attends: &[(usize, &[usize])]) {
    let config: Value =
        serde_json::from_slice(&fs::read(checkpoint.join("config.json")).unwrap()).unwrap();
    let size = |key: &str| config[key].as_u64().unwrap() as usize;
    let (vocab, positions) = (size("vocab_size"), size("n_positions"));
    assert!(vocab == POSITIONS && POSITIONS + positions <= D, "{config}");
    let table = |rows: usize, columns: usize, cells: &[(usize, usize, f32)]| {
        let mut values = vec![0f32; rows * columns];
        cells.iter().for_each(|&(row, column, x)| values[row * columns + column] = x);
        (vec![rows, columns], values)
    };
    let filled = |n: usize, x: f32| (vec![n], vec![x; n]);
    let tokens: Vec<_> = (0..vocab).map(|t| (t, t, 1.0)).collect();
    let places: Vec<_> = (0..positions).map(|p| (p, POSITIONS + p, 10.0)).collect();
    // Queries, keys and values side by side: a query is the sum of the keys that it wants, a value is the token. Where
    // several are wanted alike it is a weak one, as a thought brings some of the position along that it was made at.
    let wanted = attends.iter().flat_map(|(from, to)| {
        let weight = if to.len() > 1 { 1.0 } else { 10.0 };
        to.iter().map(move |to| (POSITIONS + from, *to, weight))
    });
    let mut attention: Vec<_> = wanted.collect();
    attention.extend((0..positions).map(|p| (POSITIONS + p, D + p, 1.0)));
    attention.extend((0..vocab).map(|t| (t, 2 * D + t, 1.0)));
    // What is read is said, but after `eot` the mark is, and after what reads the mark the end.
    let said = |token: usize| match token {
        EOT => MARK,
        MARK => EOS,
        other => other,
    };
    let says: Vec<_> = (0..vocab).map(|t| (t, said(t), 100.0)).collect();
    let tensors = [
        ("wte.weight", table(vocab, D, &tokens)),
        ("wpe.weight", table(positions, D, &places)),
        ("h.0.attn.c_attn.weight", table(D, 3 * D, &attention)),
        ("h.0.attn.c_attn.bias", filled(3 * D, 0.0)),
        ("h.0.attn.c_proj.weight", table(D, D, &says)),
        ("h.0.attn.c_proj.bias", filled(D, 0.0)),
        ("h.0.mlp.c_fc.weight", table(D, 4 * D, &[])),
        ("h.0.mlp.c_fc.bias", filled(4 * D, 0.0)),
        ("h.0.mlp.c_proj.weight", table(4 * D, D, &[])),
        ("h.0.mlp.c_proj.bias", filled(D, 0.0)),
        ("h.0.ln_1.weight", filled(D, 1.0)),
        ("h.0.ln_1.bias", filled(D, 0.0)),
        ("h.0.ln_2.weight", filled(D, 1.0)),
        ("h.0.ln_2.bias", filled(D, 0.0)),
        ("ln_f.weight", filled(D, 1.0)),
        ("ln_f.bias", filled(D, 0.0)),
    ];
    // The safetensors format: a header's length, the header, the numbers.
    let (mut header, mut numbers) = (serde_json::Map::new(), Vec::new());
    for (name, (shape, values)) in tensors {
        let start = numbers.len();
        numbers.extend(values.iter().flat_map(|x| x.to_le_bytes()));
        let entry = json!({"dtype": "F32", "shape": shape, "data_offsets": [start, numbers.len()]});
        header.insert(format!("transformer.{name}"), entry);
    }
    let header = Value::Object(header).to_string();
    let file = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &numbers].concat();
    fs::write(checkpoint.join("model.safetensors"), file).unwrap();
}

fn audit(place: &Place, checkpoint: &Path, data: &Path) -> Record {
    let folder = place.path("audit");
    let mut command = coconut(["audit"]);
    // The embeddings are as short as one, so that little noise is lost beside the position's.
    command.arg(checkpoint).arg("--data").arg(data).args(["--noise", "10", "-o"]).arg(&folder);
    command.assert().success();
    report::audit::read(&folder).unwrap().unwrap()
}

fn cell(model: &ModelRecord, with: With, places: Places) -> &Cell {
    model.cell(Intervention::edit(with, places)).unwrap()
}

fn rate(rate: coconut::stats::Rate) -> f64 {
    rate.rate().unwrap()
}

/// Whether the record says something that begins so.
fn says(record: &Record, beginning: &str) -> bool {
    record.words.iter().any(|words| words.starts_with(beginning))
}

const VECTORS: [With; 4] = [With::Zero, With::Mean, With::Random, With::Transplant];

#[test]
fn an_answer_read_from_the_second_thought_alone() {
    let data = examples(|digits| digits[1].to_string());
    let attends = [&COPIES[..], &[(END, &[END]), (SAID, &[THOUGHT + 1]), (SAID + 1, &[SAID])]];
    let (place, checkpoint, data) = plant(&data, &attends.concat());
    let record = audit(&place, &checkpoint, &data);
    let model = &record.models[0];
    assert_eq!((rate(model.plain), model.thoughts), (1.0, 3));
    for with in VECTORS {
        for place in 0..3 {
            let cell = cell(model, with, Places::One(place));
            assert_eq!((cell.right.n, rate(cell.plain)), (80, 1.0));
            match place {
                1 => assert!(rate(cell.right) < 0.3 && cell.p_holm < 1e-6, "{cell:?}"),
                _ => assert_eq!((rate(cell.right), rate(cell.changed)), (1.0, 0.0), "{cell:?}"),
            }
            if let Some(follows) = cell.follows {
                assert_eq!(rate(follows), if place == 1 { 1.0 } else { 0.0 });
            }
        }
    }
    // A thought of the same digit changes nothing; of another one, everything. No two questions have the same second
    // digit and different answers.
    let same = Intervention::edit(With::PatchSame, Places::One(1));
    assert!(model.cell(same).is_none());
    for place in 0..3 {
        if place != 1 {
            assert_eq!(rate(cell(model, With::PatchSame, Places::One(place)).changed), 0.0);
        }
        let other = cell(model, With::PatchOther, Places::One(place));
        assert_eq!(rate(other.changed), if place == 1 { 1.0 } else { 0.0 });
    }
    assert!(rate(cell(model, With::Transplant, Places::First(2)).right) == 0.0);
    assert!(says(&record, "It matters what the thoughts hold"), "{:?}", record.words);
    let places = "Of single thoughts, the mean of other questions' in its place does harm at: 2 (";
    assert!(says(&record, places), "{:?}", record.words);
}

#[test]
fn an_answer_read_from_the_question_alone() {
    let data = examples(|digits| digits[1].to_string());
    let attends = [&COPIES[..], &[(END, &[END]), (SAID, &[1]), (SAID + 1, &[SAID])]];
    let (place, checkpoint, data) = plant(&data, &attends.concat());
    let record = audit(&place, &checkpoint, &data);
    let model = &record.models[0];
    for cell in &model.cells {
        let Intervention::Edit { places, .. } = cell.intervention else { continue };
        match places {
            Places::Question => assert!(cell.difference < -0.2 && cell.p_holm < 0.01, "{cell:?}"),
            _ => assert_eq!((rate(cell.right), cell.p_holm), (1.0, 1.0), "{cell:?}"),
        }
    }
    let none = "No effect of what the thoughts hold was shown";
    assert!(says(&record, none), "{:?}", record.words);
    assert!(says(&record, "At no single place"), "{:?}", record.words);
    // What can be read is not what is used: thought k is digit k, for a probe and for the head where it is made.
    let readings = model.readings.as_ref().unwrap();
    for step in 1..=3 {
        let probe =
            readings.best_probes().into_iter().find(|p| (p.position, p.step) == (step, step));
        let probe = probe.unwrap();
        assert!(rate(probe.right) > 0.95 && probe.p_corrected < 0.05, "{probe:?}");
        assert!(probe.shuffled < 0.3 && rate(probe.most_frequent) < 0.3, "{probe:?}");
        let lens =
            readings.last_lens().into_iter().find(|l| (l.position, l.step) == (step - 1, step));
        let lens = lens.unwrap();
        assert!(
            rate(lens.top) == 1.0 && lens.rank == 1.0 && rate(lens.top_shuffled) < 0.3,
            "{lens:?}"
        );
        let selective = readings.selectivity.iter().filter(|s| (s.position, s.own) == (step, step));
        assert!(selective.map(|s| s.value).fold(0.0, f64::max) > 0.5);
    }
    assert_eq!(readings.spread.len(), 3);
    // Position 0 attends to the first digit, latents 1 and 2 to the others, and the end of the prompt to itself.
    for of in &readings.attention {
        let sum = of.question + of.markers + of.latents + of.itself;
        assert!((sum - 1.0).abs() < 1e-6 && of.n == 80, "{of:?}");
        match of.position {
            0..=2 => {
                // All of it to a digit, of three digits and a newline.
                assert!(of.question > 0.99, "{of:?}");
                let classes: Vec<_> = of.classes.iter().map(|of| of.class).collect();
                assert_eq!(classes, [TokenClass::Number, TokenClass::Symbol]);
                assert!((of.classes[0].share - of.question).abs() < 0.01, "{of:?}");
                assert!((of.classes[0].even - 0.75 * of.question).abs() < 1e-9, "{of:?}");
            }
            4 => assert!(of.markers > 0.99, "{of:?}"),
            _ => {}
        }
    }
    assert_eq!(readings.attention.len(), 5);
    // An interval stands beside it: 0 of 80 changed.
    assert!(
        record.words.iter().any(|words| words.starts_with(none) && words.contains("0.0 to 0.0"))
    );
}

/// The answer repeats the three digits: each is read from its own thought.
#[test]
fn an_answer_read_from_every_thought_in_order() {
    let data = examples(|digits| digits.map(|digit| digit.to_string()).join(" "));
    let reads = [(SAID, &[THOUGHT][..]), (SAID + 1, &[THOUGHT + 1]), (SAID + 2, &[THOUGHT + 2])];
    let attends = [&COPIES[..], &[(END, &[END]), (SAID + 3, &[SAID])], &reads];
    let (place, checkpoint, data) = plant(&data, &attends.concat());
    let record = audit(&place, &checkpoint, &data);
    let model = &record.models[0];
    assert_eq!(rate(model.plain), 1.0);
    for place in 0..3 {
        for with in VECTORS {
            let cell = cell(model, with, Places::One(place));
            assert!(rate(cell.right) < 0.3 && cell.p_holm < 1e-6, "{cell:?}");
        }
    }
    let permuted = cell(model, With::Permute, Places::All);
    assert!(rate(permuted.right) < 0.3, "{permuted:?}");
    assert_eq!(cell(model, With::Transplant, Places::All).follows.map(rate), Some(1.0));
    assert!(says(&record, "Their order matters"), "{:?}", record.words);
}

/// The answer is the digit that stands twice among the thoughts, wherever.
#[test]
fn an_answer_read_from_all_thoughts_in_any_order() {
    let digits = |i: usize| {
        let (twice, once) = (i % 10, (i + 1 + i / 10) % 10);
        let mut digits = [twice; 3];
        digits[i % 3] = once;
        (digits.map(|digit| digit.to_string()), twice.to_string())
    };
    let all = (0..80).map(digits).map(
        |(words, twice)| json!({"question": words.join(" "), "steps": words, "answer": twice}),
    );
    let thoughts: &[usize] = &[THOUGHT, THOUGHT + 1, THOUGHT + 2];
    let attends = [&COPIES[..], &[(END, &[END]), (SAID, thoughts), (SAID + 1, &[SAID])]];
    let (place, checkpoint, data) = plant(&all.collect(), &attends.concat());
    let record = audit(&place, &checkpoint, &data);
    let model = &record.models[0];
    assert_eq!(rate(model.plain), 1.0);
    let permuted = cell(model, With::Permute, Places::All);
    assert_eq!((permuted.right.n, rate(permuted.changed)), (80, 0.0));
    assert!(rate(cell(model, With::Zero, Places::All).right) < 0.3);
    assert!(says(&record, "That their order matters was not shown"), "{:?}", record.words);
    assert!(says(&record, "It matters what the thoughts hold"), "{:?}", record.words);
}
