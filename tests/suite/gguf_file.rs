//! GGUF files as such: malformed ones are refused by name and in bounded memory, and independent readers find in ours what was written. What a model's files
//! hold is tested elsewhere.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use mquant_export::export::gguf::name::{FileName, size_label};
use mquant_export::export::gguf::{
    Array, Blueprint, GgufError, GgufFile, Metadata, TensorInfo, Value, write,
};
use mquant_export::numeric::ggml::BlockType;
use serde_json::{Value as Json, json};

use crate::common::bad_gguf::{Case, cases, sound};
use crate::common::fixture;
use crate::common::judge::{judge, text};
use crate::refusals::Ran;

/// Where the files of a case lie: beside each other, or of several in a folder of their own.
fn folder(root: &Path, case: &Case) -> PathBuf {
    if case.files.len() == 1 && case.files[0].0.trim_end_matches(".gguf") == case.name {
        root.to_path_buf()
    } else {
        root.join(case.name)
    }
}

/// All files of a folder, by path.
fn files(dir: &Path) -> BTreeSet<PathBuf> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().map(|e| e.unwrap().path());
    entries.flat_map(|p| if p.is_dir() { files(&p) } else { BTreeSet::from([p]) }).collect()
}

/// Asserts that a folder holds exactly the files of `cases`, or makes it so when asked to.
fn committed(root: &Path, cases: &[Case]) {
    let mut expected = BTreeSet::new();
    for case in cases {
        for (name, bytes) in &case.files {
            let path = folder(root, case).join(name);
            assert!(expected.insert(path.clone()), "{} is made twice", path.display());
            if std::env::var_os("UPDATE_FIXTURES").is_some_and(|v| v == "1") {
                std::fs::create_dir_all(path.parent().unwrap()).unwrap();
                std::fs::write(&path, bytes).unwrap();
            }
            let found = std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}; {UPDATE}", path.display()));
            assert!(found == *bytes, "{} is not what is generated; {UPDATE}", path.display());
        }
    }
    let found = files(root).into_iter().filter(|p| p.extension().is_some_and(|e| e == "gguf")).collect();
    assert_eq!(expected, found, "other files than are generated");
}

const UPDATE: &str = "run the test with UPDATE_FIXTURES=1 and review the change";

fn inspect(path: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mquant-export"));
    command.arg("inspect").arg(path);
    command
}

