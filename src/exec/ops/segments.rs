//! Rows of their own for every segment: inserted and removed.

use super::{OpContext, Results};
use crate::exec::run::ExecError;
use crate::exec::value::Value;
use crate::graph::ops::{DropFirstRows, InsertRows};
use crate::numeric::Real;

/// A run of rows with one segment number.
#[derive(Clone, Copy, Debug)]
pub(super) struct Run {
    /// The number.
    pub number: i64,
    /// Its first row.
    pub start: usize,
    /// Its rows.
    pub len: usize,
}

/// The runs of `rows` rows, of which each has `factor` equal numbers in `segments`.
pub(super) fn runs<T: Real>(
    ctx: &OpContext<'_, T>,
    segments: &[i64],
    rows: usize,
    factor: usize,
) -> Result<Vec<Run>, ExecError> {
    if Some(segments.len()) != rows.checked_mul(factor) {
        let reason =
            format!("{rows} rows of {factor} segment numbers each, {} numbers given", segments.len());
        return Err(ExecError::sizes(ctx.node, reason));
    }
    let numbers: Vec<i64> = segments.iter().copied().step_by(factor.max(1)).collect();
    let mut start = 0;
    let run = |same: &[i64]| {
        start += same.len();
        Run { number: same[0], start: start - same.len(), len: same.len() }
    };
    Ok(numbers.chunk_by(|a, b| a == b).map(run).collect())
}

pub(super) fn insert_rows<T: Real>(
    op: &InsertRows,
    ctx: &OpContext<'_, T>,
    operands: &[&Value<T>],
) -> Results<T> {
    let (rows, segments) = (ctx.float(operands, 0)?, ctx.int(operands, 1)?.data());
    let first = if op.first { Some(ctx.float(operands, 2)?) } else { None };
    let last = if op.last { Some(ctx.float(operands, 2 + usize::from(op.first))?) } else { None };
    let (mut out, mut numbers) = (Vec::with_capacity(rows.data().len()), vec![]);
    for run in runs(ctx, segments, rows.rows(), op.factor)? {
        let inside = (run.start..run.start + run.len).map(|r| rows.row(r));
        for row in first.map(|t| t.data()).into_iter().chain(inside).chain(last.map(|t| t.data())) {
            out.extend_from_slice(row);
            numbers.push(run.number);
        }
    }
    let n = numbers.len();
    Ok(vec![ctx.tensor(vec![1, n, rows.cols()], out)?, ctx.ints(vec![n], numbers)?])
}

pub(super) fn drop_first_rows<T: Real>(
    _: &DropFirstRows,
    ctx: &OpContext<'_, T>,
    operands: &[&Value<T>],
) -> Results<T> {
    let (rows, segments) = (ctx.float(operands, 0)?, ctx.int(operands, 1)?.data());
    let mut out = Vec::with_capacity(rows.data().len());
    for run in runs(ctx, segments, rows.rows(), 1)? {
        (run.start + 1..run.start + run.len).for_each(|r| out.extend_from_slice(rows.row(r)));
    }
    ctx.result(vec![1, out.len() / rows.cols().max(1), rows.cols()], out)
}
