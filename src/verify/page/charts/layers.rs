//! The error that each layer adds by itself, on visual and on text rows, in graph order.

use super::{Cell, FULL, Figure, Table, at_widths, component, heads, key};
use crate::verify::page::axis::{Axis, percent_tick, tame};
use crate::verify::page::svg::{Anchor, Shape, Svg};
use crate::verify::report::LayerGap;
use crate::verify::words::percent;

const TITLE: &str = "Error by layer";
/// What stands around the plot: left, top, right, bottom.
const AROUND: (f64, f64, f64, f64) = (58.0, 24.0, 8.0, 42.0);
/// Width of a character of a label, generously: SVG cannot measure.
const CHARACTER: f64 = 8.5;
/// Room for the number of a layer, of up to three digits.
const LABEL: f64 = 30.0;
/// Every how many layers a number may stand.
const ROUND: [u32; 10] = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000];

/// A line of the chart.
struct Series {
    name: &'static str,
    shape: Shape,
    mark: &'static str,
    line: &'static str,
    of: fn(&LayerGap) -> Option<f64>,
}

const SERIES: [Series; 2] = [
    Series {
        name: "visual rows",
        shape: Shape::Circle,
        mark: "dot-visual",
        line: "line-visual",
        of: |l| l.visual,
    },
    Series { name: "text rows", shape: Shape::Diamond, mark: "dot-text", line: "line-text", of: |l| l.text },
];

/// Relative error of the result of each half of a layer, its input being the float model's.
pub fn layers(gaps: &[LayerGap]) -> Figure {
    let values: Vec<f64> =
        gaps.iter().flat_map(|l| SERIES.iter().filter_map(|s| (s.of)(l)).filter_map(tame)).collect();
    let cells = |l: &LayerGap| {
        let numbers = SERIES.iter().map(|s| Cell::number((s.of)(l), percent));
        let hidden = [
            Cell::number(l.hidden.map(|h| h.relative_error), percent),
            Cell::number(l.hidden.map(|h| h.cosine), |x| format!("{x:.6}")),
        ];
        [Cell::text(&l.name)].into_iter().chain(numbers).chain(hidden).collect()
    };
    let legend = SERIES.iter().map(|s| key(s.shape, s.mark, Some(s.line), s.name));
    let drawn = !values.is_empty();
    Figure {
        id: "layers",
        title: TITLE.into(),
        caption: "Relative error of what each half of a layer computes when its input is the float model's, in graph order. The axis is logarithmic where \
                  errors differ by more than a factor of 100. The numbers also have the hidden state with everything before it quantized."
            .into(),
        legend: if drawn { legend.collect() } else { vec![] },
        drawings: if drawn { at_widths("layers", FULL, |id, width| draw(id, width, gaps, &values)) } else { vec![] },
        empty: "No layer was measured.".into(),
        table: (!gaps.is_empty()).then(|| Table {
            caption: TITLE.into(),
            heads: heads(&["layer", "#visual rows", "#text rows", "#hidden state", "#cosine"]),
            rows: gaps.iter().map(cells).collect(),
        }),
    }
}

fn draw(id: &str, width: f64, gaps: &[LayerGap], values: &[f64]) -> String {
    let height = if width < 400.0 { 240.0 } else { 320.0 };
    let (left, top, right, bottom) = (AROUND.0, AROUND.1, width - AROUND.2, height - AROUND.3);
    let worst = gaps.iter().filter_map(|l| Some((largest(l)?, l))).max_by(|a, b| a.0.total_cmp(&b.0));
    let worst =
        worst.map_or_else(String::new, |(x, l)| format!("; the largest is {} at {}", percent(x), l.name));
    let mut svg =
        Svg::new(id, TITLE, &format!("{} results in graph order{worst}", gaps.len()), (width, height));
    let axis = Axis::fitting(values, (bottom, top), 5);
    for t in &axis.ticks {
        let y = axis.at(*t);
        svg.line("grid", (left, y), (right, y));
        svg.text("tick", (left - 6.0, y + 4.0), Anchor::End, &percent_tick(*t));
    }
    let step = (right - left) / gaps.len() as f64;
    let x = |i: usize| left + (i as f64 + 0.5) * step;
    bands(&mut svg, gaps, (left, top, bottom), step);
    numbers(&mut svg, gaps, x, bottom);
    svg.text("tick", (0.5 * (left + right), height - 4.0), Anchor::Middle, "layer, in graph order");
    let size = (0.45 * step).clamp(1.4, 4.0);
    for series in &SERIES {
        let point = |(i, l): (usize, &LayerGap)| Some((x(i), axis.at((series.of)(l).and_then(tame)?)));
        let points: Vec<Option<(f64, f64)>> = gaps.iter().enumerate().map(point).collect();
        for run in points.split(Option::is_none) {
            svg.polyline(series.line, &run.iter().flatten().copied().collect::<Vec<_>>());
        }
        for (l, point) in gaps.iter().zip(&points) {
            if let (Some(point), Some(value)) = (point, (series.of)(l)) {
                let title = format!("{}, {}: {}", l.name, series.name, percent(value));
                svg.mark(series.shape, series.mark, *point, size, &title);
            }
        }
    }
    svg.finish()
}

fn largest(gap: &LayerGap) -> Option<f64> {
    gap.visual.into_iter().chain(gap.text).filter_map(tame).max_by(f64::total_cmp)
}

/// Lines between components, and their names where there is room.
fn bands(svg: &mut Svg, gaps: &[LayerGap], (left, top, bottom): (f64, f64, f64), step: f64) {
    let mut start = 0;
    for band in gaps.chunk_by(|a, b| component(&a.name) == component(&b.name)) {
        let (from, to) = (left + start as f64 * step, left + (start + band.len()) as f64 * step);
        if start > 0 {
            svg.line("band", (from, top - 18.0), (from, bottom));
        }
        let name = component(&band[0].name);
        if name.chars().count() as f64 * CHARACTER < to - from {
            svg.text("band-text", (0.5 * (from + to), top - 10.0), Anchor::Middle, name);
        }
        start += band.len();
    }
}

/// Numbers of layers below the plot, as many as there is room for.
fn numbers(svg: &mut Svg, gaps: &[LayerGap], x: impl Fn(usize) -> f64, bottom: f64) {
    let number = |l: &LayerGap| l.name.split('.').find_map(|part| part.parse::<u32>().ok());
    let ends = x(gaps.len() - 1);
    let layers = gaps.chunk_by(|a, b| number(a) == number(b) && component(&a.name) == component(&b.name));
    let room = (ends - x(0)) / layers.clone().count() as f64;
    let needed = ROUND.into_iter().find(|n| f64::from(*n) * room >= LABEL).unwrap_or(u32::MAX);
    let (mut i, mut free) = (0, f64::NEG_INFINITY);
    for layer in layers {
        let round = number(&layer[0]).filter(|n| n % needed == 0);
        if let Some(n) = round.filter(|_| x(i) > free && x(i) + 0.4 * LABEL < ends + AROUND.2) {
            svg.text("tick", (x(i), bottom + 16.0), Anchor::Middle, &n.to_string());
            free = x(i) + 0.8 * LABEL;
        }
        i += layer.len();
    }
}
