//! Softmax attention, one head of one segment or prompt at a time, heads in parallel.

use faer::{MatMut, MatRef};
use rayon::prelude::*;

use super::segments::{Run, runs};
use super::{OpContext, Results};
use crate::exec::run::ExecError;
use crate::exec::value::Value;
use crate::graph::ops::{CausalAttention, CrossAttention, SegmentAttention};
use crate::numeric::gemm::{matmul_nn_seq, matmul_nt_seq};
use crate::numeric::{Real, Tensor};

/// Rows of one head: `rows x head_dim`, `stride` apart.
struct Head<'a, T> {
    data: &'a [T],
    rows: usize,
    stride: usize,
    dim: usize,
}

impl<'a, T: Real> Head<'a, T> {
    fn mat(&self) -> MatRef<'a, T> {
        MatRef::from_row_major_slice_with_stride(self.data, self.rows, self.dim, self.stride)
    }
}

/// `softmax(q k^T / sqrt(dim)) v`; `visible(i)` is the predicate on keys for query `i`. Result `[q rows, dim]`.
fn attend<T: Real>(
    q: &Head<'_, T>,
    k: &Head<'_, T>,
    v: &Head<'_, T>,
    visible: impl Fn(usize, usize) -> bool,
) -> Vec<T> {
    let scale = T::from_f64(1.0 / (q.dim as f64).sqrt());
    let mut scores = vec![T::ZERO; q.rows * k.rows];
    matmul_nt_seq(MatMut::from_row_major_slice_mut(&mut scores, q.rows, k.rows), q.mat(), k.mat());
    for (i, row) in scores.chunks_exact_mut(k.rows.max(1)).enumerate() {
        for (j, s) in row.iter_mut().enumerate() {
            *s = if visible(i, j) { *s * scale } else { T::NEG_INFINITY };
        }
        softmax(row);
    }
    let mut out = vec![T::ZERO; q.rows * q.dim];
    let scores = MatRef::from_row_major_slice(&scores, q.rows, k.rows);
    matmul_nn_seq(MatMut::from_row_major_slice_mut(&mut out, q.rows, q.dim), scores, v.mat());
    out
}

/// Softmax in place; a row without any visible key becomes zeros.
fn softmax<T: Real>(row: &mut [T]) {
    let max = row.iter().fold(T::NEG_INFINITY, |m, &x| Real::max(m, x));
    if max == T::NEG_INFINITY {
        return row.fill(T::ZERO);
    }
    let mut sum = T::ZERO;
    for x in row.iter_mut() {
        *x = Real::exp(*x - max);
        sum += *x;
    }
    row.iter_mut().for_each(|x| *x /= sum);
}

/// Writes head results `(first row, head, [rows, dim])` into `[rows, heads * dim]`.
fn gather_heads<T: Real>(out: &mut [T], width: usize, dim: usize, heads: Vec<(usize, usize, Vec<T>)>) {
    for (start, head, rows) in heads {
        for (i, row) in rows.chunks_exact(dim).enumerate() {
            let at = (start + i) * width + head * dim;
            out[at..at + dim].copy_from_slice(row);
        }
    }
}

pub(super) fn segment_attention<T: Real>(
    op: &SegmentAttention,
    ctx: &OpContext<'_, T>,
    operands: &[&Value<T>],
) -> Results<T> {
    let (q, k, v) = (ctx.float(operands, 0)?, ctx.float(operands, 1)?, ctx.float(operands, 2)?);
    let segments = ctx.int(operands, 3)?.data();
    let dim = op.head_dim;
    let jobs = per_head(runs(ctx, segments, q.rows(), 1)?, op.heads);
    let done = jobs.into_par_iter().map(|(run, h)| {
        let head = |t| head_of(t, run.start, run.len, h, dim);
        let (q, k, v) = (head(q), head(k), head(v));
        let of = |data| Head { data, rows: run.len, stride: dim, dim };
        (run.start, h, attend(&of(&q), &of(&k), &of(&v), |_, _| true))
    });
    let mut out = vec![T::ZERO; q.data().len()];
    gather_heads(&mut out, q.cols(), dim, done.collect());
    ctx.result(q.shape().to_vec(), out)
}

