//! Q2_K: 256 codes in `0..=3`; 16 groups of 16 with scales and minimums of 4 bits; `value = d * scale * code - m * min`.

use super::bits::{half, read_pairs, set_half, to_half, write_pairs};
use super::codec::{Block, Codec, GROUPS, Head, requantize};
use super::search::{Candidates, affine, nearest_int};
use super::super_block::affine_weighted;

/// The codec.
pub struct Q2K;

impl Codec for Q2K {
    const VALUES: usize = 256;
    const BYTES: usize = 84;
    const GROUP: usize = 16;
    const BIAS: i16 = 0;
    const CODES: (i16, i16) = (0, 3);
    const SCALES: Option<(i16, i16)> = Some((0, 15));
    const OFFSETS: bool = true;

    fn head(block: &[u8]) -> Head {
        let mut head = Head { d: half(block, 80), m: half(block, 82), ..Head::default() };
        for (g, byte) in block[..GROUPS].iter().enumerate() {
            (head.scales[g], head.mins[g]) = (i16::from(byte & 15), i16::from(byte >> 4));
        }
        head
    }

    fn set_head(head: &Head, block: &mut [u8]) {
        for (byte, (scale, min)) in block.iter_mut().zip(head.scales.iter().zip(&head.mins)) {
            *byte = *scale as u8 | (*min as u8) << 4;
        }
        set_half(block, 80, head.d);
        set_half(block, 82, head.m);
    }

    fn codes(block: &[u8], codes: &mut [u8]) {
        read_pairs(&block[16..80], codes);
    }

    fn set_codes(codes: &[u8], block: &mut [u8]) {
        write_pairs(codes, &mut block[16..80]);
    }

    #[inline(always)]
    fn nearest(x: &[f32]) -> Block {
        let tried = Candidates { first: -0.5, step: 0.1, last: 15, absolute: true };
        let (mut block, mut w) = (Block::default(), [0.0; 16]);
        let (mut scales, mut mins) = ([0.0f32; GROUPS], [0.0f32; GROUPS]);
        for (g, (x, codes)) in x.chunks_exact(16).zip(block.codes.chunks_exact_mut(16)).enumerate() {
            w.iter_mut().zip(x).for_each(|(w, x)| *w = x.abs());
            (scales[g], mins[g]) = affine(x, &w, 3, tried, codes);
        }
        let largest = |x: &[f32]| x.iter().fold(0.0, |max: f32, x| if *x > max { *x } else { max });
        let (top_scale, top_min) = (largest(&scales), largest(&mins));
        let of = |x: f32, max: f32| if max > 0.0 { nearest_int(15.0 / max * x) as u8 } else { 0 };
        for g in 0..GROUPS {
            // Both share a byte, in which a negative scale would reach into the minimum.
            let byte = of(scales[g], top_scale) | of(mins[g], top_min) << 4;
            (block.head.scales[g], block.head.mins[g]) = (i16::from(byte & 15), i16::from(byte >> 4));
        }
        let d = |max: f32| if max > 0.0 { to_half(max / 15.0) } else { 0.0 };
        (block.head.d, block.head.m) = (d(top_scale), d(top_min));
        requantize::<Self>(x, &mut block);
        block
    }

    #[inline(always)]
    fn weighted(x: &[f32], v: &[f32], _: f32) -> Block {
        affine_weighted::<Self>(x, v, 1.0, 15)
    }
}
