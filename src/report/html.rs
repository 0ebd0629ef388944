//! `report.html`: everything about a run in one file that needs nothing else.

use super::series::{Series, stage_name};
use super::{Run, audit, table};
use crate::audit::{ModelRecord, Record};
use crate::run::{self, samples::SampleGroup};
use crate::{Error, Result};
use minijinja::{Environment, context};
use serde::Serialize;
use serde_json::Value;
use std::path::Path;

/// So many samples are shown of each stage.
const SHOWN: usize = 50;

/// The keys of a recipe that say most, in the order shown.
const SUMMARY: [&str; 31] = [
    "method",
    "task",
    "train_path",
    "val_path",
    "model_id",
    "load_model_path",
    "n_layer",
    "n_head",
    "n_embd",
    "row",
    "thinking",
    "iterations",
    "replacement_method",
    "loss_steps",
    "loss_teacher",
    "loss_distil",
    "loss_kv",
    "step_decoder",
    "lora_rank",
    "schedule",
    "c_thought",
    "max_latent_stage",
    "pad_latent_to_max",
    "uniform_prob",
    "cot_epochs",
    "epochs_per_stage",
    "num_epochs",
    "lr",
    "batch_size_training",
    "gradient_accumulation_steps",
    "seed",
];

/// What the page says of one run.
#[derive(Serialize)]
struct RunPart<'a> {
    name: &'a str,
    /// Commands that make it again.
    commands: Vec<String>,
    /// The recipe's main keys and their values.
    summary: Vec<(&'static str, String)>,
    config: Option<&'a str>,
    speed: Vec<SpeedRow>,
    audit: Option<AuditPart>,
    /// The command that lets the model be asked the samples' questions, if it can be.
    serve: Option<String>,
    groups: Vec<GroupPart<'a>>,
}

/// What an audit in the run's folder found.
#[derive(Serialize)]
struct AuditPart {
    words: Vec<String>,
    /// Captions and SVG.
    figures: Vec<(&'static str, String)>,
    tables: Vec<AuditTable>,
}

/// A table of an audit, as text.
#[derive(Serialize)]
struct AuditTable {
    title: String,
    head: &'static [&'static str],
    rows: Vec<Vec<String>>,
}

/// Speed and memory of training at one stage, as text.
#[derive(Serialize)]
struct SpeedRow {
    stage: String,
    steps: usize,
    seconds: String,
    tokens_per_s: String,
    resident_mb: String,
}

/// The samples of one method at one stage.
#[derive(Serialize)]
struct GroupPart<'a> {
    method: &'a str,
    stage: String,
    right: usize,
    count: usize,
    samples: Vec<SamplePart<'a>>,
}

#[derive(Serialize)]
struct SamplePart<'a> {
    index: usize,
    question: &'a str,
    /// The question as a part of an address.
    encoded: String,
    generation: &'a str,
    answer: &'a str,
    correct: bool,
    thoughts: Vec<String>,
    readout: &'a [String],
}

/// The whole page. All text from files is escaped; only the figures, drawn by this crate, are not.
pub(super) fn render(
    runs: &[Run],
    titles: &[String],
    series: &[Series],
    accuracy: Option<&str>,
    loss: Option<&str>,
    out: &Path,
) -> Result<String> {
    let mut environment = Environment::new();
    environment.set_trim_blocks(true);
    environment.set_lstrip_blocks(true);
    let context = context! {
        title => runs.first().map_or("coconut", |run| run.name.as_str()),
        beside => titles.get(1..).unwrap_or_default(),
        header => table::HEADER,
        best_column => table::ACCURACY,
        rows => table::rows(series),
        accuracy,
        loss,
        runs => runs.iter().zip(titles).map(|(run, title)| run_part(run, title)).collect::<Vec<_>>(),
        shown => SHOWN,
        version => env!("CARGO_PKG_VERSION"),
    };
    // The name's ending switches escaping on.
    environment
        .render_named_str("report.html", include_str!("report.html.j2"), context)
        .map_err(|error| Error::io("render", out.join("report.html"))(std::io::Error::other(error)))
}

