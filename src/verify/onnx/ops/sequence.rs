//! Sequences of tensors: made empty, grown at the end, joined.

use std::sync::Arc;

use super::cut::joined;
use super::{Call, Results, one};
use crate::verify::onnx::array::Array;
use crate::verify::onnx::error::Fault;
use crate::verify::onnx::value::{Element, Value};

fn values<'a>(call: &Call<'a>) -> Result<&'a [Value], Fault> {
    match call.input(0)? {
        Value::Sequence(values) => Ok(values),
        _ => Err(call.wrong_type(0, "a sequence")),
    }
}

/// SequenceEmpty.
pub fn empty(_: &Call<'_>) -> Results {
    Ok(vec![Value::Sequence(Arc::new(vec![]))])
}

/// SequenceInsert at the end.
pub fn insert(call: &Call<'_>) -> Results {
    let grown = values(call)?.iter().chain([call.input(1)?]).cloned().collect();
    Ok(vec![Value::Sequence(Arc::new(grown))])
}

/// ConcatFromSequence of float tensors along an axis that they have.
pub fn concat(call: &Call<'_>) -> Results {
    call.node.int_among("new_axis", 0, &[0])?;
    let parts: Option<Vec<&Array<f32>>> = values(call)?.iter().map(f32::of).collect();
    let parts = parts.ok_or_else(|| call.wrong_type(0, "a sequence of float tensors"))?;
    let Some(first) = parts.first() else {
        return Err(Fault::shape("a sequence with tensors in it", "an empty one"));
    };
    let axis = call.axis(i64::MIN, first.shape().len())?;
    one(joined(&parts, axis)?)
}
