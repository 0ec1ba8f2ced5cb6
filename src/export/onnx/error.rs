//! Why an ONNX artifact could not be written.

use std::path::PathBuf;

use super::form::FormError;
use crate::graph::WeightError;

/// Why writing an ONNX artifact failed.
#[derive(Debug, thiserror::Error)]
pub enum OnnxError {
    /// A file could not be created or written (no space, no permission).
    #[error("{} could not be written", .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Cause.
        source: std::io::Error,
    },
    /// The numbers of a weight could not be had.
    #[error("{graph} graph, node {node}")]
    Weight {
        /// Part name.
        graph: &'static str,
        /// The node that reads it.
        node: String,
        /// Cause.
        source: WeightError,
    },
    /// The source gave a weight in another form than the model declares.
    #[error("{graph} graph, node {node}: weight {weight} is declared as {declared}, the source gave {found}")]
    WeightForm {
        /// Part name.
        graph: &'static str,
        /// The node that reads it.
        node: String,
        /// The weight.
        weight: String,
        /// Form in the model.
        declared: &'static str,
        /// Form given.
        found: &'static str,
    },
    /// The form asked for cannot have the weights of a linear.
    #[error("{graph} graph, node {node}: {source}")]
    Form {
        /// Part name.
        graph: &'static str,
        /// The linear.
        node: String,
        /// Cause.
        source: FormError,
    },
    /// The graph breaks a rule of the IR; it was not validated.
    #[error("{graph} graph, node {node}: {reason}; the model is not valid")]
    NotValid {
        /// Part name.
        graph: &'static str,
        /// The node.
        node: String,
        /// What was expected.
        reason: &'static str,
    },
    /// The graph without its weights is larger than a protobuf message may be.
    #[error("{}: the graph takes {bytes} bytes, a protobuf message holds at most {limit}", .path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Encoded size.
        bytes: usize,
        /// Largest size.
        limit: usize,
    },
    /// A configuration file could not be put into JSON.
    #[error("{} could not be written as JSON", .path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// Cause.
        source: serde_json::Error,
    },
    /// A file to be inspected could not be read.
    #[error("{} could not be read", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Cause.
        source: std::io::Error,
    },
    /// A file to be inspected is not what it should be.
    #[error("{}: {reason}", .path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What was expected and found.
        reason: String,
    },
}
