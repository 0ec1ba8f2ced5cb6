//! What can be done about outliers in the input of a down projection, each with what it would make of the weight and of the input.

use super::calibration::{Seen, Statistics, Trials};
use super::error::QuantizeError;
use super::expected::expected_error;
use super::plan::Plan;
use super::recipe::{Precision, Recipe, Remedy};
use crate::calibrate::observe::{ChannelMax, ChannelRange};
use crate::graph::{Graph, Model, Node, Op, WeightData, WeightSource};
use crate::numeric::Tensor;
use crate::numeric::hadamard;
use crate::numeric::rotation::Rotation;
use crate::numeric::suppression::inflated_channel;
use crate::passes::rewrite::Rewrites;
use crate::passes::{Pair, rotate_online, smooth, smoothable, smoothable_values, suppress};

/// A remedy worked out for one linear.
#[derive(Clone, Debug)]
pub(super) enum Applied {
    /// The input stays.
    None,
    /// Scales per channel.
    Smooth(Pair, Vec<f64>),
    /// A Hadamard product over blocks of so many channels.
    Hadamard(usize),
    /// The same, with this channel in float.
    Suppressed(usize, usize),
}

/// One way to treat a linear, and what it makes of it.
pub(super) struct Treated {
    pub applied: Applied,
    pub weight: Tensor<f32>,
    pub input: ChannelRange,
}

impl Applied {
    /// Name in decision tables.
    pub(super) fn name(&self) -> String {
        match self {
            Applied::None => "none".into(),
            Applied::Smooth(..) => "smooth".into(),
            Applied::Hadamard(block) => format!("hadamard {block}"),
            Applied::Suppressed(block, channel) => format!("hadamard {block}, rms channel {channel}"),
        }
    }

    /// Whether it costs time while the model runs.
    pub(super) fn is_online(&self) -> bool {
        matches!(self, Applied::Hadamard(_) | Applied::Suppressed(..))
    }

    /// Changes model and weights.
    pub(super) fn apply(
        &self,
        model: Model,
        rewrites: &mut Rewrites,
        linear: &str,
    ) -> Result<Model, QuantizeError> {
        Ok(match self {
            Applied::None => model,
            Applied::Smooth(pair, scales) => {
                smooth(rewrites, pair, scales);
                model
            }
            Applied::Hadamard(block) => rotate_online(model, rewrites, linear, *block)?,
            Applied::Suppressed(block, channel) => {
                suppress(rotate_online(model, rewrites, linear, *block)?, rewrites, linear, *channel)?
            }
        })
    }
}

/// Roles of the planned linears that read an element-wise product or an activation: down projections, where outliers gather.
pub(super) fn down_projections(model: &Model, plan: &Plan) -> Vec<String> {
    let planned = |role: &str| plan.linears.iter().any(|l| l.role == role && l.precision.is_quantized());
    let reads_product = |g: &Graph, n: &Node| {
        let maker = n.inputs.first().and_then(|v| g.maker(*v));
        maker.is_some_and(|(_, m)| matches!(m.op, Op::Mul(_) | Op::Activate(_)))
    };
    let found = model.linears().filter(|(g, n, _)| planned(&n.name) && reads_product(g, n));
    found.map(|(_, n, _)| n.name.clone()).collect()
}

/// The block that a recipe means for a linear with `channels` inputs: 0 stands for all of them.
fn block_of(block: usize, channels: usize) -> usize {
    if block == 0 { channels } else { block }
}

/// The Hadamard products to try.
pub(super) fn trials(model: &Model, plan: &Plan, recipe: &Recipe) -> Trials {
    let asked: std::collections::BTreeSet<usize> = recipe
        .down_projections
        .candidates
        .iter()
        .filter_map(|r| match *r {
            Remedy::Smooth => None,
            Remedy::Hadamard(block) | Remedy::HadamardRms(block) => Some(block),
        })
        .collect();
    let of = |role: String| {
        let channels = plan.linears.iter().find(|l| l.role == role).map_or(0, |l| l.input);
        let made = asked.iter().filter_map(|&block| {
            let order = block_of(block, channels);
            let (left, right) = hadamard::factors(order).filter(|_| channels.is_multiple_of(order))?;
            Some((block, Rotation::online(left, right)?))
        });
        let made: Vec<_> = made.collect();
        (role, made)
    };
    if asked.is_empty() {
        return Trials::new();
    }
    down_projections(model, plan).into_iter().map(of).collect()
}

