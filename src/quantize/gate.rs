//! The gate of rotations: one stays only where the linears that it touches are expected to lose less with it, in the types that the recipe gives them.
//!
//! The float model is run twice, as it is and with everything rotated that the recipe asks for. What a linear reads depends on one rotation at most, so
//! these two runs tell what it reads under any choice of rotations. One after the other, the decoder's residual, the vision tower's and the heads, the
//! expected error of the linears that a rotation changes is compared with and without it, the others being as decided before.

use std::collections::BTreeSet;

use super::calibration::{Seen, Statistics, Trials, calibrate};
use super::decide::relative;
use super::error::QuantizeError;
use super::expected::block_error;
use super::plan::{Plan, plan};
use super::recipe::{Recipe, RotationRule, VisionRotation};
use super::remedy::{Applied, Treated, ValueScales};
use super::rotation::{GateErrors, Rotates, RotationNote, Transformed, rotate_streams};
use super::samples::CalibrationSample;
use super::target::Target;
use crate::graph::{Model, WeightData, WeightSource};
use crate::numeric::Tensor;
use crate::passes::rewrite::{Change, RewrittenWeights};

/// What the gate decides.
pub(super) struct Gated {
    /// The recipe without what was dropped.
    pub recipe: Recipe,
    /// Every rotation that was asked for, with what was measured.
    pub notes: Vec<RotationNote>,
    /// Scales of value heads; none where heads are not rotated.
    pub scales: Option<ValueScales>,
    /// What the linears see of the float model with the streams rotated that stay so, before heads are smoothed and rotated.
    pub statistics: Statistics,
}

/// A float model with what is asked about it.
struct Gate<'a> {
    model: &'a Model,
    stored: &'a dyn WeightSource,
    recipe: &'a Recipe,
    target: Target,
    scales: Option<ValueScales>,
    /// What linears see of the model as it is.
    original: Statistics,
    /// What they see with everything rotated.
    rotated: Statistics,
}

/// Decides which rotations of `recipe` stay. `progress` is told (steps done, steps in all, node).
///
/// # Errors
/// [`QuantizeError`] when the model cannot be run or a pass does not know its form.
pub(super) fn gate(
    model: &Model,
    stored: &dyn WeightSource,
    recipe: &Recipe,
    target: Target,
    samples: &[CalibrationSample],
    progress: &mut dyn FnMut(usize, usize, &str),
) -> Result<Gated, QuantizeError> {
    let trials = Trials::new();
    let mut first = |done: usize, all: usize, node: &str| progress(done, 2 * all, node);
    let original = calibrate(model, stored, samples, &trials, &mut first)?;
    let scales = if recipe.smooth_values && recipe.rotation.heads {
        Some(ValueScales::of(model, stored, &plan(model, recipe, target)?, &original)?)
    } else {
        None
    };
    let mut gate = Gate { model, stored, recipe, target, scales, original, rotated: Statistics::new() };
    let whole = gate.transformed(&recipe.rotation)?;
    if !whole.made.is_empty() {
        let weights = RewrittenWeights::new(stored, &whole.rewrites);
        let mut second = |done: usize, all: usize, node: &str| progress(all + done, 2 * all, node);
        gate.rotated = calibrate(&whole.model, &weights, samples, &trials, &mut second)?;
    }
    gate.decide(&whole)
}

