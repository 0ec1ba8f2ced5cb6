//! Rotary embeddings: angles, and the rotation by them.
//!
//! The rotation of 512 rows of 32 heads of 128: ONNX Runtime's operator 0.2 ms in every layout, for whole and half heads; standard operators,
//! which it does not fuse, 1.7 to 2.2 ms (12 heads: 0.14 and 0.82).

use super::super::OpSet;
use super::super::call::Call;
use super::super::emit::Emitter;
use super::super::error::OnnxError;
use super::super::proto::tensor_proto::DataType;
use crate::graph::ops::{RopeScaling, Rotary, RotaryTable};
use crate::graph::spec::RotaryLayout;

/// Longest sequence whose frequencies are in the file, where they are a table.
const LONGEST: i64 = i32::MAX as i64;

/// Every frequency gathers the positions of its axis. A product with a matrix of one frequency per column would be as exact, but the
/// optimiser of ONNX Runtime 1.32 crashes on Transpose, Cast, MatMul in a row, depending on what lies in memory (its MatmulTransposeFusion
/// leaves a dangling node).
pub(super) fn rotary_table(op: &RotaryTable, e: &mut Emitter<'_>) -> Result<(), OnnxError> {
    let positions = e.input(0)?;
    let n = op.inv_freq.len() as i64;
    let one_axis = e.operand(0)?.shape.len() == 2;
    let axes = if one_axis {
        e.ints(&[-1])
    } else {
        let axes: Vec<i64> = op.axis.iter().map(|&a| a as i64).collect();
        e.tensor(&format!("{}/axes", e.node()), vec![n], &axes)?
    };
    let frequencies = if let Some(scaling @ RopeScaling::DynamicPowers { .. }) = &op.scaling {
        by_doublings(scaling, op, e)?
    } else {
        let plain = e.tensor(&format!("{}/frequencies", e.node()), vec![n], &op.inv_freq)?;
        match &op.scaling {
            Some(scaling) => dynamic(scaling, e, &plain)?,
            None => plain,
        }
    };
    let rows = if one_axis {
        e.one(Call::new("Unsqueeze", &[&positions, &axes]))
    } else {
        let each = e.one(Call::new("Gather", &[&positions, &axes]).int("axis", 0));
        e.one(Call::new("Transpose", &[&each]).ints("perm", &[1, 2, 0]))
    };
    let rows = e.one(Call::new("Cast", &[&rows]).int("to", DataType::Float as i64));
    let angles = e.one(Call::new("Mul", &[&rows, &frequencies]));
    e.result(Call::new("Cos", &[&angles]), 0)?;
    e.result(Call::new("Sin", &[&angles]), 1)
}

/// Frequencies that follow the length. In double, rounded where the reference rounds: one unit in the last place of a frequency is an angle
/// of 1e-3 at position 10000. They are a few dozen numbers.
fn dynamic(scaling: &RopeScaling, e: &mut Emitter<'_>, plain: &str) -> Result<String, OnnxError> {
    let &RopeScaling::Dynamic { theta, factor, max_positions, .. } = scaling else {
        return Err(e.not_valid("does not scale with the length"));
    };
    let length = e.input(1)?;
    let cast = |x: &str, to: DataType| Call::new("Cast", &[x]).int("to", to as i64);
    let mut constant = |x: f64| e.constant(vec![], &[x]);
    let (factor, less, most) = (constant(factor), constant(factor - 1.0), constant(max_positions as f64));
    let (power, theta) = (constant(scaling.exponent()), constant(theta));
    let x = e.one(cast(&length, DataType::Double));
    let x = e.one(Call::new("Mul", &[&x, &factor]));
    let x = e.one(Call::new("Div", &[&x, &most]));
    let ratio = e.one(Call::new("Sub", &[&x, &less]));
    let grown = e.one(Call::new("Pow", &[&ratio, &power]));
    let base = e.one(Call::new("Mul", &[&grown, &theta]));
    let base = e.one(cast(&base, DataType::Float));
    let base = e.one(cast(&base, DataType::Double));
    let powers: Vec<f64> = scaling.powers().into_iter().map(f64::from).collect();
    let powers = e.constant(vec![powers.len() as i64], &powers);
    let powers = e.one(Call::new("Pow", &[&base, &powers]));
    let powers = e.one(cast(&powers, DataType::Float));
    let scaled = e.one(Call::new("Reciprocal", &[&powers]));
    let most = e.int(max_positions as i64);
    let longer = e.one(Call::new("Greater", &[&length, &most]));
    Ok(e.one(Call::new("Where", &[&longer, &scaled, plain])))
}

/// The frequencies of every number of doublings as a table; the lengths at which they change are integers, so none is taken for its
/// neighbour.
fn by_doublings(scaling: &RopeScaling, op: &RotaryTable, e: &mut Emitter<'_>) -> Result<String, OnnxError> {
    let &RopeScaling::DynamicPowers { train_length, .. } = scaling else {
        return Err(e.not_valid("does not scale by doublings"));
    };
    let longer = |&bound: &i64| (bound <= LONGEST / 2).then_some(2 * bound);
    let bounds: Vec<i64> = std::iter::successors(Some(train_length as i64), longer).collect();
    let rows = (0..=bounds.len() as u32).flat_map(|n| match scaling.base_after(n) {
        Some(base) => scaling.inv_freq(base),
        None => op.inv_freq.clone(),
    });
    let rows: Vec<f32> = rows.collect();
    let shape = vec![bounds.len() as i64 + 1, op.inv_freq.len() as i64];
    let table = e.tensor(&format!("{}/table", e.node()), shape, &rows)?;
    let (length, bounds) = (e.input(1)?, e.ints(&bounds));
    let passed = e.one(Call::new("Greater", &[&length, &bounds]));
    let passed = e.one(Call::new("Cast", &[&passed]).int("to", DataType::Int64 as i64));
    let axis = e.ints(&[0]);
    let doublings = e.one(Call::new("ReduceSum", &[&passed, &axis]).int("keepdims", 0));
    Ok(e.one(Call::new("Gather", &[&table, &doublings]).int("axis", 0)))
}

