//! The curriculum as literal token tables: every row of docs/method.md 3.1's table, every method.
//!
//! A row is written as words. `^` is `<|start-latent|>`, `~` a latent, `$` `<|end-latent|>`, `.` the eos; what
//! stands behind `|` is labelled.

use coconut::checkpoint::TrainerState;
use coconut::data::encode::{GraphMarks, GraphPieces, Text};
use coconut::data::{
    Curriculum, Encoded, Method, SampleKey, Schedule, ScheduleState, Sequence, SpecialTokens,
    Stage, schedule::Pace,
};

const WORDS: [&str; 16] =
    ["^", "~", "$", ".", "Q", "q", "a", "b", "c", "d", "A", "1", "bar", "[Q]", "[R]", "[A]"];
const MARKERS: SpecialTokens =
    SpecialTokens { start_latent: 0, end_latent: 2, latent: 1, eos: 3, pad: 3 };
const KEY: SampleKey = SampleKey { seed: 7, epoch: 3, index: 11 };

fn ids(words: &str) -> Vec<u32> {
    let id = |word| WORDS.iter().position(|&known| known == word).unwrap() as u32;
    words.split_whitespace().map(id).collect()
}

fn words(sequence: &Sequence) -> String {
    assert_eq!(sequence.ids.len(), sequence.labels.len());
    assert!(sequence.labels[..sequence.prompt_len].iter().all(Option::is_none));
    let labelled = sequence.ids[sequence.prompt_len..].iter().map(|&id| Some(id));
    assert!(labelled.eq(sequence.labels[sequence.prompt_len..].iter().copied()));
    let latents: Vec<usize> =
        (0..sequence.ids.len()).filter(|&i| sequence.ids[i] == MARKERS.latent).collect();
    assert!(latents.iter().copied().eq(sequence.latents()));

    let word = |&id: &u32| WORDS[id as usize];
    let mut words: Vec<&str> = sequence.ids.iter().map(word).collect();
    words.insert(sequence.prompt_len, "|");
    words.join(" ")
}

/// `Q q`, up to four steps (`a a`, `b`, `c`, `d`), `A 1 .`
fn text(n_steps: usize) -> Encoded {
    let steps = ["a a", "b", "c", "d"][..n_steps].iter().map(|step| ids(step)).collect();
    Encoded::Text(Text { question: ids("Q q"), steps, answer: ids("A 1 ."), value_start: 1 })
}

fn curriculum(method: Method) -> Curriculum {
    Curriculum::new(method, 1, 2, false)
}

fn schedule(method: Method) -> Schedule {
    Schedule {
        method,
        row: method.row(),
        max_latent_stage: 2,
        cot_epochs: 1,
        epochs_per_stage: 2,
        num_epochs: 10,
        pace: Pace::Clock,
    }
}

/// Compares training rows, and checks that each prompt is its row up to the first label.
#[track_caller]
fn check(curriculum: &Curriculum, example: &Encoded, table: &[(i32, &str)]) {
    for &(stage, expected) in table {
        let row = curriculum.train_sequence(example, Stage(stage), MARKERS, KEY);
        assert_eq!(words(&row), expected, "stage {stage}");
        let prompt = curriculum.prompt(example, Stage(stage), MARKERS, KEY);
        let given = expected.split('|').next().unwrap();
        assert_eq!(words(&prompt), format!("{given}|"), "prompt at stage {stage}");
        assert_eq!(prompt.n_latents, row.n_latents, "latents at stage {stage}");
        assert_eq!(curriculum.n_latents(Stage(stage), example.n_steps()), row.n_latents);

        let remaining = curriculum.remaining_steps(Stage(stage), example.n_steps());
        let Encoded::Text(text) = example else { panic!("a text") };
        let labelled = [text.steps[remaining].concat(), text.answer.clone()].concat();
        assert_eq!(row.ids[row.prompt_len..], labelled, "remaining steps at stage {stage}");
    }
    let stages: Vec<Stage> = table.iter().map(|&(stage, _)| Stage(stage)).collect();
    let lengths = table.iter().map(|(_, row)| row.split_whitespace().filter(|&w| w != "|").count());
    assert_eq!(Some(curriculum.max_len(example, &stages, MARKERS)), lengths.max());
    for stage in stages {
        let row = curriculum.train_sequence(example, stage, MARKERS, KEY);
        assert_eq!(curriculum.max_len(example, &[stage], MARKERS), row.ids.len());
    }
}

