//! Makes the files of `fixtures/bad/gguf/`, each malformed in one way, and small sound ones: from bytes, by the format's document and without the writer
//! of the crate, which refuses to write such things.

/// Numbers of value types.
pub const U8: u32 = 0;
pub const U16: u32 = 2;
pub const U32: u32 = 4;
pub const I32: u32 = 5;
pub const BOOL: u32 = 7;
pub const STRING: u32 = 8;
pub const ARRAY: u32 = 9;

/// Files that belong together, the first of which is opened.
pub struct Case {
    /// Name of the folder, or without `.gguf` of the only file.
    pub name: &'static str,
    /// Names and bytes.
    pub files: Vec<(String, Vec<u8>)>,
    /// What the refusal must contain; nothing for a sound file.
    pub expect: Vec<&'static str>,
}

/// A length and the bytes.
pub fn text(bytes: impl AsRef<[u8]>) -> Vec<u8> {
    let bytes = bytes.as_ref();
    [&(bytes.len() as u64).to_le_bytes(), bytes].concat()
}

/// A key with the bytes of its value.
pub fn entry(key: impl AsRef<[u8]>, kind: u32, value: impl AsRef<[u8]>) -> Vec<u8> {
    [&text(key), &kind.to_le_bytes()[..], value.as_ref()].concat()
}

/// The bytes of an array.
pub fn array(kind: u32, count: u64, elements: impl AsRef<[u8]>) -> Vec<u8> {
    [&kind.to_le_bytes(), &count.to_le_bytes()[..], elements.as_ref()].concat()
}

/// An entry of the list of tensors.
pub fn tensor(name: impl AsRef<[u8]>, dims: &[u64], kind: u32, offset: u64) -> Vec<u8> {
    let dims_bytes: Vec<u8> = dims.iter().flat_map(|n| n.to_le_bytes()).collect();
    let count = (dims.len() as u32).to_le_bytes();
    [&text(name), &count[..], &dims_bytes, &kind.to_le_bytes(), &offset.to_le_bytes()].concat()
}

/// A file of these parts, with `data` bytes of tensors from the next multiple of 32 on.
pub fn file(version: u32, entries: &[Vec<u8>], tensors: &[Vec<u8>], data: usize) -> Vec<u8> {
    let counts = [tensors.len() as u64, entries.len() as u64].map(u64::to_le_bytes).concat();
    let mut file =
        [b"GGUF", &version.to_le_bytes()[..], &counts, &entries.concat(), &tensors.concat()].concat();
    file.resize(file.len().next_multiple_of(32), 0);
    file.extend((0..data).map(|i| i as u8));
    file
}

fn architecture() -> Vec<u8> {
    entry("general.architecture", STRING, text("test"))
}

/// One key more than the architecture, and a tensor of 8 floats.
fn with_key(key: Vec<u8>) -> Vec<u8> {
    file(3, &[architecture(), key], &[tensor("a", &[8], 0, 0)], 32)
}

/// These tensors, with 64 bytes of data.
fn with_tensors(tensors: &[Vec<u8>]) -> Vec<u8> {
    file(3, &[architecture()], tensors, 64)
}

fn good() -> Vec<u8> {
    with_tensors(&[tensor("a", &[4, 2], 0, 0), tensor("b", &[32], 2, 32)])
}

fn patched(at: usize, bytes: &[u8]) -> Vec<u8> {
    let mut file = good();
    file[at..at + bytes.len()].copy_from_slice(bytes);
    file
}

fn one(name: &'static str, bytes: Vec<u8>, expect: &[&'static str]) -> Case {
    Case { name, files: vec![(format!("{name}.gguf"), bytes)], expect: expect.to_vec() }
}

