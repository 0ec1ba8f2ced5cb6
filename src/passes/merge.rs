//! Merges linears that read one tensor (q, k, v) into one product and a split: one rounding of the input, one larger GEMM. An
//! integer product of a shared Q/DQ pair would not fuse in ONNX Runtime otherwise.
//!
//! Requires: nothing. Ensures: no two linears with equal operands, equal activation scales, equal weight format and biases alike are left, as long as
//! their results carry no basis and are not much wider together than their input; results keep their values and bits, because each output channel is computed from the same row.

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
    let group: Vec<usize> =
        (first..graph.nodes.len()).filter(|&i| key(&graph.nodes[i]).as_ref() == Some(&wanted)).collect();
    if is_worth(graph, weights, &group) { group } else { vec![] }
}

/// Results wider than so many times the input are not merged.
///
/// A merge saves a rounding of the input and a smaller product, and costs a split, which copies the results. Measured in ONNX Runtime with 1088 rows of 1536
/// channels: the split of gate and up (17920 together) takes 4.2 ms, rounding the input once more 0.4; that of q, k and v (2048) 0.3.
const WIDEST: usize = 4;

/// Whether the split behind a merged product costs less than it saves.
fn is_worth(graph: &Graph, weights: &[WeightDecl], group: &[usize]) -> bool {
    let matrix = |&i: &usize| match &graph.nodes[i].op {
        Op::Linear(l) => weights[l.weight.0].shape.as_slice(),
        _ => &[],
    };
    let rows: usize = group.iter().filter_map(|i| matrix(i).first()).sum();
    let columns = group.first().and_then(|i| matrix(i).get(1).copied()).unwrap_or(0);
    rows <= WIDEST * columns
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::{Component, DType, Dim, GraphBuilder, Part, Sym};

    /// Linears left of two that read one value of 4 channels.
    fn left(widths: [usize; 2]) -> usize {
        let mut weights = vec![];
        let mut g = GraphBuilder::new(Part::Decoder, &mut weights, Component::Decoder);
        let x =
            g.input("x", DType::Float, vec![Dim::Sym(Sym::Batch), Dim::Sym(Sym::Sequence), Dim::Fixed(4)]);
        for (i, width) in widths.into_iter().enumerate() {
            let weight = g.weight(&format!("linear{i}.weight"), vec![width, 4]);
            let linear = Linear { weight, bias: None, act: None, writes: None };
            let y = g.add(&format!("linear{i}"), linear, &[x]).unwrap();
            g.output(y);
        }
        let mut graph = g.finish();
        merge_graph(&mut graph, &mut weights);
        graph.nodes.iter().filter(|n| matches!(n.op, Op::Linear(_))).count()
    }

    #[test]
    fn results_much_wider_than_their_input_stay_apart() {
        assert_eq!(left([8, 8]), 1);
        assert_eq!(left([8, 9]), 2);
    }
}
