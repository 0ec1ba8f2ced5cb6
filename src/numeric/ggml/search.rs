//! ggml's searches for the scale of a group, bit for bit (`make_qx_quants`, `make_qkx2_quants`, `make_qkx3_quants`, `make_qp_quants` and
//! `make_q3_quants` of `ggml/src/ggml-quants.c`). Sums run over the values in ggml's order; vectors run over candidates, with the widest
//! vectors of the machine: the operations and their order do not depend on them.

use faer::traits::pulp::{Arch, Simd, WithSimd};

/// Candidates computed together.
const LANES: usize = 8;
/// Largest absolute value that counts as zero (`GROUP_MAX_EPS`).
pub const ZERO: f32 = 1e-15;
/// Most values of a group.
const GROUP: usize = 32;
/// Rounds of the searches that move single codes.
const ROUNDS: usize = 5;

/// The nearest integer, ties to even, by ggml's bits: wrong above 2^22, where ggml is too.
#[inline(always)]
pub fn nearest_int(x: f32) -> i32 {
    ((x + 12_582_912.0).to_bits() & 0x007f_ffff) as i32 - 0x0040_0000
}

/// Towards zero, as a conversion of C does on x86-64: outside of `i32` the least integer.
#[inline(always)]
pub fn truncate(x: f32) -> i32 {
    if x.abs() < 2_147_483_648.0 { x as i32 } else { i32::MIN }
}

/// The value with the largest absolute value, the first of equals.
#[inline(always)]
pub fn extreme(x: &[f32]) -> f32 {
    let largest = x.iter().fold(0.0f32, |m, x| m.max(x.abs()));
    // Of zeros none, so that no sign is found.
    x.iter().copied().find(|x| x.abs() == largest && largest > 0.0).unwrap_or(0.0)
}

/// Scale of `x` with codes in `-largest..largest` and weights `w` of squared errors; the codes are written as stored, from 0
/// (`make_qx_quants`).
pub fn symmetric(x: &[f32], w: &[f32], largest: i32, stored: &mut [u8]) -> f32 {
    Arch::new().dispatch(Symmetric { x, w, largest, stored })
}

/// A call of [`symmetric`]: a closure might not be inlined where the widest vectors are.
struct Symmetric<'a> {
    x: &'a [f32],
    w: &'a [f32],
    largest: i32,
    stored: &'a mut [u8],
}

impl WithSimd for Symmetric<'_> {
    type Output = f32;

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> f32 {
        symmetric_in_vectors(self.x, self.w, self.largest, self.stored)
    }
}

#[inline(always)]
fn symmetric_in_vectors(x: &[f32], w: &[f32], largest: i32, stored: &mut [u8]) -> f32 {
    let extreme = extreme(x);
    if extreme.abs() < ZERO {
        stored[..x.len()].fill(0);
        return 0.0;
    }
    // The first candidate puts the extreme on the lowest code, the others a little beside.
    let mut inverse = [0.0; 3 * LANES];
    inverse[0] = -(largest as f32) / extreme;
    let others = (-9..=9).filter(|i| *i != 0);
    inverse[1..].iter_mut().zip(others).for_each(|(c, i)| *c = -(largest as f32 + 0.1 * i as f32) / extreme);
    let (mut products, mut squares) = ([0.0; 3 * LANES], [0.0; 3 * LANES]);
    for l in (0..3 * LANES).step_by(LANES) {
        let (p, s) = symmetric_sums(x, w, &inverse[l..], largest);
        products[l..][..LANES].copy_from_slice(&p);
        squares[l..][..LANES].copy_from_slice(&s);
    }
    let mut scale = if squares[0] != 0.0 { products[0] / squares[0] } else { 0.0 };
    let (mut best, mut chosen) = (scale * products[0], 0);
    for c in 1..=18 {
        let (product, square) = (products[c], squares[c]);
        if square > 0.0 && product * product > best * square {
            scale = product / square;
            (best, chosen) = (scale * product, c);
        }
    }
    for (code, x) in stored.iter_mut().zip(x) {
        *code = (nearest_int(inverse[chosen] * x).clamp(-largest, largest - 1) + largest) as u8;
    }
    scale
}

/// Weighted sums of values times codes and of squares of codes, for [`LANES`] inverse scales.
#[inline(always)]
fn symmetric_sums(x: &[f32], w: &[f32], inverse: &[f32], largest: i32) -> ([f32; LANES], [f32; LANES]) {
    let (mut products, mut squares) = ([0.0; LANES], [0.0; LANES]);
    let mut own = [0.0; LANES];
    own.copy_from_slice(&inverse[..LANES]);
    for (x, w) in x.iter().zip(w) {
        for l in 0..LANES {
            let code = nearest_int(own[l] * x).clamp(-largest, largest - 1) as f32;
            products[l] += w * x * code;
            squares[l] += w * code * code;
        }
    }
    (products, squares)
}

