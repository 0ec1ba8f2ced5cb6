//! One group of linears that read the same value: activation scales from the histograms of that value, weights to codes from its Hessian.

use std::collections::BTreeMap;

use super::error::QuantizeError;
use super::plan::LinearPlan;
use super::recipe::{Activations, Gptq, Precision, Recipe};
use crate::calibrate::observe::{ModalityHistogram, ModalityRange};
use crate::exec::ExecError;
use crate::graph::ops::{ActScales, Linear, Rounding};
use crate::graph::{Node, WeightId};
use crate::numeric::grid::GridMatrix;
use crate::numeric::rounding::{self, quantize_matrix};
use crate::numeric::{Factor, FactorOptions, Hessian, Tensor, row_errors};

/// Fewest calibration rows from which a Hessian is made. Below it, GPTQ would fit the weights to the samples.
pub const MINIMUM_ROWS: u64 = 32;

/// What a zero point has to leave of the expected squared error of an input to be used.
const ZERO_POINT_WORTH: f64 = 0.8;

/// What became of one linear.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// Role without `.weight`.
    pub role: String,
    /// Its precision.
    pub precision: Precision,
    /// How its input is rounded.
    pub rounding: Option<Rounding>,
    /// Calibrated ranges of its input.
    pub range: ModalityRange,
    /// What rounding did to the weight; none without calibration rows or Hessian.
    pub weight: Option<WeightOutcome>,
}

/// What rounding did to a weight, on the calibration rows.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WeightOutcome {
    /// Root mean square error of the outputs over the root mean square of the outputs.
    pub error: f64,
    /// The same for rounding to the nearest code at the largest weight's scale.
    pub nearest_error: f64,
    /// Damping of the Hessian, as a share of the mean of its diagonal.
    pub damping: f64,
    /// Input channels that were zero in all rows.
    pub dead_channels: usize,
    /// Output channels for which rounding to the nearest code was better, and was kept.
    pub nearest_channels: usize,
}

/// What was seen of a value.
pub(super) struct Input {
    seen: ModalityHistogram,
    hessian: Option<Hessian>,
    /// Weights of visual and text rows in the Hessian.
    weights: (f32, f32),
    /// Channel that is computed in float (RMS): it neither sets a scale nor counts in the Hessian.
    suppressed: Option<usize>,
}

impl Input {
    /// Takes the rows of one sample into account.
    pub(super) fn add(&mut self, x: &Tensor<f32>, visual: impl Fn(usize) -> bool) {
        let (mut of_images, mut of_text) = (vec![], vec![]);
        for r in 0..x.rows() {
            let visual = visual(r);
            let kept = if visual { &mut of_images } else { &mut of_text };
            let begin = kept.len();
            kept.extend_from_slice(x.row(r));
            if let Some(channel) = self.suppressed {
                kept[begin + channel] = 0.0;
            }
            self.seen.row(visual, &kept[begin..]);
        }
        if let Some(hessian) = &mut self.hessian {
            hessian.add(&of_images, self.weights.0);
            hessian.add(&of_text, self.weights.1);
        }
    }

    fn rows(&self) -> u64 {
        self.seen.visual.rows() + self.seen.text.rows()
    }
}

/// Decides scales and rounds weights as a recipe says.
pub(super) struct Quantizer<'a> {
    pub recipe: &'a Recipe,
    /// Planned linears by role.
    pub plan: BTreeMap<&'a str, &'a LinearPlan>,
    /// Channels computed in float, by linear.
    pub suppressed: BTreeMap<String, usize>,
}

