//! Means over seeds, best first, and comparisons on the same questions.

use std::{collections::BTreeMap, path::Path};

use serde::Serialize;

use super::{Cell, ComparedRow, Plan, Reference, Run};
use crate::{
    Result,
    run::{Results, Row, Sample, file::read_lines},
    stats::{self, Estimate},
};

/// A sweep as far as it has come.
#[derive(Clone, Debug, Serialize)]
pub struct Summary {
    /// The sweep's name.
    pub name: String,
    /// Which row of each run stands here.
    pub compare: ComparedRow,
    /// What the variants are compared with.
    pub against: Reference,
    /// The accuracy from which on a run counts as solved.
    pub solved: f64,
    /// Variants that answer the same questions stand together.
    pub groups: Vec<Group>,
    /// Runs that failed and are missing, a line each.
    pub failures: Vec<String>,
    /// Runs without the samples of their compared evaluation, a line each: their answers are not paired.
    pub unpaired: Vec<String>,
}

/// Variants that answer the same questions.
#[derive(Clone, Debug, Serialize)]
pub struct Group {
    /// What its variants share and the other groups' do not; empty if it is the only one.
    pub title: String,
    /// Best first; those without results last.
    pub variants: Vec<Variant>,
    /// How many comparisons the p values are corrected for.
    pub n_comparisons: usize,
}

/// One cell of the grid.
#[derive(Clone, Debug, Serialize)]
pub struct Variant {
    /// Its name within the group.
    pub label: String,
    /// Its runs' folders, a seed each.
    pub folders: Vec<std::path::PathBuf>,
    /// Seeds asked for.
    pub n_seeds: usize,
    /// Seeds with results; everything below is of these.
    pub seeds: Vec<u64>,
    /// Stage of the compared row; absent without results or where seeds differ.
    pub stage: Option<i32>,
    /// Share of right answers.
    pub accuracy: Option<Estimate>,
    /// Seeds whose accuracy counts as solved.
    pub n_solved: usize,
    /// Share of exactly spoken chains.
    pub cot_em: Option<Estimate>,
    /// Generated tokens a question.
    pub tokens: Option<Estimate>,
    /// Latents a question.
    pub latents: Option<Estimate>,
    /// Milliseconds of generation a question.
    pub ms_per_question: Option<Estimate>,
    /// Milliseconds of them before the first token.
    pub thinking_ms_per_question: Option<Estimate>,
    /// Seconds of training up to the row.
    pub train_seconds: Option<Estimate>,
    /// Peak resident memory, MB.
    pub peak_mb: Option<Estimate>,
    /// Matrix entropy of the thoughts over questions, in nats: 0 if they have collapsed.
    pub thought_entropy: Option<Estimate>,
    /// Mean cosine of two questions' thoughts.
    pub thought_cosine: Option<Estimate>,
    /// Against the group's reference; absent for the reference itself.
    pub comparison: Option<Comparison>,
    #[serde(skip)]
    answers: BTreeMap<u64, Answers>,
    #[serde(skip)]
    unpaired: Vec<String>,
}

/// A variant against the reference.
#[derive(Clone, Debug, Serialize)]
pub struct Comparison {
    /// The reference's label.
    pub with: String,
    /// Mean accuracy minus the reference's, over all seeds of each.
    pub difference: f64,
    /// Seeds that both have, whose answers are paired.
    pub n_paired_seeds: usize,
    /// Answers that only this variant got right.
    pub only_this: usize,
    /// Answers that only the reference got right.
    pub only_reference: usize,
    /// McNemar's exact test on the paired answers, corrected: do these trained models differ on questions
    /// like these? Absent if no answers are paired.
    pub p_questions: Option<f64>,
    /// Welch's t test on the seeds' accuracies, corrected: would the methods differ with other seeds? Absent
    /// with fewer than two seeds on a side.
    pub p_seeds: Option<f64>,
    /// What may be said.
    pub verdict: Verdict,
}

