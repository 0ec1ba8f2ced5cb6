//! Moves magnitude from the input of a linear into its weight, through what stands between it and the linear that makes the input: row `r` of the maker is
//! divided by `s_r`, the columns that read it are multiplied by it. Free at run time (SmoothQuant, arXiv 2211.10438 section 4, with a linear in the
//! place of the norm). Two places are linear enough: the product `act(gate) * up` in front of a down projection, and attention, which mixes rows of values
//! channel by channel.
//!
//! Requires: linears not merged; value heads not rotated yet where values are smoothed. Ensures: the model computes the same, up to the rounding of
//! weights. No node changes. Where an activation stands between the two linears, no scale can be moved through it.

use super::rewrite::{Change, Factors, Rewrites};
use crate::graph::ops::OpSpec;
use crate::graph::{Graph, Model, Node, Op, ValueId, WeightId};

/// Two linears with something between them that a scale per channel passes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pair {
    /// Node of the linear that reads.
    pub down: String,
    /// Role of its matrix.
    pub matrix: String,
    /// Roles of matrix and bias of the linear that makes what is read, or one factor of it.
    pub up: Vec<String>,
    /// For each column of `matrix` the row of `up` that it reads. Several columns may read one row: query heads that share a value head.
    pub rows: Vec<usize>,
}

/// All such pairs of a model, in graph order.
pub fn smoothable(model: &Model) -> Vec<Pair> {
    let of = |g: &Graph| {
        let found = g.nodes.iter().filter_map(|n| pair(model, g, n));
        found.collect::<Vec<_>>()
    };
    model.graphs.iter().flat_map(of).collect()
}

fn pair(model: &Model, graph: &Graph, node: &Node) -> Option<Pair> {
    let Op::Linear(down) = &node.op else { return None };
    let only_reader = |v: ValueId| graph.readers(v).count() == 1;
    let product = *node.inputs.first()?;
    let (_, made) =
        graph.maker(product).filter(|(_, n)| matches!(n.op, Op::Mul(_)) && only_reader(product))?;
    let factor = |&v: &ValueId| match &graph.maker(v)?.1.op {
        Op::Linear(up) if only_reader(v) => Some(up),
        _ => None,
    };
    let up = made.inputs.iter().find_map(factor)?;
    let role = |id: WeightId| model.weight(id).name.clone();
    let rows = (0..graph.value(product).channels()?).collect();
    let up = up.weights().into_iter().map(role).collect();
    Some(Pair { down: node.name.clone(), matrix: role(down.weight), up, rows })
}

/// The pairs of value and output projections, in graph order.
pub fn smoothable_values(model: &Model) -> Vec<Pair> {
    let of = |g: &Graph| {
        let found = g.nodes.iter().filter_map(|n| value_pair(model, g, n));
        found.collect::<Vec<_>>()
    };
    model.graphs.iter().flat_map(of).collect()
}

fn value_pair(model: &Model, graph: &Graph, node: &Node) -> Option<Pair> {
    let (heads, kv_heads, head_dim) = match &node.op {
        Op::CausalAttention(a) => (a.heads, a.kv_heads, a.head_dim),
        Op::SegmentAttention(a) => (a.heads, a.heads, a.head_dim),
        Op::CrossAttention(a) => (a.heads, a.heads, a.head_dim),
        _ => return None,
    };
    let (value, mixed) = (*node.inputs.get(2)?, *node.outputs.first()?);
    let Op::Linear(v) = &graph.maker(value)?.1.op else { return None };
    let (_, reader) = graph.readers(mixed).next()?;
    let Op::Linear(o) = &reader.op else { return None };
    if graph.readers(value).count() != 1 || graph.readers(mixed).count() != 1 {
        return None;
    }
    let role = |id: WeightId| model.weight(id).name.clone();
    let repeat = heads / kv_heads.max(1);
    let row = |k: usize| k / head_dim / repeat.max(1) * head_dim + k % head_dim;
    let rows = (0..heads * head_dim).map(row).collect();
    let up = v.weights().into_iter().map(role).collect();
    Some(Pair { down: reader.name.clone(), matrix: role(o.weight), up, rows })
}

/// Divides the rows of `pair.up` by `scales` (positive, one per row) and multiplies the columns that read them.
pub fn smooth(rewrites: &mut Rewrites, pair: &Pair, scales: &[f64]) {
    let inverse: Vec<f64> = scales.iter().map(|s| 1.0 / s).collect();
    for role in &pair.up {
        rewrites.push(role, Change::ScaleRows { by: Factors::Numbers(inverse.clone()) });
    }
    rewrites.push(&pair.matrix, Change::ScaleColumns { by: Factors::Numbers(pair.columns(scales)) });
}

impl Pair {
    /// The factor of each column of the matrix, for a factor of each row that it reads.
    pub fn columns(&self, scales: &[f64]) -> Vec<f64> {
        self.rows.iter().map(|&r| scales.get(r).copied().unwrap_or(1.0)).collect()
    }
}
