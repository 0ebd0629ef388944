//! Rows of one or more runs, put in order: one series a method, one row a stage.

use crate::run::{Results, Row};

/// One method of one run: a line in the figures, a block in the tables.
#[derive(Clone, Debug, PartialEq)]
pub struct Series {
    /// What tells it from the others: the method; where that does not suffice also what is fed
    /// back, and last the run's name.
    pub label: String,
    /// The last evaluation at each stage, stages ascending. Never empty.
    pub rows: Vec<Row>,
}

impl Series {
    /// True for the method without any reasoning, which has no stages to speak of: figures show it as a
    /// level line.
    pub fn is_baseline(&self) -> bool {
        self.rows.iter().all(|row| row.method == "no_cot")
    }

    /// The row of the last stage.
    pub fn last(&self) -> Option<&Row> {
        self.rows.last()
    }
}

/// The name of a stage: `CoT` for −1.
pub fn stage_name(stage: i32) -> String {
    if stage < 0 { "CoT".into() } else { stage.to_string() }
}

/// Merges the rows of several runs by method. A method that is stored twice with equal numbers (a
/// baseline in its own folder and in the main run's results) counts once.
pub fn series(runs: &[&Results]) -> Vec<Series> {
    // (run, method, reinject) → rows, in order of appearance.
    let mut groups: Vec<(&str, &str, Option<&str>, Vec<Row>)> = Vec::new();
    for run in runs {
        let first_of_run = groups.len();
        for row in &run.rows {
            let reinject = row.reinject.as_deref();
            let place = groups[first_of_run..]
                .iter_mut()
                .find(|(_, method, fed, _)| *method == row.method && *fed == reinject);
            match place {
                Some((.., rows)) => rows.push(row.clone()),
                None => groups.push((&run.run, &row.method, reinject, vec![row.clone()])),
            }
        }
    }
    for (.., rows) in &mut groups {
        *rows = last_of_each_stage(rows);
    }
    let mut kept: Vec<(&str, &str, Option<&str>, Vec<Row>)> = Vec::new();
    for group in groups {
        if !kept.iter().any(|earlier| earlier.3 == group.3) {
            kept.push(group);
        }
    }

    let label = |&(run, method, reinject, _): &(&str, &str, Option<&str>, Vec<Row>)| {
        let same_method = || kept.iter().filter(|other| other.1 == method);
        let mut label = method.to_owned();
        if let Some(fed_back) = reinject
            && same_method().any(|other| other.2 != reinject)
        {
            label += &format!(" {fed_back}");
        }
        if same_method().filter(|other| other.2 == reinject).count() > 1 {
            label += &format!(" ({run})");
        }
        label
    };
    let labels: Vec<String> = kept.iter().map(label).collect();
    kept.into_iter().zip(labels).map(|((.., rows), label)| Series { label, rows }).collect()
}

/// Later rows replace earlier ones of the same stage; stages ascend.
fn last_of_each_stage(rows: &[Row]) -> Vec<Row> {
    let mut last: Vec<Row> = Vec::new();
    for row in rows {
        match last.iter_mut().find(|kept| kept.stage == row.stage) {
            Some(kept) => *kept = row.clone(),
            None => last.push(row.clone()),
        }
    }
    last.sort_by_key(|row| row.stage);
    last
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(method: &str, reinject: Option<&str>, stage: i32, epoch: usize, acc: f64) -> Row {
        Row {
            stage,
            epoch,
            method: method.into(),
            reinject: reinject.map(Into::into),
            eval_acc: Some(acc),
            ..Row::default()
        }
    }

    fn run(name: &str, rows: Vec<Row>) -> Results {
        Results { run: name.into(), rows, ..Results::default() }
    }

    fn summary(series: &[Series]) -> Vec<(&str, Vec<(i32, f64)>)> {
        let points = |s: &Series| s.rows.iter().map(|r| (r.stage, r.eval_acc.unwrap())).collect();
        series.iter().map(|s| (s.label.as_str(), points(s))).collect()
    }

    #[test]
    fn keeps_the_last_epoch_of_each_stage_and_a_baseline_once() {
        let no_cot = row("no_cot", None, 0, 3, 0.25);
        let main = run(
            "main",
            vec![
                row("coconut", Some("hs[-1]"), 1, 2, 0.5),
                row("coconut", Some("hs[-1]"), -1, 0, 0.75),
                row("coconut", Some("hs[-1]"), 1, 3, 0.625),
                no_cot.clone(),
            ],
        );
        let merged = series(&[&main, &run("main/no_cot", vec![no_cot])]);
        assert_eq!(
            summary(&merged),
            [("coconut", vec![(-1, 0.75), (1, 0.625)]), ("no_cot", vec![(0, 0.25)])]
        );
        assert_eq!(merged.iter().map(Series::is_baseline).collect::<Vec<_>>(), [false, true]);
    }

    #[test]
    fn labels_say_no_more_than_is_needed() {
        let a = run(
            "a",
            vec![
                row("coconut", Some("hs[-1]"), 0, 0, 0.1),
                row("coconut", Some("zero"), 0, 0, 0.2),
                row("pause", Some("pause"), 0, 0, 0.3),
            ],
        );
        let b = run("b", vec![row("coconut", Some("zero"), 0, 0, 0.4)]);
        let merged = series(&[&a, &b]);
        let labels: Vec<&str> = merged.iter().map(|s| s.label.as_str()).collect();
        assert_eq!(labels, ["coconut hs[-1]", "coconut zero (a)", "pause", "coconut zero (b)"]);
    }
}
