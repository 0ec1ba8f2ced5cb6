//! How weights are rounded, what is done about outliers, and where more bits go.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Weights;

/// GPTQ (arXiv 2210.17323): weights are rounded one input channel after the other, and what is not yet rounded makes up for the error.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Gptq {
    /// What is added to the diagonal of the Hessian, as a share of its mean. Raised tenfold, up to 1, where the Hessian is singular.
    pub damping: f64,
    /// Whether channels with the largest inputs come first.
    pub act_order: bool,
    /// Weight of a visual row in the Hessians of the decoder.
    pub visual_weight: f32,
    /// Weight of a text row in the Hessians of the decoder.
    pub text_weight: f32,
    /// What later linears see of the earlier ones.
    pub inputs: LoopInputs,
}

impl Default for Gptq {
    fn default() -> Self {
        Self {
            damping: 0.01,
            act_order: true,
            visual_weight: 1.0,
            text_weight: 1.0,
            inputs: LoopInputs::default(),
        }
    }
}

/// What a linear sees of the linears before it while it is being quantized.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LoopInputs {
    /// The float model.
    Float,
    /// Quantized weights, float activations.
    #[default]
    Weights,
    /// Quantized weights and rounded activations, as the artifact will compute.
    WeightsAndActivations,
}

impl Gptq {
    /// What does not hold together.
    pub(super) fn fault(&self) -> Option<String> {
        let weights = [self.visual_weight, self.text_weight];
        if !(self.damping > 0.0 && self.damping <= 1.0) {
            return Some(format!("gptq.damping is {}, expected more than 0 and at most 1", self.damping));
        }
        if weights.iter().any(|w| !w.is_finite() || *w < 0.0) || weights.iter().all(|w| *w == 0.0) {
            return Some(format!(
                "gptq.visual_weight {} and gptq.text_weight {} must be 0 or more, and one of them more than 0",
                self.visual_weight, self.text_weight
            ));
        }
        None
    }
}

/// What may be done about outliers in the inputs of down projections. The remedy with the least expected error is taken, a cheaper one where it meets the
/// error of the [`Budget`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DownProjections {
    /// Remedies to choose from; leaving the input as it is can always be chosen, unless `always` is set.
    #[serde(rename = "try")]
    pub candidates: Vec<Remedy>,
    /// Takes the best of the candidates even where doing nothing seems better.
    #[serde(default)]
    pub always: bool,
}

/// One remedy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Remedy {
    /// Magnitude moves from the input into the weight, channel by channel; nothing is added at run time.
    Smooth,
    /// A Hadamard product over blocks of so many channels, at run time.
    Hadamard(usize),
    /// The same, and the channel it inflates is computed in float (MQuant's rotation magnitude suppression).
    HadamardRms(usize),
}

impl DownProjections {
    /// Whether nothing may be done.
    pub fn is_none(&self) -> bool {
        self.candidates.is_empty()
    }

    pub(super) fn fault(&self) -> Option<String> {
        let block = |r: &Remedy| match *r {
            Remedy::Smooth => None,
            Remedy::Hadamard(block) | Remedy::HadamardRms(block) => Some(block),
        };
        let wrong = self.candidates.iter().filter_map(block).find(|b| *b == 1);
        wrong.map(|b| format!("down_projections: a Hadamard block of {b} changes nothing; expected 0 (all channels) or at least 2"))
    }
}

/// Where more bits go than planned. Linears whose planned weights are the first of `grids` may get a later one; overrides stay.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Budget {
    /// Grids from cheap to expensive.
    pub grids: Vec<Weights>,
    /// Expected error of a linear's output that is accepted: root mean square over that of the output.
    #[serde(default)]
    pub error: Option<f64>,
    /// Bits per weight on average over these linears; they go where they take away the most error.
    #[serde(default)]
    pub bits: Option<f64>,
}

impl Budget {
    pub(super) fn fault(&self) -> Option<String> {
        if self.grids.len() < 2 || self.grids.iter().any(|w| !w.are_quantized()) {
            return Some(
                "budget.grids needs at least two grids, from cheap to expensive, and no float".into(),
            );
        }
        match (self.error, self.bits) {
            (Some(e), None) if e > 0.0 && e.is_finite() => None,
            (None, Some(b)) if b > 0.0 && b.is_finite() => None,
            _ => Some("budget needs exactly one of error and bits, a positive number".into()),
        }
    }
}
