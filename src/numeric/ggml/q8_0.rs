//! Q8_0: a scale in half precision, 32 codes in `-127..=127`; `value = d * code`.

use super::bits::{half, set_half};
use super::codec::{Block, Codec, Head, one_level};
use super::search::truncate;

/// The codec.
pub struct Q8_0;

impl Codec for Q8_0 {
    const VALUES: usize = 32;
    const BYTES: usize = 34;
    const GROUP: usize = 32;
    const BIAS: i16 = 128;
    const CODES: (i16, i16) = (-127, 127);
    const SCALES: Option<(i16, i16)> = None;
    const OFFSETS: bool = false;

    fn head(block: &[u8]) -> Head {
        Head { d: half(block, 0), ..Head::default() }
    }

    fn set_head(head: &Head, block: &mut [u8]) {
        set_half(block, 0, head.d);
    }

    fn codes(block: &[u8], codes: &mut [u8]) {
        // Bytes are two's complement: with the top bit turned they count from -128.
        codes.iter_mut().zip(&block[2..]).for_each(|(code, byte)| *code = byte ^ 0x80);
    }

    fn set_codes(codes: &[u8], block: &mut [u8]) {
        block[2..].iter_mut().zip(codes).for_each(|(byte, code)| *byte = code ^ 0x80);
    }

    #[inline(always)]
    fn nearest(x: &[f32]) -> Block {
        let d = x.iter().fold(0.0f32, |m, x| m.max(x.abs())) / 127.0;
        let inverse = if d != 0.0 { 1.0 / d } else { 0.0 };
        let mut block = Block { head: one_level(d, 0.0), ..Block::default() };
        for (code, x) in block.codes.iter_mut().zip(x) {
            *code = away_from_zero(x * inverse) as u8 ^ 0x80;
        }
        block
    }

    /// ggml does not look at importance here.
    #[inline(always)]
    fn weighted(x: &[f32], _: &[f32], _: f32) -> Block {
        Self::nearest(x)
    }
}

/// The nearest integer, ties away from zero (C's `roundf`, converted), of numbers up to 128.
#[inline(always)]
fn away_from_zero(x: f32) -> i32 {
    let whole = truncate(x);
    // Infinite where the block is so small that its inverse scale is.
    let rest = if x.is_finite() { x - whole as f32 } else { 0.0 };
    whole + i32::from(rest >= 0.5) - i32::from(rest <= -0.5)
}
