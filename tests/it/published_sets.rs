//! Sets in the forms in which they are published (python/fixtures/make_sets.py).

use std::fs;

use assert_cmd::assert::OutputAssertExt;
use coconut::data::{Example, read};
use proptest::prelude::*;

use crate::{
    fixture,
    program::{Place, coconut},
};

fn examples(name: &str) -> Vec<Example> {
    read::load(&fixture("data/sets").join(name), None).unwrap_or_else(|error| panic!("{error}"))
}

#[test]
fn every_form_is_read() {
    let gsm8k = [
        Example::new(
            "Ann has 3 bags of 4 nuts and eats 2. How many are left?",
            ["Ann has 3*4 = <<3*4=12>>12 nuts.", "Then 12-2 = <<12-2=10>>10 are left."],
            "10",
        ),
        Example::new(
            "A car costs $1,500 and a boat twice that. How much is the boat?",
            [""; 0],
            "3000",
        ),
    ];
    let pens = |answer| Example::new("Ben has 2 pens and 5 more. How many?", [""; 0], answer);
    let choice = Example::new("Where is a pen?\nA. sea\nB. desk", [""; 0], "B");
    for (name, expected) in [
        ("gsm8k.jsonl", gsm8k.to_vec()),
        ("gsm8k.parquet", gsm8k.to_vec()),
        ("gsm_hard.jsonl", vec![Example::new("What is 7 of 3000000.5?", [""; 0], "21000003.5")]),
        (
            "svamp.json",
            vec![
                Example::new("Ben had 9 pens. He lost 2. How many are left?", [""; 0], "7.0"),
                Example::new("Ben had 9 pens. How many are that?", [""; 0], "9.0"),
            ],
        ),
        ("multiarith.json", vec![pens("7.0")]),
        ("multiarith.parquet", vec![pens("7")]),
        (
            "asdiv.parquet",
            vec![Example::new(
                "Seven apples are red and two are green. How many apples are there?",
                [""; 0],
                "9",
            )],
        ),
        (
            "math.jsonl",
            vec![
                Example::new(
                    "What is $1/2+1/4$?",
                    ["We add.", "It is $\\boxed{\\frac{3}{4}}$."],
                    "\\frac{3}{4}",
                ),
                Example::new("What is $2^3$?", ["Eight."], "8"),
            ],
        ),
        ("commonsense_qa.jsonl", vec![choice.clone()]),
        ("commonsense_qa.parquet", vec![choice]),
        (
            "gsm8k_aug.parquet",
            vec![
                Example::new(
                    "Ben has 2 pens, 5 more and half as many.",
                    ["<<2+5=7>>", "<<7/2=3.5>>"],
                    "3.5",
                ),
                Example::new("Is a pen red?", ["A pen is a tool.", "Tools are red."], "True"),
            ],
        ),
    ] {
        assert_eq!(examples(name), expected, "{name}");
    }
    let first = read::load(&fixture("data/sets/gsm8k.parquet"), Some(1)).unwrap();
    assert_eq!(first, gsm8k[..1]);
}

#[test]
fn what_a_form_lacks_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("set.json");
    for (object, words) in [
        (r#"{"question": "q", "answer": "12"}"#, "the field `steps` is missing"),
        (r#"{"question": "q", "answer": 12}"#, "the field `steps` is missing"),
        (r#"{"problem": "q", "solution": "12"}"#, "the field `solution` has no \\boxed answer"),
        (
            r#"{"sQuestion": "q", "lSolutions": [1, 2]}"#,
            "the field `lSolutions` must be a list of one number",
        ),
        (r#"{"input": "q", "target": [1]}"#, "the field `target` must be a string or a number"),
        (
            r#"{"question": "q", "answerKey": "A", "choices": {"label": ["A"], "text": []}}"#,
            "the field `choices` must be a list of labels and texts",
        ),
        (r#"{"question": "q", "answerKey": "A"}"#, "the field `choices` is missing"),
    ] {
        fs::write(&path, object).unwrap();
        let error = read::load(&path, None).unwrap_err().to_string();
        assert!(error.contains("example 1") && error.contains(words), "{error}");
    }
}

#[test]
fn a_table_that_is_cut_off_is_refused() {
    let bytes = fs::read(fixture("data/sets/gsm8k.parquet")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("set.parquet");
    fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();
    let error = read::load(&path, None).unwrap_err();
    assert!(error.to_string().contains("is a Parquet table that is cut off"), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]
    /// A damaged table is refused or read; it never ends the program.
    #[test]
    fn damaged_tables_are_refused(
        name in prop::sample::select(vec!["gsm8k.parquet", "gsm8k_aug.parquet", "commonsense_qa.parquet"]),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        cut in prop::option::of((any::<prop::sample::Index>(), 1_usize..64)),
    ) {
        let mut bytes = fs::read(fixture("data/sets").join(name)).unwrap();
        for (place, byte) in changes {
            // The magic at both ends stays, or it would be no table.
            let place = 4 + place.index(bytes.len() - 8);
            bytes[place] = byte;
        }
        if let Some((place, length)) = cut {
            let place = 4 + place.index(bytes.len() - 8);
            let end = (place + length).min(bytes.len() - 4);
            bytes.drain(place..end);
        }
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("set.parquet");
        fs::write(&path, bytes).unwrap();
        let _ = read::load(&path, None);
    }
}

#[test]
fn solutions_are_kept_as_equations_or_words() {
    let place = Place::new();
    let convert = |steps: &str| {
        let out = place.path("out.json");
        let mut command = coconut(["data", "convert"]);
        command.arg(fixture("data/sets/gsm8k.parquet")).arg(&out).args(["--steps", steps]);
        command.assert().success();
        read::load(&out, None).unwrap().remove(0).steps
    };
    assert_eq!(convert("equations"), ["<<3*4=12>>", "<<12-2=10>>"]);
    assert_eq!(convert("words"), ["Ann has 3*4 = 12 nuts.", "Then 12-2 = 10 are left."]);
}
