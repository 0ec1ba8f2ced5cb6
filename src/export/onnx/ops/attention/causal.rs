//! Causal attention with a cache.
//!
//! 12 / 2 heads of 128: GroupQueryAttention 9.4 ms at 512 rows and 60 ms at 1500, with an explicit mask 16 and 76; standard operators 16.4 and
//! 161; at one row after 512, 0.18, 0.20 and 0.09. Without the explicit mask it derives visibility from the number of ones in `attention_mask`
//! and is wrong for padding on the left or in the middle; a whole layer loses 4 % by the mask, so it is always given. The standard form groups query heads
//! by key head instead of repeating keys, which would cost 7.8 instead of 0.27 ms per decoded token after 2048.
//!
//! GroupQueryAttention refuses one thing the IR allows: several new tokens after a cache for more than one prompt (`batch_size must be 1 when
//! sequence_length > 1 and past context is given`). Batches prefill and decode; a second chunk of a batched prompt needs the standard form.

use super::{HIDDEN, join_heads, softmax_scores, split_heads};
use crate::export::onnx::OpSet;
use crate::export::onnx::call::Call;
use crate::export::onnx::emit::Emitter;
use crate::export::onnx::error::OnnxError;
use crate::export::onnx::proto::tensor_proto::DataType;
use crate::graph::ops::CausalAttention;

/// ONNX Runtime's GroupQueryAttention takes head sizes that are multiples of 8.
const FUSED_HEAD_MULTIPLE: usize = 8;

/// Whether causal attention becomes GroupQueryAttention, which can write past and present into one buffer.
pub fn fuses_causal_attention(ops: OpSet, head_dim: usize) -> bool {
    ops == OpSet::Ort && head_dim.is_multiple_of(FUSED_HEAD_MULTIPLE)
}

pub fn causal_attention(op: &CausalAttention, e: &mut Emitter<'_>) -> Result<(), OnnxError> {
    if fuses_causal_attention(e.ops, op.head_dim) { fused_causal(op, e) } else { standard_causal(op, e) }
}

/// Lengths of the run, from the mask and the queries; all layers share them.
struct Lengths {
    /// Prompts, rank 1.
    batch: String,
    /// Cached and new tokens, rank 1.
    total: String,
    /// New tokens, rank 1.
    sequence: String,
}

fn lengths(e: &mut Emitter<'_>, mask: &str, q: &str) -> Result<Lengths, OnnxError> {
    let found = e.shared(format!("{mask}/lengths"), |e| {
        let mut extent =
            |x: &str, axis: i64| e.one(Call::new("Shape", &[x]).int("start", axis).int("end", axis + 1));
        Ok(vec![extent(mask, 0), extent(mask, 1), extent(q, 1)])
    })?;
    match <[String; 3]>::try_from(found) {
        Ok([batch, total, sequence]) => Ok(Lengths { batch, total, sequence }),
        Err(_) => Err(e.not_valid("has no lengths")),
    }
}

/// `[batch, 1, sequence, total]`: 0 where a query sees a key, [`HIDDEN`] elsewhere.
fn causal_bias(e: &mut Emitter<'_>, mask: &str, n: &Lengths) -> Result<String, OnnxError> {
    let bias = e.shared(format!("{mask}/bias"), |e| {
        let (zero, one, first) = (e.int(0), e.int(1), e.ints(&[0]));
        let mut scalar = |x: &str| e.one(Call::new("Squeeze", &[x, &first]));
        let (total, sequence) = (scalar(&n.total), scalar(&n.sequence));
        let keys = e.one(Call::new("Range", &[&zero, &total, &one]));
        let past = e.one(Call::new("Sub", &[&total, &sequence]));
        let queries = e.one(Call::new("Range", &[&past, &total, &one]));
        let column = e.ints(&[1]);
        let queries = e.one(Call::new("Unsqueeze", &[&queries, &column]));
        let causal = e.one(Call::new("LessOrEqual", &[&keys, &queries]));
        let present = e.one(Call::new("Equal", &[mask, &one]));
        let axes = e.ints(&[1, 2]);
        let present = e.one(Call::new("Unsqueeze", &[&present, &axes]));
        let visible = e.one(Call::new("And", &[&causal, &present]));
        let (seen, hidden) = (e.float(0.0), e.float(HIDDEN));
        Ok(vec![e.one(Call::new("Where", &[&visible, &seen, &hidden]))])
    })?;
    Ok(bias.concat())
}

