//! What a verification is asked for.

use std::path::PathBuf;

use crate::pipeline::SampleFile;
use crate::quantize::recipe::Thresholds;
use crate::verify::score::Metric;
use crate::verify::select::{SelectOptions, Wanted};

/// One verification.
#[derive(Clone, Debug)]
pub struct VerifyRequest {
    /// Exported folder.
    pub artifact: PathBuf,
    /// The checkpoint it was made from.
    pub reference: PathBuf,
    /// The user's family file instead of the built-in ones.
    pub family_file: Option<PathBuf>,
    /// Evaluation data.
    pub data: SampleFile,
    /// What runs the artifact; the reference executor stands in for a real runtime that is not there, which the report then says.
    pub runtime: Wanted,
    /// Thresholds of the command line; those of the artifact's recipe count where these say nothing.
    pub thresholds: Thresholds,
    /// How answers are scored; absent: as the data says, exactly where it does not.
    pub metric: Option<Metric>,
    /// Most tokens of an answer.
    pub max_new_tokens: usize,
    /// Samples on which the difference is attributed; 0 for none.
    pub attribution: usize,
    /// How the real runtime runs.
    pub options: SelectOptions,
}