/// The candidates of [`affine`]: inverse scales `(first + i * step + largest code) / span`.
#[derive(Clone, Copy)]
pub struct Candidates {
    /// Added to the largest code by the first candidate.
    pub first: f32,
    /// Distance of candidates.
    pub step: f32,
    /// Number of candidates less one.
    pub last: usize,
    /// Whether absolute errors count, not squared ones.
    pub absolute: bool,
}

/// Scale and minimum (not above 0, its sign turned) of `x` with codes `0..=largest` and weights `w` of errors; writes the codes
/// (`make_qkx2_quants`, `make_qkx3_quants`).
pub fn affine(x: &[f32], w: &[f32], largest: i32, tried: Candidates, stored: &mut [u8]) -> (f32, f32) {
    Arch::new().dispatch(Affinely { x, w, largest, tried, stored })
}

/// A call of [`affine`].
struct Affinely<'a> {
    x: &'a [f32],
    w: &'a [f32],
    largest: i32,
    tried: Candidates,
    stored: &'a mut [u8],
}

impl WithSimd for Affinely<'_> {
    type Output = (f32, f32);

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> (f32, f32) {
        affine_in_vectors(self.x, self.w, self.largest, self.tried, self.stored)
    }
}

#[inline(always)]
fn affine_in_vectors(x: &[f32], w: &[f32], largest: i32, tried: Candidates, stored: &mut [u8]) -> (f32, f32) {
    let (mut min, mut max) = (x[0], x[0]);
    let (mut sum_w, mut sum_x) = (w[0], w[0] * x[0]);
    for (x, w) in x[1..].iter().zip(&w[1..]) {
        min = if *x < min { *x } else { min };
        max = if *x > max { *x } else { max };
        sum_w += w;
        sum_x += w * x;
    }
    min = if min > 0.0 { 0.0 } else { min };
    if max == min {
        stored[..x.len()].fill(0);
        return (0.0, -min);
    }
    let (mut chosen, mut chosen_min) = (largest as f32 / (max - min), min);
    let mut scale = 1.0 / chosen;
    let mut best = 0.0;
    for (x, w) in x.iter().zip(w) {
        let code = nearest_int(chosen * (x - min)).clamp(0, largest) as f32;
        best += w * distance(scale * code + min - x, tried.absolute);
    }
    // A better candidate moves the minimum that the next ones start from, so those beside it in the vector are computed anew.
    let mut next = 0;
    while next <= tried.last {
        let mut inverse = [0.0; LANES];
        for (l, c) in inverse.iter_mut().enumerate() {
            *c = (tried.first + tried.step * (next + l) as f32 + largest as f32) / (max - min);
        }
        let lanes = Affine { x, w, min, sums: (sum_w, sum_x), largest, absolute: tried.absolute };
        let fits = lanes.fits(&inverse);
        let valid = LANES.min(tried.last + 1 - next);
        let better = (0..valid).find(|l| fits.solvable[*l] && fits.errors[*l] < best);
        next += better.map_or(valid, |l| l + 1);
        if let Some(l) = better {
            (chosen, chosen_min) = (inverse[l], min);
            (best, scale, min) = (fits.errors[l], fits.scales[l], fits.mins[l]);
        }
    }
    for (code, x) in stored.iter_mut().zip(x) {
        *code = nearest_int(chosen * (x - chosen_min)).clamp(0, largest) as u8;
    }
    (scale, -min)
}

#[inline(always)]
fn distance(difference: f32, absolute: bool) -> f32 {
    if absolute { difference.abs() } else { difference * difference }
}

/// What candidates of [`affine`] are computed from.
struct Affine<'a> {
    x: &'a [f32],
    w: &'a [f32],
    min: f32,
    /// Of weights and of weighted values.
    sums: (f32, f32),
    largest: i32,
    absolute: bool,
}

/// The best scale and minimum at the codes of each candidate, and their errors.
struct Fits {
    solvable: [bool; LANES],
    scales: [f32; LANES],
    mins: [f32; LANES],
    errors: [f32; LANES],
}

impl Affine<'_> {
    #[inline(always)]
    fn fits(&self, inverse: &[f32; LANES]) -> Fits {
        let mut codes = [[0.0f32; LANES]; GROUP];
        let (mut l1, mut l2, mut xl) = ([0.0; LANES], [0.0; LANES], [0.0; LANES]);
        for ((x, w), codes) in self.x.iter().zip(self.w).zip(&mut codes) {
            for l in 0..LANES {
                let code = nearest_int(inverse[l] * (x - self.min)).clamp(0, self.largest) as f32;
                codes[l] = code;
                l1[l] += w * code;
                l2[l] += w * code * code;
                xl[l] += w * code * x;
            }
        }
        let (sum_w, sum_x) = self.sums;
        let (none, mut solvable) = ([0.0f32; LANES], [false; LANES]);
        let (mut scales, mut mins, mut errors) = (none, none, none);
        for l in 0..LANES {
            let determinant = sum_w * l2[l] - l1[l] * l1[l];
            solvable[l] = determinant > 0.0;
            scales[l] = (sum_w * xl[l] - sum_x * l1[l]) / determinant;
            mins[l] = (l2[l] * sum_x - l1[l] * xl[l]) / determinant;
            if mins[l] > 0.0 {
                (mins[l], scales[l]) = (0.0, xl[l] / l2[l]);
            }
        }
        for ((x, w), codes) in self.x.iter().zip(self.w).zip(&codes) {
            for l in 0..LANES {
                errors[l] += w * distance(scales[l] * codes[l] + mins[l] - x, self.absolute);
            }
        }
        Fits { solvable, scales, mins, errors }
    }
}

