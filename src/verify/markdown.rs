//! A report as Markdown (GitHub's and GitLab's, with tables): the summary of a job. Images are in the page only.

use super::report::{Attribution, Check, Interval, VerifyReport, WorstSample};
use super::words::{
    NO_ANSWER, Unit, added, bytes, check_limit, check_measured, check_title, failure, number, percent,
    plural, shortened, steps, summary, verdict,
};

/// Most characters of a text in a table.
const CELL: usize = 160;
/// Most characters of a name or a sentence.
const LINE: usize = 400;

/// The summary of a report. Everything that comes from outside is shortened, in one line, and without markup of its own.
pub fn markdown(report: &VerifyReport) -> String {
    let mut blocks = vec![head(report)];
    let failed: Vec<&Check> = report.checks.iter().filter(|c| !c.passed).collect();
    if !failed.is_empty() {
        let items: Vec<String> = failed.iter().map(|c| format!("- {}", escaped(&failure(c), LINE))).collect();
        blocks.push(format!("### Failed checks\n\n{}", items.join("\n")));
    }
    blocks.push(format!("### Metrics\n\n{}", metrics(report)));
    blocks.push(format!("### Checks\n\n{}", checks(&report.checks)));
    blocks.extend(report.attribution.as_ref().map(attribution));
    if !report.worst.is_empty() {
        blocks.push(format!("### Samples with the largest difference\n\n{}", worst(&report.worst)));
    }
    blocks.push(provenance(report));
    blocks.join("\n\n") + "\n"
}

fn head(report: &VerifyReport) -> String {
    let (sign, word) = (if report.passed { "\u{2705}" } else { "\u{274c}" }, verdict(report));
    let (artifact, runtime) = (&report.artifact, &report.runtime);
    let mut lines = vec![
        format!("## {sign} {word}: {}", escaped(&artifact.name, CELL)),
        format!(
            "{} Run by {} {} ({}) on {}, {} with images.",
            summary(report),
            runtime.runner.title(),
            escaped(&runtime.version, CELL),
            escaped(&runtime.detail, CELL),
            plural(report.data.samples, "sample"),
            report.data.with_images
        ),
    ];
    if !runtime.runtime_checked {
        lines.push(
            "> **No real runtime was checked.** Nothing is said of the runtime that users have.".into(),
        );
    }
    if !runtime.not_checked.is_empty() {
        let items: Vec<String> =
            runtime.not_checked.iter().map(|t| format!("- Not checked: {}", escaped(t, LINE))).collect();
        lines.push(items.join("\n"));
    }
    lines.join("\n\n")
}

/// A table; columns whose head begins with `#` are aligned to the right.
fn table(heads: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let names: Vec<&str> = heads.iter().map(|h| h.trim_start_matches('#')).collect();
    let marks: Vec<&str> = heads.iter().map(|h| if h.starts_with('#') { "---:" } else { "---" }).collect();
    let row = |cells: &[String]| format!("| {} |", cells.join(" | "));
    let head = format!("| {} |\n|{}|", names.join(" | "), marks.join("|"));
    [head].into_iter().chain(rows.into_iter().map(|r| row(&r))).collect::<Vec<_>>().join("\n")
}

fn metrics(report: &VerifyReport) -> String {
    let m = &report.measured;
    let row = |name: &str, i: &Interval, unit: Unit, check: &str| {
        let limit = report.checks.iter().find(|c| c.name == check).map_or_else(String::new, check_limit);
        vec![name.to_string(), unit.tell(i.value), unit.ends(i), limit]
    };
    let mut rows = vec![
        row("Mean divergence (KLD), nats", &m.kld_mean, Unit::Plain, "max_kld"),
        row("Median divergence", &m.kld_median, Unit::Plain, ""),
        row("99th percentile of the divergence", &m.kld_p99, Unit::Plain, ""),
        row("Same next token (top-1)", &m.top1, Unit::Share, "min_top1"),
        row("Changed answers (flips)", &m.flips, Unit::Share, "max_flips"),
    ];
    rows.extend(m.accuracy_float.map(|i| row("Accuracy, float model", &i, Unit::Share, "")));
    rows.extend(m.accuracy.map(|i| {
        let mut row = row("Accuracy, artifact", &i, Unit::Share, "max_accuracy_drop");
        row[3] = if row[3].is_empty() { String::new() } else { format!("drop {}", row[3]) };
        row
    }));
    rows.extend(m.features.map(|f| {
        let about = format!("cosine {:.6}", f.cosine);
        vec!["Error of the image features".into(), percent(f.relative_error), about, String::new()]
    }));
    table(&["metric", "#value", "#95 % interval", "#limit"], rows)
}

fn checks(checks: &[Check]) -> String {
    let row = |c: &Check| {
        let state = if c.passed { "\u{2705} passed" } else { "\u{274c} failed" };
        let title = escaped(check_title(&c.name), CELL);
        vec![state.into(), title, check_measured(c), check_limit(c), escaped(&c.text, CELL)]
    };
    table(&["result", "check", "#measured", "#allowed", "what was found"], checks.iter().map(row))
}

