//! Why an export (or the preparation of a prompt) failed, by stage. [`PipelineError::is_user_error`] separates what the user can mend from what we must.

use std::path::PathBuf;

use crate::calibrate::DataError;
use crate::checkpoint::CheckpointError;
use crate::exec::ExecError;
use crate::export::gguf::{GgufError, emit::EmitError};
use crate::export::onnx::OnnxError;
use crate::family::FamilyError;
use crate::quantize::QuantizeError;
use crate::verify::runner::RunnerError;

/// Failure of an export, or of preparing one prompt.
#[derive(Debug, thiserror::Error)]
pub enum PipelineError {
    /// The checkpoint cannot be read.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The checkpoint fits no family.
    #[error(transparent)]
    Family(#[from] FamilyError),
    /// Calibration data cannot be used.
    #[error("calibration data")]
    Data(#[from] DataError),
    /// Images and text could not be made into what the model takes.
    #[error("the inputs of the model could not be prepared")]
    Inputs(#[source] Box<DataError>),
    /// The recipe needs calibration data and none was given.
    #[error(
        "the recipe {recipe} needs calibration data: for static activation scales, GPTQ, or the proof of changed weights\n\
         hint: pass --calibration FILE (JSONL chat messages, LLaVA JSON or VLMEvalKit TSV; 64 to 256 samples of the \
         kind the model will see). A ready set for a first try: fixtures/qwen2_vl_tiny/calibration.tsv in the source \
         tree. Or pass --recipe float, or for GGUF --method nearest"
    )]
    NeedsCalibration {
        /// Recipe name.
        recipe: String,
    },
    /// A file of the checkpoint that the pipeline needs is absent.
    #[error("{dir}: {file} is missing (needed for {purpose})", dir = .dir.display())]
    MissingFile {
        /// Checkpoint folder.
        dir: PathBuf,
        /// File names that would do.
        file: &'static str,
        /// What it is for.
        purpose: &'static str,
    },
    /// The recipe does not fit the model, or quantization failed.
    #[error(transparent)]
    Quantize(#[from] QuantizeError),
    /// Running the float model on calibration data failed.
    #[error("calibration")]
    Exec(#[from] ExecError),
    /// A linear was asked for that the model does not have.
    #[error("the model has no linear {role:?}; the nearest name is {nearest:?} (--dry-run --json lists all)")]
    NoLinear {
        /// As given.
        role: String,
        /// A linear of the model.
        nearest: String,
    },
    /// Writing the graphs failed.
    #[error(transparent)]
    Onnx(#[from] OnnxError),
    /// llama.cpp cannot run the family.
    #[error("llama.cpp cannot run {family}. {reason}")]
    NoGguf {
        /// Name of the family, for people.
        family: String,
        /// The family file's sentence: why, and what to do instead.
        reason: String,
    },
    /// A model that llama.cpp's graphs cannot express, or numbers that could not be had.
    #[error(transparent)]
    Emit(#[from] EmitError),
    /// Writing GGUF files failed.
    #[error(transparent)]
    Gguf(#[from] GgufError),
    /// An artifact's runtime is not there, or fails.
    #[error(transparent)]
    Runner(#[from] RunnerError),
    /// The output folder cannot be used.
    #[error("output folder {path}: {reason}", path = .path.display())]
    Output {
        /// As given.
        path: PathBuf,
        /// What is wrong and what to do.
        reason: String,
    },
    /// The output file cannot be used.
    #[error("output file {path}: {reason}", path = .path.display())]
    OutputFile {
        /// As given.
        path: PathBuf,
        /// What is wrong and what to do.
        reason: String,
    },
    /// A file operation failed.
    #[error("{path}: {source}", path = .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Cause.
        source: std::io::Error,
    },
    /// A verification did not come to a result.
    #[error(transparent)]
    Verify(Box<VerifyError>),
    /// The tensors of a calibration prompt contradict each other: a fault of this program.
    #[error("internal: calibration tensors of sample {sample} do not fit together")]
    Prompt {
        /// Sample id.
        sample: String,
        /// Cause.
        source: crate::numeric::ShapeError,
    },
}

/// Why a verification did not come to a result.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// Files that are not those that were exported.
    #[error(
        "{artifact}: {count} changed or missing since the export, by SHA-256: {names}\n\
         hint: nothing was run; export again, or copy the folder again from where it was made",
        artifact = .artifact.display()
    )]
    Changed {
        /// The folder.
        artifact: PathBuf,
        /// `1 file`, `3 files`.
        count: String,
        /// Their names.
        names: String,
    },
    /// The checkpoint is of another family than the artifact.
    #[error("the artifact is of the family {artifact}, the reference {path} of {reference}; pass the checkpoint that was exported", path = .path.display())]
    Family {
        /// By its manifest.
        artifact: String,
        /// Of the checkpoint.
        reference: String,
        /// The checkpoint.
        path: PathBuf,
    },
    /// Evaluation data cannot be used.
    #[error("evaluation data")]
    Data(#[source] Box<DataError>),
    /// The artifact was calibrated on samples that it is to be judged by.
    #[error(
        "{data}: {count} of {all} samples were calibration samples of this artifact (by the hashes in its manifest): {ids}\n\
         hint: judge it by samples that it has not seen; leave these out",
        data = .data.display()
    )]
    Overlap {
        /// Samples in both.
        count: usize,
        /// Samples.
        all: usize,
        /// Some of their ids.
        ids: String,
        /// The data.
        data: PathBuf,
    },
    /// The artifact has no vision side and every sample has images.
    #[error(
        "every sample has images, and this artifact shows none: it has no mmproj file\nhint: verify it on samples without images; the ONNX export has the vision side"
    )]
    OnlyImages,
    /// An unknown metric in the data.
    #[error("sample '{sample}': metric is {found:?}, expected one of {known}")]
    Metric {
        /// Id of the sample.
        sample: String,
        /// What the data says.
        found: String,
        /// Names that are known.
        known: String,
    },
    /// A file of the artifact that is run has no place in its manifest.
    #[error("{artifact}: the manifest names no {what}; export again with this version", artifact = .artifact.display())]
    Incomplete {
        /// The folder.
        artifact: PathBuf,
        /// What is missing.
        what: &'static str,
    },
}

impl From<VerifyError> for PipelineError {
    fn from(e: VerifyError) -> Self {
        PipelineError::Verify(Box::new(e))
    }
}

impl PipelineError {
    /// [`PipelineError::Inputs`]; boxed, because every result would grow with a second of these.
    pub(super) fn inputs(source: DataError) -> Self {
        PipelineError::Inputs(Box::new(source))
    }

    /// Whether the cause is in what the user gave (files, flags, disk), not in this program.
    pub fn is_user_error(&self) -> bool {
        match self {
            PipelineError::Prompt { .. } | PipelineError::Exec(_) => false,
            // A full disk or a damaged weight is the user's to mend; a graph that does not lower is not.
            PipelineError::Onnx(e) => {
                matches!(e, OnnxError::Io { .. } | OnnxError::Weight { .. } | OnnxError::Form { .. })
            }
            PipelineError::Gguf(e) => e.is_user_error(),
            PipelineError::Emit(e) => !matches!(e, EmitError::Index { .. } | EmitError::Build(_)),
            PipelineError::Quantize(e) => e.is_user_error(),
            _ => true,
        }
    }
}
