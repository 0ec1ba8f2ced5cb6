//! Writer and reader together: what is written is read back, in one file or several, and damaged files are refused without a panic.

use std::path::{Path, PathBuf};

use proptest::prelude::*;

use super::*;
use crate::positioned::PositionedFile;

/// Every type of value and of array, with the values that are easily lost.
fn metadata() -> Metadata {
    let text = |s: &str| s.to_string();
    let values = vec![
        ("general.architecture", Value::String(text("test"))),
        ("u8", Value::U8(u8::MAX)),
        ("i8", Value::I8(i8::MIN)),
        ("u16", Value::U16(u16::MAX)),
        ("i16", Value::I16(i16::MIN)),
        ("u32", Value::U32(u32::MAX)),
        ("i32", Value::I32(i32::MIN)),
        ("f32", Value::F32(0.1)),
        ("yes", Value::Bool(true)),
        ("no", Value::Bool(false)),
        ("u64", Value::U64(u64::MAX)),
        ("i64", Value::I64(i64::MIN)),
        ("f64", Value::F64(-0.1)),
        ("text", Value::String(text("ä\n\0 \u{1f600}"))),
        ("empty", Value::String(String::new())),
        ("a.u8", Value::Array(Array::U8(vec![0, 255]))),
        ("a.i8", Value::Array(Array::I8(vec![-128, 127]))),
        ("a.u16", Value::Array(Array::U16(vec![1, 65535, 3]))),
        ("a.i16", Value::Array(Array::I16(vec![-1]))),
        ("a.u32", Value::Array(Array::U32(vec![7; 20_000]))),
        ("a.i32", Value::Array(Array::I32(vec![16, 24, 24, 0]))),
        ("a.f32", Value::Array(Array::F32(vec![f32::MIN, f32::INFINITY]))),
        ("a.bool", Value::Array(Array::Bool(vec![true, false, true]))),
        ("a.text", Value::Array(Array::String(vec![text("Ġthe"), String::new(), text("\u{7f}")]))),
        ("a.none", Value::Array(Array::String(vec![]))),
        ("a.u64", Value::Array(Array::U64(vec![u64::MAX]))),
        ("a.i64", Value::Array(Array::I64(vec![i64::MIN]))),
        ("a.f64", Value::Array(Array::F64(vec![1e300]))),
    ];
    values.into_iter().map(|(key, value)| (key.to_string(), value)).collect()
}

fn tensor(name: &str, kind: BlockType, dims: &[u64]) -> TensorInfo {
    TensorInfo { name: name.into(), dims: dims.into(), kind }
}

/// One tensor of each type and of each number of sizes.
fn blueprint() -> Blueprint {
    let of_type = |kind: BlockType| tensor(kind.name(), kind, &[2 * kind.values() as u64, 3]);
    let mut tensors: Vec<TensorInfo> = BlockType::all().map(of_type).collect();
    tensors.push(tensor("one", BlockType::F32, &[5]));
    tensors.push(tensor("three", BlockType::F16, &[2, 3, 5]));
    tensors.push(tensor(&"n".repeat(63), BlockType::Q8_0, &[32, 2, 1, 2]));
    Blueprint { metadata: metadata(), tensors }
}

/// Bytes of tensor `i`, different for each.
fn content(blueprint: &Blueprint, i: usize) -> Vec<u8> {
    let bytes = blueprint.tensors[i].bytes().unwrap();
    (0..bytes).map(|b| (b as u8).wrapping_mul(31).wrapping_add(i as u8 + 1)).collect()
}

fn written(dir: &Path, blueprint: &Blueprint, split: Option<u64>) -> Vec<PathBuf> {
    let (mut asked, mut done) = (vec![], vec![]);
    let fill = &mut |i| {
        asked.push(i);
        Ok::<_, GgufError>(content(blueprint, i))
    };
    let paths = write::write(dir, "m", blueprint, split, fill, &mut |i| done.push(i)).unwrap();
    let all: Vec<usize> = (0..blueprint.tensors.len()).collect();
    assert_eq!((&asked, &done), (&all, &all));
    paths
}

