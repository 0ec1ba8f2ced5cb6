//! Ops that give every segment rows of its own and take them away again. A segment is a run of rows with one number (an image, a tile or
//! a frame, see [`GridPositions`](super::GridPositions)); numbers count from 0 without gaps.

use super::{Check, OpError, OpSpec, OutType};
use crate::graph::types::{Dim, Sym, ValueInfo};
use crate::graph::weights::WeightDecl;

/// Puts one row before each segment, one behind it, or both (class token; begin and end of an image). Operands: rows `[1, r, c]`,
/// segments `[p]` with `p = r * factor` (row `i` belongs to `segments[i * factor]`), then the row `[1, 1, c]` to put before each
/// segment if `first`, then the row `[1, 1, c]` to put behind it if `last`. All rows have one basis, which is kept. Results: rows
/// `[1, into, c]` and their segments `[into]`.
#[derive(Clone, Debug, PartialEq)]
pub struct InsertRows {
    /// Whether a row goes before each segment.
    pub first: bool,
    /// Whether a row goes behind each segment.
    pub last: bool,
    /// Segment numbers per row: how many rows were merged into one since the segments were made.
    pub factor: usize,
    /// Extent of the results.
    pub into: Sym,
}

/// Removes the first row of each segment. Operands: rows `[1, r, c]`, segments `[r]`. Result: `[1, into, c]`, basis kept.
#[derive(Clone, Debug, PartialEq)]
pub struct DropFirstRows {
    /// Extent of the result.
    pub into: Sym,
}

impl OpSpec for InsertRows {
    fn infer(&self, inputs: &[&ValueInfo], _: &[WeightDecl]) -> Result<Vec<OutType>, OpError> {
        let c = Check { op: "InsertRows" };
        let extra = usize::from(self.first) + usize::from(self.last);
        if extra == 0 || self.factor == 0 {
            return c.fail(format!("inserts {extra} rows per segment, {} numbers per row", self.factor));
        }
        let &[rows, segments, ref inserted @ ..] = inputs else {
            return c.fail(format!("takes {} operands, found {}", 2 + extra, inputs.len()));
        };
        if inserted.len() != extra {
            return c.fail(format!("takes {} operands, found {}", 2 + extra, inputs.len()));
        }
        let channels = c.rows_of_segments(rows, self.into)?;
        c.int(segments, 1)?;
        if (segments.shape[0] == rows.shape[1]) != (self.factor == 1) {
            return c.fail(format!("{segments} does not hold {} numbers per row of {rows}", self.factor));
        }
        for &x in inserted {
            c.float(x)?;
            if x.shape != [Dim::Fixed(1), Dim::Fixed(1), Dim::Fixed(channels)] || x.basis != rows.basis {
                return c.fail(format!("expected one row like those of {rows}, found {x}"));
            }
        }
        let into = Dim::Sym(self.into);
        let shape = vec![Dim::Fixed(1), into, Dim::Fixed(channels)];
        Ok(vec![OutType { shape, ..OutType::like(rows) }, OutType::int(vec![into])])
    }
}

impl OpSpec for DropFirstRows {
    fn infer(&self, inputs: &[&ValueInfo], _: &[WeightDecl]) -> Result<Vec<OutType>, OpError> {
        let c = Check { op: "DropFirstRows" };
        let [rows, segments] = c.operands(inputs)?;
        let channels = c.rows_of_segments(rows, self.into)?;
        c.int(segments, 1)?;
        if segments.shape[0] != rows.shape[1] {
            return c.fail(format!("{segments} does not number the rows of {rows}"));
        }
        let shape = vec![Dim::Fixed(1), Dim::Sym(self.into), Dim::Fixed(channels)];
        Ok(vec![OutType { shape, ..OutType::like(rows) }])
    }
}

impl Check {
    /// Checks for float rows `[1, rows, channels]` whose number is not `into`; yields the channels.
    fn rows_of_segments(&self, rows: &ValueInfo, into: Sym) -> Result<usize, OpError> {
        let channels = self.channels(self.float(rows)?)?;
        match rows.shape.as_slice() {
            [Dim::Fixed(1), Dim::Sym(extent), _] if *extent != into => Ok(channels),
            _ => self.fail(format!(
                "expected [1, rows, channels] of another number than {}, found {rows}",
                into.name()
            )),
        }
    }
}
