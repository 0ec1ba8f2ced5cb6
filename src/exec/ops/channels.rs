//! Ops that cut, join and rotate channels.

use super::{OpContext, Results, with_cols};
use crate::exec::run::ExecError;
use crate::exec::value::Value;
use crate::graph::ops::{AppendChannel, Hadamard, Join, Split, TakeChannel};
use crate::numeric::Real;
use crate::numeric::rotation::Rotation;

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

pub(super) fn take_channel<T: Real>(
    op: &TakeChannel,
    ctx: &OpContext<'_, T>,
    operands: &[&Value<T>],
) -> Results<T> {
    let x = ctx.float(operands, 0)?;
    let data = (0..x.rows()).map(|r| x.row(r)[op.channel]).collect();
    ctx.result(with_cols(x.shape(), 1), data)
}

/// Computed in f64, by the rotation that the weights behind it were changed with.
pub(super) fn hadamard<T: Real>(op: &Hadamard, ctx: &OpContext<'_, T>, operands: &[&Value<T>]) -> Results<T> {
    let x = ctx.float(operands, 0)?;
    let Some(rotation) = Rotation::online(op.left, op.right) else {
        let reason = format!("no Hadamard matrix of order {} x {} is known", op.left, op.right);
        return Err(ExecError::sizes(ctx.node, reason));
    };
    let mut rows: Vec<f64> = x.data().iter().map(|v| v.to_f64()).collect();
    rotation.right(&mut rows);
    ctx.result(x.shape().to_vec(), rows.into_iter().map(T::from_f64).collect())
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
