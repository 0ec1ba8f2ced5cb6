//! The `.onnx` file around a lowered graph: signature, operator sets, metadata. Nothing in it depends on time, path or machine.

use std::io::Write;
use std::path::Path;

use prost::Message;

use super::call::MICROSOFT;
use super::error::OnnxError;
use super::proto::tensor_proto::DataType;
use super::proto::tensor_shape_proto::{Dimension, dimension};
use super::proto::{
    GraphProto, ModelProto, NodeProto, OperatorSetIdProto, StringStringEntryProto, TensorProto,
    TensorShapeProto, TypeProto, ValueInfoProto, type_proto,
};
use super::signature::{ElementType, Extent, TensorSignature, signature};
use super::{OnnxOptions, OpSet};
use crate::graph::{Graph, Model};

/// Version of the ONNX format: the one opset 21 came with.
const IR_VERSION: i64 = 10;
/// Version of the standard operators.
const OPSET: i64 = 21;
/// Version of ONNX Runtime's own operators.
const MICROSOFT_OPSET: i64 = 1;
/// Largest protobuf message (2 GiB less one byte).
const MESSAGE_LIMIT: usize = i32::MAX as usize;

/// The whole message of one graph.
pub fn model_proto(
    model: &Model,
    graph: &Graph,
    options: &OnnxOptions,
    node: Vec<NodeProto>,
    initializer: Vec<TensorProto>,
) -> ModelProto {
    let signature = signature(model, graph, options);
    let body = GraphProto {
        name: Some(graph.part.name().to_string()),
        node,
        initializer,
        input: signature.inputs.iter().map(value_info).collect(),
        output: signature.outputs.iter().map(value_info).collect(),
        ..GraphProto::default()
    };
    let set = |domain: &str, version| OperatorSetIdProto {
        domain: Some(domain.to_string()),
        version: Some(version),
    };
    let mut opset_import = vec![set("", OPSET)];
    if options.ops == OpSet::Ort {
        opset_import.push(set(MICROSOFT, MICROSOFT_OPSET));
    }
    let entry = |key: &str, value: &str| StringStringEntryProto {
        key: Some(key.to_string()),
        value: Some(value.to_string()),
    };
    ModelProto {
        ir_version: Some(IR_VERSION),
        opset_import,
        producer_name: Some(env!("CARGO_PKG_NAME").to_string()),
        producer_version: Some(env!("CARGO_PKG_VERSION").to_string()),
        doc_string: Some(format!("{} graph of a multimodal language model", graph.part.name())),
        graph: Some(body),
        metadata_props: vec![
            entry("mquant.graph", graph.part.name()),
            entry("mquant.ops", options.ops.name()),
        ],
        ..ModelProto::default()
    }
}

fn value_info(tensor: &TensorSignature) -> ValueInfoProto {
    let extent = |e: &Extent| match e {
        Extent::Fixed(n) => dimension::Value::DimValue(*n as i64),
        Extent::Named(name) => dimension::Value::DimParam(name.clone()),
    };
    let dim = tensor.shape.iter().map(|e| Dimension { value: Some(extent(e)), ..Dimension::default() });
    let elem = match tensor.dtype {
        ElementType::Float32 => DataType::Float,
        ElementType::Int64 => DataType::Int64,
    };
    let shape = Some(TensorShapeProto { dim: dim.collect() });
    let value =
        Some(type_proto::Value::TensorType(type_proto::Tensor { elem_type: Some(elem as i32), shape }));
    let r#type = Some(TypeProto { value, ..TypeProto::default() });
    ValueInfoProto { name: Some(tensor.name.clone()), r#type, ..ValueInfoProto::default() }
}

/// Encodes and writes a message.
///
/// # Errors
/// [`OnnxError::TooLarge`] beyond protobuf's limit, [`OnnxError::Io`] when the file cannot be written.
pub fn write(path: &Path, message: &ModelProto) -> Result<(), OnnxError> {
    let bytes = message.encode_to_vec();
    if bytes.len() > MESSAGE_LIMIT {
        return Err(OnnxError::TooLarge {
            path: path.to_path_buf(),
            bytes: bytes.len(),
            limit: MESSAGE_LIMIT,
        });
    }
    write_bytes(path, &bytes)
}

/// Writes a whole small file and flushes it to disk.
///
/// # Errors
/// [`OnnxError::Io`] naming the file.
pub fn write_bytes(path: &Path, bytes: &[u8]) -> Result<(), OnnxError> {
    let io = |source| OnnxError::Io { path: path.to_path_buf(), source };
    let mut file = std::fs::File::create(path).map_err(io)?;
    file.write_all(bytes).map_err(io)?;
    file.sync_all().map_err(io)
}
