//! What the template prints: a report's numbers as texts, its charts as drawings.

use serde::Serialize;

use super::charts::{self, Cell, Figure, Table, heads};
use super::difference::{Piece, compare};
use crate::verify::report::{Attribution, Check, Interval, VerifyReport, WorstSample};
use crate::verify::words::{
    self, NO_ANSWER, Unit, accuracies, check_limit, check_measured, check_title, number, percent, plural,
    visible,
};

/// The page.
#[derive(Debug, Serialize)]
pub struct Page {
    passed: bool,
    verdict: &'static str,
    summary: String,
    failures: Vec<Failure>,
    name: String,
    subtitle: String,
    runtime: Runtime,
    cards: Vec<Card>,
    checks: Vec<CheckRow>,
    quality: Vec<Figure>,
    features: Option<String>,
    attribution: Option<Gap>,
    scales: Figure,
    ratios: Option<Table>,
    worst: Vec<Sample>,
    provenance: Vec<(&'static str, String, bool)>,
}

/// A failed check in words.
#[derive(Debug, Serialize)]
struct Failure {
    title: String,
    measured: String,
    limit: String,
    text: String,
}

/// What ran the files.
#[derive(Debug, Serialize)]
struct Runtime {
    name: &'static str,
    version: String,
    detail: String,
    checked: bool,
    not_checked: Vec<String>,
    top_tokens: Option<usize>,
}

/// A number that is read first.
#[derive(Debug, Serialize)]
struct Card {
    title: &'static str,
    value: String,
    small: Vec<String>,
    /// `pass` or `fail` where a limit was set.
    state: &'static str,
    limit: String,
}

/// A row of the table of checks.
#[derive(Debug, Serialize)]
struct CheckRow {
    passed: bool,
    title: String,
    name: String,
    measured: String,
    limit: String,
    text: String,
}

/// Where the difference comes from.
#[derive(Debug, Serialize)]
struct Gap {
    samples: String,
    causes: Figure,
    components: Figure,
    layers: Figure,
    linears: Option<Table>,
}

/// A sample with a large difference.
#[derive(Debug, Serialize)]
struct Sample {
    id: String,
    question: String,
    expected: Option<String>,
    float_answer: Vec<Piece>,
    answer: Vec<Piece>,
    flipped: bool,
    kld: String,
    images: Vec<Image>,
}

#[derive(Debug, Serialize)]
struct Image {
    png: String,
    alt: String,
    size: String,
}

impl Page {
    /// The view of a report.
    pub fn of(report: &VerifyReport) -> Self {
        let (artifact, runtime) = (&report.artifact, &report.runtime);
        Self {
            passed: report.passed,
            verdict: words::verdict(report),
            summary: words::summary(report),
            failures: report.checks.iter().filter(|c| !c.passed).map(failure).collect(),
            name: visible(&artifact.name),
            subtitle: format!(
                "{}, {}, recipe {}",
                artifact.family,
                format_name(&artifact.format),
                artifact.recipe
            ),
            runtime: Runtime {
                name: runtime.runner.title(),
                version: visible(&runtime.version),
                detail: visible(&runtime.detail),
                checked: runtime.runtime_checked,
                not_checked: runtime.not_checked.iter().map(|t| visible(t)).collect(),
                top_tokens: runtime.top_tokens,
            },
            cards: cards(report),
            checks: report.checks.iter().map(check_row).collect(),
            quality: vec![charts::agreement(report), charts::divergence(report)],
            features: similarities(report),
            attribution: report.attribution.as_ref().map(gap),
            scales: charts::scales(&report.scales),
            ratios: charts::ratios(&report.scales),
            worst: report.worst.iter().map(sample).collect(),
            provenance: provenance(report),
        }
    }
}

/// A cosine near 1 differs from it in its last digits.
fn cosine(x: f64) -> String {
    format!("{x:.6}")
}

fn format_name(format: &str) -> &str {
    match format {
        "onnx" => "ONNX",
        "gguf" => "GGUF",
        other => other,
    }
}

fn failure(check: &Check) -> Failure {
    Failure {
        title: visible(check_title(&check.name)),
        measured: check_measured(check),
        limit: check_limit(check),
        text: visible(&check.text),
    }
}

fn check_row(check: &Check) -> CheckRow {
    CheckRow {
        passed: check.passed,
        title: visible(check_title(&check.name)),
        name: visible(&check.name),
        measured: check_measured(check),
        limit: check_limit(check),
        text: visible(&check.text),
    }
}

fn cards(report: &VerifyReport) -> Vec<Card> {
    let m = &report.measured;
    let card = |title: &'static str, i: &Interval, unit: Unit, check: &str, more: Vec<String>| {
        let held = report.checks.iter().find(|c| c.name == check);
        let interval = format!("95 %: {}", unit.ends(i));
        Card {
            title,
            value: unit.tell(i.value),
            small: [interval].into_iter().chain(more).collect(),
            state: held.map_or("", |c| if c.passed { "pass" } else { "fail" }),
            limit: held.map_or_else(String::new, |c| match c.name.as_str() {
                "max_accuracy_drop" => format!("drop {}", check_limit(c)),
                _ => check_limit(c),
            }),
        }
    };
    let tail = format!("median {}, p99 {}", number(m.kld_median.value), number(m.kld_p99.value));
    let mut cards = vec![
        card("Mean divergence (KLD)", &m.kld_mean, Unit::Plain, "max_kld", vec![tail]),
        card(
            "Same next token",
            &m.top1,
            Unit::Share,
            "min_top1",
            vec![format!("on {}", plural(m.rows, "row"))],
        ),
        card(
            "Changed answers",
            &m.flips,
            Unit::Share,
            "max_flips",
            vec![format!("of {}", plural(report.data.samples, "sample"))],
        ),
    ];
    cards.extend(accuracies(m).map(|(float, artifact)| {
        let drop = format!("float model {}", percent(float.value));
        card("Accuracy of the artifact", &artifact, Unit::Share, "max_accuracy_drop", vec![drop])
    }));
    cards
}

