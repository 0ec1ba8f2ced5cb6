//! Attention inside segments: of their rows among each other, and of fixed queries to the rows of each.
//!
//! Segments, 2048 patches of 16 x 80 in three images: a loop over segments of MultiHeadAttention without mask 59 ms and no memory beyond its
//! operands; MultiHeadAttention with a mask 200 ms; standard operators with a mask 245 ms and 610 MB, growing with the square of the patches
//! (4.6 GB at 6144).
//!
//! Fixed queries, 64 of 28 x 128 to each of ten segments of 1024 rows: the loop 210 ms and no memory beyond its operands; standard operators with
//! a mask 870 ms and 970 MB, growing with segments times rows. One MultiHeadAttention over segments as batches, possible only where all are of
//! one length, would take 150 ms.

use super::{HIDDEN, join_heads, softmax_scores, split_heads};
use crate::export::onnx::OpSet;
use crate::export::onnx::call::Call;
use crate::export::onnx::emit::Emitter;
use crate::export::onnx::error::OnnxError;
use crate::export::onnx::ops::segments::{Bounds, bounds};
use crate::export::onnx::proto::tensor_proto::DataType;
use crate::export::onnx::proto::{
    GraphProto, NodeProto, TensorShapeProto, TypeProto, ValueInfoProto, type_proto,
};
use crate::graph::ops::{CrossAttention, SegmentAttention};

/// Attends among the rows of each segment.
pub fn segment_attention(op: &SegmentAttention, e: &mut Emitter<'_>) -> Result<(), OnnxError> {
    match e.ops {
        OpSet::Ort => segment_loop(Queries::OfSegment, op.heads, e),
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
    let mixed = masked(e, [&q, &k, &v], (op.heads, op.head_dim), &bias.concat());
    join_heads(e, &mixed, op.heads * op.head_dim)
}

/// Attention of all queries to all keys with a bias on the scores, `[.., heads, rows, head_dim]`.
fn masked(
    e: &mut Emitter<'_>,
    [q, k, v]: [&str; 3],
    (heads, head_dim): (usize, usize),
    bias: &str,
) -> String {
    let mut split = |x: &str| split_heads(e, x, heads, head_dim, [0, 2, 1, 3]);
    let (q, v) = (split(q), split(v));
    let k = split_heads(e, k, heads, head_dim, [0, 2, 3, 1]);
    let weights = softmax_scores(e, (&q, &k), head_dim, |e, s| e.one(Call::new("Add", &[&s, bias])));
    e.one(Call::new("MatMul", &[&weights, &v]))
}

/// Attends to each segment with the same queries.
pub fn cross_attention(op: &CrossAttention, e: &mut Emitter<'_>) -> Result<(), OnnxError> {
    match e.ops {
        OpSet::Ort => segment_loop(Queries::Shared, op.heads, e),
        OpSet::Standard => cross_mask(op, e),
    }
}

/// Standard form: one product of the queries with all keys; each segment takes the softmax of a copy that hides the others.
fn cross_mask(op: &CrossAttention, e: &mut Emitter<'_>) -> Result<(), OnnxError> {
    let (q, k, v, segments) = (e.input(0)?, e.input(1)?, e.input(2)?, e.input(3)?);
    let Bounds { count, .. } = bounds(e, &segments)?;
    let bias = e.shared(format!("{segments}/bias_by_segment"), |e| {
        let (zero, one, axes) = (e.int(0), e.int(1), e.ints(&[1, 2, 3]));
        let numbers = e.one(Call::new("Range", &[&zero, &count, &one]));
        let numbers = e.one(Call::new("Unsqueeze", &[&numbers, &axes]));
        let same = e.one(Call::new("Equal", &[&numbers, &segments]));
        let (seen, hidden) = (e.float(0.0), e.float(HIDDEN));
        Ok(vec![e.one(Call::new("Where", &[&same, &seen, &hidden]))])
    })?;
    let mixed = masked(e, [&q, &k, &v], (op.heads, op.head_dim), &bias.concat());
    let mixed = e.one(Call::new("Transpose", &[&mixed]).ints("perm", &[0, 2, 1, 3]));
    let flat = e.ints(&[1, -1, (op.heads * op.head_dim) as i64]);
    e.result(Call::new("Reshape", &[&mixed, &flat]), 0)
}

/// Which queries attend to a segment.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Queries {
    /// Its own rows.
    OfSegment,
    /// All queries, in every segment.
    Shared,
}

/// A loop over segments of attention without mask: memory grows with the patches, not with their square.
fn segment_loop(queries: Queries, heads: usize, e: &mut Emitter<'_>) -> Result<(), OnnxError> {
    let operands = [e.input(0)?, e.input(1)?, e.input(2)?];
    let segments = e.input(3)?;
    let Bounds { starts, ends, count, .. } = bounds(e, &segments)?;
    let (rows_axis, flat) = (e.ints(&[1]), e.ints(&[-1]));
    let body = loop_body(e.node(), operands, [&starts, &ends, &rows_axis, &flat], (queries, heads));
    let empty = e.one(Call::new("SequenceEmpty", &[]).int("dtype", DataType::Float as i64));
    let parts = e.one(Call::new("Loop", &[&count, "", &empty]).graph("body", body));
    e.result(Call::new("ConcatFromSequence", &[&parts]).int("axis", 1), 0)
}

/// One step of the loop: slice the segment out of the operands, attend, append the rows to the sequence.
fn loop_body(
    node: &str,
    operands: [String; 3],
    [starts, ends, rows_axis, flat]: [&str; 4],
    (queries, heads): (Queries, usize),
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
    let q = if queries == Queries::OfSegment { slice(&q, "q") } else { q };
    let (k, v) = (slice(&k, "k"), slice(&v, "v"));
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
    let shape = Some(TensorShapeProto::default());
    type_proto::Value::TensorType(type_proto::Tensor { elem_type: Some(t as i32), shape })
}

/// A sequence of float tensors of any shape.
fn sequence() -> type_proto::Value {
    let tensor = type_proto::Tensor { elem_type: Some(DataType::Float as i32), shape: None };
    let elem = TypeProto { value: Some(type_proto::Value::TensorType(tensor)), ..TypeProto::default() };
    type_proto::Value::SequenceType(Box::new(type_proto::Sequence { elem_type: Some(Box::new(elem)) }))
}
