//! Calibration samples as the inputs of the three graphs.

use std::ops::Range;

use crate::exec::{Inputs, Outputs, Value, empty_cache, feature_width, position_inputs, vision_inputs};
use crate::graph::Model;
use crate::numeric::{ShapeError, Tensor};

/// Tokens whose live activations are held at once. At a hidden width of 3584 and an MLP of 18944 this is about 1.5 GB.
const GROUP_TOKENS: usize = 8192;

/// Model inputs of one calibration sample, the expected answer included: its rows are what decoding will see.
#[derive(Clone, Debug)]
pub struct CalibrationSample {
    /// Token ids, image placeholders expanded.
    pub ids: Vec<i64>,
    /// One row per rotary axis.
    pub positions: Vec<Vec<i64>>,
    /// Patch rows of all images.
    pub pixels: Tensor<f32>,
    /// Frames, patch rows, patch columns per image.
    pub grids: Vec<[usize; 3]>,
}

impl CalibrationSample {
    fn cost(&self) -> usize {
        self.ids.len().max(self.pixels.rows())
    }
}

/// Consecutive samples that fit into one group; at least one each.
pub(super) fn groups(samples: &[CalibrationSample]) -> Vec<&[CalibrationSample]> {
    let costs = samples.iter().map(CalibrationSample::cost);
    runs(costs, GROUP_TOKENS).into_iter().map(|run| &samples[run]).collect()
}

/// Consecutive indices whose costs together are at most `limit`; at least one each.
pub(super) fn runs(costs: impl Iterator<Item = usize>, limit: usize) -> Vec<Range<usize>> {
    let mut runs: Vec<Range<usize>> = Vec::new();
    let mut sum = 0;
    for (i, cost) in costs.enumerate() {
        match runs.last_mut() {
            Some(run) if sum + cost <= limit => {
                run.end = i + 1;
                sum += cost;
            }
            _ => {
                runs.push(i..i + 1);
                sum = cost;
            }
        }
    }
    runs
}

/// Whether row `r` belongs to an image; without ids every row does.
pub(super) fn is_visual(ids: Option<&[i64]>, r: usize, image_token: i64) -> bool {
    ids.is_none_or(|ids| ids.get(r) == Some(&image_token))
}

/// Inputs of the vision graph, for the samples that have images.
pub(super) fn vision_inputs_of(samples: &[CalibrationSample]) -> Result<Vec<Inputs<f32>>, ShapeError> {
    let with_images = samples.iter().filter(|s| !s.grids.is_empty());
    with_images.map(|s| vision_inputs(&s.pixels, &s.grids)).collect()
}

/// Inputs of the embedding graph; `features` are the outputs for the samples with images.
pub(super) fn embedding_inputs(
    model: &Model,
    samples: &[CalibrationSample],
    features: Vec<Outputs<f32>>,
) -> Result<Vec<Inputs<f32>>, ShapeError> {
    let mut features = features.into_iter();
    let mut inputs = Vec::with_capacity(samples.len());
    for s in samples {
        let mut input = if s.grids.is_empty() {
            let none = Tensor::full(vec![0, feature_width(model)], 0.0);
            Inputs::from([("image_features".to_string(), Value::Float(none))])
        } else {
            features.next().unwrap_or_default()
        };
        input.insert("input_ids".into(), Value::Int(Tensor::new(vec![1, s.ids.len()], s.ids.clone())?));
        inputs.push(input);
    }
    Ok(inputs)
}

/// Inputs of the decoder for whole prompts; `embeds` are the outputs of the embedding graph.
pub(super) fn decoder_inputs(
    model: &Model,
    samples: &[CalibrationSample],
    embeds: Vec<Outputs<f32>>,
) -> Result<Vec<Inputs<f32>>, ShapeError> {
    let mut inputs = Vec::with_capacity(samples.len());
    for (s, mut input) in samples.iter().zip(embeds) {
        let n = s.ids.len();
        input.extend(position_inputs(model, &s.positions, n)?);
        input.insert("attention_mask".into(), Value::Int(Tensor::full(vec![1, n], 1)));
        let cache = empty_cache(model).into_iter();
        input.extend(cache.map(|(name, v)| (name.replacen("present.", "past_key_values.", 1), v)));
        inputs.push(input);
    }
    Ok(inputs)
}