fn assert_same(file: &GgufFile, blueprint: &Blueprint) {
    let infos: Vec<_> = file.tensors().iter().map(|t| t.info.clone()).collect();
    assert_eq!(infos, blueprint.tensors);
    for (i, info) in blueprint.tensors.iter().enumerate() {
        let bytes = content(blueprint, i);
        assert_eq!(file.read(&info.name).unwrap(), bytes, "{}", info.name);
        let matrix = file.matrix(&info.name).unwrap();
        assert_eq!((matrix.kind, matrix.bytes), (info.kind, bytes));
        assert_eq!(matrix.cols as u64, info.dims[0]);
        assert_eq!((matrix.rows * matrix.cols) as u64, info.dims.iter().product::<u64>());
        assert_eq!(file.values(&info.name).unwrap().len(), matrix.rows * matrix.cols);
    }
}

#[test]
fn what_is_written_is_read_back() {
    let dir = tempfile::tempdir().unwrap();
    let blueprint = blueprint();
    let paths = written(dir.path(), &blueprint, None);
    assert_eq!(paths, [dir.path().join("m.gguf")]);
    let file = GgufFile::open(&paths[0]).unwrap();
    assert_eq!((file.version(), file.alignment(), file.metadata()), (3, 32, &blueprint.metadata));
    assert_same(&file, &blueprint);
    assert!(file.tensors().iter().all(|t| t.offset % 32 == 0 && t.shard == 0));
    assert_eq!(file.get("yes"), Some(&Value::Bool(true)));
    assert_eq!(file.get("absent"), None);
    let missing = file.read("absent").unwrap_err().to_string();
    assert!(missing.contains("\"absent\"") && missing.contains("m.gguf"), "{missing}");
    // llama.cpp expects the data of the last tensor to be padded too.
    assert_eq!(std::fs::metadata(&paths[0]).unwrap().len() % 32, 0);
}

#[test]
fn shards_hold_what_one_file_holds() {
    let dir = tempfile::tempdir().unwrap();
    let mut blueprint = blueprint();
    blueprint.metadata.push((layout::ALIGNMENT_KEY.into(), Value::U32(64)));
    let limit = 2000;
    let paths = written(dir.path(), &blueprint, Some(limit));
    let count = paths.len();
    assert!(count > 2);
    let mut per_file = vec![0; count];
    let file = GgufFile::open(&paths[0]).unwrap();
    assert_eq!(file.paths(), paths);
    assert_same(&file, &blueprint);
    for tensor in file.tensors() {
        assert_eq!(tensor.offset % 64, 0, "{tensor:?}");
        per_file[tensor.shard] += tensor.bytes.next_multiple_of(64);
    }
    // No tensor alone exceeds the limit here.
    assert!(per_file.iter().all(|n| *n > 0 && *n <= limit), "{per_file:?}");
    let tensors = blueprint.tensors.len() as i32;
    for (number, path) in paths.iter().enumerate() {
        let name = format!("m-{:05}-of-{count:05}.gguf", number + 1);
        assert_eq!(path.file_name().unwrap().to_str(), Some(name.as_str()));
        let (mut metadata, split) =
            (vec![], shards::Split { number: number as u16, count: count as u16, tensors });
        metadata.extend(if number == 0 {
            blueprint.metadata.clone()
        } else {
            vec![(layout::ALIGNMENT_KEY.into(), Value::U32(64))]
        });
        metadata.extend(split.metadata());
        let file = PositionedFile::new(std::fs::File::open(path).unwrap());
        let header = header::read(&file, file.length().unwrap()).unwrap_or_else(|_| panic!("{name}"));
        assert_eq!(header.metadata, metadata, "{name}");
    }
    let later = GgufFile::open(&paths[1]).unwrap_err().to_string();
    assert!(later.contains("pass the first, \"m-00001-of-"), "{later}");
    // All in one file: no keys of shards.
    let whole = written(&dir.path().join("."), &blueprint, Some(1 << 20));
    assert_eq!(whole, [dir.path().join("./m.gguf")]);
    assert_eq!(GgufFile::open(&whole[0]).unwrap().metadata(), &blueprint.metadata);
}

/// What the writer says of a blueprint; it must not have made a file.
fn refused(blueprint: &Blueprint, stem: &str, split: Option<u64>) -> String {
    let dir = tempfile::tempdir().unwrap();
    let fill = &mut |i| Ok::<_, GgufError>(content(blueprint, i));
    let error = write::write(dir.path(), stem, blueprint, split, fill, &mut |_| {}).unwrap_err();
    assert!(!error.is_user_error() && std::fs::read_dir(dir.path()).unwrap().next().is_none(), "{error}");
    error.to_string()
}

