//! Same input, same recipe: the same bytes in every file, at any number of threads.

use std::collections::BTreeMap;
use std::path::Path;

use crate::common::eval::TINY;
use crate::common::fixture;
use crate::common::golden::FIXTURES;
use crate::common::judge::export_fixture;

fn files(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = std::fs::read_dir(dir).unwrap().map(|e| e.unwrap());
    entries.map(|e| (e.file_name().into_string().unwrap(), std::fs::read(e.path()).unwrap())).collect()
}

/// Every file of a W4A8 export of a fixture.
fn exported(name: &str, data: &str, threads: &str) -> BTreeMap<String, Vec<u8>> {
    let dir = tempfile::tempdir().unwrap();
    let calibration = fixture(name).join(data).display().to_string();
    let flags = ["--recipe", "w4a8", "--calibration", &calibration, "--threads", threads];
    files(&export_fixture(dir.path(), name, &flags))
}

fn same_bytes(name: &str, data: &str, thread_counts: &[&str]) {
    let first = exported(name, data, "1");
    assert!(
        first.contains_key("mquant.json")
            && first.contains_key("tokenizer.json")
            && first.contains_key("model.onnx.data")
    );
    for threads in thread_counts {
        let again = exported(name, data, threads);
        assert_eq!(first.keys().collect::<Vec<_>>(), again.keys().collect::<Vec<_>>());
        for (file, bytes) in &first {
            assert!(again[file] == *bytes, "{name}: {file} differs between 1 and {threads} threads");
        }
    }
}

#[test]
fn two_runs_and_other_thread_counts_give_the_same_bytes() {
    same_bytes(TINY, "calibration.tsv", &["1", "2", "5"]);
}

#[test]
fn every_family_gives_the_same_bytes_at_another_thread_count() {
    for name in FIXTURES {
        same_bytes(name, "samples.jsonl", &["5"]);
    }
}
