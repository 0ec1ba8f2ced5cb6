//! Weight grids: which values the weights of a linear may take, and float matrices to integer codes. Pure functions on slices.
//!
//! All grids are symmetric. A grid without blocks has one scale per row (output channel). A grid with blocks has two levels (progressive
//! quantization of QServe, arXiv 2405.04532 section 4.1): every block of columns of a row has an integer multiplier of the row's scale, chosen so
//! that codes times multiplier still fits int8, and an integer product of 8 bits needs no scale inside a row.

mod matrix;
mod search;

use std::ops::Range;

use rayon::prelude::*;

use super::lattice::{Lattice, nearest_code};

pub use matrix::{GridMatrix, Scales};
pub use search::scales;

/// Largest multiplier of a block: four bits, and with codes up to 7 the product stays within int8.
pub const LARGEST_MULTIPLIER: u8 = 15;
/// Bits that a multiplier is stored in.
const MULTIPLIER_BITS: f64 = 4.0;

/// Which values a weight may take: `code * multiplier * scale` with codes symmetric about zero.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    serde::Serialize,
    serde::Deserialize,
    schemars::JsonSchema,
)]
pub struct Grid {
    /// Bits of a code: 2, 3, 4 or 8.
    pub bits: u8,
    /// Columns that share a multiplier (the last block of a row may be shorter); absent: one scale per row. Only below 8 bits.
    pub block: Option<usize>,
}

/// A grid that does not exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GridError {
    /// Bits without a format.
    #[error("weights of {0} bits: expected 2, 3, 4 or 8; choose one of them")]
    Bits(u8),
    /// 8 bits with blocks.
    #[error(
        "blocks of {0} columns with 8-bit codes: code times multiplier would not fit int8; use 2, 3 or 4 bits, or no blocks"
    )]
    WideBlock(usize),
    /// Blocks of no columns.
    #[error(
        "blocks of 0 columns: expected at least 1 column per block; leave the block out for one scale per row"
    )]
    EmptyBlock,
}

impl Grid {
    /// Whether the grid exists: 2, 3, 4 or 8 bits, blocks of at least one column and only below 8 bits.
    pub fn valid(self) -> Result<(), GridError> {
        match (self.bits, self.block) {
            (bits, _) if ![2, 3, 4, 8].contains(&bits) => Err(GridError::Bits(bits)),
            (_, Some(0)) => Err(GridError::EmptyBlock),
            (8, Some(block)) => Err(GridError::WideBlock(block)),
            _ => Ok(()),
        }
    }

    /// Largest code, `2^(bits - 1) - 1`: 127, 7, 3 or 1. The most negative code of two's complement is not used.
    pub fn largest_code(self) -> i8 {
        i8::MAX >> 8u8.saturating_sub(self.bits).min(7)
    }

    /// Blocks of a row of `cols` columns; 1 without blocks.
    pub fn blocks(self, cols: usize) -> usize {
        self.block.map_or(1, |block| cols.div_ceil(block.max(1)))
    }

    /// The columns of each block of a row.
    pub fn ranges(self, cols: usize) -> impl Iterator<Item = Range<usize>> {
        let block = self.block.unwrap_or(cols).max(1);
        (0..self.blocks(cols)).map(move |b| b * block..cols.min((b + 1) * block))
    }

    /// The values of a matrix of `cols` columns with these scales.
    pub fn lattice(self, scales: &Scales, cols: usize) -> Lattice {
        let (largest, blocks) = (self.largest_code(), self.blocks(cols));
        let steps = (0..scales.scales.len() * blocks).map(|at| scales.step(at, at / blocks)).collect();
        let group = self.block.unwrap_or(cols).max(1);
        Lattice { lowest: -largest, highest: largest, group, steps, offsets: None }
    }

    /// Bits of storage per weight of a row of `cols` columns: codes, 4 bits per multiplier and the `f32` scale of the row.
    pub fn bits_per_weight(self, cols: usize) -> f64 {
        let multipliers = if self.block.is_some() { self.blocks(cols) as f64 * MULTIPLIER_BITS } else { 0.0 };
        f64::from(self.bits) + (multipliers + 32.0) / cols as f64
    }
}

/// Codes by nearest rounding, ties to even, of rows of weights with these scales. `w` is row-major with `cols` columns and finite.
pub fn nearest(w: &[f32], cols: usize, grid: Grid, scales: &Scales) -> Vec<i8> {
    let (largest, blocks) = (f32::from(grid.largest_code()), grid.blocks(cols));
    let mut codes = vec![0; w.len()];
    let rows = codes.par_chunks_mut(cols.max(1)).zip(w.par_chunks(cols.max(1))).enumerate();
    rows.for_each(|(r, (codes, w))| {
        for (b, range) in grid.ranges(cols).enumerate() {
            let step = scales.step(r * blocks + b, r);
            let pairs = codes[range.clone()].iter_mut().zip(&w[range]);
            pairs.for_each(|(code, w)| *code = symmetric_code(w / step, largest) as i8);
        }
    });
    codes
}