fn run_part<'a>(run: &'a Run, title: &'a str) -> RunPart<'a> {
    let folder = quoted(&run.folder);
    let mut commands = Vec::new();
    if run.config.is_some() {
        commands.push(format!("coconut train {}", quoted(&run.folder.join("config.yaml"))));
    }
    commands.push(format!("coconut report {folder}"));
    let latest = run.folder.join("checkpoints").join("latest");
    let served = latest.exists() && !run.config.as_deref().is_some_and(asks_graphs);
    let serve = served.then(|| format!("coconut serve {} --open", quoted(&latest)));
    RunPart {
        name: title,
        commands,
        serve,
        summary: run.config.as_deref().map(summary).unwrap_or_default(),
        config: run.config.as_deref(),
        speed: speed(&run.metrics),
        audit: run.audit.as_ref().map(audit_part),
        groups: run.samples.iter().map(group_part).collect(),
    }
}

fn audit_part(record: &Record) -> AuditPart {
    let figures = audit::figures(record).into_iter().map(|(_, caption, svg)| (caption, svg));
    let tables = |model: &ModelRecord| {
        let title = format!(
            "{}, {}: every intervention, over the n questions that it touched",
            model.name, model.method
        );
        let rows = model.cells.iter().map(audit::row).collect();
        let own = AuditTable { title, head: &audit::HEAD, rows };
        let direct = model.direct.as_ref().map(|direct| AuditTable {
            title: format!(
                "{} beside {}, {}, trained without thoughts: of questions that stay right or fall, those that it has right too",
                model.name, direct.name, direct.method
            ),
            head: &audit::DIRECT_HEAD,
            rows: audit::direct_rows(direct, &direct.cells, true),
        });
        std::iter::once(own).chain(direct).collect::<Vec<_>>()
    };
    AuditPart {
        words: record.words.clone(),
        figures: figures.collect(),
        tables: record.models.iter().flat_map(tables).collect(),
    }
}

/// A path as a word of a shell command.
fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = |c: char| c.is_alphanumeric() || "/._-+=:,@%".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        return text;
    }
    format!("'{}'", text.replace('\'', "'\\''"))
}

/// The main keys of a recipe that say something; nothing if it is no YAML, it is shown in full anyway.
fn summary(config: &str) -> Vec<(&'static str, String)> {
    let Ok(Value::Object(recipe)) = serde_saphyr::from_str(config) else { return Vec::new() };
    let word = |key: &str| recipe.get(key).and_then(Value::as_str).filter(|&word| word != "None");
    let loaded = word("model_id").or(word("load_model_path")).is_some();
    let idle = |key: &str| match key {
        "n_layer" | "n_head" | "n_embd" => loaded,
        "iterations" => word("thinking") != Some("parallel"),
        _ if key.starts_with("loss_") || key == "lora_rank" => {
            recipe.get(key).and_then(Value::as_f64) == Some(0.0)
        }
        _ => false,
    };
    SUMMARY
        .into_iter()
        .filter(|key| !idle(key))
        .filter_map(|key| match recipe.get(key)? {
            Value::Null => None,
            // The field's files write Python's word for nothing.
            Value::String(text) if text == "None" => None,
            Value::String(text) => Some((key, text.clone())),
            value => Some((key, value.to_string())),
        })
        .collect()
}

/// Whether a recipe's questions are graphs, which cannot be asked as text.
fn asks_graphs(config: &str) -> bool {
    let Ok(Value::Object(recipe)) = serde_saphyr::from_str(config) else { return false };
    let word = |key: &str| recipe.get(key).and_then(Value::as_str).filter(|&word| word != "None");
    word("tokenizer").or(word("task")) == Some("graph")
}

/// A text as a part of an address (RFC 3986).
fn encoded(text: &str) -> String {
    let byte = |byte: u8| match byte {
        b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
            char::from(byte).to_string()
        }
        _ => format!("%{byte:02X}"),
    };
    text.bytes().map(byte).collect()
}

