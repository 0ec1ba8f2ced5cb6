//! Tests of the header reader and of the byte-range checks: every refusal, and agreement with the `safetensors` crate.

use super::*;
use proptest::prelude::*;
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype as Theirs, TensorView, serialize};

/// A file with this header text and `data` bytes of zeros.
fn file(header: &str, data: usize) -> Vec<u8> {
    let mut out = (header.len() as u64).to_le_bytes().to_vec();
    out.extend_from_slice(header.as_bytes());
    out.resize(out.len() + data, 0);
    out
}

/// The header of a whole file, read as `open.rs` reads it.
fn parse(name: &str, bytes: &[u8]) -> Result<Vec<TensorEntry>, Vec<Problem>> {
    let len = bytes.len() as u64;
    let text = text_len(name, &bytes[..bytes.len().min(8)], len).map_err(|problem| vec![problem])?;
    super::parse(name, &bytes[8..8 + text], len)
}

/// The problems found in `bytes`, one per line.
fn refusal(bytes: &[u8]) -> String {
    let problems = parse("x.safetensors", bytes).unwrap_err();
    assert!(!problems.is_empty());
    assert!(SafeTensors::deserialize(bytes).is_err(), "the reference accepts what we refuse: {problems:?}");
    problems.iter().map(|p| format!("{p}\n")).collect()
}

/// Asserts that the list for `header` over `data` bytes holds exactly `lines` problems, with each of `words` in it.
fn refuses(header: &str, data: usize, lines: usize, words: &[&str]) {
    let text = refusal(&file(header, data));
    assert_eq!(text.lines().count(), lines, "{text}");
    for word in words {
        assert!(text.contains(word), "no {word:?} in:\n{text}");
    }
    assert!(text.lines().all(|line| line.starts_with("x.safetensors: ")), "{text}");
}

#[test]
fn reads_entries_in_data_order_with_scalars_empties_and_padding() {
    let header = r#"{"b":{"dtype":"F32","shape":[],"data_offsets":[4,8]},"__metadata__":{"format":"pt"},
        "e":{"dtype":"F32","shape":[3,0],"data_offsets":[4,4]},"a":{"dtype":"BF16","shape":[2],"data_offsets":[0,4]}}  "#;
    let bytes = file(header, 8);
    let entries = parse("x.safetensors", &bytes).unwrap();
    let names: Vec<_> = entries.iter().map(|e| e.name.as_str()).collect();
    assert_eq!(names, ["a", "e", "b"]);
    assert_eq!(entries[2].shape, Vec::<usize>::new());
    let end = bytes.len() as u64;
    assert_eq!((entries[2].begin, entries[2].end), (end - 4, end));
    assert!(SafeTensors::deserialize(&bytes).is_ok());
}

#[test]
fn refuses_bad_length_fields() {
    assert!(refusal(b"").contains("0 bytes"));
    assert!(refusal(&[1, 2, 3]).contains("3 bytes"));
    assert!(refusal(&(1u64 << 40).to_le_bytes()).contains("1099511627776"));
    assert!(refusal(&u64::MAX.to_le_bytes()).contains("18446744073709551615"));
    let mut short = 100u64.to_le_bytes().to_vec();
    short.extend_from_slice(b"{}");
    assert!(refusal(&short).contains("header of 100 bytes expected, 2 bytes follow"));
}

