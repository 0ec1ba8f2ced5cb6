//! One float matrix to ggml's blocks: as ggml rounds, with or without importance, or GPTQ at scales searched for it.

use super::{QuantizeError, Sizes};
use crate::numeric::factor::Factor;
use crate::numeric::ggml::{BlockMatrix, BlockType, fitted, reference};
use crate::numeric::gptq::gptq;

/// How weights are rounded to blocks.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum BlockRounding<'a> {
    /// ggml's own rounding.
    Nearest,
    /// ggml's own rounding with an importance matrix: one number per input channel, its mean square or any multiple of it.
    Importance(&'a [f32]),
    /// Codes column by column, each correcting for the errors before it (arXiv 2210.17323), at scales set before.
    Gptq {
        /// Whether scales are searched by the error that GPTQ leaves; otherwise they are ggml's.
        search: bool,
    },
}

/// A matrix in blocks and what it cost.
#[derive(Clone, Debug, PartialEq)]
pub struct QuantizedBlocks {
    /// The matrix.
    pub matrix: BlockMatrix,
    /// `tr(E H E^T)` of its errors `E`, without damping; without a factor `|E|^2`.
    pub error: f64,
    /// The same for ggml's rounding without importance.
    pub nearest_error: f64,
    /// Rows where ggml's rounding without importance had the smaller error, so that it was kept; counted with GPTQ only.
    pub rows_kept_nearest: usize,
}

/// Puts `w`, `[rows, cols]` row-major, into blocks of a type.
///
/// With a factor errors are weighted by its Hessian, else they are plain squares. [`BlockRounding::Nearest`] and
/// [`BlockRounding::Importance`] give the bytes that ggml gives, whatever their error. With [`BlockRounding::Gptq`] each row is compared with
/// ggml's rounding, and the better one is kept. Floats have one rounding, the nearest.
pub fn quantize_blocks(
    w: &[f32],
    (rows, cols): (usize, usize),
    kind: BlockType,
    how: BlockRounding<'_>,
    factor: Option<&Factor>,
) -> Result<QuantizedBlocks, QuantizeError> {
    let sizes = Sizes { rows, cols };
    sizes.check(w, factor)?;
    let base = reference(w, (rows, cols), kind, None)?;
    let base_errors = errors(&base, w, factor)?;
    let nearest_error = base_errors.iter().sum();
    let (matrix, error) = match how {
        BlockRounding::Nearest => (base, nearest_error),
        BlockRounding::Importance(importance) => {
            let matrix = reference(w, (rows, cols), kind, Some(importance))?;
            let error = errors(&matrix, w, factor)?.iter().sum();
            (matrix, error)
        }
        BlockRounding::Gptq { search } => {
            let factor = factor.ok_or(QuantizeError::NoFactor)?;
            let scaled = if search { fitted(w, (rows, cols), kind, factor)? } else { base.clone() };
            let (codes, errors) = gptq(w, &scaled.lattice()?, factor);
            let mut matrix = scaled.with_codes(&codes)?;
            let worse: Vec<usize> = (0..rows).filter(|r| base_errors[*r] < errors[*r]).collect();
            worse.iter().for_each(|r| matrix.copy_row(&base, *r));
            let error = errors.iter().zip(&base_errors).map(|(a, b)| a.min(*b)).sum();
            return Ok(QuantizedBlocks { matrix, error, nearest_error, rows_kept_nearest: worse.len() });
        }
    };
    Ok(QuantizedBlocks { matrix, error, nearest_error, rows_kept_nearest: 0 })
}

/// The error of each row; a matrix with values that are not finite is refused.
fn errors(matrix: &BlockMatrix, w: &[f32], factor: Option<&Factor>) -> Result<Vec<f64>, QuantizeError> {
    let e = matrix.errors(w);
    if let Some(i) = e.iter().position(|e| !e.is_finite()) {
        return Err(QuantizeError::Overflow { row: i / matrix.cols });
    }
    Ok(Sizes { rows: matrix.rows, cols: matrix.cols }.errors(&e, factor))
}

#[cfg(test)]
mod tests;
