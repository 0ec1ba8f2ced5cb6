//! Folds what stands before and behind linears into them: gains and biases of norms into the linears that read the normalised rows, gains
//! behind linears (layer scale) into the linears before.
//!
//! Requires: a canonical model, linears not merged. Ensures: a norm whose results only linears read, directly or with rows merged, has gains of 1 and
//! biases of 0; no gain stands behind a linear. Results are those of the model before, up to the rounding of weights.
//!
//! A norm that something else reads (attention, a sum) keeps its gain: it is not the entry of linears alone.

use super::rewrite::{Change, Factors, Rewrites};
use super::{PassError, drop_unused_weights, ensure};
use crate::graph::ops::{LayerNorm, Linear, OpSpec, RmsNorm};
use crate::graph::{Graph, Model, Op, Stream, ValueId, ValueInfo, WeightDecl, WeightFormat, WeightId};

const PASS: &str = "fold_norms";

/// Folds every such norm and gain; what happens to the weights is appended to `rewrites`.
///
/// # Errors
/// [`PassError`] when the result is not valid.
pub fn fold_norms(model: Model, rewrites: &mut Rewrites) -> Result<Model, PassError> {
    fold(model, rewrites, |_| true)
}

/// Folds the norms that read one of these streams and the gains that write one: all that a rotation of them needs.
///
/// # Errors
/// [`PassError`] when the result is not valid.
pub fn fold_streams(model: Model, rewrites: &mut Rewrites, streams: &[Stream]) -> Result<Model, PassError> {
    fold(model, rewrites, |value| value.basis.is_some_and(|b| streams.contains(&b.stream)))
}

/// Folds the norms that read and the gains that write a value of which `of` holds.
fn fold(
    mut model: Model,
    rewrites: &mut Rewrites,
    of: impl Fn(&ValueInfo) -> bool,
) -> Result<Model, PassError> {
    let mut graphs = std::mem::take(&mut model.graphs);
    for graph in &mut graphs {
        let reads =
            |graph: &Graph, node: usize| graph.nodes[node].inputs.first().map(|v| of(graph.value(*v)));
        let writes =
            |graph: &Graph, node: usize| graph.nodes[node].outputs.first().map(|v| of(graph.value(*v)));
        for node in 0..graph.nodes.len() {
            if reads(graph, node) == Some(true) {
                fold_norm(graph, &mut model.weights, rewrites, node);
            }
        }
        // Last node first: removing one moves only those behind it.
        for node in (0..graph.nodes.len()).rev() {
            if writes(graph, node) == Some(true) {
                fold_gain(graph, &model.weights, rewrites, node);
            }
        }
    }
    model.graphs = graphs;
    drop_unused_weights(&mut model);
    ensure(PASS, model)
}

/// Role of a weight. Before linears are merged, every weight is one role.
fn role(weights: &[WeightDecl], id: WeightId) -> String {
    weights[id.0].name.clone()
}

/// Indices of the linears that read a value, directly or after its rows were merged; none when anything else does.
fn linear_readers(graph: &Graph, value: ValueId) -> Option<Vec<usize>> {
    if graph.outputs.contains(&value) {
        return None;
    }
    let mut found = vec![];
    for (i, node) in graph.readers(value) {
        match &node.op {
            Op::Linear(_) => found.push(i),
            Op::MergeRows(_) => found.extend(linear_readers(graph, node.outputs[0])?),
            _ => return None,
        }
    }
    Some(found)
}

fn fold_norm(graph: &mut Graph, weights: &mut Vec<WeightDecl>, rewrites: &mut Rewrites, index: usize) {
    let (gain, bias) = match &graph.nodes[index].op {
        Op::LayerNorm(LayerNorm { gain, bias, .. }) => (*gain, Some(*bias)),
        Op::RmsNorm(RmsNorm { gain, .. }) => (*gain, None),
        _ => return,
    };
    let Some(readers) = linear_readers(graph, graph.nodes[index].outputs[0]) else { return };
    let (gain, bias) = (role(weights, gain), bias.map(|b| role(weights, b)));
    for reader in readers {
        let name = graph.nodes[reader].name.clone();
        let Op::Linear(linear) = &mut graph.nodes[reader].op else { continue };
        let matrix = role(weights, linear.weight);
        if let Some(vector) = &bias {
            let target = bias_of(linear, &name, weights, rewrites);
            rewrites.push(&target, Change::AddProduct { matrix: matrix.clone(), vector: vector.clone() });
        }
        rewrites.push(&matrix, Change::ScaleColumns { by: Factors::Role(gain.clone()) });
    }
    rewrites.push(&gain, Change::Fill { value: 1.0 });
    if let Some(bias) = bias {
        rewrites.push(&bias, Change::Fill { value: 0.0 });
    }
}

/// Role of a linear's bias; a linear without one gets a bias of zeros.
fn bias_of(
    linear: &mut Linear,
    name: &str,
    weights: &mut Vec<WeightDecl>,
    rewrites: &mut Rewrites,
) -> String {
    if let Some(bias) = linear.bias {
        return role(weights, bias);
    }
    let (new, length) = (format!("{name}.bias"), weights[linear.weight.0].shape[0]);
    rewrites.add(&new, length);
    linear.bias = Some(WeightId(weights.len()));
    let (shape, parts, format) = (vec![length], vec![new.clone()], WeightFormat::Float);
    weights.push(WeightDecl { name: new.clone(), shape, parts, format });
    new
}

/// Folds a gain behind a linear that nothing else reads, and lets the linear write what the gain wrote.
fn fold_gain(graph: &mut Graph, weights: &[WeightDecl], rewrites: &mut Rewrites, index: usize) {
    let Op::Scale(scale) = &graph.nodes[index].op else { return };
    let (gain, writes) = (role(weights, scale.gain), scale.writes);
    let (from, to) = (graph.nodes[index].inputs[0], graph.nodes[index].outputs[0]);
    let uses = graph.readers(from).count();
    let Some((before, _)) = graph.maker(from) else { return };
    let Op::Linear(linear) = &mut graph.nodes[before].op else { return };
    if uses != 1 || graph.outputs.contains(&from) {
        return;
    }
    for id in linear.weights() {
        rewrites.push(&role(weights, id), Change::ScaleRows { by: Factors::Role(gain.clone()) });
    }
    linear.writes = writes;
    graph.nodes[before].outputs = vec![to];
    graph.nodes.remove(index);
}
