//! Words and numbers of a report as people read them: the page, the job summary and the terminal say the same.

use super::report::{Attribution, Check, Interval, Measured, VerifyReport};

/// Three significant digits; powers of ten below 0.001 and from 100,000 on.
pub fn number(x: f64) -> String {
    let size = x.abs();
    match size {
        _ if x.is_nan() => "not a number".into(),
        _ if x.is_infinite() => if x > 0.0 { "infinite" } else { "minus infinite" }.into(),
        _ if size == 0.0 => "0".into(),
        _ if !(0.000_999_5..99_999.5).contains(&size) => format!("{x:.2e}"),
        _ if size >= 99.95 => format!("{x:.0}"),
        _ => {
            // Places behind the point for three digits, after rounding: 0.0999999 has the digits of 0.1.
            let exponent = (size * 1.000_5).log10().floor();
            format!("{x:.*}", (2.0 - exponent).max(0.0) as usize)
        }
    }
}

/// A share in percent: one decimal, more where that would say 0 or 100 of what is neither.
pub fn percent(x: f64) -> String {
    let p = 100.0 * x;
    let whole = [0.0, 100.0].contains(&p);
    let rounded = (10.0 * p).round() / 10.0;
    match p {
        _ if !p.is_finite() => number(x),
        _ if whole => format!("{p:.0} %"),
        _ if rounded == 0.0 => format!("{} %", number(p)),
        _ if rounded == 100.0 => format!("{p:.3} %"),
        _ => format!("{p:.1} %"),
    }
}

/// A size in decimal units with three digits: `4.42 GB`.
pub fn bytes(n: u64) -> String {
    let units = [(1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")];
    // What would round to 1000 of a unit is 1.00 of the next.
    match units.into_iter().find(|(unit, _)| n as f64 >= unit * 0.9995) {
        Some((unit, name)) => format!("{} {name}", number(n as f64 / unit)),
        None => format!("{n} bytes"),
    }
}

/// A number of things with its noun: `1 row`, `2 rows`.
pub fn plural(n: usize, noun: &str) -> String {
    if n == 1 { format!("1 {noun}") } else { format!("{n} {noun}s") }
}

/// What a number is a number of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// A divergence in nats, or any other number.
    Plain,
    /// A share of 1, told in percent.
    Share,
    /// A difference of shares, told in percentage points.
    Points,
}

impl Unit {
    /// A number in this unit.
    pub fn tell(self, x: f64) -> String {
        match self {
            Unit::Plain => number(x),
            Unit::Share => percent(x),
            Unit::Points => percent(x).replace('%', "points"),
        }
    }

    /// A number that somebody chose, without zeros at its end.
    pub fn chosen(self, x: f64) -> String {
        let told = self.tell(x);
        let (digits, unit) = told.split_once(' ').map_or((told.as_str(), ""), |(d, u)| (d, u));
        let (mantissa, power) = digits.split_once('e').map_or((digits, None), |(m, p)| (m, Some(p)));
        let short = if mantissa.contains('.') {
            mantissa.trim_end_matches('0').trim_end_matches('.')
        } else {
            mantissa
        };
        let power = power.map_or_else(String::new, |p| format!("e{p}"));
        let unit = if unit == "points" && short == "1" { "point" } else { unit };
        format!("{short}{power} {unit}").trim_end().to_string()
    }

    /// The ends of an interval; a unit stands once.
    pub fn ends(self, i: &Interval) -> String {
        let (low, high) = (self.tell(i.low), self.tell(i.high));
        format!("{} to {high}", low.trim_end_matches(" %"))
    }

    /// A number with its interval.
    pub fn interval(self, i: &Interval) -> String {
        format!("{} ({})", self.tell(i.value), self.ends(i))
    }
}

/// Name of a check for people; one that is not known keeps its own.
pub fn check_title(name: &str) -> &str {
    match name {
        "max_kld" => "Mean divergence (KLD)",
        "min_top1" => "Same next token (top-1)",
        "max_flips" => "Changed answers (flips)",
        "max_accuracy_drop" => "Accuracy drop",
        "image_swap" => "Image changes the answer",
        "degenerate" => "Degenerate output",
        "text_only" => "Text-only prompts",
        "configuration" => "Configuration",
        "preprocessing" => "Preprocessing",
        "structure" => "Structure",
        "finite" => "Finite logits",
        other => other,
    }
}

/// Unit of a check's numbers.
pub fn check_unit(name: &str) -> Unit {
    match name {
        "min_top1" | "max_flips" => Unit::Share,
        "max_accuracy_drop" => Unit::Points,
        _ => Unit::Plain,
    }
}

/// A check's measured number, or nothing.
pub fn check_measured(check: &Check) -> String {
    check.measured.map_or_else(String::new, |x| check_unit(&check.name).tell(x))
}

/// A check's limit with its direction, or nothing.
pub fn check_limit(check: &Check) -> String {
    let Some(limit) = check.limit else { return String::new() };
    let limit = check_unit(&check.name).chosen(limit);
    match check.name.split('_').next() {
        Some("min") => format!("at least {limit}"),
        Some("max") => format!("at most {limit}"),
        _ => limit,
    }
}

/// What failed, with the numbers, in one line: `Mean divergence (KLD): 0.412, allowed is at most 0.0500. The ...`.
pub fn failure(check: &Check) -> String {
    let title = check_title(&check.name);
    let limit = check_limit(check);
    let numbers = match check_measured(check) {
        measured if !measured.is_empty() && !limit.is_empty() => format!(" {measured}, allowed is {limit}."),
        measured if !measured.is_empty() => format!(" {measured}."),
        _ => String::new(),
    };
    format!("{title}:{numbers} {}", check.text.trim()).trim_end().to_string()
}

/// `PASS` or `FAIL`.
pub fn verdict(report: &VerifyReport) -> &'static str {
    if report.passed { "PASS" } else { "FAIL" }
}

