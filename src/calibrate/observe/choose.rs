//! From a histogram to a static int8 quantizer: the expected error of one, and the choice of one by a rule.

use super::histogram::{Bin, Histogram, Side};
use super::rule::RangeRule;
use crate::numeric::grid::symmetric_scale;
use crate::numeric::quantizer::Quantizer;

/// How far below the extremes clips are searched, in powers of two.
const OCTAVES: u32 = 20;
/// Candidates per power of two of the first scan: one range, and each of two ranges.
const COARSE: [u32; 2] = [8, 2];
/// The refinement ends when its step is this power of two.
const FINEST: f64 = 1.0 / 128.0;
/// Numbers added to and taken from an `f64` below 2^51 to round it, ties to even, without a call.
const ROUND: f64 = 6_755_399_441_055_744.0;
/// Below this width, as a part of its values, a bin is one value: the third powers of its bounds would cancel.
const NARROW: f64 = 1e-6;
/// Bins summed side by side, which lets the compiler use vector instructions.
const LANES: usize = 4;

impl Histogram {
    /// Scale of the quantizer with zero point 0 that `rule` chooses: the chosen clip is the code 127. Always a positive normal number; 1 when nothing
    /// but zeros was seen or a value was not finite. For [`RangeRule::MinMax`] it is exactly [`symmetric_scale`] of [`abs_max`](Self::abs_max).
    pub fn symmetric(&self, rule: RangeRule) -> f32 {
        let whole = self.abs_max();
        let clip = match rule {
            _ if !self.is_finite() => 0.0,
            RangeRule::MinMax => whole,
            RangeRule::Percentile(percent) => usable(self.percentile(Side::Both, percent), whole),
            RangeRule::Mse => {
                let seen = Spectrum::new(self);
                let clip = |ratios: [f64; 2]| (f64::from(whole) * ratios[0]) as f32;
                clip(search([true, false], COARSE[0], |r| seen.error(&Quantizer::symmetric(clip(r)))))
            }
        };
        symmetric_scale(clip)
    }

    /// The quantizer with 256 levels between the ends that `rule` chooses, 0.0 exactly among them. [`RangeRule::Percentile`] takes each end from the
    /// values of its own sign. Scale 1 and zero point 0 when nothing but zeros was seen or a value was not finite.
    pub fn asymmetric(&self, rule: RangeRule) -> Quantizer {
        let (low, high) = (self.min().min(0.0), self.max().max(0.0));
        match rule {
            _ if !self.is_finite() => Quantizer::between(0.0, 0.0),
            RangeRule::MinMax => Quantizer::between(low, high),
            RangeRule::Percentile(percent) => {
                let below = usable(self.percentile(Side::Negative, percent), -low);
                let above = usable(self.percentile(Side::Positive, percent), high);
                Quantizer::between(-below, above)
            }
            RangeRule::Mse => {
                let seen = Spectrum::new(self);
                let part = |end: f32, ratio: f64| (f64::from(end) * ratio) as f32;
                let between = |r: [f64; 2]| Quantizer::between(part(low, r[0]), part(high, r[1]));
                between(search([low < 0.0, high > 0.0], COARSE[1], |r| seen.error(&between(r))))
            }
        }
    }

    /// The quantizer of `rule`: the symmetric one, unless its expected error is more than `factor` times that of the asymmetric one.
    pub fn quantizer(&self, rule: RangeRule, factor: f64) -> Quantizer {
        let symmetric = Quantizer { scale: self.symmetric(rule), zero: 0 };
        let asymmetric = self.asymmetric(rule);
        let seen = Spectrum::new(self);
        if is_worth_a_zero_point(seen.error(&symmetric), seen.error(&asymmetric), factor) {
            asymmetric
        } else {
            symmetric
        }
    }

    /// Mean squared error of rounding and clipping under this histogram, values uniform inside a bin; 0 before any value.
    pub fn error(&self, q: &Quantizer) -> f64 {
        Spectrum::new(self).error(q)
    }
}

/// Whether an asymmetric quantizer is chosen: its error is lower by more than `factor`, in mean squares.
pub fn is_worth_a_zero_point(symmetric: f64, asymmetric: f64, factor: f64) -> bool {
    symmetric > asymmetric * factor
}

