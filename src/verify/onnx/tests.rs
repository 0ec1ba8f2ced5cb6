//! Files made for the tests: what runs, what is freed and replaced, and what is refused by name.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use prost::Message;

use super::*;
use crate::export::onnx::proto::attribute_proto::AttributeType;
use crate::export::onnx::proto::tensor_proto::DataType;
use crate::export::onnx::proto::{
    AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorProto, TensorShapeProto,
    TypeProto, ValueInfoProto, tensor_shape_proto, type_proto,
};

/// Damage to a part of a file.
type Change<'a, T> = &'a dyn Fn(&mut T);

fn node(op: &str, inputs: &[&str], output: &str) -> NodeProto {
    NodeProto {
        name: Some(format!("node of {output}")),
        op_type: Some(op.into()),
        input: inputs.iter().map(ToString::to_string).collect(),
        output: vec![output.into()],
        ..NodeProto::default()
    }
}

fn with(mut node: NodeProto, name: &str, set: impl FnOnce(&mut AttributeProto)) -> NodeProto {
    let mut attribute = AttributeProto { name: Some(name.into()), ..AttributeProto::default() };
    set(&mut attribute);
    node.attribute.push(attribute);
    node
}

fn floats(name: &str, dims: &[i64], data: &[f32]) -> TensorProto {
    TensorProto {
        name: Some(name.into()),
        data_type: Some(DataType::Float as i32),
        dims: dims.to_vec(),
        raw_data: Some(data.iter().flat_map(|x| x.to_le_bytes()).collect()),
        ..TensorProto::default()
    }
}

/// A float input of `n` elements, or of any number.
fn input(name: &str, n: Option<i64>) -> ValueInfoProto {
    use tensor_shape_proto::{Dimension, dimension};
    let value = n.map_or(dimension::Value::DimParam("rows".into()), dimension::Value::DimValue);
    let shape = TensorShapeProto { dim: vec![Dimension { value: Some(value), ..Dimension::default() }] };
    let tensor = type_proto::Tensor { elem_type: Some(DataType::Float as i32), shape: Some(shape) };
    let value = Some(type_proto::Value::TensorType(tensor));
    let r#type = Some(TypeProto { value, ..TypeProto::default() });
    ValueInfoProto { name: Some(name.into()), r#type, ..ValueInfoProto::default() }
}

/// `y = (x + w) * (x + w)`, where `w = v + v`.
fn graph() -> GraphProto {
    GraphProto {
        node: vec![
            node("Add", &["v", "v"], "w"),
            node("Add", &["x", "w"], "sum"),
            node("Mul", &["sum", "sum"], "y"),
            node("Sub", &["x", "z"], "other"),
        ],
        initializer: vec![floats("v", &[2], &[1.0, 2.0])],
        input: vec![input("x", None), input("z", None)],
        output: vec![input("y", None), input("other", None)],
        ..GraphProto::default()
    }
}

fn write(dir: &Path, graph: GraphProto) -> PathBuf {
    let set = OperatorSetIdProto { domain: Some(String::new()), version: Some(21) };
    write_model(dir, ModelProto { graph: Some(graph), opset_import: vec![set], ..ModelProto::default() })
}

fn write_model(dir: &Path, model: ModelProto) -> PathBuf {
    let path = dir.join("model.onnx");
    std::fs::write(&path, model.encode_to_vec()).unwrap();
    path
}

fn list(data: &[f32]) -> Value {
    Value::F32(Array::list(data.to_vec()))
}

fn given(pairs: &[(&str, Value)]) -> BTreeMap<String, Value> {
    pairs.iter().map(|(name, value)| (name.to_string(), value.clone())).collect()
}

#[test]
fn what_is_wanted_runs_and_is_seen_and_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let path = write(dir.path(), graph());
    for weights in [Weights::Keep, Weights::Stream] {
        let graph = OnnxGraph::open(&path, weights).unwrap();
        assert_eq!(graph.values().collect::<Vec<_>>(), ["w", "sum", "y", "other"]);
        let run = |wanted: &[&str], tap: &mut dyn Tap| {
            graph.run(given(&[("x", list(&[1.0, 1.0]))]), wanted, Rounding::Declared, tap)
        };
        // Twice: the second time weights are kept. `z` is not needed.
        for _ in 0..2 {
            let mut seen = vec![];
            let mut tap = |name: &str, _: &Value| {
                seen.push(name.to_string());
                None
            };
            let found = run(&["y", "sum"], &mut tap).unwrap();
            assert_eq!(found["y"], list(&[9.0, 25.0]));
            assert_eq!(found["sum"], list(&[3.0, 5.0]));
            assert_eq!(seen, ["sum", "y"]);
        }
        let mut other = |name: &str, _: &Value| (name == "sum").then(|| list(&[2.0, 3.0]));
        assert_eq!(run(&["y"], &mut other).unwrap()["y"], list(&[4.0, 9.0]));
        assert_eq!(run(&["w"], &mut ()).unwrap()["w"], list(&[2.0, 4.0]));
        let told = run(&["other"], &mut ()).unwrap_err().to_string();
        assert!(told.contains("model.onnx, input z") && told.contains("found none"), "{told}");
        let told = run(&["nothing"], &mut ()).unwrap_err().to_string();
        assert!(told.contains("value nothing"), "{told}");
    }
}

