//! Typing rules: what ops yield and what they refuse, with the words of the refusal.

use super::*;
use crate::graph::spec::RotaryLayout;
use crate::graph::types::{Stream, Sym};
use crate::graph::weights::WeightFormat;

const P: Dim = Dim::Sym(Sym::Patches);
const T: Dim = Dim::Sym(Sym::TowerRows);
const B: Dim = Dim::Sym(Sym::Batch);
const S: Dim = Dim::Sym(Sym::Sequence);

fn n(n: usize) -> Dim {
    Dim::Fixed(n)
}

fn value(dtype: DType, shape: &[Dim]) -> ValueInfo {
    ValueInfo { name: "x".into(), dtype, shape: shape.to_vec(), basis: None }
}

fn float(shape: &[Dim]) -> ValueInfo {
    value(DType::Float, shape)
}

fn int(shape: &[Dim]) -> ValueInfo {
    value(DType::Int, shape)
}

/// A float value of the vision stream.
fn stream(shape: &[Dim]) -> ValueInfo {
    ValueInfo { basis: Basis::of(Stream::Vision), ..float(shape) }
}

/// A table `[5, 6]` and a gain `[6]`.
fn weights() -> Vec<WeightDecl> {
    let decl = |name: &str, shape: &[usize]| WeightDecl {
        name: name.into(),
        shape: shape.to_vec(),
        parts: vec![name.into()],
        format: WeightFormat::Float,
    };
    vec![decl("table", &[5, 6]), decl("gain", &[6])]
}

fn infer(op: impl Into<Op>, operands: &[ValueInfo]) -> Result<Vec<OutType>, OpError> {
    op.into().infer(&operands.iter().collect::<Vec<_>>(), &weights())
}

/// Asserts that the op takes the operands and yields these shapes and this basis.
fn yields(op: impl Into<Op>, operands: &[ValueInfo], shapes: &[&[Dim]], basis: Option<Basis>) {
    let found = infer(op, operands).unwrap();
    assert_eq!(found.iter().map(|t| t.shape.as_slice()).collect::<Vec<_>>(), shapes);
    assert_eq!(found[0].basis, basis);
}

/// Asserts that the op refuses the operands for a reason that holds `word`.
fn refuses(op: impl Into<Op>, operands: &[ValueInfo], word: &str) {
    let op = op.into();
    let name = op.name();
    let error = infer(op, operands).unwrap_err();
    assert_eq!(error.op, name);
    assert!(error.reason.contains(word), "{error}");
}

#[test]
fn constant_rows_and_scales_write_a_stream() {
    let (table, gain) = (WeightId(0), WeightId(1));
    let writes = Basis::of(Stream::Vision);
    yields(ConstantRows { table, writes }, &[], &[&[n(1), n(5), n(6)]], writes);
    refuses(ConstantRows { table: gain, writes }, &[], "matrix");
    refuses(ConstantRows { table, writes }, &[float(&[n(1)])], "operands");
    let x = [n(1), P, n(6)];
    yields(Scale { gain, writes }, &[float(&x)], &[&x], writes);
    refuses(Scale { gain, writes }, &[stream(&x)], "basis");
    refuses(Scale { gain: table, writes }, &[float(&x)], "shape");
    yields(DivideBy { by: 8.0 }, &[stream(&x)], &[&x], writes);
    for by in [0.0, f64::NAN, f64::INFINITY, 1e-60, 1e60] {
        refuses(DivideBy { by }, &[float(&x)], "divisor");
    }
}

#[test]
fn grid_buckets_need_positions_of_the_same_patches() {
    let op = || GridBucket { rows: 4, cols: 4 };
    let (at, grid) = (int(&[n(2), n(1), P]), int(&[Dim::Sym(Sym::Images), n(3)]));
    yields(op(), &[at.clone(), grid.clone(), int(&[P])], &[&[n(1), P]], None);
    refuses(op(), &[at.clone(), grid.clone(), int(&[T])], "row and column");
    refuses(op(), &[int(&[n(3), n(1), P]), grid.clone(), int(&[P])], "row and column");
    refuses(GridBucket { rows: 0, cols: 4 }, &[at, grid, int(&[P])], "cells");
}

#[test]
fn inserted_rows_have_the_basis_of_the_others() {
    let op = |first, last, factor| InsertRows { first, last, factor, into: Sym::TowerRows };
    let (rows, numbers) = (stream(&[n(1), P, n(6)]), int(&[P]));
    let row = stream(&[n(1), n(1), n(6)]);
    let out: &[&[Dim]] = &[&[n(1), T, n(6)], &[T]];
    let given = |extra: &[&ValueInfo]| -> Vec<ValueInfo> {
        [&rows, &numbers].iter().chain(extra).map(|v| (*v).clone()).collect()
    };
    yields(op(true, false, 1), &given(&[&row]), out, rows.basis);
    yields(op(true, true, 1), &given(&[&row, &row]), out, rows.basis);
    refuses(op(true, false, 1), &given(&[&float(&row.shape)]), "one row like");
    refuses(op(true, false, 1), &given(&[&stream(&[n(1), n(2), n(6)])]), "one row like");
    refuses(op(true, true, 1), &given(&[&row]), "takes 4 operands");
    refuses(op(false, false, 1), &given(&[]), "inserts 0 rows");
    refuses(op(true, false, 0), &given(&[&row]), "0 numbers");
    refuses(op(true, false, 4), &given(&[&row]), "does not hold 4 numbers");
    let merged = stream(&[n(1), Dim::Sym(Sym::MergedRows), n(6)]);
    yields(op(false, true, 4), &[merged.clone(), int(&[P]), row.clone()], out, rows.basis);
    refuses(op(false, true, 1), &[merged, int(&[P]), row.clone()], "does not hold 1 numbers");
    let same = InsertRows { first: true, last: false, factor: 1, into: Sym::Patches };
    refuses(same, &given(&[&row]), "of another number");
}

