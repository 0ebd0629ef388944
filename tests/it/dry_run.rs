//! What `coconut train RECIPE --dry-run` says that an example becomes.

use std::collections::BTreeMap;

use assert_cmd::assert::OutputAssertExt;

use crate::program::{Place, train};

/// A row as it is shown: its lines' cells by the token below or above which they stand.
#[derive(Default)]
struct Shown {
    tokens: Vec<String>,
    /// For each other line, the place of each token of which it says something, and what it says.
    said: BTreeMap<String, Vec<(usize, String)>>,
}

impl Shown {
    fn of(&self, line: &str) -> Vec<(usize, &str)> {
        let said = self.said.get(line).map_or(&[][..], Vec::as_slice);
        said.iter().map(|(place, text)| (*place, text.as_str())).collect()
    }

    /// The places of the latents' region: the token before them, and they.
    fn region(&self) -> Vec<usize> {
        let latent = |place: &usize| self.tokens[*place].contains("latent|>");
        let mut places: Vec<usize> = (0..self.tokens.len()).filter(latent).collect();
        places.pop(); // the marker after them
        places
    }
}

/// The words of a line and the characters at which they begin, the line's name left out.
fn words(line: &str) -> Vec<(usize, String)> {
    let characters: Vec<char> = line.chars().collect();
    let begins = |&at: &usize| characters[at] != ' ' && (at == 0 || characters[at - 1] == ' ');
    let word = |at: usize| {
        let word: String = characters[at..].iter().take_while(|c| **c != ' ').collect();
        (at, word)
    };
    (0..characters.len()).filter(begins).map(word).skip(1).collect()
}

/// The rows of each stage by their names, and the stage's passes.
fn dry_run(keys: &[(&str, &str)]) -> Vec<(BTreeMap<String, Shown>, String)> {
    let place = Place::new();
    let assert = train(&place.recipe(keys), &["--dry-run"]).assert().success();
    let printed = String::from_utf8(assert.get_output().stdout.clone()).unwrap();
    let stages = printed.split("\n# stage ").skip(1).map(|stage| {
        let (mut rows, mut passes) = (BTreeMap::<String, Shown>::new(), String::new());
        let (mut row, mut starts) = (String::new(), Vec::new());
        for line in stage.lines().skip(1) {
            if let Some(list) = line.strip_prefix("passes: ") {
                passes = list.to_owned();
            } else if let Some(rest) = line.strip_prefix("  ") {
                let shown = rows.entry(row.clone()).or_default();
                let name = rest.split(' ').next().unwrap().to_owned();
                let found = words(line);
                if name == "tokens" {
                    let before = shown.tokens.len();
                    starts = (before..).zip(&found).map(|(place, (at, _))| (*at, place)).collect();
                    shown.tokens.extend(found.into_iter().map(|(_, word)| word));
                    continue;
                }
                let aligned = found.into_iter().map(|(at, word)| {
                    let place = starts.iter().find(|(start, _)| *start == at);
                    let (_, place) =
                        place.unwrap_or_else(|| panic!("{word} under nothing:\n{stage}"));
                    (*place, word)
                });
                shown.said.entry(name).or_default().extend(aligned);
            } else if !line.is_empty() {
                row = line.to_owned();
            }
        }
        (rows, passes)
    });
    stages.collect()
}

/// The running values of a row's chain such as `3+5*2`, modulo 10.
fn running_values(tokens: &[String]) -> Vec<String> {
    let chain: Vec<&str> = tokens.iter().map(String::as_str).take_while(|t| *t != "\\n").collect();
    let mut value: i64 = chain[0].parse().unwrap();
    let step = |pair: &[&str]| {
        let next: i64 = pair[1].parse().unwrap();
        value = match pair[0] {
            "+" => value + next,
            "-" => value - next,
            "*" => value * next,
            other => panic!("{other}"),
        }
        .rem_euclid(10);
        value.to_string()
    };
    chain[1..].chunks(2).map(step).collect()
}

