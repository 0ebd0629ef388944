//! Training curves, coloured by stage.

use super::*;
use crate::report::stage_name;
use crate::run::Record;

/// Dark to light (viridis, its light end made darker to stand on white), for stages in order.
const RAMP: [RGBColor; 5] = [
    RGBColor(0x44, 0x01, 0x54),
    RGBColor(0x3b, 0x52, 0x8b),
    RGBColor(0x21, 0x91, 0x8c),
    RGBColor(0x45, 0xa8, 0x5c),
    RGBColor(0x8a, 0xa5, 0x12),
];

/// The training of one run, for [`loss`].
#[derive(Clone, Copy, Debug)]
pub struct Curve<'a> {
    /// The panel's title.
    pub label: &'a str,
    /// The run's metrics, steps ascending.
    pub records: &'a [Record],
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

/// The colour of the `rank`-th of `count` stages.
fn ramp(rank: usize, count: usize) -> RGBColor {
    let place = rank as f64 / (count.max(2) - 1) as f64 * (RAMP.len() - 1) as f64;
    let low = (place as usize).min(RAMP.len() - 2);
    let part = place - low as f64;
    let mix = |a: u8, b: u8| (f64::from(a) * (1.0 - part) + f64::from(b) * part).round() as u8;
    let (a, b) = (RAMP[low], RAMP[low + 1]);
    RGBColor(mix(a.0, b.0), mix(a.1, b.1), mix(a.2, b.2))
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
    fn the_colours_of_stages_run_from_first_to_last() {
        let same = |a: RGBColor, b: RGBColor| (a.0, a.1, a.2) == (b.0, b.1, b.2);
        assert!(
            same(ramp(0, 3), RAMP[0]) && same(ramp(1, 3), RAMP[2]) && same(ramp(2, 3), RAMP[4])
        );
        assert!(same(ramp(0, 1), RAMP[0]));
    }
}