/// `clip`, or the `largest` magnitude where the clip is too small for a scale: more than the percentage asked for are zeros.
fn usable(clip: f64, largest: f32) -> f32 {
    if (clip as f32 / 127.0).is_normal() { clip as f32 } else { largest }
}

/// A histogram as [`error`](Self::error) wants it.
struct Spectrum {
    /// Bins with a width: bounds and values per unit, padded with bins of weight 0 to whole groups.
    spread: Vec<[[f64; LANES]; 3]>,
    /// Bins that their cut left without a width: value and how many.
    points: Vec<[f64; 2]>,
    /// Values in all.
    count: f64,
}

impl Spectrum {
    fn new(h: &Histogram) -> Self {
        let (narrow, wide): (Vec<Bin>, Vec<Bin>) =
            h.bins().into_iter().partition(|b| b.high - b.low <= NARROW * b.high.abs().max(b.low.abs()));
        let group = |bins: &[Bin]| {
            let mut lanes = [[0.0; LANES]; 3];
            for (i, b) in bins.iter().enumerate() {
                (lanes[0][i], lanes[1][i], lanes[2][i]) = (b.low, b.high, b.count / (b.high - b.low));
            }
            lanes
        };
        Self {
            count: narrow.iter().chain(&wide).map(|b| b.count).sum(),
            points: narrow.iter().map(|b| [(b.low + b.high) / 2.0, b.count]).collect(),
            spread: wide.chunks(LANES).map(group).collect(),
        }
    }

    /// Mean squared error, 0 without any value.
    ///
    /// In steps, `t = x / scale`, the integral of `(t - n)^2` from 0, with `n` the code that `t` is rounded and clamped to, is
    /// `n / 12 + (t - n)^3 / 3`: whole steps have 1/12 each, and the last one, or the part beyond the last code, has the cube. So a bin
    /// takes two evaluations, clipped or not.
    fn error(&self, q: &Quantizer) -> f64 {
        let (lowest, highest) = (-128.0 - f64::from(q.zero), 127.0 - f64::from(q.zero));
        let nearest = |t: f64| (t.max(lowest).min(highest) + ROUND) - ROUND;
        let integral = |t: f64| {
            let n = nearest(t);
            let d = t - n;
            n * (1.0 / 12.0) + d * d * d * (1.0 / 3.0)
        };
        let scale = f64::from(q.scale);
        let steps = 1.0 / scale;
        let mut sums = [0.0; LANES];
        for [low, high, weight] in &self.spread {
            for i in 0..LANES {
                sums[i] += weight[i] * (integral(high[i] * steps) - integral(low[i] * steps));
            }
        }
        let spread = sums.iter().sum::<f64>() * scale;
        let point = |[x, count]: &[f64; 2]| count * (x * steps - nearest(x * steps)).powi(2);
        let sum = spread + self.points.iter().map(point).sum::<f64>();
        if self.count > 0.0 { sum / self.count * scale * scale } else { 0.0 }
    }
}

/// The ratios in (0, 1] of least `cost`: the best of a geometric grid over [`OCTAVES`], then moves to the best neighbour with halving steps.
/// A ratio that is not `free` stays 1. Of equal costs the largest ratios are taken.
fn search(free: [bool; 2], per_octave: u32, cost: impl Fn([f64; 2]) -> f64) -> [f64; 2] {
    let grid = |free: bool| if free { OCTAVES * per_octave } else { 0 };
    let at = |e: [f64; 2]| e.map(|e: f64| (-e).exp2());
    let mut best = (f64::INFINITY, [0.0; 2]);
    for i in 0..=grid(free[0]) {
        for j in 0..=grid(free[1]) {
            let exponents = [i, j].map(|n| f64::from(n) / f64::from(per_octave));
            let c = cost(at(exponents));
            if c < best.0 {
                best = (c, exponents);
            }
        }
    }
    let mut step = 0.5 / f64::from(per_octave);
    while step >= FINEST {
        let moves = |free: bool| if free { &[0.0, -1.0, 1.0][..] } else { &[0.0][..] };
        let before = best;
        for di in moves(free[0]) {
            for dj in moves(free[1]) {
                let exponents = [before.1[0] + di * step, before.1[1] + dj * step].map(|e: f64| e.max(0.0));
                let c = cost(at(exponents));
                if c < best.0 {
                    best = (c, exponents);
                }
            }
        }
        if best.0 >= before.0 {
            step /= 2.0;
        }
    }
    at(best.1)
}
