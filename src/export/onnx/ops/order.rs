//! Rows in the order by modality and back.

use super::super::call::Call;
use super::super::emit::Emitter;
use super::super::error::OnnxError;
use crate::graph::ops::{OrderByModality, TakeRows};

/// NonZero lists the rows of a modality in their order, also when there are none.
pub(super) fn order_by_modality(_: &OrderByModality, e: &mut Emitter<'_>) -> Result<(), OnnxError> {
    let modality = e.input(0)?;
    let (zero, one, flat, axis) = (e.float(0.0), e.int(1), e.ints(&[-1]), e.ints(&[0]));
    let visual = e.one(Call::new("Greater", &[&modality, &zero]));
    let visual = e.one(Call::new("Reshape", &[&visual, &flat]));
    let text = e.one(Call::new("Not", &[&visual]));
    let first = e.one(Call::new("NonZero", &[&visual]));
    let rest = e.one(Call::new("NonZero", &[&text]));
    e.result(Call::new("Concat", &[&first, &rest]).int("axis", 1), 0)?;
    let order = e.output(0)?;
    // The inverse of a permutation: nothing is left of the operand that is scattered into.
    let rows = e.one(Call::new("Shape", &[&visual]));
    let rows = e.one(Call::new("Squeeze", &[&rows, &axis]));
    let start = e.int(0);
    let range = e.one(Call::new("Range", &[&start, &rows, &one]));
    let range = e.one(Call::new("Unsqueeze", &[&range, &axis]));
    let places = e.one(Call::new("ScatterElements", &[&order, &order, &range]).int("axis", 1));
    let shape = e.one(Call::new("Shape", &[&modality]).int("start", 0).int("end", 2));
    e.result(Call::new("Reshape", &[&places, &shape]), 1)
}

/// The Reshape moves nothing.
pub(super) fn take_rows(_: &TakeRows, e: &mut Emitter<'_>) -> Result<(), OnnxError> {
    let (x, numbers) = (e.input(0)?, e.input(1)?);
    let shape = e.ints(&[-1, e.channels(0)? as i64]);
    let rows = e.one(Call::new("Reshape", &[&x, &shape]));
    e.result(Call::new("Gather", &[&rows, &numbers]).int("axis", 0), 0)
}
