//! What a user can ask the pipeline for, resolved: no flags, no defaults left to guess.

use std::path::PathBuf;

use crate::export::gguf::GgufOptions;
use crate::export::onnx::OnnxOptions;
use crate::quantize::recipe::Recipe;

/// One export.
#[derive(Clone, Debug)]
pub struct ExportRequest {
    /// Checkpoint folder.
    pub model: PathBuf,
    /// Folder to make.
    pub out: PathBuf,
    /// Replace `out` if it is an artifact of this program or empty.
    pub force: bool,
    /// Precision and calibration.
    pub recipe: Recipe,
    /// Calibration data; required when the recipe has static activations.
    pub calibration: Option<SampleFile>,
    /// The user's family file instead of the built-in ones.
    pub family_file: Option<PathBuf>,
    /// What is written.
    pub format: Format,
    /// Bytes of calibration activations held in memory; what is above goes to a file beside the output.
    pub activation_memory: u64,
}

/// A data set file: where samples for calibration or for evaluation come from.
#[derive(Clone, Debug)]
pub struct SampleFile {
    /// Data set file.
    pub path: PathBuf,
    /// Images may lie outside the file's folder.
    pub allow_outside: bool,
    /// Use only the first samples.
    pub limit: Option<usize>,
}

/// A format with its options.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// ONNX graphs.
    Onnx(OnnxOptions),
    /// GGUF files.
    Gguf(GgufOptions),
}

impl Format {
    /// Name in flags and manifests.
    pub fn name(&self) -> &'static str {
        match self {
            Format::Onnx(_) => "onnx",
            Format::Gguf(_) => "gguf",
        }
    }

    /// The options of ONNX graphs.
    pub fn onnx(&self) -> Option<&OnnxOptions> {
        match self {
            Format::Onnx(options) => Some(options),
            Format::Gguf(_) => None,
        }
    }
}
