//! Scales of blocks that cost least: the weighted squared error of nearest rounding decides. ggml's own scales are where the search
//! starts, so it never ends above them.
//!
//! Each group first gets the step and offset that it would like to have, by candidates that clip more or less of its values, each with the least-squares
//! step and offset at its codes. Then the block's scale and minimum are set by the largest of them, each group takes the best of the
//! integers beside its wish, and the block's scale and minimum are fitted to all codes; that is repeated. Every cost is that of the numbers as stored.

use faer::traits::pulp::Arch;
use rayon::prelude::*;

use super::bits::to_half;
use super::codec::{Codec, GROUPS, Head, VALUES};
use super::search::extreme;
use super::super_block::range;
use super::{BlockError, BlockMatrix, BlockType, dispatch, float_error, reference};
use crate::numeric::lattice::nearest_code;

/// Candidates computed together.
const LANES: usize = 8;
/// Shares of a group's range that the codes span; beyond it values are clipped.
const SHARES: [f32; LANES] = [1.0, 0.95, 0.9, 0.85, 0.8, 0.72, 0.64, 0.56];
/// Steps beside a good one.
const NEAR: [f32; LANES] = [1.0, 0.995, 1.005, 0.985, 1.015, 0.97, 1.03, 1.05];
/// Times that codes and scales are fitted to each other.
const ROUNDS: usize = 3;

/// Numbers of the candidates.
type Lanes = [f32; LANES];

/// `w`, `[rows, cols]` row-major, in blocks whose scales cost least when a squared error of column `j` weighs `weights[j]` (finite, not
/// negative); rounded to nearest.
pub fn fitted(
    w: &[f32],
    (rows, cols): (usize, usize),
    kind: BlockType,
    weights: &[f32],
) -> Result<BlockMatrix, BlockError> {
    let mut blocks = reference(w, (rows, cols), kind, None)?;
    let weights = relative(weights);
    let row_bytes = blocks.row_bytes().max(1);
    blocks.bytes.par_chunks_mut(row_bytes).zip(w.par_chunks(cols.max(1))).try_for_each(|(out, x)| {
        dispatch!(kind, fit_row(x, &weights, out), return Err(float_error(kind)));
        Ok(())
    })?;
    Ok(blocks)
}

/// The weights over their mean, so that no product of a search overflows or vanishes.
fn relative(weights: &[f32]) -> Vec<f32> {
    let mean = weights.iter().map(|v| f64::from(*v)).sum::<f64>() / weights.len().max(1) as f64;
    let even = |v: &f32| if mean > 0.0 { (f64::from(*v) / mean) as f32 } else { 1.0 };
    weights.iter().map(even).collect()
}

/// Fits the scales of a row that holds ggml's rounding, with the widest vectors of the machine.
fn fit_row<C: Codec>(x: &[f32], v: &[f32], out: &mut [u8]) {
    Arch::new().dispatch(|| {
        let blocks = out.chunks_exact_mut(C::BYTES).zip(x.chunks_exact(C::VALUES));
        for ((out, x), v) in blocks.zip(v.chunks_exact(C::VALUES)) {
            let fit = Fit { x, v };
            if let Some(head) = fit.best::<C>(&C::head(out)) {
                C::set_head(&head, out);
                C::set_codes(&fit.stored::<C>(&head)[..C::VALUES], out);
            }
        }
    });
}

/// Step and offset that a group would like to have.
#[derive(Clone, Copy, Default)]
struct Wish {
    step: f32,
    offset: f32,
}

/// A block's values and the weights of their squared errors.
struct Fit<'a> {
    x: &'a [f32],
    v: &'a [f32],
}