#[test]
fn what_no_file_can_hold_is_refused_before_writing() {
    let of = |name: &str, kind, dims: &[u64]| Blueprint {
        metadata: vec![],
        tensors: vec![tensor(name, kind, dims)],
    };
    let keyed = |keys: &[(&str, Value)]| Blueprint {
        metadata: keys.iter().map(|(k, v)| (k.to_string(), v.clone())).collect(),
        tensors: vec![],
    };
    let f32 = BlockType::F32;
    let twice = Blueprint { metadata: vec![], tensors: vec![tensor("t", f32, &[1]), tensor("t", f32, &[2])] };
    let many = Blueprint {
        metadata: vec![],
        tensors: (0..65536).map(|i| tensor(&i.to_string(), f32, &[1])).collect(),
    };
    let huge = Blueprint {
        metadata: vec![],
        tensors: (0..5).map(|i| tensor(&i.to_string(), f32, &[1 << 60])).collect(),
    };
    let cases = [
        (of(&"n".repeat(64), f32, &[1]), "64 bytes; 1 to 63"),
        (of("", f32, &[1]), "0 bytes; 1 to 63"),
        (of("t", f32, &[]), "tensor \"t\": it has no sizes"),
        (of("t", f32, &[1; 5]), "tensor \"t\": it has 5 sizes"),
        (of("t", f32, &[4, 0]), "tensor \"t\": one of its sizes [4, 0] is zero"),
        (
            of("t", BlockType::Q4K, &[128, 2]),
            "tensor \"t\": rows of 128 values are not made of q4_k blocks of 256",
        ),
        (of("t", f32, &[1 << 32, 1 << 31]), "tensor \"t\": its sizes [4294967296, 2147483648] overflow"),
        (of("t", f32, &[1 << 62]), "overflow"),
        (twice, "tensor \"t\": the name occurs twice"),
        (huge, "bytes overflow 64 bits"),
        (keyed(&[("k", Value::U8(1)), ("k", Value::U8(2))]), "key \"k\": occurs twice"),
        (keyed(&[("schlüssel", Value::U8(1))]), "ASCII"),
        (keyed(&[("split.no", Value::U16(0))]), "key \"split.no\": is set by the writer"),
        (keyed(&[("general.alignment", Value::U32(48))]), "48 is not a power of two"),
        (keyed(&[("general.alignment", Value::U32(4))]), "4 is not a multiple of 8"),
        (keyed(&[("general.alignment", Value::U16(32))]), "type uint32 is expected, found uint16"),
    ];
    for (blueprint, expected) in cases {
        let told = refused(&blueprint, "m", None);
        assert!(
            told.starts_with("m.gguf cannot be written: ") && told.contains(expected),
            "{expected}: {told}"
        );
    }
    assert!(refused(&many, "m", Some(1)).contains("65536 are needed, 65535 can be counted"));
    assert!(refused(&blueprint(), "m", Some(0)).contains("at least one byte"));
    assert!(refused(&blueprint(), "../m", None).contains("not the name of a file"));
    let both = keyed(&[("", Value::U8(1)), ("general.alignment", Value::U32(0))]);
    assert!(refused(&both, "m", None).contains(", 2 problems:\n  - key \"\": 1 to "));
}

#[test]
fn a_tensor_of_another_length_and_a_failure_to_give_one_end_the_file() {
    let (dir, blueprint) = (tempfile::tempdir().unwrap(), blueprint());
    let fill = &mut |_| Ok::<_, GgufError>(vec![0; 23]);
    let error = write::write(dir.path(), "m", &blueprint, None, fill, &mut |_| {}).unwrap_err().to_string();
    assert_eq!(error, "tensor \"f32\": 24 bytes are declared, 23 were given");

    #[derive(Debug)]
    struct Own(#[allow(dead_code, reason = "shown when the test fails")] Option<GgufError>);
    impl From<GgufError> for Own {
        fn from(e: GgufError) -> Self {
            Self(Some(e))
        }
    }
    let mut calls = 0;
    let fill = &mut |_| {
        calls += 1;
        Err(Own(None))
    };
    assert!(matches!(write::write(dir.path(), "m", &blueprint, None, fill, &mut |_| {}), Err(Own(None))));
    assert_eq!(calls, 1);
    let nowhere = dir.path().join("absent");
    let fill = &mut |_| Ok::<_, GgufError>(vec![]);
    let error = write::write(&nowhere, "m", &blueprint, None, fill, &mut |_| {}).unwrap_err();
    assert!(error.is_user_error() && error.to_string().contains("m.gguf could not be written"), "{error}");
}

/// A small file with all types of values.
fn small() -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let mut blueprint = blueprint();
    blueprint.metadata.retain(|(key, _)| key != "a.u32");
    blueprint.tensors.retain(|t| t.kind.values() < 256);
    std::fs::read(&written(dir.path(), &blueprint, None)[0]).unwrap()
}