/// The verdict's reason in one sentence.
pub fn summary(report: &VerifyReport) -> String {
    let (failed, all) = (report.checks.iter().filter(|c| !c.passed).count(), report.checks.len());
    match (failed, all) {
        (0, 0) => "Nothing was held to a limit: no threshold was given.".into(),
        (0, 1) => "The one check passed.".into(),
        (0, n) => format!("All {n} checks passed."),
        (f, 1) => format!("{f} check failed, the only one."),
        (f, n) => format!("{f} of {n} checks failed."),
    }
}

/// What accuracy is called: with the metric, unless there is none.
pub fn metric_title(metric: &str) -> &str {
    match metric {
        "exact" => "exact match",
        "vqa" => "VQA score",
        "anls" => "ANLS",
        "yes_no" => "yes/no",
        "relaxed_number" => "relaxed number",
        "mixed" => "a metric per sample",
        other => other,
    }
}

/// Score of the float model's answers and of the artifact's, where both are there.
pub fn accuracies(measured: &Measured) -> Option<(Interval, Interval)> {
    measured.accuracy_float.zip(measured.accuracy)
}

/// One step from the float model to the artifact, as a piece of the whole difference.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// Name for people.
    pub title: String,
    /// Divergence before and behind it; absent where it was not measured. What such a step adds is in the next one that was.
    pub span: Option<(f64, f64)>,
    /// What it is, or why there is no number.
    pub text: String,
}

/// The causes of the difference as steps, the first from zero.
pub fn steps(attribution: &Attribution) -> Vec<Step> {
    let mut before = 0.0;
    let step = |cause: &super::report::Cause| {
        let span = cause.kld.map(|kld| (std::mem::replace(&mut before, kld), kld));
        Step { title: cause_title(&cause.name), span, text: cause.text.clone() }
    };
    attribution.causes.iter().map(step).collect()
}

/// What a step adds, with its sign: `+0.0120`.
pub fn added((from, to): (f64, f64)) -> String {
    let change = to - from;
    if change < 0.0 { format!("\u{2212}{}", number(-change)) } else { format!("+{}", number(change)) }
}

/// Name of a cause for people; one that is not known keeps its own.
fn cause_title(name: &str) -> String {
    match name {
        "preprocessing" => "Preprocessing",
        "float_conversion" => "Float conversion",
        "weights" => "Weights",
        "activations" => "Activations",
        "runtime" => "Runtime arithmetic",
        other => other,
    }
    .into()
}

/// What stands in place of an answer that has no characters.
pub const NO_ANSWER: &str = "(empty)";

