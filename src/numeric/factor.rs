//! The factor of a damped Hessian that GPTQ works with. With `p` the order in which columns are rounded, `H_p` the Hessian in that order and
//! `lambda` the damping, `H_p + lambda I = R R^T` with `R` upper triangular. Then the weighted error of a row of weight errors `e` is
//! `|e R|^2`, and column `j` of `e R` depends on the errors of columns up to `j` only: rounding column by column so that each term is as
//! small as it can be is GPTQ (arXiv 2210.17323), which is Babai's nearest plane algorithm (arXiv 2507.18553), without an inverse.

use rayon::prelude::*;

use super::Hessian;
use super::cholesky::cholesky;
use super::triangle::Triangle;

/// Damping that a factorisation may be tried with at most, relative to the mean diagonal.
pub const LARGEST_DAMPING: f64 = 1.0;
/// First damping above none: where retries start when no damping was asked for.
const SMALLEST_DAMPING: f64 = 1e-6;
/// Columns that are transposed together.
const STRIP: usize = 16;

/// How a Hessian is factored.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FactorOptions {
    /// `lambda` over the mean diagonal of `H`; 0.01 as in the paper. Not negative.
    pub damping: f64,
    /// Rounds the columns with the largest diagonal first, so that the most important inputs have the most freedom left to correct them.
    pub act_order: bool,
}

impl Default for FactorOptions {
    fn default() -> Self {
        Self { damping: 0.01, act_order: true }
    }
}

/// Why a Hessian has no factor.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
pub enum FactorError {
    /// No rows.
    #[error("the Hessian has no rows: no calibration sample reached this linear; add samples that do")]
    Empty,
    /// NaN or infinite inputs.
    #[error(
        "the Hessian is not finite: inputs of this linear are NaN, infinite or above 1e19; look at the calibration samples and the float model"
    )]
    NotFinite,
    /// Not positive definite with the largest damping.
    #[error(
        "the Hessian is not positive definite, even with damping {damping}: expected inputs that are not all zero; add calibration samples"
    )]
    Singular {
        /// The last damping tried, relative to the mean diagonal.
        damping: f64,
    },
}

/// `R` and what was done to get it.
#[derive(Clone, Debug)]
pub struct Factor {
    n: usize,
    order: Vec<usize>,
    /// `R^T`: row `j` is column `j` of `R`.
    pub(super) transposed: Triangle<f32>,
    diagonal: Vec<f32>,
    pivots: Vec<f32>,
    damping: f64,
    lambda: f64,
    dead: usize,
}

impl Factor {
    /// Factors `H` in f64. A Hessian that is not positive definite gets ten times the damping until [`LARGEST_DAMPING`]. Needs 8 n^2 bytes while
    /// it works and keeps 2 n^2.
    pub fn new(hessian: &Hessian, options: &FactorOptions) -> Result<Self, FactorError> {
        if hessian.normaliser() == 0.0 {
            return Err(FactorError::Empty);
        }
        if !hessian.is_finite() || !hessian.normaliser().is_finite() {
            return Err(FactorError::NotFinite);
        }
        let diagonal = hessian.diagonal();
        let n = diagonal.len();
        let order = order(&diagonal, options.act_order);
        let mean = diagonal.iter().sum::<f64>() / n.max(1) as f64;
        let mut damping = options.damping;
        let (lower, lambda) = loop {
            let lambda = damping * mean;
            let mut lower = reversed(hessian, &order, lambda);
            match cholesky(&mut lower) {
                Ok(()) => break (lower, lambda),
                Err(_) if damping >= LARGEST_DAMPING || mean == 0.0 => {
                    return Err(FactorError::Singular { damping });
                }
                Err(_) => damping = (damping * 10.0).clamp(SMALLEST_DAMPING, LARGEST_DAMPING),
            }
        };
        let dead = diagonal.iter().filter(|d| **d == 0.0).count();
        let diagonal = diagonal.iter().map(|d| *d as f32).collect();
        let transposed = flipped(&lower);
        let mut pivots = vec![0.0; n];
        for (j, column) in order.iter().enumerate() {
            pivots[*column] = transposed.symmetric(j, j).powi(2);
        }
        Ok(Self { n, order, transposed, diagonal, pivots, damping, lambda, dead })
    }

