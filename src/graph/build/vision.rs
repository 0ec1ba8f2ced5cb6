//! Vision tower: patch embedding, positions, class token, blocks.

use super::{LinearDef, inv_freq, layer_norm, rms_norm};
use crate::graph::ops::{self, OpError};
use crate::graph::spec::{ModelSpec, Norm, NormPlace, VisionPositions, VisionSpec};
use crate::graph::{Basis, DType, Dim, GraphBuilder, Stream, Sym, ValueId};

/// The tower's result and what the projector needs to know of its rows.
pub(super) struct Tower {
    /// Residual after the last block, `[1, patches, width]`.
    pub rows: ValueId,
    /// Frames, patch rows and patch columns of every tile.
    pub grid: ValueId,
    /// Row and column of every patch, `[2, 1, patches]`.
    pub positions: ValueId,
    /// Tile of every patch.
    pub segments: ValueId,
}

/// Adds the tower.
pub(super) fn build(spec: &ModelSpec, g: &mut GraphBuilder<'_>) -> Result<Tower, OpError> {
    let v = &spec.vision;
    let patches = Dim::Sym(Sym::Patches);
    let pixels = g.input("pixel_values", DType::Float, vec![patches, Dim::Fixed(v.patch_features)]);
    let grid = g.input("image_grid_thw", DType::Int, vec![Dim::Sym(Sym::Images), Dim::Fixed(3)]);
    let rows = g.add("pixel_rows", ops::AddBatch, &[pixels])?;
    let patch = LinearDef {
        role: "vision.patch",
        out: v.width,
        input: v.patch_features,
        bias: v.patch_bias,
        writes: stream(v),
    };
    let x = patch.add(g, rows)?;
    let names = ["vision.positions", "vision.segments"];
    let at = g.add_multi("vision.grid", ops::GridPositions { merge: v.merge }, &[grid, rows], &names)?;
    let mut tower = Tower { rows: x, grid, positions: at[0], segments: at[1] };
    let rotary = position(v, g, &mut tower)?;
    let mut segments = tower.segments;
    if v.class_token {
        (tower.rows, segments) = insert_class(v, g, &tower)?;
    }
    if v.entry_norm {
        tower.rows = norm(v, g, "vision.entry_norm", tower.rows)?;
    }
    for index in 0..v.depth {
        let block = Block { v, role: format!("vision.blocks.{index}"), rotary, segments };
        tower.rows = block.build(g, tower.rows)?;
    }
    if v.class_token {
        let drop = ops::DropFirstRows { into: Sym::Patches };
        tower.rows = g.add("vision.patches", drop, &[tower.rows, segments])?;
    }
    if v.exit_norm {
        tower.rows = norm(v, g, "vision.exit_norm", tower.rows)?;
    }
    Ok(tower)
}

/// What the tower's linears write. Where a norm with a gain per channel writes the residual, no rotation of the stream is exact, so its channels
/// are no coordinates of a basis.
fn stream(v: &VisionSpec) -> Option<Basis> {
    let free = v.norm_place == NormPlace::Before && !v.entry_norm;
    if free { Basis::of(Stream::Vision) } else { None }
}

/// Adds positions of a table to the rows, or gives the angles that rotate queries and keys.
fn position(
    v: &VisionSpec,
    g: &mut GraphBuilder<'_>,
    tower: &mut Tower,
) -> Result<Option<[ValueId; 2]>, OpError> {
    match v.positions {
        VisionPositions::Rotary { theta, .. } => {
            let table = rotary_table(v, theta);
            let names = ["vision.cos", "vision.sin"];
            let angles = g.add_multi("vision.rotary", table, &[tower.positions], &names)?;
            Ok(Some([angles[0], angles[1]]))
        }
        VisionPositions::Table { side } => {
            let bucket = ops::GridBucket { rows: side, cols: side };
            let operands = [tower.positions, tower.grid, tower.segments];
            let ids = g.add("vision.position_ids", bucket, &operands)?;
            let table = g.weight("vision.position.weight", vec![side * side, v.width]);
            let writes = stream(v).map(|b| b.stream);
            let positions = g.add("vision.position", ops::Embed { table, writes }, &[ids])?;
            tower.rows = g.add("vision.position.sum", ops::Add, &[tower.rows, positions])?;
            Ok(None)
        }
    }
}

/// Puts the class token with its position before each tile; returns rows and their segments.
fn insert_class(
    v: &VisionSpec,
    g: &mut GraphBuilder<'_>,
    tower: &Tower,
) -> Result<(ValueId, ValueId), OpError> {
    let mut row = |role: &str| {
        let table = g.weight(&format!("{role}.weight"), vec![1, v.width]);
        g.add(role, ops::ConstantRows { table, writes: stream(v) }, &[])
    };
    let (class, position) = (row("vision.class")?, row("vision.class_position")?);
    let class = g.add("vision.class.sum", ops::Add, &[class, position])?;
    let insert = ops::InsertRows { first: true, last: false, factor: 1, into: Sym::TowerRows };
    let names = ["vision.rows", "vision.row_segments"];
    let rows = g.add_multi("vision.rows", insert, &[tower.rows, tower.segments, class], &names)?;
    Ok((rows[0], rows[1]))
}

