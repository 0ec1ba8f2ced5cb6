//! Task metrics: how good an answer is by what was expected, from 0 to 1, as the benchmarks that the names stand for define it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How answers are scored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Metric {
    /// 1 for the expected text but for spaces around it.
    #[default]
    Exact,
    /// VQA accuracy (Antol et al., "VQA: Visual Question Answering", 2015, section 3; texts normalised as its evaluation code does).
    Vqa,
    /// Average normalised Levenshtein similarity with threshold 0.5 (Biten et al., "Scene Text Visual Question Answering", 2019, section 4).
    Anls,
    /// 1 where both texts begin with the same of `yes` and `no` (POPE, MME).
    YesNo,
    /// Numbers within 5 % of the expected one, other texts exactly (ChartQA, Masry et al. 2022, section 5).
    RelaxedNumber,
}

impl Metric {
    /// All metrics.
    pub const ALL: [Metric; 5] =
        [Metric::Exact, Metric::Vqa, Metric::Anls, Metric::YesNo, Metric::RelaxedNumber];

    /// Name in flags, data sets and reports.
    pub fn name(self) -> &'static str {
        match self {
            Metric::Exact => "exact",
            Metric::Vqa => "vqa",
            Metric::Anls => "anls",
            Metric::YesNo => "yes_no",
            Metric::RelaxedNumber => "relaxed_number",
        }
    }

    /// The metric of a name; capitals and dashes are taken as they come.
    pub fn named(name: &str) -> Option<Self> {
        let name = name.trim().to_lowercase().replace(['-', ' '], "_");
        Self::ALL.into_iter().find(|m| m.name() == name)
    }

    /// Score of `answer`, where any of `expected` is right.
    pub fn score(self, answer: &str, expected: &[String]) -> f64 {
        match self {
            Metric::Exact => f64::from(expected.iter().any(|e| e.trim() == answer.trim())),
            Metric::Vqa => vqa(answer, expected),
            Metric::Anls => expected.iter().map(|e| similarity(answer, e)).fold(0.0, f64::max),
            Metric::YesNo => {
                let said = yes_no(answer);
                f64::from(said.is_some() && expected.iter().any(|e| yes_no(e) == said))
            }
            Metric::RelaxedNumber => f64::from(expected.iter().any(|e| relaxed(answer, e))),
        }
    }
}

/// The answers that a data set's cell holds: a list of strings in JSON or as Python prints it, or the text itself.
pub fn expected_answers(text: &str) -> Vec<String> {
    let trimmed = text.trim();
    if let Ok(list) = serde_json::from_str::<Vec<String>>(trimmed)
        && !list.is_empty()
    {
        return list;
    }
    python_list(trimmed).unwrap_or_else(|| vec![text.to_string()])
}

/// The strings of a list such as `['a', "it's"]`; none where the text is not one.
fn python_list(text: &str) -> Option<Vec<String>> {
    let mut rest = text.strip_prefix('[')?.strip_suffix(']')?.trim();
    let mut found = Vec::new();
    while !rest.is_empty() {
        let quote = rest.chars().next().filter(|c| matches!(c, '\'' | '"'))?;
        let (mut item, mut escaped, mut end) = (String::new(), false, None);
        for (at, c) in rest.char_indices().skip(1) {
            match c {
                _ if escaped => {
                    item.push(c);
                    escaped = false;
                }
                '\\' => escaped = true,
                _ if c == quote => {
                    end = Some(at + 1);
                    break;
                }
                _ => item.push(c),
            }
        }
        found.push(item);
        rest = rest[end?..].trim_start();
        rest = match rest.strip_prefix(',') {
            Some(more) => more.trim_start(),
            None if rest.is_empty() => rest,
            None => return None,
        };
    }
    (!found.is_empty()).then_some(found)
}

/// Accuracy averaged over the sets that leave one expected answer out: `min(1, agreeing / 3)` with ten answers of people. One to three answers have no
/// such sets worth the name: any of them is right.
fn vqa(answer: &str, expected: &[String]) -> f64 {
    let said = normalised(answer);
    let agrees: Vec<bool> = expected.iter().map(|e| normalised(e) == said).collect();
    let agreeing = agrees.iter().filter(|a| **a).count();
    if expected.len() <= 3 {
        return f64::from(agreeing > 0);
    }
    let without = |own: &bool| ((agreeing - usize::from(*own)) as f64 / 3.0).min(1.0);
    agrees.iter().map(without).sum::<f64>() / agrees.len() as f64
}

/// Lower case, numbers as digits, no articles, no punctuation, single spaces.
fn normalised(text: &str) -> String {
    const NUMBERS: [&str; 11] =
        ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"];
    let mut cleaned = String::new();
    let chars: Vec<char> = text.to_lowercase().chars().collect();
    for (i, &c) in chars.iter().enumerate() {
        let digit = |at: Option<usize>| at.and_then(|at| chars.get(at)).is_some_and(char::is_ascii_digit);
        // A point or comma between digits is part of the number, an apostrophe part of the word.
        let inside = digit(i.checked_sub(1)) && digit(Some(i + 1));
        match c {
            '.' if inside => cleaned.push(c),
            ',' if inside => {}
            '\'' => cleaned.push(c),
            _ if c.is_alphanumeric() => cleaned.push(c),
            _ => cleaned.push(' '),
        }
    }
    let word = |w: &str| match NUMBERS.iter().position(|n| *n == w) {
        _ if w == "none" => Some("0".to_string()),
        Some(n) => Some(n.to_string()),
        None => (!["a", "an", "the"].contains(&w)).then(|| w.to_string()),
    };
    cleaned.split_whitespace().filter_map(word).collect::<Vec<_>>().join(" ")
}

