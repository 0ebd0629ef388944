//! The figure of a sweep: a line a variant, its mean accuracy with the standard error, and its seeds.

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::{Group, Summary, Variant};
use crate::report::plot::{
    Area, BASELINE, BOTTOM, COLORS, Drawn, GRID, INK, LINE, MARGIN, blank, drawn, font, local,
    short,
};
use crate::stats::Estimate;

/// Height of one variant's line, in pixels.
const ROW: u32 = 26;
/// Height of the letters of a label, and the width of one, in pixels.
const LETTER: (u32, u32) = (15, 8);

/// One panel a group, best first. `None` if nothing was measured.
pub fn accuracy(summary: &Summary) -> Option<String> {
    let panels: Vec<Panel> = summary.groups.iter().filter_map(Panel::new).collect();
    if panels.is_empty() {
        return None;
    }
    drawn(|svg| {
        let root = blank(svg, panels.iter().map(Panel::height).sum())?;
        let mut rest = root.clone();
        for panel in &panels {
            let (area, below) = rest.split_vertically(panel.height());
            panel.draw(&area)?;
            rest = below;
        }
        root.present()?;
        Ok(())
    })
}

struct Panel<'a> {
    title: &'a str,
    rows: Vec<(&'a Variant, &'a Estimate)>,
}

impl<'a> Panel<'a> {
    fn new(group: &'a Group) -> Option<Self> {
        let rows = group.variants.iter().filter_map(|v| Some((v, v.accuracy.as_ref()?)));
        let rows: Vec<_> = rows.collect();
        (!rows.is_empty()).then_some(Self { title: &group.title, rows })
    }

    fn height(&self) -> u32 {
        let title = if self.title.is_empty() { 0 } else { LINE };
        title + 2 * MARGIN + ROW * self.rows.len() as u32 + BOTTOM
    }

    fn draw(&self, area: &Area) -> Drawn {
        let title = if self.title.is_empty() { 0 } else { LINE };
        let (head, area) = area.split_vertically(title);
        if title > 0 {
            head.draw_text(self.title, &font(17, HPos::Left), (MARGIN as i32, 8))?;
        }
        let longest = self.rows.iter().map(|(v, _)| v.label.chars().count()).max().unwrap_or(0);
        let letters = longest.min(32);
        let labels = letters as u32 * LETTER.1 + 16;

        // To the next tens around every seed and standard error.
        let reach = |estimate: &Estimate| {
            let error = estimate.standard_error.unwrap_or(0.0);
            let ends = [estimate.mean - error, estimate.mean + error];
            estimate.values.iter().copied().chain(ends).collect::<Vec<_>>()
        };
        let all = || self.rows.iter().flat_map(|(_, e)| reach(e)).map(|share| 100.0 * share);
        let low = (all().fold(100.0, f64::min) / 10.0).floor() * 10.0;
        let high = (all().fold(0.0, f64::max) / 10.0).ceil() * 10.0;
        let (low, high) = (low.max(0.0), high.min(100.0).max(low + 10.0));
        // Markers at the ends stay whole.
        let room = 0.02 * (high - low);
        let n = self.rows.len() as f64;
        let mut chart = ChartBuilder::on(&area)
            .margin_top(MARGIN)
            .margin_right(MARGIN)
            .x_label_area_size(BOTTOM)
            .y_label_area_size(labels)
            .build_cartesian_2d(low - room..high + room, n - 0.5..-0.5)?;

        let every = [1.0, 2.0, 5.0, 10.0, 20.0].into_iter().find(|e| (high - low) / e <= 6.0);
        let every = every.unwrap_or(20.0);
        let mut tick = (low / every).ceil() * every;
        while tick <= high {
            let line = vec![(tick, n - 0.5), (tick, -0.5)];
            chart.draw_series([PathElement::new(line, GRID)])?;
            let (middle, bottom) = local(&area, chart.backend_coord(&(tick, n - 0.5)));
            area.draw_text(&short(tick), &font(17, HPos::Center), (middle, bottom + 8))?;
            tick += every;
        }
        let (width, height) = area.dim_in_pixel();
        let middle = (labels + (width - labels - MARGIN) / 2) as i32;
        area.draw_text("accuracy, %", &font(18, HPos::Center), (middle, height as i32 - 22))?;

        for (rank, (variant, estimate)) in self.rows.iter().enumerate() {
            let y = rank as f64;
            let label: String = variant.label.chars().take(letters).collect();
            let (left, place) = local(&area, chart.backend_coord(&(low - room, y)));
            let text = font(LETTER.0, HPos::Right).pos(Pos::new(HPos::Right, VPos::Center));
            area.draw_text(&label, &text, (left - 8, place))?;

            for value in &estimate.values {
                let seed = Circle::new((100.0 * value, y), 3, BASELINE.stroke_width(1));
                chart.draw_series([seed])?;
            }
            let (mean, color) = (100.0 * estimate.mean, COLORS[0]);
            if let Some(error) = estimate.standard_error {
                let ends = [mean - 100.0 * error, mean + 100.0 * error];
                let bar = ends.map(|end| (end, y)).to_vec();
                chart.draw_series([PathElement::new(bar, color.stroke_width(2))])?;
                for end in ends {
                    let cap = PathElement::new(vec![(0, -5), (0, 5)], color.stroke_width(2));
                    chart.draw_series([EmptyElement::at((end, y)) + cap])?;
                }
            }
            chart.draw_series([Circle::new((mean, y), 5, color.filled())])?;
        }
        let frame = vec![(low - room, n - 0.5), (high + room, n - 0.5)];
        chart.draw_series([PathElement::new(frame, INK)])?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sweep::{ComparedRow, Reference};

    #[test]
    fn nothing_measured_is_nothing_drawn() {
        let group = Group { title: String::new(), variants: Vec::new(), n_comparisons: 0 };
        let summary = Summary {
            name: "s".into(),
            compare: ComparedRow::Last,
            against: Reference::Best,
            solved: 0.95,
            groups: vec![group],
            failures: Vec::new(),
            unpaired: Vec::new(),
        };
        assert_eq!(accuracy(&summary), None);
    }
}