/// Opens bytes as a file and reads everything; the error, if they are refused.
fn opened(bytes: &[u8]) -> Result<(), String> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.gguf");
    std::fs::write(&path, bytes).unwrap();
    let file = GgufFile::open(&path).map_err(|e| e.to_string())?;
    for tensor in file.tensors() {
        assert_eq!(file.read(&tensor.info.name).unwrap().len() as u64, tensor.bytes);
        assert!(tensor.offset + tensor.bytes <= bytes.len() as u64);
    }
    Ok(())
}

#[test]
fn a_file_cut_anywhere_in_its_header_is_refused() {
    let bytes = small();
    opened(&bytes).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.gguf");
    std::fs::write(&path, &bytes).unwrap();
    let tensors = GgufFile::open(&path).unwrap().tensors().to_vec();
    let end = tensors.iter().map(|t| t.offset + t.bytes).max().unwrap() as usize;
    for length in 0..end {
        let told = opened(&bytes[..length]).expect_err("a part of a file was taken for a whole one");
        assert!(told.contains("not a usable GGUF file"), "{length}: {told}");
    }
    // Only padding is missing here.
    opened(&bytes[..end]).unwrap();
}

/// A change to a file.
#[derive(Clone, Debug)]
enum Edit {
    Flip(prop::sample::Index, u8),
    Truncate(prop::sample::Index),
    /// A number of 8 or 4 bytes written over what is there.
    Number(prop::sample::Index, u64, bool),
    Insert(prop::sample::Index, Vec<u8>),
}

fn edit() -> impl Strategy<Value = Edit> {
    let at = || any::<prop::sample::Index>();
    let numbers = prop_oneof![
        Just(u64::MAX),
        Just(1 << 63),
        Just((1 << 63) - 1),
        Just(1 << 32),
        Just(0),
        0u64..64,
        0u64..100_000,
        any::<u64>()
    ];
    prop_oneof![
        (at(), 1u8..).prop_map(|(i, mask)| Edit::Flip(i, mask)),
        at().prop_map(Edit::Truncate),
        (at(), numbers, any::<bool>()).prop_map(|(i, n, long)| Edit::Number(i, n, long)),
        (at(), prop::collection::vec(any::<u8>(), 1..16)).prop_map(|(i, bytes)| Edit::Insert(i, bytes)),
    ]
}

fn apply(bytes: &mut Vec<u8>, edit: &Edit) {
    if bytes.is_empty() {
        return;
    }
    let length = bytes.len();
    match edit {
        Edit::Flip(i, mask) => bytes[i.index(length)] ^= mask,
        Edit::Truncate(i) => bytes.truncate(i.index(length)),
        Edit::Number(i, n, long) => {
            let at = i.index(length);
            let end = length.min(at + if *long { 8 } else { 4 });
            bytes[at..end].copy_from_slice(&n.to_le_bytes()[..end - at]);
        }
        Edit::Insert(i, inserted) => {
            let at = i.index(length);
            bytes.splice(at..at, inserted.iter().copied());
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    /// `opened` asserts that whatever is accepted can be read inside the file; memory is measured in the suite.
    #[test]
    fn changed_files_are_read_or_refused(edits in prop::collection::vec(edit(), 1..4)) {
        thread_local!(static WHOLE: Vec<u8> = small());
        let mut bytes = WHOLE.with(Clone::clone);
        edits.iter().for_each(|e| apply(&mut bytes, e));
        let _ = opened(&bytes);
    }
}
