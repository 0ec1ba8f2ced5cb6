//! Same input, same recipe: the same bytes in every file, at any number of threads.

use std::collections::BTreeMap;
use std::path::Path;

use crate::common::eval::TINY;
use crate::common::fixture;
use crate::common::golden::FIXTURES;
use crate::common::judge::{mquant, text};

fn files(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = std::fs::read_dir(dir).unwrap().map(|e| e.unwrap());
    entries.map(|e| (e.file_name().into_string().unwrap(), std::fs::read(e.path()).unwrap())).collect()
}

/// Every file of an export of a fixture by a recipe that calibrates.
fn exported(name: &str, data: &str, (format, recipe): Kind, threads: &str) -> BTreeMap<String, Vec<u8>> {
    let dir = tempfile::tempdir().unwrap();
    let (model, target) = (text(&fixture(name)), text(&dir.path().join("artifact")));
    let data = text(&fixture(name).join(data));
    let what = [&model, "--format", format, "--recipe", recipe, "--calibration", &data];
    mquant(&[&what[..], &["--threads", threads, "-o", &target]].concat());
    files(Path::new(&target))
}

/// Format and recipe.
type Kind = (&'static str, &'static str);

const ONNX: Kind = ("onnx", "w4a8");

fn same_bytes(name: &str, data: &str, kind: Kind, thread_counts: &[&str]) {
    let first = exported(name, data, kind, "1");
    assert!(first.contains_key("mquant.json"));
    let of_format = first.keys().filter(|f| f.contains(kind.0)).count();
    assert!(of_format >= 2, "{:?}", first.keys());
    for threads in thread_counts {
        let again = exported(name, data, kind, threads);
        assert_eq!(first.keys().collect::<Vec<_>>(), again.keys().collect::<Vec<_>>());
        for (file, bytes) in &first {
            assert!(again[file] == *bytes, "{name}: {file} differs between 1 and {threads} threads");
        }
    }
}

#[test]
fn two_runs_and_other_thread_counts_give_the_same_bytes() {
    same_bytes(TINY, "calibration.tsv", ONNX, &["1", "2", "5"]);
    same_bytes(TINY, "calibration.tsv", ("gguf", "q4_k_m"), &["1", "2", "5"]);
}

#[test]
fn every_family_gives_the_same_bytes_at_another_thread_count() {
    for name in FIXTURES {
        same_bytes(name, "samples.jsonl", ONNX, &["5"]);
    }
}