/// `x` rounded to the nearest integer in `[-largest, largest]`, ties to even. `largest` is at most 127.
#[inline(always)]
fn symmetric_code(x: f32, largest: f32) -> f32 {
    nearest_code(x, (-largest, largest))
}

/// Symmetric int8 per row by nearest rounding: the scale is the row's largest absolute value over 127, codes lie in `[-127, 127]`, ties go to even.
/// A row of zeros gets scale 1. `w` is row-major with `cols` columns.
///
/// Returns the codes and one scale per row. `w` must be finite.
#[cfg(test)]
pub fn int8_per_row(w: &[f32], cols: usize) -> (Vec<i8>, Vec<f32>) {
    let mut codes = Vec::with_capacity(w.len());
    let mut scales = Vec::with_capacity(w.len() / cols.max(1));
    for row in w.chunks(cols.max(1)) {
        let scale = symmetric_scale(row.iter().fold(0.0, |m, x| m.max(x.abs())));
        codes.extend(row.iter().map(|x| (x / scale).round_ties_even().clamp(-127.0, 127.0) as i8));
        scales.push(scale);
    }
    (codes, scales)
}

/// Scale that puts `max_abs` on the code 127; 1 when that would not be a positive normal number.
pub fn symmetric_scale(max_abs: f32) -> f32 {
    normal_or_one(max_abs / 127.0)
}

/// A scale that can be divided by; 1 in place of zero, subnormal numbers and what is not finite.
fn normal_or_one(scale: f32) -> f32 {
    if scale.is_normal() { scale } else { 1.0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn known_rows() {
        let (codes, scales) = int8_per_row(&[127.0, -63.5, 0.5, 0.0, 0.0, 0.0], 3);
        assert_eq!(codes, [127, -64, 0, 0, 0, 0]);
        assert_eq!(scales, [1.0, 1.0]);
    }

    #[test]
    fn sizes_of_codes_and_storage() {
        let grid = |bits, block| Grid { bits, block };
        assert_eq!([2, 3, 4, 8].map(|bits| grid(bits, None).largest_code()), [1, 3, 7, 127]);
        assert_eq!(grid(4, Some(128)).blocks(300), 3);
        assert_eq!(grid(4, Some(128)).ranges(300).collect::<Vec<_>>(), [0..128, 128..256, 256..300]);
        assert!(grid(4, None).ranges(300).eq(std::iter::once(0..300)));
        assert_eq!(grid(8, None).bits_per_weight(64), 8.5);
        assert_eq!(grid(4, Some(32)).bits_per_weight(256), 4.0 + 4.0 / 32.0 + 32.0 / 256.0);
    }

    #[test]
    fn grids_that_do_not_exist_are_refused() {
        let valid = |bits, block| Grid { bits, block }.valid();
        assert!(
            [(8, None), (4, None), (2, Some(32)), (3, Some(1))].iter().all(|(b, n)| valid(*b, *n).is_ok())
        );
        assert_eq!(valid(5, None), Err(GridError::Bits(5)));
        assert_eq!(valid(4, Some(0)), Err(GridError::EmptyBlock));
        assert_eq!(valid(8, Some(128)), Err(GridError::WideBlock(128)));
    }

    proptest! {
        /// Also where scales are subnormal or the largest weight is the largest number.
        #[test]
        fn eight_bits_per_row_are_int8_per_row(
            row in prop::collection::vec(-1e3f32..1e3, 2..80),
            size in prop::sample::select(vec![0.0f32, 1e-42, 1e-36, 1.0, 3e35]),
        ) {
            let (grid, cols) = (Grid { bits: 8, block: None }, row.len() / 2);
            let w: Vec<f32> = row[..2 * cols].iter().map(|x| x * size).collect();
            let found = scales(&w, cols, grid, None, false);
            let (codes, want) = int8_per_row(&w, cols);
            prop_assert_eq!(&found.scales, &want);
            prop_assert_eq!(nearest(&w, cols, grid, &found), codes);
        }

        #[test]
        fn error_is_at_most_half_a_step(row in prop::collection::vec(-1e3f32..1e3, 1..40)) {
            let (codes, scales) = int8_per_row(&row, row.len());
            for (x, c) in row.iter().zip(&codes) {
                let back = f32::from(*c) * scales[0];
                // Half a step, and the rounding of the two f32 products.
                prop_assert!((x - back).abs() <= scales[0] * 0.5 + x.abs() * 4.0 * f32::EPSILON);
            }
            prop_assert!(codes.iter().any(|c| c.abs() == 127) || row.iter().all(|x| x.abs() < 1e-36));
        }
    }
}
