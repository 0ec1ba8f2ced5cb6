//! Vision tower: patch embedding, two-dimensional rotary positions, pre-norm blocks.

use super::{LinearDef, inv_freq, layer_norm};
use crate::graph::ops::{self, OpError};
use crate::graph::spec::{ModelSpec, VisionSpec};
use crate::graph::{Basis, DType, Dim, GraphBuilder, Stream, Sym, ValueId};

/// Adds the tower; returns the residual after the last block, `[1, patches, width]`.
pub(super) fn build(spec: &ModelSpec, g: &mut GraphBuilder<'_>) -> Result<ValueId, OpError> {
    let v = &spec.vision;
    let patches = Dim::Sym(Sym::Patches);
    let pixels = g.input("pixel_values", DType::Float, vec![patches, Dim::Fixed(v.patch_features)]);
    let grid = g.input("image_grid_thw", DType::Int, vec![Dim::Sym(Sym::Images), Dim::Fixed(3)]);
    let rows = g.add("pixel_rows", ops::AddBatch, &[pixels])?;
    let patch = LinearDef {
        role: "vision.patch",
        out: v.width,
        input: v.patch_features,
        bias: false,
        writes: Basis::of(Stream::Vision),
    };
    let mut x = patch.add(g, rows)?;
    let names = ["vision.positions", "vision.segments"];
    let at = g.add_multi("vision.grid", ops::GridPositions { merge: v.merge }, &[grid, rows], &names)?;
    let table = rotary_table(v);
    let cos_sin = g.add_multi("vision.rotary", table, &[at[0]], &["vision.cos", "vision.sin"])?;
    for i in 0..v.depth {
        x = block(v, g, &format!("vision.blocks.{i}"), x, [cos_sin[0], cos_sin[1], at[1]])?;
    }
    Ok(x)
}

/// The first half of a head's frequencies follows the row, the second half the column (transformers `VisionRotaryEmbedding`).
fn rotary_table(v: &VisionSpec) -> ops::RotaryTable {
    let half = inv_freq(v.rope_theta, v.width / v.heads.max(1) / 2);
    let axis = [vec![0; half.len()], vec![1; half.len()]].concat();
    ops::RotaryTable { inv_freq: [half.clone(), half].concat(), axis, scaling: None }
}

fn block(
    v: &VisionSpec,
    g: &mut GraphBuilder<'_>,
    role: &str,
    x: ValueId,
    [cos, sin, segments]: [ValueId; 3],
) -> Result<ValueId, OpError> {
    let (heads, head_dim) = (v.heads, v.width / v.heads.max(1));
    let n = layer_norm(g, &format!("{role}.norm1"), v.width, v.eps, x)?;
    let mut qkv = [n; 3];
    for (slot, name) in qkv.iter_mut().zip(["q", "k", "v"]) {
        let role = format!("{role}.attn.{name}");
        *slot =
            LinearDef { role: &role, out: v.width, input: v.width, bias: true, writes: None }.add(g, n)?;
    }
    for (slot, name) in qkv.iter_mut().take(2).zip(["q", "k"]) {
        let rotary = ops::Rotary { heads, head_dim, rotary_dim: head_dim, layout: v.rope_layout };
        *slot = g.add(&format!("{role}.attn.{name}.rotary"), rotary, &[*slot, cos, sin])?;
    }
    let [q, k, val] = qkv;
    let attn = ops::SegmentAttention { heads, head_dim };
    let a = g.add(&format!("{role}.attn.mix"), attn, &[q, k, val, segments])?;
    let writes = Basis::of(Stream::Vision);
    let o_role = format!("{role}.attn.o");
    let o = LinearDef { role: &o_role, out: v.width, input: v.width, bias: true, writes }.add(g, a)?;
    let x = g.add(&format!("{role}.attn.sum"), ops::Add, &[x, o])?;
    let n = layer_norm(g, &format!("{role}.norm2"), v.width, v.eps, x)?;
    let up_role = format!("{role}.mlp.up");
    let up =
        LinearDef { role: &up_role, out: v.mlp_width, input: v.width, bias: true, writes: None }.add(g, n)?;
    let act = g.add(&format!("{role}.mlp.act"), ops::Activate { kind: v.activation }, &[up])?;
    let down_role = format!("{role}.mlp.down");
    let down =
        LinearDef { role: &down_role, out: v.width, input: v.mlp_width, bias: true, writes }.add(g, act)?;
    g.add(&format!("{role}.mlp.sum"), ops::Add, &[x, down])
}
