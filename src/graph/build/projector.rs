//! Projectors: from the rows of the vision tower to rows of the decoder's stream.

use super::vision::Tower;
use super::{LinearDef, layer_norm};
use crate::graph::ops::{self, OpError};
use crate::graph::spec::{Activation, KeyPositions, ModelSpec, ProjectorSpec};
use crate::graph::{Basis, GraphBuilder, Stream, Sym, ValueId};

/// Adds the projector behind the tower and declares the output `image_features [image_tokens, width]`.
pub(super) fn build(spec: &ModelSpec, g: &mut GraphBuilder<'_>, tower: &Tower) -> Result<(), OpError> {
    let rows = match &spec.projector {
        ProjectorSpec::MergeMlp { .. } => merge_mlp(spec, g, tower)?,
        ProjectorSpec::MergeGlu { .. } => merge_glu(spec, g, tower)?,
        ProjectorSpec::Resampler { .. } => resampler(spec, g, tower)?,
    };
    let features = g.add("image_features", ops::DropBatch, &[rows])?;
    g.output(features);
    Ok(())
}

/// A linear of the projector; `bias` and `writes` as in [`LinearDef`].
fn linear(
    g: &mut GraphBuilder<'_>,
    role: &str,
    (input, out): (usize, usize),
    bias: bool,
    writes: Option<Basis>,
    x: ValueId,
) -> Result<ValueId, OpError> {
    LinearDef { role, out, input, bias, writes }.add(g, x)
}

fn activate(g: &mut GraphBuilder<'_>, name: &str, kind: Activation, x: ValueId) -> Result<ValueId, OpError> {
    g.add(name, ops::Activate { kind }, &[x])
}

fn merge_mlp(spec: &ModelSpec, g: &mut GraphBuilder<'_>, tower: &Tower) -> Result<ValueId, OpError> {
    let &ProjectorSpec::MergeMlp { eps, hidden, activation, norm_merged } = &spec.projector else {
        return Ok(tower.rows);
    };
    let factor = spec.vision.merge * spec.vision.merge;
    let (width, merged) = (spec.vision.width, spec.vision.width * factor);
    let merge = ops::MergeRows { factor, into: Sym::ImageTokens };
    let x = if norm_merged {
        let m = g.add("projector.merge", merge, &[tower.rows])?;
        layer_norm(g, "projector.norm", merged, eps, m)?
    } else {
        let n = layer_norm(g, "projector.norm", width, eps, tower.rows)?;
        g.add("projector.merge", merge, &[n])?
    };
    let h = linear(g, "projector.up", (merged, hidden), true, None, x)?;
    let act = activate(g, "projector.act", activation, h)?;
    linear(g, "projector.down", (hidden, spec.decoder.width), true, Basis::of(Stream::Decoder), act)
}

fn merge_glu(spec: &ModelSpec, g: &mut GraphBuilder<'_>, tower: &Tower) -> Result<ValueId, OpError> {
    let &ProjectorSpec::MergeGlu { hidden, eps, activation, mlp_width, gate, boundary_rows, divide_by } =
        &spec.projector
    else {
        return Ok(tower.rows);
    };
    let factor = spec.vision.merge * spec.vision.merge;
    let into = if boundary_rows { Sym::MergedRows } else { Sym::ImageTokens };
    let merged = g.add("projector.merge", ops::MergeRows { factor, into }, &[tower.rows])?;
    let x = linear(g, "projector.conv", (spec.vision.width * factor, hidden), true, None, merged)?;
    let x = linear(g, "projector.linear", (hidden, hidden), false, None, x)?;
    let x = layer_norm(g, "projector.norm", hidden, eps, x)?;
    let x = activate(g, "projector.act", activation, x)?;
    let gated = linear(g, "projector.gate", (hidden, mlp_width), false, None, x)?;
    let up = linear(g, "projector.up", (hidden, mlp_width), false, None, x)?;
    let gated = activate(g, "projector.gate.act", gate, gated)?;
    let product = g.add("projector.product", ops::Mul, &[gated, up])?;
    let (width, writes) = (spec.decoder.width, Basis::of(Stream::Decoder));
    let mut y = linear(g, "projector.down", (mlp_width, width), false, writes, product)?;
    if boundary_rows {
        let mut row = |role: &str| {
            let table = g.weight(&format!("{role}.weight"), vec![1, width]);
            g.add(role, ops::ConstantRows { table, writes }, &[])
        };
        let (first, last) = (row("projector.first_row")?, row("projector.last_row")?);
        let insert = ops::InsertRows { first: true, last: true, factor, into: Sym::ImageTokens };
        let names = ["projector.rows", "projector.row_segments"];
        y = g.add_multi("projector.rows", insert, &[y, tower.segments, first, last], &names)?[0];
    }
    g.add("projector.scaled", ops::DivideBy { by: divide_by }, &[y])
}

