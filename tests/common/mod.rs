//! What several tests share: fixture paths, golden tensors, loaded models.
#![allow(dead_code, reason = "each test binary uses its part")]

pub mod agreement;
pub mod bad;
pub mod bad_gguf;
pub mod case;
pub mod damage;
pub mod eval;
pub mod folder;
pub mod gguf;
pub mod golden;
pub mod judge;
pub mod llama;
pub mod planted;
pub mod report;
pub mod runtimes;
pub mod synthetic;

use std::path::{Path, PathBuf};

use mquant_export::checkpoint::Checkpoint;
use mquant_export::family::{Library, Resolved, resolve};
use mquant_export::numeric::Tensor;

/// `fixtures/<name>` of this repository.
pub fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(name)
}

/// A fixture checkpoint, opened and described.
pub fn open(name: &str) -> (Checkpoint, Resolved) {
    let checkpoint = Checkpoint::open(&fixture(name)).unwrap();
    let resolved = resolve(&Library::built_in().unwrap(), &checkpoint).unwrap();
    (checkpoint, resolved)
}

/// Golden outputs of the original PyTorch code.
pub struct Goldens {
    bytes: Vec<u8>,
}

impl Goldens {
    pub fn of(name: &str) -> Self {
        Self::read(&fixture(name).join("goldens.safetensors"))
    }

    /// Tensors of any file, such as a judge's output.
    pub fn read(path: &Path) -> Self {
        Self { bytes: std::fs::read(path).unwrap() }
    }

    fn get(&self, key: &str) -> Option<(safetensors::Dtype, Vec<usize>, Vec<u8>)> {
        let tensors = safetensors::SafeTensors::deserialize(&self.bytes).unwrap();
        tensors.tensor(key).ok().map(|t| (t.dtype(), t.shape().to_vec(), t.data().to_vec()))
    }

    pub fn has(&self, key: &str) -> bool {
        self.get(key).is_some()
    }

    pub fn floats(&self, key: &str) -> Tensor<f32> {
        let (dtype, shape, data) = self.get(key).unwrap_or_else(|| panic!("no golden {key}"));
        assert_eq!(dtype, safetensors::Dtype::F32, "{key}");
        let values = data.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
        Tensor::new(shape, values).unwrap()
    }

    pub fn ints(&self, key: &str) -> Tensor<i64> {
        let (dtype, shape, data) = self.get(key).unwrap_or_else(|| panic!("no golden {key}"));
        assert_eq!(dtype, safetensors::Dtype::I64, "{key}");
        let values = data.chunks_exact(8).map(|b| i64::from_le_bytes(b.try_into().unwrap())).collect();
        Tensor::new(shape, values).unwrap()
    }
}

/// Largest absolute difference over the largest absolute golden value.
pub fn relative_error(found: &[f32], golden: &[f32]) -> f32 {
    assert_eq!(found.len(), golden.len());
    let max = golden.iter().fold(0.0f32, |m, x| m.max(x.abs()));
    let diff = found.iter().zip(golden).fold(0.0f32, |m, (a, b)| m.max((a - b).abs()));
    diff / max
}

/// Root mean square of `a - b`.
pub fn distance(a: &[f32], b: &[f32]) -> f64 {
    let sum: f64 = a.iter().zip(b).map(|(x, y)| f64::from(x - y).powi(2)).sum();
    (sum / a.len() as f64).sqrt()
}
