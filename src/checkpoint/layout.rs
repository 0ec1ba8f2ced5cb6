//! Checks of what a safetensors header says about bytes: known types, sizes that fit shapes, ranges that cover the data
//! without overlap or hole. All arithmetic is checked. JSON is read in `header.rs`.
//!
//! Full coverage is part of the format: bytes that belong to no tensor would allow files that are two things at once
//! (safetensors `attacks/`), and an overlap would let one tensor's edit change another.

use std::ops::Range;

use super::dtype::Dtype;
use super::header::{RawEntry, TensorEntry};
use super::problem::Problem;

/// Checks all entries of `file`, whose data is the bytes `data` of it. Returns the sound ones in data order and appends everything else
/// to `problems`.
pub(super) fn check(
    file: &str,
    mut raw: Vec<(String, RawEntry)>,
    data: Range<u64>,
    problems: &mut Vec<Problem>,
) -> Vec<TensorEntry> {
    // Writers order entries as they like; an empty tensor shares its start with the next one and goes first.
    raw.sort_by_key(|(_, entry)| entry.data_offsets);
    check_coverage(file, &raw, data.end - data.start, problems);
    let mut entries = Vec::with_capacity(raw.len());
    for (name, entry) in raw {
        match check_entry(file, &name, &entry, data.start) {
            Ok((dtype, shape, begin, end)) => entries.push(TensorEntry { name, dtype, shape, begin, end }),
            Err(problem) => problems.push(problem),
        }
    }
    entries
}

/// Type, shape and byte range of one entry, the range counted from the start of the file.
type Sound = (Dtype, Vec<usize>, u64, u64);

/// One entry on its own: type, shape and size of its range.
fn check_entry(file: &str, name: &str, entry: &RawEntry, data_start: u64) -> Result<Sound, Problem> {
    let (file, tensor) = (file.to_owned(), name.to_owned());
    let (begin, end) = entry.data_offsets;
    let Some(dtype) = Dtype::from_name(&entry.dtype) else {
        return Err(Problem::UnknownDtype { file, tensor, dtype: entry.dtype.clone() });
    };
    let Some(found) = end.checked_sub(begin) else {
        return Err(Problem::ReversedRange { file, tensor, begin, end });
    };
    let shape: Option<Vec<usize>> = entry.shape.iter().map(|&d| usize::try_from(d).ok()).collect();
    let sized = shape.and_then(|shape| {
        let elements = shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d))?;
        Some((dtype.bytes_for(elements)? as u64, shape))
    });
    let Some((expected, shape)) = sized else {
        return Err(Problem::BadShape { file, tensor, shape: entry.shape.clone(), dtype });
    };
    if expected != found {
        let shape = entry.shape.clone();
        return Err(Problem::WrongSize { file, tensor, dtype, shape, expected, found });
    }
    match (data_start.checked_add(begin), data_start.checked_add(end)) {
        (Some(begin), Some(end)) => Ok((dtype, shape, begin, end)),
        // No file is that long; `check_coverage` says so with the file's length too.
        _ => Err(Problem::WrongSize { file, tensor, dtype, shape: entry.shape.clone(), expected, found }),
    }
}

/// All ranges together, `raw` sorted by offset: each starts where the one before it ends, the last ends with the data.
fn check_coverage(file: &str, raw: &[(String, RawEntry)], data_len: u64, problems: &mut Vec<Problem>) {
    // The furthest end so far and whose it is; an overlap must not hide the next one.
    let mut reached = 0u64;
    let mut reached_by = "";
    // A reversed range covers nothing; `check_entry` names it.
    for (name, entry) in raw.iter().filter(|(_, entry)| entry.data_offsets.0 <= entry.data_offsets.1) {
        let (begin, end) = entry.data_offsets;
        if begin < reached {
            problems.push(Problem::Overlap {
                file: file.to_owned(),
                tensor: name.clone(),
                begin,
                end,
                other: reached_by.to_owned(),
                other_end: reached,
            });
        } else if begin > reached {
            let (tensor, expected) = (name.clone(), reached);
            problems.push(Problem::Hole { file: file.to_owned(), tensor, expected, found: begin });
        }
        if end > reached {
            (reached, reached_by) = (end, name);
        }
    }
    let file = || file.to_owned();
    if reached > data_len {
        let mut cut = raw.iter().filter(|(_, entry)| entry.data_offsets.1 > data_len);
        let tensor = cut.next().map(|(name, _)| name.clone()).unwrap_or_default();
        let count = 1 + cut.count();
        problems.push(Problem::Truncated { file: file(), expected: reached, found: data_len, count, tensor });
    } else if reached < data_len {
        problems.push(Problem::TrailingBytes { file: file(), expected: reached, found: data_len });
    }
}
