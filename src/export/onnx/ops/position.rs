//! Positions and rotary embeddings.

use super::super::OpSet;
use super::super::call::Call;
use super::super::emit::Emitter;
use super::super::error::OnnxError;
use super::super::proto::tensor_proto::DataType;
use crate::graph::ops::{GridPositions, Rotary, RotaryTable};
use crate::graph::spec::RotaryLayout;

/// Integer arithmetic on a running row number; nothing but `image_grid_thw` is read, because GenAI's processor supplies nothing else.
pub(super) fn grid_positions(op: &GridPositions, e: &mut Emitter<'_>) -> Result<(), OnnxError> {
    let at = locate(e)?;
    let (side, area) = (e.int(op.merge as i64), e.int((op.merge * op.merge) as i64));
    let frame = e.one(Call::new("Div", &[&at.local, &at.frame_rows]));
    let inside = e.one(Call::new("Mod", &[&at.local, &at.frame_rows]));
    let block = e.one(Call::new("Div", &[&inside, &area]));
    let cell = e.one(Call::new("Mod", &[&inside, &area]));
    let blocks_wide = e.one(Call::new("Div", &[&at.width, &side]));
    let axes = e.ints(&[0, 1]);
    let mut axis = |whole: &str, part: &str| {
        let block = e.one(Call::new(whole, &[&block, &blocks_wide]));
        let start = e.one(Call::new("Mul", &[&block, &side]));
        let cell = e.one(Call::new(part, &[&cell, &side]));
        let position = e.one(Call::new("Add", &[&start, &cell]));
        e.one(Call::new("Unsqueeze", &[&position, &axes]))
    };
    let (row, column) = (axis("Div", "Div"), axis("Mod", "Mod"));
    e.result(Call::new("Concat", &[&row, &column]).int("axis", 0), 0)?;
    e.result(Call::new("Add", &[&at.first_frame, &frame]), 1)
}

/// What is known of every patch row, each `[patches]`.
struct Located {
    /// Row number inside its image.
    local: String,
    /// Patches per frame of its image.
    frame_rows: String,
    /// Patch columns of its image.
    width: String,
    /// Number of the first frame of its image.
    first_frame: String,
}

fn locate(e: &mut Emitter<'_>) -> Result<Located, OnnxError> {
    let grid = e.input(0)?;
    let (zero, one) = (e.int(0), e.int(1));
    let (first, second) = (e.ints(&[0]), e.ints(&[1]));
    let columns = e.many(Call::new("Split", &[&grid]).int("axis", 1).int("num_outputs", 3), 3);
    let [frames, height, width] = columns.as_slice() else { return Err(e.not_valid("has no grid")) };
    let mut column = |c: &str| e.one(Call::new("Squeeze", &[c, &second]));
    let (frames, height, width) = (column(frames), column(height), column(width));
    let frame_rows = e.one(Call::new("Mul", &[&height, &width]));
    let rows = e.one(Call::new("Mul", &[&frames, &frame_rows]));
    let ends = e.one(Call::new("CumSum", &[&rows, &zero]));
    let starts = e.one(Call::new("Sub", &[&ends, &rows]));
    let frame_ends = e.one(Call::new("CumSum", &[&frames, &zero]));
    let frame_starts = e.one(Call::new("Sub", &[&frame_ends, &frames]));
    let total = e.one(Call::new("ReduceSum", &[&rows]).int("keepdims", 0));
    let index = e.one(Call::new("Range", &[&zero, &total, &one]));
    // The image of a row is the number of images that end at or before it.
    let (by_row, by_image) =
        (e.one(Call::new("Unsqueeze", &[&index, &second])), e.one(Call::new("Unsqueeze", &[&ends, &first])));
    let behind = e.one(Call::new("GreaterOrEqual", &[&by_row, &by_image]));
    let behind = e.one(Call::new("Cast", &[&behind]).int("to", DataType::Int64 as i64));
    let image = e.one(Call::new("ReduceSum", &[&behind, &second]).int("keepdims", 0));
    let mut of_image = |per_image: &str| e.one(Call::new("Gather", &[per_image, &image]).int("axis", 0));
    let (start, frame_rows) = (of_image(&starts), of_image(&frame_rows));
    let (width, first_frame) = (of_image(&width), of_image(&frame_starts));
    let local = e.one(Call::new("Sub", &[&index, &start]));
    Ok(Located { local, frame_rows, width, first_frame })
}

/// Every frequency gathers the positions of its axis. A product with a matrix of one frequency per column would be as exact, but the
/// optimiser of ONNX Runtime 1.32 crashes on Transpose, Cast, MatMul in a row, depending on what lies in memory (its MatmulTransposeFusion
/// leaves a dangling node).
pub(super) fn rotary_table(op: &RotaryTable, e: &mut Emitter<'_>) -> Result<(), OnnxError> {
    let positions = e.input(0)?;
    let n = op.inv_freq.len() as i64;
    let axes: Vec<i64> = op.axis.iter().map(|&a| a as i64).collect();
    let axes = e.tensor(&format!("{}/axes", e.node()), vec![n], &axes)?;
    let frequencies = e.tensor(&format!("{}/frequencies", e.node()), vec![n], &op.inv_freq)?;
    let each = e.one(Call::new("Gather", &[&positions, &axes]).int("axis", 0));
    let rows = e.one(Call::new("Transpose", &[&each]).ints("perm", &[1, 2, 0]));
    let rows = e.one(Call::new("Cast", &[&rows]).int("to", DataType::Float as i64));
    let angles = e.one(Call::new("Mul", &[&rows, &frequencies]));
    e.result(Call::new("Cos", &[&angles]), 0)?;
    e.result(Call::new("Sin", &[&angles]), 1)
}

/// ONNX Runtime's operator takes a sixth of the time of the standard form (0.14 against 0.82 ms at 512 rows of 12 x 128), which it does not
/// fuse.
pub(super) fn rotary(op: &Rotary, e: &mut Emitter<'_>) -> Result<(), OnnxError> {
    let RotaryLayout::Half = op.layout;
    match e.ops {
        OpSet::Ort => fused_rotary(op, e),
        OpSet::Standard => standard_rotary(op, e),
    }
}

fn fused_rotary(op: &Rotary, e: &mut Emitter<'_>) -> Result<(), OnnxError> {
    let (x, cos, sin) = (e.input(0)?, e.input(1)?, e.input(2)?);
    let half = (op.head_dim / 2) as i64;
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
    e.result(call.int("num_heads", op.heads as i64).int("interleaved", 0), 0)
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
    let halves = e.many(Call::new("Split", &[&x]).int("axis", -1).int("num_outputs", 2), 2);
    let [a, b] = halves.as_slice() else { return Err(e.not_valid("has no halves")) };
    let (ac, bs) = (e.one(Call::new("Mul", &[a, cos])), e.one(Call::new("Mul", &[b, sin])));
    let (bc, a_s) = (e.one(Call::new("Mul", &[b, cos])), e.one(Call::new("Mul", &[a, sin])));
    let (first, second) = (e.one(Call::new("Sub", &[&ac, &bs])), e.one(Call::new("Add", &[&bc, &a_s])));
    let joined = e.one(Call::new("Concat", &[&first, &second]).int("axis", -1));
    let flat = e.ints(&[0, 0, (op.heads * op.head_dim) as i64]);
    e.result(Call::new("Reshape", &[&joined, &flat]), 0)
}
