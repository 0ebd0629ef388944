//! Accuracy and generated tokens by stage.

use super::*;
use crate::{
    report::{Series, stage_name},
    run::Row,
};
use plotters::element::DashedPathElement;

/// Accuracy (with 95 % intervals) and generated tokens against stage, one panel each. `None` if no
/// accuracy was measured.
pub fn accuracy(series: &[Series]) -> Option<String> {
    let measured: Vec<Series> = series.iter().filter_map(only_measured).collect();
    if measured.is_empty() {
        return None;
    }
    drawn(|svg| draw_accuracy(svg, &measured))
}

fn only_measured(series: &Series) -> Option<Series> {
    let mut series = series.clone();
    series.rows.retain(|row| row.eval_acc.is_some_and(f64::is_finite));
    (!series.rows.is_empty()).then_some(series)
}

/// What one panel shows of a row: the value, and low and high if known.
type Measure = fn(&Row) -> Option<(f64, Option<[f64; 2]>)>;

fn draw_accuracy(svg: &mut String, series: &[Series]) -> Drawn {
    let legend = Legend::new(series);
    let panel = MARGIN + PLOT + BOTTOM;
    let root = blank(svg, legend.height + 2 * panel)?;
    let (top, panels) = root.split_vertically(legend.height);
    legend.draw(&top)?;

    let stages: Vec<i32> = series
        .iter()
        .filter(|one| !one.is_baseline())
        .flat_map(|one| one.rows.iter().map(|row| row.stage))
        .collect();
    let first = stages.iter().copied().min().unwrap_or(0);
    let last = stages.iter().copied().max().unwrap_or(0);
    let x = f64::from(first) - 0.4..f64::from(last) + 0.4;

    let tokens_top = series
        .iter()
        .flat_map(|one| one.rows.iter().filter_map(|row| row.eval_tokens))
        .fold(1.0, f64::max);
    let percent: Measure = |row| {
        let interval = row.accuracy_interval().map(|ends| ends.map(|end| 100.0 * end));
        Some((100.0 * row.eval_acc?, interval))
    };
    let tokens: Measure = |row| Some((row.eval_tokens.filter(|n| n.is_finite())?, None));

    let panels = panels.split_evenly((2, 1));
    let shown = [
        ("accuracy, %", 0.0..103.0, percent),
        ("generated tokens", 0.0..1.08 * tokens_top, tokens),
    ];
    for (area, (name, y, measure)) in panels.iter().zip(shown) {
        let mut chart = axes(area, x.clone(), y.clone(), "stage", name)?;
        stage_ticks(area, &chart, first..=last, y.start)?;
        for (index, one) in series.iter().enumerate() {
            let style = SeriesStyle::new(series, index);
            if one.is_baseline() {
                draw_baseline(&mut chart, one, &x, measure)?;
            } else {
                draw_series(&mut chart, one, &style, measure)?;
            }
        }
    }
    root.present()?;
    Ok(())
}

/// How one series looks everywhere in a figure.
struct SeriesStyle {
    color: RGBColor,
    marker: usize,
    /// To the side, in stages, so that intervals at one stage do not hide each other.
    shift: f64,
}

impl SeriesStyle {
    fn new(all: &[Series], index: usize) -> Self {
        let staged = |range: &[Series]| range.iter().filter(|one| !one.is_baseline()).count();
        let (rank, count) = (staged(&all[..index]), staged(all));
        // All shifts together stay within a fifth of a stage to either side.
        let step = if count > 1 { (0.4 / (count - 1) as f64).min(0.07) } else { 0.0 };
        Self {
            color: COLORS[rank % COLORS.len()],
            marker: rank,
            shift: step * (rank as f64 - (count.max(1) - 1) as f64 / 2.0),
        }
    }
}

fn draw_series(chart: &mut Chart, series: &Series, style: &SeriesStyle, measure: Measure) -> Drawn {
    let x = |stage: i32| f64::from(stage) + style.shift;
    let points: Vec<(f64, f64)> =
        series.rows.iter().filter_map(|row| Some((x(row.stage), measure(row)?.0))).collect();
    for row in &series.rows {
        if let Some((_, Some([low, high]))) = measure(row) {
            let bar = vec![(x(row.stage), low), (x(row.stage), high)];
            chart.draw_series([PathElement::new(bar, style.color.stroke_width(2))])?;
            for end in [low, high] {
                let place = (x(row.stage), end);
                let cap = PathElement::new(vec![(-4, 0), (4, 0)], style.color.stroke_width(2));
                chart.draw_series([EmptyElement::at(place) + cap])?;
            }
        }
    }
    chart.draw_series(LineSeries::new(points.iter().copied(), style.color.stroke_width(2)))?;
    for point in points {
        draw_marker(chart.plotting_area(), point, style)?;
    }
    Ok(())
}

