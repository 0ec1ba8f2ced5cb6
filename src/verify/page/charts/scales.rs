//! Static activation scales: visual against text, one point per linear, and the linears where they differ most.

use super::{Cell, Figure, HALF, Key, Table, at_widths, component, heads, key};
use crate::verify::page::axis::{Axis, tame, tick};
use crate::verify::page::svg::{Anchor, Shape, Svg};
use crate::verify::report::ScalePair;
use crate::verify::words::{number, shortened};

const TITLE: &str = "Activation scales by modality";
/// What stands around the plot: left, top, right, bottom.
const AROUND: (f64, f64, f64, f64) = (54.0, 26.0, 10.0, 42.0);
/// Marks of components, in order of their first linear.
const MARKS: [(Shape, &str); 3] =
    [(Shape::Circle, "dot-a"), (Shape::Diamond, "dot-b"), (Shape::Triangle, "dot-c")];
/// Rows of the table beside the chart.
const MOST: usize = 12;

/// A linear that can be drawn on logarithmic axes.
struct Point<'a> {
    role: &'a str,
    text: f64,
    visual: f64,
    mark: usize,
}

fn components(pairs: &[ScalePair]) -> Vec<&str> {
    pairs.iter().map(|p| component(&p.role)).fold(vec![], |mut seen, c| {
        if !seen.contains(&c) {
            seen.push(c);
        }
        seen
    })
}

fn points(pairs: &[ScalePair]) -> Vec<Point<'_>> {
    let components = components(pairs);
    let positive = |x: f32| tame(f64::from(x)).filter(|x| *x > 0.0);
    let point = |p: &'_ ScalePair| {
        let mark = components.iter().position(|c| *c == component(&p.role)).unwrap_or(0);
        Some((positive(p.text)?, positive(p.visual)?, mark))
    };
    pairs
        .iter()
        .filter_map(|p| point(p).map(|(text, visual, mark)| Point { role: &p.role, text, visual, mark }))
        .collect()
}

/// The scatter.
pub fn scales(pairs: &[ScalePair]) -> Figure {
    let points = points(pairs);
    let left_out = match pairs.len() - points.len() {
        0 => String::new(),
        n => format!(" {n} without a positive scale are left out."),
    };
    let mut legend: Vec<Key> = components(pairs)
        .iter()
        .enumerate()
        .map(|(i, c)| key(MARKS[i % MARKS.len()].0, MARKS[i % MARKS.len()].1, None, &shortened(c, 24)))
        .collect();
    let mut sign = Svg::sign((26.0, 12.0));
    sign.line("diagonal", (3.0, 11.0), (23.0, 1.0));
    legend.push(Key {
        sign: minijinja::Value::from_safe_string(sign.finish()),
        text: "both scales equal".into(),
    });
    Figure {
        id: "scales",
        title: TITLE.into(),
        caption: format!(
            "One point per linear with static int8 activations, both axes logarithmic. On the line one scale serves both modalities; above it, visual \
             rows need the larger one.{left_out}"
        ),
        legend: if points.is_empty() { vec![] } else { legend },
        drawings: if points.is_empty() {
            vec![]
        } else {
            at_widths("scales", HALF, |id, width| draw(id, width, &points))
        },
        empty: "The artifact has no static activation scales.".into(),
        table: (!pairs.is_empty()).then(|| table(pairs.iter(), "All static scales, in graph order")),
    }
}

fn draw(id: &str, width: f64, points: &[Point<'_>]) -> String {
    let height = 0.86 * width;
    let (left, top, right, bottom) = (AROUND.0, AROUND.1, width - AROUND.2, height - AROUND.3);
    let above = points.iter().filter(|p| p.visual > p.text).count();
    let head = format!("{} linears; in {above} of them visual rows have the larger scale", points.len());
    let mut svg = Svg::new(id, TITLE, &head, (width, height));
    // One range for both, so that the diagonal means the same everywhere.
    let all = || points.iter().flat_map(|p| [p.text, p.visual]);
    let (Some(across), Some(up)) = (Axis::log(all(), (left, right), 5), Axis::log(all(), (bottom, top), 5))
    else {
        return svg.finish();
    };
    for t in &across.ticks {
        svg.line("grid", (across.at(*t), top), (across.at(*t), bottom));
        svg.line("grid", (left, up.at(*t)), (right, up.at(*t)));
        svg.text("tick", (left - 6.0, up.at(*t) + 4.0), Anchor::End, &tick(*t));
    }
    // Labels below may be wider than their steps: every second one then.
    let stride = if (right - left) / (across.ticks.len() as f64) < 42.0 { 2 } else { 1 };
    for t in across.ticks.iter().step_by(stride) {
        let x = across.at(*t);
        let anchor = if x > right - 12.0 { Anchor::End } else { Anchor::Middle };
        svg.text("tick", (if anchor == Anchor::End { width } else { x }, bottom + 16.0), anchor, &tick(*t));
    }
    svg.text("axis", (0.0, 12.0), Anchor::Start, "visual scale");
    svg.text("axis", (0.5 * (left + right), height - 4.0), Anchor::Middle, "text scale");
    svg.line("diagonal", (left, bottom), (right, top));
    for p in points {
        let (shape, class) = MARKS[p.mark % MARKS.len()];
        let title = format!("{}: visual {}, text {}", p.role, number(p.visual), number(p.text));
        svg.mark(shape, class, (across.at(p.text), up.at(p.visual)), 4.0, &title);
    }
    svg.finish()
}

/// The linears whose scales differ most, by the ratio of the larger to the smaller; absent where no two differ.
pub fn ratios(pairs: &[ScalePair]) -> Option<Table> {
    let ratio = |p: &&ScalePair| ratio(p).map_or(0.0, |r: f64| r.max(r.recip()));
    let mut differing: Vec<&ScalePair> = pairs.iter().filter(|p| ratio(p) > 1.0).collect();
    differing.sort_by(|a, b| ratio(b).total_cmp(&ratio(a)));
    let caption = "Linears whose scales differ most";
    (!differing.is_empty()).then(|| table(differing.into_iter().take(MOST), caption))
}

fn ratio(pair: &ScalePair) -> Option<f64> {
    tame(f64::from(pair.visual) / f64::from(pair.text)).filter(|r| *r > 0.0)
}

fn table<'a>(pairs: impl Iterator<Item = &'a ScalePair>, caption: &str) -> Table {
    let cells = |p: &ScalePair| {
        let scales = [p.visual, p.text].map(|x| Cell::number(Some(f64::from(x)), number));
        let ratio = Cell::number(ratio(p), |r| format!("{}\u{d7}", number(r)));
        [Cell::text(&p.role)].into_iter().chain(scales).chain([ratio]).collect()
    };
    Table {
        caption: caption.into(),
        heads: heads(&["linear", "#visual", "#text", "#visual / text"]),
        rows: pairs.map(cells).collect(),
    }
}
