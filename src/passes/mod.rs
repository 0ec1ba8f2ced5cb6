//! Passes: a valid model in, a valid model out, each with a stated invariant. Statistics come in as data; nothing here runs a graph.

mod aifs;
mod fold;
mod merge;
mod msq;
pub mod rewrite;
mod rotate;
mod smooth;

use std::collections::BTreeMap;

pub use aifs::order_by_modality;
pub use fold::fold_norms;
pub use merge::merge_linears;
pub use msq::carry_modality;
pub use rotate::{needs_mean, rotate_heads, rotate_stream, stream_width};
pub use smooth::{Pair, smooth, smoothable};

use crate::graph::ops::OpSpec;
use crate::graph::{ValidationError, WeightDecl, WeightId};

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
    /// The model is not valid after the pass: a fault of this program.
    #[error("internal: the pass {pass} broke the model")]
    Broke {
        /// Name of the pass.
        pass: &'static str,
        /// What is wrong.
        source: ValidationError,
    },
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