/// Text with control characters made visible, so that nothing in a report moves a cursor or ends a line elsewhere. Line breaks and tabs stay.
pub fn visible(text: &str) -> String {
    let shown = |c: char| match c {
        '\n' | '\t' => c,
        '\0'..='\u{1f}' => char::from_u32(0x2400 + c as u32).unwrap_or('\u{fffd}'),
        '\u{7f}' => '\u{2421}',
        '\u{80}'..='\u{9f}' => '\u{fffd}',
        _ => c,
    };
    text.chars().map(shown).collect()
}

/// At most `limit` characters of a text in one line; what is left out is told by an ellipsis.
pub fn shortened(text: &str, limit: usize) -> String {
    let line = visible(text).split_whitespace().collect::<Vec<_>>().join(" ");
    if line.chars().count() <= limit {
        return line;
    }
    let kept: String = line.chars().take(limit.saturating_sub(1)).collect();
    format!("{}\u{2026}", kept.trim_end())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_three_digits() {
        let numbers = [
            0.0,
            1.0,
            0.1,
            0.099_999,
            0.012_345,
            0.001,
            0.000_3,
            3e-7,
            9.996,
            12.34,
            99.96,
            1234.0,
            2e6,
            -0.25,
            f64::NAN,
            f64::INFINITY,
        ];
        let found: Vec<String> = numbers.into_iter().map(number).collect();
        let expected = [
            "0",
            "1.00",
            "0.100",
            "0.100",
            "0.0123",
            "0.00100",
            "3.00e-4",
            "3.00e-7",
            "10.0",
            "12.3",
            "100",
            "1234",
            "2.00e6",
            "-0.250",
            "not a number",
            "infinite",
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn shares_do_not_round_to_all_or_none() {
        let shares = [0.0, 1.0, 0.973, 0.000_2, 0.999_97, 0.5, -0.012];
        let found: Vec<String> = shares.into_iter().map(percent).collect();
        assert_eq!(found, ["0 %", "100 %", "97.3 %", "0.0200 %", "99.997 %", "50.0 %", "-1.2 %"]);
    }

    #[test]
    fn a_failure_has_number_limit_and_reason() {
        let mut check = Check {
            name: "min_top1".into(),
            passed: false,
            measured: Some(0.9),
            limit: Some(0.99),
            text: "The decoder is at fault.".into(),
        };
        assert_eq!(
            failure(&check),
            "Same next token (top-1): 90.0 %, allowed is at least 99 %. The decoder is at fault."
        );
        (check.name, check.measured, check.limit) = ("image_swap".into(), None, None);
        assert_eq!(failure(&check), "Image changes the answer: The decoder is at fault.");
    }

    #[test]
    fn limits_are_told_as_they_were_typed() {
        let found = [
            Unit::Plain.chosen(0.05),
            Unit::Plain.chosen(2e-6),
            Unit::Plain.chosen(100.0),
            Unit::Share.chosen(0.975),
            Unit::Points.chosen(0.01),
            Unit::Points.tell(0.438),
            Unit::Share.ends(&Interval { value: 0.5, low: 0.25, high: 1.0 }),
        ];
        assert_eq!(found, ["0.05", "2e-6", "100", "97.5 %", "1 point", "43.8 points", "25.0 to 100 %"]);
    }

    #[test]
    fn a_step_without_a_number_is_part_of_the_next() {
        let cause =
            |name: &str, kld| super::super::report::Cause { name: name.into(), kld, text: String::new() };
        let attribution = Attribution {
            embeddings: None,
            samples: 1,
            causes: vec![
                cause("weights", Some(0.5)),
                cause("activations", None),
                cause("runtime", Some(0.25)),
            ],
            components: vec![],
            layers: vec![],
            linears: vec![],
        };
        let steps = steps(&attribution);
        let spans: Vec<_> = steps.iter().map(|s| s.span).collect();
        assert_eq!(spans, [Some((0.0, 0.5)), None, Some((0.5, 0.25))]);
        assert_eq!((added((0.0, 0.5)), added((0.5, 0.25))), ("+0.500".into(), "\u{2212}0.250".into()));
    }

    #[test]
    fn control_characters_are_seen_and_lines_are_short() {
        assert_eq!(visible("a\u{1b}[2J\nb\u{7f}"), "a\u{241b}[2J\nb\u{2421}");
        assert_eq!(shortened("a\n b\tc", 9), "a b c");
        assert_eq!(shortened("abcdef ghij", 8), "abcdef\u{2026}");
    }
}
