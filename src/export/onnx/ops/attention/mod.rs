//! The three attentions. Measured per layer on ONNX Runtime 1.32, two cores; each file has its figures. This one holds what they share.

mod causal;
mod segments;

pub(super) use causal::causal_attention;
pub use causal::fuses_causal_attention;
pub(super) use segments::{cross_attention, segment_attention};

use crate::export::onnx::call::Call;
use crate::export::onnx::emit::Emitter;
use crate::export::onnx::error::OnnxError;

/// Added to the scores of keys that may not be seen. Finite, so that a row that sees no key (padding) yields numbers, not NaN.
const HIDDEN: f32 = -1e30;

/// `[batch, rows, heads * dim]` to four axes, permuted from `[batch, rows, heads, dim]`.
fn split_heads(e: &mut Emitter<'_>, x: &str, heads: usize, dim: usize, perm: [i64; 4]) -> String {
    let shape = e.ints(&[0, 0, heads as i64, dim as i64]);
    let x = e.one(Call::new("Reshape", &[x, &shape]));
    e.one(Call::new("Transpose", &[&x]).ints("perm", &perm))
}

/// `[batch, heads, rows, dim]` to the node's first result `[batch, rows, heads * dim]`.
fn join_heads(e: &mut Emitter<'_>, x: &str, width: usize) -> Result<(), OnnxError> {
    let x = e.one(Call::new("Transpose", &[x]).ints("perm", &[0, 2, 1, 3]));
    let shape = e.ints(&[0, 0, width as i64]);
    e.result(Call::new("Reshape", &[&x, &shape]), 0)
}

/// Softmax of scaled scores after `mask` was applied to them.
fn softmax_scores(
    e: &mut Emitter<'_>,
    (q, k): (&str, &str),
    head_dim: usize,
    mask: impl FnOnce(&mut Emitter<'_>, String) -> String,
) -> String {
    let scores = e.one(Call::new("MatMul", &[q, k]));
    let scale = e.float((1.0 / (head_dim as f64).sqrt()) as f32);
    let scores = e.one(Call::new("Mul", &[&scores, &scale]));
    let scores = mask(e, scores);
    e.one(Call::new("Softmax", &[&scores]).int("axis", -1))
}
