//! Linear layers: float, and int8 simulated with exact integer arithmetic (codes are multiplied, scales applied after).

use rayon::prelude::*;

use super::{OpContext, Results, with_cols};
use crate::exec::run::ExecError;
use crate::exec::value::Value;
use crate::graph::ops::{Linear, Rounding, SMALLEST_ROW_SCALE};
use crate::numeric::gemm::matmul_nt;
use crate::numeric::{Real, Tensor};

pub(super) fn linear<T: Real>(op: &Linear, ctx: &OpContext<'_, T>, operands: &[&Value<T>]) -> Results<T> {
    let x = ctx.float(operands, 0)?;
    let w = ctx.weight(op.weight)?;
    let (n, k, m) = (x.rows(), x.cols(), w.values.rows());
    let rounded = op.act.map(|act| round(act, x, ctx, operands)).transpose()?;
    let input = rounded.as_ref().map_or(x.data(), |r| &r.codes);
    let mut out = vec![T::ZERO; n * m];
    matmul_nt(&mut out, input, w.values.data(), (n, k, m));
    let bias = op.bias.map(|b| ctx.weight(b)).transpose()?;
    let bias = bias.as_ref().map(|b| b.values.data());
    out.par_chunks_mut(m.max(1)).enumerate().for_each(|(i, row)| {
        let s = rounded.as_ref().map_or(T::ONE, |r| r.scales[i]);
        if let Some(channel) = &w.scales {
            row.iter_mut().zip(channel).for_each(|(y, &c)| *y = *y * c * s);
        }
        if let Some(bias) = bias {
            row.iter_mut().zip(bias).for_each(|(y, &b)| *y += b);
        }
    });
    ctx.result(with_cols(x.shape(), m), out)
}

fn round<T: Real>(
    act: Rounding,
    x: &Tensor<T>,
    ctx: &OpContext<'_, T>,
    operands: &[&Value<T>],
) -> Result<Rounded<T>, ExecError> {
    if !act.per_modality() {
        return Ok(Rounded::of(act, x, |_| false));
    }
    let modality = ctx.float(operands, 1)?.data();
    Ok(Rounded::of(act, x, |r| modality.get(r).is_some_and(|&m| m > T::ZERO)))
}

/// Rows as int8 codes, held as integers in `T` so that the product of codes is exact in `f64` and, below 2^24, in `f32`.
#[derive(Clone, Debug)]
pub struct Rounded<T> {
    /// Codes, less the code of 0.
    pub codes: Vec<T>,
    /// One per row.
    pub scales: Vec<T>,
}

impl<T: Real> Rounded<T> {
    /// The rows of `x` rounded; `visual` tells of each whether it is visual.
    pub fn of(act: Rounding, x: &Tensor<T>, visual: impl Fn(usize) -> bool) -> Self {
        let (scale, zero): (Box<dyn Fn(usize) -> T + '_>, i8) = match act {
            Rounding::Static(s) => {
                (Box::new(move |r| T::from_f32(if visual(r) { s.visual } else { s.text })), 0)
            }
            Rounding::Asymmetric { scale, zero } => (Box::new(move |_| T::from_f32(scale)), zero),
            Rounding::PerRow => (Box::new(|r| row_scale(x.row(r))), 0),
        };
        let scales: Vec<T> = (0..x.rows()).map(scale).collect();
        let mut codes = x.data().to_vec();
        let rows = codes.par_chunks_mut(x.cols().max(1));
        rows.zip(&scales).for_each(|(row, &s)| quantize_row(row, s, zero));
        Self { codes, scales }
    }

    /// The numbers that the codes stand for; `cols` is the length of a row.
    pub fn values(mut self, cols: usize) -> Vec<T> {
        let rows = self.codes.chunks_exact_mut(cols.max(1));
        rows.zip(&self.scales).for_each(|(row, &s)| row.iter_mut().for_each(|c| *c *= s));
        self.codes
    }
}

/// Scale that puts the largest `|x|` of a row on the code 127.
fn row_scale<T: Real>(row: &[T]) -> T {
    let max = row.iter().fold(T::ZERO, |m, &x| Real::max(m, x.abs()));
    Real::max(max / T::from_f32(127.0), T::from_f32(SMALLEST_ROW_SCALE))
}

/// Replaces a row by its int8 codes at scale `s`, less the code `zero` of 0: nearest with ties to even, saturated to `[-128, 127]` as ONNX
/// `QuantizeLinear` does. Calibrated scales put the largest calibration value on 127; the code -128 is reached only by larger ones.
pub fn quantize_row<T: Real>(row: &mut [T], s: T, zero: i8) {
    let zero = T::from_f32(f32::from(zero));
    let (low, high) = (T::from_f32(-128.0) - zero, T::from_f32(127.0) - zero);
    for x in row {
        *x = Real::max(Real::min((*x / s).round_ties_even(), high), low);
    }
}
