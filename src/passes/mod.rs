//! Passes: a valid model in, a valid model out, each with a stated invariant. Statistics come in as data; nothing here runs a graph.

mod merge;
mod msq;

pub use merge::merge_linears;
pub use msq::carry_modality;

use crate::graph::ValidationError;

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
