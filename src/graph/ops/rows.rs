//! Ops that yield, select, replace, merge or relabel rows without arithmetic.

use super::{Check, OpError, OpSpec, OutType};
use crate::graph::types::{Basis, Dim, Stream, Sym, ValueInfo};
use crate::graph::weights::{WeightDecl, WeightId};

/// Rows of a table by id. Operand: ids `[batch, sequence]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Embed {
    /// `[vocab, channels]`.
    pub table: WeightId,
    /// The stream the rows are coordinates of.
    pub writes: Option<Stream>,
}

/// Replaces the rows whose id is `token_id`, in order, by the rows of the features. Operands: rows `[batch, sequence, channels]`,
/// ids `[batch, sequence]`, features `[image_tokens, channels]`; their number must equal the number of such ids.
#[derive(Clone, Debug, PartialEq)]
pub struct Splice {
    /// Placeholder id.
    pub token_id: i64,
}

/// The rows of a weight `[n, channels]` as a value `[1, n, channels]`, for every input the same. No operands.
#[derive(Clone, Debug, PartialEq)]
pub struct ConstantRows {
    /// `[n, channels]`.
    pub table: WeightId,
    /// Basis the rows are coordinates of.
    pub writes: Option<Basis>,
}

/// Puts `factor` consecutive rows side by side: `[1, patches, c]` to `[1, into, factor * c]`; `into` is `patches / factor`.
#[derive(Clone, Debug, PartialEq)]
pub struct MergeRows {
    /// Rows joined into one.
    pub factor: usize,
    /// Extent of the result.
    pub into: Sym,
}

/// `[rows, c]` to `[1, rows, c]`.
#[derive(Clone, Debug, PartialEq)]
pub struct AddBatch;

/// `[1, rows, c]` to `[rows, c]`.
#[derive(Clone, Debug, PartialEq)]
pub struct DropBatch;

impl OpSpec for Embed {
    fn weights_mut(&mut self) -> Vec<&mut WeightId> {
        vec![&mut self.table]
    }

    fn weights(&self) -> Vec<WeightId> {
        vec![self.table]
    }

    fn infer(&self, inputs: &[&ValueInfo], weights: &[WeightDecl]) -> Result<Vec<OutType>, OpError> {
        let c = Check { op: "Embed" };
        let [ids] = c.operands(inputs)?;
        c.int(ids, 2)?;
        let [_, n] = c.table(weights, self.table)?;
        let mut shape = ids.shape.clone();
        shape.push(Dim::Fixed(n));
        Ok(vec![OutType { basis: self.writes.and_then(Basis::of), ..OutType::float(shape) }])
    }
}

impl OpSpec for Splice {
    fn infer(&self, inputs: &[&ValueInfo], _: &[WeightDecl]) -> Result<Vec<OutType>, OpError> {
        let c = Check { op: "Splice" };
        let [rows, ids, features] = c.operands(inputs)?;
        c.rank(c.float(rows)?, 3)?;
        c.int(ids, 2)?;
        c.rank(c.float(features)?, 2)?;
        c.has_channels(features, c.channels(rows)?)?;
        if rows.basis != features.basis {
            return c.fail(format!("rows and features have different bases: {rows} and {features}"));
        }
        Ok(vec![OutType::like(rows)])
    }
}

impl OpSpec for ConstantRows {
    fn weights_mut(&mut self) -> Vec<&mut WeightId> {
        vec![&mut self.table]
    }

    fn weights(&self) -> Vec<WeightId> {
        vec![self.table]
    }

    fn infer(&self, inputs: &[&ValueInfo], weights: &[WeightDecl]) -> Result<Vec<OutType>, OpError> {
        let c = Check { op: "ConstantRows" };
        let [] = c.operands(inputs)?;
        let [rows, n] = c.table(weights, self.table)?;
        let shape = vec![Dim::Fixed(1), Dim::Fixed(rows), Dim::Fixed(n)];
        Ok(vec![OutType { basis: self.writes, ..OutType::float(shape) }])
    }
}

impl OpSpec for MergeRows {
    fn infer(&self, inputs: &[&ValueInfo], _: &[WeightDecl]) -> Result<Vec<OutType>, OpError> {
        let c = Check { op: "MergeRows" };
        let [x] = c.operands(inputs)?;
        let n = c.channels(c.float(x)?)?;
        if x.shape != [Dim::Fixed(1), Dim::Sym(Sym::Patches), Dim::Fixed(n)] || self.factor == 0 {
            return c.fail(format!(
                "merges {} of [1, {}, channels] rows, found {x}",
                self.factor,
                Sym::Patches.name()
            ));
        }
        let shape = vec![Dim::Fixed(1), Dim::Sym(self.into), Dim::Fixed(n * self.factor)];
        let basis = x.basis.map(|b| Basis { copies: b.copies * self.factor, ..b });
        Ok(vec![OutType { basis, ..OutType::float(shape) }])
    }
}

impl OpSpec for AddBatch {
    fn infer(&self, inputs: &[&ValueInfo], _: &[WeightDecl]) -> Result<Vec<OutType>, OpError> {
        let c = Check { op: "AddBatch" };
        let [x] = c.operands(inputs)?;
        c.rank(c.float(x)?, 2)?;
        let shape = [&[Dim::Fixed(1)], x.shape.as_slice()].concat();
        Ok(vec![OutType { shape, ..OutType::like(x) }])
    }
}

impl OpSpec for DropBatch {
    fn infer(&self, inputs: &[&ValueInfo], _: &[WeightDecl]) -> Result<Vec<OutType>, OpError> {
        let c = Check { op: "DropBatch" };
        let [x] = c.operands(inputs)?;
        c.rank(c.float(x)?, 3)?;
        if x.shape[0] != Dim::Fixed(1) {
            return c.fail(format!("expected one batch, found {x}"));
        }
        Ok(vec![OutType { shape: x.shape[1..].to_vec(), ..OutType::like(x) }])
    }
}