/// A dashed level line over the whole width, its interval a band behind it.
fn draw_baseline(chart: &mut Chart, series: &Series, x: &Range<f64>, measure: Measure) -> Drawn {
    let Some((value, interval)) = series.last().and_then(measure) else { return Ok(()) };
    if let Some([low, high]) = interval {
        let band = Rectangle::new([(x.start, low), (x.end, high)], BASELINE.mix(0.15).filled());
        chart.draw_series([band])?;
    }
    let ends = [(x.start, value), (x.end, value)];
    chart.draw_series(DashedLineSeries::new(ends, 7, 5, BASELINE.stroke_width(2)))?;
    Ok(())
}

fn draw_marker<CT: plotters::coord::CoordTranslate<From = P>, P: Clone + 'static>(
    area: &DrawingArea<SVGBackend, CT>,
    point: P,
    style: &SeriesStyle,
) -> Drawn {
    let fill = style.color.filled();
    let at = || EmptyElement::at(point.clone());
    match style.marker % 5 {
        0 => area.draw(&(at() + Circle::new((0, 0), 5, fill)))?,
        1 => area.draw(&(at() + TriangleMarker::new((0, 0), 7, fill)))?,
        2 => area.draw(&(at() + Rectangle::new([(-5, -5), (5, 5)], fill)))?,
        3 => area.draw(&(at() + Polygon::new(vec![(0, -7), (6, 0), (0, 7), (-6, 0)], fill)))?,
        _ => area.draw(&(at() + Cross::new((0, 0), 5, style.color.stroke_width(3))))?,
    }
    Ok(())
}

/// Labels at whole stages only, the first called `CoT` where it is −1.
fn stage_ticks(area: &Area, chart: &Chart, stages: std::ops::RangeInclusive<i32>, y: f64) -> Drawn {
    // With very many stages only every second, third, … is named.
    let every = ((i64::from(*stages.end()) - i64::from(*stages.start())) / 16 + 1) as usize;
    for stage in stages.step_by(every) {
        let (left, bottom) = local(area, chart.backend_coord(&(f64::from(stage), y)));
        area.draw_text(&stage_name(stage), &font(17, HPos::Center), (left, bottom + 8))?;
    }
    Ok(())
}

/// The names of all series above the panels, with their line and marker.
struct Legend<'a> {
    series: &'a [Series],
    /// Left and top of each entry.
    places: Vec<(i32, i32)>,
    height: u32,
}

impl<'a> Legend<'a> {
    fn new(series: &'a [Series]) -> Self {
        let mut places = Vec::new();
        let (mut left, mut top) = (MARGIN as i32, 12);
        for one in series {
            // Line, gap, text at about 9 pixels a character, gap.
            let width = 44 + 9 * one.label.chars().count() as i32 + 22;
            if left > MARGIN as i32 && left + width > WIDTH as i32 {
                (left, top) = (MARGIN as i32, top + LINE as i32);
            }
            places.push((left, top));
            left += width;
        }
        Self { series, places, height: top as u32 + LINE }
    }

    fn draw(&self, area: &Area) -> Drawn {
        for (index, (one, &(left, top))) in self.series.iter().zip(&self.places).enumerate() {
            let style = SeriesStyle::new(self.series, index);
            let middle = top + LINE as i32 / 2 - 4;
            let line = [(left, middle), (left + 34, middle)];
            if one.is_baseline() {
                area.draw(&DashedPathElement::new(line, 7, 5, BASELINE.stroke_width(2)))?;
            } else {
                area.draw(&PathElement::new(line.to_vec(), style.color.stroke_width(2)))?;
                draw_marker(area, (left + 17, middle), &style)?;
            }
            let text = font(17, HPos::Left).pos(Pos::new(HPos::Left, VPos::Center));
            area.draw_text(&one.label, &text, (left + 44, middle))?;
        }
        Ok(())
    }
}
