//! Tests of what the block loop keeps and where it cuts; what it computes is judged by exports in `tests/suite`.

use super::cut::{block_name, blocks, read_later};
use crate::graph::ops::Add;
use crate::graph::{Component, Graph, Node, Op, Part, ValueId};

/// Two layers in which `x` becomes `x + x` and the layer's input is handed out beside it, as keys and values are.
fn graph() -> Graph {
    let node = |name: &str, from: usize, to: usize| Node {
        name: name.into(),
        op: Op::Add(Add),
        component: Component::Decoder,
        inputs: vec![ValueId(from), ValueId(from)],
        outputs: vec![ValueId(to)],
    };
    Graph {
        part: Part::Decoder,
        values: vec![],
        nodes: vec![
            node("decoder.layers.0.present", 0, 1),
            node("decoder.layers.0.add", 0, 2),
            node("decoder.layers.1.present", 2, 3),
            node("decoder.layers.1.add", 2, 4),
            node("decoder.head", 4, 5),
        ],
        inputs: vec![ValueId(0)],
        outputs: vec![ValueId(5), ValueId(1), ValueId(3)],
    }
}

#[test]
fn blocks_are_cut_where_the_number_changes() {
    assert_eq!(blocks(&graph()), [0..2, 2..4, 4..5]);
    assert_eq!(block_name("decoder.layers.12.attn.q"), "decoder.layers.12");
}

#[test]
fn outputs_that_nobody_wants_are_not_kept() {
    let kept = |end, wanted| read_later(&graph(), end, wanted).into_iter().map(|v| v.0).collect::<Vec<_>>();
    assert_eq!(kept(2, false), [2, 4]);
    assert_eq!(kept(4, false), [4]);
    assert_eq!(kept(2, true), [1, 2, 3, 4, 5]);
    assert_eq!(kept(5, false), [0; 0]);
}