/// How alike image features and the decoder's inputs are.
fn similarities(report: &VerifyReport) -> Option<String> {
    let inputs = report.attribution.as_ref().and_then(|a| a.embeddings);
    let named = [("Image features", report.measured.features), ("Inputs of the decoder", inputs)];
    let told = named.into_iter().filter_map(|(name, s)| {
        let s = s?;
        Some(format!("{name}: cosine {}, relative error {}.", cosine(s.cosine), percent(s.relative_error)))
    });
    let sentences: Vec<String> = told.collect();
    (!sentences.is_empty()).then(|| sentences.join(" "))
}

fn gap(attribution: &Attribution) -> Gap {
    let cells = |l: &crate::verify::report::LinearGap| {
        vec![
            Cell::text(&l.role),
            Cell::number(Some(l.error), percent),
            Cell::number(l.expected, percent),
            Cell::text(&l.advice),
        ]
    };
    let linears = &attribution.linears;
    Gap {
        samples: plural(attribution.samples, "sample"),
        causes: charts::causes(attribution),
        components: charts::components(attribution),
        layers: charts::layers(&attribution.layers),
        linears: (!linears.is_empty()).then(|| Table {
            caption: "The linears with the largest errors of their own".into(),
            heads: heads(&["linear", "#error", "#expected", "what would help"]),
            rows: linears.iter().map(cells).collect(),
        }),
    }
}

fn sample(worst: &WorstSample) -> Sample {
    let (float_answer, answer) = compare(&visible(&worst.float_answer), &visible(&worst.answer));
    let or_empty = |pieces: Vec<Piece>| {
        let empty = pieces.iter().all(|p| p.text.trim().is_empty());
        if empty { vec![Piece { text: NO_ANSWER.into(), differs: worst.flipped }] } else { pieces }
    };
    let count = worst.images.len();
    let image = |(i, t): (usize, &crate::verify::report::Thumbnail)| Image {
        png: t.png.clone(),
        alt: format!("Image {} of {count} of sample {}", i + 1, visible(&worst.id)),
        size: format!("{} \u{d7} {}", t.width, t.height),
    };
    Sample {
        id: visible(&worst.id),
        question: visible(&worst.question),
        expected: worst.expected.as_deref().map(visible),
        float_answer: or_empty(float_answer),
        answer: or_empty(answer),
        flipped: worst.flipped,
        kld: number(worst.kld),
        images: worst.images.iter().enumerate().map(image).collect(),
    }
}

/// What the report is about, exactly: name, text, and whether it is a hash.
fn provenance(report: &VerifyReport) -> Vec<(&'static str, String, bool)> {
    let (artifact, reference, data) = (&report.artifact, &report.reference, &report.data);
    let source = if reference.is_source {
        "the files that the artifact was made from, by their hashes"
    } else {
        "not the files that the artifact was made from"
    };
    let share = 100.0 * artifact.bytes as f64 / reference.bytes as f64;
    let share =
        if reference.bytes > 0 { format!(", {share:.0} % of the float weights") } else { String::new() };
    vec![
        ("Artifact", format!("{}, {}{share}", artifact.name, words::bytes(artifact.bytes)), false),
        ("Manifest SHA-256", artifact.manifest_sha256.clone(), true),
        ("Recipe", format!("{}: {}", artifact.recipe, artifact.recipe_description), false),
        ("Float model", format!("{}, {}; {source}", reference.name, words::bytes(reference.bytes)), false),
        (
            "Data",
            format!("{}, {}, {} with images", data.name, plural(data.samples, "sample"), data.with_images),
            false,
        ),
        ("Data SHA-256", data.sha256.clone(), true),
        ("Verified by", report.tool.clone(), false),
    ]
    .into_iter()
    .map(|(name, text, hash)| (name, visible(&text), hash))
    .collect()
}
