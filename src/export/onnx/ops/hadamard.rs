//! The online Hadamard product: runs of channels as an axis of their own, then one product with a small constant matrix per factor.
//!
//! Measured (ONNX Runtime 1.32, two cores, 1088 x 8960; ms prefill / decode), beside an int8 linear 8960 -> 1536 of 20 to 48 / 0.08 to 0.18: block 64
//! as one product 9.8 / 0.010, as 8 x 8 32 / 0.023; 128 as one 17.7 / 0.014, as 8 x 16 32 / 0.015; 256 as one 32 / 0.024, as 16 x 16 24 / 0.012;
//! 8960 = 80 x 112 32 / 0.021, 64 x 140 40 / 0.022.
//!
//! The left factor multiplies from the left, a product with a matrix per run. Transposed, multiplied from the right and transposed back it takes 40 ms at
//! 16 x 16 and 45 at 80 x 112.

use super::super::call::Call;
use super::super::emit::Emitter;
use super::super::error::OnnxError;
use crate::graph::ops::Hadamard;
use crate::numeric::hadamard;

pub(super) fn hadamard(op: &Hadamard, e: &mut Emitter<'_>) -> Result<(), OnnxError> {
    let (x, channels) = (e.input(0)?, e.channels(0)?);
    let leading = vec![0; e.operand(0)?.shape.len().saturating_sub(1)];
    // Zeros keep the leading axes as they are, also where they are empty.
    let axes = |last: &[usize]| -> Vec<i64> {
        leading.iter().copied().chain(last.iter().map(|&n| n as i64)).collect()
    };
    let (right, runs) = (factor(e, op.right, false)?, channels / op.block().max(1));
    let inside = if op.left == 1 { vec![runs, op.right] } else { vec![runs, op.left, op.right] };
    let (inside, outside) = (e.ints(&axes(&inside)), e.ints(&axes(&[channels])));
    let mut y = e.one(Call::new("Reshape", &[&x, &inside]));
    y = e.one(Call::new("MatMul", &[&y, &right]));
    if op.left > 1 {
        let left = factor(e, op.left, true)?;
        y = e.one(Call::new("MatMul", &[&left, &y]));
    }
    e.result(Call::new("Reshape", &[&y, &outside]), 0)
}

/// The normalised Hadamard matrix of an order over the root of the order, or its transpose; one initializer for all nodes of the graph.
fn factor(e: &mut Emitter<'_>, order: usize, transposed: bool) -> Result<String, OnnxError> {
    let name = format!("hadamard_{order}{}", if transposed { "_transposed" } else { "" });
    let made = e.shared(name.clone(), |e| {
        let Some(h) = hadamard::Hadamard::of_order(order) else {
            return Err(e.not_valid("has an order without a Hadamard matrix"));
        };
        let (h, scale) = (h.normalised(), 1.0 / (order as f64).sqrt());
        let at = |k: usize| if transposed { (k % order, k / order) } else { (k / order, k % order) };
        let entry = |(i, j): (usize, usize)| (f64::from(h.entry(i, j)) * scale) as f32;
        let values: Vec<f32> = (0..order * order).map(|k| entry(at(k))).collect();
        Ok(vec![e.tensor(&name, vec![order as i64; 2], &values)?])
    })?;
    Ok(made.concat())
}
