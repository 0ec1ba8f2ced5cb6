//! Weight grids: float matrices to integer codes. Pure functions on slices.

use serde::{Deserialize, Serialize};

/// Which values a weight may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Grid {
    /// Bits of a code: 2, 3, 4 or 8.
    pub bits: u8,
    /// Columns that share a multiplier; none: one scale per row.
    pub block: Option<usize>,
}

impl Grid {
    /// Int8, one scale per row.
    pub const INT8: Self = Self { bits: 8, block: None };

    /// Largest code; the smallest is its negative.
    pub fn largest_code(self) -> i8 {
        ((1i16 << (self.bits.clamp(2, 8) - 1)) - 1) as i8
    }
}

/// A matrix on a grid.
#[derive(Clone, Debug, PartialEq)]
pub struct GridMatrix {
    /// The grid.
    pub grid: Grid,
    /// Output channels.
    pub rows: usize,
    /// Input channels.
    pub cols: usize,
    /// Row-major codes.
    pub codes: Vec<i8>,
    /// One per row and block, empty without blocks.
    pub multipliers: Vec<u8>,
    /// One per row.
    pub scales: Vec<f32>,
}

impl GridMatrix {
    /// Codes times multipliers.
    pub fn int8(&self) -> Vec<i8> {
        let Some(block) = self.grid.block else { return self.codes.clone() };
        let blocks = self.cols.div_ceil(block);
        let m = |i: usize| self.multipliers[i / self.cols * blocks + i % self.cols / block] as i8;
        self.codes.iter().enumerate().map(|(i, &c)| c * m(i)).collect()
    }
}

/// Symmetric int8 per row by nearest rounding: the scale is the row's largest absolute value over 127, codes lie in `[-127, 127]`, ties go to even.
/// A row of zeros gets scale 1. `w` is row-major with `cols` columns.
///
/// Returns the codes and one scale per row. `w` must be finite.
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
    let scale = max_abs / 127.0;
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

    proptest! {
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
