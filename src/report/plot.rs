//! The figures, as SVG text: accuracy and tokens by stage, and training curves.
//!
//! They are drawn narrow, with large text, so that they stay readable on a phone; each series has its own marker
//! and each stage its own span, so that nothing depends on colour alone.

use super::series::{Series, stage_name};
use crate::log::Record;
use plotters::coord::Shift;
use plotters::coord::types::RangedCoordf64;
use plotters::element::DashedPathElement;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use plotters::style::{FontTransform, RGBColor};
use std::ops::Range;

/// Width of every figure, in pixels.
const WIDTH: u32 = 560;
/// Height of one panel's plot, in pixels.
const PLOT: u32 = 220;
/// Left of the plot: tick labels and the axis' name.
const LEFT: u32 = 78;
/// Below the plot: tick labels and the axis' name.
const BOTTOM: u32 = 52;
/// Right of and above the plot.
const MARGIN: u32 = 16;
/// Height of a line of text in a legend.
const LINE: u32 = 24;

const INK: RGBColor = RGBColor(0x22, 0x22, 0x22);
const GRID: RGBColor = RGBColor(0xdd, 0xdd, 0xdd);
const BASELINE: RGBColor = RGBColor(0x66, 0x66, 0x66);
/// Told apart with any colour vision (Okabe and Ito 2008), the light yellow left out.
const COLORS: [RGBColor; 7] = [
    RGBColor(0x00, 0x72, 0xb2),
    RGBColor(0xd5, 0x5e, 0x00),
    RGBColor(0x00, 0x9e, 0x73),
    RGBColor(0xaa, 0x44, 0x88),
    RGBColor(0x00, 0x00, 0x00),
    RGBColor(0x56, 0xb4, 0xe9),
    RGBColor(0xe6, 0x9f, 0x00),
];
/// Dark to light (viridis, its light end made darker to stand on white), for stages in order.
const RAMP: [RGBColor; 5] = [
    RGBColor(0x44, 0x01, 0x54),
    RGBColor(0x3b, 0x52, 0x8b),
    RGBColor(0x21, 0x91, 0x8c),
    RGBColor(0x45, 0xa8, 0x5c),
    RGBColor(0x8a, 0xa5, 0x12),
];

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Chart<'a> = ChartContext<'a, SVGBackend<'a>, Cartesian2d<RangedCoordf64, RangedCoordf64>>;
/// Drawing into memory fails only through a fault in this file.
type Drawn<T = ()> = Result<T, Box<dyn std::error::Error>>;

/// The training of one run, for [`loss`].
#[derive(Clone, Copy, Debug)]
pub struct Curve<'a> {
    /// The panel's title.
    pub label: &'a str,
    /// The run's metrics, steps ascending.
    pub records: &'a [Record],
}

/// Accuracy (with 95 % intervals) and generated tokens against stage, one panel each. `None` if no
/// accuracy was measured.
pub fn accuracy(series: &[Series]) -> Option<String> {
    let measured: Vec<Series> = series.iter().filter_map(only_measured).collect();
    if measured.is_empty() {
        return None;
    }
    drawn(|svg| draw_accuracy(svg, &measured))
}

/// Training loss against optimizer step, one panel a run, coloured by stage, with the evaluation loss
/// as circles. `None` if no loss was logged.
pub fn loss(curves: &[Curve]) -> Option<String> {
    let panels: Vec<Panel> = curves.iter().filter_map(Panel::new).collect();
    if panels.is_empty() {
        return None;
    }
    drawn(|svg| draw_loss(svg, &panels))
}

fn drawn(draw: impl FnOnce(&mut String) -> Drawn) -> Option<String> {
    let mut svg = String::new();
    match draw(&mut svg) {
        Ok(()) => Some(svg),
        Err(error) => {
            tracing::warn!("a figure is left out, it could not be drawn: {error}");
            None
        }
    }
}

// --- accuracy and tokens by stage ---------------------------------------------------------------

fn only_measured(series: &Series) -> Option<Series> {
    let mut series = series.clone();
    series.rows.retain(|row| row.eval_acc.is_some_and(f64::is_finite));
    (!series.rows.is_empty()).then_some(series)
}

/// What one panel shows of a row: the value, and low and high if known.
type Measure = fn(&super::Row) -> Option<(f64, Option<[f64; 2]>)>;

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

// --- training curves ----------------------------------------------------------------------------

/// What one run's panel shows.
struct Panel<'a> {
    label: &'a str,
    /// Consecutive steps of one stage.
    spans: Vec<Span>,
    /// (step, loss on unseen examples).
    evaluated: Vec<(f64, f64)>,
}