/// Scale of numbers that are mostly positive, with codes `0..=largest` (`make_qp_quants`): the scales or minimums of a block's groups.
pub fn positive(x: &[f32], w: &[f32], largest: i32, stored: &mut [u8]) -> f32 {
    let max = x.iter().fold(0.0, |max: f32, x| if max > *x { max } else { *x });
    if max < ZERO {
        stored[..x.len()].fill(0);
        return 0.0;
    }
    let pairs = || x.iter().zip(w);
    let mut inverse = largest as f32 / max;
    let scale = 1.0 / inverse;
    // Stored codes are bytes: a negative number becomes a large one, here as in ggml.
    let mut best = pairs()
        .fold(0.0, |sum, (x, w)| sum + w_times(*w, x - scale * f32::from(nearest_int(inverse * x) as u8)));
    for i in (-4..=4).filter(|i| *i != 0) {
        let own = (0.1 * i as f32 + largest as f32) / max;
        let scale = 1.0 / own;
        let error = pairs()
            .fold(0.0, |sum, (x, w)| sum + w_times(*w, x - scale * nearest_int(own * x).min(largest) as f32));
        if error < best {
            (best, inverse) = (error, own);
        }
    }
    let (mut products, mut squares) = (0.0, 0.0);
    for ((x, w), code) in pairs().zip(&mut *stored) {
        let own = nearest_int(inverse * x).min(largest);
        *code = own as u8;
        products += w * x * own as f32;
        squares += w * own as f32 * own as f32;
    }
    for _ in 0..ROUNDS {
        let mut changed = false;
        for ((x, w), code) in pairs().zip(&mut *stored) {
            let old = f32::from(*code);
            let (mut product, mut square) = (products - w * x * old, squares - w * old * old);
            if !(product > 0.0 && square > 0.0) {
                continue;
            }
            let new = nearest_int(x * square / product).min(largest);
            if new != i32::from(*code) {
                product += w * x * new as f32;
                square += w * new as f32 * new as f32;
                if product * product * squares > products * products * square {
                    (*code, products, squares, changed) = (new as u8, product, square, true);
                }
            }
        }
        if !changed {
            break;
        }
    }
    if squares > 0.0 { products / squares } else { 0.0 }
}

/// `w e^2` in ggml's order.
#[inline(always)]
fn w_times(w: f32, e: f32) -> f32 {
    w * e * e
}

/// Scale of `x` with codes in `-largest..largest`, squares of the values as weights; single codes are moved while that helps. The codes are
/// written as stored, from 0 (`make_q3_quants`).
pub fn moved(x: &[f32], largest: i32, stored: &mut [u8]) -> f32 {
    let extreme = extreme(x);
    if extreme.abs() < ZERO {
        stored[..x.len()].fill(0);
        return 0.0;
    }
    let inverse = -(largest as f32) / extreme;
    let mut codes = [0; GROUP];
    let (mut products, mut squares) = (0.0, 0.0);
    for (x, code) in x.iter().zip(&mut codes) {
        *code = nearest_int(inverse * x).clamp(-largest, largest - 1);
        let (own, w) = (*code as f32, x * x);
        products += w * x * own;
        squares += w * own * own;
    }
    for _ in 0..ROUNDS {
        let mut changed = false;
        for (x, code) in x.iter().zip(&mut codes) {
            let (old, w) = (*code as f32, x * x);
            let mut product = products - w * x * old;
            if product <= 0.0 || product.is_nan() {
                continue;
            }
            let mut square = squares - w * old * old;
            let new = nearest_int(x * square / product).clamp(-largest, largest - 1);
            if new != *code {
                product += w * x * new as f32;
                square += w * new as f32 * new as f32;
                if square > 0.0 && product * product * squares > products * products * square {
                    (*code, products, squares, changed) = (new, product, square, true);
                }
            }
        }
        if !changed {
            break;
        }
    }
    stored.iter_mut().zip(&codes[..x.len()]).for_each(|(stored, code)| *stored = (code + largest) as u8);
    if squares > 0.0 { products / squares } else { 0.0 }
}