#[test]
fn latents_are_shown_with_the_steps_that_they_are_to_say() {
    let keys = [("method", "lotus"), ("c_thought", "3"), ("steps_at", "own")];
    let stages = dry_run(&keys);
    assert_eq!(stages.len(), 4, "CoT, 0, 1 and 2, where it stays");
    for (stage, (rows, passes)) in (-1..).zip(&stages) {
        assert_eq!(rows.keys().collect::<Vec<_>>(), ["row"]);
        let row = &rows["row"];
        let values = running_values(&row.tokens);
        let region = row.region();
        // Blocks of three latents, of which the first two positions have a value and its newline, `bot` being first.
        let blocks = stage.max(0) as usize;
        let expected = |texts: [&dyn Fn(usize) -> String; 2]| -> Vec<(usize, String)> {
            let block = |k: usize| {
                let places = [region[3 * k], region[3 * k + 1]];
                places.into_iter().zip(texts.map(|text| text(k))).collect::<Vec<_>>()
            };
            (0..blocks).flat_map(block).collect()
        };
        let owned = |line: &str| -> Vec<(usize, String)> {
            row.of(line).into_iter().map(|(place, text)| (place, text.to_owned())).collect()
        };
        let steps = expected([&|k| values[k].clone(), &|_| "\\n".to_owned()]);
        assert_eq!(owned("steps"), steps, "stage {stage}");
        let after = expected([&|k| (k + 1).to_string(), &|k| (k + 1).to_string()]);
        assert_eq!(owned("after"), after, "stage {stage}");
        // All but what is given has a label: itself.
        let given = 6 + if stage < 0 { 0 } else { region.len() + 1 };
        for (place, label) in row.of("labels") {
            assert_eq!(label, if place < given { "·" } else { &row.tokens[place] });
        }
        let fed = passes.matches("latents fed from").count();
        assert_eq!(fed, blocks, "an iteration a block: {passes}");
        assert_eq!(passes.matches("not kept").count(), blocks, "{passes}");
    }
}

#[test]
fn teachers_are_shown_with_what_is_compared() {
    let stages = dry_run(&[("method", "codi"), ("c_thought", "3"), ("cot_epochs", "0")]);
    let [(rows, passes)] = stages.as_slice() else { panic!("{} stages", stages.len()) };
    let (row, teacher) = (&rows["row"], &rows["teacher"]);
    let values = running_values(&row.tokens);
    for shown in [row, teacher] {
        // The token before the value of the answer.
        let [(place, "^")] = shown.of("distil")[..] else { panic!("{:?}", shown.said) };
        assert_eq!(shown.tokens[place], "###");
        assert_eq!(Some(&shown.tokens[place + 1]), values.last());
    }
    assert!(!row.said.contains_key("steps"));
    // The teacher's steps are all but the last one.
    let written = |shown: &Shown| -> Vec<String> {
        let labels = shown.of("labels").into_iter().filter(|(_, label)| *label != "·");
        labels.map(|(_, label)| label.to_owned()).collect()
    };
    let (first, last) = (values[0].as_str(), values[1].as_str());
    assert_eq!(written(row), ["###", last, "<eos>"]);
    assert_eq!(written(teacher), [first, "\\n", "###", last, "<eos>"]);
    let expected = "0 shared columns 1–7, the last one the row's alone | 1 row column 8, a latent fed from 0 | \
        2 row column 9, a latent fed from 1 | 3 row columns 10–14, a latent fed from 2 | 4 teacher columns 15–19";
    assert_eq!(passes, expected);
}

#[test]
fn long_rows_are_shown_in_part() {
    let stages = dry_run(&[("method", "codi"), ("c_thought", "90"), ("cot_epochs", "0")]);
    let (rows, passes) = &stages[0];
    let hidden: Vec<&String> = rows["row"].tokens.iter().filter(|token| **token == "…").collect();
    assert_eq!(hidden.len(), 2, "on both sides of their number");
    assert!(passes.contains(" | … | "), "{passes}");
}

#[test]
fn slots_are_shown_with_what_a_decoder_is_to_read() {
    let place = Place::new();
    let recipe = place.recipe(&[("step_decoder", "coconut")]);
    let assert = train(&recipe, &["--dry-run"]).assert().success();
    let printed = String::from_utf8(assert.get_output().stdout.clone()).unwrap();
    let lines: Vec<&str> =
        printed.lines().filter_map(|line| line.strip_prefix("decoder: ")).collect();
    // Stages 1 and 2, and the last one, which has no words and as many thoughts as stage 2.
    assert_eq!(lines.len(), 3, "{printed}");
    let slots: Vec<&str> = lines[1].split(" | ").collect();
    let tokens = printed.split("\n  tokens ").nth(1).unwrap().split_whitespace();
    let tokens: Vec<String> = tokens.map(str::to_owned).collect();
    let values = running_values(&tokens);
    let expected = [("1–2", &values[0]), ("3–4", &values[1])];
    for (slot, (thoughts, value)) in slots.iter().zip(expected) {
        assert_eq!(*slot, format!("thoughts {thoughts} read {value} \\n <eos>"));
    }
    assert_eq!((lines[0], slots.len()), (slots[0], 2));
}
