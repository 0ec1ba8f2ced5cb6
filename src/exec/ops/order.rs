//! Rows in the order by modality and back.

use super::{OpContext, Results};
use crate::exec::run::ExecError;
use crate::exec::value::Value;
use crate::graph::ops::{OrderByModality, TakeRows};
use crate::numeric::Real;

pub(super) fn order_by_modality<T: Real>(
    _: &OrderByModality,
    ctx: &OpContext<'_, T>,
    operands: &[&Value<T>],
) -> Results<T> {
    let modality = ctx.float(operands, 0)?;
    let (visual, text): (Vec<usize>, Vec<usize>) =
        (0..modality.rows()).partition(|&r| modality.data()[r] > T::ZERO);
    let order = [visual, text].concat();
    let mut places = vec![0; order.len()];
    for (place, &row) in order.iter().enumerate() {
        places[row] = place as i64;
    }
    let rows = modality.shape()[..modality.shape().len() - 1].to_vec();
    let order = order.into_iter().map(|r| r as i64).collect::<Vec<_>>();
    Ok(vec![ctx.ints(vec![1, order.len()], order)?, ctx.ints(rows, places)?])
}

pub(super) fn take_rows<T: Real>(_: &TakeRows, ctx: &OpContext<'_, T>, operands: &[&Value<T>]) -> Results<T> {
    let (x, numbers) = (ctx.float(operands, 0)?, ctx.int(operands, 1)?);
    let mut out = Vec::with_capacity(numbers.data().len() * x.cols());
    for &number in numbers.data() {
        let row = usize::try_from(number).ok().filter(|&r| r < x.rows());
        let row = row.ok_or_else(|| {
            ExecError::sizes(ctx.node, format!("there is no row {number} among {}", x.rows()))
        })?;
        out.extend_from_slice(x.row(row));
    }
    ctx.result([numbers.shape(), &[x.cols()]].concat(), out)
}
