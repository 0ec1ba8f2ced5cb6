//! Decides per linear, before anything is rounded: which remedy its input gets and which grid its weight, from what was seen of the float model. Every
//! candidate with its expected error is kept, so that the choice can be looked up.

use super::calibration::{Seen, Statistics, Trials, calibrate};
use super::error::QuantizeError;
use super::expected::expected_error;
use super::gate::{Gated, gate};
use super::plan::{Decision, LinearPlan, Plan, plan};
use super::recipe::{Budget, Precision, Recipe, Weights};
use super::remedy::{Applied, Treated, ValueScales, down_projections, treatments, trials};
use super::rotation::{RotationNote, Transformed, rotate_streams};
use super::samples::CalibrationSample;
use super::target::Target;
use crate::graph::{Model, WeightData, WeightSource};
use crate::numeric::Tensor;
use crate::passes::rewrite::{Rewrites, RewrittenWeights};

/// A float model ready to be quantized: rotated, remedied, with its plan.
#[derive(Clone, Debug)]
pub struct Decided {
    /// The model.
    pub model: Model,
    /// Changes of its weights.
    pub rewrites: Rewrites,
    /// Precision of every linear.
    pub plan: Plan,
    /// What was weighed for the linears that had a choice.
    pub decisions: Vec<LinearDecision>,
    /// What was rotated, and what was asked for and was not.
    pub rotations: Vec<RotationNote>,
    /// What it is to be written as.
    pub target: Target,
}

/// What was weighed for one linear.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LinearDecision {
    /// Role without `.weight`.
    pub role: String,
    /// From cheap to expensive.
    pub candidates: Vec<Candidate>,
    /// Index of the one taken.
    pub chosen: usize,
    /// Why.
    pub reason: Reason,
    /// Remedies of the recipe that this linear cannot have, and why.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub impossible: Vec<String>,
}

/// One way to quantize a linear.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Candidate {
    /// What is done about outliers of the input.
    pub remedy: String,
    /// Grid of the weight.
    pub weights: Weights,
    /// Bits per weight, scales and multipliers included.
    pub bits: f64,
    /// Expected root mean square error of the output over the root mean square of the output, with weights rounded to the nearest code.
    pub error: f64,
}

/// Why a candidate was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// It has the least expected error; products at run time have to take away a fifth of it.
    LeastError,
    /// The cheapest that meets the budget's error.
    WithinBudget,
    /// None meets the budget's error; it comes nearest.
    NoneWithinBudget,
    /// The budget's bits were spent where they take away the most error.
    Bits,
}

/// What an online product has to leave of the expected error to be worth its time.
const WORTH: f64 = 0.8;

/// A candidate with what is behind it.
struct Weighed {
    applied: Applied,
    candidate: Candidate,
}

/// Rotates the canonical `model`, looks at what it does, decides, and applies remedies. `progress` is told (steps done, steps in all, node).
///
/// # Errors
/// [`QuantizeError`] when the recipe does not fit the model, the model cannot be run, or a remedy is not possible.
pub fn decide(
    model: &Model,
    stored: &dyn WeightSource,
    recipe: &Recipe,
    target: Target,
    samples: &[CalibrationSample],
    progress: &mut dyn FnMut(usize, usize, &str),
) -> Result<Decided, QuantizeError> {
    recipe.fits(target)?;
    if !(recipe.rotation.gate && recipe.rotation.any()) {
        return choose_remedies(model, stored, (recipe, target), samples, None, progress);
    }
    let Gated { recipe, notes, scales, statistics } = gate(model, stored, recipe, target, samples, progress)?;
    let known = Some((scales, statistics));
    let decided = choose_remedies(model, stored, (&recipe, target), samples, known, progress)?;
    Ok(Decided { rotations: notes, ..decided })
}

