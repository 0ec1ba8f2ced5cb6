//! Rows of their own for every segment, and where segments begin and end.
//!
//! 13 segments of 1024 rows of 1024 channels, one row inserted for each: a copy of all operands and one Gather 5 ms, ScatterND into
//! expanded rows 11 ms. Dropping the first rows: Gather 2.6 ms, Compress 2.7 ms.

use super::super::call::Call;
use super::super::emit::Emitter;
use super::super::error::OnnxError;
use crate::graph::ops::{DropFirstRows, InsertRows};

/// Where segments lie, all made of their numbers alone.
pub struct Bounds {
    /// First row of each segment.
    pub starts: String,
    /// End of each segment.
    pub ends: String,
    /// How many segments there are, a scalar.
    pub count: String,
    /// For each row whether it is not the first of its segment.
    pub inside: String,
}

/// Adds the bounds of `segments`, once for all nodes that read them.
///
/// # Errors
/// None on a valid model.
pub fn bounds(e: &mut Emitter<'_>, segments: &str) -> Result<Bounds, OnnxError> {
    let found = e.shared(format!("{segments}/bounds"), |e| Ok(add_bounds(e, segments)))?;
    match <[String; 4]>::try_from(found) {
        Ok([starts, ends, count, inside]) => Ok(Bounds { starts, ends, count, inside }),
        Err(_) => Err(e.not_valid("has no segments")),
    }
}

/// The values of [`Bounds`], in its order.
fn add_bounds(e: &mut Emitter<'_>, segments: &str) -> Vec<String> {
    let (zero, one, minus, far) = (e.ints(&[0]), e.ints(&[1]), e.ints(&[-1]), e.ints(&[i64::MAX]));
    let before = e.one(Call::new("Slice", &[segments, &zero, &minus, &zero]));
    // Segment numbers start at 0, so -1 makes the first row a start.
    let before = e.one(Call::new("Concat", &[&minus, &before]).int("axis", 0));
    let same = e.one(Call::new("Equal", &[segments, &before]));
    let start = e.one(Call::new("Not", &[&same]));
    let starts = e.one(Call::new("NonZero", &[&start]));
    let starts = e.one(Call::new("Squeeze", &[&starts, &zero]));
    let rest = e.one(Call::new("Slice", &[&starts, &one, &far, &zero]));
    let rows = e.one(Call::new("Shape", &[segments]));
    let ends = e.one(Call::new("Concat", &[&rest, &rows]).int("axis", 0));
    let count = e.one(Call::new("Shape", &[&starts]));
    let count = e.one(Call::new("Squeeze", &[&count, &zero]));
    vec![starts, ends, count, same]
}

/// Every row of the result gathers from the operands lying behind each other. The gather's index is the inverse of where each of them goes.
pub(super) fn insert_rows(op: &InsertRows, e: &mut Emitter<'_>) -> Result<(), OnnxError> {
    let numbers = row_numbers(op, e)?;
    let groups = groups(op, e, &numbers)?;
    let mut column = |of: fn(&Group) -> &str| {
        let parts: Vec<&str> = groups.iter().map(of).collect();
        e.one(Call::new("Concat", &parts).int("axis", 0))
    };
    let (to, from, number) = (column(|g| &g.to), column(|g| &g.from), column(|g| &g.number));
    let mut operands = e.inputs()?;
    operands.remove(1);
    if op.first {
        operands.swap(0, 1);
    }
    let operands: Vec<&str> = operands.iter().map(String::as_str).collect();
    let x = e.one(Call::new("Concat", &operands).int("axis", 1));
    // The places are a permutation: nothing is left of the operand that is scattered into.
    let index = e.one(Call::new("ScatterElements", &[&to, &to, &from]).int("axis", 0));
    e.result(Call::new("Gather", &[&x, &index]).int("axis", 1), 0)?;
    e.result(Call::new("ScatterElements", &[&to, &to, &number]).int("axis", 0), 1)
}

/// Rows of the result that come from one operand; one integer per row each.
struct Group {
    /// Where the row goes.
    to: String,
    /// Where it is among the operands lying behind each other.
    from: String,
    /// Its segment.
    number: String,
}

/// The groups in the order in which the operands lie: first rows, rows, last rows.
fn groups(op: &InsertRows, e: &mut Emitter<'_>, numbers: &str) -> Result<Vec<Group>, OnnxError> {
    let Bounds { starts, ends, count, .. } = bounds(e, numbers)?;
    let (zero, one, axis) = (e.int(0), e.int(1), e.ints(&[0]));
    let (before, extra) = (e.int(op.first.into()), e.int(i64::from(op.first) + i64::from(op.last)));
    let each = e.one(Call::new("Range", &[&zero, &count, &one]));
    let rows = e.one(Call::new("Shape", &[numbers]));
    let rows = e.one(Call::new("Squeeze", &[&rows, &axis]));
    let row = e.one(Call::new("Range", &[&zero, &rows, &one]));
    // A row moves by what was inserted for the segments before its own.
    let moved = |e: &mut Emitter<'_>, place: &str, number: &str| {
        let by = e.one(Call::new("Mul", &[number, &extra]));
        e.one(Call::new("Add", &[place, &by]))
    };
    let after = |e: &mut Emitter<'_>, x: &str| e.one(Call::new("Add", &[x, &before]));
    let mut found = vec![];
    if op.first {
        let (to, from) = (moved(e, &starts, &each), e.one(Call::new("Mul", &[&each, &zero])));
        found.push(Group { to, from, number: each.clone() });
    }
    let to = moved(e, &row, numbers);
    found.push(Group { to: after(e, &to), from: after(e, &row), number: numbers.to_string() });
    if op.last {
        let to = moved(e, &ends, &each);
        let from = e.one(Call::new("Mul", &[&each, &zero]));
        let from = e.one(Call::new("Add", &[&from, &rows]));
        found.push(Group { to: after(e, &to), from: after(e, &from), number: each });
    }
    Ok(found)
}

/// The segment number of every row.
fn row_numbers(op: &InsertRows, e: &mut Emitter<'_>) -> Result<String, OnnxError> {
    let segments = e.input(1)?;
    if op.factor == 1 {
        return Ok(segments);
    }
    let found = e.shared(format!("{segments}/by_{}", op.factor), |e| {
        let (first, far, step) = (e.ints(&[0]), e.ints(&[i64::MAX]), e.ints(&[op.factor as i64]));
        Ok(vec![e.one(Call::new("Slice", &[&segments, &first, &far, &first, &step]))])
    })?;
    Ok(found.concat())
}

pub(super) fn drop_first_rows(_: &DropFirstRows, e: &mut Emitter<'_>) -> Result<(), OnnxError> {
    let (x, segments) = (e.input(0)?, e.input(1)?);
    let inside = bounds(e, &segments)?.inside;
    let kept = e.shared(format!("{segments}/kept"), |e| {
        let first = e.ints(&[0]);
        let kept = e.one(Call::new("NonZero", &[&inside]));
        Ok(vec![e.one(Call::new("Squeeze", &[&kept, &first]))])
    })?;
    e.result(Call::new("Gather", &[&x, &kept.concat()]).int("axis", 1), 0)
}
