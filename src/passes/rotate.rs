//! Rotates residual streams and heads. A stream's rows become coordinates in another orthonormal basis, `x' = x Q`: linears that read it take `W Q`,
//! linears and tables that write it give `Q^T W`, `Q^T b` and rows `e Q`. Which weights these are stands in the types: every value that holds
//! coordinates of a stream carries its [`Basis`](crate::graph::Basis), and no op accepts such a value that would not commute with `Q`.
//!
//! Requires: norms folded. Ensures: the model computes the same logits, up to the rounding of weights. No node changes.
//!
//! QuaRot, arXiv 2404.00456 section 4; SliceGPT, arXiv 2401.15024 section 3.2. LayerNorm removes a mean, so its stream takes only rotations with `Q 1 = 1`: with
//! them `LayerNorm(x Q) = LayerNorm(x) Q`, also over several rows side by side, and rows that are read without any norm stay exact.

use std::collections::BTreeMap;

use super::PassError;
use super::rewrite::{Change, Rewrites};
use crate::graph::ops::OpSpec;
use crate::graph::{Graph, Model, Node, Op, Stream, ValueId, WeightId};
use crate::numeric::rotation::Rotation;

const STREAM: &str = "rotate_stream";
const HEADS: &str = "rotate_heads";

/// Width of a stream, if the model has values that are its coordinates.
pub fn stream_width(model: &Model, stream: Stream) -> Option<usize> {
    let values = model.graphs.iter().flat_map(|g| &g.values);
    let one = values.filter(|v| v.basis.is_some_and(|b| b.stream == stream && b.copies == 1));
    one.filter_map(|v| v.channels()).next()
}

/// Whether any LayerNorm reads the stream, so that only mean-preserving rotations are exact.
pub fn needs_mean(model: &Model, stream: Stream) -> bool {
    let reads = |g: &Graph, v: ValueId| g.value(v).basis.is_some_and(|b| b.stream == stream);
    model.graphs.iter().any(|g| {
        g.nodes.iter().any(|n| matches!(n.op, Op::LayerNorm(_)) && n.inputs.iter().any(|v| reads(g, *v)))
    })
}

/// Whether gain and bias of a norm were folded away.
pub(super) fn folded(model: &Model, rewrites: &Rewrites, norm: &Node) -> bool {
    let filled =
        |id: WeightId| matches!(rewrites.of(&model.weight(id).name).last(), Some(Change::Fill { .. }));
    norm.op.weights().into_iter().all(filled)
}

/// Rotates a stream.
///
/// # Errors
/// [`PassError::Requires`] when the model has no such stream, its width is not the rotation's order, a norm of the stream is not folded, a LayerNorm
/// would lose its mean, or a gain stands behind a linear that writes it.
pub fn rotate_stream(
    model: &Model,
    rewrites: &mut Rewrites,
    stream: Stream,
    rotation: Rotation,
) -> Result<(), PassError> {
    let fail = |reason: String| Err(PassError::Requires { pass: STREAM, reason });
    match stream_width(model, stream) {
        None => return fail(format!("the model has no {stream} stream that can be rotated")),
        Some(n) if n != rotation.order() => {
            return fail(format!("the {stream} stream has {n} channels, the rotation {}", rotation.order()));
        }
        Some(_) => {}
    }
    if needs_mean(model, stream) && !rotation.is_mean_preserving() {
        return fail(format!(
            "a LayerNorm reads the {stream} stream, and this rotation does not keep its mean"
        ));
    }
    let index = rewrites.rotations.len();
    let (columns, rows) = (Change::RotateColumns { rotation: index }, Change::RotateRows { rotation: index });
    let role = |id: WeightId| model.weight(id).name.as_str();
    let mut changes: Vec<(&str, &Change)> = vec![];
    for (graph, node) in model.graphs.iter().flat_map(|g| g.nodes.iter().map(move |n| (g, n))) {
        let of = |v: &ValueId| graph.value(*v).basis.is_some_and(|b| b.stream == stream);
        let reads = node.inputs.first().is_some_and(of);
        let writes = node.outputs.first().is_some_and(of);
        match &node.op {
            Op::Linear(l) => {
                if reads {
                    changes.push((role(l.weight), &columns));
                }
                if writes {
                    changes.extend(l.weights().into_iter().map(|id| (role(id), &rows)));
                }
            }
            Op::Embed(_) | Op::ConstantRows(_) if writes => {
                changes.extend(node.op.weights().into_iter().map(|id| (role(id), &columns)));
            }
            Op::LayerNorm(_) | Op::RmsNorm(_) if reads && !folded(model, rewrites, node) => {
                return fail(format!("the gain of {} is not folded", node.name));
            }
            Op::Scale(_) if writes => {
                return fail(format!("the gain {} stands behind a linear", node.name));
            }
            _ => {}
        }
    }
    for (role, change) in changes {
        rewrites.push(role, change.clone());
    }
    rewrites.rotations.push(rotation);
    Ok(())
}

/// Rotates values inside attention: rows of every value head by `Q^T`, columns of the linear behind attention by `Q`, head by head. Query heads that
/// share a value head share its rotation, so groups stay exact; the cache holds rotated values.
///
/// `make` gives the rotation for a head size; head sizes without one are left and returned.
///
/// # Errors
/// [`PassError::Requires`] when the linear behind an attention is not the only reader.
pub fn rotate_heads(
    model: &Model,
    rewrites: &mut Rewrites,
    make: impl Fn(usize) -> Option<Rotation>,
) -> Result<Vec<usize>, PassError> {
    let mut indices: BTreeMap<usize, Option<usize>> = BTreeMap::new();
    for graph in &model.graphs {
        for node in &graph.nodes {
            let head_dim = match &node.op {
                Op::CausalAttention(a) => a.head_dim,
                Op::SegmentAttention(a) => a.head_dim,
                Op::CrossAttention(a) => a.head_dim,
                _ => continue,
            };
            let index = *indices.entry(head_dim).or_insert_with(|| {
                make(head_dim).map(|r| {
                    rewrites.rotations.push(r);
                    rewrites.rotations.len() - 1
                })
            });
            if let Some(rotation) = index {
                head(model, graph, (node.inputs[2], node.outputs[0]), rewrites, rotation)?;
            }
        }
    }
    Ok(indices.into_iter().filter(|(_, i)| i.is_none()).map(|(n, _)| n).collect())
}

/// Rotates what one attention mixes.
fn head(
    model: &Model,
    graph: &Graph,
    (value, mixed): (ValueId, ValueId),
    rewrites: &mut Rewrites,
    rotation: usize,
) -> Result<(), PassError> {
    let made = graph.maker(value).map(|(_, n)| &n.op);
    let read = graph.readers(mixed).next().map(|(_, n)| &n.op);
    let (Some(Op::Linear(v)), Some(Op::Linear(o))) = (made, read) else {
        let reason = format!("{} does not stand between two linears", graph.value(mixed).name);
        return Err(PassError::Requires { pass: HEADS, reason });
    };
    if graph.readers(value).count() != 1 || graph.readers(mixed).count() != 1 {
        let reason = format!("{} or what it mixes has more readers", graph.value(mixed).name);
        return Err(PassError::Requires { pass: HEADS, reason });
    }
    for id in v.weights() {
        rewrites.push(&model.weight(id).name, Change::RotateRows { rotation });
    }
    rewrites.push(&model.weight(o.weight).name, Change::RotateColumns { rotation });
    Ok(())
}
