//! Ops that cut and join channels without arithmetic.

use super::{OpContext, Results, with_cols};
use crate::exec::run::ExecError;
use crate::exec::value::Value;
use crate::graph::ops::{AppendChannel, Join, Split};
use crate::numeric::Real;

pub(super) fn split<T: Real>(op: &Split, ctx: &OpContext<'_, T>, operands: &[&Value<T>]) -> Results<T> {
    let x = ctx.float(operands, 0)?;
    let mut start = 0;
    let mut pieces = Vec::with_capacity(op.sizes.len());
    for &size in &op.sizes {
        let data = (0..x.rows()).flat_map(|r| x.row(r)[start..start + size].iter().copied()).collect();
        pieces.push(ctx.tensor(with_cols(x.shape(), size), data)?);
        start += size;
    }
    Ok(pieces)
}

pub(super) fn append_channel<T: Real>(
    op: &AppendChannel,
    ctx: &OpContext<'_, T>,
    operands: &[&Value<T>],
) -> Results<T> {
    let x = ctx.float(operands, 0)?;
    let value = T::from_f32(op.value);
    let data = (0..x.rows()).flat_map(|r| x.row(r).iter().copied().chain([value])).collect();
    ctx.result(with_cols(x.shape(), x.cols() + 1), data)
}

pub(super) fn join<T: Real>(_: &Join, ctx: &OpContext<'_, T>, operands: &[&Value<T>]) -> Results<T> {
    let parts = (0..operands.len()).map(|i| ctx.float(operands, i)).collect::<Result<Vec<_>, _>>()?;
    let first = ctx.float(operands, 0)?;
    let rows = first.rows();
    if parts.iter().any(|p| p.rows() != rows) {
        let found: Vec<usize> = parts.iter().map(|p| p.rows()).collect();
        return Err(ExecError::sizes(ctx.node, format!("operands to join have {found:?} rows")));
    }
    let data = (0..rows).flat_map(|r| parts.iter().flat_map(move |p| p.row(r).iter().copied())).collect();
    ctx.result(with_cols(first.shape(), parts.iter().map(|p| p.cols()).sum()), data)
}
