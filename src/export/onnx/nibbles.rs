//! Codes as ONNX stores them: those of at most 4 bits two in a byte, the first in the low half (`onnx.proto`, `TensorProto.raw_data`).

use super::error::OnnxError;
use crate::numeric::grid::GridMatrix;

/// Where bytes go, in order.
pub type Sink<'a> = dyn FnMut(&[u8]) -> Result<(), OnnxError> + 'a;

/// Codes packed at once, about: a compromise between calls and memory beside the weight itself.
const BATCH: usize = 1 << 20;

/// Codes `[rows, cols]` row-major.
#[derive(Clone, Copy)]
pub struct CodesOf<'a> {
    /// The codes.
    pub codes: &'a [i8],
    /// Their rows.
    pub rows: usize,
    /// Their columns.
    pub cols: usize,
}

impl<'a> CodesOf<'a> {
    /// The codes of a matrix on a grid.
    pub fn grid(w: &'a GridMatrix) -> Self {
        Self { codes: &w.codes, rows: w.rows, cols: w.cols }
    }
}

/// Bytes of `n` codes.
pub fn bytes_of(n: usize) -> usize {
    n.div_ceil(2)
}

/// Codes in `-8..=7` as type INT4 of ONNX: two's complement; the other half of an odd last byte is 0.
pub fn int4(codes: &[i8]) -> Vec<u8> {
    let half = |code: &i8| (*code as u8) & 0x0f;
    codes.chunks(2).map(|pair| half(&pair[0]) | (pair.get(1).map_or(0, half) << 4)).collect()
}

/// The transpose `[padded, rows]` of the codes `[rows, cols]` as INT4; the rows from `cols` to `padded` are zeros.
///
/// # Errors
/// Those of the sink.
pub fn int4_transposed(w: CodesOf<'_>, padded: usize, sink: &mut Sink<'_>) -> Result<(), OnnxError> {
    // An even number of rows of the result, so that every batch but the last ends with a whole byte.
    let step = (BATCH / w.rows.max(1)).next_multiple_of(2).max(64);
    let mut out = Vec::new();
    for first in (0..padded).step_by(step) {
        let n = step.min(padded - first);
        out.clear();
        out.resize(n * w.rows, 0);
        for (r, row) in w.codes.chunks_exact(w.cols.max(1)).enumerate() {
            let known = &row[first.min(w.cols)..(first + n).min(w.cols)];
            known.iter().enumerate().for_each(|(k, code)| out[k * w.rows + r] = *code);
        }
        sink(&int4(&out))?;
    }
    Ok(())
}

/// The codes as MatMulNBits of 4 or 8 `bits` takes them, `[rows, blocks, block * bits / 8]` of uint8: blocks of `block` (even) columns, 0 on the middle of
/// the unsigned codes (8 or 128); what pads the last block is 0.
///
/// # Errors
/// Those of the sink.
pub fn nbits(w: CodesOf<'_>, bits: u8, block: usize, sink: &mut Sink<'_>) -> Result<(), OnnxError> {
    let padded = w.cols.next_multiple_of(block);
    let row_bytes = if bits == 8 { padded } else { bytes_of(padded) };
    let mut out = Vec::with_capacity(BATCH + row_bytes);
    let half = |code: Option<&i8>| (code.copied().unwrap_or(0) + 8) as u8;
    let whole = |code: Option<&i8>| (code.copied().unwrap_or(0) as u8).wrapping_add(128);
    for row in w.codes.chunks_exact(w.cols.max(1)) {
        match bits {
            8 => out.extend((0..row_bytes).map(|i| whole(row.get(i)))),
            _ => out.extend((0..row_bytes).map(|i| half(row.get(2 * i)) | (half(row.get(2 * i + 1)) << 4))),
        }
        if out.len() >= BATCH {
            sink(&out)?;
            out.clear();
        }
    }
    sink(&out)
}