pub(super) fn cross_attention<T: Real>(
    op: &CrossAttention,
    ctx: &OpContext<'_, T>,
    operands: &[&Value<T>],
) -> Results<T> {
    let (q, k, v) = (ctx.float(operands, 0)?, ctx.float(operands, 1)?, ctx.float(operands, 2)?);
    let (queries, width, dim) = (q.rows(), q.cols(), op.head_dim);
    let runs = runs(ctx, ctx.int(operands, 3)?.data(), k.rows(), 1)?;
    let rows = runs.len() * queries;
    let jobs: Vec<_> = per_head(runs, op.heads).into_iter().enumerate().collect();
    let done = jobs.into_par_iter().map(|(i, (run, h))| {
        let (k, v) = (head_of(k, run.start, run.len, h, dim), head_of(v, run.start, run.len, h, dim));
        let q = head_of(q, 0, queries, h, dim);
        let of = |data, rows| Head { data, rows, stride: dim, dim };
        let mixed = attend(&of(&q, queries), &of(&k, run.len), &of(&v, run.len), |_, _| true);
        (i / op.heads * queries, h, mixed)
    });
    let mut out = vec![T::ZERO; rows * width];
    gather_heads(&mut out, width, dim, done.collect());
    ctx.result(vec![1, rows, width], out)
}

/// Every run with every head, heads innermost.
fn per_head(runs: Vec<Run>, heads: usize) -> Vec<(Run, usize)> {
    runs.into_iter().flat_map(|run| (0..heads).map(move |h| (run, h))).collect()
}

/// Rows `start..start + len` of head `h`, `[len, dim]`.
fn head_of<T: Real>(t: &Tensor<T>, start: usize, len: usize, h: usize, dim: usize) -> Vec<T> {
    (start..start + len).flat_map(|r| t.row(r)[h * dim..(h + 1) * dim].iter().copied()).collect()
}

pub(super) fn causal_attention<T: Real>(
    op: &CausalAttention,
    ctx: &OpContext<'_, T>,
    operands: &[&Value<T>],
) -> Results<T> {
    let (q, k, v) = (ctx.float(operands, 0)?, ctx.float(operands, 1)?, ctx.float(operands, 2)?);
    let mask = ctx.int(operands, 3)?;
    let (past_k, past_v) = (ctx.float(operands, 4)?, ctx.float(operands, 5)?);
    let (batch, seq, past, dim) = (q.shape()[0], q.shape()[1], past_k.shape()[2], op.head_dim);
    let total = past + seq;
    if mask.shape() != [batch, total] || past_k.shape()[0] != batch || past_v.shape() != past_k.shape() {
        let reason = format!(
            "batch {batch}, {seq} new and {past} cached tokens, but mask {:?} and caches {:?}, {:?}",
            mask.shape(),
            past_k.shape(),
            past_v.shape()
        );
        return Err(ExecError::sizes(ctx.node, reason));
    }
    let keys = grow(past_k, k, op.kv_heads, dim);
    let values = grow(past_v, v, op.kv_heads, dim);
    let width = op.heads * dim;
    let jobs: Vec<_> = (0..batch).flat_map(|b| (0..op.heads).map(move |h| (b, h))).collect();
    let done = jobs.into_par_iter().map(|(b, h)| {
        let cache = (b * op.kv_heads + h * op.kv_heads / op.heads) * total * dim;
        let of = |data| Head { data, rows: total, stride: dim, dim };
        let head = head_of(q, b * seq, seq, h, dim);
        let q = Head { data: &head, rows: seq, stride: dim, dim };
        let (k, v) = (of(&keys[cache..cache + total * dim]), of(&values[cache..cache + total * dim]));
        let mask = &mask.data()[b * total..(b + 1) * total];
        (b * seq, h, attend(&q, &k, &v, |i, j| j <= past + i && mask[j] == 1))
    });
    let mut out = vec![T::ZERO; batch * seq * width];
    gather_heads(&mut out, width, dim, done.collect());
    let cache_shape = vec![batch, op.kv_heads, total, dim];
    Ok(vec![
        ctx.tensor(q.shape().to_vec(), out)?,
        ctx.tensor(cache_shape.clone(), keys)?,
        ctx.tensor(cache_shape, values)?,
    ])
}

/// The cache `[batch, heads, past, dim]` with the new rows `[batch, sequence, heads * dim]` behind it.
fn grow<T: Real>(past: &Tensor<T>, new: &Tensor<T>, heads: usize, dim: usize) -> Vec<T> {
    let (batch, seq) = (new.shape()[0], new.shape()[1]);
    let old = past.shape()[2] * dim;
    let mut out = Vec::with_capacity(past.data().len() + new.data().len());
    for b in 0..batch {
        for h in 0..heads {
            let at = (b * heads + h) * old;
            out.extend_from_slice(&past.data()[at..at + old]);
            for r in b * seq..(b + 1) * seq {
                out.extend_from_slice(&new.row(r)[h * dim..(h + 1) * dim]);
            }
        }
    }
    out
}
