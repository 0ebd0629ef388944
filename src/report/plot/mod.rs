//! The figures, as SVG text: accuracy and tokens by stage, training curves, and (in `sweep`) one row a variant.
//!
//! They are drawn narrow, with large text, so that they stay readable on a phone; each series has its own marker
//! and each stage its own span, so that nothing depends on colour alone.

mod accuracy;
pub(crate) mod audit;
mod loss;
mod rates;

pub use accuracy::accuracy;
pub use loss::{Curve, loss};
pub use rates::rates;

use plotters::coord::Shift;
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use plotters::style::{FontTransform, RGBColor};
use std::ops::Range;

/// Width of every figure, in pixels.
pub(crate) const WIDTH: u32 = 560;
/// Height of one panel's plot, in pixels.
pub(crate) const PLOT: u32 = 220;
/// Left of the plot: tick labels and the axis' name.
pub(crate) const LEFT: u32 = 78;
/// Below the plot: tick labels and the axis' name.
pub(crate) const BOTTOM: u32 = 52;
/// Right of and above the plot.
pub(crate) const MARGIN: u32 = 16;
/// Height of a line of text in a legend.
pub(crate) const LINE: u32 = 24;

pub(crate) const INK: RGBColor = RGBColor(0x22, 0x22, 0x22);
pub(crate) const GRID: RGBColor = RGBColor(0xdd, 0xdd, 0xdd);
pub(crate) const BASELINE: RGBColor = RGBColor(0x66, 0x66, 0x66);
/// Told apart with any colour vision (Okabe and Ito 2008), the light yellow left out.
pub(crate) const COLORS: [RGBColor; 7] = [
    RGBColor(0x00, 0x72, 0xb2),
    RGBColor(0xd5, 0x5e, 0x00),
    RGBColor(0x00, 0x9e, 0x73),
    RGBColor(0xaa, 0x44, 0x88),
    RGBColor(0x00, 0x00, 0x00),
    RGBColor(0x56, 0xb4, 0xe9),
    RGBColor(0xe6, 0x9f, 0x00),
];

pub(crate) type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
pub(crate) type Chart<'a> =
    ChartContext<'a, SVGBackend<'a>, Cartesian2d<RangedCoordf64, RangedCoordf64>>;
/// Drawing into memory fails only through a fault in this file.
pub(crate) type Drawn<T = ()> = Result<T, Box<dyn std::error::Error>>;

pub(crate) fn drawn(draw: impl FnOnce(&mut String) -> Drawn) -> Option<String> {
    let mut svg = String::new();
    match draw(&mut svg) {
        Ok(()) => Some(svg),
        Err(error) => {
            tracing::warn!("a figure is left out, it could not be drawn: {error}");
            None
        }
    }
}

/// `0.002`, `3`, `1500`, `20k`.
pub(crate) fn short(value: f64) -> String {
    if value >= 10_000.0 {
        format!("{}k", value / 1000.0)
    } else {
        // Six digits after the point drop what floating point added to a round number.
        format!("{}", (value * 1e6).round() / 1e6)
    }
}

pub(crate) fn blank(svg: &mut String, height: u32) -> Drawn<Area<'_>> {
    let root = SVGBackend::with_string(svg, (WIDTH, height)).into_drawing_area();
    root.fill(&WHITE)?;
    Ok(root)
}

/// Axes with their names; tick labels on the left unless `y` is logarithmic, those below are the caller's.
pub(crate) fn axes<'a>(
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
pub(crate) fn font(size: u32, to: HPos) -> TextStyle<'static> {
    TextStyle::from(("sans-serif", f64::from(size) * 1.24).into_font())
        .color(&INK)
        .pos(Pos::new(to, VPos::Top))
}

/// A place of the whole figure as one of this part of it.
pub(crate) fn local(area: &Area, (x, y): (i32, i32)) -> (i32, i32) {
    let (left, top) = area.get_base_pixel();
    (x - left, y - top)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_on_axes_are_short() {
        let shown = [0.05, 3.0, 0.1 + 0.2, 1500.0, 20_000.0].map(short);
        assert_eq!(shown, ["0.05", "3", "0.3", "1500", "20k"]);
    }
}
