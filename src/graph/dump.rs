//! The IR as text, for people (`--dump-ir`) and for golden tests: one line per node, deterministic.

use std::fmt::Write;

use super::model::{Graph, Model, Node};
use super::ops::{Op, OpSpec, Rounding};

/// All graphs of a model, then its weight table.
pub fn dump(model: &Model) -> String {
    let mut out = String::new();
    for graph in &model.graphs {
        dump_graph(model, graph, &mut out);
        out.push('\n');
    }
    out.push_str("weights {\n");
    for w in &model.weights {
        // Writing to a String cannot fail.
        let _ = write!(out, "  {} {:?} {:?}", w.name, w.shape, w.format);
        if w.parts.len() > 1 || w.parts.first() != Some(&w.name) {
            let _ = write!(out, " <- {}", w.parts.join(" | "));
        }
        out.push('\n');
    }
    out.push_str("}\n");
    out
}

fn dump_graph(model: &Model, graph: &Graph, out: &mut String) {
    let _ = writeln!(out, "graph {} {{", graph.part.name());
    for &v in &graph.inputs {
        let _ = writeln!(out, "  input {}", graph.value(v));
    }
    for node in &graph.nodes {
        dump_node(model, graph, node, out);
    }
    for &v in &graph.outputs {
        let _ = writeln!(out, "  output %{}", graph.value(v).name);
    }
    out.push_str("}\n");
}

fn dump_node(model: &Model, graph: &Graph, node: &Node, out: &mut String) {
    let results: Vec<String> = node.outputs.iter().map(|&v| graph.value(v).to_string()).collect();
    let operands: Vec<String> = node.inputs.iter().map(|&v| format!("%{}", graph.value(v).name)).collect();
    let weights: Vec<&str> = node.op.weights().into_iter().map(|id| model.weight(id).name.as_str()).collect();
    let _ = write!(out, "  {} = {}({})", results.join(", "), node.op.name(), operands.join(", "));
    if !weights.is_empty() {
        let _ = write!(out, " [{}]", weights.join(", "));
    }
    if let Op::Linear(l) = &node.op
        && let Some(act) = l.act
    {
        let _ = match act {
            Rounding::Static(s) => write!(out, " act visual={:e} text={:e}", s.visual, s.text),
            Rounding::Asymmetric { scale, zero } => write!(out, " act scale={scale:e} zero={zero}"),
            Rounding::PerRow => write!(out, " act per row"),
        };
    }
    out.push('\n');
}
