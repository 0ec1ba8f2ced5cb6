//! Quantizes a decided model: the block loop makes scales and codes, then the passes that make the result executable and fast.

use std::path::Path;

use super::blocks::{BlockLoop, run};
use super::decide::Decided;
use super::error::QuantizeError;
use super::linear::{Outcome, Quantizer};
use super::recipe::Recipe;
use super::samples::CalibrationSample;
use super::spill::ActivationStore;
use super::weights::Codes;
use crate::graph::{Model, Op, WeightFormat, WeightSource, validate};
use crate::passes::{carry_modality, merge_linears, suppressed_channels};

/// A quantized model and what was decided on the way. Back-ends take its model and [`QuantizedWeights`](super::QuantizedWeights).
#[derive(Debug)]
pub struct Quantized {
    /// The model, valid, linears merged.
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
    let plan = decided.plan.linears.iter().filter(|l| l.precision.is_quantized());
    let plan: std::collections::BTreeMap<_, _> = plan.map(|l| (l.role.as_str(), l)).collect();
    let (mut count, total) = (0, plan.len());
    let mut done = |role: &str| {
        count += 1;
        progress(count, total, role);
    };
    let mut work = BlockLoop {
        model: &decided.model,
        weights,
        quantizer: Quantizer { recipe, plan, suppressed: suppressed_channels(&decided.model) },
        store: ActivationStore::new(space.activation_memory, space.dir),
        codes: &mut codes,
        outcomes: vec![],
        done: &mut done,
    };
    if total > 0 {
        run(&mut work, samples)?;
    }
    let outcomes = work.outcomes;
    let model = apply(&decided.model, &outcomes)?;
    Ok(Quantized { model, outcomes, codes })
}

/// The model with what became of its linears written into it.
fn apply(model: &Model, outcomes: &[Outcome]) -> Result<Model, QuantizeError> {
    let mut model = model.clone();
    for outcome in outcomes {
        let Some(grid) = outcome.precision.weights.grid() else { continue };
        let nodes = model.graphs.iter_mut().flat_map(|g| &mut g.nodes);
        for node in nodes.filter(|n| n.name == outcome.role) {
            if let Op::Linear(l) = &mut node.op {
                l.act = outcome.rounding;
                model.weights[l.weight.0].format = WeightFormat::Grid(grid);
            }
        }
    }
    let model = merge_linears(carry_modality(model)?)?;
    validate(&model)?;
    Ok(model)
}