/// Balances the channels of value heads against the columns that read them, where these are to be quantized: `s = (max|x| / max|w|)^(1/2)`, after which both
/// maxima are equal (SmoothQuant, arXiv 2211.10438, equation 4, with strength 1/2). Outliers of single channels would otherwise spread over the whole
/// head when it is rotated.
#[derive(Clone, Debug)]
pub(super) struct ValueScales(Vec<(Pair, Vec<f64>)>);

impl ValueScales {
    /// The scales for the value heads of a model with these weights.
    ///
    /// # Errors
    /// [`QuantizeError`] when a linear was not calibrated or a weight cannot be read.
    pub(super) fn of(
        model: &Model,
        weights: &dyn WeightSource,
        plan: &Plan,
        statistics: &Statistics,
    ) -> Result<Self, QuantizeError> {
        let planned = |role: &str| plan.linears.iter().any(|l| l.role == role && l.precision.is_quantized());
        let mut made = vec![];
        for pair in smoothable_values(model).into_iter().filter(|p| planned(&p.down)) {
            let not_seen = || QuantizeError::NotCalibrated { linear: pair.down.clone() };
            let seen = statistics.get(&pair.down).ok_or_else(not_seen)?;
            let WeightData::Float(weight) = weights.role(&pair.matrix)? else { continue };
            let scales = balance(&pair, &weight, &seen.input);
            made.push((pair, scales));
        }
        Ok(Self(made))
    }

    /// Changes the weights.
    pub(super) fn apply(&self, rewrites: &mut Rewrites) {
        self.0.iter().for_each(|(pair, scales)| smooth(rewrites, pair, scales));
    }

    /// What was seen of the inputs becomes what they are afterwards.
    pub(super) fn divide(&self, statistics: &mut Statistics) {
        for (pair, scales) in &self.0 {
            if let Some(seen) = statistics.get_mut(&pair.down) {
                seen.input.divide(&pair.columns(scales));
            }
        }
    }
}

/// The scale of each row that a pair reads: the square root of its largest value over its largest weight. A row that is zero on one side stays.
fn balance(pair: &Pair, weight: &Tensor<f32>, input: &ChannelRange) -> Vec<f64> {
    let rows = pair.rows.iter().max().map_or(0, |r| r + 1);
    let (mut of_input, mut of_weight) = (vec![0.0f64; rows], vec![0.0f64; rows]);
    let columns = column_maxima(weight);
    for (k, &row) in pair.rows.iter().enumerate() {
        of_input[row] = of_input[row].max(largest_input(input, k));
        of_weight[row] = of_weight[row].max(columns.get(k).copied().unwrap_or(0.0));
    }
    let scale = |(x, w): (&f64, &f64)| if *x > 0.0 && *w > 0.0 { (x / w).sqrt() } else { 1.0 };
    of_input.iter().zip(&of_weight).map(scale).collect()
}

/// Largest `|w|` of each column.
fn column_maxima(weight: &Tensor<f32>) -> Vec<f64> {
    let mut columns = vec![0.0f64; weight.cols()];
    for row in weight.data().chunks_exact(weight.cols().max(1)) {
        columns.iter_mut().zip(row).for_each(|(m, w)| *m = m.max(f64::from(w.abs())));
    }
    columns
}

/// Largest `|x|` of channel `k` over both modalities.
fn largest_input(input: &ChannelRange, k: usize) -> f64 {
    let of = |seen: &ChannelMax| seen.max.get(k).copied().unwrap_or(0.0);
    f64::from(of(&input.visual).max(of(&input.text)))
}

