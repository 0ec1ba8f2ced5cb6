//! Damages of exported artifacts, as a broken build, a wrong copy or a careless edit makes them. The manifest is written anew afterwards, so that hashes do not tell.

use std::path::{Path, PathBuf};

use mquant_export::export::gguf::GgufFile;
use mquant_export::export::onnx::proto::{ModelProto, TensorProto};
use prost::Message;
use serde_json::{Value as Json, json};
use sha2::{Digest, Sha256};

/// A copy of an artifact in `dir/name`.
pub fn copied(artifact: &Path, dir: &Path, name: &str) -> PathBuf {
    let target = dir.join(name);
    std::fs::create_dir(&target).unwrap();
    for entry in std::fs::read_dir(artifact).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, target.join(path.file_name().unwrap())).unwrap();
    }
    target
}

/// Writes the hashes of all files into the manifest.
pub fn hashed(artifact: &Path) {
    edit_json(&artifact.join("mquant.json"), |manifest| {
        for file in manifest["files"].as_array_mut().unwrap() {
            let bytes = std::fs::read(artifact.join(file["name"].as_str().unwrap())).unwrap();
            file["bytes"] = json!(bytes.len());
            file["sha256"] = json!(format!("{:x}", Sha256::digest(&bytes)));
        }
    });
}

/// Changes a JSON file.
pub fn edit_json(path: &Path, change: impl FnOnce(&mut Json)) {
    let mut json: Json = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    change(&mut json);
    std::fs::write(path, serde_json::to_string_pretty(&json).unwrap()).unwrap();
}

/// Adds 1 to a whole number of a JSON file.
pub fn off_by_one(path: &Path, key: &str) {
    edit_json(path, |json| json[key] = json!(json[key].as_i64().unwrap() + 1));
}

fn model(path: &Path) -> ModelProto {
    ModelProto::decode(std::fs::read(path).unwrap().as_slice()).unwrap()
}

fn initializer<'m>(model: &'m mut ModelProto, name: &str) -> &'m mut TensorProto {
    let all = &mut model.graph.as_mut().unwrap().initializer;
    all.iter_mut().find(|t| t.name() == name).unwrap_or_else(|| panic!("no initializer {name}"))
}

/// Where the bytes of an initializer lie in the data file beside the graph.
fn place(tensor: &TensorProto) -> Option<(String, usize, usize)> {
    let value = |key: &str| {
        let entry = tensor.external_data.iter().find(|e| e.key() == key)?;
        Some(entry.value().to_string())
    };
    Some((value("location")?, value("offset")?.parse().unwrap(), value("length")?.parse().unwrap()))
}

/// Bytes of an initializer of `dir/file`.
pub fn read(dir: &Path, file: &str, name: &str) -> Vec<u8> {
    let mut model = model(&dir.join(file));
    let tensor = initializer(&mut model, name);
    match place(tensor) {
        Some((data, offset, length)) => {
            std::fs::read(dir.join(data)).unwrap()[offset..offset + length].to_vec()
        }
        None => tensor.raw_data().to_vec(),
    }
}

/// Replaces the bytes of an initializer by as many others.
pub fn write(dir: &Path, file: &str, name: &str, bytes: &[u8]) {
    let path = dir.join(file);
    let mut model = model(&path);
    let tensor = initializer(&mut model, name);
    match place(tensor) {
        Some((data, offset, length)) => {
            assert_eq!(length, bytes.len());
            let data = dir.join(data);
            let mut all = std::fs::read(&data).unwrap();
            all[offset..offset + length].copy_from_slice(bytes);
            std::fs::write(&data, all).unwrap();
        }
        None => {
            assert_eq!(tensor.raw_data().len(), bytes.len());
            tensor.raw_data = Some(bytes.to_vec());
            std::fs::write(&path, model.encode_to_vec()).unwrap();
        }
    }
}

/// Names of the initializers of a graph that begin with `prefix`.
pub fn initializers(dir: &Path, file: &str, prefix: &str) -> Vec<String> {
    let model = model(&dir.join(file));
    let names = model.graph.unwrap().initializer.into_iter().map(|t| t.name().to_string());
    names.filter(|n| n.starts_with(prefix)).collect()
}

/// The `at`-th float of an initializer, times `factor`.
pub fn scaled(dir: &Path, file: &str, name: &str, at: usize, factor: f32) {
    let mut bytes = read(dir, file, name);
    let slot = &mut bytes[4 * at..4 * at + 4];
    let value = f32::from_le_bytes((&*slot).try_into().unwrap()) * factor;
    slot.copy_from_slice(&value.to_le_bytes());
    write(dir, file, name, &bytes);
}

/// The bytes of a tensor of a GGUF file, changed in place.
pub fn in_tensor(path: &Path, name: &str, change: impl FnOnce(&mut [u8])) {
    let file = GgufFile::open(path).unwrap();
    let tensor = file.tensor(name).unwrap_or_else(|| panic!("no tensor {name}"));
    let (offset, length) = (tensor.offset as usize, tensor.bytes as usize);
    let mut all = std::fs::read(path).unwrap();
    change(&mut all[offset..offset + length]);
    std::fs::write(path, all).unwrap();
}

/// Exchanges two tensors of one size.
pub fn exchanged(path: &Path, a: &str, b: &str) {
    let bytes = |name: &str| GgufFile::open(path).unwrap().read(name).unwrap();
    let (of_a, of_b) = (bytes(a), bytes(b));
    in_tensor(path, a, |slot| slot.copy_from_slice(&of_b));
    in_tensor(path, b, |slot| slot.copy_from_slice(&of_a));
}

/// The value of a key whose type takes `N` bytes (of an array: its first element), changed in place.
pub fn in_metadata<const N: usize>(
    path: &Path,
    key: &str,
    is_array: bool,
    change: impl FnOnce([u8; N]) -> [u8; N],
) {
    let mut all = std::fs::read(path).unwrap();
    let stored = [&(key.len() as u64).to_le_bytes()[..], key.as_bytes()].concat();
    let at = all.windows(stored.len()).position(|w| w == stored).unwrap_or_else(|| panic!("no key {key}"));
    // Behind the key: its type, and of an array the type and number of elements.
    let value = at + stored.len() + 4 + if is_array { 12 } else { 0 };
    let changed = change(all[value..value + N].try_into().unwrap());
    all[value..value + N].copy_from_slice(&changed);
    std::fs::write(path, all).unwrap();
}
