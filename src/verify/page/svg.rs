//! Drawings as inline SVG: a list of shapes with classes that the page's style sheet colours.

use std::fmt::Write;

use crate::verify::words::visible;

/// Which point of a text its place is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Anchor {
    /// Its left end.
    Start,
    /// Its middle.
    Middle,
    /// Its right end.
    End,
}

/// Marks of points: one shape per series, so that colour is not all that tells them apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// A disc.
    Circle,
    /// A square on its corner.
    Diamond,
    /// A triangle that points up.
    Triangle,
}

/// A drawing of `width` by `height` units, which are CSS pixels where the page does not scale it.
#[derive(Debug)]
pub struct Svg {
    head: String,
    body: String,
}

impl Svg {
    /// An empty drawing. `id` is unique in the page; `title` names the drawing and `description` says what can be read off it, for those who do
    /// not see it.
    pub fn new(id: &str, title: &str, description: &str, (width, height): (f64, f64)) -> Self {
        let size = format!("viewBox=\"0 0 {} {}\"", place(width), place(height));
        let (title, description) = (escape(title), escape(description));
        let head = format!(
            "<svg {size} role=\"img\" aria-labelledby=\"{id}-t {id}-d\"><title id=\"{id}-t\">{title}</title>\
             <desc id=\"{id}-d\">{description}</desc>"
        );
        Self { head, body: String::new() }
    }

    /// A small drawing beside a text that says the same, so that it needs no name.
    pub fn sign((width, height): (f64, f64)) -> Self {
        let (width, height) = (place(width), place(height));
        let size = format!("width=\"{width}\" height=\"{height}\" viewBox=\"0 0 {width} {height}\"");
        Self { head: format!("<svg {size} aria-hidden=\"true\">"), body: String::new() }
    }

    /// Adds an element with numbers as attributes, unless one of them is not finite: such a shape has no place.
    fn element(&mut self, name: &str, class: &str, numbers: &[(&str, f64)], inside: Option<&str>) {
        if numbers.iter().any(|(_, x)| !x.is_finite()) {
            return;
        }
        let mut element = format!("<{name} class=\"{class}\"");
        for (key, x) in numbers {
            // Writing to a String cannot fail.
            let _ = write!(element, " {key}=\"{}\"", place(*x));
        }
        self.body += &element;
        self.body += &inside.map_or_else(|| "/>".to_string(), |inside| format!(">{inside}</{name}>"));
    }

    /// A straight line.
    pub fn line(&mut self, class: &str, (x1, y1): (f64, f64), (x2, y2): (f64, f64)) {
        self.element("line", class, &[("x1", x1), ("y1", y1), ("x2", x2), ("y2", y2)], None);
    }

    /// A rectangle between two corners, at least half a unit wide and high so that it is seen; `title` is shown when a pointer rests on it.
    pub fn rectangle(&mut self, class: &str, (x1, y1): (f64, f64), (x2, y2): (f64, f64), title: &str) {
        let (width, height) = ((x2 - x1).abs().max(0.5), (y2 - y1).abs().max(0.5));
        let title = format!("<title>{}</title>", escape(title));
        let numbers = [("x", x1.min(x2)), ("y", y1.min(y2)), ("width", width), ("height", height)];
        self.element("rect", class, &numbers, Some(&title));
    }

    /// A line of text.
    pub fn text(&mut self, class: &str, (x, y): (f64, f64), anchor: Anchor, text: &str) {
        let anchor = match anchor {
            Anchor::Start => "",
            Anchor::Middle => " middle",
            Anchor::End => " end",
        };
        self.element("text", &format!("{class}{anchor}"), &[("x", x), ("y", y)], Some(&escape(text)));
    }

    /// A line through points; nothing below two of them.
    pub fn polyline(&mut self, class: &str, points: &[(f64, f64)]) {
        if points.len() < 2 || points.iter().any(|(x, y)| !x.is_finite() || !y.is_finite()) {
            return;
        }
        let points: Vec<String> =
            points.iter().map(|(x, y)| format!("{},{}", place(*x), place(*y))).collect();
        let _ = write!(self.body, "<polyline class=\"{class}\" points=\"{}\"/>", points.join(" "));
    }

