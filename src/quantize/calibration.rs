//! Runs the float model over calibration samples and records the range of every linear's input per modality.
//! Samples go through in groups, node by node ([`run_lockstep`]), so memory holds one weight and one group's live activations.

use std::collections::BTreeMap;

use super::error::QuantizeError;
use crate::calibrate::observe::ChannelRange;
use crate::exec::{
    Inputs, Keep, LockstepTap, Value, empty_cache, feature_width, position_inputs, run_lockstep,
    vision_inputs,
};
use crate::graph::{Graph, Model, Node, Op, Part, WeightSource};
use crate::numeric::Tensor;

/// Range of every linear's input by role.
pub type Ranges = BTreeMap<String, ChannelRange>;

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

/// Ranges of all linears of the float `model` over `samples`. `progress` is told (steps done, steps in all, node).
///
/// # Errors
/// [`QuantizeError`] when the model cannot be run or an activation is not finite.
pub fn calibrate(
    model: &Model,
    weights: &dyn WeightSource,
    samples: &[CalibrationSample],
    progress: &mut dyn FnMut(usize, usize, &str),
) -> Result<Ranges, QuantizeError> {
    let mut observer =
        Observer { image_token: model.spec.image_token_id, ids: vec![], ranges: Ranges::new() };
    let groups = groups(samples);
    let steps: usize = model.graphs.iter().map(|g| g.nodes.len()).sum();
    for (i, group) in groups.iter().enumerate() {
        let mut done = i * steps;
        let mut step = |node: &str| {
            done += 1;
            progress(done, steps * groups.len(), node);
        };
        run_group(model, weights, group, &mut observer, &mut step)?;
    }
    for (role, range) in &observer.ranges {
        let whole = range.whole();
        if !whole.visual.max.is_finite() || !whole.text.max.is_finite() {
            return Err(QuantizeError::NotFinite { linear: role.clone() });
        }
    }
    Ok(observer.ranges)
}

/// Consecutive samples that fit into one group; at least one each.
fn groups(samples: &[CalibrationSample]) -> Vec<&[CalibrationSample]> {
    let mut groups = Vec::new();
    let (mut start, mut cost) = (0, 0);
    for (i, s) in samples.iter().enumerate() {
        if i > start && cost + s.cost() > GROUP_TOKENS {
            groups.push(&samples[start..i]);
            (start, cost) = (i, 0);
        }
        cost += s.cost();
    }
    if start < samples.len() {
        groups.push(&samples[start..]);
    }
    groups
}

fn run_group(
    model: &Model,
    weights: &dyn WeightSource,
    group: &[CalibrationSample],
    observer: &mut Observer,
    step: &mut dyn FnMut(&str),
) -> Result<(), QuantizeError> {
    let with_images: Vec<_> = group.iter().filter(|s| !s.grids.is_empty()).collect();
    let inputs = with_images.iter().map(|s| vision_inputs(&s.pixels, &s.grids)).collect::<Result<_, _>>()?;
    observer.ids.clear();
    let features = run_lockstep::<f32>(model, weights, Part::Vision, inputs, observer, Keep::Outputs, step)?;
    let mut features = features.into_iter();
    let mut inputs = Vec::with_capacity(group.len());
    for s in group {
        let mut input = if s.grids.is_empty() {
            let none = Tensor::full(vec![0, feature_width(model)], 0.0);
            Inputs::from([("image_features".to_string(), Value::Float(none))])
        } else {
            features.next().unwrap_or_default()
        };
        input.insert("input_ids".into(), Value::Int(Tensor::new(vec![1, s.ids.len()], s.ids.clone())?));
        inputs.push(input);
    }
    let embeds = run_lockstep::<f32>(model, weights, Part::Embedding, inputs, observer, Keep::Outputs, step)?;
    let mut inputs = Vec::with_capacity(group.len());
    for (s, mut input) in group.iter().zip(embeds) {
        let n = s.ids.len();
        input.extend(position_inputs(model, &s.positions, n)?);
        input.insert("attention_mask".into(), Value::Int(Tensor::full(vec![1, n], 1)));
        let cache = empty_cache(model).into_iter();
        input.extend(cache.map(|(name, v)| (name.replacen("present.", "past_key_values.", 1), v)));
        inputs.push(input);
    }
    observer.ids = group.iter().map(|s| s.ids.clone()).collect();
    run_lockstep::<f32>(model, weights, Part::Decoder, inputs, observer, Keep::Nothing, step)?;
    Ok(())
}

struct Observer {
    image_token: i64,
    /// Ids of each sample of the group while the decoder runs; empty elsewhere, where all rows are visual.
    ids: Vec<Vec<i64>>,
    ranges: Ranges,
}

impl LockstepTap<f32> for Observer {
    fn node(&mut self, sample: usize, _: &Graph, node: &Node, inputs: &[&Value<f32>], _: &[Value<f32>]) {
        let (Op::Linear(_), Some(x)) = (&node.op, inputs.first().and_then(|v| v.as_float())) else { return };
        let range = self.ranges.entry(node.name.clone()).or_default();
        let ids = self.ids.get(sample);
        for r in 0..x.rows() {
            let visual = ids.is_none_or(|ids| ids.get(r) == Some(&self.image_token));
            range.row(visual, x.row(r));
        }
    }
}
