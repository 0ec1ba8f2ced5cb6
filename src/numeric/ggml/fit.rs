//! Scales of blocks that are best for GPTQ. ggml's own scales are where the search starts, so it never ends above their cost.
//!
//! GPTQ moves a value before it rounds it, by the errors of the columns before. With errors spread evenly over a step their sum has, in squared steps, the
//! variance `t = sum_{i<j} R[i,j]^2 / R[j,j]^2 / 12`. Such a normal shift leaves the share `exp(-2 pi^2 t)` of what is known of the distance from the
//! lattice (the first term of the Fourier series of the rounding error); for the rest, the expected squared error is a twelfth of the squared step
//! and the square of what is clipped. Scales that fit the values as they are would win what GPTQ loses again.
//!
//! Each group first gets the step and offset that it would like to have. Then the block's scale and minimum are set by the largest of them, each group
//! takes the best of the integers beside its wish, and the block's scale and minimum are fitted to all codes; that is repeated. Every cost is that of
//! the numbers as stored.

use faer::traits::pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use super::bits::to_half;
use super::codec::{Codec, GROUPS, Head, VALUES};
use super::search::extreme;
use super::super_block::range;
use super::{BlockError, BlockMatrix, BlockType, dispatch, float_error, reference};
use crate::numeric::factor::Factor;
use crate::numeric::lattice::nearest_code;

/// Candidates computed together.
const LANES: usize = 8;
/// Shares of a group's range that the codes span; beyond it values are clipped.
const SHARES: [Lanes; 2] =
    [[1.0, 0.98, 0.95, 0.9, 0.85, 0.8, 0.72, 0.64], [1.04, 1.02, 0.96, 0.93, 0.88, 0.83, 0.76, 0.56]];
/// The same for each end of a group that has a step and an offset.
const ENDS: Lanes = [1.03, 1.0, 0.96, 0.92, 0.87, 0.81, 0.73, 0.6];
/// Steps beside a good one.
const NEAR: Lanes = [1.0, 0.995, 1.005, 0.985, 1.015, 0.97, 1.03, 1.05];
/// Times that codes and scales are fitted to each other.
const ROUNDS: usize = 3;

/// Numbers of the candidates.
type Lanes = [f32; LANES];

/// What an error of a column costs, and what GPTQ will do to the column's value before it is rounded.
#[derive(Clone, Copy)]
struct Column {
    /// Weight of the squared error.
    weight: f32,
    /// How much of the distance from the lattice is still known when the column is rounded, in `[0, 1]`.
    known: f32,
}

/// `w`, `[rows, cols]` row-major, in blocks whose scales are best for GPTQ with this factor; rounded to nearest.
pub(in crate::numeric) fn fitted(
    w: &[f32],
    (rows, cols): (usize, usize),
    kind: BlockType,
    factor: &Factor,
) -> Result<BlockMatrix, BlockError> {
    let mut blocks = reference(w, (rows, cols), kind, None)?;
    let columns = columns(factor);
    let row_bytes = blocks.row_bytes().max(1);
    blocks.bytes.par_chunks_mut(row_bytes).zip(w.par_chunks(cols.max(1))).try_for_each(|(out, x)| {
        dispatch!(kind, fit_row(x, &columns, out), return Err(float_error(kind)));
        Ok(())
    })?;
    Ok(blocks)
}

fn columns(factor: &Factor) -> Vec<Column> {
    let n = factor.channels();
    let mean = factor.pivots().iter().map(|v| f64::from(*v)).sum::<f64>() / n.max(1) as f64;
    let mut columns = vec![Column { weight: 1.0, known: 1.0 }; n];
    for (j, at) in factor.order().iter().enumerate() {
        let pivot = f64::from(factor.pivots()[*at]);
        let before: f64 = factor.column(j)[..j].iter().map(|r| f64::from(*r).powi(2)).sum();
        let known = (-2.0 * std::f64::consts::PI.powi(2) * before / pivot / 12.0).exp();
        // Over their mean, so that no product of the search overflows or vanishes.
        columns[*at] = Column { weight: (pivot / mean) as f32, known: known as f32 };
    }
    columns
}

/// Fits the scales of a row that holds ggml's rounding.
fn fit_row<C: Codec>(x: &[f32], columns: &[Column], out: &mut [u8]) {
    let blocks = out.chunks_exact_mut(C::BYTES).zip(x.chunks_exact(C::VALUES));
    for ((out, x), columns) in blocks.zip(columns.chunks_exact(C::VALUES)) {
        let fit = Fit { x, columns };
        if let Some(head) = fit.best::<C>(&C::head(out)) {
            C::set_head(&head, out);
            C::set_codes(&fit.stored::<C>(&head)[..C::VALUES], out);
        }
    }
}

