//! The scales of a grid, chosen before anything is rounded: from the largest weights, or by a search for the amount of clipping that costs least.

use faer::traits::pulp::Arch;
use rayon::prelude::*;

use super::{Grid, LARGEST_MULTIPLIER, Scales, normal_or_one, symmetric_code};

/// Shares of the largest weight that the search puts on the largest code: finer where most rows have their best.
const SHARES: [f32; 20] = [
    1.0, 0.98, 0.96, 0.94, 0.92, 0.9, 0.88, 0.86, 0.84, 0.82, 0.8, 0.75, 0.7, 0.65, 0.6, 0.55, 0.5, 0.45,
    0.4, 0.35,
];
/// Row scales tried around the one that gives the block with the largest scale the largest multiplier.
const ROW_SCALES: [f32; 7] = [1.0, 0.98, 0.96, 0.93, 1.02, 1.04, 1.07];
/// Sums that a sum over columns is kept in, so that it is computed in vectors.
const LANES: usize = 16;
/// Columns after which a candidate that is already worse than the best is given up.
const STRETCH: usize = 512;

/// The scales of each row of `w` (row-major, `cols` columns, finite) on `grid`, before rounding.
///
/// Without `search` the largest absolute weight of a row or block lies on the largest code. With it, down to 0.35 of the largest weight is
/// tried and what lies above is clipped; the error of nearest rounding decides, a squared error of column `j` weighing `weights[j]` (not negative,
/// finite; equal without weights). Blocks get the multiplier next to the scale they want that costs least; with `search` a few scales of the row are
/// tried. Rows and blocks of zeros have scale or multiplier 1.
pub fn scales(w: &[f32], cols: usize, grid: Grid, weights: Option<&[f32]>, search: bool) -> Scales {
    let weights = relative(weights, cols);
    let seeker =
        Seeker { grid, weights: &weights, shares: if search { &SHARES } else { &SHARES[..1] }, search };
    let arch = Arch::new();
    let rows = w.par_chunks(cols.max(1));
    let found: Vec<(Vec<u8>, f32)> = rows.map(|row| arch.dispatch(|| seeker.row(row))).collect();
    let mut scales = Scales { multipliers: vec![], scales: Vec::with_capacity(found.len()) };
    for (multipliers, scale) in found {
        scales.multipliers.extend(multipliers);
        scales.scales.push(scale);
    }
    scales
}

/// The weights over their mean, so that no product of a search overflows or vanishes.
fn relative(weights: Option<&[f32]>, cols: usize) -> Vec<f32> {
    let Some(weights) = weights else { return vec![1.0; cols] };
    let mean = weights.iter().map(|v| f64::from(*v)).sum::<f64>() / cols.max(1) as f64;
    if mean > 0.0 { weights.iter().map(|v| (f64::from(*v) / mean) as f32).collect() } else { vec![1.0; cols] }
}

struct Seeker<'a> {
    grid: Grid,
    weights: &'a [f32],
    shares: &'a [f32],
    search: bool,
}