#[test]
fn refuses_text_that_is_no_header() {
    refuses("", 0, 1, &["must start with `{`"]);
    // The format says MUST begin with `{`; the crate lets white space pass.
    assert!(parse("x", &file(" {}", 0)).unwrap_err()[0].to_string().contains("0x20"));
    refuses("{\"a\"", 0, 1, &["line 1 column 4"]);
    refuses("{} x", 0, 1, &["trailing characters"]);
    refuses(r#"{"w":3}"#, 0, 1, &["tensor \"w\"", "expected struct"]);
    refuses(r#"{"w":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}}"#, 4, 1, &["tensor \"w\"", "-1"]);
    refuses(r#"{"w":{"dtype":"F32","shape":[1.5],"data_offsets":[0,4]}}"#, 4, 1, &["tensor \"w\"", "1.5"]);
    refuses(r#"{"w":{"dtype":"F32","shape":[1],"data_offsets":[0]}}"#, 4, 1, &["tensor \"w\""]);
    refuses(r#"{"w":{"dtype":"F32","shape":[1]}}"#, 4, 1, &["tensor \"w\"", "data_offsets"]);
    refuses(r#"{"w":{"dtype":"F32","dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#, 4, 1, &["duplicate"]);
    refuses(r#"{"__metadata__":{"a":1}}"#, 0, 1, &["__metadata__"]);
    let deep = format!(r#"{{"w":{}"#, "[".repeat(100_000));
    refuses(&deep, 0, 1, &["tensor \"w\""]);
}

#[test]
fn refuses_names_that_are_not_utf8() {
    let mut bytes = file(r#"{"visual.blXcks":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#, 4);
    let at = bytes.iter().position(|&b| b == b'X').unwrap();
    bytes[at] = 0xff;
    let text = refusal(&bytes);
    assert!(text.contains(&format!("byte {at} of the file")) && text.contains("visual.bl"), "{text}");
}

#[test]
fn refuses_duplicates_that_the_reference_merges() {
    let twice = r#"{"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"w":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}"#;
    let text: String = parse("x", &file(twice, 8)).unwrap_err().iter().map(|p| p.to_string()).collect();
    assert_eq!(text, "x: tensor \"w\": described twice in the header");
}

#[test]
fn refuses_types_shapes_and_sizes() {
    refuses(r#"{"w":{"dtype":"F33","shape":[1],"data_offsets":[0,4]}}"#, 4, 1, &["\"w\"", "\"F33\""]);
    refuses(r#"{"w":{"dtype":"F32","shape":[3],"data_offsets":[0,8]}}"#, 8, 1, &["needs 12", "holds 8"]);
    let huge = r#"{"w":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,4]}}"#;
    refuses(huge, 4, 1, &["4294967296"]);
    refuses(r#"{"w":{"dtype":"F4","shape":[1],"data_offsets":[0,1]}}"#, 1, 1, &["F4"]);
    refuses(r#"{"w":{"dtype":"F32","shape":[1],"data_offsets":[4,0]}}"#, 4, 2, &["4..0", "reversed"]);
    let wrap =
        r#"{"w":{"dtype":"U8","shape":[1],"data_offsets":[18446744073709551614,18446744073709551615]}}"#;
    refuses(wrap, 1, 3, &["18446744073709551615"]);
}

#[test]
fn refuses_overlaps_holes_and_wrong_ends() {
    let two = |b0: u64, b1: u64| {
        format!(
            r#"{{"v":{{"dtype":"U8","shape":[4],"data_offsets":[{b0},{}]}},"w":{{"dtype":"U8","shape":[4],"data_offsets":[{b1},{}]}}}}"#,
            b0 + 4,
            b1 + 4
        )
    };
    assert!(parse("x", &file(&two(4, 0), 8)).is_ok());
    refuses(&two(0, 2), 6, 1, &["tensor \"w\"", "2..6 overlaps \"v\"", "ends at 4"]);
    refuses(&two(0, 0), 4, 1, &["overlaps \"v\""]);
    refuses(&two(0, 6), 10, 1, &["tensor \"w\"", "starts at byte 6, expected 4"]);
    refuses(&two(2, 6), 10, 1, &["tensor \"v\"", "starts at byte 2, expected 0"]);
    refuses(&two(0, 4), 9, 1, &["describes 8 bytes", "file has 9"]);
    refuses(&two(0, 4), 5, 1, &["truncated", "file has 5; tensors cut off: 1, ", "\"w\""]);
    refuses(&two(0, 4), 0, 1, &["truncated", "cut off: 2", "\"v\""]);
}

#[test]
fn lists_every_problem_of_a_header() {
    let header = r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,4]},"b":{"dtype":"??","shape":[1],"data_offsets":[2,6]},
        "c":{"dtype":"U8","shape":[1],"data_offsets":[7,8]}}"#;
    refuses(header, 4, 5, &["needs 8 bytes", "\"??\"", "overlaps \"a\"", "starts at byte 7", "truncated"]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// What the reference writes, we read: names, types, shapes and bytes.
    #[test]
    fn reads_what_the_reference_writes(
        tensors in proptest::collection::btree_map("\\PC{1,12}", (0usize..4, proptest::collection::vec(0usize..5, 0..4)), 0..6)
    ) {
        let dtypes = [Theirs::F32, Theirs::BF16, Theirs::U8, Theirs::I64];
        let data: Vec<(String, Theirs, Vec<usize>, Vec<u8>)> = tensors
            .into_iter()
            .enumerate()
            .map(|(i, (name, (d, shape)))| {
                let len = shape.iter().product::<usize>() * dtypes[d].bitsize() / 8;
                (name, dtypes[d], shape, (0..len).map(|b| (b * 7 + i) as u8).collect())
            })
            .collect();
        let views: Vec<_> = data
            .iter()
            .map(|(name, dtype, shape, bytes)| (name, TensorView::new(*dtype, shape.clone(), bytes).unwrap()))
            .collect();
        let bytes = serialize(views, None).unwrap();
        let mut entries = parse("x", &bytes).unwrap();
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        prop_assert_eq!(entries.len(), data.len());
        for (entry, (name, dtype, shape, want)) in entries.iter().zip(&data) {
            prop_assert_eq!(&entry.name, name);
            prop_assert_eq!(entry.dtype.name(), dtype.to_string());
            prop_assert_eq!(&entry.shape, shape);
            prop_assert_eq!(&bytes[entry.begin as usize..entry.end as usize], &want[..]);
        }
    }

    /// Any byte ranges near a sound layout: the verdict is the reference's.
    #[test]
    fn judges_byte_ranges_as_the_reference_does(
        sizes in proptest::collection::vec(0u64..4, 1..6), moved in 0usize..8, begin in -1i64..2, end in -1i64..2, data in -1i64..2
    ) {
        let (mut at, mut header) = (0i64, String::from("{"));
        for (i, &size) in sizes.iter().enumerate() {
            let (b, e) = (at, at + size as i64);
            let (b, e) = if i == moved { ((b + begin).max(0), (e + end).max(0)) } else { (b, e) };
            let comma = if i == 0 { "" } else { "," };
            header += &format!(r#"{comma}"t{i}":{{"dtype":"U8","shape":[{size},1],"data_offsets":[{b},{e}]}}"#);
            at += size as i64;
        }
        header += "}";
        let bytes = file(&header, (at + data).max(0) as usize);
        prop_assert_eq!(parse("x", &bytes).is_ok(), SafeTensors::deserialize(&bytes).is_ok(), "{}", header);
    }

    /// A damaged byte in a good header never panics, and we accept nothing that the reference refuses.
    #[test]
    fn is_at_least_as_strict_as_the_reference(at in 0usize..150, byte in any::<u8>(), cut in 0usize..160) {
        let header = r#"{"v":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"w":{"dtype":"F16","shape":[2,1],"data_offsets":[4,8]}}"#;
        let mut bytes = file(header, 8);
        bytes.truncate(bytes.len().min(cut.max(100)));
        let at = at % bytes.len();
        bytes[at] = byte;
        if parse("x", &bytes).is_ok() {
            prop_assert!(SafeTensors::deserialize(&bytes).is_ok());
        }
    }
}
