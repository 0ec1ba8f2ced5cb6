//! One float matrix to codes on a grid: scales, then nearest rounding or GPTQ, and row by row never worse than nearest rounding at the largest
//! weights.

use super::factor::Factor;
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
    let channels = factor.map_or(cols, Factor::channels);
    if rows.checked_mul(cols) != Some(w.len()) || channels != cols {
        return Err(QuantizeError::Shape { rows, cols, found: w.len(), channels });
    }
    if let Some(i) = w.iter().position(|x| !x.is_finite()) {
        return Err(QuantizeError::NotFinite { row: i / cols, column: i % cols });
    }
    if how.rounding == Rounding::Gptq && factor.is_none() {
        return Err(QuantizeError::NoFactor);
    }
    let base = Rounded::nearest(w, cols, grid, scales(w, cols, grid, None, false), factor);
    let nearest_error = base.errors.iter().sum();
    let chosen = match (how.rounding, factor) {
        (Rounding::Gptq, Some(factor)) => {
            let scales = scales(w, cols, grid, Some(factor.pivots()), how.search);
            let (codes, errors) = gptq(w, grid, &scales, factor);
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

/// A matrix with the error of each row.
struct Rounded {
    matrix: GridMatrix,
    errors: Vec<f64>,
}

impl Rounded {
    fn nearest(w: &[f32], cols: usize, grid: Grid, scales: Scales, factor: Option<&Factor>) -> Self {
        let codes = nearest(w, cols, grid, &scales);
        let matrix = GridMatrix::new(grid, cols, codes, scales);
        let e = matrix.errors(w);
        let plain = |e: &[f32]| e.iter().map(|e| f64::from(*e).powi(2)).sum();
        let errors = factor.map_or_else(|| e.chunks(cols.max(1)).map(plain).collect(), |f| row_errors(&e, f));
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