/// What may be said of two variants.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// The methods differ: on the questions, and beyond what seeds do.
    Differs,
    /// These trained models differ, but other seeds may undo it.
    TheseRunsDiffer,
    /// No difference is shown.
    NotShown,
}

/// Question and right answer, and whether it was given, by the question's number.
type Answers = BTreeMap<usize, (String, bool)>;

impl Summary {
    /// Reads what the runs of a plan have left so far; `failures` are known to whoever ran them.
    ///
    /// # Errors
    /// A damaged file.
    pub fn read(plan: &Plan, failures: Vec<String>) -> Result<Self> {
        // Cells with the same questions, in order of appearance.
        let mut sorted: Vec<Vec<&Cell>> = Vec::new();
        for cell in &plan.cells {
            let same = |group: &&mut Vec<&Cell>| group[0].same_questions(cell);
            match sorted.iter_mut().find(same) {
                Some(group) => group.push(cell),
                None => sorted.push(vec![cell]),
            }
        }
        let single = sorted.len() == 1;
        let groups = sorted.iter().map(|cells| {
            let shared = if single { Vec::new() } else { shared_axes(cells) };
            let of = |cell: &Cell, wanted: bool| {
                let labels = cell.labels.iter().enumerate();
                let kept = labels.filter(|(axis, _)| shared.contains(axis) == wanted);
                kept.map(|(_, label)| label.as_str()).collect::<Vec<_>>().join(", ")
            };
            let title = of(cells[0], true);
            let variants = cells.iter().map(|cell| {
                let label = match of(cell, false) {
                    label if label.is_empty() && title.is_empty() => plan.name.clone(),
                    label if label.is_empty() => title.clone(),
                    label => label,
                };
                Variant::read(cell, label, plan.compare, plan.solved)
            });
            let mut variants = variants.collect::<Result<Vec<_>>>()?;
            let n_comparisons = compare(&mut variants, cells, &plan.against);
            let rank = |variant: &Variant| variant.accuracy.as_ref().map_or(-1.0, |a| a.mean);
            variants.sort_by(|a, b| rank(b).total_cmp(&rank(a)));
            Ok(Group { title, variants, n_comparisons })
        });
        let groups: Vec<Group> = groups.collect::<Result<_>>()?;
        let variants = groups.iter().flat_map(|group| &group.variants);
        Ok(Self {
            name: plan.name.clone(),
            compare: plan.compare,
            against: plan.against.clone(),
            solved: plan.solved,
            unpaired: variants.flat_map(|variant| variant.unpaired.clone()).collect(),
            groups,
            failures,
        })
    }
}

impl Cell {
    fn same_questions(&self, other: &Self) -> bool {
        match (self.runs.first(), other.runs.first()) {
            (Some(ours), Some(theirs)) => ours.config.same_questions(&theirs.config),
            _ => false,
        }
    }
}

/// The axes on which all of some cells have the same value.
fn shared_axes(cells: &[&Cell]) -> Vec<usize> {
    let first = &cells[0].labels;
    (0..first.len())
        .filter(|&axis| cells.iter().all(|cell| cell.labels[axis] == first[axis]))
        .collect()
}

