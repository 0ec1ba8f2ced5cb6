//! Quantizes a decided model: the block loop makes scales and codes, then the passes that make the result executable and fast.

use std::collections::BTreeMap;
use std::path::Path;

use super::blocks::{BlockLoop, run};
use super::decide::Decided;
use super::error::QuantizeError;
use super::linear::{Outcome, Quantizer};
use super::plan::{HEAD, LinearPlan, Plan};
use super::recipe::Recipe;
use super::samples::CalibrationSample;
use super::spill::ActivationStore;
use super::target::Target;
use super::weights::Codes;
use crate::calibrate::observe::ModalityRange;
use crate::graph::{Model, Op, WeightFormat, WeightId, WeightSource, validate};
use crate::passes::{carry_modality, merge_linears, suppressed_channels};

/// A quantized model and what was decided on the way. Back-ends take its model and [`QuantizedWeights`](super::QuantizedWeights).
#[derive(Debug)]
pub struct Quantized {
    /// The model, valid; for [`Target::Onnx`] with linears merged and activations rounded.
    pub model: Model,
    /// One entry per quantized linear, in the order in which they were quantized.
    pub outcomes: Vec<Outcome>,
    /// Codes of quantized weights.
    pub codes: Codes,
}

/// Where the quantizer may put what does not fit into memory.
#[derive(Clone, Copy, Debug)]
pub struct Workspace<'a> {
    /// Folder for files without names.
    pub dir: &'a Path,
    /// Bytes of calibration activations held in memory; what is above goes to a file.
    pub activation_memory: u64,
}

/// Quantizes the planned linears of a float model whose weights are `weights` (those of `decided.rewrites`). `progress` is told (linears done, linears in all,
/// role).
///
/// # Errors
/// [`QuantizeError`] when calibration rows are missing or too few, a Hessian cannot be used, or a file cannot be written.
pub fn quantize(
    decided: &Decided,
    weights: &dyn WeightSource,
    recipe: &Recipe,
    samples: &[CalibrationSample],
    space: Workspace<'_>,
    progress: &mut dyn FnMut(usize, usize, &str),
) -> Result<Quantized, QuantizeError> {
    let mut codes = Codes::new(space.dir)?;
    let (on_demand, in_loop): (Vec<_>, Vec<_>) = decided
        .plan
        .linears
        .iter()
        .filter(|l| l.precision.weights.grid().is_some() || l.precision.weights.blocks().is_some())
        .partition(|l| rounds_on_demand(l, recipe));
    let mut alone = round_on_demand(&decided.plan, &on_demand, &mut codes);
    let plan: BTreeMap<_, _> = in_loop.into_iter().map(|l| (l.role.as_str(), l)).collect();
    let (mut count, total) = (alone.len(), alone.len() + plan.len());
    let mut done = |role: &str| {
        count += 1;
        progress(count, total, role);
    };
    let any = !plan.is_empty();
    let mut work = BlockLoop {
        model: &decided.model,
        weights,
        quantizer: Quantizer { recipe, plan, suppressed: suppressed_channels(&decided.model) },
        store: ActivationStore::new(space.activation_memory, space.dir),
        codes: &mut codes,
        outcomes: vec![],
        done: &mut done,
    };
    if any {
        run(&mut work, samples)?;
    }
    alone.extend(work.outcomes);
    let model = apply(decided, &alone)?;
    Ok(Quantized { model, outcomes: alone, codes })
}

/// Whether a linear's weight alone decides how it is rounded, so that no sample needs to be run and no codes to be kept.
fn rounds_on_demand(linear: &LinearPlan, recipe: &Recipe) -> bool {
    let kind = linear.precision.weights.blocks();
    kind.is_some_and(|kind| !kind.is_quantized() || !recipe.needs_calibration())
}

/// Lets linears and the token table be rounded when they are asked for; what became of the linears that have codes.
///
/// The rows of the token table are read one by one, so no input tells which of their channels matter, and ggml's reference rounds them. A table that is the
/// head has its weights, rounded for what the head reads.
fn round_on_demand(plan: &Plan, linears: &[&LinearPlan], codes: &mut Codes) -> Vec<Outcome> {
    let weight = |role: &str| format!("{role}.weight");
    let table = &plan.table;
    if plan.shares_head {
        codes.share(&weight(&table.role), &weight(HEAD));
    } else if let Some(kind) = table.precision.weights.blocks() {
        codes.round_on_demand(&weight(&table.role), kind);
    }
    for linear in linears {
        if let Some(kind) = linear.precision.weights.blocks() {
            codes.round_on_demand(&weight(&linear.role), kind);
        }
    }
    let outcome = |l: &&&LinearPlan| Outcome {
        role: l.role.clone(),
        precision: l.precision,
        rounding: None,
        range: ModalityRange::default(),
        weight: None,
    };
    linears.iter().filter(|l| l.precision.is_quantized()).map(|l| outcome(&l)).collect()
}

/// The model with what became of its linears written into it.
fn apply(decided: &Decided, outcomes: &[Outcome]) -> Result<Model, QuantizeError> {
    let mut model = decided.model.clone();
    let outcomes: BTreeMap<&str, &Outcome> = outcomes.iter().map(|o| (o.role.as_str(), o)).collect();
    let planned = decided.plan.linears.iter().chain([&decided.plan.table]);
    let planned: BTreeMap<&str, &LinearPlan> = planned.map(|l| (l.role.as_str(), l)).collect();
    for node in model.graphs.iter_mut().flat_map(|g| &mut g.nodes) {
        let Some(linear) = planned.get(node.name.as_str()) else { continue };
        let mut store = |id: WeightId, format| model.weights[id.0].format = format;
        let weights = linear.precision.weights;
        match (&mut node.op, weights.grid(), weights.blocks()) {
            (Op::Linear(l), Some(grid), _) => {
                l.act = outcomes.get(node.name.as_str()).and_then(|o| o.rounding);
                store(l.weight, WeightFormat::Grid(grid));
            }
            // Kernels for blocks round their inputs by themselves.
            (Op::Linear(l), None, Some(kind)) => store(l.weight, WeightFormat::Blocks(kind)),
            (Op::Embed(e), None, Some(kind)) => store(e.table, WeightFormat::Blocks(kind)),
            _ => {}
        }
    }
    if decided.target == Target::Onnx {
        model = merge_linears(carry_modality(model)?)?;
    }
    validate(&model)?;
    Ok(model)
}