/// Step and offset that a group would like to have.
#[derive(Clone, Copy, Default)]
struct Wish {
    step: f32,
    offset: f32,
}

/// A block's values and their columns.
struct Fit<'a> {
    x: &'a [f32],
    columns: &'a [Column],
}

impl Fit<'_> {
    /// The scales that cost least, if they cost less than `start`.
    fn best<C: Codec>(&self, start: &Head) -> Option<Head> {
        let mut wishes = [Wish::default(); GROUPS];
        for (wish, (_, (x, v))) in wishes.iter_mut().zip(self.groups::<C>()) {
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
    fn groups<C: Codec>(&self) -> impl Iterator<Item = (usize, (&[f32], &[Column]))> {
        self.x.chunks_exact(C::GROUP).zip(self.columns.chunks_exact(C::GROUP)).enumerate()
    }

    /// What nearest rounding costs with these scales.
    fn total<C: Codec>(&self, head: &Head) -> f32 {
        let arch = Arch::new();
        let cost = |(g, (x, columns)): (usize, (&[f32], &[Column]))| {
            let (step, offset, limits) = (C::step(head, g), C::offset(head, g), limits::<C>());
            arch.dispatch(GroupCost { x, columns, step, offset, limits })
        };
        self.groups::<C>().map(cost).sum()
    }

    /// Gives each group the integers beside its wish that cost least.
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
            let costs = costs(x, v, &steps, &offsets, limits::<C>());
            let best = (0..LANES).fold(0, |best, l| if costs[l] < costs[best] { l } else { best });
            (head.scales[g], head.mins[g]) = integers[best];
        }
    }

    /// Sets the block's scale and minimum to what is best at the codes and integers as they are.
    fn refit<C: Codec>(&self, head: &mut Head) {
        // Values are d a + m b. Sums of a a, a b, b b, x a, x b with weights.
        let mut sums = [0.0f64; 5];
        for (g, (x, v)) in self.groups::<C>() {
            let (step, offset) = (C::step(head, g), C::offset(head, g));
            let own = Arch::new().dispatch(Sums { x, columns: v, step, offset, limits: limits::<C>() });
            let (scale, min) = match C::SCALES {
                Some(_) => (f64::from(head.scales[g]), -f64::from(head.mins[g])),
                None => (1.0, 1.0),
            };
            let factors = [scale * scale, scale * min, min * min, scale, min];
            (0..5).for_each(|t| sums[t] += factors[t] * f64::from(own[t]));
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
    fn stored<C: Codec>(&self, head: &Head) -> [u8; VALUES] {
        let mut stored = [0; VALUES];
        for (g, (stored, x)) in
            stored.chunks_exact_mut(C::GROUP).zip(self.x.chunks_exact(C::GROUP)).enumerate()
        {
            let (step, offset) = (C::step(head, g), C::offset(head, g));
            for (stored, x) in stored.iter_mut().zip(x) {
                *stored = (nearest_code((x - offset) / step, limits::<C>()) as i16 + C::BIAS) as u8;
            }
        }
        stored
    }
}

/// Lowest and highest code.
fn limits<C: Codec>() -> (f32, f32) {
    (f32::from(C::CODES.0), f32::from(C::CODES.1))
}

/// The integer at or below `wish / unit`, of a size that may be added to; 0 without a unit.
fn below(wish: f32, unit: f32) -> i16 {
    if unit == 0.0 { 0 } else { (wish / unit).floor().clamp(-999.0, 999.0) as i16 }
}

/// The scales of a block whose largest group has the largest integer. Integers are still to be set.
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

/// What a group costs with each step and offset.
fn costs(x: &[f32], columns: &[Column], steps: &Lanes, offsets: &Lanes, limits: (f32, f32)) -> Lanes {
    Arch::new().dispatch(Costs { x, columns, steps, offsets, limits })
}

/// A call of [`costs`]: a closure might not be inlined where the widest vectors are.
struct Costs<'a> {
    x: &'a [f32],
    columns: &'a [Column],
    steps: &'a Lanes,
    offsets: &'a Lanes,
    limits: (f32, f32),
}

impl WithSimd for Costs<'_> {
    type Output = Lanes;

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> Lanes {
        let (mut costs, steps, offsets) = ([0.0; LANES], *self.steps, *self.offsets);
        for (x, column) in self.x.iter().zip(self.columns) {
            for l in 0..LANES {
                costs[l] += cost(*x, *column, steps[l], offsets[l], self.limits);
            }
        }
        costs
    }
}