/// Training at one stage, without a break.
struct Span {
    stage: i32,
    /// First and last step.
    steps: Range<f64>,
    /// (step, lowest, mean, highest loss) of a few steps each.
    points: Vec<(f64, f64, f64, f64)>,
}

impl<'a> Panel<'a> {
    /// `None` if no loss was logged.
    fn new(curve: &Curve<'a>) -> Option<Self> {
        // The logarithmic axis has no place for zero.
        let positive = |record: &Record, name: &str| {
            let value = record.get(name).filter(|value| value.is_finite())?;
            Some((record.step as f64, value.max(1e-6)))
        };
        let trained: Vec<(i32, (f64, f64))> = curve
            .records
            .iter()
            .filter_map(|record| Some((record.stage, positive(record, "loss")?)))
            .collect();
        if trained.is_empty() {
            return None;
        }
        // About two pixels a point: more cannot be seen.
        let bucket = trained.len().div_ceil(240);
        let spans = trained.chunk_by(|a, b| a.0 == b.0).map(|span| Span {
            stage: span[0].0,
            steps: span[0].1.0..span[span.len() - 1].1.0,
            points: span.chunks(bucket).map(summary).collect(),
        });
        let evaluated =
            curve.records.iter().filter_map(|record| positive(record, "eval/loss")).collect();
        Some(Self { label: curve.label, spans: spans.collect(), evaluated })
    }

    fn last_step(&self) -> f64 {
        self.spans.iter().map(|span| span.steps.end).fold(1.0, f64::max)
    }

    /// All losses that must fit on the axis.
    fn losses(&self) -> impl Iterator<Item = f64> {
        let trained = self.spans.iter().flat_map(|span| &span.points);
        let trained = trained.flat_map(|&(_, low, _, high)| [low, high]);
        trained.chain(self.evaluated.iter().map(|&(_, loss)| loss))
    }
}

/// (mean step, lowest, mean, highest loss); never called with nothing.
fn summary(bucket: &[(i32, (f64, f64))]) -> (f64, f64, f64, f64) {
    let n = bucket.len() as f64;
    let losses = || bucket.iter().map(|(_, (_, loss))| *loss);
    (
        bucket.iter().map(|(_, (step, _))| step).sum::<f64>() / n,
        losses().fold(f64::INFINITY, f64::min),
        losses().sum::<f64>() / n,
        losses().fold(0.0, f64::max),
    )
}

fn draw_loss(svg: &mut String, panels: &[Panel]) -> Drawn {
    let title = LINE + 8;
    let height = title + MARGIN + PLOT + BOTTOM;
    let root = blank(svg, height * panels.len() as u32)?;
    let mut stages: Vec<i32> =
        panels.iter().flat_map(|panel| panel.spans.iter().map(|span| span.stage)).collect();
    stages.sort_unstable();
    stages.dedup();

    // One scale for all, so that panels can be compared; decades are drawn as log10.
    let all = || panels.iter().flat_map(Panel::losses);
    let low = all().fold(f64::INFINITY, f64::min).log10();
    let high = all().fold(0.0, f64::max).log10();
    let room = 0.04 * (high - low).max(1.0);
    // Above the highest loss a line stays free for the stages' names.
    let y = low - room..high + 4.0 * room;
    let last = panels.iter().map(Panel::last_step).fold(1.0, f64::max);
    let x = 0.0..1.01 * last;

    for (area, panel) in root.split_evenly((panels.len(), 1)).iter().zip(panels) {
        let (head, area) = area.split_vertically(title);
        head.draw_text(panel.label, &font(17, HPos::Left), (LEFT as i32, 10))?;
        if !panel.evaluated.is_empty() {
            draw_key(&head)?;
        }
        let mut chart = axes(&area, x.clone(), y.clone(), "optimizer step", "loss, nats a token")?;
        step_ticks(&area, &chart, last, y.start)?;
        loss_ticks(&area, &mut chart, &x, &y)?;
        for (index, span) in panel.spans.iter().enumerate() {
            let rank = stages.iter().position(|&stage| stage == span.stage).unwrap_or(0);
            draw_span(&mut chart, span, ramp(rank, stages.len()))?;
            if panel.spans.len() > 1 {
                name_span(&area, &mut chart, span, index > 0, &y)?;
            }
        }
        for &(step, loss) in &panel.evaluated {
            let point = (step, loss.log10());
            chart.draw_series([Circle::new(point, 4, WHITE.filled())])?;
            chart.draw_series([Circle::new(point, 4, INK.stroke_width(2))])?;
        }
    }
    root.present()?;
    Ok(())
}