/// All ways in which a recipe may treat one down projection, and why the others are not possible for it (no Hadamard matrix of the order, no channel
/// inflated, an activation in the way of smoothing).
pub(super) fn treatments(
    model: &Model,
    recipe: &Recipe,
    trials: &Trials,
    linear: &str,
    precision: Precision,
    (weight, seen): (Tensor<f32>, &Seen),
) -> (Vec<Treated>, Vec<String>) {
    let (mut made, mut impossible) = (vec![], vec![]);
    let channels = weight.cols();
    for remedy in &recipe.down_projections.candidates {
        let rotated = |block: usize| {
            let (_, q) = trials.get(linear)?.iter().find(|(b, _)| *b == block)?;
            let weight = rotate(&weight, q);
            Some((q.order(), weight, seen.rotated.get(&block)?.clone()))
        };
        let no_order = |block: usize| {
            let blocks: Vec<String> = hadamard::blocks(channels).iter().map(usize::to_string).collect();
            let known = if blocks.is_empty() { "none".to_string() } else { blocks.join(", ") };
            let order = block_of(block, channels);
            format!("hadamard {order}: rotation order impossible for {channels} channels (possible: {known})")
        };
        match *remedy {
            Remedy::Smooth => match smoothable(model).into_iter().find(|p| p.down == linear) {
                Some(pair) => made.extend(smoothed(pair, precision, &weight, &seen.input)),
                None => impossible.push("smooth: an activation stands before this linear".to_string()),
            },
            Remedy::Hadamard(block) => match rotated(block) {
                Some((order, weight, input)) => {
                    made.push(Treated { applied: Applied::Hadamard(order), weight, input });
                }
                None => impossible.push(no_order(block)),
            },
            Remedy::HadamardRms(block) => match rotated(block) {
                Some((order, weight, input)) => match suppressed(order, weight, input) {
                    Some(treated) => made.push(treated),
                    None => impossible.push(format!("hadamard {order}, rms: no channel is inflated")),
                },
                None => impossible.push(no_order(block)),
            },
        }
    }
    let nothing = Treated { applied: Applied::None, weight, input: seen.input.clone() };
    if made.is_empty() || !recipe.down_projections.always {
        made.insert(0, nothing);
    }
    impossible.dedup();
    (made, impossible)
}

/// `W Q`.
fn rotate(weight: &Tensor<f32>, q: &Rotation) -> Tensor<f32> {
    let mut data: Vec<f64> = weight.data().iter().copied().map(f64::from).collect();
    q.right(&mut data);
    let mut rotated = weight.clone();
    rotated.data_mut().iter_mut().zip(data).for_each(|(w, x)| *w = x as f32);
    rotated
}

/// The channel that the product inflated is taken out: nothing of it is rounded.
fn suppressed(order: usize, mut weight: Tensor<f32>, input: ChannelRange) -> Option<Treated> {
    let cols = weight.cols();
    let channel = inflated_channel(weight.data(), cols)?.channel;
    weight.data_mut().chunks_exact_mut(cols).for_each(|row| row[channel] = 0.0);
    let input = input.without(channel);
    Some(Treated { applied: Applied::Suppressed(order, channel), weight, input })
}

/// None where no scales lower the error.
fn smoothed(pair: Pair, precision: Precision, weight: &Tensor<f32>, input: &ChannelRange) -> Option<Treated> {
    let scales = best_scales(weight, input, precision)?;
    let (weight, input) = divided(weight, input, &scales);
    Some(Treated { applied: Applied::Smooth(pair, scales), weight, input })
}

/// Weight and input after channel `k` moved by `scales[k]`.
fn divided(weight: &Tensor<f32>, input: &ChannelRange, scales: &[f64]) -> (Tensor<f32>, ChannelRange) {
    let (mut weight, mut input) = (weight.clone(), input.clone());
    input.divide(scales);
    for row in weight.data_mut().chunks_exact_mut(scales.len().max(1)) {
        row.iter_mut().zip(scales).for_each(|(w, s)| *w = (f64::from(*w) * s) as f32);
    }
    (weight, input)
}