#[test]
fn every_malformed_file_is_refused_by_name() {
    let root = fixture("bad/gguf");
    let cases = cases();
    committed(&root, &cases);
    assert!(cases.len() >= 60, "cases were lost: {} are left", cases.len());
    let mut faults = Vec::new();
    for case in &cases {
        let path = folder(&root, case).join(&case.files[0].0);
        let name = path.file_name().unwrap().to_str().unwrap();
        // Where a later shard is wrong, its name is among what is expected.
        let own = Some(name).filter(|_| !case.expect.iter().any(|e| e.ends_with(".gguf")));
        let expect: Vec<String> = case
            .expect
            .iter()
            .copied()
            .chain(own)
            .chain(["not a usable GGUF file"])
            .map(String::from)
            .collect();
        let found = Ran::of(&mut inspect(&path)).faults(&expect);
        faults.extend(found.iter().map(|fault| format!("{}: {fault}", case.name)));
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn sound_files_are_shown() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/gguf");
    let cases = sound();
    committed(&root, &cases);
    for case in &cases {
        let out = inspect(&folder(&root, case).join(&case.files[0].0)).output().unwrap();
        let told = String::from_utf8_lossy(&out.stderr);
        assert!(
            out.status.success() && String::from_utf8_lossy(&out.stdout).contains("GGUF version"),
            "{told}"
        );
    }
}

/// All types of values and of tensors.
fn blueprint() -> Blueprint {
    let text = |s: &str| s.to_string();
    let values: Vec<(&str, Value)> = vec![
        ("general.architecture", Value::String(text("test"))),
        ("u8", Value::U8(200)),
        ("i8", Value::I8(-100)),
        ("u16", Value::U16(60_000)),
        ("i16", Value::I16(-30_000)),
        ("u32", Value::U32(4_000_000_000)),
        ("i32", Value::I32(-2_000_000_000)),
        ("f32", Value::F32(1e-6)),
        ("yes", Value::Bool(true)),
        ("no", Value::Bool(false)),
        ("u64", Value::U64(u64::MAX)),
        ("i64", Value::I64(i64::MIN)),
        ("f64", Value::F64(0.1)),
        ("text", Value::String(text("{% for m in messages %}\n{{ m['content'] }} 猫"))),
        ("a.u8", Value::Array(Array::U8(vec![0, 255]))),
        ("a.i8", Value::Array(Array::I8(vec![-128, 127]))),
        ("a.u16", Value::Array(Array::U16(vec![1, 65535]))),
        ("a.i16", Value::Array(Array::I16(vec![-1, 2]))),
        ("a.u32", Value::Array(Array::U32((0..1000).collect()))),
        ("a.i32", Value::Array(Array::I32(vec![16, 24, 24, 0]))),
        ("a.f32", Value::Array(Array::F32(vec![0.1, -2.5]))),
        ("a.bool", Value::Array(Array::Bool(vec![true, false]))),
        ("a.text", Value::Array(Array::String(vec![text("Ġthe"), text(""), text("猫")]))),
        ("a.u64", Value::Array(Array::U64(vec![u64::MAX, 1]))),
        ("a.i64", Value::Array(Array::I64(vec![i64::MIN, 1]))),
        ("a.f64", Value::Array(Array::F64(vec![1e300, 0.1]))),
    ];
    let info = |name: &str, kind, dims: &[u64]| TensorInfo { name: name.into(), dims: dims.into(), kind };
    let of_type = |kind: BlockType| info(kind.name(), kind, &[2 * kind.values() as u64, 3]);
    let mut tensors: Vec<TensorInfo> = BlockType::all().map(of_type).collect();
    tensors.push(info("one", BlockType::F32, &[5]));
    tensors.push(info(&"n".repeat(63), BlockType::F16, &[2, 3, 5, 7]));
    Blueprint { metadata: values.into_iter().map(|(k, v)| (k.to_string(), v)).collect(), tensors }
}

/// Bytes of tensor `i`.
fn content(blueprint: &Blueprint, i: usize) -> Vec<u8> {
    (0..blueprint.tensors[i].bytes().unwrap()).map(|b| (b as u8).wrapping_mul(29) ^ i as u8).collect()
}

fn written(dir: &Path, blueprint: &Blueprint, split: Option<u64>) -> Vec<PathBuf> {
    let fill = &mut |i| Ok::<_, GgufError>(content(blueprint, i));
    write::write(dir, "m", blueprint, split, fill, &mut |_| {}).unwrap()
}

/// Metadata as the judges print it: floats of 32 bits in the shortest digits that name them, which they have as text only.
fn metadata_json(metadata: &Metadata) -> Vec<Json> {
    let exact =
        |value: &Value| -> Json { serde_json::from_str(&serde_json::to_string(value).unwrap()).unwrap() };
    let entry = |(key, value): &(String, Value)| json!({"key": key, "type": value.type_name(), "value": exact(value)});
    metadata.iter().map(entry).collect()
}

/// Compares entry by entry, so that a failure shows one.
fn assert_same(found: &Json, expected: &Json) {
    for list in ["metadata", "tensors"] {
        let (found, expected) = (found[list].as_array().unwrap(), expected[list].as_array().unwrap());
        found.iter().zip(expected).for_each(|(found, expected)| assert_eq!(found, expected));
        assert_eq!(found.len(), expected.len(), "{list}");
    }
}

fn split_entry(key: &str, value: Value) -> (String, Value) {
    (key.to_string(), value)
}

/// What a file of `paths` must hold: its metadata, and its tensors with their bytes.
fn expected(blueprint: &Blueprint, paths: &[PathBuf], number: usize) -> Json {
    let file = GgufFile::open(&paths[0]).unwrap();
    let mut metadata = if number == 0 { blueprint.metadata.clone() } else { vec![] };
    if paths.len() > 1 {
        metadata.extend([
            split_entry("split.no", Value::U16(number as u16)),
            split_entry("split.count", Value::U16(paths.len() as u16)),
            split_entry("split.tensors.count", Value::I32(blueprint.tensors.len() as i32)),
        ]);
    }
    let own = file.tensors().iter().enumerate().filter(|(_, t)| t.shard == number);
    let tensors = own.map(|(i, t)| {
        let hex: String = content(blueprint, i).iter().map(|b| format!("{b:02x}")).collect();
        let kind = t.info.kind.id();
        json!({"name": t.info.name, "type": kind, "dims": t.info.dims, "offset": t.offset, "bytes": hex})
    });
    json!({"metadata": metadata_json(&metadata), "tensors": tensors.collect::<Vec<_>>()})
}

#[test]
fn the_gguf_package_reads_what_we_write() {
    for (split, alignment) in [(None, None), (Some(1000), None), (None, Some(256))] {
        let dir = tempfile::tempdir().unwrap();
        let mut blueprint = blueprint();
        let aligned = alignment.map(|n| split_entry("general.alignment", Value::U32(n)));
        blueprint.metadata.extend(aligned);
        let paths = written(dir.path(), &blueprint, split);
        assert_eq!(paths.len() > 1, split.is_some());
        for (number, path) in paths.iter().enumerate() {
            let found: Json = serde_json::from_str(&judge("gguf_file.py", &["read", &text(path)])).unwrap();
            assert_same(&found, &expected(&blueprint, &paths, number));
        }
    }
}

#[test]
fn we_read_what_the_gguf_package_writes() {
    let dir = tempfile::tempdir().unwrap();
    for limit in ["0", "700"] {
        let path = dir.path().join("m.gguf");
        let told = judge("gguf_file.py", &["write", &text(&path), limit]);
        let expected: Json = serde_json::from_str(&told).unwrap();
        let first = if limit == "0" { path } else { dir.path().join("m-00001-of-00003.gguf") };
        let file = GgufFile::open(&first).unwrap();
        assert_eq!(file.paths().len(), if limit == "0" { 1 } else { 3 });
        let metadata: Metadata =
            file.metadata().iter().filter(|(key, _)| !key.starts_with("split.")).cloned().collect();
        let tensors = file.tensors().iter().map(|t| {
            let hex: String = file.read(&t.info.name).unwrap().iter().map(|b| format!("{b:02x}")).collect();
            json!({"name": t.info.name, "type": t.info.kind.id(), "dims": t.info.dims, "bytes": hex})
        });
        let found = json!({"metadata": metadata_json(&metadata), "tensors": tensors.collect::<Vec<_>>()});
        assert_same(&found, &expected);
    }
}

/// The judge `tests/judges/gguf_rs` is a program of its own: the package `gguf-rs` turns on `arbitrary_precision` of `serde_json`, which would change how the
/// program under test reads numbers.
fn gguf_rs(path: &Path) -> Json {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/judges/gguf_rs/Cargo.toml");
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("gguf_rs");
    let mut command = Command::new(env!("CARGO"));
    command
        .args(["run", "--quiet", "--locked", "--manifest-path"])
        .arg(manifest)
        .arg("--target-dir")
        .arg(target);
    let out = command.arg("--").arg(path).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    serde_json::from_slice(&out.stdout).unwrap()
}

#[test]
fn the_gguf_rs_crate_reads_what_we_write() {
    let dir = tempfile::tempdir().unwrap();
    let blueprint = blueprint();
    let paths = written(dir.path(), &blueprint, Some(1500));
    assert!(paths.len() > 1);
    for (number, path) in paths.iter().enumerate() {
        let (found, expected) = (gguf_rs(path), expected(&blueprint, &paths, number));
        let metadata = expected["metadata"].as_array().unwrap();
        assert_eq!(found["metadata"].as_object().unwrap().len(), metadata.len());
        for entry in metadata {
            // It has no types of values.
            let key = entry["key"].as_str().unwrap();
            assert_eq!(found["metadata"][key], entry["value"], "{key}");
        }
        let (found, mut expected) = (found["tensors"].as_array().unwrap(), expected["tensors"].clone());
        for (found, expected) in found.iter().zip(expected.as_array_mut().unwrap()) {
            // gguf-rs 0.1.8 knows bf16 and counts no bytes for it.
            if expected["type"] == BlockType::Bf16.id() {
                expected["bytes"] = "".into();
            }
            assert_eq!(found, expected);
        }
        assert_eq!(found.len(), expected.as_array().unwrap().len());
    }
}

#[test]
fn names_are_those_of_llama_cpp_s_converter() {
    let counts: Vec<u64> = vec![
        0,
        499,
        500,
        999,
        1000,
        1001,
        9_949,
        9_950,
        99_500,
        999_999,
        1_000_000,
        1_000_001,
        1_543_714_304,
    ]
    .into_iter()
    .chain([2_208_985_600, 7_615_616_512, 8_500_000_000, 9_500_000_000, 72_706_203_648, u64::MAX])
    .collect();
    let labels: Vec<Json> = counts.iter().map(|n| size_label(*n).into()).collect();
    let names = [
        (("Qwen2-VL", Some("2B"), Some("Instruct"), None), "q4_k_m"),
        (("MiniCPM V", None, None, Some("2.6")), "F16"),
        (("org/model", Some("1.5M"), Some("Chat it"), Some("v1")), "Q8_0"),
    ];
    let ours = names.map(|((base, size, finetune, version), encoding)| {
        let name = FileName { base, size, finetune, version, encoding };
        json!([name.file_stem(), name.projector_stem()])
    });
    let arguments = json!({"counts": counts, "names": names}).to_string();
    let found: Json = serde_json::from_str(&judge("gguf_file.py", &["names", &arguments])).unwrap();
    assert_eq!(found, json!({"labels": labels, "names": ours}));
}

#[cfg(target_os = "linux")]
mod memory {
    use std::fs::File;

    use super::*;
    use crate::common::bad_gguf::{ARRAY, STRING, U8, array, entry, file, tensor};

    /// Address space that the program may take with a small file, in bytes. Measured: 20 MB.
    const BASE: usize = 40_000_000;
    /// Bytes of address space for each byte of a header. Measured: 9.3 for many keys, 7.0 for tensors, 4.2 for texts, 0 for problems: an entry of 20 bytes
    /// is a name and a value of 32 bytes each, in lists that grow to twice their length, and is looked up by name.
    const TIMES: usize = 12;
    /// Bytes of a header, about.
    const HEADER: usize = 12_000_000;

    /// Inspects a file with at most `limit` bytes of address space; an allocation beyond ends the program.
    fn within(limit: usize, path: &Path) -> Ran {
        let mut limited = Command::new("bash");
        limited.args(["-c", "ulimit -v \"$1\"; shift; exec \"$@\"", "bash", &(limit / 1024).to_string()]);
        let program = inspect(path);
        Ran::of(limited.arg(program.get_program()).args(program.get_args()))
    }

    /// Headers of many small things. The last one is wrong, so all the others have been read when the file is refused.
    fn headers() -> Vec<(&'static str, Vec<u8>, &'static str)> {
        let wrong = || tensor("last", &[4], 0, 1 << 40);
        let many = |bytes: usize| (0..HEADER / bytes).map(|i| i.to_string());
        let keys: Vec<_> = many(20).map(|key| entry(key, U8, [1])).collect();
        let texts = entry("k", ARRAY, array(STRING, (HEADER / 8) as u64, vec![0; HEADER]));
        let tensors: Vec<_> =
            many(40).enumerate().map(|(i, name)| tensor(name, &[1], 0, 32 * i as u64)).collect();
        let data = 32 * tensors.len();
        let of_no_type: Vec<_> = many(40).map(|name| tensor(name, &[1], 99, 0)).collect();
        vec![
            ("keys", file(3, &keys, &[wrong()], 0), "tensor \"last\""),
            ("texts", file(3, &[texts], &[wrong()], 0), "tensor \"last\""),
            ("tensors", file(3, &[], &[tensors, vec![wrong()]].concat(), data), "tensor \"last\""),
            ("problems", file(3, &[], &of_no_type, 0), "300000 problems"),
        ]
    }

    #[test]
    fn memory_is_bounded_by_the_header() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("m.gguf");
        let mut faults = Vec::new();
        for (what, bytes, expect) in headers() {
            std::fs::write(&path, bytes).unwrap();
            let found = within(BASE + TIMES * HEADER, &path).faults(&[expect.to_string()]);
            faults.extend(found.iter().map(|f| format!("{what}: {f}")));
        }
        assert!(faults.is_empty(), "{}", faults.join("\n"));
    }

    #[test]
    fn memory_does_not_depend_on_what_a_file_claims() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("m.gguf");
        // A file with a hole: the numbers below are all within its length.
        let length = 1u64 << 38;
        let claims = [
            ("bytes", file(3, &[entry("k", ARRAY, array(U8, 1 << 37, []))], &[], 0), "does not fit"),
            ("text", file(3, &[entry("k", STRING, (1u64 << 37).to_le_bytes())], &[], 0), "is longer"),
            (
                "keys",
                [&b"GGUF\x03\0\0\0"[..], &[0; 8], &(1u64 << 34).to_le_bytes()].concat(),
                "number of keys",
            ),
            (
                "tensors",
                [&b"GGUF\x03\0\0\0"[..], &(1u64 << 33).to_le_bytes(), &[0; 8]].concat(),
                "number of tensors",
            ),
        ];
        for (what, bytes, expect) in claims {
            std::fs::write(&path, bytes).unwrap();
            File::options().write(true).open(&path).unwrap().set_len(length).unwrap();
            let faults = within(BASE, &path).faults(&[expect.to_string()]);
            assert!(faults.is_empty(), "{what}: {}", faults.join("\n"));
        }
        std::fs::write(&path, file(3, &[], &[tensor("large", &[1 << 35], 0, 0)], 0)).unwrap();
        File::options().write(true).open(&path).unwrap().set_len(length).unwrap();
        let out = within(BASE, &path);
        assert!(out.shows("137 GB in 1 tensor"), "{out:?}");
    }
}
