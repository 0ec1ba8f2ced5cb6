//! Where a graph is cut into blocks, and which nodes and values a cut needs.

use std::collections::BTreeSet;
use std::ops::Range;

use crate::graph::{Graph, ValueId};

/// The nodes of a graph, cut where the number in their names changes: `decoder.layers.3.attn.q` belongs to block `decoder.layers.3`. Any cut is
/// right; this one keeps the values between blocks few.
pub(super) fn blocks(graph: &Graph) -> Vec<Range<usize>> {
    let mut blocks: Vec<Range<usize>> = vec![];
    let mut current = None;
    for (i, node) in graph.nodes.iter().enumerate() {
        let key = block_name(&node.name);
        match blocks.last_mut() {
            Some(block) if current == Some(key) => block.end = i + 1,
            _ => blocks.push(i..i + 1),
        }
        current = Some(key);
    }
    blocks
}

/// The name up to its first number, that number included; all of it is one block where there is none.
pub(super) fn block_name(node: &str) -> &str {
    let mut end = 0;
    for word in node.split('.') {
        end += word.len();
        if !word.is_empty() && word.bytes().all(|b| b.is_ascii_digit()) {
            return &node[..end];
        }
        end += 1;
    }
    ""
}

/// Nodes of a block that a value depends on, in order.
pub(super) fn ancestors(graph: &Graph, block: &Range<usize>, value: ValueId) -> Vec<usize> {
    let mut wanted = BTreeSet::from([value]);
    let mut nodes = vec![];
    for i in block.clone().rev() {
        let node = &graph.nodes[i];
        if node.outputs.iter().any(|v| wanted.contains(v)) {
            wanted.extend(&node.inputs);
            nodes.push(i);
        }
    }
    nodes.reverse();
    nodes
}

/// Values that nodes from `end` on read, and what the graph hands out where that is `wanted`: the keys and values of all layers for all samples
/// would be far more than what the blocks read.
pub(super) fn read_later(graph: &Graph, end: usize, wanted: bool) -> BTreeSet<ValueId> {
    let read = graph.nodes[end..].iter().flat_map(|n| n.inputs.iter().copied());
    let outputs = if wanted { graph.outputs.as_slice() } else { &[] };
    read.chain(outputs.iter().copied()).collect()
}
