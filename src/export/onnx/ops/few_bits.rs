//! Linears whose weights keep few bits when loaded; their inputs are floats in the file.
//!
//! MatMulNBits at accuracy level 4 rounds every block of a row to int8 by itself: up to 7e-3 of the largest output with Gaussian rows (`tests/suite/forms.rs`).
//! Levels 0 and 1 keep floats. Four layers of Qwen2-VL-2B in blocks of 32, run in turns, ms for 256 rows / one token: level 4 2040 / 15.5, level 0
//! 2370 / 24.4, level 1 2530 / 48.5, the integer product of the same layers 1520 / 17.2. So the files say 4, as GenAI's own models do.
//!
//! ONNX Runtime makes the same MatMulNBits of DequantizeLinear and MatMul, with the same error, unless the session says
//! `session.qdq_matmulnbits_accuracy_level` = 1. Other runtimes follow the standard: float rows.

use super::super::call::Call;
use super::super::emit::Emitter;
use super::super::error::OnnxError;
use super::linear::product;
use crate::graph::ops::Linear;

/// Integer products inside the kernel: it rounds each block of a row to int8 by itself.
const ACCURACY_LEVEL: i64 = 4;

/// `x w (+ bias)` by MatMulNBits in blocks of `block` input channels.
pub(super) fn nbits(op: &Linear, e: &mut Emitter<'_>, block: usize) -> Result<(), OnnxError> {
    let x = e.input(0)?;
    let (k, n) = (e.channels(0)?, e.rows_of(op.weight)?);
    let w = e.nbits(op.weight, block)?;
    let bias = op.bias.map(|b| e.float_weight(b)).transpose()?.unwrap_or_default();
    let mut inputs = vec![x.as_str(), &w.codes, &w.scales];
    if !bias.is_empty() {
        // Without zero points and order of columns.
        inputs.extend(["", "", &bias]);
    }
    let call = Call::microsoft("MatMulNBits", &inputs).int("K", k as i64).int("N", n as i64);
    let call = call.int("bits", i64::from(w.bits));
    e.result(call.int("block_size", block as i64).int("accuracy_level", ACCURACY_LEVEL), 0)
}

/// `x w (+ bias)` with the weight from DequantizeLinear.
pub(super) fn portable(op: &Linear, e: &mut Emitter<'_>) -> Result<(), OnnxError> {
    let x = e.input(0)?;
    let w = e.dequantized(op.weight)?;
    product(op, e, &x, &w)
}