/// One row a stage, in the order trained.
fn speed(metrics: &[run::Record]) -> Vec<SpeedRow> {
    let steps: Vec<&run::Record> =
        metrics.iter().filter(|record| record.get("loss").is_some()).collect();
    let mut before = 0.0;
    let rows = steps.chunk_by(|a, b| a.stage == b.stage).map(|span| {
        let values = |name: &str| -> Vec<f64> {
            span.iter().filter_map(|record| record.get(name)).filter(|x| x.is_finite()).collect()
        };
        let until = values("seconds").last().copied();
        let seconds = until.map(|until| until - std::mem::replace(&mut before, until));
        SpeedRow {
            stage: stage_name(span[0].stage),
            steps: span.len(),
            seconds: rounded(seconds),
            tokens_per_s: rounded(median(values("tokens_per_s"))),
            resident_mb: rounded(values("resident_mb").into_iter().reduce(f64::max)),
        }
    });
    rows.collect()
}

fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}

fn rounded(value: Option<f64>) -> String {
    value.map_or("–".into(), |value| format!("{value:.0}"))
}

fn group_part(group: &SampleGroup) -> GroupPart<'_> {
    GroupPart {
        method: &group.method,
        stage: stage_name(group.stage),
        right: group.samples.iter().filter(|sample| sample.correct).count(),
        count: group.samples.len(),
        samples: group.samples.iter().take(SHOWN).map(sample_part).collect(),
    }
}

fn sample_part(sample: &crate::run::Sample) -> SamplePart<'_> {
    let token = |(token, p): &(String, f64)| format!("{token} {:.0} %", 100.0 * p);
    let tokens =
        |thought: &Vec<(String, f64)>| thought.iter().map(token).collect::<Vec<_>>().join(" · ");
    SamplePart {
        index: sample.index,
        question: &sample.question,
        encoded: encoded(&sample.question),
        generation: &sample.generation,
        answer: &sample.answer,
        correct: sample.correct,
        thoughts: sample.thoughts.iter().map(tokens).collect(),
        readout: &sample.readout,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::Record;

    #[test]
    fn speed_is_counted_stage_by_stage() {
        let step = |step, stage, seconds, tokens, mb| {
            Record::new(step, 0, stage)
                .with("loss", 1.0)
                .with("seconds", seconds)
                .with("tokens_per_s", tokens)
                .with("resident_mb", mb)
        };
        let metrics = [
            step(1, 0, 4.0, 100.0, 50.0),
            step(2, 0, 10.0, 900.0, 70.0),
            step(3, 0, 12.0, 200.0, 60.0),
            Record::new(3, 0, 0).with("eval/acc", 1.0),
            step(4, 1, 20.0, 300.0, f64::NAN),
        ];
        let rows: Vec<[String; 5]> = speed(&metrics)
            .into_iter()
            .map(|r| [r.stage, r.steps.to_string(), r.seconds, r.tokens_per_s, r.resident_mb])
            .collect();
        assert_eq!(rows, [["0", "3", "12", "200", "70"], ["1", "1", "8", "300", "–"]]);
    }

    #[test]
    fn the_summary_shows_known_keys_in_its_own_order() {
        let recipe = "lr: !!float \"1e-4\"\nc_thought: 2\nload_model_path: None\nother: 1\n";
        let expected = [("c_thought", "2".to_owned()), ("lr", "0.0001".to_owned())];
        assert_eq!(summary(recipe), expected);
        assert_eq!(summary("{ not: yaml"), []);
    }

    #[test]
    fn questions_stand_in_addresses_as_they_are() {
        assert_eq!(encoded("3+5*2"), "3%2B5%2A2");
        assert_eq!(encoded("a&b=c #é"), "a%26b%3Dc%20%23%C3%A9");
    }

    #[test]
    fn paths_can_be_pasted_into_a_shell() {
        assert_eq!(quoted(Path::new("runs/a-1/config.yaml")), "runs/a-1/config.yaml");
        assert_eq!(quoted(Path::new("my runs/it's")), "'my runs/it'\\''s'");
    }
}
