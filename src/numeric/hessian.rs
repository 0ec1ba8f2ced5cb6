//! Second moments of the inputs of a linear, what GPTQ weighs rounding errors by: `H = sum_i w_i x_i x_i^T / sum_i w_i` (the Hessian of the
//! layer-wise squared error, arXiv 2210.17323 section 3, up to a factor that no result depends on).

use faer::linalg::matmul::matmul;
use faer::linalg::matmul::triangular::{self, BlockStructure};
use faer::reborrow::ReborrowMut;
use faer::{Accum, MatMut, MatRef, Par};
use rayon::prelude::*;

use super::triangle::{BLOCK, Triangle};

/// Rows of inputs that one product takes: what stays in a core's cache while a block row of tiles is computed.
const DEPTH: usize = 1024;
/// Rows of a quadratic form computed together.
const ROWS: usize = 128;

/// Sums of `w x x^T` over input rows `x` of `n` channels; only the lower triangle is computed and kept (2 n^2 bytes). The same calls in the
/// same order give the same bits at any number of threads.
#[derive(Clone, Debug, PartialEq)]
pub struct Hessian {
    n: usize,
    pub(super) lower: Triangle<f32>,
    rows: u64,
    weight: f64,
}

impl Hessian {
    /// No rows yet, over `n` channels.
    pub fn new(n: usize) -> Self {
        Self { n, lower: Triangle::zeros(n), rows: 0, weight: 0.0 }
    }

    /// Channels.
    pub fn channels(&self) -> usize {
        self.n
    }

    /// Rows added so far.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Sum of the weights of all rows: what the sums are divided by.
    pub fn weight(&self) -> f64 {
        self.weight
    }

    /// Adds rows of inputs, row-major with `n` columns, each with this weight (not negative).
    pub fn add(&mut self, rows: &[f32], weight: f32) {
        debug_assert!(rows.len().is_multiple_of(self.n.max(1)) && weight >= 0.0);
        let n = self.n;
        let count = rows.len() / n.max(1);
        if count == 0 {
            return;
        }
        for rows in rows.chunks(DEPTH * n) {
            let x = MatRef::from_row_major_slice(rows, rows.len() / n, n);
            self.lower.blocks_mut().into_par_iter().for_each(|(range, block)| {
                let left = x.subcols(range.start, range.len());
                let out = MatMut::from_row_major_slice_mut(block, range.len(), range.end);
                out.par_col_chunks_mut(BLOCK).enumerate().for_each(|(j, out)| {
                    tile(
                        out,
                        left,
                        x.subcols(j * BLOCK, BLOCK.min(n - j * BLOCK)),
                        j * BLOCK == range.start,
                        weight,
                    );
                });
            });
        }
        self.rows += count as u64;
        self.weight += count as f64 * f64::from(weight);
    }

    /// The diagonal of `H`: mean squares of the channels. Zeros before the first row.
    pub fn diagonal(&self) -> Vec<f64> {
        let scale = self.normaliser();
        (0..self.n).map(|i| f64::from(self.lower.symmetric(i, i)) * scale).collect()
    }

    /// Whether all inputs were finite and no sum overflowed. The diagonal tells: a NaN or an infinity of a channel is in its sum of squares, and
    /// sums off the diagonal are no larger than those on it.
    pub fn is_finite(&self) -> bool {
        (0..self.n).all(|i| self.lower.symmetric(i, i).is_finite())
    }

    /// `tr(E H E^T)`: the mean squared output error that an error `e` of the weights makes (row-major, `n` columns), summed over outputs. With
    /// the weights themselves in place of errors it is the energy that errors are measured against.
    pub fn weighted_error(&self, e: &[f32]) -> f64 {
        debug_assert!(e.len().is_multiple_of(self.n.max(1)));
        let sums: Vec<f64> = e.par_chunks((ROWS * self.n).max(1)).map(|e| self.quadratic(e)).collect();
        sums.iter().sum::<f64>() * self.normaliser()
    }

    /// `tr(E S E^T)` with the sums `S`, for a few rows.
    fn quadratic(&self, e: &[f32]) -> f64 {
        let rows = e.len() / self.n;
        let e = MatRef::from_row_major_slice(e, rows, self.n);
        let mut total = 0.0;
        let mut product = vec![0.0f32; rows * BLOCK];
        for b in 0..self.lower.blocks() {
            let range = self.lower.range(b);
            let block = MatRef::from_row_major_slice(self.lower.block(b), range.len(), range.end);
            let mut out =
                MatMut::from_row_major_slice_mut(&mut product[..rows * range.len()], rows, range.len());
            matmul(out.rb_mut(), Accum::Replace, e.subcols(0, range.end), block.transpose(), 1.0, Par::Seq);
            for r in 0..rows {
                for (c, i) in range.clone().enumerate() {
                    let (x, diagonal) = (f64::from(e[(r, i)]), f64::from(block[(c, i)]));
                    // The product holds columns up to the diagonal; those beyond are the same by symmetry.
                    total += x * (2.0 * f64::from(out[(r, c)]) - diagonal * x);
                }
            }
        }
        total
    }

