//! Puts the decoder's rows into the order by modality: attention-invariant flexible switching (AIFS, MQuant, arXiv 2502.00425 section 4.2),
//! so that a linear with two activation scales is two products over contiguous rows.
//!
//! Requires: the decoder has the modality channel ([`carry_modality`](super::carry_modality)).
//! Ensures: rows of all prompts of a run, as one list with the visual ones first, flow through everything that works row by row: norms,
//! linears, sums, the residual stream. What depends on the order of tokens (rotary, attention, the cache), and what is handed out, sees the
//! prompts' order. Every row keeps its numbers: each result is that of the model before, bit by bit where rows are computed independently.
//!
//! The paper permutes queries, keys and values too, and permutes mask and positions alike. Attention is invariant to that: the score of
//! query `i` and key `j` is the same number at another place, softmax and the sum over keys do not depend on their order, and the rows of
//! the result come out permuted. So putting `q`, `k` and `v` back before attention and its result into the new order behind it gives the
//! same rows. It is chosen because causality stays that of the index: the mask, positions and the fused attention operators need no change,
//! the cache keeps the order of tokens, so that later turns and decoding may have other visual rows, and rows of several prompts can share
//! one list. It costs two gathers per layer.

use std::collections::HashMap;

use super::{PassError, ensure};
use crate::graph::ops::{OrderByModality, TakeRows};
use crate::graph::{Component, DType, Dim, Graph, Model, Node, Op, Part, Sym, ValueId, ValueInfo};

const PASS: &str = "order_by_modality";

/// The modality of every new token, as [`carry_modality`](super::carry_modality) names it.
const MODALITY: &str = "decoder.modality";

/// Puts the rows of the decoder into the order by modality.
///
/// # Errors
/// [`PassError`] when the model has no decoder with a modality channel.
pub fn order_by_modality(mut model: Model) -> Result<Model, PassError> {
    let requires = |reason: &str| PassError::Requires { pass: PASS, reason: reason.into() };
    let graph = model.graphs.iter_mut().find(|g| g.part == Part::Decoder);
    let graph = graph.ok_or_else(|| requires("the model has no decoder graph"))?;
    let entry = graph.find(MODALITY).and_then(|m| graph.maker(m).map(|(at, _)| (at, m)));
    let Some((entry, modality)) = entry else {
        return Err(requires(
            "the decoder has no modality channel; carry_modality adds it where a linear has two activation scales",
        ));
    };
    let moves = moves(graph, entry);
    let mut rewrite = Rewrite::new(graph, modality);
    let nodes = std::mem::take(&mut rewrite.graph.nodes);
    for (i, (node, moves)) in nodes.into_iter().zip(moves).enumerate() {
        rewrite.node(node, moves);
        if i == entry {
            rewrite.make_order();
        }
    }
    ensure(PASS, model)
}

/// For every node whether it works in the order by modality. A node that hands out a result of the graph does not: its operand, the
/// hidden rows, is narrower than the logits. A split of channels, which only moves numbers, follows the nodes that read its pieces, so that
/// q, k and v are put back as one.
fn moves(graph: &Graph, entry: usize) -> Vec<bool> {
    let mut moves = vec![false; graph.nodes.len()];
    for (i, node) in graph.nodes.iter().enumerate().skip(entry + 1).rev() {
        let mut outputs = node.outputs.iter();
        moves[i] = row_wise(&node.op)
            && node.inputs.iter().all(|v| of_tokens(graph.value(*v)))
            && !outputs.clone().any(|v| graph.outputs.contains(v))
            && (!matches!(node.op, Op::Split(_))
                || outputs.any(|v| graph.readers(*v).any(|(r, _)| moves[r])));
    }
    moves
}

/// Whether every row of the results depends on the same row of the operands alone. An op that is missing here is still right: its rows are
/// put back for it.
fn row_wise(op: &Op) -> bool {
    matches!(
        op,
        Op::Linear(_)
            | Op::LayerNorm(_)
            | Op::RmsNorm(_)
            | Op::Add(_)
            | Op::Mul(_)
            | Op::Scale(_)
            | Op::DivideBy(_)
            | Op::Activate(_)
            | Op::Split(_)
            | Op::Join(_)
            | Op::AppendChannel(_)
            | Op::TakeChannel(_)
            | Op::Hadamard(_)
    )
}

/// Whether a value has one row per new token, in the order of the prompts.
fn of_tokens(value: &ValueInfo) -> bool {
    value.dtype == DType::Float
        && matches!(value.shape.as_slice(), [Dim::Sym(Sym::Batch), Dim::Sym(Sym::Sequence), Dim::Fixed(_)])
}

/// The graph whose nodes are being added again, with rows moved where needed.
struct Rewrite<'a> {
    graph: &'a mut Graph,
    modality: ValueId,
    /// Old numbers of the rows in the new order.
    order: ValueId,
    /// New numbers of the rows in the prompts' order.
    places: ValueId,
    /// Values in the order they were not made in.
    moved: HashMap<ValueId, ValueId>,
}

impl<'a> Rewrite<'a> {
    fn new(graph: &'a mut Graph, modality: ValueId) -> Self {
        let [batch, sequence] = [Dim::Sym(Sym::Batch), Dim::Sym(Sym::Sequence)];
        let mut numbers = |name: &str, shape| {
            graph.values.push(ValueInfo { name: name.into(), dtype: DType::Int, shape, basis: None });
            ValueId(graph.values.len() - 1)
        };
        let order = numbers("decoder.order", vec![Dim::Fixed(1), Dim::Sym(Sym::ByModality)]);
        let places = numbers("decoder.places", vec![batch, sequence]);
        Self { graph, modality, order, places, moved: HashMap::new() }
    }

    fn make_order(&mut self) {
        self.graph.nodes.push(Node {
            name: "decoder.order".into(),
            op: OrderByModality.into(),
            component: Component::Decoder,
            inputs: vec![self.modality],
            outputs: vec![self.order, self.places],
        });
    }

    /// Adds a node again, in the order it works in.
    fn node(&mut self, mut node: Node, by_modality: bool) {
        for input in &mut node.inputs {
            let value = self.graph.value(*input);
            let is_by_modality = value.shape.get(1) == Some(&Dim::Sym(Sym::ByModality));
            if is_by_modality != by_modality && (is_by_modality || of_tokens(value)) {
                *input = self.turned(*input, by_modality, node.component);
            }
        }
        if by_modality {
            for output in &node.outputs {
                let shape = &mut self.graph.values[output.0].shape;
                shape.splice(..2, [Dim::Fixed(1), Dim::Sym(Sym::ByModality)]);
            }
        }
        self.graph.nodes.push(node);
    }

    /// A value in the other order, made where it is needed first.
    fn turned(&mut self, value: ValueId, by_modality: bool, component: Component) -> ValueId {
        if let Some(&found) = self.moved.get(&value) {
            return found;
        }
        let (numbers, suffix) =
            if by_modality { (self.order, "by_modality") } else { (self.places, "by_prompt") };
        let rows = self.graph.value(numbers).shape.clone();
        let info = self.graph.value(value).clone();
        let channels = info.shape.last().copied();
        let name = format!("{}.{suffix}", info.name);
        let shape = rows.into_iter().chain(channels).collect();
        self.graph.values.push(ValueInfo { name: name.clone(), shape, ..info });
        let turned = ValueId(self.graph.values.len() - 1);
        self.graph.nodes.push(Node {
            name,
            op: TakeRows.into(),
            component,
            inputs: vec![value, numbers],
            outputs: vec![turned],
        });
        self.moved.insert(value, turned);
        turned
    }
}
