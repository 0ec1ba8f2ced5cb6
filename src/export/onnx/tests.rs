//! Laws of the lowered graphs that hold without running them: names, single assignment, operator sets, and the spellings that
//! ONNX Runtime's optimiser needs or breaks on. What the files compute is judged by ONNX Runtime in `tests/suite`.

use std::collections::{HashMap, HashSet};

use prost::Message;

use super::proto::{GraphProto, ModelProto, NodeProto, TensorProto};
use super::{Form, MsqForm, OnnxOptions, OpSet, Store, file_name, write};
use crate::graph::ops::{self, ActScales, OpError, Rounding};
use crate::graph::spec::{
    Activation, DecoderSpec, ModelSpec, Norm, NormPlace, ProjectorSpec, RotaryLayout, VisionPositions,
    VisionSpec,
};
use crate::graph::{
    Basis, Component, DType, Dim, GraphBuilder, Model, Op, Part, Stream, Sym, ValueId, WeightData,
    WeightDecl, WeightError, WeightFormat, WeightId, WeightSource, build::build, validate,
};
use crate::numeric::Tensor;
use crate::numeric::grid::{Grid, GridMatrix};

const INT8: Grid = Grid { bits: 8, block: None };

/// Zeros in the declared form.
struct Zeros<'a>(&'a Model);

impl WeightSource for Zeros<'_> {
    fn role(&self, role: &str) -> Result<WeightData, WeightError> {
        let decl = self.0.weights.iter().find(|w| w.name == role).unwrap();
        Ok(match decl.format {
            WeightFormat::Float => WeightData::Float(Tensor::full(decl.shape.clone(), 0.0)),
            WeightFormat::Blocks(_) => panic!("no weight of these models is in blocks of ggml"),
            WeightFormat::Grid(grid) => WeightData::Grid(GridMatrix {
                grid,
                rows: decl.shape[0],
                cols: decl.shape[1],
                codes: vec![0; decl.shape[0] * decl.shape[1]],
                multipliers: vec![1; grid.block.map_or(0, |_| decl.shape[0] * grid.blocks(decl.shape[1]))],
                scales: vec![1.0; decl.shape[0]],
            }),
        })
    }
}

/// Odd sizes: three heads over one, a head size that GroupQueryAttention takes when `head_dim` is 8.
fn model(head_dim: usize) -> Model {
    let rope_layout = RotaryLayout::Half;
    build(ModelSpec {
        vision: VisionSpec {
            patch_features: 37,
            width: 12,
            depth: 2,
            heads: 3,
            mlp_width: 31,
            activation: Activation::QuickGelu,
            patch_bias: false,
            norm: Norm::LayerNorm,
            norm_place: NormPlace::Before,
            eps: 1e-6,
            qkv_bias: true,
            qk_norm: false,
            layer_scale: false,
            class_token: false,
            entry_norm: false,
            exit_norm: false,
            positions: VisionPositions::Rotary { theta: 1e4, layout: rope_layout },
            merge: 2,
        },
        projector: ProjectorSpec::MergeMlp {
            eps: 1e-6,
            hidden: 45,
            activation: Activation::GeluErf,
            norm_merged: false,
        },
        decoder: DecoderSpec {
            width: 41,
            layers: 2,
            heads: 3,
            kv_heads: 1,
            head_dim,
            mlp_width: 77,
            vocab: 97,
            eps: 1e-6,
            activation: Activation::Silu,
            qkv_bias: true,
            rope_theta: 1e6,
            rope_layout,
            rope_dim: head_dim,
            rope_sections: vec![head_dim / 2 - 2, 1, 1],
            rope_scaling: None,
            log_scaled_queries: None,
            max_positions: 512,
            tied_head: false,
        },
        image_token_id: 90,
    })
    .unwrap()
}

/// Every other linear W8A8 at one scale, every fifth weight-only.
fn quantized(head_dim: usize) -> (Model, usize) {
    on_grid(head_dim, INT8)
}

