//! ggml's rounding of blocks of 256 values whose groups have integer scales (`ggml/src/ggml-quants.c`): what is the same for several types.

use super::bits::to_half;
use super::codec::{Block, Codec, GROUPS, VALUES, one_level, requantize};
use super::search::{Candidates, ZERO, affine, nearest_int, positive, symmetric};

/// The candidates of ggml's affine searches with importance.
const IMPORTANT: Candidates = Candidates { first: -0.9, step: 0.05, last: 36, absolute: false };

/// Sum of squares in order.
#[inline(always)]
pub fn squares(x: &[f32]) -> f32 {
    x.iter().fold(0.0, |sum, x| sum + x * x)
}

/// Weights of a group that grow with the values: the mean square's root plus the absolute value.
#[inline(always)]
pub fn by_size(x: &[f32], w: &mut [f32]) {
    let mean = (squares(x) / x.len() as f32).sqrt();
    w.iter_mut().zip(x).for_each(|(w, x)| *w = mean + x.abs());
}

/// Importance of a group times the root of a mean square plus the square of the value.
#[inline(always)]
pub fn by_importance(x: &[f32], v: &[f32], mean_square: f32, w: &mut [f32]) {
    w.iter_mut().zip(x.iter().zip(v)).for_each(|(w, (x, v))| *w = v * (mean_square + x * x).sqrt());
}

/// A block with scales and minimums of 6 bits, without importance: the groups' own best, over the largest of them.
#[inline(always)]
pub fn sixes_nearest<C: Codec>(x: &[f32], tried: Candidates) -> Block {
    let (mut block, mut w) = (Block::default(), [0.0; 32]);
    let (mut scales, mut mins) = ([0.0f32; GROUPS], [0.0f32; GROUPS]);
    let groups = x.chunks_exact(C::GROUP).zip(block.codes.chunks_exact_mut(C::GROUP)).enumerate();
    for (g, (x, codes)) in groups {
        by_size(x, &mut w);
        (scales[g], mins[g]) = affine(x, &w, i32::from(C::CODES.1), tried, codes);
    }
    let largest = |x: &[f32]| x.iter().fold(0.0, |max: f32, x| if *x > max { *x } else { max });
    let of = |x: f32, max: f32| {
        let inverse = if max > 0.0 { 63.0 / max } else { 0.0 };
        i16::from((nearest_int(inverse * x) as u8).min(63))
    };
    let (top_scale, top_min) = (largest(&scales), largest(&mins));
    for g in 0..C::VALUES / C::GROUP {
        block.head.scales[g] = of(scales[g], top_scale);
        block.head.mins[g] = of(mins[g], top_min);
    }
    (block.head.d, block.head.m) = (to_half(top_scale / 63.0), to_half(top_min / 63.0));
    requantize::<C>(x, &mut block);
    block
}

/// A block with scales and minimums in `0..=largest` and with importance; `share` mean squares are added to the squares of the values.
#[inline(always)]
pub fn affine_weighted<C: Codec>(x: &[f32], v: &[f32], share: f32, largest: i32) -> Block {
    let (mut block, mut w) = (Block::default(), [0.0; 32]);
    let (mut scales, mut mins, mut sums) = ([0.0f32; GROUPS], [0.0f32; GROUPS], [0.0f32; GROUPS]);
    let mean_square = share * squares(x) / VALUES as f32;
    let groups = x.chunks_exact(C::GROUP).zip(v.chunks_exact(C::GROUP));
    for (g, ((x, v), codes)) in groups.zip(block.codes.chunks_exact_mut(C::GROUP)).enumerate() {
        let w = &mut w[..C::GROUP];
        by_importance(x, v, mean_square, w);
        sums[g] = w.iter().fold(0.0, |sum, w| sum + w);
        (scales[g], mins[g]) = affine(x, w, i32::from(C::CODES.1), IMPORTANT, codes);
    }
    let (count, mut stored) = (C::VALUES / C::GROUP, [0; GROUPS]);
    let all = [
        (&scales, &mut block.head.d, &mut block.head.scales),
        (&mins, &mut block.head.m, &mut block.head.mins),
    ];
    for (wanted, d, integers) in all {
        *d = to_half(positive(&wanted[..count], &sums[..count], largest, &mut stored));
        integers.iter_mut().zip(&stored).for_each(|(integer, stored)| *integer = i16::from(*stored));
    }
    requantize::<C>(x, &mut block);
    block
}

/// A block of [`Q6K`](super::q6_k::Q6K) from the weights of each group.
#[inline(always)]
pub fn eights<C: Codec>(x: &[f32], weights: impl Fn(usize, &[f32], &mut [f32])) -> Block {
    let (mut block, mut w) = (Block::default(), [0.0; 16]);
    let (mut scales, mut extreme) = ([0.0f32; GROUPS], 0.0f32);
    let groups = x.chunks_exact(C::GROUP).zip(block.codes.chunks_exact_mut(C::GROUP)).enumerate();
    for (g, (x, codes)) in groups {
        weights(g, x, &mut w);
        scales[g] = symmetric(x, &w, i32::from(C::BIAS), codes);
        if scales[g].abs() > extreme.abs() {
            extreme = scales[g];
        }
    }
    if extreme.abs() < ZERO {
        return Block::default();
    }
    let inverse = -128.0 / extreme;
    block.head.d = to_half(1.0 / inverse);
    for (integer, scale) in block.head.scales.iter_mut().zip(&scales) {
        *integer = i16::from(nearest_int(inverse * scale).min(127) as i8);
    }
    requantize::<C>(x, &mut block);
    block
}

/// A block of one level with a minimum and with importance.
#[inline(always)]
pub fn affine_one_level<C: Codec>(x: &[f32], v: &[f32], mean_square: f32) -> Block {
    let (mut block, mut w) = (Block::default(), [0.0; 32]);
    by_importance(x, v, mean_square, &mut w);
    let (scale, min) = affine(x, &w, i32::from(C::CODES.1), IMPORTANT, &mut block.codes);
    block.head = one_level(scale, -min);
    block
}

/// Least and largest value.
#[inline(always)]
pub fn range(x: &[f32]) -> (f32, f32) {
    x.iter().fold((f32::MAX, f32::MIN), |(min, max), x| (min.min(*x), max.max(*x)))
}
