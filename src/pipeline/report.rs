//! What an export tells when it is done: the `--json` output.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::Serialize;

use crate::quantize::LinearDecision;

/// Version of the report format.
pub const REPORT_VERSION: u32 = 1;

/// Result of one export.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct ExportReport {
    /// Format version.
    pub schema_version: u32,
    /// The finished artifact.
    pub artifact: PathBuf,
    /// Family of the checkpoint.
    pub family: String,
    /// Recipe name.
    pub recipe: String,
    /// Parameters of the source model.
    pub parameters: u64,
    /// Tensors mapped to roles.
    pub tensors_used: usize,
    /// Tensors ignored, with reasons.
    pub tensors_ignored: Vec<(String, String)>,
    /// Linears that run in integer arithmetic.
    pub linears_quantized: usize,
    /// Linears in all.
    pub linears: usize,
    /// Calibration samples used.
    pub calibration_samples: usize,
    /// Bytes of the source weights as stored.
    pub source_bytes: u64,
    /// Bytes of all artifact files.
    pub artifact_bytes: u64,
    /// Warnings given on the way.
    pub warnings: Vec<String>,
    /// What was weighed for linears that had a choice of remedy or grid.
    pub decisions: Vec<LinearDecision>,
}
