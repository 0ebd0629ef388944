//! A sweep's tables: on the terminal, in Markdown and as CSV.

use comfy_table::Cell;

use super::{ComparedRow, Comparison, Group, Summary, Variant, Verdict};
use crate::{
    report::{
        stage_name,
        table::{drawn, p_value, piped},
    },
    stats::Estimate,
};

const RESULTS: [&str; 13] = [
    "variant",
    "seeds",
    "stage",
    "accuracy\n%",
    "solved\nseeds",
    "cot_em\n%",
    "tokens",
    "ms to\n1st token",
    "ms per\nquestion",
    "train\ns",
    "peak\nMB",
    "thoughts'\nentropy",
    "thoughts'\ncosine",
];

const COMPARISONS: [&str; 7] = [
    "variant",
    "difference\npoints",
    "only it\nright",
    "only other\nright",
    "p\nquestions",
    "p\nseeds",
    "verdict",
];
/// Where the verdict stands in [`COMPARISONS`].
const VERDICT: usize = 6;

/// What stands before the runs whose samples are not all there.
const UNPAIRED: &str = "Not paired in `p questions`, since answers are missing:";

/// For the terminal; bold heads and a bold best row if `styled`.
pub fn text(summary: &Summary, styled: bool) -> String {
    let mut parts = vec![about(summary)];
    for group in &summary.groups {
        let title = if group.title.is_empty() { &summary.name } else { &group.title };
        parts.push(format!("{title}\n{}", drawn(&RESULTS, cells(results(group)), &[0], styled)));
        if let Some(head) = compared_head(group) {
            parts.push(format!(
                "{head}\n{}",
                drawn(&COMPARISONS, cells(comparisons(group)), &[0, VERDICT], styled)
            ));
        }
    }
    if summary.groups.iter().any(|group| group.n_comparisons > 0) {
        parts.push(LEGEND.join("\n"));
    }
    if !summary.failures.is_empty() {
        parts.push(format!("Failed, and missing above:\n{}", summary.failures.join("\n")));
    }
    if !summary.unpaired.is_empty() {
        parts.push(format!("{UNPAIRED}\n{}", summary.unpaired.join("\n")));
    }
    parts.join("\n\n")
}

/// The same as Markdown.
pub fn markdown(summary: &Summary) -> String {
    let mut text = format!("# {}\n\n{}\n", summary.name, about(summary));
    for group in &summary.groups {
        if !group.title.is_empty() {
            text += &format!("\n## {}\n", group.title);
        }
        text += &format!("\n{}", piped(&RESULTS, results(group)));
        if let Some(head) = compared_head(group) {
            text += &format!("\n{head}\n\n{}", piped(&COMPARISONS, comparisons(group)));
        }
    }
    if summary.groups.iter().any(|group| group.n_comparisons > 0) {
        text += "\n";
        text += &LEGEND.map(|line| format!("- {line}\n")).concat();
    }
    if !summary.failures.is_empty() {
        text += "\nFailed, and missing above:\n\n";
        text.extend(summary.failures.iter().map(|line| format!("- {}\n", line.replace('\n', " "))));
    }
    if !summary.unpaired.is_empty() {
        text += &format!("\n{UNPAIRED}\n\n");
        text.extend(summary.unpaired.iter().map(|line| format!("- {line}\n")));
    }
    text
}

/// One line a variant, with everything that was measured; numbers as they are, shares 0 to 1.
pub fn csv(summary: &Summary) -> String {
    let mut text = String::from("group,variant,n_seeds,seeds,stage");
    let names = [
        "accuracy",
        "cot_em",
        "tokens",
        "latents",
        "ms_per_question",
        "train_seconds",
        "peak_mb",
        "thought_entropy",
        "thought_cosine",
        "thinking_ms_per_question",
    ];
    for name in names {
        text += &format!(",{name},{name}_se");
    }
    text +=
        ",compared_with,difference,only_this,only_reference,p_questions,p_seeds,verdict,n_solved\n";
    for (group, variant) in
        summary.groups.iter().flat_map(|g| g.variants.iter().map(move |v| (g, v)))
    {
        let seeds = variant.seeds.iter().map(u64::to_string).collect::<Vec<_>>().join(" ");
        let mut cells = vec![
            group.title.clone(),
            variant.label.clone(),
            variant.n_seeds.to_string(),
            seeds,
            variant.stage.map(|stage| stage.to_string()).unwrap_or_default(),
        ];
        let plain = |value: Option<f64>| value.map(|value| value.to_string()).unwrap_or_default();
        for estimate in [
            &variant.accuracy,
            &variant.cot_em,
            &variant.tokens,
            &variant.latents,
            &variant.ms_per_question,
            &variant.train_seconds,
            &variant.peak_mb,
            &variant.thought_entropy,
            &variant.thought_cosine,
            &variant.thinking_ms_per_question,
        ] {
            cells.push(plain(estimate.as_ref().map(|e| e.mean)));
            cells.push(plain(estimate.as_ref().and_then(|e| e.standard_error)));
        }
        match &variant.comparison {
            Some(comparison) => cells.extend([
                comparison.with.clone(),
                comparison.difference.to_string(),
                comparison.only_this.to_string(),
                comparison.only_reference.to_string(),
                plain(comparison.p_questions),
                plain(comparison.p_seeds),
                verdict(comparison.verdict).to_owned(),
            ]),
            None => cells.extend(std::iter::repeat_n(String::new(), 7)),
        }
        cells.push(variant.n_solved.to_string());
        let quoted: Vec<String> = cells.iter().map(|cell| quoted(cell)).collect();
        text += &(quoted.join(",") + "\n");
    }
    text
}