#[test]
fn coconut() {
    check(
        &curriculum(Method::Coconut),
        &text(4),
        &[
            (-1, "Q q | a a b c d A 1 ."),
            (0, "Q q ^ $ | a a b c d A 1 ."),
            (1, "Q q ^ ~ $ | b c d A 1 ."),
            (2, "Q q ^ ~ ~ $ | c d A 1 ."),
            (3, "Q q ^ ~ ~ $ | A 1 ."),
        ],
    );
}

#[test]
fn coconut_with_two_thoughts_a_step() {
    check(
        &Curriculum { c_thought: 2, ..curriculum(Method::Coconut) },
        &text(3),
        &[
            (-1, "Q q | a a b c A 1 ."),
            (0, "Q q ^ $ | a a b c A 1 ."),
            (1, "Q q ^ ~ ~ $ | b c A 1 ."),
            (2, "Q q ^ ~ ~ ~ ~ $ | c A 1 ."),
            (3, "Q q ^ ~ ~ ~ ~ $ | A 1 ."),
        ],
    );
}

#[test]
fn fewer_steps_than_the_stage() {
    check(
        &curriculum(Method::Coconut),
        &text(1),
        &[
            (0, "Q q ^ $ | a a A 1 ."),
            (1, "Q q ^ ~ $ | A 1 ."),
            (2, "Q q ^ ~ $ | A 1 ."),
            (3, "Q q ^ ~ $ | A 1 ."),
        ],
    );
    check(
        &Curriculum { pad_latent_to_max: true, ..curriculum(Method::Coconut) },
        &text(1),
        &[
            (0, "Q q ^ $ | a a A 1 ."),
            (1, "Q q ^ ~ $ | A 1 ."),
            (2, "Q q ^ ~ ~ $ | A 1 ."),
            (3, "Q q ^ ~ ~ $ | A 1 ."),
        ],
    );
}

#[test]
fn no_steps_at_all() {
    let rows = [(-1, "Q q | A 1 ."), (0, "Q q ^ $ | A 1 ."), (3, "Q q ^ $ | A 1 .")];
    check(&curriculum(Method::Coconut), &text(0), &rows);
}

#[test]
fn other_methods() {
    let steps = "Q q | a a b c A 1 .";
    check(&curriculum(Method::Cot), &text(3), &[(-1, steps), (0, steps), (3, steps)]);
    let answer = "Q q | A 1 .";
    check(&curriculum(Method::NoCot), &text(3), &[(-1, answer), (1, answer), (3, answer)]);
    check(
        &curriculum(Method::NoThoughts),
        &text(3),
        &[
            (-1, steps),
            (0, steps),
            (1, "Q q | b c A 1 ."),
            (2, "Q q | c A 1 ."),
            (3, "Q q | A 1 ."),
        ],
    );
    check(
        &curriculum(Method::Pause),
        &text(3),
        &[(-1, steps), (0, "Q q ^ $ | a a b c A 1 ."), (2, "Q q ^ ~ ~ $ | c A 1 .")],
    );
    check(&curriculum(Method::NoCurriculum), &text(3), &[(3, "Q q ^ ~ ~ $ | A 1 .")]);
}

#[test]
fn stages_and_their_epochs() {
    let stages = |schedule: &Schedule| -> Vec<(i32, std::ops::Range<usize>)> {
        schedule.stages().into_iter().map(|(stage, epochs)| (stage.0, epochs)).collect()
    };
    let all = vec![(-1, 0..1), (0, 1..3), (1, 3..5), (2, 5..7), (3, 7..10)];
    for method in [Method::Coconut, Method::NoThoughts, Method::Pause] {
        assert_eq!(stages(&schedule(method)), all);
    }
    assert_eq!(stages(&schedule(Method::Cot)), [(-1, 0..10)]);
    assert_eq!(stages(&schedule(Method::NoCot)), [(3, 0..10)]);
    assert_eq!(stages(&schedule(Method::NoCurriculum)), [(3, 0..10)]);

    let short = Schedule { num_epochs: 4, ..schedule(Method::Coconut) };
    assert_eq!(stages(&short), [(-1, 0..1), (0, 1..3), (1, 3..4)]);
    let at = |epoch| short.stage_at(epoch, &ScheduleState::default()).0;
    assert_eq!([at(0), at(1), at(2), at(3), at(99)], [-1, 0, 0, 1, 1]);
    let ends: Vec<usize> = (0..4)
        .filter(|&epoch| short.ends_stage(Stage(at(epoch)), epoch, 5, &ScheduleState::default()))
        .collect();
    assert_eq!(ends, [0, 2, 3]);

    let paper = Schedule {
        cot_epochs: 0,
        epochs_per_stage: 5,
        max_latent_stage: 6,
        num_epochs: 50,
        ..short
    };
    assert_eq!(stages(&paper)[6..], [(6, 30..35), (7, 35..50)]);
}

