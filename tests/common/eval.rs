//! The trained fixture's evaluation set and how a model's answers to it are scored.

use std::collections::BTreeMap;
use std::path::Path;

use mquant_export::calibrate::{LoadOptions, Prepared, Preparer, Sample, load};
use mquant_export::checkpoint::Checkpoint;
use mquant_export::exec::{Executor, Generation, greedy};
use mquant_export::family::Resolved;
use mquant_export::graph::{Model, WeightData, WeightError, WeightFormat, WeightSource};
use mquant_export::numeric::Tensor;
use mquant_export::numeric::grid::{Grid, GridMatrix};
use mquant_export::numeric::rounding::{Options, Rounding, quantize_matrix};
use mquant_export::passes::rewrite::RewrittenWeights;
use mquant_export::pipeline::{SampleFile, calibration_samples};
use mquant_export::quantize::recipe::{DownProjections, Recipe, RotationRule};
use mquant_export::quantize::{
    self, CalibrationSample, Decided, Quantized, QuantizedWeights, Target, Workspace, decide,
};
use rayon::prelude::*;

use super::fixture;
use super::judge::Bundle;

/// The trained checkpoint.
pub const TINY: &str = "qwen2_vl_tiny";

/// Samples of one of the fixture's tables.
pub fn samples(table: &str) -> Vec<Sample> {
    load_samples(&fixture(TINY).join(table))
}

/// All samples of a data set file.
pub fn load_samples(path: &Path) -> Vec<Sample> {
    load(path, &LoadOptions::default()).unwrap().samples
}

/// A model as a recipe makes it.
pub struct Made {
    pub decided: Decided,
    pub quantized: Quantized,
}

impl Made {
    /// Its weights, made from those of the checkpoint, for as long as `with` runs.
    pub fn with_weights<R>(
        &self,
        stored: &dyn WeightSource,
        with: impl FnOnce(&QuantizedWeights<'_>) -> R,
    ) -> R {
        let rewritten = RewrittenWeights::new(stored, &self.decided.rewrites);
        with(&QuantizedWeights::new(&self.quantized.codes, &rewritten))
    }
}

/// The model of a checkpoint as a recipe makes it with the samples of `data`.
pub fn quantize(
    checkpoint: &Checkpoint,
    resolved: &Resolved,
    data: &Path,
    weights: &dyn WeightSource,
    recipe: &Recipe,
) -> Made {
    let data = SampleFile { path: data.to_path_buf(), allow_outside: false, limit: None };
    let samples = calibration_samples(&data, checkpoint, resolved).unwrap();
    quantize_on(resolved, &samples, weights, recipe)
}

/// The model as a recipe makes it with these samples.
pub fn quantize_on(
    resolved: &Resolved,
    samples: &[CalibrationSample],
    weights: &dyn WeightSource,
    recipe: &Recipe,
) -> Made {
    quantize_for(Target::Onnx, resolved, samples, weights, recipe)
}

/// The model as a recipe makes it with these samples, for files of a format.
pub fn quantize_for(
    target: Target,
    resolved: &Resolved,
    samples: &[CalibrationSample],
    weights: &dyn WeightSource,
    recipe: &Recipe,
) -> Made {
    let decided = decide(&resolved.model, weights, recipe, target, samples, &mut |_, _, _| {}).unwrap();
    let rewritten = RewrittenWeights::new(weights, &decided.rewrites);
    let quantized = quantize_decided(&decided, samples, &rewritten, recipe);
    Made { decided, quantized }
}

/// A decided model, whose weights these are, on its grids.
pub fn quantize_decided(
    decided: &Decided,
    samples: &[CalibrationSample],
    weights: &dyn WeightSource,
    recipe: &Recipe,
) -> Quantized {
    let dir = tempfile::tempdir().unwrap();
    let space = Workspace { dir: dir.path(), activation_memory: u64::MAX };
    quantize::quantize(decided, weights, recipe, samples, space, &mut |_, _, _| {}).unwrap()
}

/// Weights rounded to the nearest code of the grid that a model declares, whenever they are asked for.
pub struct Nearest<'a> {
    base: &'a dyn WeightSource,
    formats: BTreeMap<&'a str, WeightFormat>,
}

