//! Rows of their own for every segment.

use super::super::emit::Emitter;
use super::super::error::OnnxError;
use crate::graph::ops::{DropFirstRows, InsertRows};

pub(super) fn insert_rows(_: &InsertRows, e: &mut Emitter<'_>) -> Result<(), OnnxError> {
    Err(e.not_valid("TODO"))
}

pub(super) fn drop_first_rows(_: &DropFirstRows, e: &mut Emitter<'_>) -> Result<(), OnnxError> {
    Err(e.not_valid("TODO"))
}