fn resampler(spec: &ModelSpec, g: &mut GraphBuilder<'_>, tower: &Tower) -> Result<ValueId, OpError> {
    let ProjectorSpec::Resampler { queries, width, heads, eps, query_positions, key_positions } =
        &spec.projector
    else {
        return Ok(tower.rows);
    };
    let (queries, width, eps) = (*queries, *width, *eps);
    let constant = |g: &mut GraphBuilder<'_>, role: &str| {
        let table = g.weight(&format!("{role}.weight"), vec![queries, width]);
        g.add(role, ops::ConstantRows { table, writes: None }, &[])
    };
    let query = constant(g, "projector.query")?;
    let mut q = layer_norm(g, "projector.query_norm", width, eps, query)?;
    if *query_positions {
        let at = constant(g, "projector.query_position")?;
        q = g.add("projector.query_position.sum", ops::Add, &[q, at])?;
    }
    let q = linear(g, "projector.attn.q", (width, width), true, None, q)?;
    let kv = linear(g, "projector.kv", (spec.vision.width, width), false, None, tower.rows)?;
    let kv = layer_norm(g, "projector.kv_norm", width, eps, kv)?;
    let at = key_position(g, key_positions, width, tower)?;
    let keys = g.add("projector.key_position.sum", ops::Add, &[kv, at])?;
    let k = linear(g, "projector.attn.k", (width, width), true, None, keys)?;
    let v = linear(g, "projector.attn.v", (width, width), true, None, kv)?;
    let head_dim = width / (*heads).max(1);
    let mix = ops::CrossAttention { heads: *heads, head_dim, into: Sym::ImageTokens };
    let x = g.add("projector.attn.mix", mix, &[q, k, v, tower.segments])?;
    let x = linear(g, "projector.attn.o", (width, width), true, None, x)?;
    let x = layer_norm(g, "projector.out_norm", width, eps, x)?;
    linear(g, "projector.out", (width, spec.decoder.width), false, Basis::of(Stream::Decoder), x)
}

/// Positions of the keys, `[1, patches, width]`.
fn key_position(
    g: &mut GraphBuilder<'_>,
    positions: &KeyPositions,
    width: usize,
    tower: &Tower,
) -> Result<ValueId, OpError> {
    match *positions {
        KeyPositions::Table { side } => {
            let bucket = ops::GridBucket { rows: side, cols: side };
            let operands = [tower.positions, tower.grid, tower.segments];
            let ids = g.add("projector.key_position_ids", bucket, &operands)?;
            let table = g.weight("projector.key_position.weight", vec![side * side, width]);
            g.add("projector.key_position", ops::Embed { table, writes: None }, &[ids])
        }
        KeyPositions::SinCos { theta } => {
            let count = width / 4;
            // numpy's order of operations in f32: the power of the quotient, then its reciprocal.
            let frequency = |k: usize| 1.0 / (theta as f32).powf(k as f32 / (width as f32 / 4.0));
            let mut waves = |name: &str, axis: usize| {
                let inv_freq: Vec<f32> = (0..count).map(frequency).collect();
                let table = ops::RotaryTable { inv_freq, axis: vec![axis; count], scaling: None };
                let names = [format!("{name}.cos"), format!("{name}.sin")];
                g.add_multi(name, table, &[tower.positions], &names.each_ref().map(String::as_str))
            };
            let (column, row) = (waves("projector.column_waves", 1)?, waves("projector.row_waves", 0)?);
            let order = [column[1], column[0], row[1], row[0]];
            g.add("projector.key_position", ops::Join, &order)
        }
    }
}