impl Seeker<'_> {
    /// Multipliers (none without blocks) and scale of one row.
    #[inline(always)]
    fn row(&self, w: &[f32]) -> (Vec<u8>, f32) {
        if self.grid.block.is_none() {
            return (vec![], normal_or_one(self.best(w, self.weights)));
        }
        let wanted: Vec<f32> = self
            .grid
            .ranges(w.len())
            .map(|range| self.best(&w[range.clone()], &self.weights[range]))
            .collect();
        let top = wanted.iter().fold(0.0f32, |m, s| m.max(*s)) / f32::from(LARGEST_MULTIPLIER);
        let mut best = (vec![1; wanted.len()], normal_or_one(top));
        if !top.is_normal() {
            return best;
        }
        let mut least = f64::INFINITY;
        for scale in ROW_SCALES.iter().take(if self.search { ROW_SCALES.len() } else { 1 }).map(|r| r * top) {
            let (multipliers, error) = self.multipliers(w, &wanted, scale);
            if scale.is_normal() && error < least {
                (best, least) = ((multipliers, scale), error);
            }
        }
        best
    }

    /// The scale of one row or block that costs least, 0 for zeros.
    #[inline(always)]
    fn best(&self, w: &[f32], v: &[f32]) -> f32 {
        let largest = f32::from(self.grid.largest_code());
        let full = w.iter().fold(0.0f32, |m, x| m.max(x.abs())) / largest;
        if !full.is_normal() || !self.search {
            return full;
        }
        let (mut best, mut least) = (full, f32::INFINITY);
        for scale in self.shares.iter().map(|share| share * full).filter(|s| s.is_normal()) {
            let error = cost(w, v, scale, largest, least);
            if error < least {
                (best, least) = (scale, error);
            }
        }
        best
    }

    /// The multipliers of a row with this scale, and what they cost together.
    #[inline(always)]
    fn multipliers(&self, w: &[f32], wanted: &[f32], scale: f32) -> (Vec<u8>, f64) {
        let largest = f32::from(self.grid.largest_code());
        let mut total = 0.0;
        let mut multipliers = Vec::with_capacity(wanted.len());
        for (range, wanted) in self.grid.ranges(w.len()).zip(wanted) {
            let (w, v) = (&w[range.clone()], &self.weights[range]);
            let near = |x: f32| x.clamp(1.0, f32::from(LARGEST_MULTIPLIER));
            let (low, high) = (near((wanted / scale).floor()), near((wanted / scale).ceil()));
            let of_high = cost(w, v, high * scale, largest, f32::INFINITY);
            let of_low = if low < high { cost(w, v, low * scale, largest, of_high) } else { of_high };
            let lower = of_low < of_high;
            multipliers.push(if lower { low } else { high } as u8);
            total += f64::from(of_low.min(of_high));
        }
        (multipliers, total)
    }
}

/// Weighted squared error of nearest rounding at this step; some number above `limit` once it is larger than that.
#[inline(always)]
fn cost(w: &[f32], v: &[f32], step: f32, largest: f32, limit: f32) -> f32 {
    let inverse = step.recip();
    let mut total = 0.0;
    for (w, v) in w.chunks(STRETCH).zip(v.chunks(STRETCH)) {
        let mut lanes = [0.0f32; LANES];
        let (ws, vs) = (w.chunks_exact(LANES), v.chunks_exact(LANES));
        let rest = ws.remainder().iter().zip(vs.remainder());
        for (w, v) in ws.zip(vs) {
            for l in 0..LANES {
                lanes[l] += term(w[l], v[l], inverse, step, largest);
            }
        }
        let rest: f32 = rest.map(|(w, v)| term(*w, *v, inverse, step, largest)).sum();
        total += lanes.iter().sum::<f32>() + rest;
        if total > limit {
            return total;
        }
    }
    total
}