#[test]
fn dropped_and_merged_rows_keep_their_basis() {
    let rows = stream(&[n(1), T, n(6)]);
    let drop = || DropFirstRows { into: Sym::Patches };
    yields(drop(), &[rows.clone(), int(&[T])], &[&[n(1), P, n(6)]], rows.basis);
    refuses(drop(), &[rows.clone(), int(&[P])], "does not number");
    refuses(drop(), &[stream(&[n(1), n(9), n(6)]), int(&[P])], "of another number");
    let merge = || MergeRows { factor: 4, into: Sym::MergedRows };
    let out = [n(1), Dim::Sym(Sym::MergedRows), n(24)];
    let basis = Some(Basis { stream: Stream::Vision, copies: 4 });
    yields(merge(), &[stream(&[n(1), P, n(6)])], &[&out], basis);
    refuses(merge(), &[rows], "merges 4");
}

#[test]
fn cross_attention_takes_a_fixed_number_of_queries() {
    let op = || CrossAttention { heads: 2, head_dim: 3, into: Sym::ImageTokens };
    let (q, kv) = (float(&[n(1), n(5), n(6)]), float(&[n(1), P, n(6)]));
    let out = [n(1), Dim::Sym(Sym::ImageTokens), n(6)];
    yields(op(), &[q.clone(), kv.clone(), kv.clone(), int(&[P])], &[&out], None);
    refuses(op(), &[kv.clone(), kv.clone(), kv.clone(), int(&[P])], "fixed number of queries");
    refuses(op(), &[q.clone(), kv.clone(), kv.clone(), int(&[T])], "does not number");
    refuses(op(), &[q.clone(), kv.clone(), float(&[n(1), T, n(6)]), int(&[P])], "shape");
    refuses(op(), &[stream(&q.shape), kv.clone(), kv.clone(), int(&[P])], "basis");
    refuses(op(), &[q, kv.clone(), float(&[n(1), P, n(8)]), int(&[P])], "6 channels");
}

#[test]
fn joined_values_agree_before_the_channels() {
    let (a, b) = (float(&[B, S, n(2)]), float(&[B, S, n(5)]));
    yields(Join, &[a.clone(), b.clone(), a.clone()], &[&[B, S, n(9)]], None);
    refuses(Join, std::slice::from_ref(&a), "at least 2");
    refuses(Join, &[a.clone(), float(&[B, P, n(5)])], "differ");
    refuses(Join, &[a, stream(&b.shape)], "basis");
}

#[test]
fn rotary_tables_take_one_axis_or_many_and_a_length_to_scale_by() {
    let table =
        |axis: &[usize], scaling| RotaryTable { inv_freq: vec![1.0; 4], axis: axis.to_vec(), scaling };
    let out: [Dim; 3] = [B, S, n(4)];
    yields(table(&[0; 4], None), &[int(&[B, S])], &[&out, &out], None);
    yields(table(&[0, 1, 2, 0], None), &[int(&[n(3), B, S])], &[&out, &out], None);
    refuses(table(&[0, 0, 0, 1], None), &[int(&[B, S])], "of 1 position rows");
    refuses(table(&[0; 4], None), &[int(&[B, B, S])], "fixed number");
    refuses(table(&[0; 4], None), &[int(&[S])], "rank 3");
    let dynamic = |theta, dim, factor, max_positions| {
        table(&[0; 4], Some(RopeScaling::Dynamic { theta, dim, factor, max_positions }))
    };
    let (at, length) = (int(&[B, S]), int(&[n(1)]));
    yields(dynamic(1e4, 8, 2.0, 64), &[at.clone(), length.clone()], &[&out, &out], None);
    refuses(dynamic(1e4, 8, 2.0, 64), std::slice::from_ref(&at), "takes 2 operands");
    refuses(dynamic(1e4, 8, 2.0, 64), &[at.clone(), int(&[B])], "fixed number of channels");
    refuses(dynamic(1e4, 6, 2.0, 64), &[at.clone(), length.clone()], "has 4 frequencies");
    for op in [dynamic(0.0, 8, 2.0, 64), dynamic(1e4, 8, 0.5, 64), dynamic(1e4, 8, 2.0, 0)] {
        refuses(op, &[at.clone(), length.clone()], "cannot scale");
    }
}

