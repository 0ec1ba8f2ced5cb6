//! The fused attentions of ONNX Runtime (`docs/ContribOperators.md`), one head of one prompt at a time, heads in parallel.

use faer::{MatMut, MatRef};
use rayon::prelude::*;

use super::norm::softmax_row;
use super::{Call, Results};
use crate::numeric::gemm::{matmul_nn_seq, matmul_nt_seq};
use crate::verify::onnx::array::Array;
use crate::verify::onnx::error::Fault;
use crate::verify::onnx::value::Value;

/// Softmax of scores, times values. `scores(i, row)` changes the scaled scores of query `i` before.
fn attend(
    out: MatMut<'_, f32>,
    [q, k, v]: [MatRef<'_, f32>; 3],
    scale: f32,
    scores: impl Fn(usize, &mut [f32]),
) {
    let (queries, keys) = (q.nrows(), k.nrows());
    let mut weights = vec![0.0; queries * keys];
    if keys == 0 {
        return;
    }
    matmul_nt_seq(MatMut::from_row_major_slice_mut(&mut weights, queries, keys), q, k);
    for (i, row) in weights.chunks_exact_mut(keys).enumerate() {
        row.iter_mut().for_each(|s| *s *= scale);
        scores(i, row);
        softmax_row(row);
    }
    matmul_nn_seq(out, MatRef::from_row_major_slice(&weights, queries, keys), v);
}

/// Scale of the scores: the attribute, or one over the root of the head size.
fn scale(call: &Call<'_>, head_dim: usize) -> Result<f32, Fault> {
    match call.node.float("scale", 0.0)? {
        0.0 => Ok((1.0 / (head_dim as f64).sqrt()) as f32),
        given => Ok(given),
    }
}

/// Batch, rows and channels of operand `i`, which is `[batch, rows, heads * dim]`.
fn rows(call: &Call<'_>, i: usize, heads: usize) -> Result<(usize, usize, usize), Fault> {
    match *call.of::<f32>(i)?.shape() {
        [batch, rows, width] if width % heads == 0 && width > 0 => Ok((batch, rows, width / heads)),
        ref other => {
            Err(Fault::shape(format!("operand {i} [batch, rows, channels of {heads} heads]"), other))
        }
    }
}

/// com.microsoft.MultiHeadAttention of queries, keys and values without mask, bias or cache.
pub fn multi_head_attention(call: &Call<'_>) -> Results {
    let heads = call.node.size("num_heads")?;
    let (batch, n, dim) = rows(call, 0, heads)?;
    let (of_keys, of_values) = (rows(call, 1, heads)?, rows(call, 2, heads)?);
    if of_keys != of_values || (of_keys.0, of_keys.2) != (batch, dim) {
        return Err(Fault::shape(
            format!("keys and values [{batch}, rows, {}]", heads * dim),
            (of_keys, of_values),
        ));
    }
    let (keys, width, scale) = (of_keys.1, heads * dim, scale(call, dim)?);
    let [q, k, v] = [call.of::<f32>(0)?, call.of::<f32>(1)?, call.of::<f32>(2)?];
    let mut out = vec![0.0; q.len()];
    for (b, out) in out.chunks_exact_mut((n * width).max(1)).enumerate() {
        let prompt = |rows: usize| b * rows * width..(b + 1) * rows * width;
        let q = MatRef::from_row_major_slice(&q.data()[prompt(n)], n, width);
        let k = MatRef::from_row_major_slice(&k.data()[prompt(keys)], keys, width);
        let v = MatRef::from_row_major_slice(&v.data()[prompt(keys)], keys, width);
        let out = MatMut::from_row_major_slice_mut(out, n, width);
        out.par_col_chunks_mut(dim).enumerate().for_each(|(head, out)| {
            attend(out, [q, k, v].map(|x| x.subcols(head * dim, dim)), scale, |_, _| ());
        });
    }
    Ok(vec![Value::F32(Array::new(vec![batch, n, width], out)?)])
}

/// Sizes of a GroupQueryAttention.
struct Sizes {
    batch: usize,
    new: usize,
    past: usize,
    heads: usize,
    kv_heads: usize,
    dim: usize,
}

impl Sizes {
    fn of(call: &Call<'_>) -> Result<Self, Fault> {
        let (heads, kv_heads) = (call.node.size("num_heads")?, call.node.size("kv_num_heads")?);
        let (batch, new, dim) = rows(call, 0, heads)?;
        let other = (rows(call, 1, kv_heads)?, rows(call, 2, kv_heads)?);
        let caches = (call.of::<f32>(3)?.shape(), call.of::<f32>(4)?.shape());
        let past = *caches.0.get(2).unwrap_or(&0);
        let cache = [batch, kv_heads, past, dim];
        if other != ((batch, new, dim), (batch, new, dim))
            || caches != (&cache, &cache)
            || heads % kv_heads != 0
        {
            let expected = format!("keys and values of {kv_heads} heads of {dim} and caches {cache:?}");
            return Err(Fault::shape(expected, (other, caches)));
        }
        let sizes = Self { batch, new, past, heads, kv_heads, dim };
        sizes.lengths(call)?;
        Ok(sizes)
    }

    fn total(&self) -> usize {
        self.past + self.new
    }

    /// The lengths given are those of the operands: no prompt is shorter than the others, padding is for the bias to hide.
    fn lengths(&self, call: &Call<'_>) -> Result<(), Fault> {
        let (lasts, total) = (call.of::<i32>(5)?.data(), call.one::<i32>(6)?);
        let found = lasts.iter().map(|l| i64::from(*l) + 1).chain([i64::from(total)]);
        if lasts.len() != self.batch || !found.into_iter().all(|n| n == self.total() as i64) {
            return Err(Fault::shape(format!("{} tokens in every prompt", self.total()), (lasts, total)));
        }
        Ok(())
    }

    /// Bias `[batch or 1, heads or 1, new, total]`, if there is one.
    fn bias<'a>(&self, call: &Call<'a>) -> Result<Option<Bias<'a>>, Fault> {
        if let Some(i) = (7..10).find(|i| call.optional(*i).is_some()) {
            return Err(Fault::shape(
                format!("operand {i} left out: rotary embedding is a node of its own"),
                "one",
            ));
        }
        if call.optional(10).is_none() {
            return Ok(None);
        }
        let bias = call.of::<f32>(10)?;
        match *bias.shape() {
            [b, h, n, t]
                if (b == 1 || b == self.batch)
                    && (h == 1 || h == self.heads)
                    && [n, t] == [self.new, self.total()] =>
            {
                Ok(Some(Bias { data: bias.data(), batches: b, heads: h, run: n * t, total: t }))
            }
            ref other => {
                Err(Fault::shape(format!("a bias [batch, heads, {}, {}]", self.new, self.total()), other))
            }
        }
    }
}

