//! Quantization: a recipe becomes a plan per linear; what the float model does on calibration samples decides remedies and grids ([`decide`]); the block loop
//! makes activation scales and integer weights ([`quantize`]), which stand in a file until an exporter asks for them.

mod apply;
mod blocks;
mod calibration;
mod decide;
mod error;
mod expected;
mod gate;
mod linear;
mod plan;
pub mod recipe;
mod remedy;
mod rotation;
mod samples;
pub mod spill;
mod target;
mod weights;

pub use apply::{Quantized, Workspace, quantize};
pub use decide::{Candidate, Decided, LinearDecision, Reason, decide};
pub use error::QuantizeError;
pub use expected::expected_error;
pub use linear::{MINIMUM_ROWS, Outcome, WeightOutcome};
pub use plan::{Decision, LinearPlan, Plan, plan};
pub use rotation::{GateErrors, Proof, RotationNote, Transformed, prove, transform};
pub use samples::CalibrationSample;
pub use target::{GgufGraph, Target};
pub use weights::{CodeMatrix, Codes, QuantizedWeights};
