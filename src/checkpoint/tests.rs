//! Tests of whole checkpoint folders, built file by file with the `safetensors` crate.

use std::collections::HashMap;

use safetensors::tensor::{Dtype as Theirs, TensorView, serialize};
use serde_json::json;

use super::*;

/// A folder with `config.json` and a few helpers to add files.
struct Dir(tempfile::TempDir);

impl Dir {
    fn new() -> Self {
        let dir = Self(tempfile::tempdir().unwrap());
        dir.write("config.json", br#"{"model_type": "tiny"}"#);
        dir
    }

    fn write(&self, name: &str, bytes: &[u8]) {
        std::fs::write(self.0.path().join(name), bytes).unwrap();
    }

    /// A weight file with one f32 vector of ones per (name, length).
    fn weights(&self, file: &str, tensors: &[(&str, usize)]) {
        let ones: Vec<u8> = (0..64).flat_map(|_| 1f32.to_le_bytes()).collect();
        let views: HashMap<&str, TensorView<'_>> = tensors
            .iter()
            .map(|&(name, n)| (name, TensorView::new(Theirs::F32, vec![n], &ones[..4 * n]).unwrap()))
            .collect();
        self.write(file, &serialize(views, None).unwrap());
    }

    fn index(&self, map: serde_json::Value) {
        self.write(index::INDEX, json!({ "weight_map": map }).to_string().as_bytes());
    }

    fn open(&self) -> Checkpoint {
        Checkpoint::open(self.0.path()).unwrap()
    }

    /// The text of the refusal, which must hold `words` and list `count` problems.
    fn refuses(&self, count: usize, words: &[&str]) {
        let error = Checkpoint::open(self.0.path()).unwrap_err();
        let text = error.to_string();
        let CheckpointError::Invalid { problems, .. } = error else { panic!("{text}") };
        assert_eq!(problems.len(), count, "{text}");
        for word in words {
            assert!(text.contains(word), "no {word:?} in:\n{text}");
        }
    }
}

#[test]
fn opens_a_single_file() {
    let dir = Dir::new();
    dir.weights("model.safetensors", &[("b", 3), ("a", 2)]);
    let checkpoint = dir.open();
    assert_eq!(checkpoint.dir(), dir.0.path());
    assert_eq!(checkpoint.config()["model_type"], "tiny");
    assert_eq!(checkpoint.tensors().map(|t| t.name()).collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!(checkpoint.total_parameters(), 5);
    let b = checkpoint.tensor("b").unwrap();
    assert_eq!((b.shape(), b.dtype(), b.stored_bytes()), (&[3][..], Dtype::F32, 12));
    assert_eq!(b.to_f32().unwrap(), [1.0; 3]);
    assert!(checkpoint.tensor("c").is_none());
}

#[test]
fn opens_shards_and_lists_the_input_files() {
    let dir = Dir::new();
    dir.weights("one.safetensors", &[("a", 2)]);
    dir.weights("two.safetensors", &[("b", 3)]);
    dir.weights("goldens.safetensors", &[("c", 3)]);
    dir.index(json!({"a": "one.safetensors", "b": "two.safetensors"}));
    dir.write("tokenizer.json", b"{}");
    dir.write("README.md", b"hello");
    let checkpoint = dir.open();
    assert_eq!(checkpoint.tensor("b").unwrap().file(), dir.0.path().join("two.safetensors"));
    let names: Vec<_> = checkpoint
        .input_files()
        .iter()
        .map(|p| p.file_name().unwrap().to_str().unwrap().to_owned())
        .collect();
    let want = [
        "config.json",
        "model.safetensors.index.json",
        "one.safetensors",
        "tokenizer.json",
        "two.safetensors",
    ];
    assert_eq!(names, want);
    assert_eq!(checkpoint.unread_weights(), ["goldens.safetensors"]);
}

#[test]
fn the_single_file_wins_over_an_index() {
    let dir = Dir::new();
    dir.weights("model.safetensors", &[("a", 2)]);
    dir.index(json!({"b": "gone.safetensors"}));
    let checkpoint = dir.open();
    assert_eq!(checkpoint.tensors().len(), 1);
    assert_eq!(checkpoint.unread_weights(), ["model.safetensors.index.json"]);
    assert!(!checkpoint.input_files().contains(&dir.0.path().join(index::INDEX)));
}

#[test]
fn reads_side_files() {
    let dir = Dir::new();
    dir.weights("model.safetensors", &[("a", 2)]);
    dir.write("generation_config.json", br#"{"top_k": 1}"#);
    dir.write("preprocessor_config.json", b"{\n,}");
    let checkpoint = dir.open();
    assert_eq!(checkpoint.json("generation_config.json").unwrap().unwrap()["top_k"], 1);
    assert!(checkpoint.json("chat_template.json").unwrap().is_none());
    let text = checkpoint.json("preprocessor_config.json").unwrap_err().to_string();
    assert!(text.contains("preprocessor_config.json") && text.contains("line 2 column 1"), "{text}");
    assert_eq!(checkpoint.text("generation_config.json").unwrap().unwrap(), r#"{"top_k": 1}"#);
    assert!(checkpoint.has_file("config.json") && !checkpoint.has_file("x") && !checkpoint.has_file("../x"));
    assert_eq!(checkpoint.path("config.json").unwrap(), Some(dir.0.path().join("config.json")));
    assert!(matches!(checkpoint.text("../x"), Err(CheckpointError::File(FileError::NotPlainName { .. }))));
}

#[test]
fn collects_problems_of_all_files() {
    let dir = Dir::new();
    dir.write("config.json", b"[1]");
    dir.weights("one.safetensors", &[("a", 2), ("x", 1)]);
    dir.write("two.safetensors", b"junk");
    dir.index(json!({"a": "one.safetensors", "b": "two.safetensors", "c": "three.safetensors",
        "d": "one.safetensors", "e": "../four.safetensors"}));
    let words = [
        "6 problems",
        "config.json: cannot be read as JSON",
        "one.safetensors: tensor \"x\": extra",
        "one.safetensors: tensor \"d\": missing",
        "two.safetensors: truncated: 4 bytes",
        "three.safetensors: shard missing",
        "first is \"c\"",
        "tensor \"e\": shard \"../four.safetensors\"",
        "hint: ",
    ];
    dir.refuses(6, &words);
}

#[test]
fn refuses_a_tensor_in_two_shards() {
    let dir = Dir::new();
    dir.weights("one.safetensors", &[("a", 2)]);
    dir.weights("two.safetensors", &[("a", 2), ("b", 2)]);
    dir.index(json!({"a": "one.safetensors", "b": "two.safetensors"}));
    dir.refuses(1, &["two.safetensors: tensor \"a\": also in one.safetensors"]);
}

#[test]
fn refuses_folders_without_weights() {
    let dir = Dir::new();
    dir.refuses(1, &["no weights", "found no weight file", "hint: give the folder"]);
    dir.write("pytorch_model.bin", b"");
    dir.refuses(1, &["pytorch_model.bin", "pickle", "hint: convert to safetensors"]);
    dir.weights("odd.safetensors", &[("a", 1)]);
    dir.refuses(1, &["no weights", "found odd.safetensors"]);
    dir.weights("model.safetensors", &[]);
    dir.refuses(1, &["model.safetensors: holds no tensors"]);
    dir.write("model.safetensors", b"");
    dir.refuses(1, &["model.safetensors: truncated: 0 bytes"]);
    std::fs::remove_file(dir.0.path().join("config.json")).unwrap();
    dir.refuses(2, &["config.json: this file is required and missing"]);
}

#[test]
fn refuses_broken_indices() {
    let dir = Dir::new();
    dir.write(index::INDEX, b"{\"weight_map\": 3}");
    dir.refuses(
        1,
        &["model.safetensors.index.json: cannot be read as JSON", "maps tensor names", "line 1 column"],
    );
    dir.index(json!({}));
    dir.refuses(1, &["model.safetensors.index.json: holds no tensors"]);
    std::fs::create_dir(dir.0.path().join("model.safetensors")).unwrap();
    dir.refuses(1, &["model.safetensors: not a regular file"]);
}

#[cfg(unix)]
#[test]
fn refuses_a_shard_that_links_out() {
    let outside = Dir::new();
    outside.weights("real.safetensors", &[("a", 2)]);
    let dir = Dir::new();
    let target = outside.0.path().join("real.safetensors");
    std::os::unix::fs::symlink(&target, dir.0.path().join("one.safetensors")).unwrap();
    dir.index(json!({"a": "one.safetensors"}));
    dir.refuses(1, &["one.safetensors: symbolic link to", "outside the checkpoint folder", "hint: "]);
}

#[test]
fn a_file_cut_short_after_opening_is_an_error() {
    let dir = Dir::new();
    dir.weights("model.safetensors", &[("a", 2), ("b", 3)]);
    let checkpoint = dir.open();
    let path = dir.0.path().join("model.safetensors");
    let len = std::fs::metadata(&path).unwrap().len();
    std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(len - 5).unwrap();
    assert_eq!(checkpoint.tensor("a").unwrap().to_f32().unwrap(), [1.0; 2]);
    let error = checkpoint.tensor("b").unwrap().to_f32().unwrap_err();
    assert!(
        matches!(&error, CheckpointError::CutShort { expected, found, .. } if (*expected, *found) == (len, len - 5)),
        "{error:?}"
    );
    let text = error.to_string();
    assert!(text.contains("model.safetensors: tensor \"b\": the file ends at byte"), "{text}");
}

#[test]
fn many_threads_read_at_once() {
    use rayon::prelude::*;
    let dir = Dir::new();
    // Every tensor has several read blocks, and other values than the others.
    let values = |t: usize| (0..40_000 + t).map(move |i| ((i * 31 + t * 7) % 1009) as f32);
    let bytes: Vec<Vec<u8>> = (0..8).map(|t| values(t).flat_map(f32::to_le_bytes).collect()).collect();
    let view = |t: usize| TensorView::new(Theirs::F32, vec![40_000 + t], &bytes[t]).unwrap();
    let views: HashMap<String, TensorView<'_>> = (0..8).map(|t| (format!("t{t}"), view(t))).collect();
    dir.write("model.safetensors", &serialize(views, None).unwrap());
    let checkpoint = dir.open();
    let pool = rayon::ThreadPoolBuilder::new().num_threads(8).build().unwrap();
    pool.install(|| {
        (0..200usize).into_par_iter().for_each(|n| {
            let t = n * 5 % 8;
            let read = checkpoint.tensor(&format!("t{t}")).unwrap().to_f32().unwrap();
            assert!(read.into_iter().eq(values(t)), "tensor {t}");
        });
    });
}

#[test]
fn is_send_and_sync() {
    fn check<T: Send + Sync>() {}
    check::<Checkpoint>();
    check::<TensorRef<'_>>();
    check::<CheckpointError>();
}

/// The released layout: all fixtures of the repository open, and every float weight is finite.
#[test]
fn opens_every_fixture() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures");
    let mut opened = 0;
    for entry in std::fs::read_dir(fixtures).unwrap() {
        let dir = entry.unwrap().path();
        if dir.join("config.json").is_file() {
            let checkpoint = Checkpoint::open(&dir).unwrap();
            for tensor in checkpoint.tensors().filter(|t| t.dtype().converts_to_f32()) {
                assert_eq!(tensor.first_non_finite().unwrap(), None, "{}", tensor.name());
            }
            opened += 1;
        }
    }
    assert!(opened > 0, "no fixture to open");
}
