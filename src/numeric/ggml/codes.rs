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
