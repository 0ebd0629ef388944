//! Answers judged by the program, and what it says of texts and numbers that it cannot take.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use serde_json::{Value, json};
use tempfile::TempDir;

/// Eight questions that are learned by heart: number, question, steps, answer.
const BY_HEART: [(&str, &str, &str); 8] = [
    ("a", "<<1,000+234=1,234>>", "1,234"),
    ("b", "look at (b)", "(B)"),
    ("c", "pay $18", "$18"),
    ("d", "half past ten", "10:30"),
    ("e", "5 cm: too long", "3cm"),
    ("f", "x=3, y=2", "x=3"),
    ("g", "to the bar", "café"),
    ("h", "7", "7"),
];

struct Output {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

impl Output {
    #[track_caller]
    fn json(&self) -> Value {
        assert_eq!(self.code, Some(0), "{}", self.stderr);
        serde_json::from_str(self.stdout.lines().last().unwrap()).unwrap()
    }

    /// The mistake is the user's, and the message names all of `words`.
    #[track_caller]
    fn is_refused(&self, words: &[&str]) {
        assert_eq!(self.code, Some(2), "{}{}", self.stdout, self.stderr);
        self.says(words);
    }

    #[track_caller]
    fn says(&self, words: &[&str]) {
        // Long messages may be wrapped.
        let said = self.stderr.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(!said.contains("panicked"), "{said}");
        for word in words {
            assert!(said.contains(word), "{word:?} is not in: {said}");
        }
    }
}

fn coconut(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_coconut"));
    let output = command.args(args).stdin(Stdio::null()).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Output {
        code: output.status.code(),
        stdout: text(&output.stdout),
        stderr: text(&output.stderr),
    }
}

struct Folder(TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> String {
        self.0.path().join(name).display().to_string()
    }

    fn file(&self, name: &str, content: &str) -> String {
        fs::write(self.path(name), content).unwrap();
        self.path(name)
    }

    fn examples(&self, name: &str, examples: &[Value]) -> String {
        self.file(name, &json!(examples).to_string())
    }

    /// A recipe that reads one file for training and evaluation.
    fn recipe(&self, data: &str) -> String {
        let runs = self.path("runs");
        self.file(
            "recipe.yaml",
            &format!(
                "train_path: {data}\nval_path: {data}\nsave_path: {runs}\ntokenizer: words\nn_layer: 1\nn_embd: 64\n\
                 n_head: 2\nmax_latent_stage: 1\ncot_epochs: 1\nnum_epochs: 3\nbatch_size_training: 8\n\
                 max_new_tokens: 24\neval_at: stage\nlr: 3e-3\n"
            ),
        )
    }

    /// Trains a recipe with overrides.
    fn train(&self, recipe: &str, overrides: &[&str]) -> Output {
        let set = overrides.iter().flat_map(|set| ["-s", set]);
        coconut(&["train", recipe, "--json"].into_iter().chain(set).collect::<Vec<_>>())
    }

    /// The newest checkpoint of a run.
    fn checkpoint(&self, run: &str) -> PathBuf {
        let folder = Path::new(&self.path("runs")).join(run).join("checkpoints");
        let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        let written =
            |path: &PathBuf| fs::metadata(path.join("config.json")).unwrap().modified().unwrap();
        entries.filter(|path| path.join("config.json").is_file()).max_by_key(written).unwrap()
    }
}

fn example(question: &str, step: &str, answer: impl Into<Value>) -> Value {
    json!({"question": question, "steps": [step], "answer": answer.into()})
}

/// Each question many times over, with another form of each answer, if need be.
fn by_heart(times: usize, answer: impl Fn(&str) -> Value) -> Vec<Value> {
    let one = |(item, step, right): &(&str, &str, &str)| {
        example(&format!("what is item {item} ?"), step, answer(right))
    };
    (0..times).flat_map(|_| BY_HEART.iter().map(one)).collect()
}

/// A model that has learned every answer and every step says so, whatever stands in them.
#[test]
fn what_is_right_is_counted_as_right() {
    let folder = Folder::new();
    let data = folder.examples("train.json", &by_heart(16, |answer| json!(answer)));
    let test = folder.examples("test.json", &by_heart(1, |answer| json!(answer)));
    let recipe = folder.recipe(&data);
    let val = format!("val_path={test}");
    let keys = [val.as_str(), "cot_epochs=20", "epochs_per_stage=20", "num_epochs=60", "seed=1"];
    let found = folder.train(&recipe, &keys).json();
    let rows = found["rows"].as_array().unwrap();
    assert_eq!(rows.len(), 3, "stages −1, 0 and 1: {found}");
    for row in rows {
        assert_eq!(row["eval_acc"], json!(1.0), "{row}");
    }
    assert_eq!(rows[0]["eval_cot_em"], json!(1.0), "{found}");
    assert_eq!(rows[1]["eval_cot_em"], json!(1.0), "{found}");

    let checkpoint = folder.checkpoint("run").display().to_string();
    let evaluate = |file: &str, more: &[&str]| {
        coconut(&[&["eval", &checkpoint, "--data", file, "--json"], more].concat())
    };
    // Other forms of the same answers: numbers of JSON, and Unicode taken apart.
    let forms = by_heart(1, |answer| match answer {
        "1,234" => json!(1234.0),
        "7" => json!(7.0),
        "café" => json!("cafe\u{301}"),
        text => json!(text),
    });
    let samples = folder.path("samples.jsonl");
    let found = evaluate(&folder.examples("forms.json", &forms), &["--samples", &samples]);
    assert_eq!(found.json()["eval_acc"], json!(1.0), "{}", found.stdout);
    let lines = fs::read_to_string(&samples).unwrap();
    let first: Value = serde_json::from_str(lines.lines().next().unwrap()).unwrap();
    assert_eq!((&first["prediction"], &first["answer"]), (&json!("1234"), &json!("1234.0")));
    // Other answers are wrong, and so are answers that no text can hold.
    let others = by_heart(1, |answer| match answer {
        "1,234" => json!(1234.5),
        "7" => json!(-7),
        text => json!(format!("{text}!")),
    });
    let found = evaluate(&folder.examples("others.json", &others), &[]);
    assert_eq!(found.json()["eval_acc"], json!(0.0), "{}", found.stdout);
    found.says(&["example 2: the vocabulary has no token for `!`", "(6 such examples)"]);
}

#[test]
fn what_has_no_token_is_said() {
    let folder = Folder::new();
    let animals =
        ["ant", "bee", "cat"].map(|animal| example(&format!("which {animal} ?"), "so", animal));
    let data = folder.examples("known.json", &animals);
    let recipe = folder.recipe(&data);
    assert_eq!(folder.train(&recipe, &[]).code, Some(0));
    let checkpoint = folder.checkpoint("run").display().to_string();

    let generate = |prompt: &str, more: &[&str]| {
        coconut(&[&["generate", &checkpoint, "--prompt", prompt], more].concat())
    };
    let warned = generate("which eel or emu or eel ?", &[]);
    assert_eq!(warned.code, Some(0));
    warned.says(&[
        "warning: the question `which eel or emu or eel ?`",
        "no token for `eel`, `or`, `emu`,",
    ]);
    generate("which eel ?", &["--strict"]).is_refused(&[
        "error: ",
        "no token for `eel`",
        "--strict",
    ]);
    let known = generate("which bee ?", &["--strict"]);
    assert_eq!((known.code, known.stderr.as_str()), (Some(0), ""));

    let strange = [animals.to_vec(), vec![example("which eel ?", "so", "ant")]].concat();
    let strange = folder.examples("strange.json", &strange);
    let eval = ["eval", &checkpoint, "--data", &strange];
    let warned = coconut(&eval);
    assert_eq!(warned.code, Some(0));
    warned.says(&["warning: ", "strange.json, example 4: the vocabulary has no token for `eel`"]);
    let refused = coconut(&[&eval[..], &["--strict"]].concat());
    refused.is_refused(&["strange.json, example 4: the vocabulary has no token for `eel`"]);

    // A given tokenizer: training data is refused unless it is wished for, data to evaluate on is warned of.
    let tokenizer = format!("tokenizer={checkpoint}/tokenizer.json");
    let train = format!("train_path={strange}");
    folder.train(&recipe, &[&tokenizer, &train, "name=refused"]).is_refused(&[
        "strange.json, example 4",
        "no token for `eel`",
        "`allow_unknown: True`",
    ]);
    let allowed =
        folder.train(&recipe, &[&tokenizer, &train, "name=allowed", "allow_unknown=True"]);
    assert_eq!(allowed.code, Some(0), "{}", allowed.stderr);
    allowed.says(&["strange.json, example 4: the vocabulary has no token for `eel`"]);
    let val = format!("val_path={strange}");
    let warned = folder.train(&recipe, &[&tokenizer, &val, "name=warned"]);
    assert_eq!(warned.code, Some(0), "{}", warned.stderr);
    warned.says(&["strange.json, example 4: the vocabulary has no token for `eel`"]);
}

/// Numbers out of range are refused by name, with the range.
#[test]
fn numbers_out_of_range_are_refused() {
    let folder = Folder::new();
    let data = folder.examples("data.json", &[example("which ant ?", "so", "ant")]);
    assert_eq!(folder.train(&folder.recipe(&data), &[]).code, Some(0));
    let checkpoint = folder.checkpoint("run").display().to_string();
    let (eval, generate) =
        (["eval", &checkpoint, "--data", &data], ["generate", &checkpoint, "--prompt", "ant"]);
    for stage in ["3", "99", "-2", "-99"] {
        let named = format!("--stage {stage}");
        coconut(&[&eval[..], &["--stage", stage]].concat()).is_refused(&[&named, "-1 to 2"]);
    }
    for stage in ["-1", "0", "2"] {
        assert_eq!(coconut(&[&eval[..], &["--stage", stage]].concat()).code, Some(0), "{stage}");
    }
    coconut(&[&generate[..], &["--latents", "1000000000"]].concat())
        .is_refused(&["1000000000 latents", "the model's context of"]);
    let (count, temperature) = ("expected a whole number from 1 up", "expected a number from 0 up");
    let (convert, out) = (["data", "convert", &data], folder.path("out.json"));
    for (verb, flag, value, range) in [
        (&eval[..], "--batch-size", "0", count),
        (&eval, "--max-size", "0", count),
        (&eval, "--max-new-tokens", "0", count),
        (&eval, "--temperature", "nan", temperature),
        (&eval, "--temperature", "-1", temperature),
        (&generate, "--temperature", "inf", temperature),
        (&generate, "--temperature", "warm", temperature),
        (&generate, "--max-new-tokens", "0", count),
        (&[&convert[..], &[&out]].concat(), "--max-size", "0", count),
        (&["data", "generate", "arithmetic", "-o", &out], "-n", "0", count),
        (&["bench", "--data", &data], "--batch", "0", count),
        (&["bench", "--data", &data], "--layers", "0", count),
        (&["bench", "--data", &data], "--dim", "0", count),
        (&["bench", "--data", &data], "--heads", "0", count),
        (&["bench", "--data", &data], "--repeats", "0", count),
        (&["bench"], "--tokens", "0", count),
        (&["bench", "--data", &data], "--vocab", "0", count),
        (&["sweep", "recipe.yaml"], "--jobs", "0", "1..=65535"),
    ] {
        coconut(&[verb, &[flag, value]].concat()).is_refused(&[flag, value, range]);
    }
}

/// One stray example does not set the context of a model from random weights without a word.
#[test]
fn a_context_found_in_the_data_has_a_limit() {
    let folder = Folder::new();
    let long = |n: usize| "long ".repeat(n);
    let short = example("which ant ?", "so", "ant");
    let data = folder.examples(
        "data.json",
        &[short.clone(), example(&long(20_000), "so", "ant"), short.clone()],
    );
    let recipe = folder.recipe(&data);
    let refused = folder.train(&recipe, &[]);
    // 20,000 words and a newline, two markers (stage 0), two tokens of the step and three of the answer.
    refused.is_refused(&[
        "data.json, example 2: needs 20008 positions",
        "up to 16384",
        "1 of 3",
        "`n_positions: 20008`",
    ]);
    let dry_run = ["train", &recipe, "--dry-run", "-s", "n_positions=20008"];
    let found = coconut(&dry_run);
    assert_eq!(found.code, Some(0), "{}", found.stderr);
    assert!(found.stdout.contains("context 20008"), "{}", found.stdout);
    let fits = folder.examples("fits.json", &[short, example(&long(16_384 - 8), "so", "ant")]);
    let found = coconut(&["train", &folder.recipe(&fits), "--dry-run"]);
    assert!(found.stdout.contains("context 16384"), "{}{}", found.stdout, found.stderr);
}

/// Earlier versions wrote `read` where `prediction` stands now.
#[test]
fn samples_of_earlier_versions_are_read() {
    let old = r####"{"question": "q", "generation": "### 7", "answer": "7", "read": "7", "correct": true}"####;
    let sample: coconut::run::Sample = serde_json::from_str(old).unwrap();
    assert_eq!(sample.prediction.as_deref(), Some("7"));
    let written = serde_json::to_value(&sample).unwrap();
    assert_eq!((&written["prediction"], written.get("read")), (&json!("7"), None));
}
