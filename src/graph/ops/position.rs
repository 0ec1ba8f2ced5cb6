//! Positions of patches and tokens, and what is made of them besides rotary tables.

use super::{Check, OpError, OpSpec, OutType};
use crate::graph::types::{Dim, Sym, ValueInfo};
use crate::graph::weights::WeightDecl;

/// Row, column and frame of every patch, from the sizes of the images. Operands: `image_grid_thw [images, 3]` (frames, patch rows,
/// patch columns) and the patch rows (for their number). Results: positions `[2, 1, patches]` (row, column) and segments
/// `[patches]`: the running number of the frame a patch belongs to, over all images. Patches come in merge-block order: block
/// row, block column, row inside, column inside (transformers `Qwen2VisionTransformer.rot_pos_emb`).
#[derive(Clone, Debug, PartialEq)]
pub struct GridPositions {
    /// Merge block side in patches.
    pub merge: usize,
}

/// Which cell of a fixed grid of `rows x cols` cells a patch falls into, when the grid is laid over its image (tables of learned positions
/// that are smaller or larger than the image). Operands: positions `[2, 1, patches]` (row `r`, column `c`), `image_grid_thw
/// [images, 3]` of single frames, segments `[patches]`. Result: ids `[1, patches]`, `cols * floor(rows * r / h) + floor(cols * c / w)` with
/// `h` and `w` of the patch's image.
#[derive(Clone, Debug, PartialEq)]
pub struct GridBucket {
    /// Cells from top to bottom.
    pub rows: usize,
    /// Cells from left to right.
    pub cols: usize,
}

/// Run-time extent of the second axis, as a value. Operand: integer `[batch, t]`. Result: `[1]`, the number `t`.
#[derive(Clone, Debug, PartialEq)]
pub struct Length;

/// `q * max(1, ln(p + 1) / ln(train_length))` at position `p`: keeps the entropy of attention beyond the length a model was trained at
/// (arXiv 2202.12172). Operands: q `[batch, sequence, c]` without basis, positions `[batch, sequence]`.
#[derive(Clone, Debug, PartialEq)]
pub struct ScaleByPosition {
    /// Number of positions that are not scaled, at least 2.
    pub train_length: usize,
}

impl OpSpec for GridPositions {
    fn infer(&self, inputs: &[&ValueInfo], _: &[WeightDecl]) -> Result<Vec<OutType>, OpError> {
        let c = Check { op: "GridPositions" };
        let [grid, rows] = c.operands(inputs)?;
        c.int(grid, 2)?;
        c.has_channels(grid, 3)?;
        c.rank(rows, 3)?;
        if self.merge == 0 {
            return c.fail("merge block side must be positive, found 0".into());
        }
        let patches = Dim::Sym(Sym::Patches);
        Ok(vec![OutType::int(vec![Dim::Fixed(2), Dim::Fixed(1), patches]), OutType::int(vec![patches])])
    }
}

impl OpSpec for GridBucket {
    fn infer(&self, inputs: &[&ValueInfo], _: &[WeightDecl]) -> Result<Vec<OutType>, OpError> {
        let c = Check { op: "GridBucket" };
        let [positions, grid, segments] = c.operands(inputs)?;
        c.int(segments, 1)?;
        c.int(positions, 3)?;
        c.int(grid, 2)?;
        c.has_channels(grid, 3)?;
        let patches = segments.shape[0];
        if positions.shape != [Dim::Fixed(2), Dim::Fixed(1), patches] {
            return c.fail(format!("expected row and column of every row of {segments}, found {positions}"));
        }
        if self.rows == 0 || self.cols == 0 {
            return c.fail(format!("expected a grid with cells, found {} x {}", self.rows, self.cols));
        }
        Ok(vec![OutType::int(vec![Dim::Fixed(1), patches])])
    }
}

impl OpSpec for Length {
    fn infer(&self, inputs: &[&ValueInfo], _: &[WeightDecl]) -> Result<Vec<OutType>, OpError> {
        let c = Check { op: "Length" };
        let [x] = c.operands(inputs)?;
        c.int(x, 2)?;
        Ok(vec![OutType::int(vec![Dim::Fixed(1)])])
    }
}

impl OpSpec for ScaleByPosition {
    fn infer(&self, inputs: &[&ValueInfo], _: &[WeightDecl]) -> Result<Vec<OutType>, OpError> {
        let c = Check { op: "ScaleByPosition" };
        let [q, positions] = c.operands(inputs)?;
        c.no_basis(c.float(q)?)?;
        c.rank(q, 3)?;
        c.int(positions, 2)?;
        if positions.shape != q.shape[..2] {
            return c.fail(format!("{positions} does not describe the rows of {q}"));
        }
        if self.train_length < 2 {
            return c.fail(format!("expected a length of at least 2, found {}", self.train_length));
        }
        Ok(vec![OutType::like(q)])
    }
}
