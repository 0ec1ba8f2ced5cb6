//! Positions of patches and tokens.

use super::{OpContext, Results};
use crate::exec::run::ExecError;
use crate::exec::value::Value;
use crate::graph::ops::{GridBucket, GridPositions, Length, ScaleByPosition};
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

pub(super) fn grid_bucket<T: Real>(
    op: &GridBucket,
    ctx: &OpContext<'_, T>,
    operands: &[&Value<T>],
) -> Results<T> {
    let (positions, grid) = (ctx.int(operands, 0)?.data(), ctx.int(operands, 1)?);
    let segments = ctx.int(operands, 2)?.data();
    let patches = segments.len();
    if positions.len() != 2 * patches {
        let reason = format!("{patches} patch rows, {} positions", positions.len());
        return Err(ExecError::sizes(ctx.node, reason));
    }
    let (cells_down, cells_across) = (op.rows as i64, op.cols as i64);
    let mut ids = Vec::with_capacity(patches);
    for ((&r, &c), &segment) in positions.iter().zip(&positions[patches..]).zip(segments) {
        let image = usize::try_from(segment).ok().filter(|&i| i < grid.rows()).map(|i| grid.row(i));
        let Some(&[1, h, w]) = image else {
            let reason =
                format!("patch of segment {segment}: expected an image of one frame, found {image:?}");
            return Err(ExecError::sizes(ctx.node, reason));
        };
        if !(0..h).contains(&r) || !(0..w).contains(&c) {
            let reason = format!("patch at row {r}, column {c} of an image of {h} x {w} patches");
            return Err(ExecError::sizes(ctx.node, reason));
        }
        ids.push(cells_across * (cells_down * r / h) + cells_across * c / w);
    }
    Ok(vec![ctx.ints(vec![1, patches], ids)?])
}

pub(super) fn length<T: Real>(_: &Length, ctx: &OpContext<'_, T>, operands: &[&Value<T>]) -> Results<T> {
    let shape = ctx.int(operands, 0)?.shape();
    Ok(vec![ctx.ints(vec![1], vec![shape[1] as i64])?])
}

pub(super) fn scale_by_position<T: Real>(
    op: &ScaleByPosition,
    ctx: &OpContext<'_, T>,
    operands: &[&Value<T>],
) -> Results<T> {
    let (q, positions) = (ctx.float(operands, 0)?, ctx.int(operands, 1)?.data());
    if positions.len() != q.rows() {
        let reason = format!("{} rows to scale, {} positions", q.rows(), positions.len());
        return Err(ExecError::sizes(ctx.node, reason));
    }
    let one = (op.train_length as f64).ln();
    let mut out = q.data().to_vec();
    for (row, &p) in out.chunks_exact_mut(q.cols().max(1)).zip(positions) {
        let factor = T::from_f64(((p as f64 + 1.0).ln() / one).max(1.0));
        row.iter_mut().for_each(|x| *x *= factor);
    }
    ctx.result(q.shape().to_vec(), out)
}
