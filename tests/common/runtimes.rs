//! The real runtimes on test machines: ONNX Runtime's library in the judges' Python, and a `llama-server` made of the judges' llama.cpp.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use mquant_export::calibrate::{Preparer, Sample};
use mquant_export::verify::llama_cpp::{GgufFiles, LlamaCpp, ServerOptions};
use mquant_export::verify::onnxruntime::{OnnxRuntime, RuntimeOptions, library};
use mquant_export::verify::runner::{Distribution, Question};

use super::llama::Files;

fn python() -> PathBuf {
    std::env::var_os("MQUANT_PYTHON").expect("MQUANT_PYTHON is not set: run the tests with ./test.sh").into()
}

/// The judges' Python environment.
pub fn environment() -> PathBuf {
    python().parent().unwrap().parent().unwrap().to_path_buf()
}

/// ONNX Runtime's library there, found as in a user's environment.
pub fn onnxruntime_library() -> PathBuf {
    let env = |name: &str| (name == "VIRTUAL_ENV").then(|| OsString::from(environment()));
    library::find(&env).unwrap().path
}

/// An artifact in ONNX Runtime.
pub fn onnxruntime(artifact: &Path) -> OnnxRuntime {
    let manifest = mquant_export::pipeline::Manifest::read(artifact).unwrap();
    let options = RuntimeOptions { threads: Some(2), library: Some(onnxruntime_library()), provider: None };
    OnnxRuntime::open(artifact, &manifest.graphs, &options).unwrap()
}

/// A program with the command line of `llama-server` in `dir`; it leaves its process id in `dir/pid`.
pub fn llama_server(dir: &Path) -> PathBuf {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/judges/llama_server.py");
    let (program, pid) = (dir.join("llama-server"), dir.join("pid"));
    let lines = format!(
        "#!/bin/sh\necho $$ > '{}'\nexec '{}' '{}' \"$@\"\n",
        pid.display(),
        python().display(),
        script.display()
    );
    executable(&program, &lines);
    program
}

/// Writes a shell script that can be run.
pub fn executable(path: &Path, text: &str) {
    use std::os::unix::fs::PermissionsExt;
    // Written under another name: a file that some thread has open for writing cannot be run.
    let draft = path.with_extension("draft");
    std::fs::write(&draft, text).unwrap();
    std::fs::set_permissions(&draft, std::fs::Permissions::from_mode(0o755)).unwrap();
    std::fs::rename(&draft, path).unwrap();
}

/// Files in a server that is started for them.
pub fn llama_cpp(dir: &Path, files: &Files) -> LlamaCpp {
    let options =
        ServerOptions { program: Some(llama_server(dir)), threads: Some(2), ..ServerOptions::default() };
    LlamaCpp::open(&gguf(files), &options).unwrap()
}

pub fn gguf(files: &Files) -> GgufFiles {
    GgufFiles { text: files.text.clone(), mmproj: files.mmproj.clone() }
}

/// A sample with tokens fed behind it.
pub fn question(preparer: &Preparer, sample: &Sample, fed: Vec<i64>) -> Question {
    Question { sample: sample.clone(), prompt: preparer.prepare_sample(sample).unwrap(), fed }
}

/// Samples with their expected answers fed.
pub fn questions(preparer: &Preparer, samples: &[Sample]) -> Vec<Question> {
    let one = |sample: &Sample| {
        let question = question(preparer, sample, vec![]);
        Question { fed: question.prompt.answer_ids.clone().unwrap(), ..question }
    };
    samples.iter().map(one).collect()
}

/// All logarithms of a row.
pub fn full(row: &Distribution) -> &[f32] {
    match row {
        Distribution::Full(row) => row,
        Distribution::Top(_) => panic!("a full row is expected"),
    }
}

/// The most likely token; the lowest id among equals.
pub fn best(row: &[f32]) -> i64 {
    (0..row.len()).fold(0, |b, i| if row[i] > row[b] { i } else { b }) as i64
}