fn on_grid(head_dim: usize, grid: Grid) -> (Model, usize) {
    let mut model = model(head_dim);
    let mut count = 0;
    for (i, node) in model.graphs.iter_mut().flat_map(|g| &mut g.nodes).enumerate() {
        if let Op::Linear(l) = &mut node.op
            && (i % 2 == 0 || i % 5 == 0)
        {
            model.weights[l.weight.0].format = WeightFormat::Grid(grid);
            if i % 2 == 0 {
                l.act = Some(Rounding::Static(ActScales::one(0.5)));
                count += 1;
            }
        }
    }
    validate(&model).unwrap();
    (model, count)
}

/// Graphs of the ops that `model` has not: class rows, a resampler and rows around images; rotary scaled with the length.
fn other_ops() -> Model {
    let mut model = model(8);
    let embedding = model.graphs.remove(1);
    let mut g = GraphBuilder::new(Part::Vision, &mut model.weights, Component::Vision);
    vision_ops(&mut g).unwrap();
    let vision = g.finish();
    let codes = ["codes0", "codes1"].map(|name| {
        let (name, format) = (name.to_string(), WeightFormat::Grid(INT8));
        model.weights.push(WeightDecl { parts: vec![name.clone()], name, shape: vec![5, 24], format });
        WeightId(model.weights.len() - 1)
    });
    let mut g = GraphBuilder::new(Part::Decoder, &mut model.weights, Component::Decoder);
    decoder_ops(&mut g, codes).unwrap();
    model.graphs = vec![vision, embedding, g.finish()];
    model
}

fn vision_ops(g: &mut GraphBuilder<'_>) -> Result<(), OpError> {
    let (patches, writes) = (Dim::Sym(Sym::Patches), Basis::of(Stream::Vision));
    let pixels = g.input("pixel_values", DType::Float, vec![patches, Dim::Fixed(12)]);
    let grid = g.input("image_grid_thw", DType::Int, vec![Dim::Sym(Sym::Images), Dim::Fixed(3)]);
    let rows = g.add("rows", ops::AddBatch, &[pixels])?;
    let at = g.add_multi("grid", ops::GridPositions { merge: 2 }, &[grid, rows], &["at", "segments"])?;
    let bucket = g.add("bucket", ops::GridBucket { rows: 5, cols: 7 }, &[at[0], grid, at[1]])?;
    let table = g.weight("table", vec![35, 12]);
    let x = g.add("positions", ops::Embed { table, writes: Some(Stream::Vision) }, &[bucket])?;
    let table = g.weight("class", vec![1, 12]);
    let class = g.add("class", ops::ConstantRows { table, writes }, &[])?;
    let insert = ops::InsertRows { first: true, last: false, factor: 1, into: Sym::TowerRows };
    let with = g.add_multi("insert", insert, &[x, at[1], class], &["with", "numbers"])?;
    let (square, gain) = (g.weight("square", vec![12, 12]), g.weight("gain", vec![12]));
    let mut y = with[0];
    for i in 0..2 {
        let linear = ops::Linear { weight: square, bias: None, act: None, writes: None };
        let q = g.add(&format!("linear{i}"), linear, &[y])?;
        let attention = ops::SegmentAttention { heads: 3, head_dim: 4 };
        let mixed = g.add(&format!("mix{i}"), attention, &[q, q, q, with[1]])?;
        let scaled = g.add(&format!("scale{i}"), ops::Scale { gain, writes }, &[mixed])?;
        y = g.add(&format!("sum{i}"), ops::Add, &[y, scaled])?;
    }
    let kept = g.add("drop", ops::DropFirstRows { into: Sym::Patches }, &[y, with[1]])?;
    let merged = g.add("merge", ops::MergeRows { factor: 4, into: Sym::MergedRows }, &[kept])?;
    let merged = g.add("divide", ops::DivideBy { by: 2.0 }, &[merged])?;
    let table = g.weight("ends", vec![1, 48]);
    let ends = g.add(
        "ends",
        ops::ConstantRows { table, writes: Some(Basis { stream: Stream::Vision, copies: 4 }) },
        &[],
    )?;
    let insert = ops::InsertRows { first: true, last: true, factor: 4, into: Sym::ImageTokens };
    let around =
        g.add_multi("around", insert, &[merged, at[1], ends, ends], &["image_features", "of_rows"])?;
    let queries = g.weight("queries", vec![5, 12]);
    let queries = g.add("queries", ops::ConstantRows { table: queries, writes: None }, &[])?;
    let tanh = g.add("tanh", ops::Activate { kind: Activation::GeluTanh }, &[rows])?;
    let cross = ops::CrossAttention { heads: 3, head_dim: 4, into: Sym::ImageTokens };
    let sampled = g.add("sampled", cross, &[queries, tanh, rows, at[1]])?;
    let mixed = g.add("mixed", ops::Hadamard { left: 1, right: 4 }, &[rows])?;
    let mixed = g.add("mixed_too", ops::Hadamard { left: 2, right: 2 }, &[mixed])?;
    let taken = g.add("taken", ops::TakeChannel { channel: 11 }, &[mixed])?;
    let joined = g.add("joined", ops::Join, &[sampled, sampled, sampled])?;
    [around[0], around[1], joined, taken].into_iter().for_each(|v| g.output(v));
    Ok(())
}

