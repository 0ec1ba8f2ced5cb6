//! ONNX back-end: one `.onnx` file per graph with its weights in `<file>.onnx.data`, and the two configuration files ONNX Runtime GenAI reads.
//!
//! Opset 21, IR version 10. [`OpSet::Ort`] also uses ONNX Runtime's own operators (`com.microsoft` 1) where they measured faster;
//! [`OpSet::Standard`] does not, and its Q/DQ pairs fuse to the same integer kernels. Files are the same bytes for the same model, weights
//! and options. They are written under their final names into a directory the caller provides: publishing it whole is the caller's job.
//!
//! `form` chooses, `ops` lowers, `emit` collects, `weights`, `few_bits` and `external` write numbers, `signature` says what goes in and out, `file` encodes, `genai` configures,
//! `read` reads back, `inspect` for people. `generate.py` runs the files where GenAI cannot.

mod bytes;
mod call;
mod emit;
mod error;
mod external;
mod few_bits;
mod file;
mod form;
pub mod genai;
pub mod inspect;
mod nibbles;
mod ops;
// Committed as prost-build writes it, so that a test can compare it with a fresh generation.
#[rustfmt::skip]
#[allow(missing_docs)]
pub mod proto;
pub mod read;
mod signature;
#[cfg(test)]
mod tests;
mod weights;

use std::path::{Path, PathBuf};

pub use call::MICROSOFT;
pub use error::OnnxError;
pub use external::ALIGNMENT;
pub use form::{Form, FormError, LinearForm, MsqForm, OnnxOptions, Store, stored_bytes};
pub use signature::{ElementType, Extent, GraphSignature, TensorSignature, signatures};

use crate::graph::{Graph, Model, Part, WeightSource};
use emit::Emitter;

/// Which operators a file may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpSet {
    /// Standard operators and ONNX Runtime's own.
    Ort,
    /// Standard operators only.
    Standard,
}

impl OpSet {
    /// Name in flags and metadata.
    pub fn name(self) -> &'static str {
        match self {
            OpSet::Ort => "ort",
            OpSet::Standard => "standard",
        }
    }
}

/// Name of the program in [`GENERATE`].
pub const GENERATE_FILE: &str = "generate.py";

/// A short Python program, the same for every model, that generates text with the files of its folder and what `preprocess` wrote.
pub const GENERATE: &str = include_str!("generate.py");

/// Name of the file a graph becomes; the decoder's is the one GenAI and other loaders call the model.
pub fn file_name(part: Part) -> &'static str {
    match part {
        Part::Vision => "vision.onnx",
        Part::Embedding => "embedding.onnx",
        Part::Decoder => "model.onnx",
    }
}

/// Whether past and present caches of the decoder file may be one buffer (`past_present_share_buffer`): only where every attention is
/// ONNX Runtime's operator, which writes into the past it is given.
pub fn shares_cache_buffer(model: &Model, options: &OnnxOptions) -> bool {
    ops::fuses_causal_attention(options.ops, model.spec.decoder.head_dim)
}

/// Writes every graph of a validated model into `dir`; returns the paths written, in graph order, each graph file followed by its
/// data file. Holds one weight in memory at a time. `progress` is told the part's name, nodes done and nodes in all.
///
/// # Errors
/// [`OnnxError`] when a weight cannot be had or a file cannot be written; files already written are left for the caller to remove.
pub fn write(
    model: &Model,
    weights: &dyn WeightSource,
    dir: &Path,
    options: &OnnxOptions,
    progress: &mut dyn FnMut(&str, usize, usize),
) -> Result<Vec<PathBuf>, OnnxError> {
    let mut written = Vec::new();
    for graph in &model.graphs {
        let path = dir.join(file_name(graph.part));
        written.extend(write_graph((model, graph), weights, &path, options, progress)?);
    }
    Ok(written)
}

fn write_graph(
    (model, graph): (&Model, &Graph),
    weights: &dyn WeightSource,
    path: &Path,
    options: &OnnxOptions,
    progress: &mut dyn FnMut(&str, usize, usize),
) -> Result<Vec<PathBuf>, OnnxError> {
    let mut data_path = path.as_os_str().to_owned();
    data_path.push(".data");
    let mut emitter = Emitter::new((model, graph), weights, *options, Path::new(&data_path));
    for (i, node) in graph.nodes.iter().enumerate() {
        emitter.enter(node);
        ops::lower(&node.op, &mut emitter)?;
        progress(graph.part.name(), i + 1, graph.nodes.len());
    }
    let emitted = emitter.finish();
    let message = file::model_proto(model, graph, options, emitted.nodes, emitted.initializers);
    file::write(path, &message)?;
    Ok(std::iter::once(path.to_path_buf()).chain(emitted.data.finish()?).collect())
}