/// Sound files: what the malformed ones differ from, and where fuzzing starts.
pub fn sound() -> Vec<Case> {
    let all = [
        entry("b", BOOL, [1]),
        entry("sections", ARRAY, array(I32, 4, [16i32, 24, 24, 0].map(i32::to_le_bytes).concat())),
        entry("tokens", ARRAY, array(STRING, 2, [text("a"), text("Ġthe")].concat())),
        entry("f", 12, 0.5f64.to_le_bytes()),
        entry("general.alignment", U32, 32u32.to_le_bytes()),
    ];
    let types = [
        (0, 4),
        (1, 2),
        (30, 2),
        (2, 18),
        (3, 20),
        (6, 22),
        (7, 24),
        (8, 34),
        (10, 84),
        (11, 110),
        (12, 144),
        (13, 176),
        (14, 210),
    ];
    let (mut tensors, mut offset) = (vec![], 0);
    for (id, block) in types {
        let cols = match id {
            0 | 1 | 30 => 1,
            10..=14 => 256,
            _ => 32,
        };
        tensors.push(tensor(format!("t{id}"), &[cols, 2], id, offset as u64));
        offset = (offset + 2 * block as usize).next_multiple_of(32);
    }
    vec![
        one("sound", good(), &[]),
        one("version_2", patched(4, &2u32.to_le_bytes()), &[]),
        one("values", file(3, &all, &[], 0), &[]),
        one("types", file(3, &[architecture()], &tensors, offset), &[]),
    ]
}

/// Every malformed file.
pub fn cases() -> Vec<Case> {
    let groups = [
        beginnings(),
        keys(),
        values(),
        alignments(),
        tensors(),
        places(),
        shard_names(),
        later_shards(),
        first_shards(),
    ];
    groups.into_iter().flatten().collect()
}

fn beginnings() -> Vec<Case> {
    let keys = file(3, &[architecture()], &[], 0);
    vec![
        one("empty", vec![], &["at least 24 bytes, this one has 0"]),
        one("bad_magic", patched(0, b"GGML"), &["\"GGUF\" is expected, found \"GGML\""]),
        one("version_0", patched(4, &[0; 4]), &["versions 2 and 3 are read, found 0"]),
        one("version_1", patched(4, &1u32.to_le_bytes()), &["version 1", "convert the model again"]),
        one("version_9", patched(4, &9u32.to_le_bytes()), &["versions 2 and 3 are read, found 9"]),
        one("big_endian", patched(4, &3u32.to_be_bytes()), &["big endian"]),
        one("huge_tensor_count", patched(8, &[255; 8]), &["number of tensors: 18446744073709551615"]),
        one("huge_key_count", patched(16, &(1u64 << 40).to_le_bytes()), &["number of keys: 1099511627776"]),
        one(
            "truncated_keys",
            keys[..60].to_vec(),
            &["key \"general.architecture\"", "8 bytes are expected at byte 56"],
        ),
        one("truncated_tensors", good()[..100].to_vec(), &["tensor \"a\"", "bytes are expected at byte"]),
        one("truncated_data", good()[..good().len() - 48].to_vec(), &["tensor \"b\"", "end behind the file"]),
    ]
}

fn keys() -> Vec<Case> {
    let long = (1u64 << 50).to_le_bytes();
    let twice = file(3, &[architecture(), architecture()], &[], 0);
    vec![
        one("duplicate_key", twice, &["key \"general.architecture\": occurs twice"]),
        one("empty_key", with_key(entry("", U8, [1])), &["key 1 (from 0): the key is empty"]),
        one(
            "key_not_utf8",
            with_key(entry(b"ab\xff", U8, [1])),
            &["key 1 (from 0)", "not UTF-8, near \"ab\\xff\""],
        ),
        one(
            "key_longer_than_file",
            with_key(long.to_vec()),
            &["key 1 (from 0)", "1125899906842624 bytes is longer"],
        ),
        one(
            "text_longer_than_file",
            with_key(entry("k", STRING, long)),
            &["key \"k\"", "1125899906842624 bytes is longer"],
        ),
        one("text_not_utf8", with_key(entry("k", STRING, text(b"\xc3"))), &["key \"k\"", "not UTF-8"]),
    ]
}

fn values() -> Vec<Case> {
    vec![
        one(
            "array_longer_than_file",
            with_key(entry("k", ARRAY, array(U32, 1 << 40, []))),
            &["key \"k\"", "1099511627776 x uint32"],
        ),
        one(
            "array_size_overflows",
            with_key(entry("k", ARRAY, array(10, u64::MAX, []))),
            &["key \"k\"", "18446744073709551615 x uint64"],
        ),
        one(
            "array_text_not_utf8",
            with_key(entry("k", ARRAY, array(STRING, 1, text(b"\xff")))),
            &["key \"k\"", "not UTF-8"],
        ),
        one(
            "nested_array",
            with_key(entry("k", ARRAY, array(ARRAY, 1, array(U8, 1, [7])))),
            &["key \"k\"", "array of arrays"],
        ),
        one(
            "unknown_value_type",
            with_key(entry("k", 13, [0; 8])),
            &["key \"k\": there is no type 13 of values"],
        ),
        one(
            "unknown_element_type",
            with_key(entry("k", ARRAY, array(99, 1, [0; 8]))),
            &["key \"k\": there is no type 99"],
        ),
        one("bool_of_two", with_key(entry("k", BOOL, [2])), &["key \"k\"", "0 or 1, found 2"]),
    ]
}

