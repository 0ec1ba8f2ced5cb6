//! One float matrix to codes on a grid: scales, then nearest rounding or GPTQ, and row by row never worse than nearest rounding at the largest
//! weights.

mod blocks;

pub use blocks::{BlockRounding, QuantizedBlocks, quantize_blocks};

use super::factor::Factor;
use super::ggml::BlockError;
use super::gptq::{gptq, row_errors};
use super::grid::{Grid, GridError, GridMatrix, Scales, nearest, scales};

/// How weights are rounded.
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
#[serde(rename_all = "snake_case")]
pub enum Rounding {
    /// Each weight to the nearest value, ties to even.
    Nearest,
    /// Column by column, each correcting for the errors before it (arXiv 2210.17323).
    Gptq,
}

/// How a matrix is quantized.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// How weights are rounded at given scales.
    pub rounding: Rounding,
    /// Whether scales are searched that clip the largest weights when that costs less; otherwise the largest weight lies on the largest code.
    pub search: bool,
}

/// A quantized matrix and what it cost.
#[derive(Clone, Debug, PartialEq)]
pub struct Quantized {
    /// The matrix.
    pub matrix: GridMatrix,
    /// `tr(E H E^T)` of its errors `E`, without damping; without a factor `|E|^2`.
    pub error: f64,
    /// The same for nearest rounding with the largest weights on the largest code.
    pub nearest_error: f64,
    /// Rows where nearest rounding with the largest weights on the largest code had the smaller error, so that it was kept.
    pub rows_kept_nearest: usize,
}

/// Why a matrix cannot be quantized.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QuantizeError {
    /// The grid does not exist.
    #[error(transparent)]
    Grid(#[from] GridError),
    /// Operands that do not fit together.
    #[error(
        "a matrix of {rows} x {cols} with {found} weights and a Hessian of {channels} channels: expected {rows} x {cols} weights and {cols} channels"
    )]
    Shape {
        /// Output channels said.
        rows: usize,
        /// Input channels said.
        cols: usize,
        /// Weights given.
        found: usize,
        /// Channels of the factor; `cols` without one.
        channels: usize,
    },
    /// A weight that is NaN or infinite.
    #[error("weight {column} of row {row} is not finite: expected finite weights; look at the checkpoint")]
    NotFinite {
        /// Its row.
        row: usize,
        /// Its column.
        column: usize,
    },
    /// Blocks that do not fit, or an importance that is none.
    #[error(transparent)]
    Block(#[from] BlockError),
    /// Scales beyond half precision.
    #[error(
        "row {row} has weights that scales in half precision cannot reach: expected weights far below 65504 times the largest code; choose bf16 or f32"
    )]
    Overflow {
        /// The row.
        row: usize,
    },
    /// GPTQ without a factor.
    #[error(
        "GPTQ without a factored Hessian: expected one per linear; calibrate the linear, or round to nearest"
    )]
    NoFactor,
}

/// Quantizes `w`, `[rows, cols]` row-major, to `grid`.
///
/// With a factor errors are weighted by its Hessian, and each row is compared with nearest rounding at the largest weights: the better one is
/// kept, so no row is worse than that. Without a factor (nearest rounding only) errors are plain squares.
pub fn quantize_matrix(
    w: &[f32],
    (rows, cols): (usize, usize),
    grid: Grid,
    how: Options,
    factor: Option<&Factor>,
) -> Result<Quantized, QuantizeError> {
    grid.valid()?;
    let sizes = Sizes { rows, cols };
    sizes.check(w, factor)?;
    if how.rounding == Rounding::Gptq && factor.is_none() {
        return Err(QuantizeError::NoFactor);
    }
    let base = Rounded::nearest(w, cols, grid, scales(w, cols, grid, None, false), factor);
    let nearest_error = base.errors.iter().sum();
    let chosen = match (how.rounding, factor) {
        (Rounding::Gptq, Some(factor)) => {
            let scales = scales(w, cols, grid, Some(factor.pivots()), how.search);
            let (codes, errors) = gptq(w, &grid.lattice(&scales, cols), factor);
            Rounded { matrix: GridMatrix::new(grid, cols, codes, scales), errors }
        }
        _ if how.search => {
            let scales = scales(w, cols, grid, factor.map(Factor::diagonal), true);
            Rounded::nearest(w, cols, grid, scales, factor)
        }
        _ => {
            return Ok(Quantized {
                matrix: base.matrix,
                error: nearest_error,
                nearest_error,
                rows_kept_nearest: 0,
            });
        }
    };
    let (kept, rows_kept_nearest) = chosen.or_better(&base);
    Ok(Quantized { matrix: kept.matrix, error: kept.errors.iter().sum(), nearest_error, rows_kept_nearest })
}

