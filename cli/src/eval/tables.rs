//! What `coconut eval` prints and draws of several points.

use coconut::{report, stats::Rate};
use comfy_table::Cell;

use super::Point;
use crate::{options::Dials, verbs};

/// What a dial stands at, for a table.
fn stands(dial: Option<usize>) -> String {
    dial.map_or("as trained".into(), |value| value.to_string())
}

fn percent(rate: Rate) -> [String; 2] {
    let text = |share: f64| format!("{:.1}", 100.0 * share);
    let interval = rate.interval().map(|[low, high]| format!("{}–{}", text(low), text(high)));
    [rate.rate().map_or("–".into(), text), interval.unwrap_or("–".into())]
}

/// A line a point.
pub fn curve(points: &[Point]) -> String {
    let (head, cells) = places(points);
    let head = [&head[..], &["n", "accuracy\n%", "95 %\ninterval", "tokens", "ms per\nquestion"]];
    let rows = points.iter().map(|point| {
        let [rate, interval] = percent(point.accuracy());
        let number = |value: Option<f64>| value.map_or("–".into(), |value| format!("{value:.1}"));
        let found = [
            point.accuracy().n.to_string(),
            rate,
            interval,
            number(point.row.eval_tokens),
            number(point.row.eval_ms_per_question),
        ];
        cells(point).into_iter().chain(found).map(Cell::new).collect()
    });
    report::table::drawn(&head.concat(), rows, &[], verbs::styled())
}

/// A line for each number of steps of each point.
pub fn by_steps(points: &[Point]) -> String {
    let (head, cells) = places(points);
    let head = [&head[..], &["steps", "n", "accuracy\n%", "95 %\ninterval"]];
    let rows = points.iter().flat_map(|point| {
        point.by_steps.iter().map(|(steps, rate)| {
            let [share, interval] = percent(*rate);
            let found = [steps.to_string(), rate.n.to_string(), share, interval];
            cells(point).into_iter().chain(found).map(Cell::new).collect()
        })
    });
    report::table::drawn(&head.concat(), rows, &[], verbs::styled())
}

/// What tells points apart: the columns' heads, and a point's cells.
fn places(points: &[Point]) -> (Vec<&'static str>, impl Fn(&Point) -> Vec<String>) {
    type Column = (&'static str, fn(&Point) -> String);
    let all: [Column; 4] = [
        ("data", |point| point.set.clone()),
        ("scorer", |point| point.scorer.to_owned()),
        ("latents", |point| stands(point.dials.latents)),
        ("iterations", |point| stands(point.dials.iterations)),
    ];
    let varies = |(_, cell): &Column| points.windows(2).any(|two| cell(&two[0]) != cell(&two[1]));
    let (heads, of): (Vec<_>, Vec<_>) = all.into_iter().filter(varies).unzip();
    (heads, move |point: &Point| of.iter().map(|cell| cell(point)).collect())
}

/// What a figure shows across: iterations if only they vary.
pub fn axis(points: &[Point]) -> &'static str {
    let latents = |two: &[Point]| two[0].dials.latents != two[1].dials.latents;
    if points.windows(2).any(latents) { "latents" } else { "iterations" }
}

/// A curve for each file and each value of the dial that is not across.
pub fn curves(points: &[Point]) -> Vec<(String, Vec<(f64, Rate)>)> {
    let across = axis(points);
    let mut curves: Vec<(String, Vec<(f64, Rate)>)> = Vec::new();
    for point in points {
        let Dials { latents, iterations } = point.dials;
        let (x, name) = match across {
            "latents" => {
                (latents, iterations.map_or("accuracy".into(), |r| format!("iterations: {r}")))
            }
            _ => (iterations, latents.map_or("accuracy".into(), |k| format!("latents: {k}"))),
        };
        let several = points.iter().any(|other| other.set != point.set);
        let name = match several {
            true if name == "accuracy" => point.set.clone(),
            true => format!("{}, {name}", point.set),
            false => name,
        };
        let at = (x.unwrap_or(0) as f64, point.accuracy());
        match curves.iter_mut().find(|(of, _)| *of == name) {
            Some((_, points)) => points.push(at),
            None => curves.push((name, vec![at])),
        }
    }
    curves
}
