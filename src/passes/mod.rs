//! Passes: a valid model in, a valid model out, each with a stated invariant. Statistics come in as data; nothing here runs a graph.

mod aifs;
mod bake;
mod fold;
mod merge;
mod msq;
mod online;
pub mod rewrite;
mod rotate;
mod smooth;
mod suppress;

use std::collections::BTreeMap;

pub use aifs::order_by_modality;
pub use bake::bake_mean;
pub use fold::{fold_norms, fold_streams};
pub use merge::merge_linears;
pub use msq::carry_modality;
pub use online::rotate_online;
pub use rotate::{needs_mean, rotate_heads, rotate_stream, stream_width};
pub use smooth::{Pair, smooth, smoothable, smoothable_values};
pub use suppress::{is_suppressed, suppress, suppressed_channels};

use crate::graph::ops::OpSpec;
use crate::graph::{
    Basis, Graph, Op, ValidationError, ValueId, ValueInfo, WeightDecl, WeightFormat, WeightId,
};

/// A pass could not be applied, or broke the model.
#[derive(Debug, thiserror::Error)]
pub enum PassError {
    /// The model does not have the form the pass needs.
    #[error("pass {pass}: {reason}")]
    Requires {
        /// Name of the pass.
        pass: &'static str,
        /// What is missing.
        reason: String,
    },
    /// No online rotation has the order asked for.
    #[error(
        "pass rotate_online: rotation order impossible: {linear} has {channels} input channels, and blocks of {block} of them have no Hadamard matrix; \
         {}", possible(.nearest)
    )]
    ImpossibleOrder {
        /// The linear whose input was to be rotated.
        linear: String,
        /// Its input channels.
        channels: usize,
        /// The block asked for.
        block: usize,
        /// The possible blocks next to it, the smaller first; at most two.
        nearest: Vec<usize>,
    },
    /// A channel is to be suppressed where no online rotation inflates one.
    #[error(
        "pass suppress: RMS asked for without online rotation: the input of {linear} is not rotated while the model runs; rotate it first"
    )]
    NotRotated {
        /// The linear.
        linear: String,
    },
    /// A mean cannot be baked into the writers of a stream.
    #[error("pass bake_mean: the mean of the {stream} stream is needed by {reader}: {reason}")]
    MeanIsRead {
        /// The stream.
        stream: crate::graph::Stream,
        /// The node that stands in the way.
        reader: String,
        /// What it does with the mean.
        reason: &'static str,
    },
    /// The model is not valid after the pass: a fault of this program.
    #[error("internal: the pass {pass} broke the model")]
    Broke {
        /// Name of the pass.
        pass: &'static str,
        /// What is wrong.
        source: ValidationError,
    },
}

fn possible(blocks: &[usize]) -> String {
    match blocks {
        [] => "no block is possible".to_string(),
        blocks => {
            let words: Vec<String> = blocks.iter().map(ToString::to_string).collect();
            format!("the nearest possible: {}", words.join(" and "))
        }
    }
}

/// A linear before any was merged: its graph's index, its node's index and the role of its matrix.
fn one_linear(
    pass: &'static str,
    model: &crate::graph::Model,
    name: &str,
) -> Result<(usize, usize, String), PassError> {
    let fail = |reason: String| Err(PassError::Requires { pass, reason });
    let nodes = model
        .graphs
        .iter()
        .enumerate()
        .flat_map(|(g, graph)| graph.nodes.iter().enumerate().map(move |n| (g, n)));
    let Some((graph, (index, node))) = nodes.into_iter().find(|(_, (_, n))| n.name == name) else {
        return fail(format!("the model has no linear {name}"));
    };
    let Op::Linear(linear) = &node.op else {
        return fail(format!("{name} is no linear"));
    };
    let decl = model.weight(linear.weight);
    let users =
        model.graphs.iter().flat_map(|g| &g.nodes).filter(|n| n.op.weights().contains(&linear.weight));
    match decl.parts.as_slice() {
        _ if linear.act.is_some() || decl.format != WeightFormat::Float => {
            fail(format!("{name} is quantized already"))
        }
        [role] if users.count() == 1 => Ok((graph, index, role.clone())),
        [_] => fail(format!("the matrix of {name} has other users")),
        parts => fail(format!("{name} was merged from {} linears", parts.len())),
    }
}

/// Adds a value like another, with so many channels and this basis.
fn add_value(
    graph: &mut Graph,
    name: String,
    like: ValueId,
    channels: usize,
    basis: Option<Basis>,
) -> ValueId {
    let of = graph.value(like);
    let value = ValueInfo { name, dtype: of.dtype, shape: of.with_channels(channels), basis };
    graph.values.push(value);
    ValueId(graph.values.len() - 1)
}

/// Validates what a pass made.
fn ensure(pass: &'static str, model: crate::graph::Model) -> Result<crate::graph::Model, PassError> {
    match crate::graph::validate(&model) {
        Ok(()) => Ok(model),
        Err(source) => Err(PassError::Broke { pass, source }),
    }
}

/// Removes weights that no node names and renumbers the others.
fn drop_unused_weights(model: &mut crate::graph::Model) {
    let mut new_ids = BTreeMap::new();
    for id in model.graphs.iter().flat_map(|g| &g.nodes).flat_map(|n| n.op.weights()) {
        let next = new_ids.len();
        new_ids.entry(id).or_insert(WeightId(next));
    }
    for node in model.graphs.iter_mut().flat_map(|g| &mut g.nodes) {
        for id in node.op.weights_mut() {
            *id = new_ids.get(id).copied().unwrap_or(*id);
        }
    }
    let mut kept: Vec<(WeightId, WeightDecl)> =
        new_ids.iter().map(|(old, new)| (*new, model.weights[old.0].clone())).collect();
    kept.sort_by_key(|(new, _)| *new);
    model.weights = kept.into_iter().map(|(_, decl)| decl).collect();
}