impl Fit<'_> {
    /// The scales that cost least, if they cost less than `start`.
    #[inline(always)]
    fn best<C: Codec>(&self, start: &Head) -> Option<Head> {
        let mut wishes = [Wish::default(); GROUPS];
        let groups = self.x.chunks_exact(C::GROUP).zip(self.v.chunks_exact(C::GROUP));
        for (wish, (x, v)) in wishes.iter_mut().zip(groups) {
            *wish = if C::OFFSETS { affine::<C>(x, v) } else { symmetric::<C>(x, v) };
        }
        let mut least = self.total::<C>(start);
        let mut found = None;
        for mut head in [spanned::<C>(&wishes), *start] {
            for _ in 0..ROUNDS {
                self.assign::<C>(&wishes, &mut head);
                let cost = self.total::<C>(&head);
                if cost < least {
                    (least, found) = (cost, Some(head));
                }
                self.refit::<C>(&mut head);
            }
        }
        found
    }

    /// Values and weights by group.
    #[inline(always)]
    fn groups<C: Codec>(&self) -> impl Iterator<Item = (usize, (&[f32], &[f32]))> {
        self.x.chunks_exact(C::GROUP).zip(self.v.chunks_exact(C::GROUP)).enumerate()
    }

    /// What nearest rounding costs with these scales.
    #[inline(always)]
    fn total<C: Codec>(&self, head: &Head) -> f32 {
        self.groups::<C>().fold(0.0, |total, (g, (x, v))| {
            let (step, offset) = (C::step(head, g), C::offset(head, g));
            let mut lanes = [0.0; LANES];
            for (x, v) in x.chunks_exact(LANES).zip(v.chunks_exact(LANES)) {
                for l in 0..LANES {
                    let e = x[l] - (code::<C>(x[l] - offset, step) * step + offset);
                    lanes[l] += v[l] * e * e;
                }
            }
            total + lanes.iter().sum::<f32>()
        })
    }

    /// Gives each group the integers beside its wish that cost least.
    #[inline(always)]
    fn assign<C: Codec>(&self, wishes: &[Wish; GROUPS], head: &mut Head) {
        let Some((low, high)) = C::SCALES else { return };
        for (g, (x, v)) in self.groups::<C>() {
            let step = below(wishes[g].step, head.d);
            let min = below(-wishes[g].offset, head.m);
            let (mut steps, mut offsets, mut integers) = ([0.0; LANES], [0.0; LANES], [(0, 0); LANES]);
            for l in 0..LANES {
                // With minimums two scales by four of them, else eight scales.
                let (s, m) = if C::OFFSETS {
                    (step + l as i16 % 2, min - 1 + l as i16 / 2)
                } else {
                    (step - 3 + l as i16, 0)
                };
                integers[l] = (s.clamp(low, high), m.clamp(0, high));
                steps[l] = head.d * f32::from(integers[l].0);
                offsets[l] = -(head.m * f32::from(integers[l].1));
            }
            let costs = costs::<C>(x, v, &steps, &offsets);
            let best = (0..LANES).fold(0, |best, l| if costs[l] < costs[best] { l } else { best });
            (head.scales[g], head.mins[g]) = integers[best];
        }
    }

    /// Sets the block's scale and minimum to what is best at the codes and integers as they are.
    #[inline(always)]
    fn refit<C: Codec>(&self, head: &mut Head) {
        // Values are d a + m b. Sums of a a, a b, b b, x a, x b with weights.
        let mut sums = [0.0f64; 5];
        for (g, (x, v)) in self.groups::<C>() {
            let (step, offset) = (C::step(head, g), C::offset(head, g));
            let mut lanes = [[0.0f32; LANES]; 5];
            for (x, v) in x.chunks_exact(LANES).zip(v.chunks_exact(LANES)) {
                for l in 0..LANES {
                    let c = code::<C>(x[l] - offset, step);
                    let terms = [c * c, c, 1.0, x[l] * c, x[l]];
                    (0..5).for_each(|t| lanes[t][l] += v[l] * terms[t]);
                }
            }
            let (scale, min) = match C::SCALES {
                Some(_) => (f64::from(head.scales[g]), -f64::from(head.mins[g])),
                None => (1.0, 1.0),
            };
            let factors = [scale * scale, scale * min, min * min, scale, min];
            (0..5).for_each(|t| sums[t] += factors[t] * f64::from(lanes[t].iter().sum::<f32>()));
        }
        let [aa, ab, bb, xa, xb] = sums;
        let determinant = aa * bb - ab * ab;
        let (d, m) = if C::OFFSETS && determinant > 0.0 {
            ((xa * bb - xb * ab) / determinant, (xb * aa - xa * ab) / determinant)
        } else {
            (if aa > 0.0 { (xa - ab * f64::from(head.m)) / aa } else { f64::from(head.d) }, f64::from(head.m))
        };
        (head.d, head.m) = (to_half(d as f32), to_half(m as f32));
    }

    /// Codes by nearest rounding with these scales, as stored.
    #[inline(always)]
    fn stored<C: Codec>(&self, head: &Head) -> [u8; VALUES] {
        let mut stored = [0; VALUES];
        for (g, (stored, x)) in
            stored.chunks_exact_mut(C::GROUP).zip(self.x.chunks_exact(C::GROUP)).enumerate()
        {
            let (step, offset) = (C::step(head, g), C::offset(head, g));
            for (stored, x) in stored.iter_mut().zip(x) {
                *stored = (code::<C>(x - offset, step) as i16 + C::BIAS) as u8;
            }
        }
        stored
    }
}

#[inline(always)]
fn code<C: Codec>(x: f32, step: f32) -> f32 {
    nearest_code(x / step, (f32::from(C::CODES.0), f32::from(C::CODES.1)))
}

