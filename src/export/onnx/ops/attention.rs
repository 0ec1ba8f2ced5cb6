//! The two attentions. Measured per layer on ONNX Runtime 1.32, two cores.
//!
//! Segments, 2048 patches of 16 x 80 in three images: a loop over segments of MultiHeadAttention without mask 59 ms and no memory beyond its
//! operands; MultiHeadAttention with a mask 200 ms; standard operators with a mask 245 ms and 610 MB, growing with the square of the patches
//! (4.6 GB at 6144).
//!
//! Causal, 12 / 2 heads of 128: GroupQueryAttention 9.4 ms at 512 rows and 60 ms at 1500, with an explicit mask 16 and 76; standard operators 16.4 and
//! 161; at one row after 512, 0.18, 0.20 and 0.09. Without the explicit mask it derives visibility from the number of ones in `attention_mask`
//! and is wrong for padding on the left or in the middle; a whole layer loses 4 % by the mask, so it is always given. The standard form groups query heads
//! by key head instead of repeating keys, which would cost 7.8 instead of 0.27 ms per decoded token after 2048.
//!
//! GroupQueryAttention refuses one thing the IR allows: several new tokens after a cache for more than one prompt (`batch_size must be 1 when
//! sequence_length > 1 and past context is given`). Batches prefill and decode; a second chunk of a batched prompt needs the standard form.

use super::super::OpSet;
use super::super::call::Call;
use super::super::emit::Emitter;
use super::super::error::OnnxError;
use super::super::proto::tensor_proto::DataType;
use super::super::proto::{GraphProto, NodeProto, TypeProto, ValueInfoProto, type_proto};
use crate::graph::ops::{CausalAttention, CrossAttention, SegmentAttention};

/// Added to the scores of keys that may not be seen. Finite, so that a row that sees no key (padding) yields numbers, not NaN.
const HIDDEN: f32 = -1e30;

/// ONNX Runtime's GroupQueryAttention takes head sizes that are multiples of 8.
const FUSED_HEAD_MULTIPLE: usize = 8;

/// Whether causal attention becomes GroupQueryAttention, which can write past and present into one buffer.
pub fn fuses_causal_attention(ops: OpSet, head_dim: usize) -> bool {
    ops == OpSet::Ort && head_dim.is_multiple_of(FUSED_HEAD_MULTIPLE)
}

pub(super) fn segment_attention(op: &SegmentAttention, e: &mut Emitter<'_>) -> Result<(), OnnxError> {
    match e.ops {
        OpSet::Ort => segment_loop(op, e),
        OpSet::Standard => segment_mask(op, e),
    }
}

/// Standard form: all pairs of rows, other segments hidden by a mask that all blocks share.
fn segment_mask(op: &SegmentAttention, e: &mut Emitter<'_>) -> Result<(), OnnxError> {
    let (q, k, v, segments) = (e.input(0)?, e.input(1)?, e.input(2)?, e.input(3)?);
    let bias = e.shared(format!("{segments}/bias"), |e| {
        let (first, second) = (e.ints(&[0]), e.ints(&[1]));
        let column = e.one(Call::new("Unsqueeze", &[&segments, &second]));
        let row = e.one(Call::new("Unsqueeze", &[&segments, &first]));
        let same = e.one(Call::new("Equal", &[&column, &row]));
        let (seen, hidden) = (e.float(0.0), e.float(HIDDEN));
        Ok(vec![e.one(Call::new("Where", &[&same, &seen, &hidden]))])
    })?;
    let mut heads = |x: &str| split_heads(e, x, op.heads, op.head_dim, [0, 2, 1, 3]);
    let (q, v) = (heads(&q), heads(&v));
    let k = split_heads(e, &k, op.heads, op.head_dim, [0, 2, 3, 1]);
    let weights =
        softmax_scores(e, (&q, &k), op.head_dim, |e, s| e.one(Call::new("Add", &[&s, &bias.concat()])));
    let mixed = e.one(Call::new("MatMul", &[&weights, &v]));
    join_heads(e, &mixed, op.heads * op.head_dim)
}

/// `[batch, rows, heads * dim]` to four axes, permuted from `[batch, rows, heads, dim]`.
fn split_heads(e: &mut Emitter<'_>, x: &str, heads: usize, dim: usize, perm: [i64; 4]) -> String {
    let shape = e.ints(&[0, 0, heads as i64, dim as i64]);
    let x = e.one(Call::new("Reshape", &[x, &shape]));
    e.one(Call::new("Transpose", &[&x]).ints("perm", &perm))
}

/// `[batch, heads, rows, dim]` to the node's first result `[batch, rows, heads * dim]`.
fn join_heads(e: &mut Emitter<'_>, x: &str, width: usize) -> Result<(), OnnxError> {
    let x = e.one(Call::new("Transpose", &[x]).ints("perm", &[0, 2, 1, 3]));
    let shape = e.ints(&[0, 0, width as i64]);
    e.result(Call::new("Reshape", &[&x, &shape]), 0)
}

