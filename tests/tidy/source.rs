//! A Rust file with its comments and strings told apart from its code, so that text does not mislead the rules. This is no parser:
//! it knows comments, literals and matching braces, which is enough for what is asked here.

/// One problem, at a line from 1 (0: the file as a whole).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    pub path: String,
    pub line: usize,
    pub what: String,
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}: {}", self.path, self.line, self.what)
    }
}

/// A Rust file. `code` and `shown` have the same bytes per line as `text`, blanks in the place of what is left out.
pub struct Source {
    /// Path from the repository root, with `/`.
    pub path: String,
    /// The file as it is.
    pub text: String,
    /// Without comments and without literals of text.
    pub code: String,
    /// Without comments only.
    pub shown: String,
    /// Byte ranges of `#[cfg(test)]` items.
    tests: Vec<std::ops::Range<usize>>,
}

impl Source {
    pub fn new(path: &str, text: &str) -> Self {
        let (code, shown) = mask(text);
        let whole = path.ends_with("/tests.rs") || path.contains("/tests/") || code.contains("#![cfg(test)]");
        let tests = if whole { std::iter::once(0..code.len()).collect() } else { test_items(&code) };
        Self { path: path.to_owned(), text: text.to_owned(), code, shown, tests }
    }

    pub fn problem(&self, offset: usize, what: impl Into<String>) -> Problem {
        Problem { path: self.path.clone(), line: self.line(offset), what: what.into() }
    }

    /// Line (from 1) of a byte offset.
    pub fn line(&self, offset: usize) -> usize {
        1 + self.text.as_bytes()[..offset].iter().filter(|b| **b == b'\n').count()
    }

    /// `offset` lies in an item under `#[cfg(test)]`, or in a file of tests.
    pub fn in_test(&self, offset: usize) -> bool {
        self.tests.iter().any(|r| r.contains(&offset))
    }

    /// Offsets at which `needle` occurs in the code, not as the tail of a longer name.
    pub fn find(&self, needle: &str) -> Vec<usize> {
        find(&self.code, needle)
    }
}

/// Offsets of `needle` in `code`; where the needle starts (ends) like a name, the byte before (after) must not go on with one.
pub fn find(code: &str, needle: &str) -> Vec<usize> {
    let bytes = code.as_bytes();
    let named = |at: Option<usize>| at.and_then(|i| bytes.get(i)).is_some_and(|b| is_name(*b));
    let (starts, ends) = (needle.starts_with(name_char), needle.ends_with(name_char));
    code.match_indices(needle)
        .map(|(i, _)| i)
        .filter(|i| !starts || !named(i.checked_sub(1)))
        .filter(|i| !ends || !named(Some(i + needle.len())))
        .collect()
}

pub fn is_name(byte: u8) -> bool {
    byte == b'_' || byte.is_ascii_alphanumeric()
}

fn name_char(c: char) -> bool {
    c == '_' || c.is_ascii_alphanumeric()
}

/// Where the body `{` of the item that starts at `from` is; `None` for an item that ends with `;`.
pub fn body(code: &str, from: usize) -> Option<usize> {
    let mut depth = 0usize;
    for (i, b) in code.bytes().enumerate().skip(from) {
        match b {
            b'(' | b'[' => depth += 1,
            b')' | b']' => depth = depth.saturating_sub(1),
            b'{' if depth == 0 => return Some(i),
            b';' if depth == 0 => return None,
            _ => {}
        }
    }
    None
}

/// Where the brace opened at `open` is closed; the end of the file when it never is.
pub fn closing(code: &str, open: usize) -> usize {
    let mut depth = 0usize;
    for (i, b) in code.bytes().enumerate().skip(open) {
        match b {
            b'{' => depth += 1,
            b'}' if depth <= 1 => return i,
            b'}' => depth -= 1,
            _ => {}
        }
    }
    code.len().saturating_sub(1)
}

fn test_items(code: &str) -> Vec<std::ops::Range<usize>> {
    let mark = "#[cfg(test)]";
    let item = |(start, _): (usize, &str)| {
        let after = start + mark.len();
        start..body(code, after).map_or(after, |open| closing(code, open) + 1)
    };
    code.match_indices(mark).map(item).collect()
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Code,
    Comment,
    Literal,
}

