//! Reader of the safetensors header: length field, JSON, one entry per tensor. The byte ranges are checked in
//! `layout.rs`; the data is never touched.
//!
//! Layout (safetensors README, "Format"): 8 bytes little-endian header length N, N bytes of UTF-8 JSON that begin
//! with `{` and may end in spaces, then the data. An entry is `"name": {"dtype", "shape", "data_offsets": [begin, end]}`
//! with offsets relative to the data; `"__metadata__"` is an optional map of strings.
//!
//! Why not the `safetensors` crate, which reads the same format well: it stops at the first problem, and its errors
//! carry neither sizes nor (mostly) the tensor. A user with a broken checkpoint of 700 tensors needs all of them in one
//! list. The crate is the oracle instead: tests here read what it writes, and compare verdicts on broken headers.

use std::collections::HashSet;
use std::fmt;

use serde::Deserialize;
use serde::de::{Error as _, MapAccess, Visitor};

use super::dtype::Dtype;
use super::layout;
use super::problem::Problem;

/// Longest header accepted, in bytes: the limit of the reference implementation. The largest known real headers are a
/// few MB. Parsing takes at most a small multiple of it in memory.
pub const MAX_HEADER: u64 = 100_000_000;

/// Bytes of the length field in front of the header.
pub const LENGTH_FIELD: u64 = 8;

/// One tensor as the header describes it, its byte range checked against shape, type and file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorEntry {
    /// Name in the file.
    pub name: String,
    /// Stored element type.
    pub dtype: Dtype,
    /// Extents, outermost first; empty for a scalar.
    pub shape: Vec<usize>,
    /// First byte, from the start of the file.
    pub begin: u64,
    /// One past the last byte, from the start of the file.
    pub end: u64,
}

/// Length of the header text of a file of `len` bytes that begins with `field`: [`LENGTH_FIELD`] bytes, or all there are. `file` is its name
/// for messages. The text is inside the file, so its length is safe to allocate.
///
/// # Errors
/// The [`Problem`] of a file too short for its header, or of a header longer than [`MAX_HEADER`].
pub fn text_len(file: &str, field: &[u8], len: u64) -> Result<usize, Problem> {
    let file = || file.to_owned();
    let Ok(field) = field.try_into() else {
        return Err(Problem::TooShort { file: file(), len });
    };
    let text = u64::from_le_bytes(field);
    if text > MAX_HEADER {
        return Err(Problem::HeaderTooLarge { file: file(), len: text, cap: MAX_HEADER });
    }
    let found = len.saturating_sub(LENGTH_FIELD);
    // `MAX_HEADER` fits every `usize` there is.
    match usize::try_from(text) {
        Ok(length) if text <= found => Ok(length),
        _ => Err(Problem::HeaderPastEnd { file: file(), len: text, found }),
    }
}

/// Reads and checks the header text of a safetensors file of `len` bytes; `file` is its name for messages.
/// Returns the tensors in order of their data. Never panics and never allocates by an unchecked number.
///
/// # Errors
/// Everything that is wrong with the header, at least one [`Problem`]. Text that is not a header at all ends the list
/// early, since nothing behind it can be trusted.
pub fn parse(file: &str, text: &[u8], len: u64) -> Result<Vec<TensorEntry>, Vec<Problem>> {
    let data_start = LENGTH_FIELD + text.len() as u64;
    let text = as_json(file, text).map_err(|problem| vec![problem])?;
    let raw: RawHeader = serde_json::from_str(text)
        .map_err(|cause| vec![Problem::HeaderJson { file: file.to_owned(), cause }])?;
    let mut problems = Vec::new();
    let mut seen = HashSet::new();
    for (name, _) in &raw.entries {
        if !seen.insert(name.as_str()) {
            problems.push(Problem::DuplicateTensor { file: file.to_owned(), tensor: name.clone() });
        }
    }
    let data = data_start..len.max(data_start);
    let entries = layout::check(file, raw.entries, data, &mut problems);
    if problems.is_empty() { Ok(entries) } else { Err(problems) }
}

/// Header bytes that may be JSON: they begin as the format asks and are UTF-8.
fn as_json<'a>(file: &str, header: &'a [u8]) -> Result<&'a str, Problem> {
    let file = || file.to_owned();
    match header.first() {
        Some(b'{') => {}
        found => return Err(Problem::HeaderStart { file: file(), found: found.copied().unwrap_or(0) }),
    }
    std::str::from_utf8(header).map_err(|error| {
        let at = error.valid_up_to();
        let near = &header[at.saturating_sub(24)..header.len().min(at + 24)];
        Problem::HeaderNotUtf8 {
            file: file(),
            offset: LENGTH_FIELD as usize + at,
            near: near.escape_ascii().to_string().replace("\\\"", "'"),
        }
    })
}

/// One entry as written, before any check. Unknown keys are ignored, as the reference implementation does.
#[derive(Debug, Deserialize)]
pub(super) struct RawEntry {
    pub(super) dtype: String,
    pub(super) shape: Vec<u64>,
    pub(super) data_offsets: (u64, u64),
}

/// The header as written: entries in file order, duplicates included.
struct RawHeader {
    entries: Vec<(String, RawEntry)>,
}

impl<'de> Deserialize<'de> for RawHeader {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(HeaderVisitor)
    }
}

/// Keeps duplicate keys, which a map type would silently merge, and puts the tensor's name into type errors.
struct HeaderVisitor;

impl<'de> Visitor<'de> for HeaderVisitor {
    type Value = RawHeader;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with one entry per tensor")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<RawHeader, A::Error> {
        let mut entries = Vec::new();
        let mut has_metadata = false;
        while let Some(name) = map.next_key::<String>()? {
            if name == "__metadata__" {
                if std::mem::replace(&mut has_metadata, true) {
                    return Err(A::Error::custom("`__metadata__` occurs twice"));
                }
                // Only its form matters: nothing here reads the metadata.
                map.next_value::<Option<std::collections::HashMap<String, String>>>().map_err(|e| {
                    A::Error::custom(format_args!("`__metadata__` must map strings to strings: {e}"))
                })?;
            } else {
                let entry =
                    map.next_value().map_err(|e| A::Error::custom(format_args!("tensor {name:?}: {e}")))?;
                entries.push((name, entry));
            }
        }
        Ok(RawHeader { entries })
    }
}

#[cfg(test)]
mod tests;
