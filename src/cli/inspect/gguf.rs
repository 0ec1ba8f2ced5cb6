//! A GGUF file, or all shards of one model: metadata, and tensors by type. Numbers of tensors are not read.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Serialize;

use crate::cli::SCHEMA_VERSION;
use crate::cli::format::{bytes, count, plural, property, table};
use crate::export::gguf::{Array, GgufError, GgufFile, Value};
use crate::numeric::ggml::BlockType;

/// Elements of an array and characters of a text that lines for people have.
const ELEMENTS: usize = 6;
const CHARACTERS: usize = 72;

/// A GGUF file as seen.
#[derive(Debug, Serialize)]
pub struct GgufSeen {
    schema_version: u32,
    kind: &'static str,
    /// Version of the format.
    version: u32,
    /// Bytes that tensors begin at a multiple of.
    alignment: u64,
    /// Names of the shards, or of the one file.
    files: Vec<String>,
    /// In the order of the file, in full.
    metadata: Vec<KeySeen>,
    types: Vec<TypeSeen>,
    /// In the order of the files.
    tensors: Vec<TensorSeen>,
}

#[derive(Debug, Serialize)]
struct KeySeen {
    key: String,
    #[serde(rename = "type")]
    kind: String,
    value: Value,
}

/// All tensors of one type.
#[derive(Debug, Serialize)]
struct TypeSeen {
    #[serde(rename = "type")]
    kind: &'static str,
    tensors: usize,
    values: u64,
    bytes: u64,
    /// Scales included.
    bits_per_weight: f64,
}

#[derive(Debug, Serialize)]
struct TensorSeen {
    name: String,
    #[serde(rename = "type")]
    kind: &'static str,
    /// The fastest running size first, as ggml counts.
    dims: Vec<u64>,
    bytes: u64,
    file: String,
    /// First byte in that file.
    offset: u64,
}

/// Looks at the file `path`, of a model in several the first.
///
/// # Errors
/// [`GgufError`] when a file cannot be read or is damaged.
pub fn inspect(path: &Path) -> Result<GgufSeen, GgufError> {
    let file = GgufFile::open(path)?;
    let name = |p: &Path| p.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let files: Vec<String> = file.paths().iter().map(|p| name(p)).collect();
    let metadata = file.metadata().iter().map(|(key, value)| KeySeen {
        key: key.clone(),
        kind: value.type_name(),
        value: value.clone(),
    });
    let tensors = file.tensors().iter().map(|t| TensorSeen {
        name: t.info.name.clone(),
        kind: t.info.kind.name(),
        dims: t.info.dims.clone(),
        bytes: t.bytes,
        file: files[t.shard].clone(),
        offset: t.offset,
    });
    Ok(GgufSeen {
        schema_version: SCHEMA_VERSION,
        kind: "gguf",
        version: file.version(),
        alignment: file.alignment(),
        metadata: metadata.collect(),
        types: types(&file),
        tensors: tensors.collect(),
        files,
    })
}

fn types(file: &GgufFile) -> Vec<TypeSeen> {
    let mut types: BTreeMap<BlockType, TypeSeen> = BTreeMap::new();
    for tensor in file.tensors() {
        let kind = tensor.info.kind;
        let none = || TypeSeen {
            kind: kind.name(),
            tensors: 0,
            values: 0,
            bytes: 0,
            bits_per_weight: kind.bits_per_weight(),
        };
        let seen = types.entry(kind).or_insert_with(none);
        seen.tensors += 1;
        seen.values += tensor.info.elements().unwrap_or_default();
        seen.bytes += tensor.bytes;
    }
    let mut types: Vec<TypeSeen> = types.into_values().collect();
    // Stable: types of equal size stay in the order of the enum.
    types.sort_by_key(|t| std::cmp::Reverse(t.bytes));
    types
}

impl GgufSeen {
    /// For people.
    pub fn lines(&self) -> Vec<String> {
        let total: u64 = self.types.iter().map(|t| t.bytes).sum();
        let values: u64 = self.types.iter().map(|t| t.values).sum();
        let bits = if values == 0 { 0.0 } else { 8.0 * total as f64 / values as f64 };
        let (files, tensors) = (self.files.len(), self.tensors.len());
        let text = |key: &str| match self.metadata.iter().find(|k| k.key == key).map(|k| &k.value) {
            Some(Value::String(text)) => shortened(text),
            _ => "not given".to_string(),
        };
        let mut lines = vec![
            property("format", format!("GGUF version {}, in {}", self.version, plural(files, "file"))),
            property("architecture", text("general.architecture")),
            property("name", text("general.name")),
            property("parameters", count(values)),
            property(
                "weights",
                format!("{} in {}, {bits:.2} bits per weight", bytes(total), plural(tensors, "tensor")),
            ),
        ];
        lines.extend([String::new(), "tensors by type".to_string()]);
        lines.extend(self.type_lines());
        lines.extend([String::new(), "metadata".to_string()]);
        let row = |k: &KeySeen| vec![shortened(&k.key), k.kind.clone(), shown(&k.value)];
        lines.extend(table(&self.metadata.iter().map(row).collect::<Vec<_>>(), &[]));
        lines
    }

