//! Embedding: token table and splice of image rows.

use crate::graph::ops::{self, OpError};
use crate::graph::spec::ModelSpec;
use crate::graph::{Basis, DType, Dim, GraphBuilder, Stream, Sym, ValueInfo};

/// Adds the whole embedding graph: `input_ids`, `image_features` to `inputs_embeds`.
pub(super) fn build(spec: &ModelSpec, g: &mut GraphBuilder<'_>) -> Result<(), OpError> {
    let d = &spec.decoder;
    let ids = g.input("input_ids", DType::Int, vec![Dim::Sym(Sym::Batch), Dim::Sym(Sym::Sequence)]);
    let features = g.input_value(ValueInfo {
        name: "image_features".into(),
        dtype: DType::Float,
        shape: vec![Dim::Sym(Sym::ImageTokens), Dim::Fixed(d.width)],
        basis: Basis::of(Stream::Decoder),
    });
    let table = g.weight("embedding.weight", vec![d.vocab, d.width]);
    let rows = g.add("embedding", ops::Embed { table, writes: Some(Stream::Decoder) }, &[ids])?;
    let splice = ops::Splice { token_id: spec.image_token_id };
    let embeds = g.add("inputs_embeds", splice, &[rows, ids, features])?;
    g.output(embeds);
    Ok(())
}
