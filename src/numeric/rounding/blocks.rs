//! One float matrix to ggml's blocks: as ggml rounds, with or without importance, or GPTQ at scales searched for it.

use super::{QuantizeError, Sizes};
use crate::numeric::factor::Factor;
use crate::numeric::ggml::{BlockMatrix, BlockType, reference};

/// How weights are rounded to blocks.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum BlockRounding<'a> {
    /// ggml's own rounding.
    Nearest,
    /// ggml's own rounding with an importance matrix: one number per input channel, its mean square or any multiple of it.
    Importance(&'a [f32]),
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
/// [`BlockRounding::Importance`] give the bytes that ggml gives, whatever their error.
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
    let nearest_error = errors(&base, w, factor)?.iter().sum();
    let (matrix, error) = match how {
        BlockRounding::Nearest => (base, nearest_error),
        BlockRounding::Importance(importance) => {
            let matrix = reference(w, (rows, cols), kind, Some(importance))?;
            let error = errors(&matrix, w, factor)?.iter().sum();
            (matrix, error)
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