/// `1 - distance / length` in lower case, 0 where that is below one half.
fn similarity(answer: &str, expected: &str) -> f64 {
    let plain = |t: &str| t.trim().to_lowercase();
    let (a, b) = (plain(answer), plain(expected));
    let length = a.chars().count().max(b.chars().count());
    if length == 0 {
        return 1.0;
    }
    let near = 1.0 - strsim::levenshtein(&a, &b) as f64 / length as f64;
    if near < 0.5 { 0.0 } else { near }
}

fn yes_no(text: &str) -> Option<bool> {
    let lower = text.to_lowercase();
    let first = lower.split(|c: char| !c.is_alphanumeric()).find(|w| !w.is_empty())?;
    match first {
        "yes" => Some(true),
        "no" => Some(false),
        _ => None,
    }
}

/// Both are numbers and differ by at most 5 % of the expected one, or the texts are equal in lower case.
fn relaxed(answer: &str, expected: &str) -> bool {
    match (number(answer), number(expected)) {
        (Some(a), Some(e)) if e != 0.0 => (a - e).abs() <= 0.05 * e.abs(),
        (Some(a), Some(e)) => a == e,
        _ => answer.trim().to_lowercase() == expected.trim().to_lowercase(),
    }
}

/// A number as charts print it: separators of thousands, a currency before it, a percent sign (a hundredth) behind it.
fn number(text: &str) -> Option<f64> {
    let plain = text.trim().trim_start_matches(['$', '€', '£', '¥']).replace(',', "");
    let (digits, scale) = match plain.strip_suffix('%') {
        Some(digits) => (digits.trim(), 0.01),
        None => (plain.trim(), 1.0),
    };
    digits.parse::<f64>().ok().filter(|x| x.is_finite()).map(|x| x * scale)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn score(metric: Metric, answer: &str, expected: &[&str]) -> f64 {
        metric.score(answer, &expected.iter().map(|e| e.to_string()).collect::<Vec<_>>())
    }

    #[test]
    fn exact_is_exact() {
        assert_eq!(score(Metric::Exact, " H7\n", &["H7"]), 1.0);
        assert_eq!(score(Metric::Exact, "h7", &["H7"]), 0.0);
        assert_eq!(score(Metric::Exact, "b", &["a", "b"]), 1.0);
    }

    #[test]
    fn vqa_counts_people_who_agree() {
        let ten = |agree: usize| {
            let answers: Vec<&str> = (0..10).map(|i| if i < agree { "Two dogs." } else { "cat" }).collect();
            score(Metric::Vqa, "the 2 dogs", &answers)
        };
        // Of ten sets of nine, those with the agreeing person left out count one less.
        let want = [0.0, 0.3, 0.6, 0.9, 1.0];
        for (agree, want) in want.into_iter().enumerate() {
            assert!((ten(agree) - want).abs() < 1e-12, "{agree}: {} {want}", ten(agree));
        }
        assert_eq!(score(Metric::Vqa, "1,000.5", &["1000.5"]), 1.0);
        assert_eq!(score(Metric::Vqa, "it's", &["its"]), 0.0);
        assert_eq!(score(Metric::Vqa, "none", &["0", "some"]), 1.0);
    }

    #[test]
    fn anls_forgives_few_letters() {
        assert_eq!(score(Metric::Anls, "Hello", &["hello"]), 1.0);
        assert!((score(Metric::Anls, "hallo", &["hello"]) - 0.8).abs() < 1e-12);
        assert_eq!(score(Metric::Anls, "halts", &["hello"]), 0.0);
        assert!((score(Metric::Anls, "ab", &["xy", "ac"]) - 0.5).abs() < 1e-12);
        assert_eq!(score(Metric::Anls, "", &[""]), 1.0);
    }

    #[test]
    fn yes_and_no_are_first_words() {
        assert_eq!(score(Metric::YesNo, "Yes, there is a cat.", &["yes"]), 1.0);
        assert_eq!(score(Metric::YesNo, "\"No\"", &["No."]), 1.0);
        assert_eq!(score(Metric::YesNo, "Not really", &["no"]), 0.0);
        assert_eq!(score(Metric::YesNo, "maybe", &["maybe"]), 0.0);
    }

    #[test]
    fn numbers_may_be_five_percent_off() {
        assert_eq!(score(Metric::RelaxedNumber, "104.9", &["100"]), 1.0);
        assert_eq!(score(Metric::RelaxedNumber, "105.1", &["100"]), 0.0);
        assert_eq!(score(Metric::RelaxedNumber, "$1,020", &["1000"]), 1.0);
        assert_eq!(score(Metric::RelaxedNumber, "52 %", &["0.5"]), 1.0);
        assert_eq!(score(Metric::RelaxedNumber, "0.01", &["0"]), 0.0);
        assert_eq!(score(Metric::RelaxedNumber, "Blue", &["blue"]), 1.0);
        assert_eq!(score(Metric::RelaxedNumber, "inf", &["inf"]), 1.0);
    }

    #[test]
    fn cells_may_hold_lists() {
        assert_eq!(expected_answers("[\"a\", \"b\"]"), ["a", "b"]);
        assert_eq!(expected_answers("['a', \"it's\", 'it\\'s']"), ["a", "it's", "it's"]);
        for text in ["[red]", "H7", "[]", "['a' 'b']", "['a", "['", "[1, 2]"] {
            assert_eq!(expected_answers(text), [text], "{text}");
        }
    }

    #[test]
    fn metrics_are_found_by_name() {
        for metric in Metric::ALL {
            assert_eq!(Metric::named(metric.name()), Some(metric));
        }
        assert_eq!(Metric::named("Yes-No"), Some(Metric::YesNo));
        assert_eq!(Metric::named("bleu"), None);
    }
}