/// The first half of a head's frequencies follows the row, the second half the column (transformers `VisionRotaryEmbedding`).
fn rotary_table(v: &VisionSpec, theta: f64) -> ops::RotaryTable {
    let half = inv_freq(theta, v.width / v.heads.max(1) / 2);
    let axis = [vec![0; half.len()], vec![1; half.len()]].concat();
    ops::RotaryTable { inv_freq: [half.clone(), half].concat(), axis, scaling: None }
}

fn norm(v: &VisionSpec, g: &mut GraphBuilder<'_>, role: &str, x: ValueId) -> Result<ValueId, OpError> {
    match v.norm {
        Norm::LayerNorm => layer_norm(g, role, v.width, v.eps, x),
        Norm::RmsNorm => rms_norm(g, role, v.width, v.eps, x),
    }
}

/// One block under construction with the values all blocks share.
struct Block<'a> {
    v: &'a VisionSpec,
    role: String,
    rotary: Option<[ValueId; 2]>,
    segments: ValueId,
}

impl Block<'_> {
    fn build(&self, g: &mut GraphBuilder<'_>, x: ValueId) -> Result<ValueId, OpError> {
        let x = self.branch(g, x, "attn", "norm1", Self::attention)?;
        self.branch(g, x, "mlp", "norm2", Self::mlp)
    }

    /// The residual with one branch added, norm and layer scale where the spec has them.
    fn branch(
        &self,
        g: &mut GraphBuilder<'_>,
        x: ValueId,
        name: &str,
        norm_name: &str,
        f: impl Fn(&Self, &mut GraphBuilder<'_>, ValueId) -> Result<ValueId, OpError>,
    ) -> Result<ValueId, OpError> {
        let (v, role) = (self.v, |n: &str| format!("{}.{n}", self.role));
        let mut y = match v.norm_place {
            NormPlace::Before => {
                let n = norm(v, g, &role(norm_name), x)?;
                f(self, g, n)?
            }
            NormPlace::OnBranch => {
                let y = f(self, g, x)?;
                norm(v, g, &role(norm_name), y)?
            }
        };
        if v.layer_scale {
            let scale = role(&format!("{name}.scale"));
            let gain = g.weight(&format!("{scale}.weight"), vec![v.width]);
            y = g.add(&scale, ops::Scale { gain, writes: stream(v) }, &[y])?;
        }
        g.add(&role(&format!("{name}.sum")), ops::Add, &[x, y])
    }

    /// What a branch's last linear writes: the stream, unless layer scale does.
    fn writes(&self) -> Option<Basis> {
        stream(self.v).filter(|_| !self.v.layer_scale)
    }

    fn attention(&self, g: &mut GraphBuilder<'_>, n: ValueId) -> Result<ValueId, OpError> {
        let v = self.v;
        let head_dim = v.width / v.heads.max(1);
        let mut qkv = [n; 3];
        for (slot, name) in qkv.iter_mut().zip(["q", "k", "v"]) {
            let role = format!("{}.attn.{name}", self.role);
            let def = LinearDef { role: &role, out: v.width, input: v.width, bias: v.qkv_bias, writes: None };
            *slot = def.add(g, n)?;
            if v.qk_norm && name != "v" {
                *slot = rms_norm(g, &format!("{role}_norm"), v.width, v.eps, *slot)?;
            }
        }
        if let (Some([cos, sin]), VisionPositions::Rotary { layout, .. }) = (self.rotary, &v.positions) {
            for (slot, name) in qkv.iter_mut().take(2).zip(["q", "k"]) {
                let rotary = ops::Rotary { heads: v.heads, head_dim, rotary_dim: head_dim, layout: *layout };
                *slot = g.add(&format!("{}.attn.{name}.rotary", self.role), rotary, &[*slot, cos, sin])?;
            }
        }
        let [q, k, val] = qkv;
        let mix = ops::SegmentAttention { heads: v.heads, head_dim };
        let a = g.add(&format!("{}.attn.mix", self.role), mix, &[q, k, val, self.segments])?;
        let role = format!("{}.attn.o", self.role);
        LinearDef { role: &role, out: v.width, input: v.width, bias: true, writes: self.writes() }.add(g, a)
    }

    fn mlp(&self, g: &mut GraphBuilder<'_>, n: ValueId) -> Result<ValueId, OpError> {
        let v = self.v;
        let role = format!("{}.mlp.up", self.role);
        let up = LinearDef { role: &role, out: v.mlp_width, input: v.width, bias: true, writes: None };
        let up = up.add(g, n)?;
        let act = ops::Activate { kind: v.activation };
        let act = g.add(&format!("{}.mlp.act", self.role), act, &[up])?;
        let role = format!("{}.mlp.down", self.role);
        let writes = self.writes();
        LinearDef { role: &role, out: v.width, input: v.mlp_width, bias: true, writes }.add(g, act)
    }
}
