//! Ops that cut and join channels.

use super::super::call::Call;
use super::super::emit::Emitter;
use super::super::error::OnnxError;
use crate::graph::ops::{AppendChannel, Join, Split, TakeChannel};

pub(super) fn split(op: &Split, e: &mut Emitter<'_>) -> Result<(), OnnxError> {
    let x = e.input(0)?;
    let sizes: Vec<i64> = op.sizes.iter().map(|&n| n as i64).collect();
    let sizes = e.ints(&sizes);
    e.results(Call::new("Split", &[&x, &sizes]).int("axis", -1), op.sizes.len())
}

pub(super) fn append_channel(op: &AppendChannel, e: &mut Emitter<'_>) -> Result<(), OnnxError> {
    let x = e.input(0)?;
    let mut pads = vec![0; 2 * e.operand(0)?.shape.len()];
    if let Some(last) = pads.last_mut() {
        *last = 1;
    }
    let (pads, value) = (e.ints(&pads), e.float(op.value));
    e.result(Call::new("Pad", &[&x, &pads, &value]), 0)
}

pub(super) fn take_channel(op: &TakeChannel, e: &mut Emitter<'_>) -> Result<(), OnnxError> {
    let (x, channel) = (e.input(0)?, op.channel as i64);
    let (first, end, axis) = (e.ints(&[channel]), e.ints(&[channel + 1]), e.ints(&[-1]));
    e.result(Call::new("Slice", &[&x, &first, &end, &axis]), 0)
}

pub(super) fn join(_: &Join, e: &mut Emitter<'_>) -> Result<(), OnnxError> {
    let parts = e.inputs()?;
    let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
    e.result(Call::new("Concat", &parts).int("axis", -1), 0)
}
