//! The pipeline: read, prepare, calibrate, emit, finish, in one temporary folder that is renamed to its final name at the very end. What
//! one export is asked for is a `request`, what it tells is a `report`, how it speaks on the way is `progress`.
//! One prompt alone is [`preprocess`]'s business, and [`run`]'s when it is answered. No arithmetic, no formats and no printing here.

mod card;
mod emit;
mod error;
mod explain;
mod export;
mod manifest;
mod output;
mod prepare;
mod preprocess;
mod progress;
mod report;
mod request;
mod run;
mod verify;

pub use error::{PipelineError, VerifyError};
pub use explain::{Explanation, explain};
pub use export::{Plan, export, plan};
pub use manifest::{GgufForm, MANIFEST_FILE, Manifest, OnnxForm, QuantizedLinear};
pub use prepare::{calibration_samples, preparer};
pub use preprocess::{PreprocessReport, PreprocessRequest, preprocess};
pub use progress::{Progress, Silent, Stage, Warning};
pub use report::{ExportReport, REPORT_VERSION};
pub use request::{ExportRequest, Format, SampleFile};
pub use run::{RunReport, RunRequest, artifact_files, run};
pub use verify::{VerifyRequest, verify};