/// Epochs of [`schedule`] whose stage begins with them: 0, 1, 3, 5 and 7.
#[test]
fn a_stage_begins_once_however_often_the_run_is_resumed() {
    let schedule = schedule(Method::Coconut);
    let at = |epoch| schedule.stage_at(epoch, &ScheduleState::default());
    let mut state = ScheduleState::default();
    let begins: Vec<usize> =
        (0..10).filter(|&epoch| schedule.enter(at(epoch), epoch, 0, &mut state)).collect();
    assert_eq!(begins, [0, 1, 3, 5, 7]);

    // Every epoch entered again after a step, with the state that was saved then, begins nothing; nor
    // does it with the state of an earlier version, which names no stage.
    for epoch in 0..10 {
        for saved in [Some(at(epoch)), None] {
            let mut state = ScheduleState { stage: saved, ..ScheduleState::default() };
            let begins = schedule.enter(at(epoch), epoch, 1, &mut state);
            assert!(!begins, "epoch {epoch}, {saved:?}");
            assert_eq!(state.stage, Some(at(epoch)));
        }
        // Entered before its first step, an epoch is what it is in a run that was not interrupted.
        for saved in [epoch.checked_sub(1).map(at), None] {
            let mut state = ScheduleState { stage: saved, ..ScheduleState::default() };
            let new = schedule.enter(at(epoch), epoch, 0, &mut state);
            assert_eq!(new, begins.contains(&epoch), "epoch {epoch}, {saved:?}");
        }
    }
}

/// The state in `trainer.json` as a version wrote it that knew no schedule.
#[test]
fn states_of_earlier_versions_load() {
    let old = r#"{"epoch": 3, "step_in_epoch": 7, "step": 67, "optimizer_steps": 7, "epoch_loss": 1.5,
        "epoch_labels": 20, "seconds": 2.0, "best_accuracy": null, "rows": []}"#;
    let state: TrainerState = serde_json::from_str(old).unwrap();
    assert_eq!((state.epoch, state.schedule), (3, ScheduleState::default()));
}

#[test]
fn uniform_prob_draws_stages_up_to_n() {
    let always = Curriculum { uniform_prob: 1.0, ..curriculum(Method::Coconut) };
    let mut seen = [0; 5];
    for index in 0..1000 {
        let key = SampleKey { index, ..KEY };
        let row = always.train_sequence(&text(4), Stage(1), MARKERS, key);
        assert_eq!(row, always.train_sequence(&text(4), Stage(1), MARKERS, key), "not repeatable");
        let stage = [0, 1, 2, 3, 3].iter().position(|&stage| {
            row == curriculum(Method::Coconut).train_sequence(&text(4), Stage(stage), MARKERS, key)
        });
        seen[stage.unwrap()] += 1;
    }
    // Stages 0 ..= n = 4, each with probability 1/5; those beyond M = 2 look like the last one.
    for (count, expected) in seen.into_iter().zip([200, 200, 200, 400, 0]) {
        assert!(i32::abs(count - expected) < 60, "{seen:?}");
    }
    assert_eq!(always.train_sequence(&text(4), Stage::COT, MARKERS, KEY).n_latents, 0);

    let sometimes = Curriculum { uniform_prob: 0.1, ..always };
    let others = (0..1000).filter(|&index| {
        let key = SampleKey { index, ..KEY };
        sometimes.train_sequence(&text(4), Stage(2), MARKERS, key).n_latents != 2
    });
    // A tenth is drawn, of which stages 0 and 1 (two of five) differ from stage 2 in their latents.
    assert!((20..=65).contains(&others.count()));
}

#[test]
fn example_longer_than_the_context_is_named() {
    let path = std::path::Path::new("train.json");
    let examples = [text(1), text(4)];
    // Stage 0 of the second: Q q ^ $ a a b c d A 1 . is 12 positions.
    let coconut = curriculum(Method::Coconut);
    let stages = [Stage(-1), Stage(0), Stage(3)];
    let check = |context| coconut.check_fits(&examples, &stages, MARKERS, context, path);
    check(12).unwrap();
    let message = check(11).unwrap_err().to_string();
    assert!(
        message.starts_with("train.json, example 2: needs 12 positions, the model has 11 (1 of 2")
    );
}

