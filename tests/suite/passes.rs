//! Passes keep what they promise, shown by the executor before and after; the validator finds each kind of broken graph.

use mquant_export::exec::{DecoderState, Executor};
use mquant_export::family::CheckpointWeights;
use mquant_export::graph::ops::{ActScales, Linear, Rounding};
use mquant_export::graph::{Model, Op, ValueId, WeightFormat, dump, validate};
use mquant_export::numeric::Tensor;
use mquant_export::numeric::grid::Grid;
use mquant_export::passes::{carry_modality, merge_linears};

use crate::common::eval::Nearest;
use crate::common::golden::GoldenPrompt;
use crate::common::{Goldens, open};

const FIXTURE: &str = "qwen2_vl";
const INT8: Grid = Grid { bits: 8, block: None };

/// Logits of a model over the fixture's weights, quantized where it says so, on the sample with two images.
fn logits(model: &Model) -> Tensor<f64> {
    let (checkpoint, resolved) = open(FIXTURE);
    let weights = CheckpointWeights::new(&checkpoint, &resolved.bindings);
    let weights = Nearest::new(model, &weights);
    let exec = Executor::<f64>::keeping(model, &weights);
    let prompt = GoldenPrompt::read(FIXTURE, &resolved, &Goldens::of(FIXTURE), 3);
    DecoderState::prefill(&exec, &prompt.generation()).unwrap().logits
}

fn linears(model: &mut Model) -> impl Iterator<Item = &mut Linear> {
    model.graphs.iter_mut().flat_map(|g| &mut g.nodes).filter_map(|n| match &mut n.op {
        Op::Linear(l) => Some(l),
        _ => None,
    })
}

/// The fixture's model with int8 weights and the given scales in every linear.
fn quantized(scales: impl Fn(usize) -> ActScales) -> Model {
    let mut model = open(FIXTURE).1.model;
    let decoder = model.graphs[0].nodes.iter().filter(|n| matches!(n.op, Op::Linear(_))).count();
    let mut weights = vec![];
    for (i, l) in linears(&mut model).enumerate() {
        // Linears of the vision graph come first and have one modality.
        l.act = Some(Rounding::Static(if i < decoder { ActScales::one(0.05) } else { scales(i) }));
        weights.push(l.weight);
    }
    for id in weights {
        model.weights[id.0].format = WeightFormat::Grid(INT8);
    }
    model
}

#[test]
fn merging_changes_no_bit_and_leaves_no_group() {
    let model = open(FIXTURE).1.model;
    let before = model.linears().count();
    let merged = merge_linears(model.clone()).unwrap();
    let spec = &model.spec;
    // q, k, v become one everywhere; gate and up are too wide together.
    assert!(2 * spec.decoder.mlp_width > 4 * spec.decoder.width);
    assert_eq!(before - merged.linears().count(), 2 * (spec.vision.depth + spec.decoder.layers));
    assert_eq!(merge_linears(merged.clone()).unwrap(), merged);
    let (a, b) = (logits(&model), logits(&merged));
    let max = a.data().iter().fold(0.0f64, |m, x| m.max(x.abs()));
    let diff = a.data().iter().zip(b.data()).fold(0.0f64, |m, (x, y)| m.max((x - y).abs()));
    // Each output channel is the same sum of the same products; a product of another width may only sum in another order.
    assert!(diff <= 1e-13 * max, "{diff:e} of {max:e}");
}

/// The float model with int8 codes in the head alone, so that all rows reach the head with the same bits.
fn quantized_head(act: ActScales) -> Model {
    let mut model = open(FIXTURE).1.model;
    let head = linears(&mut model).last().unwrap();
    head.act = Some(Rounding::Static(act));
    let weight = head.weight;
    // The head is tied to the token table in the checkpoint, but a weight of its own in the model.
    model.weights[weight.0].format = WeightFormat::Grid(INT8);
    carry_modality(model).unwrap()
}