    /// Channels, the columns of the weights.
    pub fn channels(&self) -> usize {
        self.n
    }

    /// The columns in the order in which they are rounded.
    pub fn order(&self) -> &[usize] {
        &self.order
    }

    /// Column `j` of `R`, down to and with the diagonal; `j` counts in the order of rounding.
    pub fn column(&self, j: usize) -> &[f32] {
        self.transposed.row(j)
    }

    /// `R[j, j]^2` in the order of the columns: what a squared error of a column costs when GPTQ has corrected for it, so its expected share of
    /// the error.
    pub fn pivots(&self) -> &[f32] {
        &self.pivots
    }

    /// The diagonal of `H` without damping, in the order of the columns: what a squared error of a column costs when nothing corrects for it.
    pub fn diagonal(&self) -> &[f32] {
        &self.diagonal
    }

    /// The damping used, relative to the mean diagonal; more than was asked for if `H` needed it.
    pub fn damping(&self) -> f64 {
        self.damping
    }

    /// What was added to the diagonal of `H`.
    pub fn lambda(&self) -> f64 {
        self.lambda
    }

    /// Columns whose inputs were always zero. Nothing corrects for them and they correct nothing: they are rounded to nearest.
    pub fn dead(&self) -> usize {
        self.dead
    }
}

/// All columns, with `act_order` by falling diagonal, equal ones by index.
fn order(diagonal: &[f64], act_order: bool) -> Vec<usize> {
    let mut order: Vec<usize> = (0..diagonal.len()).collect();
    if act_order {
        order.sort_by(|a, b| diagonal[*b].total_cmp(&diagonal[*a]));
    }
    order
}

/// The damped Hessian in reverse order: its lower factor, read backwards in both directions, is the upper factor `R`.
fn reversed(hessian: &Hessian, order: &[usize], lambda: f64) -> Triangle<f64> {
    let (n, scale) = (order.len(), hessian.normaliser());
    // Rows of the full matrix are contiguous: gathering from the triangle would miss the cache on every other element.
    let full = hessian.lower.mirrored();
    let backwards: Vec<usize> = order.iter().rev().copied().collect();
    let mut a = Triangle::zeros(n);
    a.blocks_mut().into_par_iter().for_each(|(range, block)| {
        block.par_chunks_mut(range.end).zip(range).for_each(|(row, i)| {
            let from = &full[backwards[i] * n..][..n];
            for (x, j) in row.iter_mut().zip(&backwards[..=i]) {
                *x = f64::from(from[*j]) * scale;
            }
            row[i] += lambda;
        });
    });
    a
}