// ---- Graphs -------------------------------------------------------------------------------------

/// `Q → a → c`, `Q → b → c`, `c → d`, with `A` beside the path (`Q → A`) and `1 → q` out of reach.
fn graph() -> Encoded {
    let id = |word: &str| ids(word)[0];
    let edge = |edge: &str| [ids(edge)[0], ids(edge)[1]];
    Encoded::Graph(GraphPieces {
        edges: ["Q a", "Q b", "a c", "b c", "c d", "Q A", "1 q"].map(edge).to_vec(),
        root: id("Q"),
        target: id("d"),
        neg_target: id("q"),
        neighbor_k: ["Q", "a b", "c", "d"].map(ids).to_vec(),
        frontier: ["Q", "a b A", "c", "d"].map(ids).to_vec(),
        marks: GraphMarks { bar: 12, question: 13, root: 14, answer: 15 },
    })
}

/// The row with its drawn parts put in order: edges, candidates, and one-of-several nodes.
fn graph_row(curriculum: &Curriculum, stage: i32, key: SampleKey) -> String {
    let row = words(&curriculum.train_sequence(&graph(), Stage(stage), MARKERS, key));
    let (edges, rest) = row.strip_prefix(". ").unwrap().split_once(" [Q] ").unwrap();
    let mut edges: Vec<&str> = edges.split(" bar ").collect();
    edges.sort_unstable();
    assert_eq!(edges, ["1 q", "Q A", "Q a", "Q b", "a c", "b c", "c d"]);
    let rest = rest.replacen("q d", "d q", 1);
    rest.strip_prefix("d q [R] Q ").unwrap_or_else(|| panic!("{rest}")).to_owned()
}

#[track_caller]
fn check_graph(curriculum: &Curriculum, table: &[(i32, &[&str])]) {
    for &(stage, expected) in table {
        let keys = (0..100).map(|index| SampleKey { index, ..KEY });
        let mut rows: Vec<String> = keys.map(|key| graph_row(curriculum, stage, key)).collect();
        rows.sort_unstable();
        rows.dedup();
        assert_eq!(rows, expected, "stage {stage}");
    }
}

#[test]
fn graph_rows() {
    let three = Curriculum { max_latent_stage: 3, ..curriculum(Method::Coconut) };
    check_graph(
        &three,
        &[
            (-1, &["| a c d [A] d .", "| b c d [A] d ."]),
            (0, &["| a", "| b"]),
            (1, &["~ | c"]),
            (2, &["~ ~ | d"]),
            (3, &["~ ~ ~ [A] | d"]),
            (4, &["~ ~ ~ [A] | d"]),
        ],
    );
    check_graph(&Curriculum { frontier: true, ..three.clone() }, &[(0, &["| A", "| a", "| b"])]);
    check_graph(&curriculum(Method::Coconut), &[(2, &["~ ~ | d"]), (3, &["~ ~ [A] | d"])]);
    check_graph(&curriculum(Method::NoCot), &[(3, &["| [A] d ."])]);
    check_graph(&curriculum(Method::Cot), &[(-1, &["| a c d [A] d .", "| b c d [A] d ."])]);
    let dropped = Curriculum { max_latent_stage: 3, ..curriculum(Method::NoThoughts) };
    check_graph(&dropped, &[(1, &["| c"]), (3, &["[A] | d"])]);
}

#[test]
fn graph_prompts_ask_for_the_answer() {
    let three = Curriculum { max_latent_stage: 3, ..curriculum(Method::Coconut) };
    let prompt = |curriculum: &Curriculum, stage| {
        words(&curriculum.prompt(&graph(), Stage(stage), MARKERS, KEY))
    };
    assert!(prompt(&three, 0).ends_with(" [R] Q ~ ~ ~ [A] |"));
    assert!(prompt(&three, 4).ends_with(" [R] Q ~ ~ ~ [A] |"));
    assert!(prompt(&three, -1).ends_with(" [R] Q |"));
    assert!(prompt(&curriculum(Method::NoCot), 3).ends_with(" [R] Q |"));
}

#[test]
fn graph_order_is_new_each_epoch_and_repeatable() {
    let coconut = curriculum(Method::Coconut);
    let row = |epoch| {
        words(&coconut.train_sequence(&graph(), Stage(1), MARKERS, SampleKey { epoch, ..KEY }))
    };
    assert_eq!(row(0), row(0));
    assert_ne!(row(0), row(1));
}
