//! Ops that yield, select, replace, merge or relabel rows.

use super::super::call::Call;
use super::super::emit::Emitter;
use super::super::error::OnnxError;
use crate::graph::ops::{AddBatch, ConstantRows, DropBatch, Embed, MergeRows, Splice};

pub(super) fn embed(op: &Embed, e: &mut Emitter<'_>) -> Result<(), OnnxError> {
    let (ids, table) = (e.input(0)?, e.float_weight(op.table)?);
    e.result(Call::new("Gather", &[&table, &ids]).int("axis", 0), 0)
}

/// Scatters the features to the places of the token. With fewer features than places the first ones are filled and the rest keep
/// their table rows: a runtime that generates the placeholder token feeds it back without any image. With more, ScatterND refuses.
pub(super) fn splice(op: &Splice, e: &mut Emitter<'_>) -> Result<(), OnnxError> {
    let (rows, ids, features) = (e.input(0)?, e.input(1)?, e.input(2)?);
    let token = e.int(op.token_id);
    let hit = e.one(Call::new("Equal", &[&ids, &token]));
    let places = e.one(Call::new("NonZero", &[&hit]));
    let places = e.one(Call::new("Transpose", &[&places]).ints("perm", &[1, 0]));
    let count = e.one(Call::new("Shape", &[&features]).int("start", 0).int("end", 1));
    let (zero, axis) = (e.ints(&[0]), e.ints(&[0]));
    let places = e.one(Call::new("Slice", &[&places, &zero, &count, &axis]));
    e.result(Call::new("ScatterND", &[&rows, &places, &features]), 0)
}

pub(super) fn constant_rows(op: &ConstantRows, e: &mut Emitter<'_>) -> Result<(), OnnxError> {
    let (table, axis) = (e.float_weight(op.table)?, e.ints(&[0]));
    e.result(Call::new("Unsqueeze", &[&table, &axis]), 0)
}

pub(super) fn merge_rows(op: &MergeRows, e: &mut Emitter<'_>) -> Result<(), OnnxError> {
    let (x, width) = (e.input(0)?, e.channels(0)? * op.factor);
    let shape = e.ints(&[1, -1, width as i64]);
    e.result(Call::new("Reshape", &[&x, &shape]), 0)
}

pub(super) fn add_batch(_: &AddBatch, e: &mut Emitter<'_>) -> Result<(), OnnxError> {
    let (x, axis) = (e.input(0)?, e.ints(&[0]));
    e.result(Call::new("Unsqueeze", &[&x, &axis]), 0)
}

pub(super) fn drop_batch(_: &DropBatch, e: &mut Emitter<'_>) -> Result<(), OnnxError> {
    let (x, axis) = (e.input(0)?, e.ints(&[0]));
    e.result(Call::new("Squeeze", &[&x, &axis]), 0)
}
