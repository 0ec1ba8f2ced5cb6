//! Rotation magnitude suppression (RMS; MQuant, arXiv 2502.00425 section 4.3). A Hadamard rotation gathers the mean of a weight row in one channel,
//! `sqrt(n) mean(w)`. Where that is the largest of the row, it alone sets the step of the row's grid. So the channel `c` leaves the product that will be
//! integer: column `c` of the matrix becomes zero, and `x[.., c] w[:, c]` is added in float. Which channel that is:
//! [`inflated_channel`](crate::numeric::suppression::inflated_channel).
//!
//! The integer product keeps its shape, a multiple of the rotation's blocks. Since the column is zero, values of the channel outside the range of
//! the activation grid do no harm, and the range is taken without it ([`suppressed_channels`]).
//!
//! Requires: an online rotation of the linear's input; linears not merged and not quantized. Ensures: the model computes the same, up to the rounding
//! of weights; the added product is never quantized.
//!
//! Names, for a linear `L`: `L.suppressed.channel` takes the channel, the linear `L.suppressed` with the weight `L.suppressed.weight` `[out, 1]`
//! multiplies it, `L.suppressed.sum` adds it and yields the value that `L` yielded; `L` keeps its name and weight and yields `L.remaining`.

use std::collections::BTreeMap;

use super::online::rotation_of;
use super::rewrite::{Change, Rewrites};
use super::{PassError, add_value, ensure, one_linear};
use crate::graph::ops::{Add, Linear, TakeChannel};
use crate::graph::{Graph, Model, Node, Op, WeightDecl, WeightFormat, WeightId};

const PASS: &str = "suppress";

/// Takes input channel `channel` out of the product of the linear `linear` and adds its part in float.
///
/// # Errors
/// [`PassError::NotRotated`] for a linear without an online rotation; [`PassError::Requires`] when the model has no such linear, it was merged or
/// quantized, it has no such channel, or a channel of it is suppressed already.
pub fn suppress(
    mut model: Model,
    rewrites: &mut Rewrites,
    linear: &str,
    channel: usize,
) -> Result<Model, PassError> {
    let fail = |reason: String| Err(PassError::Requires { pass: PASS, reason });
    let (part, index, matrix) = one_linear(PASS, &model, linear)?;
    let graph = &model.graphs[part];
    if rotation_of(graph, index).is_none() {
        return Err(PassError::NotRotated { linear: linear.to_string() });
    }
    if let Some(taken) = channel_of(graph, &graph.nodes[index]) {
        return fail(format!("channel {taken} of {linear} is suppressed already"));
    }
    let Op::Linear(op) = &graph.nodes[index].op else { return fail(format!("{linear} is no linear")) };
    let (writes, &[out, channels]) = (op.writes, model.weight(op.weight).shape.as_slice()) else {
        return fail(format!("the weight of {linear} is no matrix"));
    };
    if channel >= channels {
        return fail(format!("{linear} has {channels} input channels, so no channel {channel}"));
    }
    let role = format!("{linear}.suppressed.weight");
    rewrites.add_column(&role, &matrix, channel);
    rewrites.push(&matrix, Change::ZeroColumn { column: channel });
    let weight = WeightId(model.weights.len());
    let (shape, parts, format) = (vec![out, 1], vec![role.clone()], WeightFormat::Float);
    model.weights.push(WeightDecl { name: role, shape, parts, format });
    let side = Linear { weight, bias: None, act: None, writes };
    add_side(&mut model.graphs[part], index, side, (channel, out));
    ensure(PASS, model)
}

/// Adds the product `side` of one channel beside the linear at `index`, and their sum.
fn add_side(graph: &mut Graph, index: usize, side: Linear, (channel, out): (usize, usize)) {
    let node = &graph.nodes[index];
    let (name, component, input, result) =
        (node.name.clone(), node.component, node.inputs[0], node.outputs[0]);
    let basis = side.writes;
    let side_name = format!("{name}.suppressed");
    let take = format!("{side_name}.channel");
    let taken = add_value(graph, take.clone(), input, 1, None);
    let product = add_value(graph, side_name.clone(), result, out, basis);
    let remaining = add_value(graph, format!("{name}.remaining"), result, out, basis);
    graph.nodes[index].outputs = vec![remaining];
    let new =
        |name: String, op: Op, inputs, output| Node { name, op, component, inputs, outputs: vec![output] };
    let nodes = [
        new(take, TakeChannel { channel }.into(), vec![input], taken),
        new(side_name.clone(), side.into(), vec![taken], product),
        new(format!("{side_name}.sum"), Add.into(), vec![remaining, product], result),
    ];
    graph.nodes.splice(index + 1..index + 1, nodes);
}

/// The channel that leaves the product of a linear: another linear reads it alone.
fn channel_of(graph: &Graph, linear: &Node) -> Option<usize> {
    let input = *linear.inputs.first()?;
    graph.readers(input).find_map(|(_, n)| match n.op {
        Op::TakeChannel(TakeChannel { channel }) => Some(channel),
        _ => None,
    })
}

/// Whether a linear is the float product of a suppressed channel.
pub fn is_suppressed(graph: &Graph, linear: &Node) -> bool {
    let made = linear.inputs.first().and_then(|v| graph.maker(*v));
    made.is_some_and(|(_, n)| matches!(n.op, Op::TakeChannel(_)))
}

/// The suppressed channel of every linear that has one, by the linear's node.
pub fn suppressed_channels(model: &Model) -> BTreeMap<String, usize> {
    let found = model.linears().filter_map(|(g, n, _)| Some((n.name.clone(), channel_of(g, n)?)));
    found.collect()
}
