//! Lower triangles of square matrices, packed by block rows: half the memory of the full matrix, and every block row is one row-major
//! matrix that products can read and write in place.

use std::ops::Range;

use rayon::prelude::*;

use super::Real;

/// Rows of a block row, and the side of the tiles that are computed together.
pub(super) const BLOCK: usize = 256;
/// Rows that are mirrored together.
const STRIP: usize = 16;

/// The lower triangle of an `[n, n]` matrix. Block row `b` holds the rows `256 b .. end` (256 of them, the last block maybe fewer) as a
/// row-major matrix with `end` columns; what lies above the diagonal in its last tile stays zero.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Triangle<T> {
    n: usize,
    values: Vec<T>,
}

impl<T: Real> Triangle<T> {
    pub fn zeros(n: usize) -> Self {
        let blocks = n.div_ceil(BLOCK);
        let last = n - BLOCK * blocks.saturating_sub(1).min(n);
        let len = if n == 0 { 0 } else { offset(blocks - 1) + last * n };
        Self { n, values: vec![T::ZERO; len] }
    }

    /// Rows and columns of the matrix.
    pub fn len(&self) -> usize {
        self.n
    }

    pub fn blocks(&self) -> usize {
        self.n.div_ceil(BLOCK)
    }

    /// Rows of block row `b`; the end is also its number of columns.
    pub fn range(&self, b: usize) -> Range<usize> {
        b * BLOCK..self.n.min((b + 1) * BLOCK)
    }

    /// Block row `b`, row-major.
    pub fn block(&self, b: usize) -> &[T] {
        let range = self.range(b);
        &self.values[offset(b)..][..range.len() * range.end]
    }

    /// All block rows with their ranges, to be written at the same time.
    pub fn blocks_mut(&mut self) -> Vec<(Range<usize>, &mut [T])> {
        self.blocks_from_mut(0)
    }

    /// The block rows from `first` on.
    pub fn blocks_from_mut(&mut self, first: usize) -> Vec<(Range<usize>, &mut [T])> {
        let ranges: Vec<_> = (first..self.blocks()).map(|b| self.range(b)).collect();
        let start = offset(first).min(self.values.len());
        let mut rest = &mut self.values[start..];
        let mut blocks = Vec::with_capacity(ranges.len());
        for range in ranges {
            let (block, after) = rest.split_at_mut(range.len() * range.end);
            blocks.push((range, block));
            rest = after;
        }
        blocks
    }

    /// Row `i` up to and with the diagonal.
    pub fn row(&self, i: usize) -> &[T] {
        let b = i / BLOCK;
        let start = offset(b) + (i - b * BLOCK) * self.range(b).end;
        &self.values[start..=start + i]
    }

    /// The element at `i, j` of the symmetric matrix whose lower triangle this is.
    pub fn symmetric(&self, i: usize, j: usize) -> T {
        let (low, high) = if i < j { (i, j) } else { (j, i) };
        let b = high / BLOCK;
        self.values[offset(b) + (high - b * BLOCK) * self.n.min((b + 1) * BLOCK) + low]
    }
}

impl Triangle<f32> {
    /// The full symmetric matrix, `[n, n]` row-major.
    pub fn mirrored(&self) -> Vec<f32> {
        let mut out = vec![0.0; self.n * self.n];
        out.par_chunks_mut((STRIP * self.n).max(1)).enumerate().for_each(|(s, out)| {
            let rows = s * STRIP..self.n.min((s + 1) * STRIP);
            for (out, i) in out.chunks_mut(self.n).zip(rows.clone()) {
                out[..=i].copy_from_slice(self.row(i));
            }
            for j in rows.start + 1..self.n {
                let column = &self.row(j)[rows.start..j.min(rows.end)];
                column.iter().enumerate().for_each(|(r, x)| out[r * self.n + j] = *x);
            }
        });
        out
    }
}

/// Where block row `b` starts: block `i` before it has `256 * 256 (i + 1)` values.
fn offset(b: usize) -> usize {
    BLOCK * BLOCK * b * (b + 1) / 2
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn block_rows_tile_the_triangle() {
        for n in [0, 1, 255, 256, 257, 700] {
            let mut triangle = Triangle::<f32>::zeros(n);
            for (range, block) in triangle.blocks_mut() {
                for (r, row) in block.chunks_mut(range.end).enumerate() {
                    for (j, x) in row.iter_mut().enumerate().take(range.start + r + 1) {
                        *x = ((range.start + r) * n + j) as f32;
                    }
                }
            }
            let full = triangle.mirrored();
            for i in 0..n {
                assert_eq!(triangle.row(i).len(), i + 1);
                assert!(
                    triangle.row(i).iter().enumerate().all(|(j, x)| *x == (i * n + j) as f32),
                    "{n}: row {i}"
                );
                assert_eq!(triangle.symmetric(i / 2, i), triangle.row(i)[i / 2]);
                assert!((0..n).all(|j| full[i * n + j] == triangle.symmetric(i, j)), "{n}: row {i}");
                assert_eq!(triangle.symmetric(i, i / 2), triangle.row(i)[i / 2]);
            }
            let len: usize = (0..triangle.blocks()).map(|b| triangle.block(b).len()).sum();
            assert_eq!(len, triangle.values.len());
        }
    }
}