/// What is added to scores.
struct Bias<'a> {
    data: &'a [f32],
    batches: usize,
    heads: usize,
    run: usize,
    total: usize,
}

impl Bias<'_> {
    fn row(&self, batch: usize, head: usize, query: usize) -> &[f32] {
        let (b, h) = (batch.min(self.batches - 1), head.min(self.heads - 1));
        let first = (b * self.heads + h) * self.run + query * self.total;
        &self.data[first..first + self.total]
    }
}

/// com.microsoft.GroupQueryAttention with a cache and a bias on the scores: every query sees the keys up to its own. Results are the rows, and keys and
/// values of all tokens so far.
pub fn group_query_attention(call: &Call<'_>) -> Results {
    let sizes = Sizes::of(call)?;
    let bias = sizes.bias(call)?;
    let Sizes { batch, new, past, heads, kv_heads, dim } = sizes;
    let (total, width, scale) = (sizes.total(), heads * dim, scale(call, dim)?);
    let q = call.of::<f32>(0)?;
    let keys = grown(call.of::<f32>(3)?.data(), call.of::<f32>(1)?.data(), &sizes);
    let values = grown(call.of::<f32>(4)?.data(), call.of::<f32>(2)?.data(), &sizes);
    let mut out = vec![0.0; q.len()];
    for (b, out) in out.chunks_exact_mut((new * width).max(1)).enumerate() {
        let q = MatRef::from_row_major_slice(&q.data()[b * new * width..(b + 1) * new * width], new, width);
        let out = MatMut::from_row_major_slice_mut(out, new, width);
        out.par_col_chunks_mut(dim).enumerate().for_each(|(head, out)| {
            let first = (b * kv_heads + head / (heads / kv_heads)) * total * dim;
            let [k, v] = [&keys, &values]
                .map(|x| MatRef::from_row_major_slice(&x[first..first + total * dim], total, dim));
            attend(out, [q.subcols(head * dim, dim), k, v], scale, |i, row| {
                if let Some(bias) = &bias {
                    row.iter_mut().zip(bias.row(b, head, i)).for_each(|(s, b)| *s += b);
                }
                row[past + i + 1..].fill(f32::NEG_INFINITY);
            });
        });
    }
    let cache = vec![batch, kv_heads, total, dim];
    Ok(vec![
        Value::F32(Array::new(q.shape().to_vec(), out)?),
        Value::F32(Array::new(cache.clone(), keys)?),
        Value::F32(Array::new(cache, values)?),
    ])
}

/// A cache `[batch, heads, past, dim]` with new rows `[batch, new, heads * dim]` behind it.
fn grown(cache: &[f32], rows: &[f32], sizes: &Sizes) -> Vec<f32> {
    let Sizes { batch, new, past, kv_heads, dim, .. } = *sizes;
    let mut out = Vec::with_capacity(cache.len() + rows.len());
    for b in 0..batch {
        for h in 0..kv_heads {
            let first = (b * kv_heads + h) * past * dim;
            out.extend_from_slice(&cache[first..first + past * dim]);
            for r in 0..new {
                let first = ((b * new + r) * kv_heads + h) * dim;
                out.extend_from_slice(&rows[first..first + dim]);
            }
        }
    }
    out
}
