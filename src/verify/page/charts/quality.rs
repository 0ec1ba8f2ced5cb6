//! Charts of what was measured in the runtime: accuracy and agreement as shares, divergence in nats.

use super::bars::{Below, Row, draw};
use super::{Cell, Figure, HALF, Table, at_widths, heads};
use crate::verify::page::axis::tame;
use crate::verify::report::{Interval, VerifyReport};
use crate::verify::words::{Unit, check_limit, metric_title};

/// A row of an interval; `None` where its number is not finite.
fn row(
    report: &VerifyReport,
    label: &str,
    i: &Interval,
    unit: Unit,
    check: &str,
    class: &'static str,
) -> Option<Row> {
    let limit = report.checks.iter().find(|c| c.name == check);
    let limit = limit.and_then(|c| Some((tame(c.limit?)?, check_limit(c))));
    Some(Row {
        label: label.into(),
        text: unit.tell(i.value),
        more: format!(" ({})", unit.ends(i)),
        span: Some((0.0, tame(i.value)?)),
        ends: tame(i.low).zip(tame(i.high)),
        limit,
        class,
    })
}

fn table(caption: &str, entries: &[(String, Interval)], unit: Unit) -> Table {
    let cells = |(label, i): &(String, Interval)| {
        let numbers = [i.value, i.low, i.high].map(|x| Cell::number(Some(x), |x| unit.tell(x)));
        [Cell::text(label)].into_iter().chain(numbers).collect()
    };
    Table {
        caption: caption.into(),
        heads: heads(&["quantity", "#value", "#lower end", "#upper end"]),
        rows: entries.iter().map(cells).collect(),
    }
}

/// Accuracy of the float model and of the artifact, the same next token, changed answers.
pub fn agreement(report: &VerifyReport) -> Figure {
    let m = &report.measured;
    let scores =
        [("Accuracy: float", m.accuracy_float, "float"), ("Accuracy: artifact", m.accuracy, "artifact")];
    let mut entries: Vec<(&str, Interval, &str, &'static str)> =
        scores.into_iter().filter_map(|(label, i, class)| Some((label, i?, "", class))).collect();
    entries.push(("Same next token", m.top1, "min_top1", "artifact"));
    entries.push(("Changed answers", m.flips, "max_flips", "artifact"));
    let rows: Vec<Row> = entries
        .iter()
        .filter_map(|(label, i, check, class)| row(report, label, i, Unit::Share, check, class))
        .collect();
    let accuracy = match m.accuracy {
        Some(_) => format!("Accuracy is scored by {}.", metric_title(&report.data.metric)),
        None => "The data has no expected answers, so accuracy was not measured.".into(),
    };
    let title = "Accuracy and agreement";
    let told: Vec<String> = rows.iter().map(|r| format!("{} {}{}", r.label, r.text, r.more)).collect();
    let head = told.join("; ");
    let entries: Vec<(String, Interval)> =
        entries.iter().map(|(label, i, ..)| (label.to_string(), *i)).collect();
    Figure {
        id: "agreement",
        title: title.into(),
        caption: format!("{accuracy} Whiskers are 95 % intervals. Lower is better for changed answers."),
        legend: vec![],
        drawings: at_widths("agreement", HALF, |id, width| {
            draw((id, title, &head), width, &rows, Below::Shares)
        }),
        empty: String::new(),
        table: Some(table(title, &entries, Unit::Share)),
    }
}

/// Mean, median and 99th percentile of the divergence.
pub fn divergence(report: &VerifyReport) -> Figure {
    let m = &report.measured;
    let entries =
        [("Mean", m.kld_mean, "max_kld"), ("Median", m.kld_median, ""), ("99th percentile", m.kld_p99, "")];
    let rows: Vec<Row> = entries
        .iter()
        .filter_map(|(label, i, check)| row(report, label, i, Unit::Plain, check, "artifact"))
        .collect();
    let title = "Divergence of next-token probabilities (KLD)";
    let told: Vec<String> = rows.iter().map(|r| format!("{} {}{}", r.label, r.text, r.more)).collect();
    let head = format!("in nats: {}", told.join("; "));
    let entries: Vec<(String, Interval)> =
        entries.iter().map(|(label, i, _)| (label.to_string(), *i)).collect();
    Figure {
        id: "divergence",
        title: title.into(),
        caption: "In nats, of the artifact from the float model, which is at 0. Whiskers are 95 % intervals. Lower is better. Where values are far \
                  apart the axis is logarithmic, with points for bars."
            .into(),
        legend: vec![],
        drawings: at_widths("divergence", HALF, |id, width| draw((id, title, &head), width, &rows, Below::Fitting)),
        empty: String::new(),
        table: Some(table(title, &entries, Unit::Plain)),
    }
}
