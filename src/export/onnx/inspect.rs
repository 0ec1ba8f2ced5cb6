//! Reads an ONNX file back for people: signature, operators, integer products, bytes by type. Hardened: sizes are capped and checked, external
//! data is looked for beside the file only. Numbers are not read and nothing is run.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use prost::Message;
use serde::Serialize;

use super::error::OnnxError;
use super::proto::tensor_proto::{DataLocation, DataType};
use super::proto::tensor_shape_proto::dimension;
use super::proto::{GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, type_proto};

/// Largest `.onnx` file read: protobuf's own limit.
const MAX_FILE: u64 = i32::MAX as u64;

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
    let read = |source| OnnxError::Read { path: path.to_path_buf(), source };
    let size = std::fs::metadata(path).map_err(read)?.len();
    if size > MAX_FILE {
        return Err(damaged(path, format!("has {size} bytes, a protobuf message holds at most {MAX_FILE}")));
    }
    let bytes = std::fs::read(path).map_err(read)?;
    let model =
        ModelProto::decode(bytes.as_slice()).map_err(|e| damaged(path, format!("is no ONNX model: {e}")))?;
    let Some(graph) = &model.graph else {
        return Err(damaged(path, "is no ONNX model: it has no graph".into()));
    };
    let mut summary = OnnxSummary { ir_version: model.ir_version(), ..OnnxSummary::default() };
    for set in &model.opset_import {
        let domain = if set.domain().is_empty() { "ai.onnx" } else { set.domain() };
        summary.opsets.insert(domain.to_string(), set.version());
    }
    summary.inputs = graph.input.iter().map(signature).collect();
    summary.outputs = graph.output.iter().map(signature).collect();
    count_nodes(graph, &mut summary);
    for tensor in &graph.initializer {
        let bytes = tensor_bytes(path, tensor)?;
        *summary.bytes.entry(type_name(tensor.data_type())).or_default() += bytes;
    }
    Ok(summary)
}

fn damaged(path: &Path, reason: String) -> OnnxError {
    OnnxError::Damaged { path: path.to_path_buf(), reason }
}

fn type_name(code: i32) -> String {
    DataType::try_from(code).map_or_else(|_| format!("type {code}"), |t| t.as_str_name().to_lowercase())
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

/// Bytes of a tensor's numbers; external ones must lie inside a file beside the model.
fn tensor_bytes(path: &Path, tensor: &TensorProto) -> Result<u64, OnnxError> {
    if tensor.data_location() != DataLocation::External {
        return Ok(tensor.raw_data().len() as u64);
    }
    let entry = |key: &str| tensor.external_data.iter().find(|e| e.key() == key).map(|e| e.value());
    let bad = |reason: String| damaged(path, format!("tensor {}: {reason}", tensor.name()));
    let number = |key: &str| -> Result<u64, OnnxError> {
        let text = entry(key).ok_or_else(|| bad(format!("external data has no {key}")))?;
        text.parse().map_err(|_| bad(format!("external {key} {text:?} is no number")))
    };
    let location = entry("location").ok_or_else(|| bad("external data has no location".into()))?;
    let plain = Path::new(location).components().count() == 1 && Path::new(location).file_name().is_some();
    if !plain || location.contains(['/', '\\']) {
        return Err(bad(format!("external location {location:?} is not a plain file name")));
    }
    let (offset, length) = (number("offset")?, number("length")?);
    let file = path.with_file_name(location);
    let size =
        std::fs::metadata(&file).map_err(|source| OnnxError::Read { path: file.clone(), source })?.len();
    match offset.checked_add(length) {
        Some(end) if end <= size => Ok(length),
        _ => Err(bad(format!("{length} bytes at {offset} do not lie inside {location} of {size} bytes"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::export::onnx::proto::StringStringEntryProto;

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
