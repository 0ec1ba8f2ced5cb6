//! Numbers and tables as people read them. Exact numbers are in the JSON output.

use std::time::Duration;

use crate::quantize::RotationNote;

/// A count in full, its digits in groups of three: `2,208,985,600`.
pub fn count(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (i, c) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(c);
    }
    out
}

/// A size in decimal units, as the Hugging Face hub and disks state it: `4.42 GB`.
pub fn bytes(n: u64) -> String {
    let units = [(1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")];
    // 999,996 bytes would round to `1000 kB`.
    match units.into_iter().find(|(unit, _)| n as f64 >= unit * 0.9995) {
        Some((unit, name)) => format!("{} {name}", three_digits(n as f64 / unit)),
        None => plural(n as usize, "byte"),
    }
}

fn three_digits(x: f64) -> String {
    let decimals = if x < 9.995 { 2 } else { usize::from(x < 99.95) };
    format!("{x:.decimals$}")
}

/// `part` of `whole` in percent, rounded; empty when there is no whole.
pub fn percent(part: u64, whole: u64) -> String {
    if whole == 0 { String::new() } else { format!("{:.0} %", part as f64 * 100.0 / whole as f64) }
}

/// A time span in its two largest units: `8 s`, `3 min 05 s`, `2 h 07 min`.
pub fn duration(span: Duration) -> String {
    let s = span.as_secs_f64().round() as u64;
    match s {
        0..60 => format!("{s} s"),
        60..3600 => format!("{} min {:02} s", s / 60, s % 60),
        _ => format!("{} h {:02} min", s / 3600, s % 3600 / 60),
    }
}

/// A number of things with its noun: `1 file`, `2 files`.
pub fn plural(n: usize, noun: &str) -> String {
    if n == 1 { format!("1 {noun}") } else { format!("{} {noun}s", count(n as u64)) }
}

/// One line of a list of properties; names stand in one column.
pub fn property(name: &str, value: impl AsRef<str>) -> String {
    format!("{name:<12} {}", value.as_ref()).trim_end().to_string()
}

/// What is rotated, and what is not and why.
pub fn rotations(notes: &[RotationNote]) -> Vec<String> {
    let line = |note: &RotationNote| match (&note.matrix, &note.reason) {
        (Some(matrix), _) => {
            let gain = note.gate.map(|g| {
                let (with, without) = (100.0 * g.rotated, 100.0 * g.left);
                format!(" (expected error {with:.3} % with it, {without:.3} % without)")
            });
            property("rotated", format!("{}: {matrix}{}", note.what, gain.unwrap_or_default()))
        }
        (None, reason) => {
            let reason = reason.as_deref().unwrap_or_default();
            property("not rotated", format!("{}: {reason}", note.what))
        }
    };
    notes.iter().map(line).collect()
}

/// Rows as indented columns; those named in `right` are aligned to the right. Rows may be of different length.
pub fn table(rows: &[Vec<String>], right: &[usize]) -> Vec<String> {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |c: usize| rows.iter().filter_map(|r| r.get(c)).map(|s| s.chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().enumerate().map(|(c, cell)| {
            let w = widths[c];
            if right.contains(&c) { format!("{cell:>w$}") } else { format!("{cell:<w$}") }
        });
        format!("  {}", cells.collect::<Vec<_>>().join("  ")).trim_end().to_string()
    };
    rows.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_grouped() {
        let found: Vec<String> = [0, 999, 1000, 2_208_985_600].into_iter().map(count).collect();
        assert_eq!(found, ["0", "999", "1,000", "2,208,985,600"]);
        assert_eq!((plural(1, "file"), plural(0, "file")), ("1 file".into(), "0 files".into()));
    }

    #[test]
    fn sizes_have_three_digits() {
        let sizes = [0, 1, 999, 1000, 9_994, 12_345, 999_400, 999_996, 4_418_050_848, 1_500_000_000_000];
        let found: Vec<String> = sizes.into_iter().map(bytes).collect();
        let expected = [
            "0 bytes",
            "1 byte",
            "999 bytes",
            "1.00 kB",
            "9.99 kB",
            "12.3 kB",
            "999 kB",
            "1.00 MB",
            "4.42 GB",
            "1.50 TB",
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn spans_have_two_units() {
        let spans = [0.4, 12.0, 59.6, 185.0, 3600.0, 7620.0];
        let found: Vec<String> = spans.into_iter().map(|s| duration(Duration::from_secs_f64(s))).collect();
        assert_eq!(found, ["0 s", "12 s", "1 min 00 s", "3 min 05 s", "1 h 00 min", "2 h 07 min"]);
    }

    #[test]
    fn columns_line_up() {
        let row = |a: &str, b: &str, c: &str| vec![a.to_string(), b.to_string(), c.to_string()];
        let lines = table(&[row("vision", "5", "BF16"), row("decoder", "1,000", "F32")], &[1]);
        assert_eq!(lines, ["  vision       5  BF16", "  decoder  1,000  F32"]);
        assert!(table(&[], &[]).is_empty());
    }

    #[test]
    fn percents() {
        assert_eq!((percent(1, 3), percent(1, 0)), ("33 %".into(), String::new()));
    }
}
