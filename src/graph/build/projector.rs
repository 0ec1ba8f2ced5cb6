//! Projector: LayerNorm per patch, merge of neighbouring patches, two-layer MLP that writes the decoder's stream.

use super::{LinearDef, layer_norm};
use crate::graph::ops::{self, OpError};
use crate::graph::spec::ModelSpec;
use crate::graph::{Basis, GraphBuilder, Stream, Sym, ValueId};

/// Adds the projector behind the tower's residual and declares the output `image_features [image_tokens, width]`.
pub(super) fn build(spec: &ModelSpec, g: &mut GraphBuilder<'_>, tower: ValueId) -> Result<(), OpError> {
    let (p, width) = (&spec.projector, spec.vision.width);
    let factor = spec.vision.merge * spec.vision.merge;
    let n = layer_norm(g, "projector.norm", width, p.eps, tower)?;
    let merged = g.add("projector.merge", ops::MergeRows { factor, into: Sym::ImageTokens }, &[n])?;
    let up =
        LinearDef { role: "projector.up", out: p.hidden, input: width * factor, bias: true, writes: None };
    let h = up.add(g, merged)?;
    let act = g.add("projector.act", ops::Activate { kind: p.activation }, &[h])?;
    let down = LinearDef {
        role: "projector.down",
        out: spec.decoder.width,
        input: p.hidden,
        bias: true,
        writes: Basis::of(Stream::Decoder),
    };
    let y = down.add(g, act)?;
    let features = g.add("image_features", ops::DropBatch, &[y])?;
    g.output(features);
    Ok(())
}