fn decoder_ops(g: &mut GraphBuilder<'_>, codes: [WeightId; 2]) -> Result<(), OpError> {
    let (batch, sequence) = (Dim::Sym(Sym::Batch), Dim::Sym(Sym::Sequence));
    let q = g.input("q", DType::Float, vec![batch, sequence, Dim::Fixed(24)]);
    let mask = g.input("attention_mask", DType::Int, vec![batch, Dim::Sym(Sym::Total)]);
    let positions = g.input("position_ids", DType::Int, vec![batch, sequence]);
    let length = g.add("length", ops::Length, &[mask])?;
    let scalings = [
        None,
        Some(ops::RopeScaling::Dynamic { theta: 1e4, dim: 6, factor: 2.0, max_positions: 64 }),
        Some(ops::RopeScaling::DynamicPowers { theta: 1e4, dim: 6, train_length: 64 }),
    ];
    for (i, scaling) in scalings.into_iter().enumerate() {
        let table = ops::RotaryTable { inv_freq: vec![1.0, 0.1, 0.01], axis: vec![0; 3], scaling };
        let operands: Vec<ValueId> = [positions].into_iter().chain(scaling.map(|_| length)).collect();
        let (cos, sin) = (format!("cos{i}"), format!("sin{i}"));
        let angles = g.add_multi(&format!("table{i}"), table, &operands, &[&cos, &sin])?;
        for layout in [RotaryLayout::Half, RotaryLayout::Interleaved] {
            let rotary = ops::Rotary { heads: 3, head_dim: 8, rotary_dim: 6, layout };
            let turned = g.add(&format!("turned{i}_{layout:?}"), rotary, &[q, angles[0], angles[1]])?;
            let scale = ops::ScaleByPosition { train_length: 64 };
            let scaled = g.add(&format!("scaled{i}_{layout:?}"), scale, &[turned, positions])?;
            g.output(scaled);
        }
    }
    rows_by_modality(g, q, codes)
}

/// Linears with two scales, with and without bias, of rows in the order by modality.
fn rows_by_modality(g: &mut GraphBuilder<'_>, q: ValueId, codes: [WeightId; 2]) -> Result<(), OpError> {
    let modality =
        g.input("modality", DType::Float, vec![Dim::Sym(Sym::Batch), Dim::Sym(Sym::Sequence), Dim::Fixed(1)]);
    let order = g.add_multi("order", ops::OrderByModality, &[modality], &["order", "places"])?;
    let x = g.add("q_ordered", ops::TakeRows, &[q, order[0]])?;
    let modality = g.add("modality_ordered", ops::TakeRows, &[modality, order[0]])?;
    for (i, weight) in codes.into_iter().enumerate() {
        let bias = (i == 0).then(|| g.weight("bias", vec![5]));
        let act = Some(Rounding::Static(ActScales { visual: 0.5, text: 0.25 }));
        let linear = ops::Linear { weight, bias, act, writes: None };
        let y = g.add(&format!("split{i}"), linear, &[x, modality])?;
        let back = g.add(&format!("back{i}"), ops::TakeRows, &[y, order[1]])?;
        g.output(back);
    }
    Ok(())
}

/// The three graphs as written.
fn written(model: &Model, ops: OpSet) -> Vec<GraphProto> {
    written_as(model, OnnxOptions { msq: MsqForm::Split, ..OnnxOptions::new(ops) })
}

