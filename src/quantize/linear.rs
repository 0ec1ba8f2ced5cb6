//! One group of linears that read the same value: activation scales from the histograms of that value, weights to codes from its Hessian.

use std::collections::BTreeMap;

use super::error::QuantizeError;
use super::plan::LinearPlan;
use super::recipe::{Activations, Gptq, Precision, Recipe, Weights};
use super::weights::CodeMatrix;
use crate::calibrate::observe::{ModalityHistogram, ModalityRange};
use crate::exec::ExecError;
use crate::graph::ops::{ActScales, Linear, Rounding};
use crate::graph::{Node, WeightId};
use crate::numeric::ggml::{BlockType, reference};
use crate::numeric::grid::Grid;
use crate::numeric::rounding::{self, BlockRounding, quantize_blocks, quantize_matrix};
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
    /// How its input is rounded. Beside weights in blocks of ggml the runtime rounds by itself, and this is what the recipe would have.
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
    /// Damping of the Hessian, as a share of the mean of its diagonal; 0 where none was used.
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
    /// Sums of squares by channel.
    energy: Option<Vec<f64>>,
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
            if let Some(energy) = &mut self.energy {
                energy.iter_mut().zip(&kept[begin..]).for_each(|(e, x)| *e += f64::from(*x).powi(2));
            }
        }
        if let Some(hessian) = &mut self.hessian {
            hessian.add(&of_images, self.weights.0);
            hessian.add(&of_text, self.weights.1);
        }
    }

    fn rows(&self) -> u64 {
        self.seen.visual.rows() + self.seen.text.rows()
    }

    /// Mean squares by channel, where they were taken.
    fn importance(&self) -> Option<Vec<f32>> {
        let rows = self.rows().max(1) as f64;
        Some(self.energy.as_ref()?.iter().map(|e| (e / rows) as f32).collect())
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
        let on_grid = |(n, _): &(&Node, &Linear)| self.precision(&n.name).weights.grid().is_some();
        let needs_hessian = self.recipe.gptq.is_some() || (self.recipe.search && linears.iter().any(on_grid));
        let weights = if decoder { (gptq.visual_weight, gptq.text_weight) } else { (1.0, 1.0) };
        Input {
            seen: ModalityHistogram::default(),
            hessian: (needs_hessian && !linears.is_empty()).then(|| Hessian::new(cols)),
            energy: self.recipe.importance.then(|| vec![0.0; cols]),
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
    ) -> Result<Vec<(CodeMatrix, Outcome)>, QuantizeError> {
        let factor = self.factor(linears, input)?;
        let importance = input.importance();
        if let (Some(_), 0, Some((node, _))) = (&importance, input.rows(), linears.first()) {
            return Err(QuantizeError::NotCalibrated { linear: node.name.clone() });
        }
        let mut made = Vec::with_capacity(linears.len());
        for (node, linear) in linears {
            let precision = self.precision(&node.name);
            let rounding = self.rounding(&node.name, precision.activations, input)?;
            let w = weight(node, linear.weight)?;
            let rounded = match precision.weights {
                Weights::Float => continue,
                Weights::Grid(grid) => self.on_grid(&w, grid, factor.as_ref()),
                Weights::Blocks(kind) => self.in_blocks(&w, kind, factor.as_ref(), importance.as_deref()),
            };
            let fault = |source| QuantizeError::Rounding { linear: node.name.clone(), source };
            let (matrix, weight) = rounded.map_err(fault)?;
            let (role, range) = (node.name.clone(), input.seen.whole());
            made.push((matrix, Outcome { role, precision, rounding, range, weight }));
        }
        Ok(made)
    }

    fn on_grid(
        &self,
        w: &Tensor<f32>,
        grid: Grid,
        factor: Option<&Factor>,
    ) -> Result<(CodeMatrix, Option<WeightOutcome>), rounding::QuantizeError> {
        let q = quantize_matrix(w.data(), (w.rows(), w.cols()), grid, self.options(), factor)?;
        let errors = (q.error, q.nearest_error);
        let outcome = factor.map(|f| weight_outcome(f, w, errors, q.rows_kept_nearest));
        Ok((CodeMatrix::Grid(q.matrix), outcome))
    }

    fn in_blocks(
        &self,
        w: &Tensor<f32>,
        kind: BlockType,
        factor: Option<&Factor>,
        importance: Option<&[f32]>,
    ) -> Result<(CodeMatrix, Option<WeightOutcome>), rounding::QuantizeError> {
        let shape = (w.rows(), w.cols());
        let how = match (importance, self.recipe.gptq) {
            (Some(importance), _) => BlockRounding::Importance(importance),
            (None, Some(_)) => BlockRounding::Gptq { search: self.recipe.search },
            (None, None) => BlockRounding::Nearest,
        };
        let q = quantize_blocks(w.data(), shape, kind, how, factor)?;
        let outcome = match (importance, factor) {
            (Some(importance), _) => {
                let nearest = reference(w.data(), shape, kind, None)?;
                let values = [q.matrix.dequantize(), nearest.dequantize()];
                Some(diagonal_outcome(w, importance, &values))
            }
            (None, Some(f)) => Some(weight_outcome(f, w, (q.error, q.nearest_error), q.rows_kept_nearest)),
            (None, None) => None,
        };
        Ok((CodeMatrix::Blocks(q.matrix), outcome))
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

fn weight_outcome(
    factor: &Factor,
    w: &Tensor<f32>,
    (error, nearest_error): (f64, f64),
    nearest_channels: usize,
) -> WeightOutcome {
    let energy: f64 = row_errors(w.data(), factor).iter().sum();
    WeightOutcome {
        error: relative(error, energy),
        nearest_error: relative(nearest_error, energy),
        damping: factor.damping(),
        dead_channels: factor.dead(),
        nearest_channels,
    }
}

/// Errors of the values found and of nearest rounding, on inputs of these mean squares, taken as uncorrelated.
fn diagonal_outcome(w: &Tensor<f32>, importance: &[f32], values: &[Vec<f32>; 2]) -> WeightOutcome {
    let squares = |error: &dyn Fn(usize) -> f32| -> f64 {
        let energies = importance.iter().cycle();
        let terms = (0..w.data().len()).zip(energies);
        terms.map(|(i, e)| f64::from(error(i)).powi(2) * f64::from(*e)).sum()
    };
    let energy = squares(&|i| w.data()[i]);
    let [error, nearest_error] =
        [0, 1].map(|which| relative(squares(&|i| w.data()[i] - values[which][i]), energy));
    let dead_channels = importance.iter().filter(|e| **e == 0.0).count();
    WeightOutcome { error, nearest_error, damping: 0.0, dead_channels, nearest_channels: 0 }
}

/// Root of a squared error over the energy of what it is an error of.
fn relative(error: f64, energy: f64) -> f64 {
    if energy > 0.0 { (error.max(0.0) / energy).sqrt() } else { 0.0 }
}
