//! The error that a linear's output is expected to have, before anything is rounded: from the weight and what was seen of its input, channel by channel.
//! It ranks what may be done to a linear; what was really measured is in its [`Outcome`](super::Outcome).

use super::recipe::{Activations, Precision, Weights};
use crate::calibrate::observe::{ChannelMax, ChannelRange};
use crate::numeric::Tensor;
use crate::numeric::ggml::{BlockType, reference};
use crate::numeric::grid::Grid;

/// Codes from zero to the largest of an activation.
const LEVELS: f64 = 127.0;

/// Mean over rows of the squared error of a linear's outputs, summed over them, with the weight rounded to the nearest code and inputs of variance
/// `energy`, taken as uncorrelated:
///
/// `sum_rk (w_rk - q_rk)^2 E[x_k^2]  +  sum_m share_m (A_m / 127)^2 / 12 * sum_rk w_rk^2`
///
/// with `A_m` the largest input of modality `m`, or of all, as the activations share scales. A row of its own scale counts like its modality. Beside weights
/// in blocks of ggml the second term is left out: runtimes round those inputs by themselves, block by block.
pub fn expected_error(weight: &Tensor<f32>, range: &ChannelRange, precision: Precision) -> f64 {
    let rows = (range.visual.rows + range.text.rows).max(1) as f64;
    let energy: Vec<f64> = (0..weight.cols()).map(|k| energy_of(range, k) / rows).collect();
    let mut error = 0.0;
    let mut squares = 0.0;
    for row in weight.data().chunks_exact(weight.cols().max(1)) {
        squares += row.iter().map(|w| f64::from(*w).powi(2)).sum::<f64>();
        if let Some(grid) = precision.weights.grid() {
            error += rounding_error(row, &energy, grid);
        }
    }
    match precision.weights {
        Weights::Blocks(kind) => block_error(weight, &energy, kind),
        Weights::Float | Weights::Grid(_) => error + input_error(range, precision.activations) * squares,
    }
}

/// `sum_rk (w_rk - q_rk)^2 energy_k` of a matrix rounded to the nearest values of `kind` as ggml's reference does; infinite where its rows are not made
/// of whole blocks or not finite.
pub(super) fn block_error(weight: &Tensor<f32>, energy: &[f64], kind: BlockType) -> f64 {
    let shape = (weight.rows(), weight.cols());
    let Ok(rounded) = reference(weight.data(), shape, kind, None) else {
        return f64::INFINITY;
    };
    let values = rounded.dequantize();
    let cols = weight.cols().max(1);
    let rows = weight.data().chunks_exact(cols).zip(values.chunks_exact(cols));
    let error = |(w, q): (&[f32], &[f32])| {
        let terms = w.iter().zip(q).zip(energy);
        terms.map(|((w, q), e)| f64::from(w - q).powi(2) * e).sum::<f64>()
    };
    rows.map(error).sum()
}

/// Sum of squares of channel `k` over all rows.
fn energy_of(range: &ChannelRange, k: usize) -> f64 {
    let of = |seen: &ChannelMax| seen.energy.get(k).copied().unwrap_or(0.0);
    of(&range.visual) + of(&range.text)
}

/// `sum_k (w_k - q_k)^2 energy_k` for one row rounded to the nearest code, each block at a scale of its own.
fn rounding_error(row: &[f32], energy: &[f64], grid: Grid) -> f64 {
    let largest_code = f32::from(grid.largest_code());
    let block = grid.block.unwrap_or(row.len()).max(1);
    let blocks = row.chunks(block).zip(energy.chunks(block));
    blocks
        .map(|(row, energy)| {
            let step = row.iter().fold(0.0f32, |m, w| m.max(w.abs())) / largest_code;
            if step == 0.0 {
                return 0.0;
            }
            let error = |w: f32| f64::from(w - (w / step).round_ties_even() * step).powi(2);
            row.iter().zip(energy).map(|(w, e)| error(*w) * e).sum::<f64>()
        })
        .sum()
}

/// Mean squared error of one input value.
fn input_error(range: &ChannelRange, activations: Activations) -> f64 {
    let rows = (range.visual.rows + range.text.rows).max(1) as f64;
    let largest = |seen: &ChannelMax| f64::from(seen.whole().max);
    let both = largest(&range.visual).max(largest(&range.text));
    let of = |seen: &ChannelMax| {
        let largest = match activations {
            Activations::Float => 0.0,
            Activations::Static => both,
            Activations::Msq | Activations::Dynamic => largest(seen),
        };
        seen.rows as f64 / rows * (largest / LEVELS).powi(2) / 12.0
    };
    of(&range.visual) + of(&range.text)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rows of noise, the text rows ten times smaller, and what the estimate says of them against rounding for real.
    #[test]
    fn the_estimate_is_near_what_rounding_does_to_uncorrelated_inputs() {
        let (rows, cols, out) = (400, 64, 16);
        let mut state = 7u64;
        let mut draw = || {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            ((state >> 33) as f32 / (1u64 << 31) as f32) * 2.0 - 1.0
        };
        let weight = Tensor::new(vec![out, cols], (0..out * cols).map(|_| draw()).collect()).unwrap();
        let x: Vec<Vec<f32>> = (0..rows)
            .map(|r| (0..cols).map(|_| draw() * if r % 2 == 0 { 1.0 } else { 0.1 }).collect())
            .collect();
        let mut range = ChannelRange::default();
        x.iter().enumerate().for_each(|(r, row)| range.row(r % 2 == 0, row));
        for (weights, activations) in [
            ("int4", Activations::Float),
            ("int4/16", Activations::Msq),
            ("int8", Activations::Static),
            ("float", Activations::Msq),
        ] {
            let weights: Weights = weights.parse().unwrap();
            let precision = Precision { weights, activations };
            let estimate = expected_error(&weight, &range, precision);
            let measured = measured(&weight, &x, &range, precision);
            // Blocks of 16 weights share few roundings, so their sum scatters; within a third for this draw.
            assert!((measured / estimate - 1.0).abs() < 0.33, "{precision:?}: {measured} {estimate}");
        }
    }

    fn measured(weight: &Tensor<f32>, x: &[Vec<f32>], range: &ChannelRange, p: Precision) -> f64 {
        let near = |x: f32, step: f32| (x / step).round_ties_even() * step;
        let whole = range.whole();
        let mut error = 0.0;
        for (r, row) in x.iter().enumerate() {
            let max = match p.activations {
                Activations::Msq if r % 2 == 1 => whole.text.max,
                _ => whole.visual.max.max(whole.text.max),
            };
            let rounded: Vec<f32> = match p.activations {
                Activations::Float => row.clone(),
                _ => row.iter().map(|x| near(*x, max / 127.0)).collect(),
            };
            for w in weight.data().chunks(weight.cols()) {
                let grid = p.weights.grid();
                let block = grid.and_then(|g| g.block).unwrap_or(w.len());
                let q: Vec<f32> = w
                    .chunks(block)
                    .flat_map(|b| {
                        let step = b.iter().fold(0.0f32, |m, w| m.max(w.abs()));
                        let code = grid.map(|g| f32::from(g.largest_code()));
                        b.iter().map(move |w| code.map_or(*w, |c| near(*w, step / c))).collect::<Vec<_>>()
                    })
                    .collect();
                let dot = |a: &[f32], b: &[f32]| -> f64 {
                    a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
                };
                error += (dot(&rounded, &q) - dot(row, w)).powi(2);
            }
        }
        error / x.len() as f64
    }
}
