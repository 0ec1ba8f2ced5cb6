//! Blocks as a lattice with codes: what GPTQ works on, and how codes get into blocks whose scales are known.

use rayon::prelude::*;

use super::codec::{Codec, Head, VALUES};
use super::{BlockError, BlockMatrix, BlockType, dispatch, float_error};
use crate::numeric::grid::GridMatrix;
use crate::numeric::lattice::Lattice;

impl BlockMatrix {
    /// The values that the scales of these blocks allow: [`dequantize`](Self::dequantize) is `step * code + offset` of it. Floats have none.
    pub fn lattice(&self) -> Result<Lattice, BlockError> {
        dispatch!(self.kind, lattice(self), Err(float_error(self.kind)))
    }

    /// The codes, `[rows, cols]` row-major, as the lattice counts them: without offsets code 0 is the value 0. Floats have none.
    pub fn codes(&self) -> Result<Vec<i8>, BlockError> {
        dispatch!(self.kind, codes(self), Err(float_error(self.kind)))
    }

    /// Blocks of the same scales with these codes, `[rows, cols]` row-major, each within the lattice.
    pub fn with_codes(&self, codes: &[i8]) -> Result<Self, BlockError> {
        dispatch!(self.kind, with_codes(self, codes), Err(float_error(self.kind)))
    }

    /// A matrix on a grid as blocks of a type without offsets and with one level of scales, with the same codes and so the same values: int4 on blocks of
    /// 32 columns as Q4_0. Every block of the type must lie in one block of the grid, whose step must be a number of half precision.
    pub fn of_grid(matrix: &GridMatrix, kind: BlockType) -> Result<Self, BlockError> {
        dispatch!(kind, of_grid(matrix, kind), Err(float_error(kind)))
    }
}

fn lattice<C: Codec>(matrix: &BlockMatrix) -> Result<Lattice, BlockError> {
    let groups = C::VALUES / C::GROUP;
    let count = matrix.rows * matrix.cols / C::GROUP;
    let mut steps = vec![0.0; count];
    let mut offsets = vec![0.0; if C::OFFSETS { count } else { 0 }];
    let heads = matrix.bytes.par_chunks_exact(C::BYTES).map(C::head);
    heads.clone().zip(steps.par_chunks_exact_mut(groups)).for_each(|(head, steps)| {
        steps.iter_mut().enumerate().for_each(|(g, step)| *step = C::step(&head, g));
    });
    heads.zip(offsets.par_chunks_exact_mut(groups)).for_each(|(head, offsets)| {
        offsets.iter_mut().enumerate().for_each(|(g, offset)| *offset = C::offset(&head, g));
    });
    let (lowest, highest) = (C::CODES.0 as i8, C::CODES.1 as i8);
    Ok(Lattice { lowest, highest, group: C::GROUP, steps, offsets: C::OFFSETS.then_some(offsets) })
}

fn codes<C: Codec>(matrix: &BlockMatrix) -> Result<Vec<i8>, BlockError> {
    let mut out = vec![0; matrix.rows * matrix.cols];
    let blocks = matrix.bytes.par_chunks_exact(C::BYTES).zip(out.par_chunks_exact_mut(C::VALUES));
    blocks.for_each(|(block, out)| {
        let mut stored = [0; VALUES];
        C::codes(block, &mut stored[..C::VALUES]);
        out.iter_mut().zip(&stored).for_each(|(code, stored)| *code = (i16::from(*stored) - C::BIAS) as i8);
    });
    Ok(out)
}

fn with_codes<C: Codec>(matrix: &BlockMatrix, codes: &[i8]) -> Result<BlockMatrix, BlockError> {
    let BlockMatrix { kind, rows, cols, .. } = *matrix;
    if codes.len() != rows * cols {
        let (expected, found) = (rows * cols, codes.len());
        return Err(BlockError::Length { kind, what: "codes", rows, cols, expected, found });
    }
    let (lowest, highest) = C::CODES;
    if let Some(code) = codes.iter().copied().find(|c| !(lowest..=highest).contains(&i16::from(*c))) {
        return Err(BlockError::Code { kind, code, lowest, highest });
    }
    let mut out = matrix.clone();
    out.bytes.par_chunks_exact_mut(C::BYTES).zip(codes.par_chunks_exact(C::VALUES)).for_each(
        |(block, codes)| {
            let mut stored = [0; VALUES];
            stored.iter_mut().zip(codes).for_each(|(s, code)| *s = (i16::from(*code) + C::BIAS) as u8);
            C::set_codes(&stored[..C::VALUES], block);
        },
    );
    Ok(out)
}