/// The shape of a matrix.
#[derive(Clone, Copy)]
struct Sizes {
    rows: usize,
    cols: usize,
}

impl Sizes {
    /// Refuses weights that are not of this shape, not the factor's or not finite.
    fn check(self, w: &[f32], factor: Option<&Factor>) -> Result<(), QuantizeError> {
        let Self { rows, cols } = self;
        let channels = factor.map_or(cols, Factor::channels);
        if rows.checked_mul(cols) != Some(w.len()) || channels != cols {
            return Err(QuantizeError::Shape { rows, cols, found: w.len(), channels });
        }
        let bad = w.iter().position(|x| !x.is_finite());
        bad.map_or(Ok(()), |i| Err(QuantizeError::NotFinite { row: i / cols, column: i % cols }))
    }

    /// The error of each row of weight errors `e`: weighted by the Hessian, or squares.
    fn errors(self, e: &[f32], factor: Option<&Factor>) -> Vec<f64> {
        let plain = |e: &[f32]| e.iter().map(|e| f64::from(*e).powi(2)).sum();
        factor.map_or_else(|| e.chunks(self.cols.max(1)).map(plain).collect(), |f| row_errors(e, f))
    }
}

/// A matrix with the error of each row.
struct Rounded {
    matrix: GridMatrix,
    errors: Vec<f64>,
}

impl Rounded {
    fn nearest(w: &[f32], cols: usize, grid: Grid, scales: Scales, factor: Option<&Factor>) -> Self {
        let codes = nearest(w, cols, grid, &scales);
        let matrix = GridMatrix::new(grid, cols, codes, scales);
        let errors = Sizes { rows: matrix.rows, cols }.errors(&matrix.errors(w), factor);
        Self { matrix, errors }
    }