/// Rotates as a recipe says, and chooses remedies and grids from what is `known` of the model, or else from calibration samples.
fn choose_remedies(
    model: &Model,
    stored: &dyn WeightSource,
    (recipe, target): (&Recipe, Target),
    samples: &[CalibrationSample],
    known: Option<(Option<ValueScales>, Statistics)>,
    progress: &mut dyn FnMut(usize, usize, &str),
) -> Result<Decided, QuantizeError> {
    let mut transformed = rotate_streams(model, &recipe.rotation, target)?;
    let planned = plan(&transformed.model, recipe, target)?;
    if !recipe.smooth_values && recipe.down_projections.is_none() && recipe.budget.is_none() {
        transformed.rotate_heads(&recipe.rotation)?;
        return Ok(Decided::of(transformed, planned, target));
    }
    let trials = trials(&transformed.model, &planned, recipe);
    let weights = RewrittenWeights::new(stored, &transformed.rewrites);
    let (mut scales, mut statistics) = match known {
        // What a Hadamard product would make of inputs is not known of another run.
        Some(known) if trials.is_empty() => known,
        Some((scales, _)) => (scales, calibrate(&transformed.model, &weights, samples, &trials, progress)?),
        None => (None, calibrate(&transformed.model, &weights, samples, &trials, progress)?),
    };
    if recipe.smooth_values && scales.is_none() {
        scales = Some(ValueScales::of(&transformed.model, &weights, &planned, &statistics)?);
    }
    if let Some(scales) = &scales {
        scales.apply(&mut transformed.rewrites);
        scales.divide(&mut statistics);
    }
    let mut choices = Chooser {
        model: &transformed.model,
        recipe,
        trials: &trials,
        weights: &RewrittenWeights::new(stored, &transformed.rewrites),
        statistics: &statistics,
    }
    .choices(&planned)?;
    transformed.rotate_heads(&recipe.rotation)?;
    let mut decided = Decided::of(transformed, planned, target);
    if let Some(Budget { bits: Some(bits), .. }) = recipe.budget {
        spend(&mut choices, bits);
    }
    for choice in &choices {
        let Weighed { applied, .. } = &choice.weighed[choice.chosen];
        decided.model = applied.apply(decided.model, &mut decided.rewrites, &choice.role)?;
    }
    // Remedies add linears of their own, which the plan must name.
    decided.plan = plan(&decided.model, recipe, target)?;
    for choice in choices {
        let weights = choice.weighed[choice.chosen].candidate.weights;
        if let Some(linear) = decided.plan.linears.iter_mut().find(|l| l.role == choice.role)
            && linear.precision.weights != weights
        {
            linear.precision.weights = weights;
            linear.decided_by = Decision::Budget;
        }
        decided.decisions.push(choice.decision());
    }
    Ok(decided)
}

impl Decided {
    /// A transformed model for which nothing was weighed.
    fn of(transformed: Transformed, plan: Plan, target: Target) -> Self {
        let Transformed { model, rewrites, notes: rotations, .. } = transformed;
        Self { model, rewrites, plan, decisions: vec![], rotations, target }
    }
}

struct Chooser<'a> {
    model: &'a Model,
    recipe: &'a Recipe,
    trials: &'a Trials,
    weights: &'a dyn WeightSource,
    statistics: &'a Statistics,
}

/// One linear with what was weighed for it.
struct Choice {
    role: String,
    /// Number of weights.
    size: usize,
    weighed: Vec<Weighed>,
    chosen: usize,
    reason: Reason,
    impossible: Vec<String>,
}

impl Choice {
    fn decision(self) -> LinearDecision {
        let Self { role, chosen, reason, impossible, weighed, .. } = self;
        LinearDecision {
            role,
            chosen,
            reason,
            impossible,
            candidates: weighed.into_iter().map(|w| w.candidate).collect(),
        }
    }

    fn error(&self) -> f64 {
        self.weighed[self.chosen].candidate.error
    }
}

