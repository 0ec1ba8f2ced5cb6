//! Rotary embeddings: angles from positions, and the rotation by them.

use rayon::prelude::*;

use super::{OpContext, Results, with_cols};
use crate::exec::run::ExecError;
use crate::exec::value::Value;
use crate::graph::ops::{Rotary, RotaryTable};
use crate::graph::spec::RotaryLayout;
use crate::numeric::Real;

pub(super) fn rotary_table<T: Real>(
    op: &RotaryTable,
    ctx: &OpContext<'_, T>,
    operands: &[&Value<T>],
) -> Results<T> {
    let positions = ctx.int(operands, 0)?;
    let leading = &positions.shape()[positions.shape().len() - 2..];
    let rows: usize = leading.iter().product();
    let scaled = match &op.scaling {
        Some(scaling) => {
            let length = ctx.int(operands, 1)?.data()[0];
            scaling.base(length).map(|base| scaling.inv_freq(base))
        }
        None => None,
    };
    let inv_freq = scaled.as_ref().unwrap_or(&op.inv_freq);
    let n = inv_freq.len();
    let (mut cos, mut sin) = (Vec::with_capacity(rows * n), Vec::with_capacity(rows * n));
    for r in 0..rows {
        for (&f, &axis) in inv_freq.iter().zip(&op.axis) {
            let position = positions.data()[axis * rows + r];
            // The angle is rounded to f32 as in the reference, in every precision: the frequencies are f32 constants there.
            let angle = f64::from(position as f32 * f);
            cos.push(T::from_f64(angle.cos()));
            sin.push(T::from_f64(angle.sin()));
        }
    }
    let shape = [leading, &[n]].concat();
    Ok(vec![ctx.tensor(shape.clone(), cos)?, ctx.tensor(shape, sin)?])
}

pub(super) fn rotary<T: Real>(op: &Rotary, ctx: &OpContext<'_, T>, operands: &[&Value<T>]) -> Results<T> {
    let (x, cos, sin) = (ctx.float(operands, 0)?, ctx.float(operands, 1)?, ctx.float(operands, 2)?);
    let half = op.rotary_dim / 2;
    if cos.rows() != x.rows() || sin.rows() != x.rows() {
        let reason = format!("{} rows to rotate, {} and {} rows of angles", x.rows(), cos.rows(), sin.rows());
        return Err(ExecError::sizes(ctx.node, reason));
    }
    let mut out = x.data().to_vec();
    out.par_chunks_mut(x.cols().max(1)).enumerate().for_each(|(r, row)| {
        let (cos, sin) = (cos.row(r), sin.row(r));
        for head in row.chunks_exact_mut(op.head_dim) {
            for k in 0..half {
                let (i, j) = match op.layout {
                    RotaryLayout::Half => (k, k + half),
                    RotaryLayout::Interleaved => (2 * k, 2 * k + 1),
                };
                let (a, b) = (head[i], head[j]);
                head[i] = a * cos[k] - b * sin[k];
                head[j] = b * cos[k] + a * sin[k];
            }
        }
    });
    ctx.result(with_cols(x.shape(), x.cols()), out)
}
