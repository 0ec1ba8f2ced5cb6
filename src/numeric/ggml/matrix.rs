//! A matrix in blocks: made from floats as ggml does, read back, its rows put in another order.

use std::marker::PhantomData;

use faer::traits::pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use super::codec::{self, Codec};
use super::{BlockType, dispatch, float};

/// A matrix in the bytes of a block type.
#[derive(Clone, Debug, PartialEq)]
pub struct BlockMatrix {
    /// Type of every block.
    pub kind: BlockType,
    /// Output channels.
    pub rows: usize,
    /// Input channels, a multiple of the block's values.
    pub cols: usize,
    /// Blocks of all rows, row after row.
    pub bytes: Vec<u8>,
}

/// Why a matrix cannot be held in blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BlockError {
    /// Rows that are not made of whole blocks.
    #[error(
        "rows of {cols} values in {}: expected a multiple of {}; choose a type with smaller blocks or f16",
        kind.name(), kind.values()
    )]
    Columns {
        /// The type.
        kind: BlockType,
        /// Values of a row.
        cols: usize,
    },
    /// A number of values, bytes, codes or importances that is not the shape's.
    #[error("{found} {what} for a matrix of {rows} x {cols} in {}: expected {expected}", kind.name())]
    Length {
        /// The type.
        kind: BlockType,
        /// What was counted.
        what: &'static str,
        /// Output channels.
        rows: usize,
        /// Input channels.
        cols: usize,
        /// How many the shape needs.
        expected: usize,
        /// How many there are.
        found: usize,
    },
    /// A weight that is NaN or infinite.
    #[error("weight {column} of row {row} is not finite: expected finite weights; look at the checkpoint")]
    NotFinite {
        /// Its row.
        row: usize,
        /// Its column.
        column: usize,
    },
    /// A type of floats where codes are needed.
    #[error("{} has no codes: expected a quantized type; round to nearest", kind.name())]
    Float {
        /// The type.
        kind: BlockType,
    },
    /// A code outside of the type's range.
    #[error("the code {code} in {}: expected {lowest} to {highest}", kind.name())]
    Code {
        /// The type.
        kind: BlockType,
        /// The code.
        code: i8,
        /// Lowest code of the type.
        lowest: i16,
        /// Highest code of the type.
        highest: i16,
    },
    /// A grid whose blocks are not those of the type.
    #[error(
        "a grid with blocks of {block:?} columns as {}: expected one scale for whole blocks of {} and a type without minimums and inner scales",
        kind.name(), kind.values()
    )]
    Grid {
        /// The type.
        kind: BlockType,
        /// Columns of the grid's blocks.
        block: Option<usize>,
    },
    /// A step of a grid that is not of half precision.
    #[error(
        "the step of row {row} at column {column} is not a number of half precision, which {} needs; quantize to that type itself",
        kind.name()
    )]
    Step {
        /// The type.
        kind: BlockType,
        /// Row of the matrix.
        row: usize,
        /// First column of the block.
        column: usize,
    },
    /// An importance that is negative, NaN or infinite.
    #[error(
        "the importance of column {column} is negative or not finite: expected mean squares of inputs; look at the calibration samples"
    )]
    Importance {
        /// Its column.
        column: usize,
    },
}

impl BlockMatrix {
    /// The matrix of these bytes, blocks of all rows, row after row.
    pub fn new(kind: BlockType, rows: usize, cols: usize, bytes: Vec<u8>) -> Result<Self, BlockError> {
        let expected = size(kind, rows, cols)?;
        let found = bytes.len();
        if expected != Some(found) {
            let expected = expected.unwrap_or(usize::MAX);
            return Err(BlockError::Length { kind, what: "bytes", rows, cols, expected, found });
        }
        Ok(Self { kind, rows, cols, bytes })
    }

    /// Bytes of a row.
    pub fn row_bytes(&self) -> usize {
        self.kind.size_of(self.cols)
    }

    /// The values, `[rows, cols]` row-major: bit for bit what ggml's `dequantize_row_*` give.
    pub fn dequantize(&self) -> Vec<f32> {
        let mut out = vec![0.0; self.rows * self.cols];
        let rows = out.par_chunks_mut(self.cols.max(1)).zip(self.bytes.par_chunks(self.row_bytes().max(1)));
        rows.for_each(|(out, row)| self.dequantize_row(row, out));
        out
    }

    fn dequantize_row(&self, row: &[u8], out: &mut [f32]) {
        use codec::dequantize;
        dispatch!(self.kind, dequantize(row, out), float::dequantize(row, self.kind, out));
    }

