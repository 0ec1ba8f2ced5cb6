//! Q6_K: 256 codes in `-32..=31`; 16 groups of 16 with scales of 8 bits and sign; `value = d * scale * code`.

use super::bits::{half, read_nibbles, read_pairs, set_half, write_nibbles, write_pairs};
use super::codec::{Block, Codec, Head, VALUES};
use super::super_block::eights;

/// The codec.
pub struct Q6K;

impl Codec for Q6K {
    const VALUES: usize = 256;
    const BYTES: usize = 210;
    const GROUP: usize = 16;
    const BIAS: i16 = 32;
    const CODES: (i16, i16) = (-32, 31);
    const SCALES: Option<(i16, i16)> = Some((-128, 127));
    const OFFSETS: bool = false;

    fn head(block: &[u8]) -> Head {
        let mut head = Head { d: half(block, 208), ..Head::default() };
        let scales = head.scales.iter_mut().zip(&block[192..208]);
        scales.for_each(|(scale, byte)| *scale = i16::from(*byte as i8));
        head
    }

    fn set_head(head: &Head, block: &mut [u8]) {
        set_half(block, 208, head.d);
        block[192..208].iter_mut().zip(&head.scales).for_each(|(byte, scale)| *byte = *scale as u8);
    }

    fn codes(block: &[u8], codes: &mut [u8]) {
        let mut high = [0; VALUES];
        read_nibbles(&block[..128], 64, codes);
        read_pairs(&block[128..192], &mut high);
        codes.iter_mut().zip(&high).for_each(|(code, high)| *code += high << 4);
    }

    fn set_codes(codes: &[u8], block: &mut [u8]) {
        let mut high = [0; VALUES];
        high.iter_mut().zip(codes).for_each(|(high, code)| *high = code >> 4);
        write_nibbles(codes, 64, &mut block[..128]);
        write_pairs(&high, &mut block[128..192]);
    }

    #[inline(always)]
    fn nearest(x: &[f32]) -> Block {
        eights::<Self>(x, |_, x, w| w.iter_mut().zip(x).for_each(|(w, x)| *w = x * x))
    }

    #[inline(always)]
    fn weighted(x: &[f32], v: &[f32], _: f32) -> Block {
        eights::<Self>(x, |g, _, w| w.copy_from_slice(&v[g * Self::GROUP..][..Self::GROUP]))
    }
}