impl Gate<'_> {
    /// The model rotated as `rule` says.
    fn transformed(&self, rule: &RotationRule) -> Result<Transformed, QuantizeError> {
        let mut transformed = rotate_streams(self.model, rule, self.target)?;
        if let Some(scales) = self.scales.as_ref().filter(|_| rule.heads) {
            scales.apply(&mut transformed.rewrites);
        }
        transformed.rotate_heads(rule)?;
        Ok(transformed)
    }

    fn decide(self, whole: &Transformed) -> Result<Gated, QuantizeError> {
        let mut rule = self.recipe.rotation;
        let mut notes = whole.notes.clone();
        for rotates in [Rotates::Decoder, Rotates::Vision, Rotates::Heads] {
            let made = whole.made.iter().filter(|m| m.rotates == rotates);
            let touched: Vec<usize> = made.clone().map(|m| m.note).collect();
            if touched.is_empty() {
                continue;
            }
            let without = without(rule, rotates);
            let (with, left) = (self.transformed(&rule)?, self.transformed(&without)?);
            let roles = roles(&with, rotates);
            let rotated = self.error(&with, &rule, &roles)?;
            let left = self.error(&left, &without, &roles)?;
            let errors = GateErrors { rotated, left, linears: roles.len() };
            let drops = rotated >= left;
            for note in touched {
                notes[note].gate = Some(errors);
                if drops {
                    notes[note].matrix = None;
                    notes[note].reason = Some(reason(&errors));
                }
            }
            if drops {
                rule = without;
            }
        }
        self.gated(rule, notes)
    }

    fn gated(self, rule: RotationRule, notes: Vec<RotationNote>) -> Result<Gated, QuantizeError> {
        let streams = rotate_streams(self.model, &rule, self.target)?;
        let roles = self.original.keys().cloned();
        let statistics = roles.filter_map(|role| {
            let seen = self.seen(&streams, &role)?.clone();
            Some((role, seen))
        });
        let statistics = statistics.collect();
        let mut recipe = Recipe { rotation: rule, ..self.recipe.clone() };
        // Values are balanced so that their outliers do not spread when heads are rotated.
        recipe.smooth_values &= rule.heads || !self.recipe.rotation.heads;
        let scales = self.scales.filter(|_| rule.heads);
        Ok(Gated { recipe, notes, scales, statistics })
    }

    /// What a linear sees of a transformed model.
    fn seen(&self, transformed: &Transformed, role: &str) -> Option<&Seen> {
        let changes = transformed.rewrites.of(&weight_of(role));
        let of_input = |c: &Change| matches!(c, Change::ScaleColumns { .. } | Change::RotateColumns { .. });
        if changes.iter().any(of_input) { self.rotated.get(role) } else { self.original.get(role) }
    }

    /// Root mean square over the quantized ones of `roles` of the expected error relative to the output.
    fn error(
        &self,
        transformed: &Transformed,
        rule: &RotationRule,
        roles: &BTreeSet<String>,
    ) -> Result<f64, QuantizeError> {
        let recipe = Recipe { rotation: *rule, ..self.recipe.clone() };
        let plan = plan(&transformed.model, &recipe, self.target)?;
        let weights = RewrittenWeights::new(self.stored, &transformed.rewrites);
        let (mut squares, mut count) = (0.0, 0usize);
        for linear in plan.linears.iter().filter(|l| l.precision.is_quantized() && roles.contains(&l.role)) {
            let WeightData::Float(weight) = weights.role(&weight_of(&linear.role))? else { continue };
            let not_seen = || QuantizeError::NotCalibrated { linear: linear.role.clone() };
            let seen = self.seen(transformed, &linear.role).ok_or_else(not_seen)?;
            let treated =
                Treated { applied: Applied::None, weight: weight.clone(), input: seen.input.clone() };
            squares += relative(&treated, linear.precision, seen, &weight).powi(2);
            count += 1;
        }
        if let Some(error) = self.table_error(&plan, &weights, roles)? {
            squares += error;
            count += 1;
        }
        Ok((squares / count.max(1) as f64).sqrt())
    }

    /// Squared error of a quantized token table that is a tensor of its own, over its squares; every row counts alike.
    fn table_error(
        &self,
        plan: &Plan,
        weights: &RewrittenWeights<'_>,
        roles: &BTreeSet<String>,
    ) -> Result<Option<f64>, QuantizeError> {
        let role = &plan.table.role;
        let kind = plan.table.precision.weights.blocks().filter(|kind| kind.is_quantized());
        let (Some(kind), false, true) = (kind, plan.shares_head, roles.contains(role)) else {
            return Ok(None);
        };
        let WeightData::Float(table) = weights.role(&weight_of(role))? else { return Ok(None) };
        Ok(Some(relative_table_error(&table, |t| block_error(t, &vec![1.0; t.cols()], kind))))
    }
}

fn relative_table_error(table: &Tensor<f32>, error: impl Fn(&Tensor<f32>) -> f64) -> f64 {
    let squares: f64 = table.data().iter().map(|x| f64::from(*x).powi(2)).sum();
    if squares > 0.0 { error(table) / squares } else { 0.0 }
}

fn weight_of(role: &str) -> String {
    format!("{role}.weight")
}

/// The rule with one rotation left out.
fn without(rule: RotationRule, rotates: Rotates) -> RotationRule {
    match rotates {
        Rotates::Decoder => RotationRule { decoder: false, ..rule },
        Rotates::Vision => RotationRule { vision: VisionRotation::None, ..rule },
        Rotates::Heads => RotationRule { heads: false, ..rule },
    }
}

/// Roles, without `.weight`, of the linears and tables that a rotation changes.
fn roles(transformed: &Transformed, rotates: Rotates) -> BTreeSet<String> {
    let made = transformed.made.iter().filter(|m| m.rotates == rotates);
    let indices: BTreeSet<usize> = made.map(|m| m.rotation).collect();
    let of = |c: &Change| match c {
        Change::RotateColumns { rotation } | Change::RotateRows { rotation } => indices.contains(rotation),
        _ => false,
    };
    let weights = transformed.model.weights.iter().map(|w| &w.name);
    let rotated = weights.filter(|name| transformed.rewrites.of(name).iter().any(of));
    rotated.filter_map(|name| Some(name.strip_suffix(".weight")?.to_string())).collect()
}

fn reason(errors: &GateErrors) -> String {
    let GateErrors { rotated, left, linears } = errors;
    format!(
        "the {linears} weights that it changes are expected to lose {:.3} % with it and {:.3} % without",
        100.0 * rotated,
        100.0 * left
    )
}
