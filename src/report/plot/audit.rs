//! What an audit found: place × intervention, accuracy by number of latents, and answers that follow a donor.

use super::*;
use crate::{
    audit::{Cell, Intervention, ModelRecord, Readings, Role, With, place_name},
    latent::Places,
    report::audit::{by_place, columns},
    stats::{LEVEL, Rate},
};

/// Height of a line of the map, in pixels.
const ROW: u32 = 34;
/// Left of the map: what is fed.
const NAMES: u32 = 118;
/// Places drawn at most.
const MOST: usize = 16;

/// A map of cells: names of lines and columns, and what stands in each.
struct Map<'a> {
    lines: Vec<String>,
    columns: Vec<String>,
    cell: &'a dyn Fn(usize, usize) -> Option<Shade>,
    below: &'a str,
}

/// One cell of a map.
struct Shade {
    text: String,
    color: RGBAColor,
    framed: bool,
}

impl Shade {
    /// A share of −1 to 1 in points, blue above 0 and orange below.
    fn of_points(share: f64, framed: bool) -> Self {
        let color = match share > 0.0 {
            true => COLORS[0].mix(0.5 * share.min(1.0)),
            false => COLORS[1].mix(0.06 + 0.84 * (-share).min(1.0)),
        };
        let text = format!("{:.0}", 100.0 * share).replace('-', "−");
        let text = if text == "−0" { "0".into() } else { text };
        Self { text, color, framed }
    }
}

fn map(Map { lines, columns, cell, below }: Map<'_>) -> Option<String> {
    let columns = &columns[..columns.len().min(MOST)];
    (!lines.is_empty() && !columns.is_empty()).then_some(())?;
    drawn(|svg| {
        let root = blank(svg, LINE + MARGIN + ROW * lines.len() as u32 + 34)?;
        let width = (WIDTH - NAMES - MARGIN) as i32 / columns.len() as i32;
        let size = if width < 44 { 12 } else { 15 };
        let left = |at: usize| NAMES as i32 + width * at as i32;
        for (at, name) in columns.iter().enumerate() {
            root.draw_text(
                name,
                &font(15, HPos::Center),
                (left(at) + width / 2, MARGIN as i32 / 2),
            )?;
        }
        for (number, name) in lines.iter().enumerate() {
            let top = (LINE + ROW * number as u32) as i32;
            root.draw_text(name, &font(15, HPos::Left), (6, top + 8))?;
            for at in 0..columns.len() {
                let Some(Shade { text, color, framed }) = cell(number, at) else { continue };
                let corners =
                    [(left(at) + 1, top + 1), (left(at) + width - 1, top + ROW as i32 - 1)];
                root.draw(&Rectangle::new(corners, color.filled()))?;
                if framed {
                    root.draw(&Rectangle::new(corners, INK.stroke_width(2)))?;
                }
                let style = font(size, HPos::Center).pos(Pos::new(HPos::Center, VPos::Center));
                root.draw_text(&text, &style, (left(at) + width / 2, top + ROW as i32 / 2))?;
            }
        }
        let bottom = (LINE + ROW * lines.len() as u32) as i32 + 10;
        root.draw_text(below, &font(16, HPos::Center), ((WIDTH / 2) as i32, bottom))?;
        root.present()?;
        Ok(())
    })
}

/// Change of accuracy by what is fed (down) and where (across). `None` if nothing was fed.
pub fn places(model: &ModelRecord) -> Option<String> {
    let lines = by_place(model);
    let columns = columns(&lines);
    let shade = |cell: &Cell| Shade::of_points(cell.difference, cell.p_holm < LEVEL);
    let cell = |line: usize, column: usize| {
        let (_, cells) = &lines[line];
        cells.iter().find(|(places, _)| *places == columns[column]).map(|(_, cell)| shade(cell))
    };
    map(Map {
        lines: lines.iter().map(|(with, _)| with.to_string()).collect(),
        columns: columns.iter().map(|places| place_name(*places)).collect(),
        cell: &cell,
        below: "which thought is replaced, from 1 on",
    })
}

/// What probes read of each step (down) at each position (across).
pub fn probes(readings: &Readings) -> Option<String> {
    let best = readings.best_probes();
    let found = |position, step| {
        let probe = best.iter().find(|probe| (probe.position, probe.step) == (position, step))?;
        Some((probe.right.rate()?, probe.p_corrected < LEVEL))
    };
    by_step(best.iter().map(|probe| (probe.position, probe.step)), &found)
}

