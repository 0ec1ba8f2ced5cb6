//! Positions and rotary embeddings.

use super::{Check, OpError, OpSpec, OutType};
use crate::graph::spec::RotaryLayout;
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

/// Cosines and sines `[.., frequencies]` of `positions[axis[k]] * inv_freq[k]`. Operand: integer positions `[axes, .., rows]`.
/// One table serves plain rotary (one axis), two-dimensional rotary (row, column) and M-RoPE (time, height, width).
#[derive(Clone, Debug, PartialEq)]
pub struct RotaryTable {
    /// Angle per unit of position, computed in f32 as the reference does.
    pub inv_freq: Vec<f32>,
    /// Which row of the positions frequency `k` follows.
    pub axis: Vec<usize>,
}

/// Rotates pairs of channels of every head: `(a, b) -> (a cos - b sin, b cos + a sin)`. Operands: `x [.., heads * head_dim]`, cosines
/// and sines `[.., head_dim / 2]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Rotary {
    /// Heads in `x`.
    pub heads: usize,
    /// Channels per head.
    pub head_dim: usize,
    /// Where the two members of a pair are.
    pub layout: RotaryLayout,
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

impl OpSpec for RotaryTable {
    fn infer(&self, inputs: &[&ValueInfo], _: &[WeightDecl]) -> Result<Vec<OutType>, OpError> {
        let c = Check { op: "RotaryTable" };
        let [pos] = c.operands(inputs)?;
        c.int(pos, 3)?;
        let axes = match pos.shape[0] {
            Dim::Fixed(n) => n,
            Dim::Sym(_) => return c.fail(format!("expected a fixed number of position axes, found {pos}")),
        };
        if self.inv_freq.len() != self.axis.len() || self.axis.iter().any(|&a| a >= axes) {
            return c.fail(format!(
                "{} frequencies follow axes {:?} of {axes} position rows",
                self.inv_freq.len(),
                self.axis
            ));
        }
        let mut shape = pos.shape[1..].to_vec();
        shape.push(Dim::Fixed(self.inv_freq.len()));
        Ok(vec![OutType::float(shape.clone()), OutType::float(shape)])
    }
}

impl OpSpec for Rotary {
    fn infer(&self, inputs: &[&ValueInfo], _: &[WeightDecl]) -> Result<Vec<OutType>, OpError> {
        let c = Check { op: "Rotary" };
        let [x, cos, sin] = c.operands(inputs)?;
        c.no_basis(c.float(x)?)?;
        c.has_channels(x, self.heads * self.head_dim)?;
        for t in [cos, sin] {
            c.has_channels(c.float(t)?, self.head_dim / 2)?;
        }
        if !self.head_dim.is_multiple_of(2) {
            return c.fail(format!("expected an even head size, found {}", self.head_dim));
        }
        Ok(vec![OutType::like(x)])
    }
}
