//! Same input, same recipe: the same bytes in every file, at any number of threads.

use std::collections::BTreeMap;
use std::path::Path;

use crate::common::eval::TINY;
use crate::common::fixture;
use crate::common::judge::export_fixture;

fn files(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = std::fs::read_dir(dir).unwrap().map(|e| e.unwrap());
    entries.map(|e| (e.file_name().into_string().unwrap(), std::fs::read(e.path()).unwrap())).collect()
}

#[test]
fn two_runs_and_other_thread_counts_give_the_same_bytes() {
    let calibration = fixture(TINY).join("calibration.tsv").display().to_string();
    let export = |threads: &str| {
        let dir = tempfile::tempdir().unwrap();
        let flags = ["--recipe", "w8a8", "--calibration", &calibration, "--threads", threads];
        files(&export_fixture(dir.path(), TINY, &flags))
    };
    let first = export("1");
    assert!(first.contains_key("mquant.json") && first.contains_key("model.onnx.data"));
    for threads in ["1", "2", "5"] {
        let again = export(threads);
        assert_eq!(first.keys().collect::<Vec<_>>(), again.keys().collect::<Vec<_>>());
        for (name, bytes) in &first {
            assert!(again[name] == *bytes, "{name} differs between 1 and {threads} threads");
        }
    }
}
