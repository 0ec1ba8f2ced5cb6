//! Linear layers: float, and static int8 simulated with exact integer arithmetic (codes are multiplied, scales applied after).

use rayon::prelude::*;

use super::{OpContext, Results, with_cols};
use crate::exec::value::Value;
use crate::graph::ops::Linear;
use crate::numeric::gemm::matmul_nt;
use crate::numeric::{Real, Tensor};

pub(super) fn linear<T: Real>(op: &Linear, ctx: &OpContext<'_, T>, operands: &[&Value<T>]) -> Results<T> {
    let x = ctx.float(operands, 0)?;
    let w = ctx.weight(op.weight)?;
    let (n, k, m) = (x.rows(), x.cols(), w.values.rows());
    let row_scales = match op.act {
        None => None,
        Some(act) if act.shared() => Some(vec![T::from_f32(act.text); n]),
        Some(act) => {
            let modality = ctx.float(operands, 1)?;
            let of = |&visual: &T| T::from_f32(if visual > T::ZERO { act.visual } else { act.text });
            Some(modality.data().iter().map(of).collect())
        }
    };
    let quantized = row_scales.as_ref().map(|scales| codes(x, scales));
    let input = quantized.as_deref().unwrap_or(x.data());
    let mut out = vec![T::ZERO; n * m];
    matmul_nt(&mut out, input, w.values.data(), (n, k, m));
    let bias = op.bias.map(|b| ctx.weight(b)).transpose()?;
    let bias = bias.as_ref().map(|b| b.values.data());
    out.par_chunks_mut(m.max(1)).enumerate().for_each(|(i, row)| {
        let s = row_scales.as_ref().map_or(T::ONE, |s| s[i]);
        if let Some(channel) = &w.scales {
            row.iter_mut().zip(channel).for_each(|(y, &c)| *y = *y * c * s);
        }
        if let Some(bias) = bias {
            row.iter_mut().zip(bias).for_each(|(y, &b)| *y += b);
        }
    });
    ctx.result(with_cols(x.shape(), m), out)
}

/// Int8 codes of every row, held as integers in `T` so that the product of codes is exact in `f64` and, below 2^24, in `f32`.
fn codes<T: Real>(x: &Tensor<T>, row_scales: &[T]) -> Vec<T> {
    let cols = x.cols().max(1);
    let mut out = x.data().to_vec();
    out.par_chunks_mut(cols).zip(row_scales).for_each(|(row, &s)| quantize_row(row, s));
    out
}

/// Replaces a row by its int8 codes at scale `s`: nearest with ties to even, saturated to `[-128, 127]` as ONNX `QuantizeLinear` does.
/// Calibrated scales put the largest calibration value on 127; the code -128 is reached only by larger ones.
pub fn quantize_row<T: Real>(row: &mut [T], s: T) {
    let (low, high) = (T::from_f32(-128.0), T::from_f32(127.0));
    for x in row {
        *x = Real::max(Real::min((*x / s).round_ties_even(), high), low);
    }
}