fn of_grid<C: Codec>(matrix: &GridMatrix, kind: BlockType) -> Result<BlockMatrix, BlockError> {
    let GridMatrix { rows, cols, grid, .. } = *matrix;
    let whole = grid.block.is_none_or(|block| block.is_multiple_of(C::VALUES));
    if C::OFFSETS || C::SCALES.is_some() || !whole {
        return Err(BlockError::Grid { kind, block: grid.block });
    }
    let mut blocks = BlockMatrix::new(kind, rows, cols, vec![0; kind.size_of(rows * cols)])?;
    let (groups, per_row) = (grid.blocks(cols), cols / C::VALUES);
    for (at, block) in blocks.bytes.chunks_exact_mut(C::BYTES).enumerate() {
        let (row, column) = (at / per_row, at % per_row * C::VALUES);
        let group = column / grid.block.unwrap_or(cols);
        let multiplier = matrix.multipliers.get(row * groups + group).map_or(1.0, |m| f32::from(*m));
        let step = multiplier * matrix.scales[row];
        if half::f16::from_f32(step).to_f32() != step {
            return Err(BlockError::Step { kind, row, column });
        }
        C::set_head(&Head { d: step, ..Head::default() }, block);
    }
    with_codes::<C>(&blocks, &matrix.codes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::numeric::grid::{Grid, Scales};
    use crate::numeric::random::Random;

    /// A matrix of int4 in blocks whose steps are numbers of half precision: row scales of 7 bits times multipliers of 4.
    fn matrix(block: usize) -> GridMatrix {
        let (grid, rows, cols) = (Grid { bits: 4, block: Some(block) }, 5, 128);
        let mut random = Random::new(3);
        let mut below = |n: u64| (random.next_u64() % n) as i16;
        let codes = (0..rows * cols).map(|_| (below(15) - 7) as i8).collect();
        let multipliers = (0..rows * grid.blocks(cols)).map(|_| (below(15) + 1) as u8).collect();
        let scales = (0..rows).map(|_| f32::from(below(64) + 64) * 2f32.powi(-14)).collect();
        GridMatrix::new(grid, cols, codes, Scales { multipliers, scales })
    }

    #[test]
    fn the_same_codes_are_the_same_values_on_a_grid_and_in_blocks() {
        for block in [32, 64] {
            let matrix = matrix(block);
            let blocks = BlockMatrix::of_grid(&matrix, BlockType::Q4_0).unwrap();
            assert_eq!(blocks.codes().unwrap(), matrix.codes);
            assert_eq!(blocks.dequantize(), matrix.dequantize());
        }
        let rows = Scales { multipliers: vec![], scales: vec![0.5, 0.03125] };
        let codes = (0..128).map(|i| (i - 64) as i8).collect();
        let int8 = GridMatrix::new(Grid { bits: 8, block: None }, 64, codes, rows);
        let blocks = BlockMatrix::of_grid(&int8, BlockType::Q8_0).unwrap();
        assert_eq!((blocks.codes().unwrap(), blocks.dequantize()), (int8.codes.clone(), int8.dequantize()));
    }

    #[test]
    fn grids_that_blocks_cannot_hold_are_refused() {
        let (mut grid, kind) = (matrix(32), BlockType::Q4_0);
        for other in [BlockType::Q4_1, BlockType::Q4K] {
            let error = BlockError::Grid { kind: other, block: Some(32) };
            assert_eq!(BlockMatrix::of_grid(&grid, other), Err(error));
        }
        let narrow = BlockMatrix::of_grid(&matrix(16), kind);
        assert_eq!(narrow, Err(BlockError::Grid { kind, block: Some(16) }));
        grid.scales[1] = 0.3;
        assert_eq!(BlockMatrix::of_grid(&grid, kind), Err(BlockError::Step { kind, row: 1, column: 0 }));
        grid.scales[1] = 0.5;
        grid.codes[9] = -9;
        let code = BlockError::Code { kind, code: -9, lowest: -8, highest: 7 };
        assert_eq!(BlockMatrix::of_grid(&grid, kind), Err(code));
    }

    #[test]
    fn rows_are_moved_and_stacked_with_their_bytes() {
        let whole = BlockMatrix::of_grid(&matrix(32), BlockType::Q4_0).unwrap();
        let values = whole.dequantize();
        let turned = whole.permute_rows(&[4, 2, 0]);
        let want: Vec<f32> = [4, 2, 0].iter().flat_map(|r| values[r * 128..][..128].to_vec()).collect();
        assert_eq!((turned.rows, turned.dequantize()), (3, want));
        let parts = [whole.permute_rows(&[0, 1]), whole.permute_rows(&[2, 3, 4])];
        assert_eq!(BlockMatrix::stack(&parts), Ok(Some(whole.clone())));
        assert_eq!(BlockMatrix::stack(&[]), Ok(None));
        let other = BlockMatrix::new(BlockType::Q8_0, 1, 128, vec![0; 136]).unwrap();
        assert!(BlockMatrix::stack(&[whole, other]).is_err());
        let short = BlockMatrix::new(BlockType::Q8_0, 2, 128, vec![0; 136]);
        let length = |expected| BlockError::Length {
            kind: BlockType::Q8_0,
            what: "bytes",
            rows: 2,
            cols: 128,
            expected,
            found: 136,
        };
        assert_eq!(short, Err(length(272)));
        assert!(BlockMatrix::new(BlockType::F32, usize::MAX, 64, vec![]).is_err());
    }
}
