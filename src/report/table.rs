//! The table of results: on the terminal, in Markdown, and (its cells) in HTML.

use super::series::{Series, stage_name};
use crate::{run::Row, stats::LEVEL};
use comfy_table::{Attribute, Cell, CellAlignment, Color, Table, TableComponent, presets};
use std::io::IsTerminal;

/// Column heads, in two lines so that the table fits 80 columns; the first is text, all others are
/// numbers and stand to the right.
pub(super) const HEADER: [&str; 9] = [
    "method",
    "stage",
    "latents",
    "tokens",
    "accuracy\n%",
    "95 %\ninterval",
    "cot_em\n%",
    "ms per\nquestion",
    "train\ns",
];
/// Where the accuracy stands in [`HEADER`].
pub(super) const ACCURACY: usize = 4;

/// For the terminal, with colours if stdout is one and `NO_COLOR` is not set (no-color.org).
pub fn terminal(series: &[Series]) -> String {
    let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    text(series, std::io::stdout().is_terminal() && !no_color)
}

/// The same as plain text, or with ANSI colours whatever stdout is.
pub fn text(series: &[Series], colored: bool) -> String {
    let rows = rows(series).into_iter().map(|(cells, best)| {
        let cell = |(index, text)| {
            let cell = Cell::new(text);
            if best && index == ACCURACY { cell.fg(Color::DarkGreen) } else { cell }
        };
        cells.into_iter().enumerate().map(cell).collect()
    });
    drawn(&HEADER, rows, &[0], colored)
}

/// The same as a Markdown table.
pub fn markdown(series: &[Series]) -> String {
    let rows = rows(series).into_iter().map(|(mut cells, best)| {
        if best {
            cells[ACCURACY] = format!("**{}**", cells[ACCURACY]);
        }
        cells
    });
    piped(&HEADER, rows)
}

/// A table for the terminal, with bold heads and colours if `styled`. The columns of `text` stand to the
/// left, all others are numbers and stand to the right.
pub fn drawn(
    head: &[&str],
    rows: impl IntoIterator<Item = Vec<Cell>>,
    text: &[usize],
    styled: bool,
) -> String {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    table.set_style(TableComponent::HeaderLines, '─');
    table.set_style(TableComponent::MiddleHeaderIntersections, '─');
    if styled {
        table.enforce_styling();
    } else {
        table.force_no_tty();
    }
    table.set_header(head.iter().map(|head| Cell::new(head).add_attribute(Attribute::Bold)));
    for row in rows {
        table.add_row(row);
    }
    for (index, column) in table.column_iter_mut().enumerate() {
        column.set_padding((0, 1));
        if !text.contains(&index) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table.trim_fmt()
}

/// A Markdown table, its first column text and all others numbers. Cells may hold anything.
pub(crate) fn piped(head: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let line = |cells: Vec<String>| format!("| {} |\n", cells.join(" | "));
    let mut text = line(head.iter().map(|head| head.replace('\n', " ")).collect());
    text += &format!("| --- |{}\n", " ---: |".repeat(head.len() - 1));
    for row in rows {
        text += &line(row.iter().map(|cell| cell.replace('|', "\\|")).collect());
    }
    text
}

/// The cells of each row, and whether none has a better accuracy.
pub(super) fn rows(series: &[Series]) -> Vec<(Vec<String>, bool)> {
    let all = || series.iter().flat_map(|one| one.rows.iter().map(move |row| (one, row)));
    let best = all().filter_map(|(_, row)| row.eval_acc).fold(f64::NEG_INFINITY, f64::max);
    all().map(|(one, row)| (cells(&one.label, row), row.eval_acc == Some(best))).collect()
}

fn cells(label: &str, row: &Row) -> Vec<String> {
    let number = |value: Option<f64>, digits: usize| match value {
        Some(value) => format!("{value:.digits$}"),
        None => "–".into(),
    };
    let percent = |value: Option<f64>| number(value.map(|share| 100.0 * share), 1);
    let interval = match row.accuracy_interval() {
        Some([low, high]) => format!("{:.1}–{:.1}", 100.0 * low, 100.0 * high),
        None => "–".into(),
    };
    vec![
        label.to_owned(),
        // Without reasoning there are no stages.
        if row.method == "no_cot" { "–".into() } else { stage_name(row.stage) },
        number(row.eval_latents, 1),
        number(row.eval_tokens, 1),
        percent(row.eval_acc),
        interval,
        percent(row.eval_cot_em),
        number(row.eval_ms_per_question, 1),
        number(row.train_seconds, 0),
    ]
}

/// A number with its sign and a real minus; what rounds to nothing has no sign.
pub(crate) fn signed(value: f64, digits: usize) -> String {
    let text = format!("{value:+.digits$}");
    match text.bytes().any(|c| c.is_ascii_digit() && c != b'0') {
        true => text.replace('-', "−"),
        false => text[1..].to_owned(),
    }
}

/// Three digits, but never rounded across the level at which a difference is called one.
pub(crate) fn p_value(p: f64) -> String {
    match p {
        p if p < 0.001 => "<0.001".into(),
        p if (p < LEVEL) != ((p * 1e3).round() / 1e3 < LEVEL) => format!("{p:.5}"),
        p => format!("{p:.3}"),
    }
}
