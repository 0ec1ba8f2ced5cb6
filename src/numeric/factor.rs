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
    /// Factors `H` in f64. A Hessian that is not positive definite gets ten times the damping until [`LARGEST_DAMPING`]. Needs 4 n^2 bytes while
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
    let scale = hessian.normaliser();
    let backwards: Vec<usize> = order.iter().rev().copied().collect();
    let mut a = Triangle::zeros(order.len());
    a.blocks_mut().into_par_iter().for_each(|(range, block)| {
        block.par_chunks_mut(range.end).zip(range).for_each(|(row, i)| {
            for (x, j) in row.iter_mut().zip(&backwards[..i]) {
                *x = f64::from(hessian.lower.symmetric(backwards[i], *j)) * scale;
            }
            row[i] = f64::from(hessian.lower.symmetric(backwards[i], backwards[i])) * scale + lambda;
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
            for j in range.clone().filter(|j| *j >= start) {
                for i in strip.clone().take_while(|i| *i <= j) {
                    block[(j - range.start) * stride + i] = lower.row(n - 1 - i)[n - 1 - j] as f32;
                }
            }
        }
    });
    out
}
