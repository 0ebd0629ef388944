//! Answers read and judged as the sets' own scorers do (python/fixtures/make_scorers.py ran them).

use coconut::eval::score::Scorer;
use serde::Deserialize;

#[derive(Deserialize)]
struct Fixture {
    numbers: Vec<Number>,
    choices: Vec<Choice>,
    math: Vec<Math>,
    boxed: Vec<Boxed>,
}

#[derive(Deserialize)]
struct Number {
    text: String,
    answer: String,
    strict: Option<bool>,
    flexible: Option<bool>,
    codi: bool,
}

#[derive(Deserialize)]
struct Choice {
    text: String,
    answer: String,
}

#[derive(Deserialize)]
struct Math {
    ours: String,
    right: String,
    same: bool,
}

#[derive(Deserialize)]
struct Boxed {
    text: String,
    holds: Option<String>,
}

fn fixture() -> Fixture {
    serde_json::from_str(include_str!("../fixtures/scorers.json")).unwrap()
}

fn judged(scorer: &Scorer, text: &str, answer: &str) -> bool {
    scorer.is_right(scorer.read(text, "###").as_deref(), answer, None)
}

#[test]
fn numbers_are_judged_as_gsm8k_and_codi_judge_them() {
    // Where the scorers differ among themselves: what is right here, and why.
    let settled = [
        ("The answer is 7.0", true),                 // by value, as CODI's
        ("10-12", true),                             // a difference has no sign
        (".75 of it", true),                         // 0.75, not 75
        ("#### 5\n\nQuestion: next\n#### 6", false), // the last mark counts
    ];
    for Number { text, answer, strict, flexible, codi } in fixture().numbers {
        let ours = judged(&Scorer::Number, &text, &answer);
        if let Some((_, expected)) = settled.iter().find(|(settled, _)| *settled == text) {
            assert_eq!(ours, *expected, "{text:?}");
            continue;
        }
        assert_eq!(ours, strict.unwrap_or(codi), "{text:?}");
        assert_eq!(ours, flexible.unwrap_or(false), "{text:?}");
        assert_eq!(ours, codi, "{text:?}");
    }
}

#[test]
fn numbers_are_found_where_they_stand() {
    for (text, number) in [
        ("I need \\boxed{12} eggs, 3 a day", Some("12")),
        ("Ratio 3/4", Some("4")),
        ("minus −5", Some("-5")),
        ("(5)-3", Some("3")),
        ("-$20", Some("-20")),
        ("1,23", Some("23")),
        ("12,345,67", Some("67")),
        ("v1.2.3", Some("3")),
        ("é5é", Some("5")),
        ("### none, then 4", Some("4")),
        ("5 ### none", Some("5")),
        ("-", None),
    ] {
        assert_eq!(Scorer::Number.read(text, "###").as_deref(), number, "{text:?}");
    }
}

#[test]
fn letters_are_read_as_codi_reads_them() {
    let scorer = Scorer::Choice(["A", "B", "C", "D", "E"].map(String::from).to_vec());
    for Choice { text, answer } in fixture().choices {
        assert_eq!(scorer.read(&text, "###"), Some(answer), "{text:?}");
    }
}

#[test]
fn choices_stand_alone() {
    let letters = Scorer::Choice(["A", "B", "C", "D", "E"].map(String::from).to_vec());
    for (text, letter) in [
        ("(B) because A dog barks", Some("B")),
        ("Answer: **C**", Some("C")),
        ("the answer is A", Some("A")),
        ("A. bank", Some("A")),
        ("Bank", None),
        ("b", None),
        ("### D\nor E?", Some("D")),
        ("E ### D", Some("D")),
        ("E ### none", Some("E")),
    ] {
        assert_eq!(letters.read(text, "###").as_deref(), letter, "{text:?}");
    }
    let words = Scorer::Choice(["False", "True"].map(String::from).to_vec());
    assert_eq!(words.read("It is true.", "###").as_deref(), Some("True"));
    assert!(words.is_right(Some("True"), "True", None));
}

#[test]
fn math_is_judged_as_its_scorer_judges_it() {
    for Math { ours, right, same } in fixture().math {
        assert_eq!(Scorer::Boxed.is_right(Some(&ours), &right, None), same, "{ours:?}, {right:?}");
    }
    for Boxed { text, holds } in fixture().boxed {
        assert_eq!(Scorer::Boxed.read(&text, "###"), holds, "{text:?}");
    }
}

#[test]
fn a_set_calls_for_its_scorer() {
    for (answers, name) in [
        (&["72", "1,000", "-3.5"][..], "number"),
        (&["A", "C", "B", "A"], "choice"),
        (&["True", "False"], "choice"),
        (&["\\frac{1}{2}", "5"], "boxed"),
        (&["Tom is a lempus.", "Sally is a rompus."], "line"),
    ] {
        assert_eq!(Scorer::of(answers.iter().copied()).name(), name, "{answers:?}");
        assert_eq!(Scorer::named(name, answers.iter().copied()).unwrap().name(), name);
    }
    assert_eq!(
        Scorer::Line.read("so\nTom is a lempus. \n\n", "###").as_deref(),
        Some("Tom is a lempus.")
    );
}
