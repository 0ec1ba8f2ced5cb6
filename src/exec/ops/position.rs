//! Positions and rotary embeddings.

use rayon::prelude::*;

use super::{OpContext, Results, with_cols};
use crate::exec::run::ExecError;
use crate::exec::value::Value;
use crate::graph::ops::{GridPositions, Rotary, RotaryTable};
use crate::graph::spec::RotaryLayout;
use crate::numeric::Real;

pub(super) fn grid_positions<T: Real>(
    op: &GridPositions,
    ctx: &OpContext<'_, T>,
    operands: &[&Value<T>],
) -> Results<T> {
    let grid = ctx.int(operands, 0)?;
    let patches = ctx.float(operands, 1)?.rows();
    let (mut rows, mut cols, mut segments) = (vec![], vec![], vec![]);
    let m = op.merge as i64;
    let mut segment = 0;
    for image in grid.data().chunks_exact(3) {
        let (t, h, w) = (image[0], image[1], image[2]);
        if t < 1
            || h < 1
            || w < 1
            || h % m != 0
            || w % m != 0
            || t.saturating_mul(h).saturating_mul(w) > patches as i64
        {
            let reason = format!("grid {t} x {h} x {w} with blocks of {m} does not fit {patches} patch rows");
            return Err(ExecError::sizes(ctx.node, reason));
        }
        for _ in 0..t {
            for block in 0..(h / m) * (w / m) {
                let (top, left) = (block / (w / m) * m, block % (w / m) * m);
                for inner in 0..m * m {
                    rows.push(top + inner / m);
                    cols.push(left + inner % m);
                    segments.push(segment);
                }
            }
            segment += 1;
        }
    }
    if segments.len() != patches {
        let reason = format!("the image grids hold {} patches, {patches} patch rows given", segments.len());
        return Err(ExecError::sizes(ctx.node, reason));
    }
    rows.extend(cols);
    Ok(vec![ctx.ints(vec![2, 1, patches], rows)?, ctx.ints(vec![patches], segments)?])
}

pub(super) fn rotary_table<T: Real>(
    op: &RotaryTable,
    ctx: &OpContext<'_, T>,
    operands: &[&Value<T>],
) -> Results<T> {
    let positions = ctx.int(operands, 0)?;
    let rows: usize = positions.shape()[1..].iter().product();
    let n = op.inv_freq.len();
    let (mut cos, mut sin) = (Vec::with_capacity(rows * n), Vec::with_capacity(rows * n));
    for r in 0..rows {
        for (&f, &axis) in op.inv_freq.iter().zip(&op.axis) {
            let position = positions.data()[axis * rows + r];
            // The angle is rounded to f32 as in the reference, in every precision: the frequencies are f32 constants there.
            let angle = f64::from(position as f32 * f);
            cos.push(T::from_f64(angle.cos()));
            sin.push(T::from_f64(angle.sin()));
        }
    }
    let shape = [&positions.shape()[1..], &[n]].concat();
    Ok(vec![ctx.tensor(shape.clone(), cos)?, ctx.tensor(shape, sin)?])
}

pub(super) fn rotary<T: Real>(op: &Rotary, ctx: &OpContext<'_, T>, operands: &[&Value<T>]) -> Results<T> {
    let (x, cos, sin) = (ctx.float(operands, 0)?, ctx.float(operands, 1)?, ctx.float(operands, 2)?);
    let half = op.head_dim / 2;
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
                };
                let (a, b) = (head[i], head[j]);
                head[i] = a * cos[k] - b * sin[k];
                head[j] = b * cos[k] + a * sin[k];
            }
        }
    });
    ctx.result(with_cols(x.shape(), x.cols()), out)
}
