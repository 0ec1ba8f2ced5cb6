//! Why a model cannot be written as GGUF.

use crate::graph::WeightError;
use crate::graph::build::BuildError;

/// Why a model cannot be written as GGUF.
#[derive(Debug, thiserror::Error)]
pub enum EmitError {
    /// The model has what the graph of llama.cpp does not compute, or lacks what it asks for.
    #[error(
        "llama.cpp has no place for {} part(s) of the {file} file:\n{}\n\
         hint: use a recipe without online rotations, suppressed channels and grids of codes, or export ONNX",
        .problems.len(), listed(.problems)
    )]
    NoPlace {
        /// `general.type` of the file.
        file: &'static str,
        /// Everything that is wrong; never empty.
        problems: Vec<String>,
    },
    /// A key of the metadata is given twice.
    #[error("GGUF metadata: the key {key} is given twice; leave one out")]
    Key {
        /// The key.
        key: String,
    },
    /// The model's spec cannot be built.
    #[error("the model cannot be compared with the one of its spec")]
    Build(#[from] BuildError),
    /// A weight could not be read.
    #[error("tensor {tensor} cannot be computed")]
    Weight {
        /// The tensor.
        tensor: String,
        /// Cause.
        source: WeightError,
    },
    /// The numbers of a weight cannot be stored.
    #[error("tensor {tensor}: {reason}")]
    Numbers {
        /// The tensor.
        tensor: String,
        /// What was expected and found.
        reason: String,
    },
    /// A tensor that the file does not have.
    #[error("the file has {tensors} tensors, tensor {index} was asked for")]
    Index {
        /// Index asked for.
        index: usize,
        /// Tensors of the file.
        tensors: usize,
    },
}

/// Lines shown of a long list.
const SHOWN: usize = 20;

fn listed(problems: &[String]) -> String {
    let mut lines: Vec<String> = problems.iter().take(SHOWN).map(|p| format!("  {p}")).collect();
    if problems.len() > SHOWN {
        lines.push(format!("  and {} more", problems.len() - SHOWN));
    }
    lines.join("\n")
}