    /// A mark around a point, with a text that is shown when a pointer rests on it.
    pub fn mark(&mut self, shape: Shape, class: &str, (x, y): (f64, f64), size: f64, title: &str) {
        if ![x, y, size].iter().all(|v| v.is_finite()) {
            return;
        }
        let title = format!("<title>{}</title>", escape(title));
        let corners = match shape {
            Shape::Circle => {
                return self.element("circle", class, &[("cx", x), ("cy", y), ("r", size)], Some(&title));
            }
            Shape::Diamond => {
                let r = 1.25 * size;
                vec![(x, y - r), (x + r, y), (x, y + r), (x - r, y)]
            }
            Shape::Triangle => {
                let r = 1.3 * size;
                vec![(x, y - r), (x + r, y + 0.8 * r), (x - r, y + 0.8 * r)]
            }
        };
        let points: Vec<String> =
            corners.iter().map(|(x, y)| format!("{},{}", place(*x), place(*y))).collect();
        let _ =
            write!(self.body, "<polygon class=\"{class}\" points=\"{}\">{title}</polygon>", points.join(" "));
    }

    /// The whole element.
    pub fn finish(self) -> String {
        format!("{}{}</svg>", self.head, self.body)
    }
}

/// A coordinate with one decimal at most.
fn place(x: f64) -> String {
    let tenths = (x * 10.0).round();
    // Minus zero is zero.
    let text = format!("{:.1}", if tenths == 0.0 { 0.0 } else { tenths / 10.0 });
    text.strip_suffix(".0").map_or(text.clone(), str::to_string)
}

/// Text that cannot be taken for markup, with control characters made visible.
pub fn escape(text: &str) -> String {
    let mut out = String::new();
    for c in visible(text).chars() {
        match c {
            '&' => out += "&amp;",
            '<' => out += "&lt;",
            '>' => out += "&gt;",
            '"' => out += "&quot;",
            '\'' => out += "&#39;",
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_are_written_with_short_numbers_and_escaped_titles() {
        let mut svg = Svg::new("a", "T & t", "<d>", (300.0, 20.25));
        svg.line("grid", (0.0, -0.01), (1.06, 2.0));
        svg.rectangle("bar", (10.0, 4.0), (4.0, 4.0), "a<b");
        svg.text("tick", (1.0, 2.0), Anchor::End, "\"x\"");
        svg.polyline("series", &[(0.0, 1.0), (2.5, 3.0)]);
        svg.mark(Shape::Diamond, "dot", (10.0, 10.0), 4.0, "p");
        let expected = [
            "<svg viewBox=\"0 0 300 20.3\" role=\"img\" aria-labelledby=\"a-t a-d\"><title id=\"a-t\">T &amp; t</title><desc \
             id=\"a-d\">&lt;d&gt;</desc>",
            "<line class=\"grid\" x1=\"0\" y1=\"0\" x2=\"1.1\" y2=\"2\"/>",
            "<rect class=\"bar\" x=\"4\" y=\"4\" width=\"6\" height=\"0.5\"><title>a&lt;b</title></rect>",
            "<text class=\"tick end\" x=\"1\" y=\"2\">&quot;x&quot;</text>",
            "<polyline class=\"series\" points=\"0,1 2.5,3\"/>",
            "<polygon class=\"dot\" points=\"10,5 15,10 10,15 5,10\"><title>p</title></polygon></svg>",
        ];
        assert_eq!(svg.finish(), expected.concat());
    }

    #[test]
    fn what_has_no_place_is_not_drawn() {
        let mut svg = Svg::new("a", "t", "d", (1.0, 1.0));
        svg.line("l", (f64::NAN, 0.0), (1.0, 1.0));
        svg.rectangle("r", (0.0, 0.0), (f64::INFINITY, 1.0), "t");
        svg.text("t", (0.0, f64::NAN), Anchor::Start, "t");
        svg.polyline("p", &[(0.0, 0.0), (1.0, f64::NEG_INFINITY)]);
        svg.polyline("p", &[(0.0, 0.0)]);
        svg.mark(Shape::Circle, "m", (f64::NAN, 0.0), 1.0, "t");
        svg.mark(Shape::Triangle, "m", (0.0, f64::NAN), 1.0, "t");
        assert!(svg.finish().ends_with("</desc></svg>"));
    }
}