fn attribution(attribution: &Attribution) -> String {
    let part = |kind: &str, name: &str, number: String, text: &str| {
        vec![kind.to_string(), escaped(name, CELL), number, escaped(text, CELL)]
    };
    let cause = |s: super::words::Step| {
        part("step", &s.title, s.span.map_or_else(|| "not measured".into(), added), &s.text)
    };
    let mut rows: Vec<Vec<String>> = steps(attribution).into_iter().map(cause).collect();
    rows.extend(attribution.components.iter().map(|c| {
        part("component", &c.component, number(c.kld), "its divergence, the others being the float model's")
    }));
    rows.extend(attribution.linears.iter().map(|l| {
        let expected = l.expected.map_or_else(String::new, |e| format!("expected {}; ", percent(e)));
        part("linear", &l.role, percent(l.error), &format!("{expected}{}", l.advice))
    }));
    let head = format!(
        "### Where the difference comes from\n\nMeasured on {}: nats for steps and components, relative error for linears.",
        plural(attribution.samples, "sample")
    );
    format!("{head}\n\n{}", table(&["kind", "name", "#adds", "what it is, or what would help"], rows))
}

fn worst(samples: &[WorstSample]) -> String {
    let row = |s: &WorstSample| {
        let answer = |text: &str| if text.trim().is_empty() { NO_ANSWER.into() } else { escaped(text, CELL) };
        let expected = s.expected.as_deref().map_or_else(String::new, |e| escaped(e, CELL));
        let changed = if s.flipped { "yes" } else { "no" };
        let images = s.images.len().to_string();
        let texts = [answer(&s.float_answer), answer(&s.answer)];
        [escaped(&s.id, 40), images, escaped(&s.question, CELL), expected]
            .into_iter()
            .chain(texts)
            .chain([changed.to_string(), number(s.kld)])
            .collect()
    };
    let heads = ["sample", "#images", "question", "expected", "float model", "artifact", "changed", "#KLD"];
    table(&heads, samples.iter().map(row))
}

fn provenance(report: &VerifyReport) -> String {
    let (artifact, reference, data) = (&report.artifact, &report.reference, &report.data);
    let source = if reference.is_source { "the artifact's source" } else { "**not** the artifact's source" };
    let rows = [
        ("Artifact", format!("{}, {}", escaped(&artifact.name, CELL), bytes(artifact.bytes))),
        ("Manifest SHA-256", format!("`{}`", plain(&artifact.manifest_sha256))),
        (
            "Recipe",
            format!("{}: {}", escaped(&artifact.recipe, CELL), escaped(&artifact.recipe_description, LINE)),
        ),
        ("Float model", format!("{}, {}, {source}", escaped(&reference.name, CELL), bytes(reference.bytes))),
        ("Data", escaped(&data.name, CELL)),
        ("Data SHA-256", format!("`{}`", plain(&data.sha256))),
        ("Verified by", escaped(&report.tool, CELL)),
    ];
    let rows = rows.into_iter().map(|(name, text)| vec![name.to_string(), text]);
    format!("### What was verified\n\n{}", table(&["", ""], rows))
}

/// Letters and digits alone, as hashes have.
fn plain(text: &str) -> String {
    text.chars().filter(char::is_ascii_alphanumeric).collect()
}

/// One line of at most `limit` characters that shows as it is: characters that mean something to Markdown are escaped (CommonMark 0.31, section
/// 2.4), those that mean something to HTML become references, and so does `@`, which would call a person.
fn escaped(text: &str, limit: usize) -> String {
    let mut out = String::new();
    let line = shortened(text, limit);
    let mut characters = line.chars().peekable();
    while let Some(c) = characters.next() {
        match c {
            '&' => out += "&amp;",
            '<' => out += "&lt;",
            '>' => out += "&gt;",
            '@' => out += "&#64;",
            '|' => out += "&#124;",
            '#' => out += "&#35;",
            // Of an address or the name of an emoji; one before a blank is punctuation.
            ':' if characters.peek().is_some_and(|next| !next.is_whitespace()) => out += "&#58;",
            '\\' | '`' | '*' | '_' | '[' | ']' | '{' | '}' | '!' | '$' | '~' => {
                out.push('\\');
                out.push(c);
            }
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_from_outside_shows_as_it_is() {
        let cases = [
            ("a | b\nc", "a &#124; b c"),
            ("<img src=x>&", "&lt;img src=x&gt;&amp;"),
            ("**bold** _x_ `y` [z](u)", "\\*\\*bold\\*\\* \\_x\\_ \\`y\\` \\[z\\](u)"),
            ("@someone #12 :smile: $x$ ~~y~~", "&#64;someone &#35;12 &#58;smile: \\$x\\$ \\~\\~y\\~\\~"),
        ];
        for (text, expected) in cases {
            assert_eq!(escaped(text, 100), expected);
        }
        assert_eq!(escaped("abcdef", 4), "abc\u{2026}");
    }

    #[test]
    fn tables_have_a_cell_per_column() {
        let rows = [vec!["a".to_string(), "1".to_string()]];
        assert_eq!(table(&["name", "#n"], rows), "| name | n |\n|---|---:|\n| a | 1 |");
    }
}
