//! Quantization: a recipe becomes a plan per linear, calibration gives activation scales, the plan and the scales turn the canonical model
//! into a quantized one. Weights are quantized when they are asked for, so no quantized copy of the model is ever held.

mod apply;
mod calibration;
mod error;
mod plan;
pub mod recipe;
mod rotation;
mod smoothing;
pub mod spill;
mod weights;

pub use apply::{Quantized, ScaleNote, apply};
pub use calibration::{CalibrationSample, Ranges, calibrate};
pub use error::QuantizeError;
pub use plan::{Decision, LinearPlan, Plan, plan};
pub use rotation::{Proof, RotationNote, Transformed, prove, transform};
pub use smoothing::smooth_down_projections;
pub use weights::QuantizedWeights;
