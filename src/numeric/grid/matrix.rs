//! A matrix on a grid, and the scales that make a row's grid concrete.

use rayon::prelude::*;

use super::Grid;

/// The scales of a matrix on a grid: a row's columns of one block may take the values `code * multiplier * scale`.
#[derive(Clone, Debug, PartialEq)]
pub struct Scales {
    /// Multipliers in `1..=15`, `[rows, blocks]` row-major; empty when the grid has no blocks.
    pub multipliers: Vec<u8>,
    /// One scale per row, normal numbers.
    pub scales: Vec<f32>,
}

impl Scales {
    /// Distance of neighbouring values in block `at` (counted over all rows) of row `row`.
    pub fn step(&self, at: usize, row: usize) -> f32 {
        self.multipliers.get(at).map_or(1.0, |m| f32::from(*m)) * self.scales[row]
    }
}

/// A matrix on a grid: `value = code * multiplier * scale`.
#[derive(Clone, Debug, PartialEq)]
pub struct GridMatrix {
    /// The grid.
    pub grid: Grid,
    /// Output channels.
    pub rows: usize,
    /// Input channels.
    pub cols: usize,
    /// `[rows, cols]` row-major, each within the grid's largest code.
    pub codes: Vec<i8>,
    /// Multipliers in `1..=15`, `[rows, blocks]` row-major; empty when the grid has no blocks.
    pub multipliers: Vec<u8>,
    /// One scale per row, normal numbers.
    pub scales: Vec<f32>,
}

impl GridMatrix {
    /// The matrix of these codes, `[rows, cols]`, at these scales.
    pub fn new(grid: Grid, cols: usize, codes: Vec<i8>, scales: Scales) -> Self {
        let Scales { multipliers, scales } = scales;
        Self { grid, rows: scales.len(), cols, codes, multipliers, scales }
    }

    /// Codes times multipliers, `[rows, cols]` row-major: the int8 weights that an integer product takes, with [`scales`](Self::scales) per row.
    pub fn int8(&self) -> Vec<i8> {
        let mut out = self.codes.clone();
        let blocks = self.grid.blocks(self.cols);
        if self.multipliers.is_empty() {
            return out;
        }
        out.par_chunks_mut(self.cols).zip(self.multipliers.par_chunks(blocks)).for_each(
            |(row, multipliers)| {
                for (range, m) in self.grid.ranges(self.cols).zip(multipliers) {
                    // Within int8: codes are at most 7 and multipliers at most 15.
                    row[range].iter_mut().for_each(|code| *code *= *m as i8);
                }
            },
        );
        out
    }

    /// The values, `[rows, cols]` row-major.
    pub fn dequantize(&self) -> Vec<f32> {
        let int8 = self.int8();
        let mut out = vec![0.0; int8.len()];
        let cols = self.cols.max(1);
        out.par_chunks_mut(cols).zip(int8.par_chunks(cols)).zip(&self.scales).for_each(
            |((out, codes), scale)| {
                out.iter_mut().zip(codes).for_each(|(x, code)| *x = f32::from(*code) * scale);
            },
        );
        out
    }

    /// What rounding changed, `w` less the values; `w` is `[rows, cols]` row-major.
    pub fn errors(&self, w: &[f32]) -> Vec<f32> {
        let mut errors = self.dequantize();
        errors.par_iter_mut().zip(w).for_each(|(e, w)| *e = w - *e);
        errors
    }

    /// Replaces row `row` by that row of `other`, a matrix of the same shape on the same grid.
    pub(in crate::numeric) fn copy_row(&mut self, other: &Self, row: usize) {
        let (codes, blocks) = (row * self.cols..(row + 1) * self.cols, self.grid.blocks(self.cols));
        self.codes[codes.clone()].copy_from_slice(&other.codes[codes]);
        self.scales[row] = other.scales[row];
        if !self.multipliers.is_empty() {
            let multipliers = row * blocks..(row + 1) * blocks;
            self.multipliers[multipliers.clone()].copy_from_slice(&other.multipliers[multipliers]);
        }
    }
}