#[test]
fn rotations_are_of_an_even_part_of_the_head() {
    let op = |rotary_dim| Rotary { heads: 2, head_dim: 8, rotary_dim, layout: RotaryLayout::Interleaved };
    let x = float(&[B, S, n(16)]);
    let angles = |half| float(&[B, S, n(half)]);
    yields(op(4), &[x.clone(), angles(2), angles(2)], &[&x.shape], None);
    refuses(op(4), &[x.clone(), angles(4), angles(4)], "2 channels");
    refuses(op(5), &[x.clone(), angles(2), angles(2)], "even");
    refuses(op(10), &[x.clone(), angles(5), angles(5)], "up to the head size");
    refuses(op(4), &[stream(&x.shape), angles(2), angles(2)], "basis");
}

#[test]
fn lengths_and_scales_follow_the_tokens() {
    yields(Length, &[int(&[B, Dim::Sym(Sym::Total)])], &[&[n(1)]], None);
    refuses(Length, &[int(&[B])], "rank 2");
    let op = |train_length| ScaleByPosition { train_length };
    let q = float(&[B, S, n(6)]);
    yields(op(2), &[q.clone(), int(&[B, S])], &[&q.shape], None);
    refuses(op(1), &[q.clone(), int(&[B, S])], "at least 2");
    refuses(op(2), &[q.clone(), int(&[B, P])], "does not describe");
    refuses(op(2), &[stream(&q.shape), int(&[B, S])], "basis");
}

#[test]
fn rows_are_ordered_by_modality_and_put_back() {
    let m = Dim::Sym(Sym::ByModality);
    let (order, places) = ([n(1), m], [B, S]);
    yields(OrderByModality, &[float(&[B, S, n(1)])], &[&order, &places], None);
    refuses(OrderByModality, &[float(&[B, S, n(2)])], "1 channels");
    refuses(OrderByModality, &[float(&[n(1), m, n(1)])], "every token");
    refuses(OrderByModality, &[int(&[B, S, n(1)])], "float");
    let x = stream(&[B, S, n(6)]);
    let there = [n(1), m, n(6)];
    yields(TakeRows, &[x.clone(), int(&order)], &[&there], Basis::of(Stream::Vision));
    yields(TakeRows, &[stream(&there), int(&places)], &[&x.shape], Basis::of(Stream::Vision));
    refuses(TakeRows, &[x.clone(), int(&[B])], "rank 2");
    refuses(TakeRows, &[x.clone(), float(&places)], "integer");
    refuses(TakeRows, &[float(&[S, n(6)]), int(&places)], "rank 3");
}

#[test]
fn what_depends_on_the_order_of_tokens_refuses_rows_in_another() {
    let ordered = |channels| float(&[n(1), Dim::Sym(Sym::ByModality), n(channels)]);
    let rotary = Rotary { heads: 2, head_dim: 8, rotary_dim: 4, layout: RotaryLayout::Half };
    let angles = float(&[B, S, n(2)]);
    refuses(rotary, &[ordered(16), angles.clone(), angles], "same rows");
    let attention = CausalAttention { heads: 2, kv_heads: 2, head_dim: 8 };
    let (mask, past) = (int(&[B, Dim::Sym(Sym::Total)]), float(&[B, n(2), Dim::Sym(Sym::Past), n(8)]));
    let operands = |q, k| [q, k, float(&[B, S, n(16)]), mask.clone(), past.clone(), past.clone()];
    refuses(attention.clone(), &operands(ordered(16), float(&[B, S, n(16)])), "same rows");
    refuses(attention.clone(), &operands(float(&[B, S, n(16)]), ordered(16)), "same rows");
    let all = [ordered(16), ordered(16), ordered(16), mask.clone(), past.clone(), past.clone()];
    refuses(attention, &all, "does not describe the prompts");
}

#[test]
fn online_rotations_have_a_matrix_and_whole_runs() {
    let x = float(&[B, S, n(24)]);
    yields(Hadamard { left: 1, right: 12 }, std::slice::from_ref(&x), &[&x.shape], None);
    yields(Hadamard { left: 2, right: 4 }, std::slice::from_ref(&x), &[&x.shape], None);
    refuses(Hadamard { left: 1, right: 3 }, std::slice::from_ref(&x), "order 3");
    refuses(Hadamard { left: 0, right: 4 }, std::slice::from_ref(&x), "order 0");
    refuses(Hadamard { left: 4, right: 4 }, std::slice::from_ref(&x), "runs of 16");
    refuses(Hadamard { left: 1, right: 12 }, &[stream(&x.shape)], "basis");
}

#[test]
fn a_channel_that_is_taken_exists() {
    let x = float(&[B, S, n(6)]);
    for channel in [0, 5] {
        yields(TakeChannel { channel }, std::slice::from_ref(&x), &[&[B, S, n(1)]], None);
    }
    refuses(TakeChannel { channel: 6 }, std::slice::from_ref(&x), "does not exist");
    refuses(TakeChannel { channel: 0 }, &[stream(&x.shape)], "basis");
}