    fn type_lines(&self) -> Vec<String> {
        let head = ["type", "tensors", "values", "size", "bits per weight"];
        let rows = self.types.iter().map(|t| {
            let bits = format!("{:.4}", t.bits_per_weight);
            let bits = bits.trim_end_matches('0').trim_end_matches('.').to_string();
            vec![t.kind.to_string(), count(t.tensors as u64), count(t.values), bytes(t.bytes), bits]
        });
        let rows: Vec<Vec<String>> = std::iter::once(head.map(String::from).to_vec()).chain(rows).collect();
        table(&rows, &[1, 2, 3, 4])
    }
}

/// A text of a file on one line: nothing in it reaches the terminal as a control sequence.
fn shortened(text: &str) -> String {
    let (mut shown, mut left) = (String::new(), text.chars());
    for c in left.by_ref().take(CHARACTERS) {
        if c.is_control() { shown.extend(c.escape_debug()) } else { shown.push(c) }
    }
    match left.count() {
        0 => shown,
        more => format!("{shown}… ({more} more characters)"),
    }
}

fn shown(value: &Value) -> String {
    match value {
        Value::U8(x) => x.to_string(),
        Value::I8(x) => x.to_string(),
        Value::U16(x) => x.to_string(),
        Value::I16(x) => x.to_string(),
        Value::U32(x) => x.to_string(),
        Value::I32(x) => x.to_string(),
        Value::F32(x) => format!("{x:?}"),
        Value::Bool(x) => x.to_string(),
        Value::String(x) => shortened(x),
        Value::Array(x) => shown_array(x),
        Value::U64(x) => x.to_string(),
        Value::I64(x) => x.to_string(),
        Value::F64(x) => format!("{x:?}"),
    }
}

fn shown_array(array: &Array) -> String {
    match array {
        Array::U8(x) => list(x, |x| x.to_string()),
        Array::I8(x) => list(x, |x| x.to_string()),
        Array::U16(x) => list(x, |x| x.to_string()),
        Array::I16(x) => list(x, |x| x.to_string()),
        Array::U32(x) => list(x, |x| x.to_string()),
        Array::I32(x) => list(x, |x| x.to_string()),
        Array::F32(x) => list(x, |x| format!("{x:?}")),
        Array::Bool(x) => list(x, |x| x.to_string()),
        Array::String(x) => list(x, |x| format!("\"{}\"", shortened(x))),
        Array::U64(x) => list(x, |x| x.to_string()),
        Array::I64(x) => list(x, |x| x.to_string()),
        Array::F64(x) => list(x, |x| format!("{x:?}")),
    }
}

fn list<T>(elements: &[T], shown: impl Fn(&T) -> String) -> String {
    let first: Vec<String> = elements.iter().take(ELEMENTS).map(shown).collect();
    match elements.len().saturating_sub(ELEMENTS) {
        0 => format!("[{}]", first.join(", ")),
        more => format!("[{}, … {} more]", first.join(", "), count(more as u64)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::export::gguf::{Blueprint, TensorInfo, write};

    #[test]
    fn types_add_up_and_long_values_are_shortened() {
        let dir = tempfile::tempdir().unwrap();
        let tensor =
            |name: &str, kind, dims: &[u64]| TensorInfo { name: name.into(), dims: dims.into(), kind };
        let metadata = [
            ("general.architecture", Value::String("qwen\u{1b}[2J".into())),
            ("template", Value::String("x\n".repeat(50))),
            ("tokens", Value::Array(Array::String((0..1006).map(|i| format!("t{i}")).collect()))),
            ("sections", Value::Array(Array::I32(vec![16, 24, 24, 0]))),
        ];
        let blueprint = Blueprint {
            metadata: metadata.map(|(k, v)| (k.to_string(), v)).to_vec(),
            tensors: vec![
                tensor("a", BlockType::Q4_0, &[64, 2]),
                tensor("b", BlockType::F32, &[8]),
                tensor("c", BlockType::Q4_0, &[32, 3]),
            ],
        };
        let fill =
            &mut |i: usize| Ok::<_, GgufError>(vec![0; blueprint.tensors[i].bytes().unwrap() as usize]);
        let paths = write::write(dir.path(), "m", &blueprint, Some(128), fill, &mut |_| {}).unwrap();
        let seen = inspect(&paths[0]).unwrap();
        assert_eq!(seen.files, ["m-00001-of-00002.gguf", "m-00002-of-00002.gguf"]);
        let types: Vec<_> = seen.types.iter().map(|t| (t.kind, t.tensors, t.values, t.bytes)).collect();
        // 7 blocks of 18 bytes.
        assert_eq!(types, [("q4_0", 2, 224, 126), ("f32", 1, 8, 32)]);
        let text = seen.lines().join("\n");
        for part in [
            "GGUF version 3, in 2 files",
            "qwen\\u{1b}[2J",
            "158 bytes in 3 tensors, 5.45 bits per weight",
            "(28 more characters)",
            "[\"t0\", \"t1\", \"t2\", \"t3\", \"t4\", \"t5\", … 1,000 more]",
            "[16, 24, 24, 0]",
            "array of int32",
            "4.5",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert!(!text.contains('\u{1b}'), "{text}");
        let json = serde_json::to_value(&seen).unwrap();
        assert_eq!(json["metadata"][2]["value"].as_array().unwrap().len(), 1006);
        assert_eq!(json["metadata"][1]["type"], "string");
        assert_eq!((&json["tensors"][2]["dims"][1], &json["types"][0]["type"]), (&3.into(), &"q4_0".into()));
    }
}
