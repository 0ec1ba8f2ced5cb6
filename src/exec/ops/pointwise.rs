//! Normalisations, sums, products and non-linearities. Moments are accumulated in f64: they are the executor's reference role.

use rayon::prelude::*;

use super::{OpContext, Results};
use crate::exec::value::Value;
use crate::graph::ops::{Activate, Add, DivideBy, LayerNorm, Mul, RmsNorm, Scale};
use crate::graph::spec::Activation;
use crate::numeric::{Real, Tensor, erf};

pub(super) fn layer_norm<T: Real>(
    op: &LayerNorm,
    ctx: &OpContext<'_, T>,
    operands: &[&Value<T>],
) -> Results<T> {
    let x = ctx.float(operands, 0)?;
    let (gain, bias) = (ctx.weight(op.gain)?, ctx.weight(op.bias)?);
    let (gain, bias) = (gain.values.data(), bias.values.data());
    by_row(ctx, x, |row| {
        let n = row.len() as f64;
        let mean = row.iter().map(|v| v.to_f64()).sum::<f64>() / n;
        let var = row.iter().map(|v| (v.to_f64() - mean).powi(2)).sum::<f64>() / n;
        let inv = 1.0 / (var + op.eps).sqrt();
        for ((v, &g), &b) in row.iter_mut().zip(gain).zip(bias) {
            *v = T::from_f64((v.to_f64() - mean) * inv) * g + b;
        }
    })
}

pub(super) fn rms_norm<T: Real>(op: &RmsNorm, ctx: &OpContext<'_, T>, operands: &[&Value<T>]) -> Results<T> {
    let x = ctx.float(operands, 0)?;
    let gain = ctx.weight(op.gain)?;
    let gain = gain.values.data();
    by_row(ctx, x, |row| {
        let mean_square = row.iter().map(|v| v.to_f64().powi(2)).sum::<f64>() / row.len() as f64;
        let inv = 1.0 / (mean_square + op.eps).sqrt();
        for (v, &g) in row.iter_mut().zip(gain) {
            *v = T::from_f64(v.to_f64() * inv) * g;
        }
    })
}

fn by_row<T: Real>(ctx: &OpContext<'_, T>, x: &Tensor<T>, f: impl Fn(&mut [T]) + Sync + Send) -> Results<T> {
    let mut out = x.data().to_vec();
    out.par_chunks_mut(x.cols().max(1)).for_each(f);
    ctx.result(x.shape().to_vec(), out)
}

pub(super) fn add<T: Real>(_: &Add, ctx: &OpContext<'_, T>, operands: &[&Value<T>]) -> Results<T> {
    zip(ctx, operands, |a, b| a + b)
}

pub(super) fn mul<T: Real>(_: &Mul, ctx: &OpContext<'_, T>, operands: &[&Value<T>]) -> Results<T> {
    zip(ctx, operands, |a, b| a * b)
}

fn zip<T: Real>(ctx: &OpContext<'_, T>, operands: &[&Value<T>], f: impl Fn(T, T) -> T) -> Results<T> {
    let (a, b) = (ctx.float(operands, 0)?, ctx.float(operands, 1)?);
    let data = a.data().iter().zip(b.data()).map(|(&a, &b)| f(a, b)).collect();
    ctx.result(a.shape().to_vec(), data)
}

pub(super) fn scale<T: Real>(op: &Scale, ctx: &OpContext<'_, T>, operands: &[&Value<T>]) -> Results<T> {
    let gain = ctx.weight(op.gain)?;
    let gain = gain.values.data();
    by_row(ctx, ctx.float(operands, 0)?, |row| row.iter_mut().zip(gain).for_each(|(v, &g)| *v *= g))
}

pub(super) fn divide_by<T: Real>(
    op: &DivideBy,
    ctx: &OpContext<'_, T>,
    operands: &[&Value<T>],
) -> Results<T> {
    let by = T::from_f64(op.by);
    by_row(ctx, ctx.float(operands, 0)?, |row| row.iter_mut().for_each(|v| *v /= by))
}

pub(super) fn activate<T: Real>(op: &Activate, ctx: &OpContext<'_, T>, operands: &[&Value<T>]) -> Results<T> {
    let x = ctx.float(operands, 0)?;
    let f: fn(T) -> T = match op.kind {
        Activation::QuickGelu => |x| x * sigmoid(T::from_f64(1.702) * x),
        Activation::Silu => |x| x * sigmoid(x),
        Activation::GeluErf => |x| {
            let v = x.to_f64();
            T::from_f64(0.5 * v * (1.0 + erf(v * std::f64::consts::FRAC_1_SQRT_2)))
        },
        Activation::GeluTanh => |x| {
            let v = x.to_f64();
            let inner = (2.0 / std::f64::consts::PI).sqrt() * (v + 0.044715 * v.powi(3));
            T::from_f64(0.5 * v * (1.0 + inner.tanh()))
        },
    };
    by_row(ctx, x, |row| row.iter_mut().for_each(|v| *v = f(*v)))
}

fn sigmoid<T: Real>(x: T) -> T {
    T::ONE / (T::ONE + (-x).exp())
}
