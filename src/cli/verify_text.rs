//! What a verification prints on a terminal: what ran, the numbers with their limits, where the difference comes from, and the verdict last.

use super::format::{bytes, plural, property, table};
use crate::verify::report::{Attribution, Interval, VerifyReport};
use crate::verify::words::{
    self, Unit, added, check_limit, check_measured, check_title, number, percent, shortened, verdict, visible,
};

/// Most characters of a sentence in a table; all of it is in the report.
const SENTENCE: usize = 140;

/// A report for people, the verdict last.
pub fn lines(report: &VerifyReport) -> Vec<String> {
    let (artifact, reference, data, runtime) =
        (&report.artifact, &report.reference, &report.data, &report.runtime);
    let source = if reference.is_source { "" } else { ", not the files that the artifact was made from" };
    let ran = format!("{} {}, {}", runtime.runner.name(), runtime.version, runtime.detail);
    let mut lines = vec![
        property(
            "artifact",
            visible(&format!("{}, {}, recipe {}", artifact.name, bytes(artifact.bytes), artifact.recipe)),
        ),
        property("reference", visible(&format!("{}, {}{source}", reference.name, bytes(reference.bytes)))),
        property(
            "data",
            visible(&format!(
                "{}, {}, {} with images",
                data.name,
                plural(data.samples, "sample"),
                data.with_images
            )),
        ),
        property("runtime", visible(&ran)),
    ];
    lines.extend(runtime.not_checked.iter().map(|t| property("not checked", visible(t))));
    lines.extend(block("measured (95 % intervals)", &metrics(report), &[1]));
    lines.extend(report.attribution.iter().flat_map(attribution_lines));
    lines.extend(check_lines(report));
    let unchecked = if runtime.runtime_checked { "" } else { " No real runtime was checked." };
    lines.extend([String::new(), format!("{}  {}{unchecked}", verdict(report), words::summary(report))]);
    lines
}

/// A titled table behind an empty line; nothing where there are no rows.
fn block(title: &str, rows: &[Vec<String>], right: &[usize]) -> Vec<String> {
    if rows.is_empty() {
        return vec![];
    }
    [String::new(), title.to_string()].into_iter().chain(table(rows, right)).collect()
}

fn metrics(report: &VerifyReport) -> Vec<Vec<String>> {
    let m = &report.measured;
    let row = |name: &str, i: &Interval, unit: Unit| vec![name.to_string(), unit.tell(i.value), unit.ends(i)];
    let mut rows = vec![
        row("mean KLD", &m.kld_mean, Unit::Plain),
        row("median KLD", &m.kld_median, Unit::Plain),
        row("p99 KLD", &m.kld_p99, Unit::Plain),
        row("same next token", &m.top1, Unit::Share),
        row("changed answers", &m.flips, Unit::Share),
    ];
    rows.extend(m.accuracy_float.map(|i| row("accuracy, float", &i, Unit::Share)));
    rows.extend(m.accuracy.map(|i| row("accuracy, artifact", &i, Unit::Share)));
    rows.extend(m.features.map(|f| {
        vec!["image features".into(), percent(f.relative_error), format!("cosine {:.6}", f.cosine)]
    }));
    let attribution = report.attribution.iter();
    let inner = attribution.flat_map(|a| {
        let last = a.layers.iter().rev().find_map(|l| l.hidden);
        [("decoder's input", a.embeddings), ("last hidden state", last)]
    });
    rows.extend(inner.filter_map(|(name, s)| {
        let s = s?;
        Some(vec![name.into(), percent(s.relative_error), format!("cosine {:.6}", s.cosine)])
    }));
    rows
}

fn attribution_lines(attribution: &Attribution) -> Vec<String> {
    let steps = words::steps(attribution).into_iter().map(|s| {
        let told = s.span.map_or_else(|| "-".into(), added);
        vec![visible(&s.title), told, shortened(&s.text, SENTENCE)]
    });
    let components = attribution
        .components
        .iter()
        .map(|c| vec![shortened(&c.component, SENTENCE), number(c.kld), "by itself".into()]);
    let rows: Vec<Vec<String>> = steps.chain(components).collect();
    let linears: Vec<Vec<String>> = attribution
        .linears
        .iter()
        .map(|l| vec![shortened(&l.role, SENTENCE), percent(l.error), shortened(&l.advice, SENTENCE)])
        .collect();
    let mut lines = block("where the difference comes from (nats)", &rows, &[1]);
    lines.extend(block("linears with the largest errors, and what would help", &linears, &[1]));
    lines
}

fn check_lines(report: &VerifyReport) -> Vec<String> {
    // Failed checks come last here: what stands nearest to the verdict is read first.
    let ordered = report.checks.iter().filter(|c| c.passed).chain(report.checks.iter().filter(|c| !c.passed));
    let rows: Vec<Vec<String>> = ordered
        .map(|c| {
            let state = if c.passed { "passed" } else { "FAILED" };
            let title = shortened(check_title(&c.name), SENTENCE);
            let numbers = [check_measured(c), check_limit(c)];
            [state.to_string(), title]
                .into_iter()
                .chain(numbers)
                .chain([shortened(&c.text, SENTENCE)])
                .collect()
        })
        .collect();
    block("checks", &rows, &[2, 3])
}
