//! Ops that yield, move and relabel rows without arithmetic.

use super::{OpContext, Results};
use crate::exec::run::ExecError;
use crate::exec::value::Value;
use crate::graph::ops::{AddBatch, ConstantRows, DropBatch, Embed, MergeRows, Splice};
use crate::numeric::Real;

pub(super) fn embed<T: Real>(op: &Embed, ctx: &OpContext<'_, T>, operands: &[&Value<T>]) -> Results<T> {
    let ids = ctx.int(operands, 0)?;
    let table = ctx.weight(op.table)?;
    let (vocab, width) = (table.values.rows(), table.values.cols());
    let mut out = Vec::with_capacity(ids.data().len() * width);
    for &id in ids.data() {
        let row = usize::try_from(id).ok().filter(|&i| i < vocab);
        let row = row.ok_or_else(|| {
            ExecError::sizes(ctx.node, format!("token id {id} is outside the table of {vocab} rows"))
        })?;
        out.extend_from_slice(table.values.row(row));
    }
    let shape = [ids.shape(), &[width]].concat();
    ctx.result(shape, out)
}

pub(super) fn splice<T: Real>(op: &Splice, ctx: &OpContext<'_, T>, operands: &[&Value<T>]) -> Results<T> {
    let (rows, ids, features) = (ctx.float(operands, 0)?, ctx.int(operands, 1)?, ctx.float(operands, 2)?);
    let width = rows.cols();
    let places: Vec<usize> =
        ids.data().iter().enumerate().filter(|(_, id)| **id == op.token_id).map(|(i, _)| i).collect();
    if places.len() != features.rows() {
        let reason = format!("{} image tokens in the prompt, {} feature rows", places.len(), features.rows());
        return Err(ExecError::sizes(ctx.node, reason));
    }
    let mut out = rows.data().to_vec();
    for (i, place) in places.into_iter().enumerate() {
        out[place * width..(place + 1) * width].copy_from_slice(features.row(i));
    }
    ctx.result(rows.shape().to_vec(), out)
}

pub(super) fn constant_rows<T: Real>(
    op: &ConstantRows,
    ctx: &OpContext<'_, T>,
    _: &[&Value<T>],
) -> Results<T> {
    let table = ctx.weight(op.table)?;
    ctx.result([&[1], table.values.shape()].concat(), table.values.data().to_vec())
}

pub(super) fn merge_rows<T: Real>(
    op: &MergeRows,
    ctx: &OpContext<'_, T>,
    operands: &[&Value<T>],
) -> Results<T> {
    let x = ctx.float(operands, 0)?;
    if x.rows() % op.factor != 0 {
        let reason = format!("{} rows do not merge by {}", x.rows(), op.factor);
        return Err(ExecError::sizes(ctx.node, reason));
    }
    ctx.result(vec![1, x.rows() / op.factor, x.cols() * op.factor], x.data().to_vec())
}

pub(super) fn add_batch<T: Real>(_: &AddBatch, ctx: &OpContext<'_, T>, operands: &[&Value<T>]) -> Results<T> {
    let x = ctx.float(operands, 0)?;
    ctx.result([&[1], x.shape()].concat(), x.data().to_vec())
}

pub(super) fn drop_batch<T: Real>(
    _: &DropBatch,
    ctx: &OpContext<'_, T>,
    operands: &[&Value<T>],
) -> Results<T> {
    let x = ctx.float(operands, 0)?;
    ctx.result(x.shape()[1..].to_vec(), x.data().to_vec())
}