/// Softmax of scaled scores after `mask` was applied to them.
fn softmax_scores(
    e: &mut Emitter<'_>,
    (q, k): (&str, &str),
    head_dim: usize,
    mask: impl FnOnce(&mut Emitter<'_>, String) -> String,
) -> String {
    let scores = e.one(Call::new("MatMul", &[q, k]));
    let scale = e.float((1.0 / (head_dim as f64).sqrt()) as f32);
    let scores = e.one(Call::new("Mul", &[&scores, &scale]));
    let scores = mask(e, scores);
    e.one(Call::new("Softmax", &[&scores]).int("axis", -1))
}

/// A loop over segments of attention without mask: memory grows with the patches, not with their square.
fn segment_loop(op: &SegmentAttention, e: &mut Emitter<'_>) -> Result<(), OnnxError> {
    let operands = [e.input(0)?, e.input(1)?, e.input(2)?];
    let segments = e.input(3)?;
    let bounds = e.shared(format!("{segments}/bounds"), |e| Ok(segment_bounds(e, &segments)))?;
    let [starts, ends, count] = bounds.as_slice() else { return Err(e.not_valid("has no segments")) };
    let (rows_axis, flat) = (e.ints(&[1]), e.ints(&[-1]));
    let body = loop_body(e.node(), operands, [starts, ends, &rows_axis, &flat], op.heads);
    let empty = e.one(Call::new("SequenceEmpty", &[]).int("dtype", DataType::Float as i64));
    let parts = e.one(Call::new("Loop", &[count, "", &empty]).graph("body", body));
    e.result(Call::new("ConcatFromSequence", &[&parts]).int("axis", 1), 0)
}

/// First row and end of every segment, and their number (a scalar).
fn segment_bounds(e: &mut Emitter<'_>, segments: &str) -> Vec<String> {
    let (zero, one, minus, far) = (e.ints(&[0]), e.ints(&[1]), e.ints(&[-1]), e.ints(&[i64::MAX]));
    let before = e.one(Call::new("Slice", &[segments, &zero, &minus, &zero]));
    // Segment numbers start at 0, so -1 makes the first row a start.
    let before = e.one(Call::new("Concat", &[&minus, &before]).int("axis", 0));
    let same = e.one(Call::new("Equal", &[segments, &before]));
    let start = e.one(Call::new("Not", &[&same]));
    let starts = e.one(Call::new("NonZero", &[&start]));
    let starts = e.one(Call::new("Squeeze", &[&starts, &zero]));
    let rest = e.one(Call::new("Slice", &[&starts, &one, &far, &zero]));
    let rows = e.one(Call::new("Shape", &[segments]));
    let ends = e.one(Call::new("Concat", &[&rest, &rows]).int("axis", 0));
    let count = e.one(Call::new("Shape", &[&starts]));
    let count = e.one(Call::new("Squeeze", &[&count, &zero]));
    vec![starts, ends, count]
}

/// One step of the loop: slice the segment out of q, k and v, attend, append the rows to the sequence.
fn loop_body(
    node: &str,
    operands: [String; 3],
    [starts, ends, rows_axis, flat]: [&str; 4],
    heads: usize,
) -> GraphProto {
    let name = |s: &str| format!("{node}/segment/{s}");
    let mut nodes: Vec<NodeProto> = vec![];
    let mut add = |call: Call, output: &str| {
        let output = name(output);
        nodes.push(call.named(output.clone(), vec![output.clone()]));
        output
    };
    let index = add(Call::new("Reshape", &[&name("number"), flat]), "index");
    let start = add(Call::new("Gather", &[starts, &index]), "start");
    let end = add(Call::new("Gather", &[ends, &index]), "end");
    let [q, k, v] = operands;
    let mut slice = |x: &str, to: &str| add(Call::new("Slice", &[x, &start, &end, rows_axis]), to);
    let (q, k, v) = (slice(&q, "q"), slice(&k, "k"), slice(&v, "v"));
    let attend = Call::microsoft("MultiHeadAttention", &[&q, &k, &v]).int("num_heads", heads as i64);
    let mixed = add(attend, "mixed");
    let grown = add(Call::new("SequenceInsert", &[&name("rows"), &mixed]), "grown");
    let go_on = add(Call::new("Identity", &[&name("condition")]), "go_on");
    GraphProto {
        name: Some(name("body")),
        node: nodes,
        input: vec![
            typed(name("number"), scalar(DataType::Int64)),
            typed(name("condition"), scalar(DataType::Bool)),
            typed(name("rows"), sequence()),
        ],
        output: vec![typed(go_on, scalar(DataType::Bool)), typed(grown, sequence())],
        ..GraphProto::default()
    }
}

fn typed(name: String, value: type_proto::Value) -> ValueInfoProto {
    let r#type = Some(TypeProto { value: Some(value), ..TypeProto::default() });
    ValueInfoProto { name: Some(name), r#type, ..ValueInfoProto::default() }
}

fn scalar(t: DataType) -> type_proto::Value {
    let shape = Some(super::super::proto::TensorShapeProto::default());
    type_proto::Value::TensorType(type_proto::Tensor { elem_type: Some(t as i32), shape })
}

/// A sequence of float tensors of any shape.
fn sequence() -> type_proto::Value {
    let tensor = type_proto::Tensor { elem_type: Some(DataType::Float as i32), shape: None };
    let elem = TypeProto { value: Some(type_proto::Value::TensorType(tensor)), ..TypeProto::default() };
    type_proto::Value::SequenceType(Box::new(type_proto::Sequence { elem_type: Some(Box::new(elem)) }))
}

pub(super) fn causal_attention(op: &CausalAttention, e: &mut Emitter<'_>) -> Result<(), OnnxError> {
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

pub(super) fn cross_attention(_: &CrossAttention, e: &mut Emitter<'_>) -> Result<(), OnnxError> {
    Err(e.not_valid("TODO"))
}