impl Chooser<'_> {
    fn choices(&self, plan: &Plan) -> Result<Vec<Choice>, QuantizeError> {
        let downs = down_projections(self.model, plan);
        let mut choices = vec![];
        for linear in plan.linears.iter().filter(|l| l.precision.is_quantized()) {
            let is_down = !self.recipe.down_projections.is_none() && downs.contains(&linear.role);
            let grids = self.grids(linear);
            choices.push(self.choice(linear, is_down, &grids)?);
        }
        Ok(choices)
    }

    /// Grids that a linear may get.
    fn grids(&self, linear: &LinearPlan) -> Vec<Weights> {
        let planned = linear.precision.weights;
        match &self.recipe.budget {
            Some(b) if linear.decided_by == Decision::Component && b.grids.first() == Some(&planned) => {
                b.grids.clone()
            }
            _ => vec![planned],
        }
    }

    fn choice(&self, linear: &LinearPlan, is_down: bool, grids: &[Weights]) -> Result<Choice, QuantizeError> {
        let role = &linear.role;
        let not_seen = || QuantizeError::NotCalibrated { linear: role.clone() };
        let seen = self.statistics.get(role).ok_or_else(not_seen)?;
        let weight = self.weight(role)?;
        let (mut weighed, mut impossible) = (vec![], vec![]);
        for &weights in grids {
            let precision = Precision { weights, ..linear.precision };
            let treated = if is_down {
                let of = (weight.clone(), seen);
                let treated;
                (treated, impossible) = treatments(self.model, self.recipe, self.trials, role, precision, of);
                treated
            } else {
                vec![Treated { applied: Applied::None, weight: weight.clone(), input: seen.input.clone() }]
            };
            for t in treated {
                let error = relative(&t, precision, seen, &weight);
                let bits = weights.bits_per_weight(linear.input);
                let candidate = Candidate { remedy: t.applied.name(), weights, bits, error };
                weighed.push(Weighed { applied: t.applied, candidate });
            }
        }
        let (chosen, reason) = choose(&weighed, self.recipe.budget.as_ref().and_then(|b| b.error), grids);
        let size = linear.out * linear.input;
        Ok(Choice { role: role.clone(), size, weighed, chosen, reason, impossible })
    }

    fn weight(&self, role: &str) -> Result<Tensor<f32>, QuantizeError> {
        let found = self.model.linears().find(|(_, n, _)| n.name == role);
        let decl = found.map(|(_, _, l)| self.model.weight(l.weight));
        let decl = decl.ok_or_else(|| QuantizeError::NotCalibrated { linear: role.to_string() })?;
        match self.weights.load(decl)? {
            WeightData::Float(w) => Ok(w),
            WeightData::Grid(_) | WeightData::Blocks(_) => {
                Err(crate::graph::WeightError::Format { role: role.to_string() }.into())
            }
        }
    }
}

/// Expected error of the output over the output, both as root mean squares. The head is not computed while calibrating; its output is taken as that of
/// uncorrelated inputs.
pub(super) fn relative(t: &Treated, precision: Precision, seen: &Seen, weight: &Tensor<f32>) -> f64 {
    let rows = (seen.input.visual.rows + seen.input.text.rows).max(1) as f64;
    let uncorrelated = || {
        let of = |k: usize| {
            let of = |e: &Vec<f64>| e.get(k).copied().unwrap_or(0.0);
            of(&seen.input.visual.energy) + of(&seen.input.text.energy)
        };
        let energy: Vec<f64> = (0..weight.cols()).map(of).collect();
        let row = |row: &[f32]| row.iter().zip(&energy).map(|(w, e)| f64::from(*w).powi(2) * e).sum::<f64>();
        weight.data().chunks_exact(weight.cols().max(1)).map(row).sum::<f64>()
    };
    let output = seen.output.unwrap_or_else(uncorrelated) / rows;
    if output > 0.0 { (expected_error(&t.weight, &t.input, precision) / output).sqrt() } else { 0.0 }
}

/// The index with the least error; an online product must be worth it.
fn least(among: impl Iterator<Item = usize>, weighed: &[Weighed]) -> Option<usize> {
    let mut best: Option<usize> = None;
    for i in among {
        let dearer = |b: usize| weighed[i].applied.is_online() && !weighed[b].applied.is_online();
        let better = |b: usize| {
            let factor = if dearer(b) { WORTH } else { 1.0 };
            weighed[i].candidate.error < weighed[b].candidate.error * factor
        };
        if best.is_none_or(better) {
            best = Some(i);
        }
    }
    best
}

/// The best candidate on a grid.
fn best_on(weights: Weights, weighed: &[Weighed]) -> Option<usize> {
    let on_grid = |i: &usize| weighed[*i].candidate.weights == weights;
    least((0..weighed.len()).filter(on_grid), weighed)
}

/// Index and reason of the choice without regard to other linears. Candidates come grid by grid, from cheap to expensive.
fn choose(weighed: &[Weighed], error: Option<f64>, grids: &[Weights]) -> (usize, Reason) {
    let Some(limit) = error else {
        let first = grids.first().and_then(|first| best_on(*first, weighed)).unwrap_or(0);
        return (first, Reason::LeastError);
    };
    if let Some(i) = weighed.iter().position(|w| w.candidate.error <= limit) {
        return (i, Reason::WithinBudget);
    }
    (least(0..weighed.len(), weighed).unwrap_or(0), Reason::NoneWithinBudget)
}

