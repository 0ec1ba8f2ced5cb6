//! Rows of bars: a label and a number above each, intervals as whiskers, limits as marks, one axis below all. Where values differ by more than a
//! factor of 100 the axis is logarithmic and values are points, as a bar has no beginning there.

use crate::verify::page::axis::{Axis, percent_tick, tick};
use crate::verify::page::svg::{Anchor, Shape, Svg};
use crate::verify::words::shortened;

/// A row.
pub struct Row {
    /// What it is.
    pub label: String,
    /// Its number, as a text at the right.
    pub text: String,
    /// What follows the number where there is room.
    pub more: String,
    /// Where the bar begins and ends; absent where there is no number.
    pub span: Option<(f64, f64)>,
    /// Ends of the interval.
    pub ends: Option<(f64, f64)>,
    /// A limit and how it is told.
    pub limit: Option<(f64, String)>,
    /// Class of the bar.
    pub class: &'static str,
}

/// The axis below.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Below {
    /// Shares from 0 to 100 %.
    Shares,
    /// Numbers from zero, or logarithmic where they differ by more than a factor of 100.
    Fitting,
    /// Numbers from zero; each row begins where the one above ended.
    Steps,
}

const BAR: (f64, f64) = (20.0, 35.0);
const ROW: f64 = 46.0;
/// What a limit's label adds to a row.
const LIMIT: f64 = 14.0;
const BOTTOM: f64 = 24.0;
/// From this width on there is room for a label, a number and its interval in one line.
const ROOMY: f64 = 400.0;
/// Width of a character, generously: SVG cannot measure.
const CHARACTER: f64 = 8.5;

/// The drawing. `head` is its id, title and description.
pub fn draw((id, title, description): (&str, &str, &str), width: f64, rows: &[Row], below: Below) -> String {
    let mut bottom = 0.0;
    let top = |row: &Row| {
        let top = bottom;
        bottom += if row.limit.is_some() { ROW + LIMIT } else { ROW };
        top
    };
    let tops: Vec<f64> = rows.iter().map(top).collect();
    let mut svg = Svg::new(id, title, description, (width, bottom + BOTTOM));
    let axis = axis(rows, width, below);
    grid(&mut svg, &axis, bottom, width, below);
    for (i, (row, top)) in rows.iter().zip(&tops).enumerate() {
        let value = if width < ROOMY { row.text.clone() } else { format!("{}{}", row.text, row.more) };
        let room = width / CHARACTER - value.chars().count() as f64;
        svg.text("label", (0.0, top + 13.0), Anchor::Start, &shortened(&row.label, room.max(1.0) as usize));
        svg.text("value", (width, top + 13.0), Anchor::End, &value);
        bar(&mut svg, &axis, row, *top);
        if let (Below::Steps, Some((_, to)), Some(next)) = (below, row.span, tops.get(i + 1)) {
            svg.line("joint", (axis.at(to), top + BAR.1), (axis.at(to), next + BAR.0));
        }
    }
    svg.finish()
}

fn axis(rows: &[Row], width: f64, below: Below) -> Axis {
    let ends = (1.0, width - 1.0);
    let count = if width < ROOMY { 4 } else { 6 };
    let whiskers = rows.iter().filter_map(|r| r.ends).flat_map(|(low, high)| [low, high]);
    let limits = rows.iter().filter_map(|r| r.limit.as_ref().map(|l| l.0));
    let values: Vec<f64> = rows
        .iter()
        .filter_map(|r| r.span)
        .flat_map(|(from, to)| [from, to])
        .chain(whiskers)
        .chain(limits)
        .collect();
    match below {
        Below::Shares => Axis::linear(values.into_iter().chain([1.0]), ends, count),
        Below::Fitting => Axis::fitting(&values, ends, count),
        Below::Steps => Axis::linear(values, ends, count),
    }
}

fn grid(svg: &mut Svg, axis: &Axis, bottom: f64, width: f64, below: Below) {
    for t in &axis.ticks {
        let x = axis.at(*t);
        svg.line("grid", (x, 0.0), (x, bottom));
        let label = if below == Below::Shares { percent_tick(*t) } else { tick(*t) };
        let anchor = match x {
            x if x < 8.0 => Anchor::Start,
            x if x > width - 8.0 => Anchor::End,
            _ => Anchor::Middle,
        };
        let x = if anchor == Anchor::Middle { x } else { x.round() };
        svg.text("tick", (x, bottom + 15.0), anchor, &label);
    }
}

fn bar(svg: &mut Svg, axis: &Axis, row: &Row, top: f64) {
    let (upper, lower) = (top + BAR.0, top + BAR.1);
    let middle = 0.5 * (upper + lower);
    let title = format!("{}: {}{}", row.label, row.text, row.more);
    if let (false, Some((from, to))) = (axis.is_log(), row.span) {
        svg.rectangle(row.class, (axis.at(from), upper), (axis.at(to), lower), &title);
    }
    if axis.is_log() {
        svg.line("track", (axis.at(0.0), middle), (axis.at(f64::MAX), middle));
    }
    if let Some((low, high)) = row.ends {
        let (low, high) = (axis.at(low), axis.at(high));
        for class in ["halo", "whisker"] {
            svg.line(class, (low, middle), (high, middle));
            svg.line(class, (low, middle - 4.5), (low, middle + 4.5));
            svg.line(class, (high, middle - 4.5), (high, middle + 4.5));
        }
    }
    if let (true, Some((_, to))) = (axis.is_log(), row.span) {
        svg.mark(Shape::Circle, row.class, (axis.at(to), middle), 5.0, &title);
    }
    if let Some((limit, text)) = &row.limit {
        let x = axis.at(*limit);
        svg.line("limit", (x, upper - 3.0), (x, lower + 4.0));
        let third = (axis.at(f64::MAX) - 1.0) / 3.0;
        let anchor = match x {
            x if x < third => Anchor::Start,
            x if x > 2.0 * third => Anchor::End,
            _ => Anchor::Middle,
        };
        svg.text("limit-text", (x, lower + 16.0), anchor, text);
    }
}