#[test]
fn inputs_that_do_not_fit_are_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let graph = OnnxGraph::open(&write(dir.path(), graph()), Weights::Stream).unwrap();
    let refused = |inputs: &[(&str, Value)]| {
        graph.run(given(inputs), &["other"], Rounding::Declared, &mut ()).unwrap_err().to_string()
    };
    let two = list(&[1.0, 2.0]);
    for (inputs, words) in [
        (&[("x", two.clone()), ("z", list(&[1.0]))][..], "rows = 2 as in other inputs, found float[1]"),
        (&[("x", two.clone()), ("z", Value::I64(Array::list(vec![1, 2])))], "float[rows], found int64[2]"),
        (&[("x", two.clone()), ("z", Value::F32(Array::scalar(1.0)))], "float[rows], found float[]"),
        (&[("x", two.clone()), ("z", two.clone()), ("q", two.clone())], "input q"),
    ] {
        let told = refused(inputs);
        assert!(told.contains("model.onnx, input ") && told.contains(words), "{told}");
    }
    let three = list(&[1.0, 2.0, 3.0]);
    let told =
        graph.run(given(&[("x", three)]), &["y"], Rounding::Declared, &mut ()).unwrap_err().to_string();
    assert!(told.contains("node node of sum (Add)") && told.contains("broadcast"), "{told}");
}

#[test]
fn files_that_cannot_be_run_are_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let refused = |change: &dyn Fn(&mut GraphProto)| {
        let mut graph = graph();
        change(&mut graph);
        OnnxGraph::open(&write(dir.path(), graph), Weights::Stream).unwrap_err().to_string()
    };
    let cases: [(Change<'_, GraphProto>, &[&str]); 8] = [
        (&|g| g.node[1].op_type = Some("Wibble".into()), &["node of sum", "Wibble", "not known"]),
        (&|g| g.node[1].domain = Some("com.microsoft".into()), &["com.microsoft.Add", "not known"]),
        (&|g| g.node[2].input[0] = "nowhere".into(), &["node of y", "nowhere"]),
        (&|g| g.node.swap(1, 2), &["node of y", "\"sum\""]),
        (&|g| g.node[2].output[0] = "sum".into(), &["node of y", "\"sum\"", "another value"]),
        (&|g| g.node[2].input.push("x".into()), &["node of y", "2 operands, found 3"]),
        (&|g| g.node[2] = with(g.node[2].clone(), "scale", |a| a.i = Some(1)), &["node of y", "scale"]),
        (&|g| g.output[0].name = Some("lost".into()), &["lost"]),
    ];
    for (change, words) in cases {
        let told = refused(change);
        assert!(told.contains("model.onnx") && words.iter().all(|w| told.contains(w)), "{told}");
    }
    let set = |version| OperatorSetIdProto { domain: None, version: Some(version) };
    let model = ModelProto { graph: Some(graph()), opset_import: vec![set(13)], ..ModelProto::default() };
    let told = OnnxGraph::open(&write_model(dir.path(), model), Weights::Stream).unwrap_err().to_string();
    assert!(told.contains("ai.onnx 21, found 13"), "{told}");
}

