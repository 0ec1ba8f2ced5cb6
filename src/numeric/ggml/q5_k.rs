//! Q5_K: 256 codes in `0..=31`; 8 groups of 32 with scales and minimums of 6 bits; `value = d * scale * code - m * min`.

use super::bits::{
    half, read_nibbles, read_planes, read_sixes, set_half, write_nibbles, write_planes, write_sixes,
};
use super::codec::{Block, Codec, Head};
use super::search::Candidates;
use super::super_block::{affine_weighted, sixes_nearest};

/// The codec.
pub struct Q5K;

impl Codec for Q5K {
    const VALUES: usize = 256;
    const BYTES: usize = 176;
    const GROUP: usize = 32;
    const BIAS: i16 = 0;
    const CODES: (i16, i16) = (0, 31);
    const SCALES: Option<(i16, i16)> = Some((0, 63));
    const OFFSETS: bool = true;

    fn head(block: &[u8]) -> Head {
        let mut head = Head { d: half(block, 0), m: half(block, 2), ..Head::default() };
        read_sixes(&block[4..16], &mut head.scales, &mut head.mins);
        head
    }

    fn set_head(head: &Head, block: &mut [u8]) {
        set_half(block, 0, head.d);
        set_half(block, 2, head.m);
        write_sixes(&head.scales, &head.mins, &mut block[4..16]);
    }

    fn codes(block: &[u8], codes: &mut [u8]) {
        read_nibbles(&block[48..], 32, codes);
        read_planes(&block[16..48], 16, codes);
    }

    fn set_codes(codes: &[u8], block: &mut [u8]) {
        write_planes(codes, 16, &mut block[16..48]);
        write_nibbles(codes, 32, &mut block[48..]);
    }

    #[inline(always)]
    fn nearest(x: &[f32]) -> Block {
        sixes_nearest::<Self>(x, Candidates { first: -0.5, step: 0.1, last: 15, absolute: false })
    }

    #[inline(always)]
    fn weighted(x: &[f32], v: &[f32], _: f32) -> Block {
        affine_weighted::<Self>(x, v, 2.0, 63)
    }
}