impl Quantizer<'_> {
    /// Whether a linear is to be quantized.
    pub(super) fn plans(&self, role: &str) -> bool {
        self.plan.get(role).is_some_and(|l| l.precision.is_quantized())
    }

    fn precision(&self, role: &str) -> Precision {
        self.plan.get(role).map_or(Precision::FLOAT, |l| l.precision)
    }

    /// An observer for what these linears read.
    pub(super) fn input(&self, linears: &[(&Node, &Linear)], cols: usize, decoder: bool) -> Input {
        let gptq = self.recipe.gptq.unwrap_or_default();
        let needs_hessian = self.recipe.gptq.is_some() || self.recipe.search;
        let weights = if decoder { (gptq.visual_weight, gptq.text_weight) } else { (1.0, 1.0) };
        Input {
            seen: ModalityHistogram::default(),
            hessian: (needs_hessian && !linears.is_empty()).then(|| Hessian::new(cols)),
            weights,
            suppressed: linears.first().and_then(|(n, _)| self.suppressed.get(&n.name).copied()),
        }
    }

    /// Codes and outcomes of the linears of a group, in order. `weight` gives the float numbers.
    pub(super) fn group(
        &self,
        linears: &[(&Node, &Linear)],
        input: &Input,
        weight: impl Fn(&Node, WeightId) -> Result<Tensor<f32>, ExecError>,
    ) -> Result<Vec<(GridMatrix, Outcome)>, QuantizeError> {
        let factor = self.factor(linears, input)?;
        let mut made = Vec::with_capacity(linears.len());
        for (node, linear) in linears {
            let precision = self.precision(&node.name);
            let Some(grid) = precision.weights.grid() else { continue };
            let rounding = self.rounding(&node.name, precision.activations, input)?;
            let w = weight(node, linear.weight)?;
            let rounded =
                quantize_matrix(w.data(), (w.rows(), w.cols()), grid, self.options(), factor.as_ref());
            let fault = |source| QuantizeError::Rounding { linear: node.name.clone(), source };
            let quantized = rounded.map_err(fault)?;
            let outcome = Outcome {
                role: node.name.clone(),
                precision,
                rounding,
                range: input.seen.whole(),
                weight: factor.as_ref().map(|f| weight_outcome(f, &w, &quantized)),
            };
            made.push((quantized.matrix, outcome));
        }
        Ok(made)
    }

    fn options(&self) -> rounding::Options {
        let gptq = self.recipe.gptq.is_some();
        let rounding = if gptq { rounding::Rounding::Gptq } else { rounding::Rounding::Nearest };
        rounding::Options { rounding, search: self.recipe.search }
    }

    fn factor(&self, linears: &[(&Node, &Linear)], input: &Input) -> Result<Option<Factor>, QuantizeError> {
        let (Some(hessian), Some((node, _))) = (&input.hessian, linears.first()) else { return Ok(None) };
        let linear = node.name.clone();
        if input.rows() == 0 {
            return Err(QuantizeError::NotCalibrated { linear });
        }
        if self.recipe.gptq.is_some() && input.rows() < MINIMUM_ROWS {
            return Err(QuantizeError::FewRows { linear, rows: input.rows() });
        }
        let Gptq { damping, act_order, .. } = self.recipe.gptq.unwrap_or_default();
        let factor = Factor::new(hessian, &FactorOptions { damping, act_order });
        factor.map(Some).map_err(|source| QuantizeError::Hessian { linear, source })
    }

    /// How the input of one linear is rounded.
    fn rounding(
        &self,
        role: &str,
        activations: Activations,
        input: &Input,
    ) -> Result<Option<Rounding>, QuantizeError> {
        if !(input.seen.visual.is_finite() && input.seen.text.is_finite()) {
            return Err(QuantizeError::NotFinite { linear: role.to_string() });
        }
        if activations.are_static() && input.rows() == 0 {
            return Err(QuantizeError::NotCalibrated { linear: role.to_string() });
        }
        Ok(match activations {
            Activations::Float => None,
            Activations::Dynamic => Some(Rounding::PerRow),
            Activations::Static => Some(self.one_scale(input)),
            Activations::Msq => Some(self.per_modality(input)),
        })
    }

    fn one_scale(&self, input: &Input) -> Rounding {
        let mut all = input.seen.visual.clone();
        all.merge(&input.seen.text);
        let rule = self.recipe.observer;
        if self.recipe.asymmetric {
            let better = all.quantizer(rule, ZERO_POINT_WORTH);
            if better.zero != 0 {
                return Rounding::Asymmetric { scale: better.scale, zero: better.zero };
            }
        }
        Rounding::Static(ActScales::one(all.symmetric(rule)))
    }

    /// One scale per modality; a modality without rows takes the other's, two scales within the recipe's ratio become the larger.
    fn per_modality(&self, input: &Input) -> Rounding {
        let rule = self.recipe.observer;
        let (visual, text) = (input.seen.visual.symmetric(rule), input.seen.text.symmetric(rule));
        let (low, high) = if visual < text { (visual, text) } else { (text, visual) };
        Rounding::Static(match (input.seen.visual.rows(), input.seen.text.rows()) {
            (0, _) => ActScales::one(text),
            (_, 0) => ActScales::one(visual),
            _ if high <= low * self.recipe.msq_merge_ratio => ActScales::one(high),
            _ => ActScales { visual, text },
        })
    }
}

fn weight_outcome(factor: &Factor, w: &Tensor<f32>, quantized: &rounding::Quantized) -> WeightOutcome {
    let energy: f64 = row_errors(w.data(), factor).iter().sum();
    let relative = |error: f64| if energy > 0.0 { (error.max(0.0) / energy).sqrt() } else { 0.0 };
    WeightOutcome {
        error: relative(quantized.error),
        nearest_error: relative(quantized.nearest_error),
        damping: factor.damping(),
        dead_channels: factor.dead(),
        nearest_channels: quantized.rows_kept_nearest,
    }
}
