//! How a run of the program can end: exit codes, and the errors commands return. How an error is printed is in `failure`.

use std::path::PathBuf;
use std::process::ExitCode;

use crate::checkpoint::CheckpointError;
use crate::export::gguf::GgufError;
use crate::export::onnx::{FormError, OnnxError};
use crate::family::FamilyError;
use crate::pipeline::PipelineError;
use crate::quantize::QuantizeError;

/// Exit code of the program; scripts may rely on the numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExitStatus {
    /// Done.
    Success = 0,
    /// The artifact was made or read, and does not do what it should.
    VerificationFailed = 1,
    /// Something the user can mend: arguments, input files, space on disk.
    UserError = 2,
    /// A fault of this program.
    InternalError = 3,
}

impl From<ExitStatus> for ExitCode {
    fn from(status: ExitStatus) -> ExitCode {
        ExitCode::from(status as u8)
    }
}

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// The export or its plan.
    #[error(transparent)]
    Pipeline(#[from] PipelineError),
    /// The recipe named by `--recipe`.
    #[error(transparent)]
    Recipe(QuantizeError),
    /// `--ops`, `--form` and `--store` do not go together.
    #[error(transparent)]
    Form(FormError),
    /// A flag of another format.
    #[error("--{flag} with --format {format}: it belongs to --format {other}; leave it out")]
    Flag {
        /// Without dashes.
        flag: &'static str,
        /// The format asked for.
        format: &'static str,
        /// The format that has it.
        other: &'static str,
    },
    /// A checkpoint that was to be shown.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The family of a checkpoint that was to be shown.
    #[error(transparent)]
    Family(#[from] FamilyError),
    /// An ONNX file that was to be shown.
    #[error(transparent)]
    Onnx(#[from] OnnxError),
    /// A GGUF file that was to be shown.
    #[error(transparent)]
    Gguf(#[from] GgufError),
    /// `inspect` does not know this kind of thing.
    #[error(
        "{path}: {found}; a checkpoint folder, an exported folder, an .onnx or a .gguf file is expected{hint}",
        path = .path.display()
    )]
    NotInspectable {
        /// As given.
        path: PathBuf,
        /// What it is.
        found: &'static str,
        /// A line with the next step, or empty.
        hint: &'static str,
    },
    /// A file that was to be shown cannot be read.
    #[error("{path}: cannot be read", path = .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Cause.
        source: std::io::Error,
    },
    /// The worker threads could not be started.
    #[error("{threads} worker threads could not be started\nhint: try fewer with --threads N")]
    Threads {
        /// How many were asked for.
        threads: usize,
        /// Cause.
        source: rayon::ThreadPoolBuildError,
    },
    /// A threshold out of its range.
    #[error("{problem} (--max-kld, --min-top1, --max-flips, --max-accuracy-drop)")]
    Threshold {
        /// Which, and what is expected.
        problem: String,
    },
    /// A flag of a verification that was not asked for.
    #[error("--{flag} without --verify: nothing is verified then; add --verify --data FILE, or leave it out")]
    WithoutVerify {
        /// Without dashes.
        flag: &'static str,
    },
    /// The page could not be made: a fault of this program.
    #[error("internal: the page of the report could not be made")]
    Page(#[source] crate::verify::page::PageError),
    /// A report that was asked for cannot be written.
    #[error("the report {path} cannot be written", path = .path.display())]
    Report {
        /// As given.
        path: PathBuf,
        /// Cause.
        source: std::io::Error,
    },
    /// Standard output does not take the result.
    #[error("the result could not be written to standard output")]
    Stdout(#[source] std::io::Error),
    /// A result could not be put into JSON: a fault of this program.
    #[error("internal: the result could not be put into JSON")]
    Json(#[source] serde_json::Error),
}

impl CliError {
    /// The exit code this error leads to.
    pub fn status(&self) -> ExitStatus {
        let user = match self {
            CliError::Pipeline(e) => e.is_user_error(),
            CliError::Recipe(e) => e.is_user_error(),
            CliError::Json(_) | CliError::Page(_) => false,
            _ => true,
        };
        if user { ExitStatus::UserError } else { ExitStatus::InternalError }
    }
}
