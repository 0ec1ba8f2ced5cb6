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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_code_times_multiplier_times_scale() {
        let grid = Grid { bits: 4, block: Some(2) };
        let scales = Scales { multipliers: vec![15, 2, 1, 3], scales: vec![0.5, 2.0] };
        assert_eq!((scales.step(1, 0), scales.step(3, 1)), (1.0, 6.0));
        let matrix = GridMatrix::new(grid, 3, vec![7, -7, 3, 1, 0, -2], scales);
        assert_eq!(matrix.rows, 2);
        assert_eq!(matrix.int8(), [105, -105, 6, 1, 0, -6]);
        assert_eq!(matrix.dequantize(), [52.5, -52.5, 3.0, 2.0, 0.0, -12.0]);
        assert_eq!(matrix.errors(&[53.0, -52.5, 3.0, 2.0, 1.0, -12.0]), [0.5, 0.0, 0.0, 0.0, 1.0, 0.0]);
        let plain = Scales { multipliers: vec![], scales: vec![0.5] };
        let matrix = GridMatrix::new(Grid { bits: 8, block: None }, 2, vec![-127, 4], plain);
        assert_eq!((matrix.int8(), matrix.dequantize()), (vec![-127, 4], vec![-63.5, 2.0]));
    }

    #[test]
    fn copied_rows_bring_their_scales() {
        let grid = Grid { bits: 2, block: Some(1) };
        let matrix = |x: i8, m: u8| {
            let scales = Scales { multipliers: vec![m; 4], scales: vec![f32::from(m); 2] };
            GridMatrix::new(grid, 2, vec![x; 4], scales)
        };
        let (mut a, b) = (matrix(0, 1), matrix(1, 2));
        a.copy_row(&b, 1);
        assert_eq!((a.codes, a.multipliers, a.scales), (vec![0, 0, 1, 1], vec![1, 1, 2, 2], vec![1.0, 2.0]));
    }
}
