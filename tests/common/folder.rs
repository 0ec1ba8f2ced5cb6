//! Checkpoint folders made for one test: copies of fixtures, and changes to their configuration.

use std::path::Path;

use serde_json::Value as Json;

use super::fixture;

/// Files of a fixture that are not part of its checkpoint.
fn is_test_data(name: &str) -> bool {
    let tensors = name.ends_with(".safetensors") && !is_weights(name);
    tensors || [".md", ".py", ".jsonl", ".tsv"].iter().any(|end| name.ends_with(end))
}

/// Copies the files of a fixture's checkpoint that `wanted` picks by name into `dir`. Contents only: fixtures may be read-only.
pub fn copy(name: &str, dir: &Path, wanted: impl Fn(&str) -> bool) {
    for entry in std::fs::read_dir(fixture(name)).unwrap() {
        let entry = entry.unwrap();
        let file = entry.file_name().into_string().unwrap();
        if entry.file_type().unwrap().is_file() && !is_test_data(&file) && wanted(&file) {
            std::fs::write(dir.join(file), std::fs::read(entry.path()).unwrap()).unwrap();
        }
    }
}

/// Whether a file of a checkpoint holds weights or says where they are.
pub fn is_weights(file: &str) -> bool {
    file.starts_with("model") && file.contains("safetensors")
}

/// `config.json` of a fixture.
pub fn config(name: &str) -> Json {
    serde_json::from_slice(&std::fs::read(fixture(name).join("config.json")).unwrap()).unwrap()
}

/// Sets the value at a JSON pointer whose parent exists.
pub fn set(json: &mut Json, at: &str, value: impl Into<Json>) {
    let (parent, key) = at.rsplit_once('/').unwrap();
    let parent = json.pointer_mut(parent).unwrap_or_else(|| panic!("nothing is at {parent:?}"));
    parent.as_object_mut().unwrap().insert(key.to_string(), value.into());
}

/// Removes the value at a JSON pointer; whether there was one.
pub fn remove(json: &mut Json, at: &str) -> bool {
    let (parent, key) = at.rsplit_once('/').unwrap();
    match json.pointer_mut(parent) {
        Some(Json::Object(map)) => map.shift_remove(key).is_some(),
        Some(Json::Array(list)) => {
            key.parse().is_ok_and(|i: usize| i < list.len() && list.drain(i..).count() > 0)
        }
        _ => false,
    }
}

/// Writes a `config.json`.
pub fn write_config(dir: &Path, config: &Json) {
    std::fs::write(dir.join("config.json"), config.to_string()).unwrap();
}