fn alignments() -> Vec<Case> {
    let aligned = |kind: u32, value: &[u8]| with_key(entry("general.alignment", kind, value));
    vec![
        one(
            "alignment_not_a_power",
            aligned(U32, &48u32.to_le_bytes()),
            &["\"general.alignment\": 48 is not a power of two"],
        ),
        one("alignment_zero", aligned(U32, &[0; 4]), &["\"general.alignment\": 0 is not a power of two"]),
        one(
            "alignment_type",
            aligned(U16, &[32, 0]),
            &["\"general.alignment\"", "uint32 is expected, found uint16"],
        ),
        one(
            "alignment_beyond_file",
            aligned(U32, &(1u32 << 31).to_le_bytes()),
            &["tensor \"a\"", "end behind the file"],
        ),
    ]
}

fn tensors() -> Vec<Case> {
    let alone = |name: &str, dims: &[u64], kind| with_tensors(&[tensor(name, dims, kind, 0)]);
    vec![
        one(
            "duplicate_tensor",
            with_tensors(&[tensor("a", &[4], 0, 0), tensor("a", &[4], 0, 32)]),
            &["tensor \"a\": the name occurs twice"],
        ),
        one("tensor_name_empty", alone("", &[4], 0), &["tensor \"\"", "0 bytes; 1 to 63"]),
        one("tensor_name_long", alone(&"n".repeat(64), &[4], 0), &["64 bytes; 1 to 63"]),
        one(
            "tensor_name_not_utf8",
            with_tensors(&[tensor(b"t\xfe", &[4], 0, 0)]),
            &["tensor 0 (from 0)", "not UTF-8"],
        ),
        one("no_sizes", alone("a", &[], 0), &["tensor \"a\": it has no sizes"]),
        one("five_sizes", alone("a", &[1; 5], 0), &["tensor \"a\": it has 5 sizes"]),
        one("size_zero", alone("a", &[4, 0], 0), &["tensor \"a\": one of its sizes [4, 0] is zero"]),
        one(
            "sizes_overflow",
            alone("a", &[1 << 32, 1 << 32], 0),
            &["tensor \"a\": its sizes [4294967296, 4294967296] overflow"],
        ),
        one("sizes_negative", alone("a", &[u64::MAX], 0), &["tensor \"a\"", "overflow"]),
        one("bytes_overflow", alone("a", &[1 << 61], 0), &["tensor \"a\"", "overflow"]),
        one(
            "row_not_of_blocks",
            alone("a", &[48, 1], 2),
            &["tensor \"a\": rows of 48 values", "q4_0 blocks of 32"],
        ),
        one("unknown_type", alone("a", &[4], 77), &["tensor \"a\": there is no type 77 of values"]),
        one("removed_type", alone("a", &[32], 4), &["tensor \"a\": there is no type 4 of values"]),
        one(
            "type_not_read",
            alone("a", &[256], 23),
            &["tensor \"a\": values of type 23 (iq4_xs) cannot be read"],
        ),
    ]
}

fn places() -> Vec<Case> {
    let at = |offset| with_tensors(&[tensor("a", &[8], 0, offset)]);
    let overlapping = with_tensors(&[tensor("a", &[9], 0, 0), tensor("b", &[4], 0, 32)]);
    let covered =
        with_tensors(&[tensor("a", &[16], 0, 0), tensor("b", &[1], 0, 0), tensor("c", &[1], 0, 32)]);
    let many = file(
        3,
        &[architecture(), architecture()],
        &[tensor("a", &[0], 0, 0), tensor("b", &[4], 77, 0), tensor("c", &[4], 0, 1 << 20)],
        32,
    );
    vec![
        one(
            "offset_misaligned",
            at(16),
            &["tensor \"a\": its offset 16 is not a multiple of the alignment, 32"],
        ),
        one(
            "offset_behind_file",
            at(64),
            &["tensor \"a\": its 32 bytes from offset 64 end behind the file, which has 64 bytes"],
        ),
        one("offset_overflows", at(u64::MAX - 31), &["tensor \"a\"", "end behind the file"]),
        one("overlapping", overlapping, &["tensor \"b\": its bytes overlap those of tensor \"a\""]),
        one(
            "covered",
            covered,
            &["2 problems", "tensor \"b\"", "tensor \"c\": its bytes overlap those of tensor \"a\""],
        ),
        one(
            "many_problems",
            many,
            &["4 problems", "occurs twice", "tensor \"a\"", "tensor \"b\"", "tensor \"c\""],
        ),
    ]
}

