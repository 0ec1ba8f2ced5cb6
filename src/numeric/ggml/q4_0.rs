//! Q4_0: a scale in half precision, 32 codes in `-8..=7`; `value = d * code`.

use super::bits::{half, read_nibbles, set_half, write_nibbles};
use super::codec::{Block, Codec, Head, one_level};
use super::search::{extreme, symmetric, truncate};
use super::super_block::by_importance;

/// The codec.
pub struct Q4_0;

impl Codec for Q4_0 {
    const VALUES: usize = 32;
    const BYTES: usize = 18;
    const GROUP: usize = 32;
    const BIAS: i16 = 8;
    const CODES: (i16, i16) = (-8, 7);
    const SCALES: Option<(i16, i16)> = None;
    const OFFSETS: bool = false;

    fn head(block: &[u8]) -> Head {
        Head { d: half(block, 0), ..Head::default() }
    }

    fn set_head(head: &Head, block: &mut [u8]) {
        set_half(block, 0, head.d);
    }

    fn codes(block: &[u8], codes: &mut [u8]) {
        read_nibbles(&block[2..], 16, codes);
    }

    fn set_codes(codes: &[u8], block: &mut [u8]) {
        write_nibbles(codes, 16, &mut block[2..]);
    }

    #[inline(always)]
    fn nearest(x: &[f32]) -> Block {
        let d = extreme(x) / -8.0;
        let inverse = if d != 0.0 { 1.0 / d } else { 0.0 };
        let mut block = Block { head: one_level(d, 0.0), ..Block::default() };
        for (code, x) in block.codes.iter_mut().zip(x) {
            *code = (truncate(x * inverse + 8.5) as i8).min(15) as u8;
        }
        block
    }

    #[inline(always)]
    fn weighted(x: &[f32], v: &[f32], mean_square: f32) -> Block {
        let (mut block, mut w) = (Block::default(), [0.0; 32]);
        by_importance(x, v, mean_square, &mut w);
        block.head = one_level(symmetric(x, &w, 8, &mut block.codes), 0.0);
        block
    }
}
