//! Bakes the mean of a residual stream into its writers: with `C = I - 1 1^T / n`, linears that write the stream give `C W` and `C b`, tables and constant
//! rows `e C`. Every row of the residual then has mean 0, so `LayerNorm(x) = RMSNorm(x)` with the same eps, and any rotation of the stream is exact
//! (SliceGPT, arXiv 2401.15024 section 3.1; MQuant, arXiv 2502.00425 section 4.2).
//!
//! Requires: norms folded. Ensures: the model computes the same, up to the rounding of weights; no LayerNorm reads the stream, RMSNorms stand in their places.
//!
//! Exact only where the mean of the residual is read by nothing but LayerNorms over exactly one of its rows. A linear of the raw residual would see another
//! input, and a LayerNorm over merged rows removes the mean of all of them, not of each: such a stream is refused, with the reader's name.

use std::collections::BTreeSet;

use super::rewrite::{Change, Rewrites};
use super::rotate::{folded, needs_mean, stream_width};
use super::{PassError, drop_unused_weights, ensure};
use crate::graph::ops::{LayerNorm, OpSpec, RmsNorm};
use crate::graph::{Component, DType, Graph, Model, Node, Op, Stream, ValueId};

const PASS: &str = "bake_mean";

/// Takes the mean out of everything that writes `stream` and puts RMSNorms in the places of its LayerNorms. On refusal `rewrites` stays as it was.
///
/// # Errors
/// [`PassError::MeanIsRead`] with the reader that makes it inexact; [`PassError::Requires`] when a norm is not folded or no LayerNorm reads the stream.
pub fn bake_mean(mut model: Model, rewrites: &mut Rewrites, stream: Stream) -> Result<Model, PassError> {
    let fail = |reason: String| Err(PassError::Requires { pass: PASS, reason });
    let mut found = Found::default();
    for graph in &model.graphs {
        Walk { model: &model, rewrites, graph, stream, raw: raw_inputs(graph, stream) }.run(&mut found)?;
    }
    let Some(width) = stream_width(&model, stream) else {
        return fail(format!("the model has no {stream} stream that can be rotated"));
    };
    if !needs_mean(&model, stream) {
        return fail(format!("no LayerNorm reads the {stream} stream, so it has no mean to bake"));
    }
    for role in found.rows {
        rewrites.push(&role, Change::CenterRows { width });
    }
    for role in found.columns {
        rewrites.push(&role, Change::CenterColumns { width });
    }
    for node in model.graphs.iter_mut().flat_map(|g| &mut g.nodes) {
        if let (true, Op::LayerNorm(LayerNorm { gain, eps, .. })) =
            (found.norms.contains(&node.name), &node.op)
        {
            node.op = RmsNorm { gain: *gain, eps: *eps }.into();
        }
    }
    drop_unused_weights(&mut model);
    ensure(PASS, model)
}

/// What is to be changed.
#[derive(Default)]
struct Found {
    /// Roles of linears that write the stream.
    rows: Vec<String>,
    /// Roles of tables that write it.
    columns: Vec<String>,
    /// LayerNorms that read it.
    norms: BTreeSet<String>,
}

/// Values handed into a graph that are rows of the residual.
fn raw_inputs(graph: &Graph, stream: Stream) -> BTreeSet<ValueId> {
    let of = |v: &&ValueId| graph.value(**v).basis.is_some_and(|b| b.stream == stream);
    graph.inputs.iter().filter(of).copied().collect()
}

/// One graph, node by node.
struct Walk<'a> {
    model: &'a Model,
    rewrites: &'a Rewrites,
    graph: &'a Graph,
    stream: Stream,
    /// Values that are rows of the residual as written, or sums and selections of such.
    raw: BTreeSet<ValueId>,
}

impl Walk<'_> {
    fn run(&mut self, found: &mut Found) -> Result<(), PassError> {
        let graph = self.graph;
        for node in &graph.nodes {
            let reads = node.inputs.iter().any(|v| self.raw.contains(v));
            if reads {
                self.read(node, found)?;
            }
            if self.writes(node) {
                self.write(node, found)?;
            }
            let passes = !matches!(node.op, Op::LayerNorm(_) | Op::Linear(_));
            if self.writes(node) || (reads && passes) || self.is_untyped_sum(node) {
                // Segments and other numbers of rows pass nothing on.
                let float = |v: &&ValueId| graph.value(**v).dtype == DType::Float;
                self.raw.extend(node.outputs.iter().filter(float));
            }
        }
        Ok(())
    }

    fn typed(&self, value: ValueId) -> bool {
        self.graph.value(value).basis.is_some_and(|b| b.stream == self.stream)
    }

    /// Whether the node puts rows of its own into the stream.
    fn writes(&self, node: &Node) -> bool {
        let writer = matches!(node.op, Op::Linear(_) | Op::Embed(_) | Op::ConstantRows(_) | Op::Scale(_));
        writer && node.outputs.iter().any(|v| self.typed(*v))
    }

    /// A sum of a residual that carries no basis because a norm with a gain writes it: what reads it is named all the same.
    fn is_untyped_sum(&self, node: &Node) -> bool {
        let component = match self.stream {
            Stream::Vision => Component::Vision,
            Stream::Decoder => Component::Decoder,
        };
        let typed = stream_width(self.model, self.stream).is_some();
        !typed && node.component == component && matches!(node.op, Op::Add(_))
    }

    fn read(&self, node: &Node, found: &mut Found) -> Result<(), PassError> {
        match &node.op {
            Op::LayerNorm(_) => {
                let merged = self.graph.value(node.inputs[0]).basis.is_some_and(|b| b.copies != 1);
                if merged {
                    return self.refuse(node, "it is a LayerNorm over several rows side by side");
                }
                if self.typed(node.inputs[0]) && !folded(self.model, self.rewrites, node) {
                    let reason = format!("the gain of {} is not folded", node.name);
                    return Err(PassError::Requires { pass: PASS, reason });
                }
                found.norms.insert(node.name.clone());
                Ok(())
            }
            Op::Linear(_) => self.refuse(node, "it is a linear of the residual without a norm between"),
            Op::RmsNorm(_) => self.refuse(node, "it is an RMSNorm, which keeps the mean"),
            _ => Ok(()),
        }
    }

    fn write(&self, node: &Node, found: &mut Found) -> Result<(), PassError> {
        let roles = node.op.weights().into_iter().map(|id| self.model.weight(id).name.clone());
        match &node.op {
            Op::Linear(_) => found.rows.extend(roles),
            Op::Embed(_) | Op::ConstantRows(_) => found.columns.extend(roles),
            _ => return self.refuse(node, "it is a gain behind the linear that writes the residual"),
        }
        Ok(())
    }

    fn refuse(&self, node: &Node, reason: &'static str) -> Result<(), PassError> {
        Err(PassError::MeanIsRead { stream: self.stream, reader: node.name.clone(), reason })
    }
}