impl Variant {
    fn read(cell: &Cell, label: String, compare: ComparedRow, solved: f64) -> Result<Self> {
        let mut found = Vec::new();
        let (mut answers, mut unpaired) = (BTreeMap::new(), Vec::new());
        for run in &cell.runs {
            let Some((row, peak)) = run.compared_row(compare)? else { continue };
            let seed = run.config.seed;
            let path = run.folder.join("samples.jsonl");
            let found_answers = read_answers(&path, &row)?;
            match row.n {
                Some(n) if found_answers.len() < n => unpaired.push(format!(
                    "{} holds {} of the {n} answers of stage {}, epoch {}",
                    path.display(),
                    found_answers.len(),
                    row.stage,
                    row.epoch + 1
                )),
                _ => drop(answers.insert(seed, found_answers)),
            }
            found.push((seed, row, peak));
        }
        let mean = |value: fn(&Row) -> Option<f64>| {
            Estimate::of(found.iter().filter_map(|(_, row, _)| value(row)).collect())
        };
        let stage = found.first().map(|(_, row, _)| row.stage);
        Ok(Self {
            label,
            folders: cell.runs.iter().map(|run| run.folder.clone()).collect(),
            n_seeds: cell.runs.len(),
            seeds: found.iter().map(|(seed, ..)| *seed).collect(),
            stage: stage.filter(|&stage| found.iter().all(|(_, row, _)| row.stage == stage)),
            accuracy: mean(|row| row.eval_acc),
            n_solved: found.iter().filter(|(_, row, _)| row.eval_acc >= Some(solved)).count(),
            cot_em: mean(|row| row.eval_cot_em),
            tokens: mean(|row| row.eval_tokens),
            latents: mean(|row| row.eval_latents),
            ms_per_question: mean(|row| row.eval_ms_per_question),
            thinking_ms_per_question: mean(|row| row.eval_thinking_ms_per_question),
            train_seconds: mean(|row| row.train_seconds),
            thought_entropy: mean(|row| row.eval_thought_entropy),
            thought_cosine: mean(|row| row.eval_thought_cosine),
            peak_mb: Estimate::of(found.iter().filter_map(|(.., peak)| *peak).collect()),
            comparison: None,
            answers,
            unpaired,
        })
    }

    /// One accuracy a seed.
    fn accuracies(&self) -> &[f64] {
        self.accuracy.as_ref().map_or(&[], |accuracy| accuracy.values.as_slice())
    }
}

impl Run {
    /// The row to compare and the run's peak memory, if the run is done.
    fn compared_row(&self, compare: ComparedRow) -> Result<Option<(Row, Option<f64>)>> {
        let Some(results) = self.results()? else { return Ok(None) };
        let Some(last) = self.last_row(&results) else { return Ok(None) };
        let row = match compare {
            ComparedRow::Last => last,
            ComparedRow::Best => best(&results, last),
        };
        let peak = results.rows.iter().filter_map(|row| row.resident_mb).reduce(f64::max);
        Ok(Some((row.clone(), peak)))
    }
}

fn best<'a>(results: &'a Results, last: &'a Row) -> &'a Row {
    let same_method = results.rows.iter().filter(|row| row.method == last.method);
    // `max_by` would give the last of equals.
    same_method.fold(last, |best, row| {
        let better = row.eval_acc > best.eval_acc;
        let earlier = row.eval_acc == best.eval_acc && row.epoch < best.epoch;
        if better || earlier { row } else { best }
    })
}

/// The answers behind a row.
fn read_answers(path: &Path, row: &Row) -> Result<Answers> {
    if !path.exists() {
        return Ok(Answers::new());
    }
    let what = "a sample, a JSON object with question, generation and answer";
    let samples: Vec<Sample> = read_lines(path, what, |line| serde_json::from_slice(line).ok())?;
    let of_row = samples.into_iter().filter(|sample| {
        (sample.stage, sample.epoch) == (row.stage, row.epoch) && sample.method == row.method
    });
    Ok(of_row.map(|s| (s.index, (format!("{} → {}", s.question, s.answer), s.correct))).collect())
}

// --- comparisons --------------------------------------------------------------------------------