fn fused_causal(op: &CausalAttention, e: &mut Emitter<'_>) -> Result<(), OnnxError> {
    let (q, k, v, mask) = (e.input(0)?, e.input(1)?, e.input(2)?, e.input(3)?);
    let (past_k, past_v) = (e.input(4)?, e.input(5)?);
    let n = lengths(e, &mask, &q)?;
    let bias = causal_bias(e, &mask, &n)?;
    let sizes = e.shared(format!("{mask}/sizes"), |e| {
        let (first, one) = (e.ints(&[0]), e.ints(&[1]));
        let int32 = |x: &str| Call::new("Cast", &[x]).int("to", DataType::Int32 as i64);
        let last = e.one(Call::new("Sub", &[&n.total, &one]));
        let lasts = e.one(Call::new("Expand", &[&last, &n.batch]));
        let total = e.one(Call::new("Squeeze", &[&n.total, &first]));
        Ok(vec![e.one(int32(&lasts)), e.one(int32(&total))])
    })?;
    let [lasts, total] = sizes.as_slice() else { return Err(e.not_valid("has no sizes")) };
    // Rotary is a node of its own (inputs 7 to 9 are empty): M-RoPE has no single position per token.
    let inputs = [q.as_str(), &k, &v, &past_k, &past_v, lasts, total, "", "", "", &bias];
    let call = Call::microsoft("GroupQueryAttention", &inputs);
    e.results(call.int("num_heads", op.heads as i64).int("kv_num_heads", op.kv_heads as i64), 3)
}

fn standard_causal(op: &CausalAttention, e: &mut Emitter<'_>) -> Result<(), OnnxError> {
    let (q, k, v, mask) = (e.input(0)?, e.input(1)?, e.input(2)?, e.input(3)?);
    let n = lengths(e, &mask, &q)?;
    let bias = causal_bias(e, &mask, &n)?;
    let (kv, group, dim) = (op.kv_heads as i64, (op.heads / op.kv_heads.max(1)) as i64, op.head_dim as i64);
    let k = grow(op, e, &k, 4, 1)?;
    let v = grow(op, e, &v, 5, 2)?;
    let q = split_heads(e, &q, op.heads, op.head_dim, [0, 2, 1, 3]);
    // All queries that share a key head lie under each other, so keys need no repetition.
    let grouped = e.ints(&[0, kv, -1, dim]);
    let q = e.one(Call::new("Reshape", &[&q, &grouped]));
    let k = e.one(Call::new("Transpose", &[&k]).ints("perm", &[0, 1, 3, 2]));
    let shapes = e.shared(format!("{mask}/shapes_{kv}_{group}_{dim}"), |e| {
        let (rest, heads, dim) = (e.ints(&[kv, -1]), e.ints(&[kv * group]), e.ints(&[dim]));
        let group = e.ints(&[kv, group]);
        let (b, s, t) = (&n.batch, &n.sequence, &n.total);
        let mut join = |parts: &[&str]| e.one(Call::new("Concat", parts).int("axis", 0));
        Ok(vec![join(&[b, &group, s, t]), join(&[b, &rest, t]), join(&[b, &heads, s, &dim])])
    })?;
    let [by_group, flat, by_head] = shapes.as_slice() else { return Err(e.not_valid("has no shapes")) };
    let group_axis = e.ints(&[1]);
    let bias = e.shared(format!("{mask}/bias_by_group"), |e| {
        Ok(vec![e.one(Call::new("Unsqueeze", &[&bias, &group_axis]))])
    })?;
    let weights = softmax_scores(e, (&q, &k), op.head_dim, |e, s| {
        let s = e.one(Call::new("Reshape", &[&s, by_group]));
        e.one(Call::new("Add", &[&s, &bias.concat()]))
    });
    let weights = e.one(Call::new("Reshape", &[&weights, flat]));
    let mixed = e.one(Call::new("MatMul", &[&weights, &v]));
    let mixed = e.one(Call::new("Reshape", &[&mixed, by_head]));
    join_heads(e, &mixed, op.heads * op.head_dim)
}

/// Appends new rows `[batch, sequence, heads * dim]` to cache operand `past`: result `result` of the node.
fn grow(
    op: &CausalAttention,
    e: &mut Emitter<'_>,
    new: &str,
    past: usize,
    result: usize,
) -> Result<String, OnnxError> {
    let past = e.input(past)?;
    let new = split_heads(e, new, op.kv_heads, op.head_dim, [0, 2, 1, 3]);
    e.result(Call::new("Concat", &[&past, &new]).int("axis", 2), result)?;
    e.output(result)
}