/// Scales of blocks of `block` columns, multiplier times scale of the row, `[rows, blocks]`. `block` divides the grid's, or a row has one block.
pub fn block_scales(w: &GridMatrix, block: usize) -> Vec<f32> {
    let (own, blocks) = (w.grid.blocks(w.cols), w.cols.div_ceil(block));
    let wide = if own == 1 { w.cols } else { w.grid.block.unwrap_or(w.cols) }.max(1);
    let multiplier = |r: usize, b: usize| {
        let at = r * own + b * block / wide;
        w.multipliers.get(at).map_or(1.0, |m| f32::from(*m))
    };
    let of_row =
        |(r, scale): (usize, &f32)| (0..blocks).map(|b| multiplier(r, b) * scale).collect::<Vec<_>>();
    w.scales.iter().enumerate().flat_map(of_row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::numeric::grid::{Grid, Scales};

    fn matrix(block: Option<usize>, cols: usize, codes: &[i8], multipliers: &[u8]) -> GridMatrix {
        let scales = vec![0.5; codes.len() / cols];
        let scales = Scales { multipliers: multipliers.to_vec(), scales };
        GridMatrix::new(Grid { bits: 4, block }, cols, codes.to_vec(), scales)
    }

    fn collected(write: impl FnOnce(&mut Sink<'_>) -> Result<(), OnnxError>) -> Vec<u8> {
        let mut out = vec![];
        write(&mut |bytes| {
            out.extend_from_slice(bytes);
            Ok(())
        })
        .unwrap();
        out
    }

    #[test]
    fn known_bytes() {
        assert_eq!(int4(&[1, -1, 7, -7, -8]), [0xf1, 0x97, 0x08]);
        // Two rows of three columns: (1 2 3) and (-1 -2 -3).
        let w = matrix(None, 3, &[1, 2, 3, -1, -2, -3], &[]);
        assert_eq!(collected(|s| int4_transposed(CodesOf::grid(&w), 3, s)), [0xf1, 0xe2, 0xd3]);
        assert_eq!(collected(|s| int4_transposed(CodesOf::grid(&w), 4, s)), [0xf1, 0xe2, 0xd3, 0x00]);
        assert_eq!(collected(|s| nbits(CodesOf::grid(&w), 4, 4, s)), [0xa9, 0x8b, 0x67, 0x85]);
        assert_eq!(
            collected(|s| nbits(CodesOf::grid(&w), 8, 4, s)),
            [129, 130, 131, 128, 127, 126, 125, 128]
        );
    }

    #[test]
    fn transposition_is_the_definition_across_batches() {
        // The second has more than one batch, both an odd number of rows.
        for (rows, cols, padded) in [(3, 5, 6), (2049, 1100, 1104), (1, 70_000, 70_001)] {
            let codes: Vec<i8> = (0..rows * cols).map(|i| (i * 7 % 15) as i8 - 7).collect();
            let at = |i: usize| if i / rows < cols { codes[i % rows * cols + i / rows] } else { 0 };
            let want: Vec<i8> = (0..padded * rows).map(at).collect();
            let w = matrix(None, cols, &codes, &[]);
            assert!(
                collected(|s| int4_transposed(CodesOf::grid(&w), padded, s)) == int4(&want),
                "{rows} x {cols}"
            );
        }
    }

    #[test]
    fn scales_of_blocks() {
        let one = matrix(None, 5, &[0; 10], &[]);
        assert_eq!(block_scales(&one, 2), [0.5; 6]);
        let two = matrix(Some(4), 6, &[0; 12], &[1, 2, 3, 4]);
        assert_eq!(block_scales(&two, 4), [0.5, 1.0, 1.5, 2.0]);
        assert_eq!(block_scales(&two, 2), [0.5, 0.5, 1.0, 1.5, 1.5, 2.0]);
        // One block holds the row, whatever its size.
        let wide = matrix(Some(7), 6, &[0; 12], &[3, 5]);
        assert_eq!(block_scales(&wide, 4), [1.5, 1.5, 2.5, 2.5]);
    }
}