impl<'a> Nearest<'a> {
    pub fn new(model: &'a Model, base: &'a dyn WeightSource) -> Self {
        let parts = model.weights.iter().flat_map(|w| w.parts.iter().map(|p| (p.as_str(), w.format)));
        Self { base, formats: parts.collect() }
    }
}

impl WeightSource for Nearest<'_> {
    fn role(&self, role: &str) -> Result<WeightData, WeightError> {
        match (self.base.role(role)?, self.formats.get(role)) {
            (WeightData::Float(t), Some(WeightFormat::Grid(grid))) => {
                Ok(WeightData::Grid(nearest(&t, *grid)))
            }
            (data, _) => Ok(data),
        }
    }
}

fn nearest(w: &Tensor<f32>, grid: Grid) -> GridMatrix {
    let options = Options { rounding: Rounding::Nearest, search: false };
    quantize_matrix(w.data(), (w.rows(), w.cols()), grid, options, None).unwrap().matrix
}

/// A built-in recipe without anything that is done about outliers: no rotation, no smoothing, no zero points.
pub fn plain(name: &str) -> Recipe {
    Recipe {
        name: format!("{name}-plain"),
        rotation: RotationRule::default(),
        smooth_values: false,
        down_projections: DownProjections::default(),
        asymmetric: false,
        ..Recipe::load(name).unwrap()
    }
}

/// Exact-match accuracy per kind of question and in all.
#[derive(Debug, Default)]
pub struct Score {
    right: BTreeMap<String, usize>,
    total: BTreeMap<String, usize>,
}

impl Score {
    pub fn add(&mut self, sample: &Sample, answer: &str) {
        let kind = sample.category.clone().unwrap();
        let right = sample.answer.as_deref() == Some(answer);
        for key in [kind, "all".to_string()] {
            *self.total.entry(key.clone()).or_default() += 1;
            *self.right.entry(key).or_default() += usize::from(right);
        }
    }

    pub fn of(&self, kind: &str) -> f64 {
        self.right[kind] as f64 / self.total[kind] as f64
    }

    pub fn kinds(&self) -> impl Iterator<Item = &String> {
        self.total.keys()
    }
}

impl std::fmt::Display for Score {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for kind in self.kinds() {
            write!(f, "{kind} {:.1}% of {}; ", 100.0 * self.of(kind), self.total[kind])?;
        }
        Ok(())
    }
}

/// The tensors of samples as a judge reads them.
pub fn bundle(preparer: &Preparer, samples: &[Sample]) -> Bundle {
    let mut bundle = Bundle::default();
    for (i, sample) in samples.iter().enumerate() {
        let p = preparer.prepare_sample(sample).unwrap();
        let n = p.input_ids.len();
        bundle.ints(format!("s{i}.input_ids"), vec![n], &p.input_ids);
        bundle.ints(format!("s{i}.position_ids"), vec![p.position_ids.len(), n], &p.position_ids.concat());
        if p.grids.is_empty() {
            continue;
        }
        let grid: Vec<i64> = p.grids.iter().flatten().map(|&g| g as i64).collect();
        bundle.ints(format!("s{i}.image_grid_thw"), vec![p.grids.len(), 3], &grid);
        bundle.floats(format!("s{i}.pixel_values"), &p.pixel_values);
    }
    bundle
}

/// A prepared prompt as the executor takes it.
pub fn generation(p: &Prepared) -> Generation<'_> {
    Generation {
        input_ids: &p.input_ids,
        pixel_values: &p.pixel_values,
        grids: &p.grids,
        position_ids: &p.position_ids,
    }
}

/// Greedy answers of the executor, in sample order.
pub fn answers(
    exec: &Executor<'_, f32>,
    preparer: &Preparer,
    resolved: &Resolved,
    samples: &[Sample],
) -> Vec<String> {
    let stop = &resolved.description.prompt.eos_token_ids;
    let one = |sample: &Sample| {
        let p = preparer.prepare_sample(sample).unwrap();
        let prompt = generation(&p);
        let mut ids = greedy(exec, &prompt, 12, stop).unwrap();
        ids.retain(|id| !stop.contains(id));
        preparer.tokenizer().decode(&ids, true).unwrap()
    };
    samples.par_iter().map(one).collect()
}