pub(super) fn rotary(op: &Rotary, e: &mut Emitter<'_>) -> Result<(), OnnxError> {
    match e.ops {
        OpSet::Ort => fused_rotary(op, e),
        OpSet::Standard => standard_rotary(op, e),
    }
}

fn fused_rotary(op: &Rotary, e: &mut Emitter<'_>) -> Result<(), OnnxError> {
    let (x, cos, sin) = (e.input(0)?, e.input(1)?, e.input(2)?);
    let half = (op.rotary_dim / 2) as i64;
    // The operator looks angles up by position; here every row has angles of its own, so its position is its number.
    let tables = e.shared(format!("{cos}/by_row"), |e| {
        let shape = e.one(Call::new("Shape", &[&cos]).int("start", 0).int("end", 2));
        let rows = e.one(Call::new("ReduceProd", &[&shape]).int("keepdims", 0));
        let (zero, one) = (e.int(0), e.int(1));
        let numbers = e.one(Call::new("Range", &[&zero, &rows, &one]));
        let flat = e.ints(&[-1, half]);
        Ok(vec![
            e.one(Call::new("Reshape", &[&numbers, &shape])),
            e.one(Call::new("Reshape", &[&cos, &flat])),
            e.one(Call::new("Reshape", &[&sin, &flat])),
        ])
    })?;
    let [numbers, cos, sin] = tables.as_slice() else { return Err(e.not_valid("has no angles")) };
    let call = Call::microsoft("RotaryEmbedding", &[&x, numbers, cos, sin]);
    let interleaved = i64::from(op.layout == RotaryLayout::Interleaved);
    let call = call.int("num_heads", op.heads as i64).int("interleaved", interleaved);
    let whole = op.rotary_dim == op.head_dim;
    e.result(if whole { call } else { call.int("rotary_embedding_dim", op.rotary_dim as i64) }, 0)
}

fn standard_rotary(op: &Rotary, e: &mut Emitter<'_>) -> Result<(), OnnxError> {
    let (x, cos, sin) = (e.input(0)?, e.input(1)?, e.input(2)?);
    let per_head = e.shared(format!("{cos}/per_head"), |e| {
        let axis = e.ints(&[2]);
        Ok(vec![e.one(Call::new("Unsqueeze", &[&cos, &axis])), e.one(Call::new("Unsqueeze", &[&sin, &axis]))])
    })?;
    let [cos, sin] = per_head.as_slice() else { return Err(e.not_valid("has no angles")) };
    let heads = e.ints(&[0, 0, op.heads as i64, op.head_dim as i64]);
    let x = e.one(Call::new("Reshape", &[&x, &heads]));
    let (x, rest) = if op.rotary_dim == op.head_dim {
        (x, None)
    } else {
        let sizes = e.ints(&[op.rotary_dim as i64, (op.head_dim - op.rotary_dim) as i64]);
        let mut parts = e.many(Call::new("Split", &[&x, &sizes]).int("axis", -1), 2);
        let rest = parts.pop();
        (parts.concat(), rest)
    };
    let [a, b] = members(op, e, &x)?;
    let (ac, bs) = (e.one(Call::new("Mul", &[&a, cos])), e.one(Call::new("Mul", &[&b, sin])));
    let (bc, a_s) = (e.one(Call::new("Mul", &[&b, cos])), e.one(Call::new("Mul", &[&a, sin])));
    let (first, second) = (e.one(Call::new("Sub", &[&ac, &bs])), e.one(Call::new("Add", &[&bc, &a_s])));
    let joined = match op.layout {
        RotaryLayout::Half => e.one(Call::new("Concat", &[&first, &second]).int("axis", -1)),
        RotaryLayout::Interleaved => {
            let (last, flat) = (e.ints(&[-1]), e.ints(&[0, 0, op.heads as i64, op.rotary_dim as i64]));
            let mut column = |x: &str| e.one(Call::new("Unsqueeze", &[x, &last]));
            let (first, second) = (column(&first), column(&second));
            let pairs = e.one(Call::new("Concat", &[&first, &second]).int("axis", -1));
            e.one(Call::new("Reshape", &[&pairs, &flat]))
        }
    };
    let joined = match rest {
        None => joined,
        Some(rest) => e.one(Call::new("Concat", &[&joined, &rest]).int("axis", -1)),
    };
    let flat = e.ints(&[0, 0, (op.heads * op.head_dim) as i64]);
    e.result(Call::new("Reshape", &[&joined, &flat]), 0)
}

/// First and second member of every pair, `[batch, rows, heads, rotary_dim / 2]` each.
fn members(op: &Rotary, e: &mut Emitter<'_>, x: &str) -> Result<[String; 2], OnnxError> {
    let halves = |e: &mut Emitter<'_>, x: &str| {
        let halves = e.many(Call::new("Split", &[x]).int("axis", -1).int("num_outputs", 2), 2);
        <[String; 2]>::try_from(halves).map_err(|_| e.not_valid("has no halves"))
    };
    if op.layout == RotaryLayout::Half {
        return halves(e, x);
    }
    let pairs = e.ints(&[0, 0, op.heads as i64, (op.rotary_dim / 2) as i64, 2]);
    let x = e.one(Call::new("Reshape", &[x, &pairs]));
    let last = e.ints(&[-1]);
    Ok(halves(e, &x)?.map(|x| e.one(Call::new("Squeeze", &[&x, &last]))))
}