fn written_as(model: &Model, options: OnnxOptions) -> Vec<GraphProto> {
    let dir = tempfile::tempdir().unwrap();
    write(model, &Zeros(model), dir.path(), &options, &mut |_, _, _| ()).unwrap();
    let read = |part| std::fs::read(dir.path().join(file_name(part))).unwrap();
    Part::ALL.iter().map(|&p| ModelProto::decode(read(p).as_slice()).unwrap().graph.unwrap()).collect()
}

/// The nodes of a graph by the values they yield.
fn makers(graph: &GraphProto) -> HashMap<&str, &NodeProto> {
    graph.node.iter().flat_map(|n| n.output.iter().map(move |o| (o.as_str(), n))).collect()
}

fn every_form() -> Vec<(OpSet, Model, GraphProto)> {
    let models = [model(8), model(6), quantized(8).0, quantized(6).0, other_ops()];
    let pairs = models.iter().flat_map(|m| [(OpSet::Ort, m), (OpSet::Standard, m)]);
    pairs.flat_map(|(ops, m)| written(m, ops).into_iter().map(move |g| (ops, m.clone(), g))).collect()
}

/// The forms of weights below 8 bits, in blocks that do not divide the rows and without blocks.
fn few_bits() -> Vec<(OpSet, Model, GraphProto)> {
    let mut all = vec![];
    for block in [Some(16), None] {
        let (model, _) = on_grid(8, Grid { bits: 4, block });
        let forms = [None, Some(Form::Int8Gemm), Some(Form::MatMulNBits), Some(Form::Portable)];
        for (form, ops) in forms.into_iter().flat_map(|f| [(f, OpSet::Ort), (f, OpSet::Standard)]) {
            let store = (form == Some(Form::Int8Gemm)).then_some(Store::Int4);
            let options = OnnxOptions { form, store, ..OnnxOptions::new(ops) };
            if options.valid().is_ok() {
                all.extend(written_as(&model, options).into_iter().map(|g| (ops, model.clone(), g)));
            }
        }
    }
    all
}

#[test]
fn names_are_unique_and_values_are_written_before_they_are_read() {
    for (_, model, graph) in every_form().into_iter().chain(few_bits()) {
        let source = model.graphs.iter().find(|g| g.part.name() == graph.name()).unwrap();
        let mut nodes = HashSet::new();
        let mut values: HashSet<&str> = graph.input.iter().map(|v| v.name()).collect();
        for t in &graph.initializer {
            assert!(values.insert(t.name()), "{}", t.name());
        }
        for n in &graph.node {
            assert!(nodes.insert(n.name()), "{}", n.name());
            let unwritten = n.input.iter().find(|v| !v.is_empty() && !values.contains(v.as_str()));
            assert_eq!(unwritten, None, "{}", n.name());
            for v in &n.output {
                assert!(values.insert(v), "{v}");
            }
        }
        // Values and nodes of the IR keep their names.
        assert!(source.values.iter().all(|v| values.contains(v.name.as_str())));
        assert!(source.nodes.iter().all(|n| nodes.contains(n.name.as_str())));
        assert!(graph.output.iter().all(|v| values.contains(v.name())));
    }
}

#[test]
fn the_standard_set_has_no_foreign_operator() {
    for (ops, _, graph) in every_form().into_iter().chain(few_bits()) {
        let foreign = graph.node.iter().find(|n| !n.domain().is_empty());
        assert!(ops == OpSet::Ort || foreign.is_none(), "{foreign:?}");
    }
}

#[test]
fn every_quantized_linear_is_one_integer_product_or_one_pair_of_its_own() {
    for head_dim in [6, 8] {
        let (model, count) = quantized(head_dim);
        let graphs = written(&model, OpSet::Ort);
        let ops = graphs.iter().flat_map(|g| &g.node).map(|n| n.op_type());
        assert_eq!(ops.filter(|op| *op == "MatMulIntegerToFloat").count(), count);
        let graphs = written(&model, OpSet::Standard);
        let pairs = graphs.iter().flat_map(|g| &g.node).filter(|n| n.op_type() == "QuantizeLinear");
        let zeros: Vec<(&str, &str)> = pairs.map(|n| (n.input[1].as_str(), n.input[2].as_str())).collect();
        assert_eq!(zeros.len(), count);
        for (scale, zero) in zeros {
            let readers = |v: &str| {
                let reads = |n: &&NodeProto| n.input.iter().any(|i| i == v);
                graphs.iter().flat_map(|g| &g.node).filter(reads).count()
            };
            assert_eq!((readers(scale), readers(zero)), (2, 2), "{scale}, {zero}");
        }
    }
}