#[test]
fn the_modality_channel_changes_no_bit() {
    let (visual, text) = (0.05, 0.02);
    let both = quantized_head(ActScales { visual, text });
    assert!(dump(&both).contains("%decoder.modality: float[batch_size, sequence_length, 1]"));
    // Equal scales need no channel.
    let alone = [visual, text].map(|s| quantized_head(ActScales::one(s)));
    assert!(!dump(&alone[0]).contains("modality"));
    let (both, [as_visual, as_text]) = (logits(&both), alone.map(|m| logits(&m)));
    let resolved = open(FIXTURE).1;
    let prompt = GoldenPrompt::read(FIXTURE, &resolved, &Goldens::of(FIXTURE), 3);
    let image = resolved.description.prompt.image_token_id;
    for (r, id) in prompt.ids.iter().enumerate() {
        let want = if *id == image { &as_visual } else { &as_text };
        assert_eq!(both.row(r), want.row(r), "row {r}");
    }
    assert_ne!(as_visual, as_text);
}

#[test]
fn each_modality_uses_its_own_scale() {
    let fine = logits(&carry_modality(quantized(|_| ActScales { visual: 0.05, text: 0.02 })).unwrap());
    let coarse = logits(&carry_modality(quantized(|_| ActScales { visual: 0.8, text: 0.02 })).unwrap());
    let resolved = open(FIXTURE).1;
    let prompt = GoldenPrompt::read(FIXTURE, &resolved, &Goldens::of(FIXTURE), 3);
    let image = resolved.description.prompt.image_token_id;
    let first_image = prompt.ids.iter().position(|id| *id == image).unwrap();
    // Rows before the first image see text only: a coarse visual scale must not touch them.
    for r in 0..first_image {
        assert_eq!(fine.row(r), coarse.row(r), "row {r}");
    }
    assert_ne!(fine.row(first_image), coarse.row(first_image));
}

fn broken(edit: impl FnOnce(&mut Model)) -> String {
    let mut model = open(FIXTURE).1.model;
    validate(&model).unwrap();
    edit(&mut model);
    validate(&model).unwrap_err().to_string()
}

#[test]
fn the_validator_names_each_broken_rule() {
    let e = broken(|m| m.graphs[0].nodes[3].inputs[0] = ValueId(9999));
    assert!(e.contains("9999") && e.contains("does not exist"), "{e}");
    let e = broken(|m| m.graphs[2].nodes.swap(1, 5));
    assert!(e.contains("read before it is written"), "{e}");
    let e = broken(|m| m.graphs[2].nodes[4].outputs[0] = m.graphs[2].nodes[1].outputs[0]);
    assert!(e.contains("written twice"), "{e}");
    let e = broken(|m| m.graphs[1].nodes[1].name = "embedding".into());
    assert!(e.contains("used twice"), "{e}");
    let e = broken(|m| m.weights[0].shape[1] += 1);
    assert!(e.contains("vision.patch") && e.contains("channels"), "{e}");
    let e = broken(|m| {
        let mut stray = m.weights[0].clone();
        stray.name = "stray".into();
        m.weights.push(stray);
    });
    assert!(e.contains("stray") && e.contains("no node uses it"), "{e}");
    let e = broken(|m| {
        let at = m.weights.iter().position(|w| w.name == "embedding.weight").unwrap();
        m.weights[at].format = WeightFormat::Grid(INT8);
    });
    assert!(e.contains("embedding.weight") && e.contains("integer"), "{e}");
    let e = broken(|m| linears(m).next().unwrap().act = Some(Rounding::PerRow));
    assert!(e.contains("rounds its input but weight"), "{e}");
}

#[test]
fn what_a_rotation_would_break_does_not_validate() {
    // A non-linearity on the residual stream.
    let e = broken(|m| {
        let graph = &mut m.graphs[2];
        let sum = graph.nodes.iter().find(|n| n.name == "decoder.layers.0.attn.sum").unwrap().outputs[0];
        let act = graph.nodes.iter_mut().find(|n| n.name == "decoder.layers.0.mlp.act").unwrap();
        act.inputs[0] = sum;
    });
    assert!(e.contains("rotation"), "{e}");
    // A writer that does not say so.
    let e = broken(|m| {
        let node = m.graphs[2].nodes.iter_mut().find(|n| n.name == "decoder.layers.0.mlp.down").unwrap();
        if let Op::Linear(l) = &mut node.op {
            l.writes = None;
        }
    });
    assert!(e.contains("decoder.layers.0.mlp"), "{e}");
}