#[inline(always)]
fn term(w: f32, v: f32, inverse: f32, step: f32, largest: f32) -> f32 {
    let e = w - symmetric_code(w * inverse, largest) * step;
    v * e * e
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::{GridMatrix, nearest};
    use super::*;
    use crate::numeric::random::Random;

    fn normals(count: usize, seed: u64) -> Vec<f32> {
        let mut random = Random::new(seed);
        (0..count).map(|_| random.normal() as f32).collect()
    }

    /// Weighted error of nearest rounding, in f64.
    fn error(w: &[f32], cols: usize, grid: Grid, weights: &[f32], search: bool) -> f64 {
        let found = scales(w, cols, grid, Some(weights), search);
        let codes = nearest(w, cols, grid, &found);
        let e = GridMatrix::new(grid, cols, codes, found).errors(w);
        e.iter().enumerate().map(|(i, e)| f64::from(*e).powi(2) * f64::from(weights[i % cols])).sum()
    }

    #[test]
    fn the_largest_weight_lies_on_the_largest_code() {
        let w = [0.5, -7.0, 3.0, 1.4, 0.0, 0.7];
        let plain = scales(&w, 3, Grid { bits: 4, block: None }, None, false);
        assert_eq!((plain.scales, plain.multipliers), (vec![1.0, 0.2], vec![]));
        // The first block of the row wants 1.0, the last, a short one, 0.2: three times the scale 1 / 15.
        let grid = Grid { bits: 4, block: Some(3) };
        let blocks = scales(&[0.5, -7.0, 3.0, 1.4], 4, grid, None, false);
        assert_eq!((blocks.scales, blocks.multipliers), (vec![1.0 / 15.0], vec![15, 3]));
    }

    #[test]
    fn zeros_have_scale_and_multiplier_one() {
        let grid = Grid { bits: 4, block: Some(2) };
        for search in [false, true] {
            let found = scales(&[0.0, 0.0, 3.0, 1.0, 0.0, 0.0, 0.0, 0.0], 4, grid, None, search);
            assert_eq!((found.multipliers[0], found.multipliers[2], found.multipliers[3]), (1, 1, 1));
            assert_eq!(found.scales[1], 1.0);
            assert_eq!(scales(&[0.0; 4], 4, Grid { bits: 2, block: None }, None, search).scales, [1.0]);
        }
    }

    #[test]
    fn the_search_clips_where_it_pays_and_weights_decide() {
        let cols = 512;
        let w = normals(8 * cols, 1);
        let even = vec![1.0; cols];
        let ratio = |bits, block| {
            let grid = Grid { bits, block };
            error(&w, cols, grid, &even, true) / error(&w, cols, grid, &even, false)
        };
        // Normal weights, 512 or 128 in a row: measured 0.29, 0.48, 0.69 and 0.89.
        assert!(
            ratio(2, None) < 0.35
                && ratio(3, None) < 0.55
                && ratio(4, None) < 0.8
                && ratio(4, Some(128)) < 0.95
        );
        // One weight that is large and does not count is clipped; one that counts is not.
        let mut row = normals(cols, 2);
        row[5] = 12.0;
        let scale = |weight: f32| {
            let mut weights = even.clone();
            weights[5] = weight;
            scales(&row, cols, Grid { bits: 4, block: None }, Some(&weights), true).scales[0] * 7.0
        };
        assert!(scale(0.0) < 5.0 && scale(1e4) > 11.5, "{} {}", scale(0.0), scale(1e4));
    }

    #[test]
    fn two_levels_cost_little_more_than_float_scales() {
        let cols = 1024;
        let w = normals(16 * cols, 3);
        let even = vec![1.0; cols];
        let tall = w.chunks(128).flat_map(|block| {
            let found = scales(block, 128, Grid { bits: 4, block: None }, None, true);
            let codes = nearest(block, 128, Grid { bits: 4, block: None }, &found);
            GridMatrix::new(Grid { bits: 4, block: None }, 128, codes, found).errors(block)
        });
        let float: f64 = tall.map(|e| f64::from(e).powi(2)).sum();
        let found = error(&w, cols, Grid { bits: 4, block: Some(128) }, &even, true);
        // Measured 1.010.
        assert!(found < 1.02 * float, "{}", found / float);
    }

    proptest! {
        #[test]
        fn scales_are_normal_and_products_fit_int8(
            w in prop::collection::vec(prop::num::f32::NORMAL | prop::num::f32::SUBNORMAL | prop::num::f32::ZERO, 1..70),
            bits in prop::sample::select(vec![2u8, 3, 4]),
            block in prop::option::of(1usize..40),
            search in any::<bool>(),
        ) {
            let grid = Grid { bits, block };
            let found = scales(&w, w.len(), grid, None, search);
            prop_assert!(found.scales.iter().all(|s| s.is_normal() && *s > 0.0));
            prop_assert!(found.multipliers.iter().all(|m| (1..=LARGEST_MULTIPLIER).contains(m)));
            let codes = nearest(&w, w.len(), grid, &found);
            prop_assert!(codes.iter().all(|c| c.abs() <= grid.largest_code()));
            let matrix = GridMatrix::new(grid, w.len(), codes, found);
            prop_assert!(matrix.int8().iter().all(|c| i32::from(*c).abs() <= 105));
        }

        #[test]
        fn a_search_never_costs(seed in 0u64..1000, cols in 1usize..200, bits in prop::sample::select(vec![2u8, 3, 4, 8])) {
            let w = normals(cols, seed);
            let weights: Vec<f32> = normals(cols, seed + 1).iter().map(|x| x * x).collect();
            let grid = Grid { bits, block: None };
            let (plain, searched) = (error(&w, cols, grid, &weights, false), error(&w, cols, grid, &weights, true));
            // The search sums in f32.
            prop_assert!(searched <= plain * (1.0 + 1e-5), "{searched} {plain}");
        }
    }
}
