//! Carries each row's modality to the linears that need it.
//!
//! Requires: linears of the decoder whose two activation scales differ lack their modality operand, as quantization leaves them.
//! Ensures: image features and embeddings have one more channel, 1 for visual rows and 0 for text; the decoder splits it off
//! first and every such linear reads it. Numbers of all other values are unchanged. A model without such linears is unchanged.

use super::{PassError, ensure};
use crate::graph::ops::{AppendChannel, Split};
use crate::graph::{Basis, Component, DType, Dim, Graph, Model, Node, Op, Part, Stream, ValueId, ValueInfo};

const PASS: &str = "carry_modality";

/// Adds the modality channel where some linear needs it.
///
/// # Errors
/// [`PassError`] when the model does not have the three parts of a builder's model.
pub fn carry_modality(mut model: Model) -> Result<Model, PassError> {
    let needs = |n: &Node| matches!(&n.op, Op::Linear(l) if l.act.is_some_and(|a| a.per_modality()));
    if !model.graphs.iter().flat_map(|g| &g.nodes).any(needs) {
        return Ok(model);
    }
    vision(part(&mut model, Part::Vision)?)?;
    embedding(part(&mut model, Part::Embedding)?)?;
    decoder(part(&mut model, Part::Decoder)?, needs)?;
    ensure(PASS, model)
}

fn part(model: &mut Model, part: Part) -> Result<&mut Graph, PassError> {
    let found = model.graphs.iter_mut().find(|g| g.part == part);
    found.ok_or_else(|| requires(format!("the model has no {} graph", part.name())))
}

fn requires(reason: String) -> PassError {
    PassError::Requires { pass: PASS, reason }
}

fn named(graph: &Graph, name: &str) -> Result<ValueId, PassError> {
    graph.find(name).ok_or_else(|| requires(format!("the {} graph has no value {name}", graph.part.name())))
}

fn width(graph: &Graph, id: ValueId) -> Result<usize, PassError> {
    let info = graph.value(id);
    info.channels().ok_or_else(|| requires(format!("{info} has no fixed width")))
}

fn push(graph: &mut Graph, name: &str, shape: Vec<Dim>) -> ValueId {
    graph.values.push(ValueInfo { name: name.into(), dtype: DType::Float, shape, basis: None });
    ValueId(graph.values.len() - 1)
}

/// Image features carry 1.
fn vision(graph: &mut Graph) -> Result<(), PassError> {
    let rows = named(graph, "image_features")?;
    let n = width(graph, rows)?;
    graph.values[rows.0].name = "image_rows".into();
    let marked = push(graph, "image_features", graph.value(rows).with_channels(n + 1));
    graph.nodes.push(Node {
        name: "image_features.modality".into(),
        op: AppendChannel { value: 1.0 }.into(),
        component: Component::Projector,
        inputs: vec![rows],
        outputs: vec![marked],
    });
    graph.outputs.iter_mut().filter(|v| **v == rows).for_each(|v| *v = marked);
    Ok(())
}

/// Text rows carry 0; the splice puts image rows with their 1 over them.
fn embedding(graph: &mut Graph) -> Result<(), PassError> {
    let is_splice = |n: &Node| matches!(n.op, Op::Splice(_));
    let Some(at) = graph.nodes.iter().position(is_splice) else {
        return Err(requires("the embedding graph has no splice".into()));
    };
    let (rows, out) = (graph.nodes[at].inputs[0], graph.nodes[at].outputs[0]);
    let features = graph.nodes[at].inputs[2];
    let n = width(graph, rows)?;
    let marked = push(graph, "embedding.marked", graph.value(rows).with_channels(n + 1));
    for id in [features, out] {
        let shape = graph.value(id).with_channels(n + 1);
        let info = &mut graph.values[id.0];
        (info.shape, info.basis) = (shape, None);
    }
    graph.nodes[at].inputs[0] = marked;
    graph.nodes.insert(
        at,
        Node {
            name: "embedding.modality".into(),
            op: AppendChannel { value: 0.0 }.into(),
            component: Component::Embedding,
            inputs: vec![rows],
            outputs: vec![marked],
        },
    );
    Ok(())
}

/// The decoder takes the channel off and hands it to the linears that need it.
fn decoder(graph: &mut Graph, needs: impl Fn(&Node) -> bool) -> Result<(), PassError> {
    let embeds = named(graph, "inputs_embeds")?;
    let n = width(graph, embeds)?;
    graph.values[embeds.0].name = "decoder.embeds".into();
    let marked = push(graph, "inputs_embeds", graph.value(embeds).with_channels(n + 1));
    let modality = push(graph, "decoder.modality", graph.value(embeds).with_channels(1));
    graph.inputs.iter_mut().filter(|v| **v == embeds).for_each(|v| *v = marked);
    for node in graph.nodes.iter_mut().filter(|n| needs(n)) {
        node.inputs.push(modality);
    }
    let split = Split { sizes: vec![n, 1], bases: vec![Basis::of(Stream::Decoder), None] };
    graph.nodes.insert(
        0,
        Node {
            name: "decoder.entry".into(),
            op: split.into(),
            component: Component::Decoder,
            inputs: vec![marked],
            outputs: vec![embeds, modality],
        },
    );
    Ok(())
}
