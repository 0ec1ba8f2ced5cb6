//! One ONNX file: its signature, operators and quantized products. What is read and counted is [`crate::export::onnx::inspect`]'s business.

use std::path::Path;

use serde::Serialize;

use crate::cli::SCHEMA_VERSION;
use crate::cli::error::CliError;

/// An ONNX file as seen.
#[derive(Debug, Serialize)]
pub struct OnnxSeen {
    schema_version: u32,
    kind: &'static str,
}

/// Looks at the file `path`.
///
/// # Errors
/// [`CliError::Onnx`] when it is no ONNX file.
pub fn inspect(path: &Path) -> Result<OnnxSeen, CliError> {
    let _ = crate::export::onnx::inspect::inspect(path)?;
    Ok(OnnxSeen { schema_version: SCHEMA_VERSION, kind: "onnx" })
}

impl OnnxSeen {
    /// For people.
    pub fn lines(&self) -> Vec<String> {
        vec![]
    }
}
