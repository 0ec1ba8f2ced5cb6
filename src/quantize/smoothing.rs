//! Chooses the scales that [`passes::smooth`](crate::passes::smooth) moves, from calibrated ranges and the weights as they are by then.

use super::calibration::Ranges;
use super::error::QuantizeError;
use super::plan::Plan;
use crate::calibrate::observe::{ChannelMax, ChannelRange};
use crate::graph::{Model, WeightData, WeightSource};
use crate::numeric::Tensor;
use crate::passes::rewrite::{Rewrites, RewrittenWeights};
use crate::passes::{smooth, smoothable};

/// Smooths the input of every planned down projection; the ranges of these inputs become what they are afterwards.
///
/// # Errors
/// [`QuantizeError::NotCalibrated`] when a range is missing, [`QuantizeError::Weight`] when a weight cannot be read.
pub fn smooth_down_projections(
    model: &Model,
    stored: &dyn WeightSource,
    rewrites: &mut Rewrites,
    plan: &Plan,
    ranges: &mut Ranges,
) -> Result<(), QuantizeError> {
    let planned = |down: &str| plan.linears.iter().any(|l| l.role == down && l.precision.is_quantized());
    for pair in smoothable(model).into_iter().filter(|p| planned(&p.down)) {
        let range = ranges
            .get_mut(&pair.down)
            .ok_or_else(|| QuantizeError::NotCalibrated { linear: pair.down.clone() })?;
        let weight = match RewrittenWeights::new(stored, rewrites).role(&pair.matrix)? {
            WeightData::Float(w) => w,
            WeightData::Int8(_) => continue,
        };
        let Some(scales) = best_scales(&weight, range) else { continue };
        smooth(rewrites, &pair, &scales);
        range.divide(&scales);
    }
    Ok(())
}

/// Strengths tried: from all magnitude in the activations to all in the weights.
const STRENGTHS: [f64; 11] = [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0];

/// SmoothQuant's scales `max|x|^a / max|w|^(1 - a)` (arXiv 2211.10438, equation 4) at the strength with the least [`noise`]; none when no strength
/// has less than the pair as it is.
fn best_scales(weight: &Tensor<f32>, range: &ChannelRange) -> Option<Vec<f64>> {
    let mut columns = vec![0.0f64; weight.cols()];
    for row in weight.data().chunks_exact(weight.cols().max(1)) {
        columns.iter_mut().zip(row).for_each(|(m, w)| *m = m.max(f64::from(w.abs())));
    }
    let largest = |k: usize| {
        let of = |seen: &ChannelMax| seen.max.get(k).copied().unwrap_or(0.0);
        f64::from(of(&range.visual).max(of(&range.text)))
    };
    let at = |strength: f64| -> Vec<f64> {
        let scale = |(k, &w): (usize, &f64)| match (largest(k), w) {
            // A channel that is zero on one side stays.
            (x, w) if x > 0.0 && w > 0.0 => x.powf(strength) / w.powf(1.0 - strength),
            _ => 1.0,
        };
        columns.iter().enumerate().map(scale).collect()
    };
    let mut best = (noise(weight, range, &vec![1.0; columns.len()]), None);
    for strength in STRENGTHS {
        let scales = at(strength);
        let noise = noise(weight, range, &scales);
        if noise < best.0 {
            best = (noise, Some(scales));
        }
    }
    best.1
}

/// Expected squared error of the outputs per row, up to a common factor, when channel `k` of the input is divided and column `k` of the weight multiplied
/// by `scales[k]`: rounding of an input at step `a` spreads over the squares of the weights, rounding of a weight row at step `b` over the
/// energy of the inputs. Roundings are taken as independent and uniform.
fn noise(weight: &Tensor<f32>, range: &ChannelRange, scales: &[f64]) -> f64 {
    let rows = (range.visual.rows + range.text.rows) as f64;
    let mut step = 0.0;
    let mut energy = vec![0.0; scales.len()];
    for seen in [&range.visual, &range.text] {
        let largest = seen.max.iter().zip(scales).map(|(m, s)| f64::from(*m) / s).fold(0.0, f64::max);
        step += seen.rows as f64 / rows * largest.powi(2);
        energy
            .iter_mut()
            .zip(seen.energy.iter().zip(scales))
            .for_each(|(sum, (e, s))| *sum += e / (s * s) / rows);
    }
    let energy: f64 = energy.iter().sum();
    let mut total = 0.0;
    for row in weight.data().chunks_exact(scales.len().max(1)) {
        let scaled = row.iter().zip(scales).map(|(w, s)| f64::from(*w) * s);
        let (squares, largest) = scaled.fold((0.0, 0.0f64), |(sum, max), w| (sum + w * w, max.max(w.abs())));
        total += step * squares + largest.powi(2) * energy;
    }
    total
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(rows: &[[f32; 3]]) -> ChannelRange {
        let mut range = ChannelRange::default();
        rows.iter().for_each(|r| range.row(false, r));
        range
    }

    #[test]
    fn an_outlier_channel_is_moved_and_an_even_input_is_left() {
        let weight = Tensor::new(vec![2, 3], vec![0.5, -0.4, 0.3, 0.2, 0.5, -0.5]).unwrap();
        let outlier = range(&[[1.0, 64.0, -1.0], [-1.0, 60.0, 0.5]]);
        let scales = best_scales(&weight, &outlier).unwrap();
        assert!(scales[1] / scales[0] > 4.0, "{scales:?}");
        assert!(noise(&weight, &outlier, &scales) < 0.9 * noise(&weight, &outlier, &[1.0; 3]));
        let even = Tensor::new(vec![1, 3], vec![0.5, -0.5, 0.5]).unwrap();
        assert_eq!(best_scales(&even, &range(&[[1.0, -1.0, 1.0]])), None);
    }

    #[test]
    fn a_channel_without_values_stays() {
        let weight = Tensor::new(vec![1, 3], vec![0.5, 0.0, 0.1]).unwrap();
        let scales = best_scales(&weight, &range(&[[9.0, 3.0, 0.0]])).unwrap_or(vec![1.0; 3]);
        assert_eq!((scales[1], scales[2]), (1.0, 1.0));
        assert!(scales.iter().all(|s| s.is_finite() && *s > 0.0));
    }
}
