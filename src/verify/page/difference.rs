//! Where two answers differ, word by word: the longest common subsequence of their words.

use serde::Serialize;

/// A stretch of a text that is, or is not, in the other one too.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Piece {
    /// Its characters.
    pub text: String,
    /// Whether the other text does not have it at this place.
    pub differs: bool,
}

/// Most pairs of words that are compared. Above, all between the common beginning and the common end counts as different.
const PAIRS: usize = 1 << 22;

/// Both texts in pieces; each text's pieces joined are the text.
pub fn compare(a: &str, b: &str) -> (Vec<Piece>, Vec<Piece>) {
    let (a, b) = (words(a), words(b));
    let head = a.iter().zip(&b).take_while(|(x, y)| x == y).count();
    let tail = a[head..].iter().rev().zip(b[head..].iter().rev()).take_while(|(x, y)| x == y).count();
    let (middle_a, middle_b) = (&a[head..a.len() - tail], &b[head..b.len() - tail]);
    let (common_a, common_b) = common(middle_a, middle_b);
    let marked = |words: &[&str], common: &[bool]| {
        let differs = |i: usize| (head..words.len() - tail).contains(&i) && !common[i - head];
        let mut pieces: Vec<Piece> = vec![];
        for (i, word) in words.iter().enumerate() {
            match pieces.last_mut() {
                Some(last) if last.differs == differs(i) => last.text += word,
                _ => pieces.push(Piece { text: (*word).to_string(), differs: differs(i) }),
            }
        }
        pieces
    };
    (marked(&a, &common_a), marked(&b, &common_b))
}

/// Runs of letters and digits, runs of white space, and every other character by itself. In scripts without spaces a character is a word.
fn words(text: &str) -> Vec<&str> {
    let kind = |c: char| match c {
        '\u{2e80}'..='\u{9fff}' | '\u{f900}'..='\u{faff}' | '\u{20000}'..='\u{3ffff}' => 0,
        c if c.is_alphanumeric() => 1,
        c if c.is_whitespace() => 2,
        _ => 0,
    };
    let mut words = vec![];
    let mut start = 0;
    let mut before = None;
    for (at, c) in text.char_indices() {
        let kind = kind(c);
        if before.is_some_and(|b| b != kind || kind == 0) {
            words.push(&text[start..at]);
            start = at;
        }
        before = Some(kind);
    }
    if start < text.len() {
        words.push(&text[start..]);
    }
    words
}

/// For each word of both lists, whether it is in their longest common subsequence.
fn common(a: &[&str], b: &[&str]) -> (Vec<bool>, Vec<bool>) {
    let mut found = (vec![false; a.len()], vec![false; b.len()]);
    let columns = b.len() + 1;
    if (a.len() + 1).saturating_mul(columns) > PAIRS {
        return found;
    }
    // Length of the longest common subsequence of a[i..] and b[j..].
    let mut longest = vec![0u32; (a.len() + 1) * columns];
    for i in (0..a.len()).rev() {
        for j in (0..b.len()).rev() {
            longest[i * columns + j] = if a[i] == b[j] {
                longest[(i + 1) * columns + j + 1] + 1
            } else {
                longest[(i + 1) * columns + j].max(longest[i * columns + j + 1])
            };
        }
    }
    let (mut i, mut j) = (0, 0);
    while i < a.len() && j < b.len() {
        if a[i] == b[j] {
            (found.0[i], found.1[j]) = (true, true);
            (i, j) = (i + 1, j + 1);
        } else if longest[(i + 1) * columns + j] >= longest[i * columns + j + 1] {
            i += 1;
        } else {
            j += 1;
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Differing pieces in brackets.
    fn shown(a: &str, b: &str) -> (String, String) {
        let show = |pieces: Vec<Piece>| {
            let piece = |p: Piece| if p.differs { format!("[{}]", p.text) } else { p.text };
            pieces.into_iter().map(piece).collect::<String>()
        };
        let (a, b) = compare(a, b);
        (show(a), show(b))
    }

    #[test]
    fn words_that_differ_are_marked_in_both() {
        let cases = [
            ("the red bus", "the blue bus", "the [red] bus", "the [blue] bus"),
            ("H7", "H7", "H7", "H7"),
            ("H7", "H1", "[H7]", "[H1]"),
            ("", "x", "", "[x]"),
            ("", "", "", ""),
            ("a b c d", "a x c y d", "a [b] c d", "a [x] c[ y] d"),
            ("no.", "no, sir.", "no.", "no[, sir]."),
            ("红色的车", "蓝色的车", "[红]色的车", "[蓝]色的车"),
        ];
        for (a, b, shown_a, shown_b) in cases {
            assert_eq!(shown(a, b), (shown_a.to_string(), shown_b.to_string()));
        }
    }

    #[test]
    fn long_texts_are_compared_at_their_ends_only() {
        let long = |word: &str| format!("same {}end", format!("{word} ").repeat(3000));
        let (a, b) = compare(&long("x y"), &long("y z"));
        assert_eq!(a.len(), 3, "{a:?}");
        assert_eq!((a[0].text.as_str(), a[1].differs, b[2].text.as_str()), ("same ", true, " end"));
    }
}
