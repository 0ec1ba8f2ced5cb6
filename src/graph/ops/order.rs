//! Ops that put the decoder's rows into the order of AIFS (MQuant, arXiv 2502.00425 section 4.2) and back, without arithmetic. The type of a
//! value says which order it is in: `[batch, sequence, c]` is the order of the prompts, `[1, num_rows_by_modality, c]` that by modality.

use super::{Check, OpError, OpSpec, OutType};
use crate::graph::types::{DType, Dim, Sym, ValueInfo};
use crate::graph::weights::WeightDecl;

/// The order by modality: the rows of all prompts as one list, visual rows (modality above 0) first, otherwise as they were, prompt after
/// prompt. Operand: modality `[batch, sequence, 1]`. Results: `order [1, rows]`, the old number of every row of the new order, and
/// `places [batch, sequence]`, the new number of every old row. Numbers count from 0 through the leading axes.
#[derive(Clone, Debug, PartialEq)]
pub struct OrderByModality;

/// Rows by number. Operands: `x [a, b, c]`, whose `a * b` rows are numbered through both axes, and numbers `[d, e]`. Result `[d, e, c]`,
/// basis kept.
#[derive(Clone, Debug, PartialEq)]
pub struct TakeRows;

impl OpSpec for OrderByModality {
    fn infer(&self, inputs: &[&ValueInfo], _: &[WeightDecl]) -> Result<Vec<OutType>, OpError> {
        let c = Check { op: "OrderByModality" };
        let [modality] = c.operands(inputs)?;
        c.has_channels(c.float(modality)?, 1)?;
        let rows = [Dim::Sym(Sym::Batch), Dim::Sym(Sym::Sequence)];
        if modality.shape[..modality.shape.len() - 1] != rows {
            return c.fail(format!("expected the modality of every token of the prompts, found {modality}"));
        }
        let order = vec![Dim::Fixed(1), Dim::Sym(Sym::ByModality)];
        Ok(vec![OutType::int(order), OutType::int(rows.to_vec())])
    }
}

impl OpSpec for TakeRows {
    fn infer(&self, inputs: &[&ValueInfo], _: &[WeightDecl]) -> Result<Vec<OutType>, OpError> {
        let c = Check { op: "TakeRows" };
        let [x, numbers] = c.operands(inputs)?;
        c.rank(x, 3)?;
        let channels = Dim::Fixed(c.channels(c.float(x)?)?);
        c.int(numbers, 2)?;
        let shape = vec![numbers.shape[0], numbers.shape[1], channels];
        Ok(vec![OutType { dtype: DType::Float, shape, basis: x.basis }])
    }
}
