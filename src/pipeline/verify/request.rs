//! What a verification is asked for.

use std::path::PathBuf;

use crate::pipeline::CalibrationData;
use crate::quantize::recipe::Thresholds;
use crate::verify::runner::RunnerKind;
use crate::verify::score::Metric;

/// One verification.
#[derive(Clone, Debug)]
pub struct VerifyRequest {
    /// Exported folder.
    pub artifact: PathBuf,
    /// The checkpoint it was made from.
    pub reference: PathBuf,
    /// The user's family file instead of the built-in ones.
    pub family_file: Option<PathBuf>,
    /// Evaluation data; images may lie outside its folder and samples be left out as with calibration data.
    pub data: CalibrationData,
    /// What runs the artifact.
    pub runtime: RuntimeChoice,
    /// Thresholds of the command line; those of the artifact's recipe count where these say nothing.
    pub thresholds: Thresholds,
    /// How answers are scored; absent: as the data says, exactly where it does not.
    pub metric: Option<Metric>,
    /// Most tokens of an answer.
    pub max_new_tokens: usize,
    /// Samples on which the difference is attributed; 0 for none.
    pub attribution: usize,
    /// How the real runtime runs.
    pub options: RuntimeOptions,
}

/// Which runtime.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RuntimeChoice {
    /// The real runtime of the artifact's format where it is present, the reference executor otherwise, which the report then says.
    Auto,
    /// This one or none.
    Only(RunnerKind),
}

/// How a real runtime runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RuntimeOptions {
    /// ONNX Runtime's execution provider; absent: the CPU.
    pub provider: Option<String>,
    /// Address of a llama-server that runs the artifact's files; absent: one is started.
    pub server: Option<String>,
    /// Worker threads; absent: all cores.
    pub threads: Option<usize>,
}