/// Keys of one shard: number, count, tensors in all.
fn split(number: u16, count: u16, tensors: i32) -> Vec<Vec<u8>> {
    vec![
        entry("split.no", U16, number.to_le_bytes()),
        entry("split.count", U16, count.to_le_bytes()),
        entry("split.tensors.count", I32, tensors.to_le_bytes()),
    ]
}

fn shard(keys: &[Vec<u8>], name: &str) -> Vec<u8> {
    file(3, keys, &[tensor(name, &[8], 0, 0)], 32)
}

fn pair(name: &'static str, first: Vec<u8>, second: Option<Vec<u8>>, expect: &[&'static str]) -> Case {
    let shard = |number: u32| format!("m-{number:05}-of-00002.gguf");
    let files = [Some(first), second].into_iter().zip(1..).filter_map(|(bytes, n)| Some((shard(n), bytes?)));
    Case { name, files: files.collect(), expect: expect.to_vec() }
}

const SECOND: &str = "m-00002-of-00002.gguf";

fn first() -> Vec<u8> {
    shard(&split(0, 2, 2), "a")
}

fn second() -> Option<Vec<u8>> {
    Some(shard(&split(1, 2, 2), "b"))
}

fn shard_names() -> Vec<Case> {
    let expect = ["\"model.gguf\" says shard 1 of 2 inside"];
    let mut renamed = pair("shard_renamed", first(), second(), &expect);
    renamed.files[0].0 = "model.gguf".into();
    let expect = ["\"split.no\": shard 2 of 2; pass the first, \"m-00001-of-00002.gguf\""];
    let mut later = pair("shard_later", shard(&split(1, 2, 2), "b"), None, &expect);
    later.files[0].0 = SECOND.into();
    let missing = pair("shard_missing", first(), None, &["shard \"m-00002-of-00002.gguf\": is missing"]);
    vec![renamed, later, missing]
}

/// The second shard is wrong.
fn later_shards() -> Vec<Case> {
    let case = |name, bytes, expect| pair(name, first(), Some(bytes), &[SECOND, expect]);
    let keyed =
        |name, number, count, tensors, expect| case(name, shard(&split(number, count, tensors), "b"), expect);
    vec![
        case("shard_damaged", b"GGUF".to_vec(), "at least 24 bytes"),
        keyed("shard_number_wrong", 0, 2, 2, "\"split.no\": 1 is expected, found 0"),
        keyed("shard_count_differs", 1, 3, 2, "\"split.count\": 2 is expected, found 3"),
        keyed("shard_tensors_differ", 1, 2, 9, "\"split.tensors.count\": 2 is expected, found 9"),
        case("shard_without_keys", shard(&[], "b"), "\"split.count\": missing"),
        case("shard_tensor_twice", shard(&split(1, 2, 2), "a"), "tensor \"a\": an earlier shard"),
    ]
}

/// The first shard is wrong.
fn first_shards() -> Vec<Case> {
    let case =
        |name, keys: &[Vec<u8>], expect: &[&'static str]| pair(name, shard(keys, "a"), second(), expect);
    let wrong_type = [entry("split.count", U32, 2u32.to_le_bytes())];
    let count = ["\"split.count\"", "uint16 is expected, found uint32"];
    let both = (split(0, 2, 3), Some(shard(&split(1, 2, 3), "b")));
    let lacking = ["\"split.tensors.count\": 3, the shards have 2"];
    vec![
        case("shard_without_number", &split(0, 2, 2)[1..], &["\"split.no\": missing"]),
        case("shard_number_out_of_range", &split(2, 2, 2), &["\"split.no\": 2 is out of range"]),
        case("shard_count_type", &wrong_type, &count),
        pair("shard_tensor_missing", shard(&both.0, "a"), both.1, &lacking),
    ]
}