/// How much better a latent's own step is read than any other (down: layers, the last one above) at each position
/// (across). `None` if no two steps could be read.
pub fn selectivity(readings: &Readings) -> Option<String> {
    let found = &readings.selectivity;
    let layers = numbers(found.iter().map(|of| of.layer));
    let positions = numbers(found.iter().map(|of| of.position));
    let cell = |line: usize, column: usize| {
        let (layer, position) = (layers[layers.len() - 1 - line], positions[column]);
        let of = found.iter().find(|of| (of.layer, of.position) == (layer, position))?;
        Some(Shade::of_points(of.value, false))
    };
    map(Map {
        lines: layers.iter().rev().map(|layer| format!("layer {layer}")).collect(),
        columns: positions.iter().map(ToString::to_string).collect(),
        cell: &cell,
        below: "position, from the first latent on",
    })
}

/// What the head reads of each step (down) at each position (across).
pub fn lens(readings: &Readings) -> Option<String> {
    let last = readings.last_lens();
    let found = |position, step| {
        let lens = last.iter().find(|lens| (lens.position, lens.step) == (position, step))?;
        Some((lens.top.rate()?, false))
    };
    by_step(last.iter().map(|lens| (lens.position, lens.step)), &found)
}

/// Each number once, in order.
fn numbers(of: impl Iterator<Item = usize>) -> Vec<usize> {
    of.collect::<std::collections::BTreeSet<_>>().into_iter().collect()
}

/// Rates of steps and positions, framed where asked.
fn by_step(
    places: impl Iterator<Item = (usize, usize)>,
    found: &dyn Fn(usize, usize) -> Option<(f64, bool)>,
) -> Option<String> {
    let (positions, steps): (Vec<usize>, Vec<usize>) = places.unzip();
    let (positions, steps) = (numbers(positions.into_iter()), numbers(steps.into_iter()));
    let cell = |line: usize, column: usize| {
        let (rate, framed) = found(positions[column], steps[line])?;
        let text = format!("{:.0}", 100.0 * rate);
        Some(Shade { text, color: COLORS[0].mix(0.04 + 0.7 * rate), framed })
    };
    map(Map {
        lines: steps.iter().map(|step| format!("step {step}")).collect(),
        columns: positions.iter().map(ToString::to_string).collect(),
        cell: &cell,
        below: "position, from the question's end on",
    })
}

/// Accuracy against the number of latents, of the audited model and of controls, and the share of answers that are
/// settled. `None` if only one number was tried.
pub fn latents(models: &[ModelRecord]) -> Option<String> {
    let audited = models.first()?;
    let mut curves = vec![
        (format!("{}, accuracy", audited.method), by_latents(audited, false)),
        ("the same, asked for the answer at once".to_owned(), by_latents(audited, true)),
    ];
    if let Some(sufficiency) = &audited.sufficiency {
        let settled = sufficiency.from.iter().enumerate().map(|(t, rate)| (t as f64, *rate));
        curves.push(("its answer is settled".to_owned(), settled.collect()));
    }
    let controls = models.iter().filter(|model| model.role == Role::Control);
    curves.extend(
        controls.map(|model| (format!("control: {}", model.method), by_latents(model, false))),
    );
    curves.retain(|(_, points)| points.len() > 1);
    curves.truncate(COLORS.len());
    rates::marked(&curves, ("latents", "questions, %"), Some(audited.thoughts as f64))
}

/// Right answers by number of latents, free to speak or at once.
fn by_latents(model: &ModelRecord, at_once: bool) -> Vec<(f64, Rate)> {
    let others = model.cells.iter().filter_map(|cell| match cell.intervention {
        Intervention::Latents(n) if !at_once => Some((n as f64, cell.right)),
        Intervention::Early(n) if at_once => Some((n as f64, cell.right)),
        _ => None,
    });
    let mut points: Vec<(f64, Rate)> = others.collect();
    points.push((model.thoughts as f64, model.plain));
    points.sort_by(|a, b| a.0.total_cmp(&b.0));
    points
}

/// The share of answers that follow the donor, against how many of its first and last thoughts are given. `None` if
/// none were.
pub fn donors(model: &ModelRecord) -> Option<String> {
    let of = |count: &dyn Fn(Places) -> Option<usize>| -> Vec<(f64, Rate)> {
        let given = model.cells.iter().filter_map(|cell| match cell.intervention {
            Intervention::Edit { with: With::Transplant, places } => {
                Some((count(places)? as f64, cell.follows?))
            }
            _ => None,
        });
        let mut points: Vec<(f64, Rate)> = given.collect();
        points.sort_by(|a, b| a.0.total_cmp(&b.0));
        points
    };
    let all = model.thoughts;
    let first = of(&|places| match places {
        Places::First(n) => Some(n),
        Places::One(0) => Some(1),
        Places::All => Some(all),
        _ => None,
    });
    let last = of(&|places| match places {
        Places::Last(n) => Some(n),
        Places::One(index) if index + 1 == all => Some(1),
        Places::All => Some(all),
        _ => None,
    });
    let curves =
        vec![("from the first on".to_owned(), first), ("from the last on".to_owned(), last)];
    if curves.iter().all(|(_, points)| points.len() < 2) {
        return None;
    }
    rates::rates(&curves, "thoughts given", "follow the donor, %")
}
