//! Applies a plan with calibrated ranges to a canonical model: activation scales on linears, integer formats on their weights, then the
//! passes that make the result executable and fast.

use super::calibration::Ranges;
use super::error::QuantizeError;
use super::plan::{LinearPlan, Plan};
use super::recipe::Activations;
use crate::calibrate::observe::ModalityRange;
use crate::graph::ops::ActScales;
use crate::graph::{Model, Op, WeightFormat, validate};
use crate::numeric::grid::symmetric_scale;
use crate::passes::{carry_modality, merge_linears, suppressed_channels};

/// A quantized model and what was decided on the way. Back-ends take nothing else.
#[derive(Clone, Debug, PartialEq)]
pub struct Quantized {
    /// The model, valid, linears merged.
    pub model: Model,
    /// One entry per quantized linear of the plan.
    pub scales: Vec<ScaleNote>,
}

/// Activation scales of one linear and what they were made from.
#[derive(Clone, Debug, PartialEq)]
pub struct ScaleNote {
    /// Role without `.weight`.
    pub role: String,
    /// The scales used.
    pub scales: ActScales,
    /// Calibrated ranges.
    pub range: ModalityRange,
    /// How many scales this linear was planned to have.
    pub activations: Activations,
}

/// Makes the quantized model of `plan`.
///
/// # Errors
/// [`QuantizeError::NotCalibrated`] when `ranges` lacks a planned linear; others are faults of this program.
pub fn apply(
    model: &Model,
    plan: &Plan,
    ranges: &Ranges,
    merge_ratio: f32,
) -> Result<Quantized, QuantizeError> {
    let mut model = model.clone();
    let mut scales = Vec::new();
    let suppressed = suppressed_channels(&model);
    for linear in plan.linears.iter().filter(|l| l.precision.is_quantized()) {
        let note = note(linear, ranges, suppressed.get(&linear.role).copied(), merge_ratio)?;
        let nodes = model.graphs.iter_mut().flat_map(|g| &mut g.nodes);
        for node in nodes.filter(|n| n.name == linear.role) {
            if let Op::Linear(l) = &mut node.op {
                l.act = Some(note.scales);
                model.weights[l.weight.0].format = WeightFormat::Int8PerChannel;
            }
        }
        scales.push(note);
    }
    let model = merge_linears(carry_modality(model)?)?;
    validate(&model)?;
    Ok(Quantized { model, scales })
}

/// `suppressed` is an input channel that the product does not see: its column is zero.
fn note(
    linear: &LinearPlan,
    ranges: &Ranges,
    suppressed: Option<usize>,
    merge_ratio: f32,
) -> Result<ScaleNote, QuantizeError> {
    let role = linear.role.clone();
    let Some(range) = ranges.get(&role) else { return Err(QuantizeError::NotCalibrated { linear: role }) };
    let range = match suppressed {
        None => range.whole(),
        Some(channel) => range.without(channel).whole(),
    };
    let activations = linear.precision.activations;
    let scales = match activations {
        Activations::Msq => per_modality(&range, merge_ratio),
        Activations::Static | Activations::Float => {
            ActScales::one(symmetric_scale(range.visual.max.max(range.text.max)))
        }
    };
    Ok(ScaleNote { role, scales, range, activations })
}

/// One scale per modality; a modality without rows takes the other's, two scales within `merge_ratio` become the larger.
fn per_modality(range: &ModalityRange, merge_ratio: f32) -> ActScales {
    let (visual, text) = (symmetric_scale(range.visual.max), symmetric_scale(range.text.max));
    if range.visual.rows == 0 {
        return ActScales::one(text);
    }
    if range.text.rows == 0 {
        return ActScales::one(visual);
    }
    let (low, high) = if visual < text { (visual, text) } else { (text, visual) };
    if high <= low * merge_ratio { ActScales::one(high) } else { ActScales { visual, text } }
}