/// `R^T` from the factor `L` of the reversed matrix: `R^T[j, i] = L[n - 1 - i, n - 1 - j]`.
fn flipped(lower: &Triangle<f64>) -> Triangle<f32> {
    let n = lower.len();
    let mut out = Triangle::zeros(n);
    out.blocks_mut().into_par_iter().for_each(|(range, block)| {
        let stride = range.end;
        for start in (0..range.end).step_by(STRIP) {
            let strip = start..range.end.min(start + STRIP);
            for i in strip {
                let from = lower.row(n - 1 - i);
                for j in range.start.max(i)..range.end {
                    block[(j - range.start) * stride + i] = from[n - 1 - j] as f32;
                }
            }
        }
    });
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::numeric::random::Random;

    /// A Hessian of `rows` inputs over `n` channels of different sizes.
    fn hessian(rows: usize, n: usize, seed: u64) -> Hessian {
        let mut random = Random::new(seed);
        let x: Vec<f32> =
            (0..rows * n).map(|i| (random.normal() * (1.0 + (i * 7 % n) as f64 / n as f64)) as f32).collect();
        let mut hessian = Hessian::new(n);
        hessian.add(&x, 1.0);
        hessian
    }

    /// Largest difference of `R R^T` from the damped Hessian in the factor's order, over its largest diagonal.
    fn difference(hessian: &Hessian, factor: &Factor) -> f64 {
        let (n, order) = (factor.channels(), factor.order());
        let r = |i: usize, j: usize| f64::from(factor.column(j)[i]);
        let mut worst = 0.0f64;
        for i in 0..n {
            for j in (0..=i).step_by(n.div_ceil(40)).chain([i]) {
                let found: f64 = (i..n).map(|t| r(i, t) * r(j, t)).sum();
                let h = f64::from(hessian.lower.symmetric(order[i], order[j])) * hessian.normaliser();
                worst = worst.max((found - h - if i == j { factor.lambda() } else { 0.0 }).abs());
            }
        }
        worst / hessian.diagonal().iter().fold(0.0, |m: f64, d| m.max(*d))
    }

    #[test]
    fn product_of_the_factor_is_the_damped_hessian() {
        for (rows, n) in [(4, 1), (30, 20), (400, 256), (200, 300), (800, 600)] {
            for act_order in [false, true] {
                let hessian = hessian(rows, n, 5);
                let factor = Factor::new(&hessian, &FactorOptions { damping: 0.01, act_order }).unwrap();
                // R is rounded to f32; measured 1.1e-7.
                assert!(difference(&hessian, &factor) < 4e-7, "{n}: {}", difference(&hessian, &factor));
                assert_eq!((factor.damping(), factor.dead()), (0.01, 0));
                let mean = hessian.diagonal().iter().sum::<f64>() / n as f64;
                assert!((factor.lambda() - 0.01 * mean).abs() < 1e-12 * mean);
            }
        }
    }

    #[test]
    fn columns_go_by_falling_diagonal_and_equal_ones_by_index() {
        let mut hessian = Hessian::new(5);
        hessian.add(&[1.0, 3.0, 2.0, 3.0, 0.5], 1.0);
        let order = |act_order| {
            Factor::new(&hessian, &FactorOptions { damping: 0.01, act_order }).unwrap().order().to_vec()
        };
        assert_eq!(order(true), [1, 3, 2, 0, 4]);
        assert_eq!(order(false), [0, 1, 2, 3, 4]);
    }

    #[test]
    fn dead_columns_are_counted_and_stand_alone() {
        let mut hessian = Hessian::new(4);
        hessian.add(&[1.0, 0.0, 2.0, 0.0, 2.0, 0.0, 1.0, 0.0], 1.0);
        let factor = Factor::new(&hessian, &FactorOptions::default()).unwrap();
        assert_eq!((factor.dead(), factor.order()), (2, [0, 2, 1, 3].as_slice()));
        let pivot = factor.lambda().sqrt() as f32;
        assert_eq!(
            (factor.column(2), factor.column(3)),
            ([0.0, 0.0, pivot].as_slice(), [0.0, 0.0, 0.0, pivot].as_slice())
        );
        assert_eq!(factor.diagonal(), [2.5, 0.0, 2.5, 0.0]);
        assert_eq!(factor.pivots()[3], pivot * pivot);
    }

    #[test]
    fn a_singular_hessian_raises_the_damping() {
        // Two rows over 40 channels: rank 2.
        let hessian = hessian(2, 40, 6);
        let factor = Factor::new(&hessian, &FactorOptions { damping: 0.0, act_order: true }).unwrap();
        assert_eq!(factor.damping(), SMALLEST_DAMPING);
        assert!(difference(&hessian, &factor) < 4e-7);
        let kept = Factor::new(&hessian, &FactorOptions { damping: 0.05, act_order: true }).unwrap();
        assert_eq!(kept.damping(), 0.05);
    }

    #[test]
    fn hessians_without_a_factor_are_refused() {
        let mut hessian = Hessian::new(3);
        let new = |hessian: &Hessian| Factor::new(hessian, &FactorOptions::default()).map(|_| ());
        assert_eq!(new(&hessian), Err(FactorError::Empty));
        hessian.add(&[0.0; 6], 1.0);
        assert_eq!(new(&hessian), Err(FactorError::Singular { damping: 0.01 }));
        hessian.add(&[1.0, f32::NAN, 0.0], 1.0);
        assert_eq!(new(&hessian), Err(FactorError::NotFinite));
    }

    #[test]
    fn thread_count_does_not_change_a_bit() {
        let hessian = hessian(500, 700, 7);
        let run = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| Factor::new(&hessian, &FactorOptions::default()).unwrap().transposed)
        };
        assert_eq!(run(1), run(5));
    }
}
