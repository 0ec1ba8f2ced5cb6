//! Whether the small files of an artifact say what the checkpoint's files say: configuration, tokenizer, processor, what GenAI is told, the metadata of GGUF files. Differences are named by
//! file and key.

use std::path::Path;

use serde_json::Value as Json;

use crate::checkpoint::{Checkpoint, SideFiles};
use crate::export::gguf::{Array, GgufFile, Value};
use crate::export::onnx::{GraphSignature, genai};
use crate::family::inputs::gguf::{GgufPlan, KeyValue};
use crate::family::{Description, vocabulary_keys};
use crate::pipeline::emit;
use crate::pipeline::error::PipelineError;
use crate::pipeline::manifest::{Manifest, hash_file};

/// Differences told of one file.
const TOLD: usize = 3;

/// Differences of an ONNX artifact's files from the checkpoint's.
pub(super) fn of_onnx(
    dir: &Path,
    manifest: &Manifest,
    checkpoint: &Checkpoint,
    description: &Description,
) -> Result<Vec<String>, PipelineError> {
    let own = SideFiles::open(dir)?;
    let mut found = Vec::new();
    let made = generated(manifest, description);
    // Files that belong to the model; what people write about it, such as README.md, is another one in the artifact.
    let inputs = checkpoint.input_files();
    let inputs: Vec<_> = inputs.iter().filter_map(|p| p.file_name()).collect();
    for file in &manifest.files {
        let name = file.name.as_str();
        if let Some((_, expected)) = made.iter().find(|(made, _)| *made == name) {
            let stored = own.json(name)?.unwrap_or(Json::Null);
            found.extend(told(name, differences(&stored, expected)));
            continue;
        }
        if !inputs.iter().any(|i| *i == name) {
            continue;
        }
        // Files that the export made of others, such as tokenizer.json of another format, have no counterpart.
        let theirs = checkpoint.files();
        let (Some(a), Some(b)) = (own.path(name)?, theirs.path(name)?) else { continue };
        if name.ends_with(".json") {
            let (a, b) = (own.json(name)?.unwrap_or(Json::Null), theirs.json(name)?.unwrap_or(Json::Null));
            found.extend(told(name, differences(&a, &b)));
        } else if hash_file(&a)?.sha256 != hash_file(&b)?.sha256 {
            found.push(format!("{name}: other bytes than the checkpoint's"));
        }
    }
    if manifest.eos_token_ids != description.prompt.eos_token_ids {
        let (a, b) = (&manifest.eos_token_ids, &description.prompt.eos_token_ids);
        found.push(format!("mquant.json: eos_token_ids is {a:?}, the checkpoint has {b:?}"));
    }
    let (a, b) = (manifest.placeholder.image_token_id, description.prompt.image_token_id);
    if a != b {
        found.push(format!("mquant.json: placeholder.image_token_id is {a}, the checkpoint has {b}"));
    }
    Ok(found)
}

/// What the export makes of the checkpoint besides copies, made again.
fn generated(manifest: &Manifest, description: &Description) -> Vec<(&'static str, Json)> {
    let tokenizer = serde_json::from_str(description.tokenizer.json()).unwrap_or(Json::Null);
    let mut made = vec![(emit::onnx::TOKENIZER_FILE, tokenizer)];
    let has = manifest.files.iter().any(|f| f.name == genai::CONFIG_FILE);
    let width = manifest.graphs.iter().find_map(|g| g.channels("image_features"));
    let share = manifest.graphs.iter().any(GraphSignature::shares_cache_buffer);
    if let (true, Some(width)) = (has, width)
        && let Ok(input) = emit::onnx::genai_input(description, width, share)
    {
        made.push((genai::CONFIG_FILE, genai::genai_config(&input)));
        made.push((genai::PROCESSOR_FILE, genai::processor_config(&input)));
    }
    made
}

/// The first differences of a file as sentences.
fn told(name: &str, differences: Vec<(String, String)>) -> Vec<String> {
    let (shown, rest) = differences.split_at(differences.len().min(TOLD));
    let mut lines: Vec<String> = shown.iter().map(|(path, what)| format!("{name}: {path} {what}")).collect();
    if !rest.is_empty() {
        lines.push(format!("{name}: {} more", rest.len()));
    }
    lines
}

/// Paths at which two JSON values differ, with what was found and expected. Numbers that are equal as numbers are equal.
fn differences(found: &Json, expected: &Json) -> Vec<(String, String)> {
    let mut all = Vec::new();
    differ("", found, expected, &mut all);
    all
}