/// RFC 4180.
fn quoted(cell: &str) -> String {
    if cell.contains([',', '"', '\n', '\r']) {
        return format!("\"{}\"", cell.replace('"', "\"\""));
    }
    cell.to_owned()
}

fn about(summary: &Summary) -> String {
    let row = match summary.compare {
        ComparedRow::Last => "Each run's last evaluation.",
        ComparedRow::Best => {
            "Each run's evaluation of highest accuracy, chosen by the test questions themselves: every row is flattered."
        }
    };
    let solved = 100.0 * summary.solved;
    format!("{row} Mean ± standard error over seeds, best first. Solved: {solved} % or more.")
}

const LEGEND: [&str; 3] = [
    "p questions: McNemar's exact test on the same questions, answer by answer, seeds of a question as one cluster.",
    "p seeds: Welch's t test on the seeds' accuracies. Both with Holm's correction for all comparisons.",
    "differs: both are below 0.05. these runs differ: only the first is; other seeds may undo it.",
];

fn compared_head(group: &Group) -> Option<String> {
    let comparison = group.variants.iter().find_map(|variant| variant.comparison.as_ref())?;
    let n = group.n_comparisons;
    Some(format!("Compared with {} (p corrected for {n} comparisons):", comparison.with))
}

fn results(group: &Group) -> Vec<Vec<String>> {
    let of = |variant: &Variant| {
        let seeds = match variant.seeds.len() {
            n if n == variant.n_seeds => n.to_string(),
            n => format!("{n} of {}", variant.n_seeds),
        };
        vec![
            variant.label.clone(),
            seeds,
            variant.stage.map_or("–".into(), stage_name),
            estimate(variant.accuracy.as_ref(), 100.0, 1),
            format!("{} of {}", variant.n_solved, variant.seeds.len()),
            estimate(variant.cot_em.as_ref(), 100.0, 1),
            estimate(variant.tokens.as_ref(), 1.0, 1),
            mean(variant.thinking_ms_per_question.as_ref(), 1),
            mean(variant.ms_per_question.as_ref(), 1),
            estimate(variant.train_seconds.as_ref(), 1.0, 0),
            mean(variant.peak_mb.as_ref(), 0),
            estimate(variant.thought_entropy.as_ref(), 1.0, 2),
            estimate(variant.thought_cosine.as_ref(), 1.0, 2),
        ]
    };
    group.variants.iter().map(of).collect()
}

fn cells(rows: Vec<Vec<String>>) -> impl Iterator<Item = Vec<Cell>> {
    rows.into_iter().map(|row| row.into_iter().map(Cell::new).collect())
}

fn comparisons(group: &Group) -> Vec<Vec<String>> {
    let of = |variant: &Variant| {
        let comparison: &Comparison = variant.comparison.as_ref()?;
        Some(vec![
            variant.label.clone(),
            format!("{:+.1}", 100.0 * comparison.difference).replace('-', "−"),
            comparison.only_this.to_string(),
            comparison.only_reference.to_string(),
            comparison.p_questions.map_or("–".into(), p_value),
            comparison.p_seeds.map_or("–".into(), p_value),
            verdict(comparison.verdict).to_owned(),
        ])
    };
    group.variants.iter().filter_map(of).collect()
}

fn verdict(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Differs => "differs",
        Verdict::TheseRunsDiffer => "these runs differ",
        Verdict::NotShown => "no difference shown",
    }
}

fn estimate(estimate: Option<&Estimate>, scale: f64, digits: usize) -> String {
    match estimate {
        None => "–".into(),
        Some(Estimate { mean, standard_error: Some(error), .. }) => {
            format!("{:.digits$} ± {:.digits$}", scale * mean, scale * error)
        }
        Some(Estimate { mean, .. }) => format!("{:.digits$}", scale * mean),
    }
}

fn mean(estimate: Option<&Estimate>, digits: usize) -> String {
    estimate.map_or("–".into(), |estimate| format!("{:.digits$}", estimate.mean))
}