/// Strengths tried: from all magnitude in the activations to all in the weights.
const STRENGTHS: [f64; 11] = [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0];

/// SmoothQuant's scales `max|x|^a / max|w|^(1 - a)` (arXiv 2211.10438, equation 4) at the strength with the least expected error; none when no strength
/// has less than the pair as it is.
fn best_scales(weight: &Tensor<f32>, input: &ChannelRange, precision: Precision) -> Option<Vec<f64>> {
    let columns = column_maxima(weight);
    let at = |strength: f64| -> Vec<f64> {
        let scale = |(k, &w): (usize, &f64)| match (largest_input(input, k), w) {
            // A channel that is zero on one side stays.
            (x, w) if x > 0.0 && w > 0.0 => x.powf(strength) / w.powf(1.0 - strength),
            _ => 1.0,
        };
        columns.iter().enumerate().map(scale).collect()
    };
    // What rounding of scaled weights to f32 alone changes is no reason to scale.
    let mut best = ((1.0 - 1e-3) * expected_error(weight, input, precision), None);
    for strength in STRENGTHS {
        let scales = at(strength);
        let (weight, input) = divided(weight, input, &scales);
        let error = expected_error(&weight, &input, precision);
        if error < best.0 {
            best = (error, Some(scales));
        }
    }
    best.1
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quantize::recipe::{Activations, Weights};

    const W8A8: Precision = Precision { weights: Weights::INT8, activations: Activations::Msq };

    fn range(rows: &[[f32; 3]]) -> ChannelRange {
        let mut range = ChannelRange::default();
        rows.iter().for_each(|r| range.row(false, r));
        range
    }

    #[test]
    fn an_outlier_channel_is_moved_and_an_even_input_is_left() {
        let weight = Tensor::new(vec![2, 3], vec![0.5, -0.4, 0.3, 0.2, 0.5, -0.5]).unwrap();
        let outlier = range(&[[1.0, 64.0, -1.0], [-1.0, 60.0, 0.5]]);
        let scales = best_scales(&weight, &outlier, W8A8).unwrap();
        assert!(scales[1] / scales[0] > 4.0, "{scales:?}");
        let (moved, divided) = divided(&weight, &outlier, &scales);
        let before = expected_error(&weight, &outlier, W8A8);
        assert!(expected_error(&moved, &divided, W8A8) < 0.9 * before);
        let even = Tensor::new(vec![1, 3], vec![0.5, -0.5, 0.5]).unwrap();
        assert_eq!(best_scales(&even, &range(&[[1.0, -1.0, 1.0]]), W8A8), None);
    }

    #[test]
    fn a_channel_without_values_stays() {
        let weight = Tensor::new(vec![1, 3], vec![0.5, 0.0, 0.1]).unwrap();
        let scales = best_scales(&weight, &range(&[[9.0, 3.0, 0.0]]), W8A8).unwrap_or(vec![1.0; 3]);
        assert_eq!((scales[1], scales[2]), (1.0, 1.0));
        assert!(scales.iter().all(|s| s.is_finite() && *s > 0.0));
    }

    #[test]
    fn a_suppressed_channel_is_rounded_on_neither_side() {
        // After a Hadamard product of positive inputs, channel 0 is large in both.
        let weight = Tensor::new(vec![2, 3], vec![8.0, 0.1, -0.1, 9.0, 0.2, 0.1]).unwrap();
        let treated = suppressed(4, weight.clone(), range(&[[50.0, 1.0, -1.0]])).unwrap();
        assert!(matches!(treated.applied, Applied::Suppressed(4, 0)));
        assert_eq!(treated.weight.data(), [0.0, 0.1, -0.1, 0.0, 0.2, 0.1]);
        assert_eq!(treated.input.whole().text.max, 1.0);
        let even = Tensor::new(vec![2, 3], vec![0.1, 8.0, -8.0, 0.1, 8.0, 8.0]).unwrap();
        assert!(suppressed(4, even, range(&[[1.0, 1.0, 1.0]])).is_none());
    }
}
