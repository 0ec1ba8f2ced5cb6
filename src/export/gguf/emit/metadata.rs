//! The metadata of a file: `general.*` by the file's provenance, the plan's keys, the tokenizer's, and the caller's. Key names are those of
//! llama.cpp's `gguf-py/gguf/constants.py`.

use std::collections::BTreeSet;

use super::{EmitError, FileKind, Options};
use crate::export::gguf::name::size_label;
use crate::export::gguf::{Array, Metadata, TensorInfo, Value};
use crate::family::inputs::gguf::{GgufFile, KeyValue};

/// Version of the block layouts (`GGML_QNT_VERSION`).
const QUANTIZATION_VERSION: u32 = 2;

/// All keys of a file, in its order.
pub(super) fn metadata(
    plan: &GgufFile,
    kind: FileKind,
    options: &Options<'_>,
    tensors: &[TensorInfo],
) -> Result<Metadata, EmitError> {
    let mut all = general(plan, kind, options, tensors);
    all.extend(plan.keys.iter().map(|(key, value)| (key.clone(), of_plan(value))));
    let planned: BTreeSet<&str> = plan.keys.iter().map(|(key, _)| key.as_str()).collect();
    let rest = options.vocabulary.iter().filter(|(key, _)| !planned.contains(key.as_str()));
    all.extend(rest.map(|(key, value)| (key.clone(), of_plan(value))));
    all.extend(options.extra.iter().cloned());
    let mut seen = BTreeSet::new();
    match all.iter().find(|(key, _)| !seen.insert(key.as_str())) {
        Some((key, _)) => Err(EmitError::Key { key: key.clone() }),
        None => Ok(all),
    }
}

fn general(plan: &GgufFile, kind: FileKind, options: &Options<'_>, tensors: &[TensorInfo]) -> Metadata {
    let p = options.provenance;
    let mut all: Metadata = vec![];
    let mut push = |key: &str, value: Value| all.push((format!("general.{key}"), value));
    let text = |s: &str| Value::String(s.to_string());
    push("architecture", text(&plan.architecture));
    push("type", text(kind.name()));
    push("name", text(&p.name));
    let words = [
        ("basename", &p.basename),
        ("organization", &p.organization),
        ("license", &p.license),
        ("license.name", &p.license_name),
        ("license.link", &p.license_link),
    ];
    for (key, word) in words {
        if let Some(word) = word {
            push(key, text(word));
        }
    }
    let parameters = tensors.iter().map(|t| t.dims.iter().product::<u64>()).sum();
    push("size_label", Value::String(size_label(parameters)));
    push("quantized_by", text(concat!("mquant-export ", env!("CARGO_PKG_VERSION"))));
    push("file_type", Value::U32(options.file_type));
    push("quantization_version", Value::U32(QUANTIZATION_VERSION));
    if !p.base_models.is_empty() {
        push("base_model.count", Value::U32(p.base_models.len() as u32));
    }
    for (i, base) in p.base_models.iter().enumerate() {
        let url = format!("https://huggingface.co/{}/{}", base.organization, base.name);
        push(&format!("base_model.{i}.name"), text(&base.name));
        push(&format!("base_model.{i}.organization"), text(&base.organization));
        push(&format!("base_model.{i}.repo_url"), Value::String(url));
    }
    for (key, list) in [("tags", &p.tags), ("languages", &p.languages)] {
        if !list.is_empty() {
            push(key, Value::Array(Array::String(list.clone())));
        }
    }
    if kind == FileKind::Text {
        all.extend(p.sampling.iter().map(|(key, value)| (key.clone(), of_plan(value))));
    }
    all
}

fn of_plan(value: &KeyValue) -> Value {
    match value {
        KeyValue::U32(x) => Value::U32(*x),
        KeyValue::I32(x) => Value::I32(*x),
        KeyValue::F32(x) => Value::F32(*x),
        KeyValue::Bool(x) => Value::Bool(*x),
        KeyValue::Text(x) => Value::String(x.clone()),
        KeyValue::F32s(x) => Value::Array(Array::F32(x.clone())),
        KeyValue::I32s(x) => Value::Array(Array::I32(x.clone())),
        KeyValue::Texts(x) => Value::Array(Array::String(x.clone())),
    }
}
