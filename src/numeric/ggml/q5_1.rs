//! Q5_1: a scale and a minimum in half precision, 32 codes in `0..=31`; `value = d * code + m`.

use super::bits::{half, read_fifth, read_nibbles, set_half, write_fifth, write_nibbles};
use super::codec::{Block, Codec, Head, one_level};
use super::search::truncate;
use super::super_block::{affine_one_level, range};

/// The codec.
pub struct Q5_1;

impl Codec for Q5_1 {
    const VALUES: usize = 32;
    const BYTES: usize = 24;
    const GROUP: usize = 32;
    const BIAS: i16 = 0;
    const CODES: (i16, i16) = (0, 31);
    const SCALES: Option<(i16, i16)> = None;
    const OFFSETS: bool = true;

    fn head(block: &[u8]) -> Head {
        Head { d: half(block, 0), m: half(block, 2), ..Head::default() }
    }

    fn set_head(head: &Head, block: &mut [u8]) {
        set_half(block, 0, head.d);
        set_half(block, 2, head.m);
    }

    fn codes(block: &[u8], codes: &mut [u8]) {
        read_nibbles(&block[8..], 16, codes);
        read_fifth(&block[4..8], codes);
    }

    fn set_codes(codes: &[u8], block: &mut [u8]) {
        write_fifth(codes, &mut block[4..8]);
        write_nibbles(codes, 16, &mut block[8..]);
    }

    #[inline(always)]
    fn nearest(x: &[f32]) -> Block {
        let (min, max) = range(x);
        let d = (max - min) / 31.0;
        let inverse = if d != 0.0 { 1.0 / d } else { 0.0 };
        let mut block = Block { head: one_level(d, min), ..Block::default() };
        for (code, x) in block.codes.iter_mut().zip(x) {
            *code = truncate((x - min) * inverse + 0.5) as u8;
        }
        block
    }

    #[inline(always)]
    fn weighted(x: &[f32], v: &[f32], mean_square: f32) -> Block {
        affine_one_level::<Self>(x, v, mean_square)
    }
}