fn draw_key(head: &Area) -> Drawn {
    let (left, middle) = ((WIDTH - MARGIN) as i32 - 175, 17);
    let text = font(15, HPos::Left).pos(Pos::new(HPos::Left, VPos::Center));
    head.draw(&Circle::new((left, middle), 4, INK.stroke_width(2)))?;
    head.draw_text("on unseen examples", &text, (left + 12, middle))?;
    Ok(())
}

/// Lowest to highest as a pale band, the mean as a line.
fn draw_span(chart: &mut Chart, span: &Span, color: RGBColor) -> Drawn {
    let lows = span.points.iter().map(|&(x, low, ..)| (x, low.log10()));
    let highs = span.points.iter().rev().map(|&(x, _, _, high)| (x, high.log10()));
    let band: Vec<(f64, f64)> = lows.chain(highs).collect();
    chart.draw_series([Polygon::new(band, color.mix(0.2).filled())])?;
    let means = span.points.iter().map(|&(x, _, mean, _)| (x, mean.log10()));
    chart.draw_series(LineSeries::new(means, color.stroke_width(2)))?;
    Ok(())
}

/// The stage's name above its span, where there is room, and a line where it begins.
fn name_span(area: &Area, chart: &mut Chart, span: &Span, boundary: bool, y: &Range<f64>) -> Drawn {
    if boundary {
        let line = [(span.steps.start, y.start), (span.steps.start, y.end)];
        chart.draw_series(DashedLineSeries::new(line, 2, 3, BASELINE.stroke_width(1)))?;
    }
    let name = stage_name(span.stage);
    let (left, top) = local(area, chart.backend_coord(&(span.steps.start, y.end)));
    let (right, _) = local(area, chart.backend_coord(&(span.steps.end, y.end)));
    if right - left > 10 * name.len() as i32 {
        area.draw_text(&name, &font(15, HPos::Center), ((left + right) / 2, top + 4))?;
    }
    Ok(())
}

/// Labels at 1, 2 and 5 times powers of ten, with a grid line each; fewer where there are many decades.
fn loss_ticks(area: &Area, chart: &mut Chart, x: &Range<f64>, y: &Range<f64>) -> Drawn {
    let decades = y.end - y.start;
    let digits: &[f64] = match decades {
        d if d > 3.0 => &[1.0],
        d if d > 0.7 => &[1.0, 2.0, 5.0],
        _ => &[1.0, 1.2, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 8.0],
    };
    let every = (decades / 8.0).ceil() as usize;
    for power in (y.start.floor() as i32..=y.end.ceil() as i32).step_by(every) {
        for digit in digits {
            let value = digit * 10f64.powi(power);
            let height = value.log10();
            if !y.contains(&height) {
                continue;
            }
            let line = vec![(x.start, height), (x.end, height)];
            chart.draw_series([PathElement::new(line, GRID)])?;
            let (left, middle) = local(area, chart.backend_coord(&(x.start, height)));
            let text = font(17, HPos::Right).pos(Pos::new(HPos::Right, VPos::Center));
            area.draw_text(&short(value), &text, (left - 8, middle))?;
        }
    }
    Ok(())
}

/// Up to eight labels at round numbers of steps.
fn step_ticks(area: &Area, chart: &Chart, last: f64, y: f64) -> Drawn {
    let power = 10f64.powf((last / 5.0).log10().floor()).max(1.0);
    let every = [1.0, 2.0, 5.0, 10.0].map(|digit| digit * power);
    let every = every.into_iter().find(|every| last / every <= 7.0).unwrap_or(last);
    let mut step = 0.0;
    while step <= last {
        let (middle, bottom) = local(area, chart.backend_coord(&(step, y)));
        area.draw_text(&short(step), &font(17, HPos::Center), (middle, bottom + 8))?;
        step += every;
    }
    Ok(())
}

/// `0.002`, `3`, `1500`, `20k`.
fn short(value: f64) -> String {
    if value >= 10_000.0 {
        format!("{}k", value / 1000.0)
    } else {
        // Six digits after the point drop what floating point added to a round number.
        format!("{}", (value * 1e6).round() / 1e6)
    }
}

/// The colour of the `rank`-th of `count` stages.
fn ramp(rank: usize, count: usize) -> RGBColor {
    let place = rank as f64 / (count.max(2) - 1) as f64 * (RAMP.len() - 1) as f64;
    let low = (place as usize).min(RAMP.len() - 2);
    let part = place - low as f64;
    let mix = |a: u8, b: u8| (f64::from(a) * (1.0 - part) + f64::from(b) * part).round() as u8;
    let (a, b) = (RAMP[low], RAMP[low + 1]);
    RGBColor(mix(a.0, b.0), mix(a.1, b.1), mix(a.2, b.2))
}

// --- shared ---------------------------------------------------------------------------------------

