//! Rotates the input of one linear while the model runs: `y = x W^T` becomes `y = (x Q) (W Q)^T` with `Q` block-diagonal, its blocks normalised Hadamard
//! matrices. For inputs that no rotation of weights reaches, because a non-linearity or a product makes them: down projections (QuaRot, arXiv
//! 2404.00456 section 4.2; MQuant, arXiv 2502.00425).
//!
//! Requires: linears not merged and not quantized; a scale that [`smooth`](super::smooth()) moves was moved before. Ensures: the model computes the same, up to
//! the rounding of weights; only the linear reads the rotated value.
//!
//! Names: the node and its value are `<linear>.hadamard`.

use super::rewrite::{Change, Rewrites};
use super::{PassError, add_value, ensure, one_linear};
use crate::graph::ops::Hadamard;
use crate::graph::{Graph, Model, Node, Op};
use crate::numeric::hadamard::{blocks, factors};
use crate::numeric::rotation::Rotation;

const PASS: &str = "rotate_online";

/// Rotates the input of the linear `linear` in runs of `block` channels; `block` may be all of them. The change of its matrix is appended to `rewrites`.
///
/// # Errors
/// [`PassError::ImpossibleOrder`] when `block` does not divide the channels or has no Hadamard matrix; [`PassError::Requires`] when the model has no
/// such linear, it was merged or quantized, its input carries a basis, or it is rotated already.
pub fn rotate_online(
    mut model: Model,
    rewrites: &mut Rewrites,
    linear: &str,
    block: usize,
) -> Result<Model, PassError> {
    let fail = |reason: String| Err(PassError::Requires { pass: PASS, reason });
    let (part, index, matrix) = one_linear(PASS, &model, linear)?;
    let graph = &mut model.graphs[part];
    let (input, component) = (graph.nodes[index].inputs[0], graph.nodes[index].component);
    let info = graph.value(input);
    let Some(channels) = info.channels() else { return fail(format!("{info} has no fixed width")) };
    if info.basis.is_some() {
        return fail(format!("the input {info} of {linear} is coordinates of a stream: rotate the stream"));
    }
    if rotation_of(graph, index).is_some() {
        return fail(format!("the input of {linear} is rotated already"));
    }
    let impossible = || PassError::ImpossibleOrder {
        linear: linear.to_string(),
        channels,
        block,
        nearest: nearest(channels, block),
    };
    let divides = block > 1 && channels.is_multiple_of(block);
    let (left, right) = factors(block).filter(|_| divides).ok_or_else(impossible)?;
    let rotation = shared(rewrites, left, right).ok_or_else(impossible)?;
    rewrites.push(&matrix, Change::RotateColumns { rotation });
    let name = format!("{linear}.hadamard");
    let rotated = add_value(graph, name.clone(), input, channels, None);
    graph.nodes[index].inputs[0] = rotated;
    let op = Hadamard { left, right }.into();
    graph.nodes.insert(index, Node { name, op, component, inputs: vec![input], outputs: vec![rotated] });
    ensure(PASS, model)
}

/// The online rotation of a node's input, if it has one.
pub(super) fn rotation_of(graph: &Graph, index: usize) -> Option<&Hadamard> {
    match &graph.maker(*graph.nodes[index].inputs.first()?)?.1.op {
        Op::Hadamard(h) => Some(h),
        _ => None,
    }
}

/// Index of the online rotation of these factors; linears of one width share it.
fn shared(rewrites: &mut Rewrites, left: usize, right: usize) -> Option<usize> {
    let known = rewrites.rotations.iter().position(|r| r.online_factors() == Some((left, right)));
    if known.is_some() {
        return known;
    }
    rewrites.rotations.push(Rotation::online(left, right)?);
    Some(rewrites.rotations.len() - 1)
}

/// The possible blocks next to the one asked for.
fn nearest(channels: usize, block: usize) -> Vec<usize> {
    let possible = blocks(channels);
    let below = possible.iter().copied().filter(|b| *b < block).max();
    let above = possible.iter().copied().filter(|b| *b > block).min();
    below.into_iter().chain(above).collect()
}
