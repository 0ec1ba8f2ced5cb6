//! The page's charts: each is a figure with drawings for several widths, of which the style sheet shows one, and its numbers as a table.

mod bars;
mod gap;
mod layers;
mod quality;
mod scales;

use minijinja::Value;
use serde::Serialize;

use super::svg::{Shape, Svg};
pub use gap::{causes, components};
pub use layers::layers;
pub use quality::{agreement, divergence};
pub use scales::{ratios, scales};

/// A chart as the page shows it.
#[derive(Debug, Serialize)]
pub struct Figure {
    /// Unique in the page.
    pub id: &'static str,
    /// Heading.
    pub title: String,
    /// What it shows and how to read it.
    pub caption: String,
    /// What marks and lines mean; empty where labels say it.
    pub legend: Vec<Key>,
    /// The drawing at several widths; empty where there is nothing to draw.
    pub drawings: Vec<Drawing>,
    /// Why there is nothing to draw.
    pub empty: String,
    /// The numbers.
    pub table: Option<Table>,
}

/// A drawing for one range of widths.
#[derive(Debug, Serialize)]
pub struct Drawing {
    /// Class by which the style sheet shows or hides it.
    pub class: &'static str,
    /// The element.
    pub svg: Value,
}

/// An entry of a legend.
#[derive(Debug, Serialize)]
pub struct Key {
    /// A small drawing of the mark.
    pub sign: Value,
    /// What it means.
    pub text: String,
}

/// A table of texts and numbers.
#[derive(Debug, Serialize)]
pub struct Table {
    /// What it holds, for those who do not see it.
    pub caption: String,
    /// Heads of the columns; whether they hold numbers.
    pub heads: Vec<(String, bool)>,
    /// Rows of cells.
    pub rows: Vec<Vec<Cell>>,
}

/// A cell.
#[derive(Debug, Serialize)]
pub struct Cell {
    /// As people read it.
    pub text: String,
    /// What rows are sorted by; absent: the text.
    pub key: Option<f64>,
}

impl Cell {
    /// A text.
    pub fn text(text: impl Into<String>) -> Self {
        Self { text: text.into(), key: None }
    }

    /// A number, told by `tell`; empty where there is none.
    pub fn number(x: Option<f64>, tell: impl Fn(f64) -> String) -> Self {
        Self { text: x.map_or_else(String::new, tell), key: x.filter(|x| x.is_finite()) }
    }
}

/// Heads of a table: those that begin with `#` hold numbers.
pub fn heads(names: &[&str]) -> Vec<(String, bool)> {
    names.iter().map(|n| (n.trim_start_matches('#').to_string(), n.starts_with('#'))).collect()
}

/// Widths of charts that share a row with another one.
const HALF: &[(&str, f64)] = &[("small", 300.0), ("large", 470.0)];
/// Widths of charts that have a row for themselves.
const FULL: &[(&str, f64)] = &[("small", 300.0), ("medium", 620.0), ("large", 1000.0)];

/// Draws at each width. `draw` is told an id that is unique to the drawing and its width.
fn at_widths(id: &str, widths: &[(&'static str, f64)], draw: impl Fn(&str, f64) -> String) -> Vec<Drawing> {
    let drawing = |(class, width): &(&'static str, f64)| Drawing {
        class,
        svg: Value::from_safe_string(draw(&format!("{id}-{class}"), *width)),
    };
    widths.iter().map(drawing).collect()
}

/// A mark, on a line where `line` is a class, as it stands in a legend.
fn key(shape: Shape, mark: &str, line: Option<&str>, text: &str) -> Key {
    let mut svg = Svg::sign((26.0, 12.0));
    if let Some(line) = line {
        svg.line(line, (1.0, 6.0), (25.0, 6.0));
    }
    svg.mark(shape, mark, (13.0, 6.0), 4.0, text);
    Key { sign: Value::from_safe_string(svg.finish()), text: text.into() }
}

/// The part of a dotted name before the first dot: its component.
fn component(name: &str) -> &str {
    name.split('.').next().unwrap_or(name)
}
