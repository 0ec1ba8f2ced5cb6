//! Q3_K: 256 codes in `-4..=3`; 16 groups of 16 with scales of 6 bits and sign; `value = d * scale * code`.

use super::bits::{half, read_pairs, read_planes, set_half, to_half, write_pairs, write_planes};
use super::codec::{Block, Codec, GROUPS, Head, requantize};
use super::search::{moved, nearest_int, symmetric};
use super::super_block::{by_importance, squares};

/// Where the scale 0 stands in 6 bits.
const MIDDLE: i16 = 32;

/// The codec.
pub struct Q3K;

impl Codec for Q3K {
    const VALUES: usize = 256;
    const BYTES: usize = 110;
    const GROUP: usize = 16;
    const BIAS: i16 = 4;
    const CODES: (i16, i16) = (-4, 3);
    const SCALES: Option<(i16, i16)> = Some((-32, 31));
    const OFFSETS: bool = false;

    fn head(block: &[u8]) -> Head {
        let mut head = Head { d: half(block, 108), ..Head::default() };
        let bytes = &block[96..108];
        for g in 0..GROUPS {
            let low = bytes[g % 8] >> (g / 8 * 4) & 15;
            let high = bytes[8 + g % 4] >> (g / 4 * 2) & 3;
            head.scales[g] = i16::from(low | high << 4) - MIDDLE;
        }
        head
    }

    fn set_head(head: &Head, block: &mut [u8]) {
        let bytes = &mut block[96..108];
        bytes.fill(0);
        for (g, scale) in head.scales.iter().enumerate() {
            let stored = (scale + MIDDLE) as u8;
            bytes[g % 8] |= (stored & 15) << (g / 8 * 4);
            bytes[8 + g % 4] |= (stored >> 4) << (g / 4 * 2);
        }
        set_half(block, 108, head.d);
    }

    fn codes(block: &[u8], codes: &mut [u8]) {
        read_pairs(&block[32..96], codes);
        read_planes(&block[..32], 4, codes);
    }

    fn set_codes(codes: &[u8], block: &mut [u8]) {
        write_planes(codes, 4, &mut block[..32]);
        write_pairs(codes, &mut block[32..96]);
    }

    #[inline(always)]
    fn nearest(x: &[f32]) -> Block {
        let (mut block, mut scales, mut extreme) = (Block::default(), [0.0f32; GROUPS], 0.0f32);
        for (g, (x, codes)) in x.chunks_exact(16).zip(block.codes.chunks_exact_mut(16)).enumerate() {
            scales[g] = moved(x, 4, codes);
            if scales[g].abs() > extreme.abs() {
                extreme = scales[g];
            }
        }
        // All bits 0 where there is no scale, which reads as the lowest.
        block.head.scales = [-MIDDLE; GROUPS];
        if extreme != 0.0 {
            let inverse = -32.0 / extreme;
            for (integer, scale) in block.head.scales.iter_mut().zip(&scales) {
                *integer = i16::from(nearest_int(inverse * scale) as i8).clamp(-32, 31);
            }
            block.head.d = to_half(1.0 / inverse);
        }
        requantize::<Self>(x, &mut block);
        block
    }

    #[inline(always)]
    fn weighted(x: &[f32], v: &[f32], _: f32) -> Block {
        let (mut block, mut w, mut stored) = (Block::default(), [0.0; 16], [0; GROUPS]);
        let (mut scales, mut sums) = ([0.0f32; GROUPS], [0.0f32; GROUPS]);
        let mean_square = 2.0 * squares(x) / Self::VALUES as f32;
        let groups = x.chunks_exact(16).zip(v.chunks_exact(16)).zip(block.codes.chunks_exact_mut(16));
        for (g, ((x, v), codes)) in groups.enumerate() {
            by_importance(x, v, mean_square, &mut w);
            sums[g] = w.iter().fold(0.0, |sum, w| sum + w);
            scales[g] = symmetric(x, &w, 4, codes);
        }
        block.head.d = to_half(symmetric(&scales, &sums, 32, &mut stored));
        block.head.scales.iter_mut().zip(&stored).for_each(|(s, stored)| *s = i16::from(*stored) - MIDDLE);
        requantize::<Self>(x, &mut block);
        block
    }
}