/// Weighted sums over a group at one step and offset, with `c` the nearest code: of `c c`, `c`, `1`, `x c` and `x`.
struct Sums<'a> {
    x: &'a [f32],
    columns: &'a [Column],
    step: f32,
    offset: f32,
    limits: (f32, f32),
}

impl WithSimd for Sums<'_> {
    type Output = [f32; 5];

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> [f32; 5] {
        let mut lanes = [[0.0f32; LANES]; 5];
        for (x, columns) in self.x.chunks_exact(LANES).zip(self.columns.chunks_exact(LANES)) {
            for l in 0..LANES {
                let (x, weight) = (x[l], columns[l].weight);
                let c = nearest_code((x - self.offset) / self.step, self.limits);
                lanes[0][l] += weight * c * c;
                lanes[1][l] += weight * c;
                lanes[2][l] += weight;
                lanes[3][l] += weight * x * c;
                lanes[4][l] += weight * x;
            }
        }
        lanes.map(|lanes| lanes.iter().sum())
    }
}

/// What a group costs at one step and offset.
struct GroupCost<'a> {
    x: &'a [f32],
    columns: &'a [Column],
    step: f32,
    offset: f32,
    limits: (f32, f32),
}

impl WithSimd for GroupCost<'_> {
    type Output = f32;

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> f32 {
        let mut lanes = [0.0; LANES];
        for (x, columns) in self.x.chunks_exact(LANES).zip(self.columns.chunks_exact(LANES)) {
            for l in 0..LANES {
                lanes[l] += cost(x[l], columns[l], self.step, self.offset, self.limits);
            }
        }
        lanes.iter().sum()
    }
}

/// What a value costs with this step and offset.
#[inline(always)]
fn cost(x: f32, column: Column, step: f32, offset: f32, (lowest, highest): (f32, f32)) -> f32 {
    // At a step of zero nothing is rounded and all is known.
    let (at, known) = if step == 0.0 { (0.0, 1.0) } else { ((x - offset) / step, column.known) };
    let e = x - (nearest_code(at, (lowest, highest)) * step + offset);
    let clipped = (at - highest).max(lowest - at).max(0.0);
    column.weight * (known * e * e + (1.0 - known) * step * step * (1.0 / 12.0 + clipped * clipped))
}

/// The best step of a group without an offset: its extreme value on the lowest or the highest code or beyond, then steps close to the best of these.
fn symmetric<C: Codec>(x: &[f32], v: &[Column]) -> Wish {
    let extreme = extreme(x);
    let (mut best, mut least) = (0.0, f32::INFINITY);
    let mut take = |steps: Lanes| {
        let costs = costs(x, v, &steps, &[0.0; LANES], limits::<C>());
        for l in 0..LANES {
            if costs[l] < least {
                (best, least) = (steps[l], costs[l]);
            }
        }
        best
    };
    let mut near = 0.0;
    for end in [C::CODES.0, C::CODES.1] {
        for shares in SHARES {
            near = take(shares.map(|share| share * extreme / f32::from(end)));
        }
    }
    Wish { step: take(NEAR.map(|share| share * near)), offset: 0.0 }
}

/// The best step and offset of a group: its ends on the lowest and the highest code or beyond. Types with two levels have no offsets above 0.
fn affine<C: Codec>(x: &[f32], v: &[Column]) -> Wish {
    let (low, high) = range(x);
    let low = if C::SCALES.is_none() { low } else { low.min(0.0) };
    let top = f32::from(C::CODES.1);
    let mut best = Wish { step: 0.0, offset: low };
    let mut least = f32::INFINITY;
    let mut take = |starts: Lanes, steps: Lanes| {
        let starts = if C::SCALES.is_none() { starts } else { starts.map(|s| s.min(0.0)) };
        let costs = costs(x, v, &steps, &starts, limits::<C>());
        for l in 0..LANES {
            if costs[l] < least {
                (best, least) = (Wish { step: steps[l], offset: starts[l] }, costs[l]);
            }
        }
        best
    };
    let middle = 0.5 * (low + high);
    let mut near = Wish::default();
    for share in ENDS {
        let start = middle + (low - middle) * share;
        near = take([start; LANES], ENDS.map(|end| (middle + (high - middle) * end - start) / top));
    }
    for _ in 0..2 {
        let moved = NEAR.map(|share| near.offset + near.step * (share - 1.0) * 0.5 * top);
        near = take(moved, [near.step; LANES]);
        near = take([near.offset; LANES], NEAR.map(|share| share * near.step));
        let lows = NEAR.map(|share| near.offset + near.step * top * (share - 1.0));
        near = take(lows, lows.map(|low| (near.offset + near.step * top - low) / top));
    }
    near
}
