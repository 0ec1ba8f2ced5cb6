//! Runs the float model over calibration samples and records what every linear's input looks like, channel by channel and per modality: what remedies and
//! budgets are decided from. Samples go through in groups, node by node ([`run_lockstep`]), so memory holds one weight and one group's live
//! activations.

use std::collections::BTreeMap;

use super::error::QuantizeError;
use super::samples::{
    CalibrationSample, decoder_inputs, embedding_inputs, groups, is_visual, vision_inputs_of,
};
use crate::calibrate::observe::ChannelRange;
use crate::exec::{Keep, LockstepTap, Value, run_lockstep};
use crate::graph::{Graph, Model, Node, Op, Part, WeightSource};
use crate::numeric::rotation::Rotation;

/// What was seen of one linear.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Seen {
    /// Its input.
    pub input: ChannelRange,
    /// Its input after a Hadamard product, by the order asked for.
    pub rotated: BTreeMap<usize, ChannelRange>,
    /// Sum of squares of its outputs; none for a linear that was not computed because nobody reads it (the head).
    pub output: Option<f64>,
}

/// What was seen, by role of the linear.
pub type Statistics = BTreeMap<String, Seen>;

/// Hadamard products to try on the inputs of linears, by role; keys are what recipes call the block.
pub type Trials = BTreeMap<String, Vec<(usize, Rotation)>>;

/// What the linears of the float `model` see over `samples`. `progress` is told (steps done, steps in all, node).
///
/// # Errors
/// [`QuantizeError`] when the model cannot be run or an activation is not finite.
pub fn calibrate(
    model: &Model,
    weights: &dyn WeightSource,
    samples: &[CalibrationSample],
    trials: &Trials,
    progress: &mut dyn FnMut(usize, usize, &str),
) -> Result<Statistics, QuantizeError> {
    let mut observer = Observer {
        image_token: model.spec.image_token_id,
        ids: vec![],
        trials,
        statistics: Statistics::new(),
    };
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
    for (role, seen) in &observer.statistics {
        let whole = seen.input.whole();
        if !whole.visual.max.is_finite() || !whole.text.max.is_finite() {
            return Err(QuantizeError::NotFinite { linear: role.clone() });
        }
    }
    Ok(observer.statistics)
}

fn run_group(
    model: &Model,
    weights: &dyn WeightSource,
    group: &[CalibrationSample],
    observer: &mut Observer<'_>,
    step: &mut dyn FnMut(&str),
) -> Result<(), QuantizeError> {
    observer.ids.clear();
    let inputs = vision_inputs_of(group)?;
    let features = run_lockstep::<f32>(model, weights, Part::Vision, inputs, observer, Keep::Outputs, step)?;
    let inputs = embedding_inputs(model, group, features)?;
    let embeds = run_lockstep::<f32>(model, weights, Part::Embedding, inputs, observer, Keep::Outputs, step)?;
    let inputs = decoder_inputs(model, group, embeds)?;
    observer.ids = group.iter().map(|s| s.ids.clone()).collect();
    run_lockstep::<f32>(model, weights, Part::Decoder, inputs, observer, Keep::Nothing, step)?;
    Ok(())
}

struct Observer<'a> {
    image_token: i64,
    /// Ids of each sample of the group while the decoder runs; empty elsewhere, where all rows are visual.
    ids: Vec<Vec<i64>>,
    trials: &'a Trials,
    statistics: Statistics,
}

impl LockstepTap<f32> for Observer<'_> {
    fn node(
        &mut self,
        sample: usize,
        _: &Graph,
        node: &Node,
        inputs: &[&Value<f32>],
        outputs: &[Value<f32>],
    ) {
        let (Op::Linear(_), Some(x)) = (&node.op, inputs.first().and_then(|v| v.as_float())) else { return };
        let seen = self.statistics.entry(node.name.clone()).or_default();
        let ids = self.ids.get(sample).map(Vec::as_slice);
        for r in 0..x.rows() {
            seen.input.row(is_visual(ids, r, self.image_token), x.row(r));
        }
        for (block, hadamard) in self.trials.get(&node.name).into_iter().flatten() {
            let range = seen.rotated.entry(*block).or_default();
            for r in 0..x.rows() {
                let mut row: Vec<f64> = x.row(r).iter().copied().map(f64::from).collect();
                hadamard.right(&mut row);
                let row: Vec<f32> = row.into_iter().map(|x| x as f32).collect();
                range.row(is_visual(ids, r, self.image_token), &row);
            }
        }
        if let Some(y) = outputs.first().and_then(|v| v.as_float()) {
            let energy: f64 = y.data().iter().map(|y| f64::from(*y).powi(2)).sum();
            *seen.output.get_or_insert(0.0) += energy;
        }
    }
}