/// The integer at or below `wish / unit`; 0 without a unit.
#[inline(always)]
fn below(wish: f32, unit: f32) -> i16 {
    if unit == 0.0 { 0 } else { (wish / unit).floor() as i16 }
}

/// The scales of a block whose largest group has the largest integer. Integers are still to be set.
#[inline(always)]
fn spanned<C: Codec>(wishes: &[Wish; GROUPS]) -> Head {
    let wishes = &wishes[..C::VALUES / C::GROUP];
    let Some((lowest, highest)) = C::SCALES else {
        return Head { d: to_half(wishes[0].step), m: to_half(wishes[0].offset), ..Head::default() };
    };
    let extreme = wishes.iter().fold(0.0f32, |m, w| if w.step.abs() > m.abs() { w.step } else { m });
    let min = wishes.iter().fold(0.0f32, |m, w| m.max(-w.offset));
    let top = f32::from(if C::OFFSETS { highest } else { lowest });
    Head { d: to_half(extreme / top), m: to_half(min / f32::from(highest)), ..Head::default() }
}

/// What nearest rounding of a group costs with each step and offset.
#[inline(always)]
fn costs<C: Codec>(x: &[f32], v: &[f32], steps: &Lanes, offsets: &Lanes) -> Lanes {
    let mut costs = [0.0; LANES];
    for (x, v) in x.iter().zip(v) {
        for l in 0..LANES {
            let e = x - (code::<C>(x - offsets[l], steps[l]) * steps[l] + offsets[l]);
            costs[l] += v * e * e;
        }
    }
    costs
}

/// The best step of a group without an offset: its extreme value on the lowest or the highest code or beyond, then steps close to the best of these.
#[inline(always)]
fn symmetric<C: Codec>(x: &[f32], v: &[f32]) -> Wish {
    let extreme = extreme(x);
    let (mut best, mut most) = (0.0, 0.0);
    let mut take = |steps: Lanes| {
        let (mut products, mut squares) = ([0.0; LANES], [0.0; LANES]);
        for (x, v) in x.iter().zip(v) {
            for l in 0..LANES {
                let c = code::<C>(*x, steps[l]);
                products[l] += v * x * c;
                squares[l] += v * c * c;
            }
        }
        for l in 0..LANES {
            let step = products[l] / squares[l];
            // What the step takes off the weighted square of the values.
            if step * products[l] > most {
                (best, most) = (step, step * products[l]);
            }
        }
        best
    };
    take(SHARES.map(|share| share * extreme / f32::from(C::CODES.0)));
    let near = take(SHARES.map(|share| share * extreme / f32::from(C::CODES.1)));
    Wish { step: take(NEAR.map(|share| share * near)), offset: 0.0 }
}

/// The best step and offset of a group: its ends on the lowest and the highest code or beyond. Types with two levels have no offsets above 0.
#[inline(always)]
fn affine<C: Codec>(x: &[f32], v: &[f32]) -> Wish {
    let signed = C::SCALES.is_none();
    let (low, high) = range(x);
    let low = if signed { low } else { low.min(0.0) };
    let (mut sum, mut sum_x) = (0.0, 0.0);
    for (x, v) in x.iter().zip(v) {
        sum += v;
        sum_x += v * x;
    }
    let (mut best, mut most) = (Wish { step: 0.0, offset: low }, f32::NEG_INFINITY);
    for share in SHARES.iter().step_by(2) {
        let (mut c1, mut c2, mut xc) = ([0.0; LANES], [0.0; LANES], [0.0; LANES]);
        // Shares of the distance from the middle, so that offsets that are far from 0 are no different.
        let middle = 0.5 * (low + high);
        let start = middle + (low - middle) * share;
        let steps = SHARES.map(|end| (middle + (high - middle) * end - start) / f32::from(C::CODES.1));
        for (x, v) in x.iter().zip(v) {
            for l in 0..LANES {
                let c = code::<C>(x - start, steps[l]);
                c1[l] += v * c;
                c2[l] += v * c * c;
                xc[l] += v * x * c;
            }
        }
        for l in 0..LANES {
            let determinant = sum * c2[l] - c1[l] * c1[l];
            let mut step = (sum * xc[l] - sum_x * c1[l]) / determinant;
            let mut offset = (c2[l] * sum_x - c1[l] * xc[l]) / determinant;
            if offset > 0.0 && !signed {
                (step, offset) = (xc[l] / c2[l], 0.0);
            }
            let gain = step * xc[l] + offset * sum_x;
            if determinant > 0.0 && gain > most {
                (best, most) = (Wish { step, offset }, gain);
            }
        }
    }
    best
}