/// Spends bits where they take away the most error: every linear begins on its first grid; then, as long as the average stays within `bits`, the linear that
/// loses the most squared error per added bit gets its next grid.
fn spend(choices: &mut [Choice], bits: f64) {
    let mut left = 0.0;
    for choice in choices.iter_mut().filter(|c| next_grid(c).is_some()) {
        choice.reason = Reason::Bits;
        left += choice.size as f64 * (bits - choice.weighed[choice.chosen].candidate.bits);
    }
    loop {
        let gain = |c: &Choice| {
            let next = next_grid(c)?;
            let cost = c.size as f64 * (c.weighed[next].candidate.bits - c.weighed[c.chosen].candidate.bits);
            let gain = c.error().powi(2) - c.weighed[next].candidate.error.powi(2);
            (cost > 0.0 && cost <= left && gain > 0.0).then_some((next, cost, gain / cost))
        };
        let mut best: Option<(usize, usize, f64, f64)> = None;
        for (i, choice) in choices.iter().enumerate() {
            if let Some((next, cost, rate)) = gain(choice)
                && best.is_none_or(|(.., b)| rate > b)
            {
                best = Some((i, next, cost, rate));
            }
        }
        let Some((i, next, cost, _)) = best else { return };
        choices[i].chosen = next;
        left -= cost;
    }
}

/// The best candidate on the grid behind that of the present one.
fn next_grid(choice: &Choice) -> Option<usize> {
    let present = choice.weighed[choice.chosen].candidate.weights;
    let behind = choice.weighed.iter().map(|w| w.candidate.weights).skip_while(|w| *w != present);
    let next = behind.into_iter().find(|w| *w != present)?;
    best_on(next, &choice.weighed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn weighed(online: bool, weights: &str, bits: f64, error: f64) -> Weighed {
        let applied = if online { Applied::Hadamard(64) } else { Applied::None };
        let remedy = applied.name();
        let weights = weights.parse().unwrap();
        Weighed { applied, candidate: Candidate { remedy, weights, bits, error } }
    }

    #[test]
    fn an_online_product_must_be_worth_its_time() {
        let grids = ["int4".parse().unwrap()];
        let pair = |error| vec![weighed(false, "int4", 4.0, 0.10), weighed(true, "int4", 4.0, error)];
        assert_eq!(choose(&pair(0.09), None, &grids), (0, Reason::LeastError));
        assert_eq!(choose(&pair(0.07), None, &grids), (1, Reason::LeastError));
    }

    #[test]
    fn a_budget_of_error_takes_the_cheapest_that_meets_it() {
        let grids = ["int4", "int8"].map(|g| g.parse().unwrap());
        let all = vec![weighed(false, "int4", 4.0, 0.10), weighed(false, "int8", 8.0, 0.01)];
        assert_eq!(choose(&all, Some(0.2), &grids), (0, Reason::WithinBudget));
        assert_eq!(choose(&all, Some(0.05), &grids), (1, Reason::WithinBudget));
        assert_eq!(choose(&all, Some(0.001), &grids), (1, Reason::NoneWithinBudget));
    }

    #[test]
    fn bits_go_where_they_take_away_the_most_error() {
        let choice = |role: &str, size, first| Choice {
            role: role.into(),
            size,
            weighed: vec![weighed(false, "int4", 4.0, first), weighed(false, "int8", 8.0, 0.01)],
            chosen: 0,
            reason: Reason::LeastError,
            impossible: vec![],
        };
        let run = |bits| {
            let mut choices = vec![choice("a", 100, 0.05), choice("b", 100, 0.3), choice("c", 200, 0.3)];
            spend(&mut choices, bits);
            choices.iter().map(|c| c.chosen).collect::<Vec<_>>()
        };
        assert_eq!(run(4.0), [0, 0, 0]);
        assert_eq!(run(5.0), [0, 1, 0]);
        // Two more bits each for 400 weights pay for b and, behind it, a; c would take it all.
        assert_eq!(run(6.0), [1, 1, 0]);
        assert_eq!(run(7.0), [0, 1, 1]);
        assert_eq!(run(8.0), [1, 1, 1]);
    }
}
