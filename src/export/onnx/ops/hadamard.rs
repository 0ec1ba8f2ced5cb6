//! The online Hadamard product: runs of channels as an axis of their own, then one product with a small constant matrix per factor.
//!
//! HEADER

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
