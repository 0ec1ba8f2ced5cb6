//! Reads an ONNX file back for people: signature, operators, integer products, bytes by type. Numbers are not read and nothing is run.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde::Serialize;

use super::error::OnnxError;
use super::proto::tensor_proto::DataType;
use super::proto::tensor_shape_proto::dimension;
use super::proto::{GraphProto, NodeProto, TensorProto, ValueInfoProto, type_proto};
use super::read::{self, type_name};

/// What an ONNX file is made of.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct OnnxSummary {
    /// Version of the ONNX format.
    pub ir_version: i64,
    /// Operator sets by domain; the standard one is `ai.onnx`.
    pub opsets: BTreeMap<String, i64>,
    /// Inputs as `name: type[axes]`.
    pub inputs: Vec<String>,
    /// Outputs as `name: type[axes]`.
    pub outputs: Vec<String>,
    /// Nodes by operator, those of loop bodies included.
    pub operators: BTreeMap<String, usize>,
    /// Matrix products of float operands, weights that become floats at load included.
    pub float_products: usize,
    /// Products that are integer kernels as written.
    pub integer_products: usize,
    /// Products between Q/DQ pairs, which ONNX Runtime fuses to integer kernels when it loads the file.
    pub qdq_products: usize,
    /// Products of MatMulNBits: float inputs, which the kernel rounds by itself, and weights that keep few bits.
    pub nbits_products: usize,
    /// Products of float inputs with weights from DequantizeLinear.
    pub dequantized_products: usize,
    /// Weights of 4 bits that the runtime makes int8 when it loads the file.
    pub folded_weights: usize,
    /// Initializer bytes by element type.
    pub bytes: BTreeMap<String, u64>,
}

/// Summarises the file at `path`.
///
/// # Errors
/// [`OnnxError`] when it cannot be read, is no ONNX model, or its external data is absent, too short or outside its folder.
pub fn inspect(path: &Path) -> Result<OnnxSummary, OnnxError> {
    let (model, mut graph) = read::model(path)?;
    let mut summary = OnnxSummary { ir_version: model.ir_version(), ..OnnxSummary::default() };
    for set in &model.opset_import {
        let domain = if set.domain().is_empty() { "ai.onnx" } else { set.domain() };
        summary.opsets.insert(domain.to_string(), set.version());
    }
    summary.inputs = graph.input.iter().map(signature).collect();
    summary.outputs = graph.output.iter().map(signature).collect();
    count_nodes(&graph, &mut summary);
    for tensor in &mut graph.initializer {
        let bytes = read::place(path, tensor)?.length();
        *summary.bytes.entry(type_name(tensor.data_type())).or_default() += bytes;
    }
    Ok(summary)
}

fn signature(info: &ValueInfoProto) -> String {
    let Some(type_proto::Value::TensorType(t)) = info.r#type.as_ref().and_then(|t| t.value.as_ref()) else {
        return info.name().to_string();
    };
    let dims = t.shape.iter().flat_map(|s| &s.dim).map(|d| match &d.value {
        Some(dimension::Value::DimValue(n)) => n.to_string(),
        Some(dimension::Value::DimParam(name)) => name.clone(),
        None => "?".into(),
    });
    format!("{}: {}[{}]", info.name(), type_name(t.elem_type()), dims.collect::<Vec<_>>().join(", "))
}

fn count_nodes(graph: &GraphProto, summary: &mut OnnxSummary) {
    let makers: BTreeMap<&str, &NodeProto> =
        graph.node.iter().flat_map(|n| n.output.iter().map(move |o| (o.as_str(), n))).collect();
    let maker_is = |name: Option<&String>, op: &str| {
        name.and_then(|n| makers.get(n.as_str())).filter(|n| n.op_type() == op).copied()
    };
    let is_int4 = |t: &&TensorProto| t.data_type() == DataType::Int4 as i32;
    let int4: BTreeSet<&str> = graph.initializer.iter().filter(is_int4).map(|t| t.name()).collect();
    for node in &graph.node {
        *summary.operators.entry(node.op_type().to_string()).or_default() += 1;
        match node.op_type() {
            "MatMulIntegerToFloat" => summary.integer_products += 1,
            "MatMulNBits" => summary.nbits_products += 1,
            "Cast" if node.input.first().is_some_and(|x| int4.contains(x.as_str())) => {
                summary.folded_weights += 1;
            }
            "MatMul" => {
                let rounded = maker_is(node.input.first(), "DequantizeLinear")
                    .is_some_and(|dq| maker_is(dq.input.first(), "QuantizeLinear").is_some());
                let weight = maker_is(node.input.get(1), "DequantizeLinear").is_some();
                *match (rounded, weight) {
                    (true, true) => &mut summary.qdq_products,
                    (false, true) => &mut summary.dequantized_products,
                    (_, false) => &mut summary.float_products,
                } += 1;
            }
            _ => {}
        }
        for body in node.attribute.iter().filter_map(|a| a.g.as_ref()) {
            count_nodes(body, summary);
        }
    }
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;
    use crate::export::onnx::proto::tensor_proto::DataLocation;
    use crate::export::onnx::proto::{ModelProto, StringStringEntryProto};

    fn write(dir: &Path, entries: &[(&str, &str)]) -> std::path::PathBuf {
        let external_data = entries
            .iter()
            .map(|(k, v)| StringStringEntryProto { key: Some(k.to_string()), value: Some(v.to_string()) })
            .collect();
        let mut tensor = TensorProto { name: Some("w".into()), external_data, ..TensorProto::default() };
        tensor.set_data_location(DataLocation::External);
        let graph = GraphProto { initializer: vec![tensor], ..GraphProto::default() };
        let model = ModelProto { graph: Some(graph), ..ModelProto::default() };
        let path = dir.join("m.onnx");
        std::fs::write(&path, model.encode_to_vec()).unwrap();
        std::fs::write(dir.join("m.onnx.data"), [0; 100]).unwrap();
        path
    }

    #[test]
    fn external_data_must_lie_beside_the_file_and_inside_its_data() {
        let dir = tempfile::tempdir().unwrap();
        let good = [("location", "m.onnx.data"), ("offset", "60"), ("length", "40")];
        assert!(inspect(&write(dir.path(), &good)).is_ok());
        for (at, bad, word) in [
            (0, "../m.onnx.data", "plain"),
            (0, "/etc/passwd", "plain"),
            (0, "..", "plain"),
            (1, "61", "inside"),
            (1, "18446744073709551615", "inside"),
            (2, "-1", "number"),
        ] {
            let mut entries = good;
            entries[at].1 = bad;
            let e = inspect(&write(dir.path(), &entries)).unwrap_err().to_string();
            assert!(e.contains(word) && e.contains("w"), "{e}");
        }
    }

    #[test]
    fn what_is_no_model_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.onnx");
        for bytes in [&b"\xff\xff\xff\xff"[..], b""] {
            std::fs::write(&path, bytes).unwrap();
            assert!(inspect(&path).unwrap_err().to_string().contains("no ONNX model"));
        }
    }
}