#[test]
fn tensors_that_are_not_what_they_say_are_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let refused = |change: &dyn Fn(&mut TensorProto)| {
        let mut graph = graph();
        change(&mut graph.initializer[0]);
        let opened = OnnxGraph::open(&write(dir.path(), graph), Weights::Stream);
        let ran = opened.and_then(|g| g.run(BTreeMap::new(), &["w"], Rounding::Declared, &mut ()));
        ran.unwrap_err().to_string()
    };
    let cases: [(Change<'_, TensorProto>, &str); 4] = [
        (&|t| t.dims = vec![-2], "not negative"),
        (&|t| t.dims = vec![3], "12 bytes of raw data"),
        (&|t| t.dims = vec![i64::MAX, 8], "at most"),
        (&|t| t.data_type = Some(DataType::Complex64 as i32), "complex64"),
    ];
    for (change, words) in cases {
        let told = refused(change);
        assert!(told.contains("model.onnx, tensor v") && told.contains(words), "{told}");
    }
}

/// `rows = x[0..1] + x[0..1]` as often as `count` says, joined.
fn looped(count: i64, body: &dyn Fn(&mut GraphProto)) -> GraphProto {
    let scalar = |name: &str| ValueInfoProto { name: Some(name.into()), ..ValueInfoProto::default() };
    let mut inner = GraphProto {
        node: vec![
            node("Add", &["x", "x"], "twice"),
            node("SequenceInsert", &["rows", "twice"], "grown"),
            node("Identity", &["condition"], "go_on"),
        ],
        input: ["number", "condition", "rows"].map(scalar).to_vec(),
        output: ["go_on", "grown"].map(scalar).to_vec(),
        ..GraphProto::default()
    };
    body(&mut inner);
    let steps = TensorProto {
        name: Some("count".into()),
        data_type: Some(DataType::Int64 as i32),
        raw_data: Some(count.to_le_bytes().to_vec()),
        ..TensorProto::default()
    };
    let repeat = with(node("Loop", &["count", "", "none"], "parts"), "body", |a| {
        a.set_type(AttributeType::Graph);
        a.g = Some(inner);
    });
    let join = with(node("ConcatFromSequence", &["parts"], "y"), "axis", |a| {
        a.set_type(AttributeType::Int);
        a.i = Some(0);
    });
    GraphProto {
        node: vec![node("SequenceEmpty", &[], "none"), repeat, join],
        initializer: vec![steps],
        input: vec![input("x", None)],
        output: vec![input("y", None)],
        ..GraphProto::default()
    }
}

#[test]
fn loops_carry_sequences_and_see_what_is_outside() {
    let dir = tempfile::tempdir().unwrap();
    let run = |graph: GraphProto| {
        let graph = OnnxGraph::open(&write(dir.path(), graph), Weights::Keep)?;
        graph.run(given(&[("x", list(&[1.0, 2.0]))]), &["y"], Rounding::Declared, &mut ())
    };
    assert_eq!(run(looped(2, &|_| ())).unwrap()["y"], list(&[2.0, 4.0, 2.0, 4.0]));
    let none = run(looped(0, &|_| ())).unwrap_err().to_string();
    assert!(none.contains("node of y (ConcatFromSequence)"), "{none}");
    let cases: [(Change<'_, GraphProto>, &str); 4] = [
        (&|g| g.node[0].op_type = Some("Wibble".into()), "node of twice (Wibble) in its body"),
        (&|g| g.node[0].input[0] = "nowhere".into(), "nowhere"),
        (&|g| g.node[0].input[0] = "rows".into(), "node of twice (Add) in its body: operand 0"),
        (&|g| drop(g.output.pop()), "a body with"),
    ];
    for (change, words) in cases {
        let told = run(looped(1, change)).unwrap_err().to_string();
        assert!(told.contains("node of parts (Loop)") && told.contains(words), "{told}");
    }
}