fn blank(svg: &mut String, height: u32) -> Drawn<Area<'_>> {
    let root = SVGBackend::with_string(svg, (WIDTH, height)).into_drawing_area();
    root.fill(&WHITE)?;
    Ok(root)
}

/// Axes with their names; tick labels on the left unless `y` is logarithmic, those below are the caller's.
fn axes<'a>(
    area: &Area<'a>,
    x: Range<f64>,
    y: Range<f64>,
    x_name: &str,
    y_name: &str,
) -> Drawn<Chart<'a>> {
    let logarithmic = y_name.starts_with("loss");
    let mut chart = ChartBuilder::on(area)
        .margin_top(MARGIN)
        .margin_right(MARGIN)
        .x_label_area_size(BOTTOM)
        .y_label_area_size(LEFT)
        .build_cartesian_2d(x, y)?;
    chart
        .configure_mesh()
        .disable_x_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(if logarithmic { TRANSPARENT } else { GRID.to_rgba() })
        .axis_style(INK)
        .x_labels(0)
        .y_labels(if logarithmic { 0 } else { 6 })
        .y_label_formatter(&|value| short(*value))
        .label_style(font(17, HPos::Left))
        .draw()?;
    let (width, height) = area.dim_in_pixel();
    let middle_x = (LEFT + (width - LEFT - MARGIN) / 2) as i32;
    let middle_y = (MARGIN + (height - MARGIN - BOTTOM) / 2) as i32;
    area.draw_text(x_name, &font(18, HPos::Center), (middle_x, (height - 22) as i32))?;
    let upright = font(18, HPos::Center).transform(FontTransform::Rotate270);
    area.draw_text(y_name, &upright, (8, middle_y))?;
    Ok(chart)
}

/// Text `size` units high; it hangs below its point unless told otherwise.
fn font(size: u32, to: HPos) -> TextStyle<'static> {
    TextStyle::from(("sans-serif", f64::from(size) * 1.24).into_font())
        .color(&INK)
        .pos(Pos::new(to, VPos::Top))
}

/// A place of the whole figure as one of this part of it.
fn local(area: &Area, (x, y): (i32, i32)) -> (i32, i32) {
    let (left, top) = area.get_base_pixel();
    (x - left, y - top)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trained(step: u64, stage: i32, loss: f64) -> Record {
        Record::new(step, 0, stage).with("loss", loss)
    }

    #[test]
    fn a_panel_breaks_where_the_stage_changes_and_keeps_evaluations_apart() {
        let records = [
            trained(1, -1, 4.0),
            trained(2, -1, 2.0),
            Record::new(2, 0, -1).with("eval/loss", 3.0),
            trained(3, 0, 0.0),
            trained(4, 0, f64::NAN),
        ];
        let panel = Panel::new(&Curve { label: "run", records: &records }).unwrap();
        let spans: Vec<_> =
            panel.spans.iter().map(|s| (s.stage, s.steps.clone(), s.points.clone())).collect();
        let first = vec![(1.0, 4.0, 4.0, 4.0), (2.0, 2.0, 2.0, 2.0)];
        // A loss of zero is held above zero for the logarithm; one that is no number is left out.
        let second = vec![(3.0, 1e-6, 1e-6, 1e-6)];
        assert_eq!(spans, [(-1, 1.0..2.0, first), (0, 3.0..3.0, second)]);
        assert_eq!(panel.evaluated, [(2.0, 3.0)]);
        assert!(Panel::new(&Curve { label: "run", records: &records[2..3] }).is_none());
    }

    #[test]
    fn long_runs_are_drawn_in_buckets() {
        // 480 steps in 240 buckets of two: losses 1 and 3, mean 2.
        let records: Vec<Record> =
            (1..=480).map(|step| trained(step, 0, if step % 2 == 1 { 1.0 } else { 3.0 })).collect();
        let panel = Panel::new(&Curve { label: "run", records: &records }).unwrap();
        assert_eq!(panel.spans[0].points.len(), 240);
        assert_eq!(panel.spans[0].points[1], (3.5, 1.0, 2.0, 3.0));
    }

    #[test]
    fn numbers_on_axes_are_short() {
        let shown = [0.05, 3.0, 0.1 + 0.2, 1500.0, 20_000.0].map(short);
        assert_eq!(shown, ["0.05", "3", "0.3", "1500", "20k"]);
    }

    #[test]
    fn the_colours_of_stages_run_from_first_to_last() {
        let same = |a: RGBColor, b: RGBColor| (a.0, a.1, a.2) == (b.0, b.1, b.2);
        assert!(
            same(ramp(0, 3), RAMP[0]) && same(ramp(1, 3), RAMP[2]) && same(ramp(2, 3), RAMP[4])
        );
        assert!(same(ramp(0, 1), RAMP[0]));
    }
}
