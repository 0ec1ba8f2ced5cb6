//! Moves magnitude from the input of a down projection into its weight: channel `k` of the product `act(gate) * up` is divided by `s_k` in the rows of
//! `up`, and column `k` of the linear that reads the product multiplied by it. Free at run time (SmoothQuant, arXiv 2211.10438 section 4, with a
//! linear in the place of the norm).
//!
//! Requires: linears not merged. Ensures: the model computes the same, up to the rounding of weights. No node changes. Where an activation stands between
//! the two linears, nothing is linear enough to move a scale through it.

use super::rewrite::{Change, Factors, Rewrites};
use crate::graph::ops::OpSpec;
use crate::graph::{Graph, Model, Node, Op, ValueId};

/// Two linears with a product between them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pair {
    /// Node of the linear that reads the product.
    pub down: String,
    /// Role of its matrix.
    pub matrix: String,
    /// Roles of matrix and bias of the linear that is one factor of it.
    pub up: Vec<String>,
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
    let role = |id: crate::graph::WeightId| model.weight(id).name.clone();
    let up = up.weights().into_iter().map(role).collect();
    Some(Pair { down: node.name.clone(), matrix: role(down.weight), up })
}

/// Divides the channels between the linears of `pair` by `scales` (positive, one per channel).
pub fn smooth(rewrites: &mut Rewrites, pair: &Pair, scales: &[f64]) {
    let inverse: Vec<f64> = scales.iter().map(|s| 1.0 / s).collect();
    for role in &pair.up {
        rewrites.push(role, Change::ScaleRows { by: Factors::Numbers(inverse.clone()) });
    }
    rewrites.push(&pair.matrix, Change::ScaleColumns { by: Factors::Numbers(scales.to_vec()) });
}
