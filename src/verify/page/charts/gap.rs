//! Where the difference comes from: causes as a waterfall, components as bars.

use super::bars::{Below, Row, draw};
use super::{Cell, Figure, HALF, Table, at_widths, heads};
use crate::verify::page::axis::tame;
use crate::verify::report::Attribution;
use crate::verify::words::{Step, added, number, steps};

/// Steps from the float model to the artifact in its runtime.
pub fn causes(attribution: &Attribution) -> Figure {
    let steps = steps(attribution);
    let mut rows: Vec<Row> = steps.iter().map(step_row).collect();
    let total = steps.iter().rev().find_map(|s| s.span).map(|(_, to)| to);
    rows.extend(total.and_then(tame).map(|to| Row {
        label: "All together".into(),
        text: number(to),
        more: String::new(),
        span: Some((0.0, to)),
        ends: None,
        limit: None,
        class: "total",
    }));
    let title = "By cause";
    let told: Vec<String> = rows.iter().map(|r| format!("{} {}", r.label, r.text)).collect();
    let head = format!("steps in nats: {}", told.join("; "));
    let draw = |id: &str, width: f64| draw((id, title, &head), width, &rows, Below::Steps);
    Figure {
        id: "causes",
        title: title.into(),
        caption: "What each step from the float model to the artifact in its runtime adds to the mean divergence, in nats. A minus means that it takes \
                  some of the difference back. A step without a number is part of the next one."
            .into(),
        legend: vec![],
        drawings: if total.is_some() { at_widths("causes", HALF, draw) } else { vec![] },
        empty: "No step was measured.".into(),
        table: Some(cause_table(&steps)),
    }
}

fn step_row(step: &Step) -> Row {
    let span = step.span.and_then(|(from, to)| tame(from).zip(tame(to)));
    Row {
        label: step.title.clone(),
        text: span.map_or_else(|| "not measured".into(), added),
        more: String::new(),
        span,
        ends: None,
        limit: None,
        class: if span.is_some_and(|(from, to)| to < from) { "less" } else { "more" },
    }
}

fn cause_table(steps: &[Step]) -> Table {
    let cells = |s: &Step| {
        vec![
            Cell::text(&s.title),
            Cell {
                text: s.span.map_or_else(|| "not measured".into(), added),
                key: s.span.map(|(from, to)| to - from).filter(|x| x.is_finite()),
            },
            Cell::number(s.span.map(|(_, to)| to), number),
            Cell::text(&s.text),
        ]
    };
    Table {
        caption: "Steps from the float model to the artifact".into(),
        heads: heads(&["step", "#adds", "#divergence behind it", "what it is"]),
        rows: steps.iter().map(cells).collect(),
    }
}

/// One component of the artifact at a time in the float model.
pub fn components(attribution: &Attribution) -> Figure {
    let row = |c: &crate::verify::report::ComponentGap| {
        Some(Row {
            label: c.component.clone(),
            text: number(c.kld),
            more: String::new(),
            span: Some((0.0, tame(c.kld)?)),
            ends: None,
            limit: None,
            class: "artifact",
        })
    };
    let rows: Vec<Row> = attribution.components.iter().filter_map(row).collect();
    let title = "By component";
    let told: Vec<String> = rows.iter().map(|r| format!("{} {}", r.label, r.text)).collect();
    let head = format!("in nats: {}", told.join("; "));
    let draw = |id: &str, width: f64| draw((id, title, &head), width, &rows, Below::Fitting);
    let cells = |c: &crate::verify::report::ComponentGap| {
        vec![Cell::text(&c.component), Cell::number(Some(c.kld), number)]
    };
    Figure {
        id: "components",
        title: title.into(),
        caption: "Mean divergence, in nats, when one component is the artifact's and the others are the float model's.".into(),
        legend: vec![],
        drawings: if rows.is_empty() { vec![] } else { at_widths("components", HALF, draw) },
        empty: "Components were not measured one by one.".into(),
        table: Some(Table {
            caption: title.into(),
            heads: heads(&["component", "#divergence"]),
            rows: attribution.components.iter().map(cells).collect(),
        }),
    }
}
