//! Every file format on small files of our own, and, on demand, every public file.

use std::path::{Path, PathBuf};

use coconut::data::{
    Example, Tokenizer, encode_graphs, encode_texts, read, stats::Stats, tasks::multiply::Multiply,
    tokenizer::Units, write,
};

fn fixture(name: &str) -> Vec<Example> {
    let path = crate::fixture("data").join(name);
    read::load(&path, None).unwrap_or_else(|error| panic!("{error}"))
}

#[test]
fn json_list() {
    let examples = fixture("list.json");
    let n_steps: Vec<usize> = examples.iter().map(|example| example.steps.len()).collect();
    assert_eq!(n_steps, [3, 1, 0]);
    assert_eq!(examples[2].answer, "6");
    assert_eq!(examples[0].graph.as_ref().unwrap().target, 4);
    assert!(examples[1].graph.is_none());
}

#[test]
fn json_lines() {
    let examples = fixture("lines.jsonl");
    assert_eq!(examples.len(), 2);
    assert_eq!(examples[1].steps, ["<<1000*10/100=100>>", "<<1000-100=900>>"]);
}

/// What Python's `json` and `jq` print of the same two examples, and a list that an object wraps.
#[test]
fn pretty_json() {
    let expected = [
        Example::new("What is 2+3?", ["<<2+3=5>>"], "5"),
        Example::new("What is 2*3-1?", ["<<2*3=6>>", "<<6-1=5>>"], "5"),
    ];
    for name in ["pretty_list.json", "pretty_wrapped.json", "pretty_jq.jsonl"] {
        assert_eq!(fixture(name), expected, "{name}");
    }
    assert_eq!(fixture("pretty_object.json"), expected[..1]);
}

/// Python's integers have any number of digits, and a float is written with its point.
#[test]
fn digits_of_numbers_survive_a_conversion() {
    let examples = fixture("numbers.json");
    let answers: Vec<&str> = examples.iter().map(|example| example.answer.as_str()).collect();
    let digits = ["18446744073709551616", "123456789012345678901234567890", "-9223372036854775809"];
    assert_eq!(answers[..3], digits);
    assert_eq!(answers[3..], ["-0", "1.0", "0.1", "1e+22"]);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("converted.json");
    write::write_json(&path, &examples).unwrap();
    assert_eq!(read::load(&path, None).unwrap(), examples);
}

#[test]
fn icot_text() {
    let examples = fixture("icot.txt");
    assert_eq!(examples[0].steps, ["<<12-3=9>>", "<<9*.5=4.5>>"]);
    assert_eq!(examples[0].answer, "4.5");
    assert_eq!(examples[2], Example::new("How many hours has a day?", [""; 0], "24"));
}

#[test]
fn icot_question_ends_at_the_first_bars() {
    let examples = fixture("icot.txt");
    assert_eq!(examples[1].question, "A town of 1,200 people doubles ");
    assert_eq!(examples[1].answer, "2400");
}

#[test]
fn icot_multiplication() {
    let task = |a_digits, b_digits| Multiply { a_digits, b_digits };
    assert_eq!(fixture("multiply.txt"), [task(2, 2).worked(12, 34), task(3, 3).worked(150, 201)]);
}

#[test]
fn prontoqa() {
    let examples = fixture("prontoqa.json");
    let steps = [
        "Rex is a cat. Every cat is a carnivore.",
        "Rex is a carnivore. Carnivores are not herbivorous.",
        "Rex is not herbivorous.",
    ];
    assert_eq!(examples[0].steps, steps);
    assert!(examples[0].question.ends_with("Rex is a cat. True or false: Rex is herbivorous."));
    assert_eq!((examples[0].answer.as_str(), examples.len()), ("False", 2));
}

#[test]
fn symbol_graph() {
    let examples = fixture("symbol_graph.json");
    let tokenizer = Tokenizer::for_graphs(31, Path::new("graphs")).unwrap();
    encode_graphs(&examples, &tokenizer, Path::new("symbol_graph.json")).unwrap();
}

/// `COCONUT_DATA=folder cargo test --release --test data_files -- --ignored --nocapture` reads the files of
/// the table, which are not part of this repository, and prints their statistics.
#[test]
#[ignore = "needs the public files in the folder COCONUT_DATA"]
fn public_files() {
    let folder = PathBuf::from(std::env::var("COCONUT_DATA").unwrap());
    for (name, n_examples, n_without_steps) in [
        ("gsm8k_aug_test.txt", 1319, 18),
        ("gsm8k_aug_valid.txt", 500, 6),
        ("gsm8k_original_train.json", 7473, 95),
        ("mult_4x4_test.txt", 1000, 0),
        ("mult_4x4_valid.txt", 1000, 0),
        ("prontoqa_5hop_test.json", 800, 0),
        ("prontoqa_5hop_valid.json", 200, 0),
        ("prosqa_symbol_test.json", 419, 0),
        ("prosqa_symbol_valid.json", 257, 0),
        ("prosqa_test.json", 500, 0),
        ("prosqa_valid.json", 300, 0),
        ("svamp.json", 1000, 1000),
    ] {
        let path = folder.join(name);
        let examples = read::load(&path, None).unwrap_or_else(|error| panic!("{error}"));
        let without_steps = examples.iter().filter(|example| example.steps.is_empty()).count();
        assert_eq!((examples.len(), without_steps), (n_examples, n_without_steps), "{name}");

        let units =
            if name.starts_with("mult") { Units::for_symbols(&examples) } else { Units::Words };
        let tokenizer = Tokenizer::build(&examples, units, &path).unwrap();
        let (encoded, found) = encode_texts(&examples, &tokenizer).unwrap();
        let stats = serde_json::to_string(&Stats::of(&examples, Some(&encoded))).unwrap();
        println!("{name}: {units:?}, {} tokens\n{stats}", tokenizer.vocab_size());
        found.warnings().iter().for_each(|warning| println!("{warning}"));

        if name.starts_with("mult") {
            check_multiplication(&examples);
        }
        if name.starts_with("prosqa") {
            let graphs = Tokenizer::for_graphs(31, &path).unwrap();
            let encoded = encode_graphs(&examples, &graphs, &path).unwrap();
            assert!(
                encoded.iter().zip(&examples).all(|(pieces, e)| pieces.n_steps() == e.steps.len())
            );
        }
    }
}

fn check_multiplication(examples: &[Example]) {
    let number =
        |digits: &str| -> u64 { digits.split(' ').rev().collect::<String>().parse().unwrap() };
    for example in examples {
        let (a, b) = example.question.split_once(" * ").unwrap();
        assert_eq!(example, &Multiply::default().worked(number(a), number(b)));
    }
}