fn differ(path: &str, found: &Json, expected: &Json, all: &mut Vec<(String, String)>) {
    let below = |key: &str| if path.is_empty() { key.to_string() } else { format!("{path}.{key}") };
    match (found, expected) {
        (Json::Object(a), Json::Object(b)) => {
            for (key, value) in a {
                match b.get(key) {
                    Some(other) => differ(&below(key), value, other, all),
                    None => all.push((below(key), "is not in the checkpoint's".into())),
                }
            }
            let missing = b.keys().filter(|k| !a.contains_key(*k));
            all.extend(missing.map(|key| (below(key), "is missing".into())));
        }
        (Json::Array(a), Json::Array(b)) if a.len() == b.len() => {
            for (i, (a, b)) in a.iter().zip(b).enumerate() {
                differ(&format!("{path}[{i}]"), a, b, all);
            }
        }
        (Json::Number(a), Json::Number(b)) if a.as_f64() == b.as_f64() => {}
        (a, b) if a == b => {}
        (a, b) => {
            let path = if path.is_empty() { "the whole file".to_string() } else { path.to_string() };
            all.push((path, format!("is {}, the checkpoint has {}", short(a), short(b))));
        }
    }
}

/// A value for a sentence.
fn short(value: &Json) -> String {
    let text = value.to_string();
    match text.char_indices().nth(60) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text,
    }
}

/// Differences of the metadata of GGUF files from what the checkpoint gives.
pub(super) fn of_gguf(
    text: &GgufFile,
    mmproj: Option<&GgufFile>,
    plan: &GgufPlan,
    checkpoint: &Checkpoint,
    description: &Description,
) -> Result<Vec<String>, PipelineError> {
    let mut keys = plan.text.keys.clone();
    let vocabulary = vocabulary_keys(description, checkpoint.files())?;
    keys.extend(vocabulary.into_iter().filter(|(key, _)| plan.text.keys.iter().all(|(k, _)| k != key)));
    let mut found = of_keys(text, &keys);
    if let (Some(file), Ok(plan)) = (mmproj, &plan.vision) {
        found.extend(of_keys(file, &plan.keys));
    }
    Ok(found)
}

fn of_keys(file: &GgufFile, keys: &[(String, KeyValue)]) -> Vec<String> {
    let path = file.paths().first().and_then(|p| p.file_name());
    let name = path.map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    let one = |(key, expected): &(String, KeyValue)| match file.get(key) {
        None => Some((key.clone(), "is missing".to_string())),
        Some(value) if same(value, expected) => None,
        Some(value) => Some((key.clone(), unlike(value, expected))),
    };
    told(&name, keys.iter().filter_map(one).collect())
}

fn same(value: &Value, expected: &KeyValue) -> bool {
    match (value, expected) {
        (Value::U32(a), KeyValue::U32(b)) => a == b,
        (Value::I32(a), KeyValue::I32(b)) => a == b,
        (Value::F32(a), KeyValue::F32(b)) => a.to_bits() == b.to_bits(),
        (Value::Bool(a), KeyValue::Bool(b)) => a == b,
        (Value::String(a), KeyValue::Text(b)) => a == b,
        (Value::Array(Array::F32(a)), KeyValue::F32s(b)) => a == b,
        (Value::Array(Array::I32(a)), KeyValue::I32s(b)) => a == b,
        (Value::Array(Array::String(a)), KeyValue::Texts(b)) => a == b,
        _ => false,
    }
}

fn unlike(value: &Value, expected: &KeyValue) -> String {
    let text = |t: String| short(&Json::String(t));
    let expected = match expected {
        KeyValue::U32(x) => x.to_string(),
        KeyValue::I32(x) => x.to_string(),
        KeyValue::F32(x) => x.to_string(),
        KeyValue::Bool(x) => x.to_string(),
        KeyValue::Text(x) => text(x.clone()),
        KeyValue::F32s(x) => short(&Json::String(format!("{x:?}"))),
        KeyValue::I32s(x) => short(&Json::String(format!("{x:?}"))),
        KeyValue::Texts(x) => format!("{} texts", x.len()),
    };
    let found = serde_json::to_value(value).map_or_else(|_| String::new(), |v| short(&v));
    format!("is {found}, the checkpoint gives {expected}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn differences_are_named_by_path() {
        let a = json!({"a": {"b": [1, 2.0], "c": "x"}, "d": 1});
        assert!(differences(&a, &a).is_empty());
        let b = json!({"a": {"b": [1, 2], "c": "x"}, "d": 1});
        assert!(differences(&a, &b).is_empty(), "2 and 2.0 are one number");
        let c = json!({"a": {"b": [1, 3], "e": 0}, "d": 1});
        let found = differences(&a, &c);
        let paths: Vec<&str> = found.iter().map(|(p, _)| p.as_str()).collect();
        assert_eq!(paths, ["a.b[1]", "a.c", "a.e"]);
        assert_eq!(found[0].1, "is 2.0, the checkpoint has 3");
        assert_eq!(
            told("f", differences(&json!([0, 0, 0, 0, 0]), &json!([1, 1, 1, 1, 1]))).last().unwrap(),
            "f: 2 more"
        );
        assert_eq!(differences(&json!(1), &json!("1"))[0].0, "the whole file");
    }
}