/// Fills in each variant's comparison; the number of comparisons corrected for.
fn compare(variants: &mut [Variant], cells: &[&Cell], against: &Reference) -> usize {
    let measured: Vec<usize> =
        (0..variants.len()).filter(|&i| variants[i].accuracy.is_some()).collect();
    let mean = |i: &usize| variants[*i].accuracy.as_ref().map_or(0.0, |a| a.mean);
    let reference = match against {
        // The first of equals, as in the table.
        Reference::Best => {
            measured.iter().rev().max_by(|a, b| mean(a).total_cmp(&mean(b))).copied()
        }
        Reference::First => Some(0),
        Reference::Label(label) => cells.iter().position(|cell| cell.is_called(label)),
    };
    let Some(reference) = reference.filter(|i| measured.contains(i)) else { return 0 };
    // Which one is best was not known before: each pair might have been looked at.
    let pairs: Vec<(usize, usize)> = match against {
        Reference::Best => measured
            .iter()
            .flat_map(|&a| measured.iter().map(move |&b| (a, b)))
            .filter(|(a, b)| a < b)
            .collect(),
        _ => measured.iter().map(|&a| (a, reference)).filter(|(a, b)| a != b).collect(),
    };
    let paired: Vec<Paired> = pairs
        .iter()
        .map(|&(a, b)| Paired::of(&variants[a].answers, &variants[b].answers))
        .collect();
    let p_questions = corrected(paired.iter().map(Paired::p).collect());
    let p_seeds = corrected(
        pairs
            .iter()
            .map(|&(a, b)| stats::welch(variants[a].accuracies(), variants[b].accuracies()))
            .collect(),
    );
    let with = variants[reference].label.clone();
    for (at, &(a, b)) in pairs.iter().enumerate() {
        let other = match (a == reference, b == reference) {
            (true, false) => b,
            (false, true) => a,
            _ => continue,
        };
        let (first, second) = (paired[at].only_first, paired[at].only_second);
        let (only_this, only_reference) =
            if other == a { (first, second) } else { (second, first) };
        let small = |p: Option<f64>| p.is_some_and(|p| p < stats::LEVEL);
        let verdict = match (small(p_questions[at]), small(p_seeds[at])) {
            (true, true) => Verdict::Differs,
            (true, false) => Verdict::TheseRunsDiffer,
            _ => Verdict::NotShown,
        };
        variants[other].comparison = Some(Comparison {
            with: with.clone(),
            difference: mean_of(&variants[other]) - mean_of(&variants[reference]),
            n_paired_seeds: paired[at].seeds,
            only_this,
            only_reference,
            p_questions: p_questions[at],
            p_seeds: p_seeds[at],
            verdict,
        });
    }
    pairs.len()
}

fn mean_of(variant: &Variant) -> f64 {
    variant.accuracy.as_ref().map_or(f64::NAN, |accuracy| accuracy.mean)
}

/// Holm over the family; a comparison that could not be made still counts as one.
fn corrected(p: Vec<Option<f64>>) -> Vec<Option<f64>> {
    let all: Vec<f64> = p.iter().map(|p| p.unwrap_or(1.0)).collect();
    let adjusted = stats::holm(&all);
    p.iter().zip(adjusted).map(|(p, adjusted)| p.map(|_| adjusted)).collect()
}

/// Two variants' answers, seed by seed.
#[derive(Default)]
struct Paired {
    seeds: usize,
    only_first: usize,
    only_second: usize,
    /// For each question, right answers of the first minus those of the second, over the seeds.
    differences: BTreeMap<usize, i32>,
}

impl Paired {
    fn of(first: &BTreeMap<u64, Answers>, second: &BTreeMap<u64, Answers>) -> Self {
        let mut paired = Self::default();
        for (seed, ours) in first {
            let Some(theirs) = second.get(seed) else { continue };
            let mut any = false;
            for (index, (question, right)) in ours {
                let Some((_, other)) = theirs.get(index).filter(|(asked, _)| asked == question)
                else {
                    continue;
                };
                any = true;
                paired.only_first += usize::from(*right && !other);
                paired.only_second += usize::from(!right && *other);
                *paired.differences.entry(*index).or_default() +=
                    i32::from(*right) - i32::from(*other);
            }
            paired.seeds += usize::from(any);
        }
        paired
    }

    fn p(&self) -> Option<f64> {
        let differences: Vec<i32> = self.differences.values().copied().collect();
        (self.seeds > 0).then(|| stats::mcnemar(&differences))
    }
}
