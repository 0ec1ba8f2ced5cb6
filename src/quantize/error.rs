//! Why a recipe could not be applied.

use super::linear::MINIMUM_ROWS;
use super::rotation::Proof;
use super::spill::SpillError;
use crate::exec::ExecError;
use crate::graph::ValidationError;
use crate::numeric::FactorError;
use crate::numeric::rounding;
use crate::passes::PassError;

/// Failure of planning, calibration or application.
#[derive(Debug, thiserror::Error)]
pub enum QuantizeError {
    /// A recipe cannot be read or contradicts itself.
    #[error("recipe {name}: {reason}")]
    Recipe {
        /// Recipe name or file.
        name: String,
        /// What is wrong, what was expected, what to do.
        reason: String,
    },
    /// An override's pattern matches no linear of the model.
    #[error(
        "recipe {name}: the override {pattern:?} matches no linear; linears are named like {example:?} ('*' stands for any run of characters)"
    )]
    Unmatched {
        /// Recipe name.
        name: String,
        /// The pattern.
        pattern: String,
        /// A linear of this model.
        example: String,
    },
    /// No calibration sample reached a linear that is to be quantized.
    #[error(
        "no calibration sample reached the linear {linear}, so it has no activation scale\n\
         hint: the vision tower and the projector need samples with images; add some, or leave these components float in the recipe"
    )]
    NotCalibrated {
        /// Role of the linear.
        linear: String,
    },
    /// Too few calibration rows for a Hessian.
    #[error(
        "the linear {linear} saw {rows} calibration rows, GPTQ needs at least {MINIMUM_ROWS}\n\
         hint: add calibration samples, leave the linear to an override in the recipe, or drop gptq from it"
    )]
    FewRows {
        /// Role of the linear.
        linear: String,
        /// Rows seen.
        rows: u64,
    },
    /// The Hessian of a linear's input cannot be used.
    #[error(
        "the Hessian of the input of {linear} cannot be used\n\
         hint: add calibration samples that differ more, raise gptq.damping, or drop gptq for this linear"
    )]
    Hessian {
        /// Role of the linear.
        linear: String,
        /// What is wrong with it.
        source: FactorError,
    },
    /// A weight cannot be rounded.
    #[error("the weight of {linear} cannot be rounded")]
    Rounding {
        /// Role of the linear.
        linear: String,
        /// What is wrong with it.
        source: rounding::QuantizeError,
    },
    /// Calibration activations or codes could not be kept.
    #[error("space for calibration activations and codes")]
    Spill(#[from] SpillError),
    /// An activation is not finite on the calibration data.
    #[error(
        "linear {linear}: its input is not finite on the calibration data (the float model overflows or divides by zero)"
    )]
    NotFinite {
        /// Role of the linear.
        linear: String,
    },
    /// A rotated model computes something else.
    #[error(
        "internal: the rotated model is not the model: its logits differ by {:.1e} of the largest in f32 and {:.1e} in f64, rounding explains {:.0e} and {:.0e}",
        .proof.single, .proof.double, Proof::SINGLE, Proof::DOUBLE
    )]
    NotProven {
        /// What was measured.
        proof: Proof,
    },
    /// A prompt could not be run for a proof.
    #[error("proof of a rotation")]
    Generate(#[from] crate::exec::GenerateError),
    /// A weight could not be had.
    #[error("weights for the quantizer")]
    Weight(#[from] crate::graph::WeightError),
    /// A pass failed.
    #[error(transparent)]
    Pass(#[from] PassError),
    /// The quantized model is not valid.
    #[error("internal: the quantized model is not valid")]
    Invalid(#[from] ValidationError),
    /// Running the float model failed.
    #[error("calibration run")]
    Exec(#[from] ExecError),
    /// The tensors of a calibration prompt contradict each other.
    #[error("internal: calibration tensors do not fit together")]
    Prompt(#[from] crate::numeric::ShapeError),
}

impl QuantizeError {
    /// Whether the cause is in what the user gave.
    pub fn is_user_error(&self) -> bool {
        match self {
            QuantizeError::Recipe { .. }
            | QuantizeError::Unmatched { .. }
            | QuantizeError::NotCalibrated { .. }
            | QuantizeError::NotFinite { .. }
            | QuantizeError::FewRows { .. }
            | QuantizeError::Hessian { .. }
            | QuantizeError::Spill(_) => true,
            // Reading weights fails for the user's files; sizes of a validated model do not.
            QuantizeError::Exec(e) => matches!(e, ExecError::Weight { .. }),
            _ => false,
        }
    }
}
