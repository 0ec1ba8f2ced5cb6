//! The trained model, or a twin of it, with everything that quantizes and runs it.

use std::path::Path;

use mquant_export::calibrate::{Preparer, Sample};
use mquant_export::checkpoint::Checkpoint;
use mquant_export::exec::Executor;
use mquant_export::family::{CheckpointWeights, Library, Resolved, resolve};
use mquant_export::graph::{Model, WeightSource};
use mquant_export::pipeline::preparer;
use mquant_export::quantize::recipe::Recipe;

use super::agreement::{Said, said};
use super::eval::{Made, TINY, quantize};
use super::fixture;
use super::planted::{Planting, planted};

/// A checkpoint of the trained model or a twin of it, and what runs it.
pub struct Case {
    pub checkpoint: Checkpoint,
    pub resolved: Resolved,
    pub preparer: Preparer,
}

impl Case {
    pub fn open(dir: &Path) -> Self {
        let checkpoint = Checkpoint::open(dir).unwrap();
        let resolved = resolve(&Library::built_in().unwrap(), &checkpoint).unwrap();
        let preparer = preparer(checkpoint.files(), &resolved.description).unwrap();
        Self { checkpoint, resolved, preparer }
    }

    pub fn twin(dir: &Path, how: &Planting) -> Self {
        Self::open(&planted(dir, how))
    }

    pub fn weights(&self) -> CheckpointWeights<'_> {
        CheckpointWeights::new(&self.checkpoint, &self.resolved.bindings)
    }

    pub fn run(&self, model: &Model, weights: &dyn WeightSource, samples: &[Sample]) -> Said {
        let stop = &self.resolved.description.prompt.eos_token_ids;
        said(&Executor::keeping(model, weights), &self.preparer, stop, samples)
    }

    pub fn float(&self, samples: &[Sample]) -> Said {
        self.run(&self.resolved.model, &self.weights(), samples)
    }

    /// The model by a recipe, calibrated on its own set.
    pub fn quantize(&self, recipe: &Recipe) -> Made {
        let data = fixture(TINY).join("calibration.tsv");
        quantize(&self.checkpoint, &self.resolved, &data, &self.weights(), recipe)
    }

    /// What a quantized model says.
    pub fn quantized(&self, made: &Made, samples: &[Sample]) -> Said {
        made.with_weights(&self.weights(), |weights| self.run(&made.quantized.model, weights, samples))
    }

    /// What the model says by a recipe, calibrated on its own set.
    pub fn by(&self, recipe: &Recipe, samples: &[Sample]) -> Said {
        self.quantized(&self.quantize(recipe), samples)
    }
}