    /// What rounding changed, `w` less the values; `w` is `[rows, cols]` row-major.
    pub fn errors(&self, w: &[f32]) -> Vec<f32> {
        let mut errors = self.dequantize();
        errors.par_iter_mut().zip(w).for_each(|(e, w)| *e = w - *e);
        errors
    }

    /// The matrix whose row `i` is row `order[i]` of this one; every index is below [`rows`](Self::rows).
    pub fn permute_rows(&self, order: &[usize]) -> Self {
        let row = self.row_bytes();
        let bytes = order.iter().flat_map(|r| &self.bytes[r * row..][..row]).copied().collect();
        Self { kind: self.kind, rows: order.len(), cols: self.cols, bytes }
    }

    /// Replaces row `row` by that row of `other`, a matrix of the same type and columns.
    pub(in crate::numeric) fn copy_row(&mut self, other: &Self, row: usize) {
        let bytes = row * self.row_bytes()..(row + 1) * self.row_bytes();
        self.bytes[bytes.clone()].copy_from_slice(&other.bytes[bytes]);
    }

    /// The rows of all parts, one part after the other; they must have one type and one number of columns. `None` without parts.
    pub fn stack(parts: &[Self]) -> Result<Option<Self>, BlockError> {
        let Some(first) = parts.first() else { return Ok(None) };
        let mut all = Self { kind: first.kind, rows: 0, cols: first.cols, bytes: vec![] };
        for part in parts {
            if (part.kind, part.cols) != (all.kind, all.cols) {
                let (kind, rows, cols) = (all.kind, part.rows, all.cols);
                let (expected, found) = (kind.size_of(rows * cols), part.bytes.len());
                return Err(BlockError::Length {
                    kind,
                    what: "bytes of a part",
                    rows,
                    cols,
                    expected,
                    found,
                });
            }
            all.rows += part.rows;
            all.bytes.extend_from_slice(&part.bytes);
        }
        Ok(Some(all))
    }
}

/// Bytes of a matrix; none where they cannot be counted.
fn size(kind: BlockType, rows: usize, cols: usize) -> Result<Option<usize>, BlockError> {
    if !kind.divides(cols) {
        return Err(BlockError::Columns { kind, cols });
    }
    Ok((cols / kind.values()).checked_mul(kind.bytes()).and_then(|row| row.checked_mul(rows)))
}

/// `w`, `[rows, cols]` row-major, in the bytes that ggml's `ggml_quantize_chunk` gives, without or with an importance matrix (one number per
/// column: the mean square of that input, or any multiple). Floats and Q8_0 do not look at importance.
pub fn reference(
    w: &[f32],
    (rows, cols): (usize, usize),
    kind: BlockType,
    importance: Option<&[f32]>,
) -> Result<BlockMatrix, BlockError> {
    let length = |what, expected, found| BlockError::Length { kind, what, rows, cols, expected, found };
    let bytes = size(kind, rows, cols)?;
    let (Some(bytes), true) = (bytes, rows.checked_mul(cols) == Some(w.len())) else {
        return Err(length("weights", rows.saturating_mul(cols), w.len()));
    };
    if let Some(i) = w.iter().position(|x| !x.is_finite()) {
        return Err(BlockError::NotFinite { row: i / cols, column: i % cols });
    }
    if let Some(v) = importance {
        if v.len() != cols {
            return Err(length("importances", cols, v.len()));
        }
        if let Some(column) = v.iter().position(|v| !(v.is_finite() && *v >= 0.0)) {
            return Err(BlockError::Importance { column });
        }
    }
    let mut bytes = vec![0; bytes];
    let row_bytes = kind.size_of(cols).max(1);
    bytes.par_chunks_mut(row_bytes).zip(w.par_chunks(cols.max(1))).for_each(|(out, x)| {
        dispatch!(kind, round_row(x, importance, out), float::round_row(x, kind, out));
    });
    Ok(BlockMatrix { kind, rows, cols, bytes })
}

/// One row, with the widest vectors of the machine; the operations and their order do not depend on them.
fn round_row<C: Codec>(x: &[f32], importance: Option<&[f32]>, out: &mut [u8]) {
    Arch::new().dispatch(Row { x, importance, out, codec: PhantomData::<C> });
}

/// A call of [`codec::round_row`]: a closure might not be inlined where the widest vectors are.
struct Row<'a, C> {
    x: &'a [f32],
    importance: Option<&'a [f32]>,
    out: &'a mut [u8],
    codec: PhantomData<C>,
}

impl<C: Codec> WithSimd for Row<'_, C> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        codec::round_row::<C>(self.x, self.importance, self.out);
    }
}
