//! Exports fixtures with the real binary and hands the results to judges in Python.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use mquant_export::numeric::Tensor;
use safetensors::Dtype;
use safetensors::tensor::TensorView;

use super::fixture;

/// A path as an argument.
pub fn text(path: &Path) -> String {
    path.display().to_string()
}

/// Runs the program; panics with its output unless it succeeds.
pub fn mquant(args: &[&str]) {
    let out = Command::new(env!("CARGO_BIN_EXE_mquant-export")).args(args).output().unwrap();
    assert!(out.status.success(), "{args:?}\n{}", String::from_utf8_lossy(&out.stderr));
}

/// Exports a fixture into `dir/<name>` and returns that folder.
pub fn export_fixture(dir: &Path, name: &str, flags: &[&str]) -> PathBuf {
    let out = dir.join("artifact");
    let (model, target) = (fixture(name), out.display().to_string());
    let model = model.display().to_string();
    mquant(&[&[model.as_str(), "--format", "onnx", "-o", &target], flags].concat());
    out
}

/// Runs a judge of `tests/judges` and returns what it printed.
pub fn judge(script: &str, args: &[&str]) -> String {
    python(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/judges").join(script), args)
}

/// Runs a program in the judges' Python and returns what it printed.
pub fn python(program: &Path, args: &[&str]) -> String {
    let python =
        std::env::var("MQUANT_PYTHON").expect("MQUANT_PYTHON is not set: run the tests with ./test.sh");
    let out = Command::new(python).arg(program).args(args).output().unwrap();
    let told = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{} {args:?}\n{told}", program.display());
    String::from_utf8(out.stdout).unwrap()
}

/// Tensors to be written to one safetensors file.
#[derive(Default)]
pub struct Bundle {
    tensors: BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>,
}

impl Bundle {
    pub fn floats(&mut self, key: String, t: &Tensor<f32>) {
        let bytes = t.data().iter().flat_map(|x| x.to_le_bytes()).collect();
        self.tensors.insert(key, (Dtype::F32, t.shape().to_vec(), bytes));
    }

    pub fn ints(&mut self, key: String, shape: Vec<usize>, data: &[i64]) {
        let bytes = data.iter().flat_map(|x| x.to_le_bytes()).collect();
        self.tensors.insert(key, (Dtype::I64, shape, bytes));
    }

    pub fn bytes(&mut self, key: String, data: &[u8]) {
        self.tensors.insert(key, (Dtype::U8, vec![data.len()], data.to_vec()));
    }

    pub fn write(&self, path: &Path) {
        let views = self.tensors.iter().map(|(k, (d, s, b))| (k, TensorView::new(*d, s.clone(), b).unwrap()));
        std::fs::write(path, safetensors::serialize(views, None).unwrap()).unwrap();
    }
}
