//! Merges linears that read one tensor (q, k, v; gate, up) into one product and a split: one rounding of the input, one larger GEMM. An
//! integer product of a shared Q/DQ pair would not fuse in ONNX Runtime otherwise.
//!
//! Requires: nothing. Ensures: no two linears with equal operands, equal activation scales, equal weight format and biases alike are left, as long as
//! their results carry no basis; results keep their values and bits, because each output channel is computed from the same row.

use super::{PassError, drop_unused_weights, ensure};
use crate::graph::ops::{Linear, Split};
use crate::graph::{Graph, Model, Node, Op, ValueId, ValueInfo, WeightDecl, WeightId};

const PASS: &str = "merge_linears";

/// Merges every such group of linears.
///
/// # Errors
/// [`PassError`] when the result is not valid.
pub fn merge_linears(mut model: Model) -> Result<Model, PassError> {
    let mut graphs = std::mem::take(&mut model.graphs);
    for graph in &mut graphs {
        merge_graph(graph, &mut model.weights);
    }
    model.graphs = graphs;
    drop_unused_weights(&mut model);
    ensure(PASS, model)
}

fn merge_graph(graph: &mut Graph, weights: &mut Vec<WeightDecl>) {
    let mut first = 0;
    while first < graph.nodes.len() {
        let group = group_of(graph, weights, first);
        if group.len() > 1 {
            merge(graph, weights, &group);
        }
        first += 1;
    }
}

/// Indices of the linears that merge with the node at `first`, itself included.
fn group_of(graph: &Graph, weights: &[WeightDecl], first: usize) -> Vec<usize> {
    let key = |node: &Node| match &node.op {
        Op::Linear(l) if l.writes.is_none() => {
            Some((node.inputs.clone(), l.act, weights[l.weight.0].format, l.bias.is_some()))
        }
        _ => None,
    };
    let Some(wanted) = key(&graph.nodes[first]) else { return vec![] };
    (first..graph.nodes.len()).filter(|&i| key(&graph.nodes[i]).as_ref() == Some(&wanted)).collect()
}

fn merge(graph: &mut Graph, weights: &mut Vec<WeightDecl>, group: &[usize]) {
    let linears: Vec<Linear> = group
        .iter()
        .filter_map(|&i| match &graph.nodes[i].op {
            Op::Linear(l) => Some(l.clone()),
            _ => None,
        })
        .collect();
    let names: Vec<&str> = group.iter().map(|&i| graph.nodes[i].name.as_str()).collect();
    let name = joined(&names);
    let sizes: Vec<usize> = linears.iter().map(|l| weights[l.weight.0].shape[0]).collect();
    let weight = stack(weights, &format!("{name}.weight"), linears.iter().map(|l| l.weight).collect());
    let biases: Option<Vec<WeightId>> = linears.iter().map(|l| l.bias).collect();
    let bias = biases.map(|ids| stack(weights, &format!("{name}.bias"), ids));
    let pieces: Vec<ValueId> = group.iter().map(|&i| graph.nodes[i].outputs[0]).collect();
    let inputs = graph.nodes[group[0]].inputs.clone();
    let component = graph.nodes[group[0]].component;
    let of = graph.value(pieces[0]);
    let whole = ValueInfo { name: name.clone(), shape: of.with_channels(sizes.iter().sum()), ..of.clone() };
    graph.values.push(whole);
    let whole = ValueId(graph.values.len() - 1);
    let linear = Linear { weight, bias, act: linears[0].act, writes: None };
    let split = Split { bases: vec![None; sizes.len()], sizes };
    let nodes = [
        Node { name: name.clone(), op: linear.into(), component, inputs, outputs: vec![whole] },
        Node {
            name: format!("{name}.split"),
            op: split.into(),
            component,
            inputs: vec![whole],
            outputs: pieces,
        },
    ];
    for &i in group.iter().rev() {
        graph.nodes.remove(i);
    }
    // The operands of the group were ready at its first member, so the merged node may stand there.
    graph.nodes.splice(group[0]..group[0], nodes);
}

/// `a.b.q`, `a.b.k`, `a.b.v` become `a.b.q_k_v`.
fn joined(names: &[&str]) -> String {
    let (prefix, _) = names[0].rsplit_once('.').unwrap_or(("", names[0]));
    let last = |n: &&str| n.rsplit('.').next().unwrap_or(n).to_string();
    let words: Vec<String> = names.iter().map(last).collect();
    format!("{prefix}.{}", words.join("_"))
}

fn stack(weights: &mut Vec<WeightDecl>, name: &str, ids: Vec<WeightId>) -> WeightId {
    let decls: Vec<&WeightDecl> = ids.iter().map(|id| &weights[id.0]).collect();
    let mut shape = decls[0].shape.clone();
    shape[0] = decls.iter().map(|d| d.shape[0]).sum();
    let parts = decls.iter().flat_map(|d| d.parts.iter().cloned()).collect();
    let format = decls[0].format;
    weights.push(WeightDecl { name: name.to_string(), shape, parts, format });
    WeightId(weights.len() - 1)
}