    /// One over the sum of weights; 0 without rows.
    pub(super) fn normaliser(&self) -> f64 {
        if self.weight > 0.0 { self.weight.recip() } else { 0.0 }
    }
}

/// `out += weight left^T right`; of a diagonal tile the lower triangle only.
fn tile(out: MatMut<'_, f32>, left: MatRef<'_, f32>, right: MatRef<'_, f32>, diagonal: bool, weight: f32) {
    if !diagonal {
        return matmul(out, Accum::Add, left.transpose(), right, weight, Par::Seq);
    }
    let (lower, full) = (BlockStructure::TriangularLower, BlockStructure::Rectangular);
    triangular::matmul(out, lower, Accum::Add, left.transpose(), full, right, full, weight, Par::Seq);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::numeric::random::Random;

    fn inputs(rows: usize, n: usize, seed: u64) -> Vec<f32> {
        let mut random = Random::new(seed);
        (0..rows * n).map(|i| (random.normal() + (i % n) as f64 * 0.01) as f32).collect()
    }

    #[test]
    fn agrees_with_sums_in_f64() {
        for (rows, n) in [(1, 1), (40, 7), (1500, 300), (70, 513)] {
            let (a, b) = (inputs(rows, n, 1), inputs(3, n, 2));
            let mut hessian = Hessian::new(n);
            hessian.add(&a, 1.0);
            hessian.add(&b, 2.5);
            assert_eq!((hessian.rows(), hessian.weight()), (rows as u64 + 3, rows as f64 + 7.5));
            let sum = |x: &[f32], i: usize, j: usize| -> f64 {
                x.chunks(n).map(|x| f64::from(x[i]) * f64::from(x[j])).sum()
            };
            let diagonal = hessian.diagonal();
            for i in (0..n).step_by(n.div_ceil(50)) {
                for j in (0..=i).rev().step_by(n.div_ceil(50)) {
                    let want = (sum(&a, i, j) + 2.5 * sum(&b, i, j)) / hessian.weight();
                    let found = f64::from(hessian.lower.symmetric(i, j)) / hessian.weight();
                    // Sums of up to 1503 products in f32, in lanes: measured 5.5e-7 of the diagonal.
                    let bound = 2e-6 * (diagonal[i] * diagonal[j]).sqrt();
                    assert!((found - want).abs() <= bound, "{n}: {i}, {j}: {found} for {want}");
                }
            }
        }
    }

    #[test]
    fn thread_count_does_not_change_a_bit() {
        let x = inputs(1100, 600, 3);
        let run = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let mut hessian = Hessian::new(600);
            pool.install(|| hessian.add(&x, 0.5));
            let error = pool.install(|| hessian.weighted_error(&x));
            (hessian, error.to_bits())
        };
        assert_eq!(run(1), run(5));
    }

    #[test]
    fn weighted_error_is_the_mean_squared_output() {
        let (n, rows) = (300, 50);
        let (x, e) = (inputs(rows, n, 4), inputs(9, n, 5));
        let mut hessian = Hessian::new(n);
        hessian.add(&x, 1.0);
        let mut want = 0.0;
        for e in e.chunks(n) {
            for x in x.chunks(n) {
                let y: f64 = e.iter().zip(x).map(|(e, x)| f64::from(*e) * f64::from(*x)).sum();
                want += y * y / rows as f64;
            }
        }
        let found = hessian.weighted_error(&e);
        // f32 products of 300 terms, whose roundings mostly cancel; measured 2e-9.
        assert!((found - want).abs() <= 1e-7 * want, "{found} for {want}");
        assert_eq!(Hessian::new(n).weighted_error(&e), 0.0);
    }

    #[test]
    fn numbers_that_are_not_finite_are_seen() {
        for bad in [f32::NAN, f32::INFINITY, 1e20] {
            let mut x = inputs(20, 30, 6);
            let mut hessian = Hessian::new(30);
            hessian.add(&x, 1.0);
            assert!(hessian.is_finite());
            x[77] = bad;
            hessian.add(&x, 1.0);
            assert!(!hessian.is_finite(), "{bad}");
        }
    }
}
