//! Positions of patches and tokens.

use super::super::call::Call;
use super::super::emit::Emitter;
use super::super::error::OnnxError;
use super::super::proto::tensor_proto::DataType;
use crate::graph::ops::{GridBucket, GridPositions, Length, ScaleByPosition};

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

/// Integer arithmetic: a quotient in floats would put patches at cell borders into the cell before.
pub(super) fn grid_bucket(op: &GridBucket, e: &mut Emitter<'_>) -> Result<(), OnnxError> {
    let (positions, grid, segments) = (e.input(0)?, e.input(1)?, e.input(2)?);
    let (first, second) = (e.ints(&[0]), e.ints(&[1]));
    let sizes = e.many(Call::new("Split", &[&grid]).int("axis", 1).int("num_outputs", 3), 3);
    let axes = e.many(Call::new("Split", &[&positions]).int("axis", 0).int("num_outputs", 2), 2);
    let ([_, height, width], [row, column]) = (sizes.as_slice(), axes.as_slice()) else {
        return Err(e.not_valid("has no grid"));
    };
    let mut cell = |position: &str, cells: usize, size: &str| {
        let size = e.one(Call::new("Squeeze", &[size, &second]));
        let size = e.one(Call::new("Gather", &[&size, &segments]).int("axis", 0));
        let position = e.one(Call::new("Squeeze", &[position, &first]));
        let cells = e.int(cells as i64);
        let scaled = e.one(Call::new("Mul", &[&position, &cells]));
        e.one(Call::new("Div", &[&scaled, &size]))
    };
    let (row, column) = (cell(row, op.rows, height), cell(column, op.cols, width));
    let cols = e.int(op.cols as i64);
    let start = e.one(Call::new("Mul", &[&row, &cols]));
    e.result(Call::new("Add", &[&start, &column]), 0)
}

pub(super) fn length(_: &Length, e: &mut Emitter<'_>) -> Result<(), OnnxError> {
    let x = e.input(0)?;
    e.result(Call::new("Shape", &[&x]).int("start", 1).int("end", 2), 0)
}

/// The factors are those of the positions, so all layers share them.
pub(super) fn scale_by_position(op: &ScaleByPosition, e: &mut Emitter<'_>) -> Result<(), OnnxError> {
    let (q, positions) = (e.input(0)?, e.input(1)?);
    let factor = e.shared(format!("{positions}/scale_{}", op.train_length), |e| {
        let (one, unit, last) = (e.int(1), e.float(1.0), e.ints(&[-1]));
        let length = e.float((op.train_length as f64).ln() as f32);
        let count = e.one(Call::new("Add", &[&positions, &one]));
        let count = e.one(Call::new("Cast", &[&count]).int("to", DataType::Float as i64));
        let log = e.one(Call::new("Log", &[&count]));
        let ratio = e.one(Call::new("Div", &[&log, &length]));
        let factor = e.one(Call::new("Max", &[&ratio, &unit]));
        Ok(vec![e.one(Call::new("Unsqueeze", &[&factor, &last]))])
    })?;
    e.result(Call::new("Mul", &[&q, &factor.concat()]), 0)
}