/// `(code, shown)`, see [`Source`].
fn mask(text: &str) -> (String, String) {
    let bytes = text.as_bytes();
    let (mut code, mut shown) = (bytes.to_vec(), bytes.to_vec());
    let mut i = 0;
    while i < bytes.len() {
        let (kind, end) = token(bytes, i);
        let end = end.min(bytes.len());
        for at in i..end {
            if bytes[at] != b'\n' && kind != Kind::Code {
                code[at] = b' ';
                if kind == Kind::Comment {
                    shown[at] = b' ';
                }
            }
        }
        i = end;
    }
    // Whole literals and comments are blanked, so both stay UTF-8; were one not, the rules would see an odd character.
    (String::from_utf8_lossy(&code).into_owned(), String::from_utf8_lossy(&shown).into_owned())
}

/// Kind and end of the token at `i`; code goes one byte at a time.
fn token(bytes: &[u8], i: usize) -> (Kind, usize) {
    let rest = &bytes[i..];
    let code = (Kind::Code, i + 1);
    match rest[0] {
        b'/' if rest.starts_with(b"//") => {
            (Kind::Comment, i + rest.iter().position(|b| *b == b'\n').unwrap_or(rest.len()))
        }
        b'/' if rest.starts_with(b"/*") => (Kind::Comment, i + block_comment(rest)),
        b'"' => (Kind::Literal, i + quoted(rest, b'"')),
        b'\'' => character(rest).map_or(code, |len| (Kind::Literal, i + len)),
        b'r' | b'b' | b'c' if i == 0 || !is_name(bytes[i - 1]) => {
            prefixed(rest).map_or(code, |len| (Kind::Literal, i + len))
        }
        _ => code,
    }
}

/// Length of a nested block comment.
fn block_comment(rest: &[u8]) -> usize {
    let (mut depth, mut at) = (0usize, 0);
    while at < rest.len() {
        if rest[at..].starts_with(b"/*") {
            (depth, at) = (depth + 1, at + 2);
        } else if rest[at..].starts_with(b"*/") {
            (depth, at) = (depth - 1, at + 2);
            if depth == 0 {
                break;
            }
        } else {
            at += 1;
        }
    }
    at
}

/// Length of a literal that starts and ends with `quote` and knows `\` escapes.
fn quoted(rest: &[u8], quote: u8) -> usize {
    let mut at = 1;
    while at < rest.len() && rest[at] != quote {
        at += if rest[at] == b'\\' { 2 } else { 1 };
    }
    at + 1
}

/// Length of a character literal; `None` for a lifetime.
fn character(rest: &[u8]) -> Option<usize> {
    let first = *rest.get(1)?;
    if first == b'\\' {
        return Some(quoted(rest, b'\''));
    }
    let width = match first {
        0..0x80 => 1,
        0x80..0xe0 => 2,
        0xe0..0xf0 => 3,
        _ => 4,
    };
    (rest.get(1 + width) == Some(&b'\'')).then_some(width + 2)
}

/// Length of a literal with a prefix (`r#".."#`, `b".."`, `c".."`, `b'x'`, `br".."`).
fn prefixed(rest: &[u8]) -> Option<usize> {
    let letters = rest.iter().take(2).take_while(|b| b"rbc".contains(b)).count();
    let raw = rest[..letters].contains(&b'r');
    let hashes = if raw { rest[letters..].iter().take_while(|b| **b == b'#').count() } else { 0 };
    let open = letters + hashes;
    match rest.get(open)? {
        b'"' if raw => {
            let close = [vec![b'"'], vec![b'#'; hashes]].concat();
            let body = &rest[open + 1..];
            let end = body.windows(close.len()).position(|w| w == close).unwrap_or(body.len());
            Some(open + 1 + end + close.len())
        }
        b'"' => Some(open + quoted(&rest[open..], b'"')),
        b'\'' if rest[..letters] == *b"b" => character(&rest[open..]).map(|len| open + len),
        _ => None,
    }
}
