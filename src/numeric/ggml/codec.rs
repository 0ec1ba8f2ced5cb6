//! What the block types with codes have in common: a head of scales, codes, and values of the form `step * code + offset`.

use super::bits::to_half;
use super::search::nearest_int;

/// Most values of a block.
pub const VALUES: usize = 256;
/// Most groups of a block.
pub const GROUPS: usize = 16;

/// The scales of a block, as numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Head {
    /// Scale of the block, of half precision.
    pub d: f32,
    /// Minimum of the block or scale of its minimums, of half precision; 0 for types without.
    pub m: f32,
    /// Integer scale of each group, for types with two levels.
    pub scales: [i16; GROUPS],
    /// Integer minimum of each group, for types with two levels and minimums.
    pub mins: [i16; GROUPS],
}

/// A block before its bits are put in place.
#[derive(Clone, Debug)]
pub struct Block {
    /// Its scales.
    pub head: Head,
    /// Its codes as stored, from 0; only the first values of the type count.
    pub codes: [u8; VALUES],
}

impl Default for Block {
    fn default() -> Self {
        Self { head: Head::default(), codes: [0; VALUES] }
    }
}

/// A block type with codes. Stored codes count from 0; the code of the lattice is the stored one less [`BIAS`](Self::BIAS).
pub trait Codec {
    /// Values of a block.
    const VALUES: usize;
    /// Bytes of a block.
    const BYTES: usize;
    /// Values that share step and offset.
    const GROUP: usize;
    /// Stored code of the value 0 where there are no offsets; 0 where there are.
    const BIAS: i16;
    /// Lowest and highest code that may be chosen, less the bias.
    const CODES: (i16, i16);
    /// Range of the groups' integer scales; none with one level.
    const SCALES: Option<(i16, i16)>;
    /// Whether values have offsets.
    const OFFSETS: bool;

    /// The scales of a block.
    fn head(block: &[u8]) -> Head;
    /// Puts scales into a block.
    fn set_head(head: &Head, block: &mut [u8]);
    /// The codes of a block.
    fn codes(block: &[u8], codes: &mut [u8]);
    /// Puts codes into a block.
    fn set_codes(codes: &[u8], block: &mut [u8]);
    /// ggml's rounding without importance (`quantize_row_*_ref`).
    fn nearest(x: &[f32]) -> Block;
    /// ggml's rounding with the importance `v` of each column (`quantize_row_*_impl`); `mean_square` is that of the row.
    fn weighted(x: &[f32], v: &[f32], mean_square: f32) -> Block;

    /// Distance of neighbouring values of group `g`.
    #[inline(always)]
    fn step(head: &Head, g: usize) -> f32 {
        if Self::SCALES.is_some() { head.d * f32::from(head.scales[g]) } else { head.d }
    }

    /// The value of code 0 of group `g`.
    #[inline(always)]
    fn offset(head: &Head, g: usize) -> f32 {
        match (Self::OFFSETS, Self::SCALES) {
            (false, _) => 0.0,
            (true, None) => head.m,
            (true, Some(_)) => -(head.m * f32::from(head.mins[g])),
        }
    }
}

/// The values of a row, in the order of operations of ggml's `dequantize_row_*`.
pub fn dequantize<C: Codec>(row: &[u8], out: &mut [f32]) {
    let mut codes = [0; VALUES];
    for (block, out) in row.chunks_exact(C::BYTES).zip(out.chunks_exact_mut(C::VALUES)) {
        let head = C::head(block);
        C::codes(block, &mut codes[..C::VALUES]);
        let groups = out.chunks_exact_mut(C::GROUP).zip(codes.chunks_exact(C::GROUP)).enumerate();
        for (g, (out, codes)) in groups {
            let (step, offset) = (C::step(&head, g), C::offset(&head, g));
            for (x, code) in out.iter_mut().zip(codes) {
                let product = step * f32::from(i16::from(*code) - C::BIAS);
                // A sum with 0 would lose the sign of -0, which ggml keeps.
                *x = if C::OFFSETS { product + offset } else { product };
            }
        }
    }
}

/// Rounds a row as ggml does.
#[inline(always)]
pub fn round_row<C: Codec>(x: &[f32], importance: Option<&[f32]>, out: &mut [u8]) {
    // Only the types of one level look at it.
    let mean_square = match importance {
        Some(_) if C::SCALES.is_none() => x.iter().fold(0.0, |sum: f32, x| sum + x * x) / x.len() as f32,
        _ => 0.0,
    };
    for (b, (x, out)) in x.chunks_exact(C::VALUES).zip(out.chunks_exact_mut(C::BYTES)).enumerate() {
        let block = match importance {
            Some(v) => C::weighted(x, &v[b * C::VALUES..][..C::VALUES], mean_square),
            None => C::nearest(x),
        };
        C::set_head(&block.head, out);
        C::set_codes(&block.codes[..C::VALUES], out);
    }
}

/// Rounds the values of a block anew, now that its scales are rounded too; groups whose step became 0 keep their codes.
#[inline(always)]
pub fn requantize<C: Codec>(x: &[f32], block: &mut Block) {
    let groups = x.chunks_exact(C::GROUP).zip(block.codes.chunks_exact_mut(C::GROUP)).enumerate();
    for (g, (x, codes)) in groups {
        let (step, offset) = (C::step(&block.head, g), C::offset(&block.head, g));
        if step == 0.0 {
            continue;
        }
        for (code, x) in codes.iter_mut().zip(x) {
            let nearest = nearest_int((x - offset) / step);
            *code = (nearest.clamp(i32::from(C::CODES.0), i32::from(C::CODES.1)) + i32::from(C::BIAS)) as u8;
        }
    }
}

/// A head of one level.
#[inline(always)]
pub fn one_level(d: f32, m: f32) -> Head {
    Head { d: to_half(d), m: to_half(m), ..Head::default() }
}
