//! The checked header of one file: keys and names are unique, and every tensor lies aligned inside the file, on bytes of its own.

use std::collections::HashSet;

use super::cursor::{Cursor, Stop};
use super::error::{Problem, Problems};
use super::parse::{self, Raw};
use super::{Metadata, TensorInfo, layout};
use crate::positioned::PositionedFile;

/// A tensor and its bytes in a file.
#[derive(Clone, Debug, PartialEq)]
pub struct Placed {
    /// Name, sizes and type.
    pub info: TensorInfo,
    /// First byte, from the start of the file.
    pub begin: u64,
    /// Number of bytes.
    pub bytes: u64,
}

/// A header that may be relied on.
pub struct Header {
    /// 2 or 3.
    pub version: u32,
    /// Bytes that tensors begin at a multiple of.
    pub alignment: u64,
    /// Keys and values, in the order of the file.
    pub metadata: Metadata,
    /// Tensors, in the order of the file.
    pub tensors: Vec<Placed>,
}

/// Why a header was refused.
pub enum Refused {
    /// The system refused to read.
    Io(std::io::Error),
    /// Everything that is wrong, at least one.
    Damaged(Problems),
}

/// Reads and checks the header of a file of `length` bytes. Memory is bounded by the length of the header.
///
/// # Errors
/// [`Refused`] with all problems that can be told apart.
pub fn read(file: &PositionedFile, length: u64) -> Result<Header, Refused> {
    let raw = parse::parse(&mut Cursor::new(file, length)).map_err(|stop| match stop {
        Stop::Io(e) => Refused::Io(e),
        Stop::Damaged(problem) => Refused::Damaged(problem.into()),
    })?;
    let Raw { version, metadata, tensors, mut problems, length: header } = raw;
    let mut keys = HashSet::new();
    let repeated = metadata.iter().filter(|(key, _)| !keys.insert(key.as_str()));
    problems.extend(repeated.map(|(key, _)| Problem::key(key, "occurs twice")));
    let alignment = layout::alignment(&metadata).map_err(|p| problems.push(p));
    let start = alignment.ok().and_then(|n| Some((n, header.checked_next_multiple_of(n)?)));
    let mut placed = Vec::with_capacity(tensors.len());
    for tensor in tensors {
        match (tensor.info.bytes(), start) {
            (Ok(bytes), Some((alignment, start))) => match place(tensor, bytes, alignment, start, length) {
                Ok(tensor) => placed.push(tensor),
                Err(problem) => problems.push(problem),
            },
            (Err(problem), _) => problems.push(problem),
            (Ok(_), None) => {}
        }
    }
    problems.extend(repeated_names(&placed));
    overlaps(&placed, &mut problems);
    match start {
        Some((alignment, _)) if problems.is_empty() => {
            Ok(Header { version, alignment, metadata, tensors: placed })
        }
        _ => Err(Refused::Damaged(problems)),
    }
}

/// Where a tensor of `bytes` bytes lies in a file of `length` bytes whose data begins at `start`.
fn place(
    tensor: parse::Located,
    bytes: u64,
    alignment: u64,
    start: u64,
    length: u64,
) -> Result<Placed, Problem> {
    let parse::Located { info, offset } = tensor;
    if !offset.is_multiple_of(alignment) {
        let what = format!("its offset {offset} is not a multiple of the alignment, {alignment}");
        return Err(Problem::tensor(&info.name, what));
    }
    let begin = start.checked_add(offset);
    let end = begin.and_then(|b| b.checked_add(bytes));
    match (begin, end) {
        (Some(begin), Some(end)) if end <= length => Ok(Placed { info, begin, bytes }),
        _ => {
            let what = format!(
                "its {bytes} bytes from offset {offset} end behind the file, which has {} bytes of data",
                length.saturating_sub(start)
            );
            Err(Problem::tensor(&info.name, what))
        }
    }
}

fn repeated_names(tensors: &[Placed]) -> impl Iterator<Item = Problem> {
    let mut names = HashSet::new();
    let repeated = tensors.iter().filter(move |t| !names.insert(t.info.name.as_str()));
    repeated.map(|t| Problem::tensor(&t.info.name, "the name occurs twice"))
}

/// Tensors that begin before an earlier one ends.
fn overlaps(tensors: &[Placed], problems: &mut Problems) {
    let mut order: Vec<&Placed> = tensors.iter().collect();
    order.sort_by_key(|t| t.begin);
    // The earlier tensor that reaches furthest: a long one may cover several.
    let mut furthest: Option<&Placed> = None;
    for tensor in order {
        if let Some(other) = furthest.filter(|o| o.begin + o.bytes > tensor.begin) {
            let what = format!("its bytes overlap those of tensor {:?}", other.info.name);
            problems.push(Problem::tensor(&tensor.info.name, what));
        }
        if furthest.is_none_or(|o| tensor.begin + tensor.bytes > o.begin + o.bytes) {
            furthest = Some(tensor);
        }
    }
}