#[test]
fn rows_by_modality_are_two_products_of_pieces_cut_once() {
    for ops in [OpSet::Ort, OpSet::Standard] {
        let decoder = written(&other_ops(), ops).remove(2);
        let count = |op: &str| decoder.node.iter().filter(|n| n.op_type() == op).count();
        let cuts = |g: &GraphProto| g.node.iter().filter(|n| n.name().ends_with("/pieces/Split")).count();
        let products = if ops == OpSet::Ort { "MatMulIntegerToFloat" } else { "MatMul" };
        assert_eq!((cuts(&decoder), count(products)), (1, 4));
        // Codes are shared by products of one piece where that fuses.
        assert_eq!(count("QuantizeLinear"), if ops == OpSet::Ort { 2 } else { 4 });
        // By row scale there is one product each, whatever order the rows are in.
        let dir = tempfile::tempdir().unwrap();
        let model = other_ops();
        let options = OnnxOptions::new(ops);
        write(&model, &Zeros(&model), dir.path(), &options, &mut |_, _, _| ()).unwrap();
        let bytes = std::fs::read(dir.path().join(file_name(Part::Decoder))).unwrap();
        let decoder = ModelProto::decode(bytes.as_slice()).unwrap().graph.unwrap();
        let count = |op: &str| decoder.node.iter().filter(|n| n.op_type() == op).count();
        assert_eq!((cuts(&decoder), count(products)), (0, 2));
    }
}

#[test]
fn no_spelling_that_onnx_runtime_miscompiles() {
    for (_, _, graph) in every_form() {
        let makers = makers(&graph);
        let made_by = |v: &String| makers.get(v.as_str()).copied();
        for n in graph.node.iter().filter(|n| n.op_type() == "MatMul") {
            // Its optimiser crashes on this chain.
            let cast = n.input.iter().filter_map(made_by).find(|n| n.op_type() == "Cast");
            let turned = cast.and_then(|c| made_by(&c.input[0])).map(NodeProto::op_type);
            assert_ne!(turned, Some("Transpose"), "{}", n.name());
            // It would round the rows of a weight-only product.
            let ops: Vec<&str> = n.input.iter().filter_map(made_by).map(NodeProto::op_type).collect();
            assert!(
                ops != ["DequantizeLinear"]
                    && (ops.len() < 2 || ops[1] != "DequantizeLinear" || ops[0] == ops[1])
            );
        }
    }
}

#[test]
fn every_op_of_the_ir_is_in_the_graphs_judged_here() {
    let models = [model(8), other_ops()];
    let graphs = models.iter().flat_map(|m| &m.graphs);
    let mut found: HashSet<&str> = graphs.flat_map(|g| &g.nodes).map(|n| n.op.name()).collect();
    // Only the modality pass makes these.
    found.extend(["Split", "AppendChannel"]);
    let missing: Vec<_> = Op::NAMES.iter().filter(|n| !found.contains(*n)).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

#[test]
fn no_node_and_no_weight_of_other_ops_is_dead() {
    for ops in [OpSet::Ort, OpSet::Standard] {
        for graph in written(&other_ops(), ops) {
            let outputs = graph.output.iter().map(|v| v.name());
            let bodies = graph.node.iter().flat_map(|n| &n.attribute).filter_map(|a| a.g.as_ref());
            let inner = bodies.flat_map(|b| &b.node).chain(&graph.node).flat_map(|n| &n.input);
            let read: HashSet<&str> = inner.map(String::as_str).chain(outputs).collect();
            // The bounds of segments are one piece, of which some readers need a part.
            let judged = graph.node.iter().filter(|n| !n.name().contains("/bounds/"));
            let dead = judged.into_iter().find(|n| n.output.iter().all(|o| !read.contains(o.as_str())));
            assert_eq!(dead.map(NodeProto::name), None, "{}", graph.name());
            let unread = graph.initializer.iter().find(|t| !read.contains(t.name()));
            assert_eq!(unread.map(TensorProto::name), None, "{}", graph.name());
        }
    }
}
