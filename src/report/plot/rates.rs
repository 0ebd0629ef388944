//! Rates against a number, with their intervals.

use super::*;
use crate::stats::Rate;

/// Curves of rates, in percent, against whole numbers from 0 on: each a name and its points. `None` without a point.
pub fn rates(curves: &[(String, Vec<(f64, Rate)>)], x_name: &str, y_name: &str) -> Option<String> {
    marked(curves, (x_name, y_name), None)
}

/// The same, with a dashed line at one number.
pub(crate) fn marked(
    curves: &[(String, Vec<(f64, Rate)>)],
    names: (&str, &str),
    marked: Option<f64>,
) -> Option<String> {
    let points = curves.iter().flat_map(|(_, points)| points);
    let last = points.map(|(x, _)| *x).fold(f64::NEG_INFINITY, f64::max);
    let draw = || drawn(|svg| draw_curves(svg, curves, 0.0..last.max(1.0), names, marked));
    last.is_finite().then(draw).flatten()
}

fn draw_curves(
    svg: &mut String,
    curves: &[(String, Vec<(f64, Rate)>)],
    x: Range<f64>,
    (x_name, y_name): (&str, &str),
    marked: Option<f64>,
) -> Drawn {
    let legend = LINE * curves.len() as u32 + 8;
    let root = blank(svg, legend + MARGIN + PLOT + BOTTOM)?;
    let (top, area) = root.split_vertically(legend);
    for (number, (name, _)) in curves.iter().enumerate() {
        let middle = (LINE * number as u32 + LINE / 2 + 4) as i32;
        let line = vec![(MARGIN as i32, middle), (MARGIN as i32 + 34, middle)];
        top.draw(&PathElement::new(line, COLORS[number].stroke_width(3)))?;
        let text = font(17, HPos::Left).pos(Pos::new(HPos::Left, VPos::Center));
        top.draw_text(name, &text, (MARGIN as i32 + 44, middle))?;
    }
    let mut chart = axes(&area, x.start - 0.3..x.end + 0.3, 0.0..103.0, x_name, y_name)?;
    let every = (x.end as usize).div_ceil(16).max(1);
    for tick in (0..=x.end as usize).step_by(every) {
        let (left, bottom) = local(&area, chart.backend_coord(&(tick as f64, 0.0)));
        area.draw_text(&tick.to_string(), &font(17, HPos::Center), (left, bottom + 8))?;
    }
    if let Some(marked) = marked {
        let line = [(marked, 0.0), (marked, 103.0)];
        chart.draw_series(DashedLineSeries::new(line, 7, 5, BASELINE.stroke_width(1)))?;
    }
    for (number, (_, points)) in curves.iter().enumerate() {
        let color = COLORS[number % COLORS.len()];
        let percent = |rate: &Rate| 100.0 * rate.rate().unwrap_or(0.0);
        for (x, rate) in points {
            if let Some([low, high]) = rate.interval() {
                let bar = vec![(*x, 100.0 * low), (*x, 100.0 * high)];
                chart.draw_series([PathElement::new(bar, color.stroke_width(1))])?;
            }
            chart.draw_series([Circle::new((*x, percent(rate)), 4, color.filled())])?;
        }
        let line = points.iter().map(|(x, rate)| (*x, percent(rate)));
        chart.draw_series(LineSeries::new(line, color.stroke_width(2)))?;
    }
    root.present()?;
    Ok(())
}