    /// Rows of `base` in place of those that are worse, and how many.
    fn or_better(mut self, base: &Self) -> (Self, usize) {
        let worse: Vec<usize> =
            (0..self.errors.len()).filter(|r| base.errors[*r] < self.errors[*r]).collect();
        for r in &worse {
            self.matrix.copy_row(&base.matrix, *r);
            self.errors[*r] = base.errors[*r];
        }
        (self, worse.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::numeric::random::Random;
    use crate::numeric::{FactorOptions, Hessian};

    const ALL: [Options; 4] = [
        Options { rounding: Rounding::Nearest, search: false },
        Options { rounding: Rounding::Nearest, search: true },
        Options { rounding: Rounding::Gptq, search: false },
        Options { rounding: Rounding::Gptq, search: true },
    ];

    fn normals(count: usize, seed: u64) -> Vec<f32> {
        let mut random = Random::new(seed);
        (0..count).map(|_| random.normal() as f32).collect()
    }

    /// Inputs whose neighbours are alike.
    fn hessian(n: usize, seed: u64) -> Hessian {
        let mut x = normals(3 * n * n, seed);
        for i in 1..x.len() {
            x[i] = 0.8 * x[i - 1] + 0.6 * x[i];
        }
        let mut hessian = Hessian::new(n);
        hessian.add(&x, 1.0);
        hessian
    }

    #[test]
    fn errors_reported_are_those_of_the_matrix_and_no_row_is_worse_than_nearest() {
        let (n, rows) = (300, 40);
        let w = normals(rows * n, 1);
        let hessian = hessian(n, 2);
        let factor = Factor::new(&hessian, &FactorOptions::default()).unwrap();
        for grid in [(8, None), (4, None), (3, None), (2, None), (4, Some(64)), (2, Some(128))] {
            let grid = Grid { bits: grid.0, block: grid.1 };
            let base = quantize_matrix(&w, (rows, n), grid, ALL[0], Some(&factor)).unwrap();
            let least = row_errors(&base.matrix.errors(&w), &factor);
            for how in ALL {
                let found = quantize_matrix(&w, (rows, n), grid, how, Some(&factor)).unwrap();
                let e = found.matrix.errors(&w);
                let total = hessian.weighted_error(&e);
                // Products in f32, with and without the factor: measured 4e-8.
                assert!(
                    (found.error - total).abs() <= 1e-6 * total,
                    "{grid:?} {how:?}: {} for {total}",
                    found.error
                );
                assert_eq!(found.nearest_error, base.error);
                for (r, (found, base)) in row_errors(&e, &factor).iter().zip(&least).enumerate() {
                    // GPTQ's own sums differ from these by the rounding of values to f32, at 8 bits up to 2e-5.
                    assert!(*found <= base * (1.0 + 1e-4), "{grid:?} {how:?}: row {r}: {found} over {base}");
                }
            }
        }
    }

    #[test]
    fn rows_where_nearest_is_better_are_kept() {
        // 2 bits and damping 1: GPTQ weighs errors by a Hessian that is half identity, so it loses on some rows.
        let (n, rows) = (40, 200);
        let w = normals(rows * n, 3);
        let factor = Factor::new(&hessian(n, 4), &FactorOptions { damping: 1.0, act_order: false }).unwrap();
        let grid = Grid { bits: 2, block: None };
        let found = quantize_matrix(&w, (rows, n), grid, ALL[2], Some(&factor)).unwrap();
        let base = quantize_matrix(&w, (rows, n), grid, ALL[0], Some(&factor)).unwrap();
        let same =
            (0..rows).filter(|r| found.matrix.codes[r * n..][..n] == base.matrix.codes[r * n..][..n]).count();
        assert!(
            found.rows_kept_nearest > 0 && found.rows_kept_nearest < rows && same >= found.rows_kept_nearest
        );
        assert!(found.error < base.error);
    }

    #[test]
    fn nearest_rounding_needs_no_factor() {
        let w = normals(3 * 50, 5);
        let grid = Grid { bits: 8, block: None };
        let found = quantize_matrix(&w, (3, 50), grid, ALL[0], None).unwrap();
        let (codes, scales) = crate::numeric::grid::int8_per_row(&w, 50);
        assert_eq!((&found.matrix.codes, &found.matrix.scales), (&codes, &scales));
        let plain: f64 = found.matrix.errors(&w).iter().map(|e| f64::from(*e).powi(2)).sum();
        assert!((found.error - plain).abs() < 1e-12 * plain && found.error == found.nearest_error);
        let coarse = Grid { bits: 3, block: Some(32) };
        let searched = quantize_matrix(&w, (3, 50), coarse, ALL[1], None).unwrap();
        assert!(searched.error < searched.nearest_error);
    }

    #[test]
    fn what_cannot_be_quantized_is_refused() {
        let (w, grid) = (vec![1.0; 6], Grid { bits: 4, block: None });
        let of = |w: &[f32], shape, grid, how| quantize_matrix(w, shape, grid, how, None).map(|_| ());
        let bits = of(&w, (2, 3), Grid { bits: 5, block: None }, ALL[0]);
        assert_eq!(bits, Err(QuantizeError::Grid(GridError::Bits(5))));
        assert_eq!(of(&w, (2, 3), grid, ALL[2]), Err(QuantizeError::NoFactor));
        let shape = QuantizeError::Shape { rows: 2, cols: 4, found: 6, channels: 4 };
        assert_eq!(of(&w, (2, 4), grid, ALL[0]), Err(shape));
        let mut bad = w.clone();
        bad[4] = f32::NAN;
        assert_eq!(of(&bad, (2, 3), grid, ALL[0]), Err(QuantizeError::NotFinite { row: 1, column: 1 }));
        assert_eq!(of(&[], (0, 3), grid, ALL[1]), Ok(()));
    }
}
