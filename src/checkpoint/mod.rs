//! A Hugging Face checkpoint folder as lazy tensors and small JSON files. The only module that reads model inputs from
//! disk; it knows files and formats, and nothing about model families (`family`) or arithmetic (`numeric`).
//!
//! Opening checks everything that can be known without reading weights (headers, byte ranges, index against shards) and
//! reports all problems at once. Weights are mapped, so a checkpoint larger than memory is fine; a tensor is decoded
//! when it is asked for, and NaN or infinite weights are refused then. A checkpoint must not be changed while it is
//! open (see `mmap.rs`).

mod dtype;
mod error;
mod folder;
pub mod header;
mod index;
mod layout;
mod mmap;
mod open;
mod problem;
mod side_files;
mod tensor;

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

pub use dtype::Dtype;
pub use error::{CheckpointError, FileError};
pub use problem::Problem;
pub use side_files::SideFiles;
pub use tensor::TensorRef;

use mmap::MappedFile;

/// An open checkpoint. `Send + Sync`: tensors may be read from many threads.
#[derive(Debug)]
pub struct Checkpoint {
    files: SideFiles,
    shards: Vec<Shard>,
    /// Names of the weight files read, and of the index if one led to them.
    weight_files: Vec<String>,
    tensors: BTreeMap<String, Location>,
}

/// One mapped weight file.
#[derive(Debug)]
struct Shard {
    path: PathBuf,
    map: MappedFile,
}

/// Where a tensor is: `bytes` is inside the file of `shards[shard]` (checked by `layout.rs`).
#[derive(Debug)]
struct Location {
    shard: usize,
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Range<usize>,
}

impl Checkpoint {
    /// Opens the folder `dir`: reads `config.json` and the header of every weight file, maps the weights, reads none.
    ///
    /// Weights are `model.safetensors`, or the shards of `model.safetensors.index.json`. When both exist the single
    /// file is read and the index ignored, as transformers does; see [`unread_weights`](Self::unread_weights).
    ///
    /// # Errors
    /// [`CheckpointError::Folder`] when `dir` cannot be read as a folder; [`CheckpointError::Invalid`] with *all*
    /// problems otherwise.
    pub fn open(dir: &Path) -> Result<Self, CheckpointError> {
        open::open(dir)
    }

    /// The files besides the weights.
    pub fn files(&self) -> &SideFiles {
        &self.files
    }

    /// See [`SideFiles::dir`].
    pub fn dir(&self) -> &Path {
        self.files.dir()
    }

    /// See [`SideFiles::config`].
    pub fn config(&self) -> &serde_json::Value {
        self.files.config()
    }

    /// See [`SideFiles::json`].
    ///
    /// # Errors
    /// As there.
    pub fn json(&self, name: &str) -> Result<Option<serde_json::Value>, CheckpointError> {
        self.files.json(name)
    }

    /// See [`SideFiles::text`].
    ///
    /// # Errors
    /// As there.
    pub fn text(&self, name: &str) -> Result<Option<String>, CheckpointError> {
        self.files.text(name)
    }

    /// See [`SideFiles::path`].
    ///
    /// # Errors
    /// As there.
    pub fn path(&self, name: &str) -> Result<Option<PathBuf>, CheckpointError> {
        self.files.path(name)
    }

    /// See [`SideFiles::has_file`].
    pub fn has_file(&self, name: &str) -> bool {
        self.files.has_file(name)
    }

    /// The tensor `name`, not read yet.
    pub fn tensor(&self, name: &str) -> Option<TensorRef<'_>> {
        self.tensors.get_key_value(name).map(|(name, location)| self.tensor_at(name, location))
    }

    /// All tensors, sorted by name.
    pub fn tensors(&self) -> impl ExactSizeIterator<Item = TensorRef<'_>> {
        self.tensors.iter().map(|(name, location)| self.tensor_at(name, location))
    }

    fn tensor_at<'a>(&'a self, name: &'a str, location: &'a Location) -> TensorRef<'a> {
        let shard = &self.shards[location.shard];
        TensorRef {
            name,
            file: &shard.path,
            dtype: location.dtype,
            shape: &location.shape,
            bytes: &shard.map.bytes()[location.bytes.clone()],
        }
    }

    /// Number of elements in all tensors. Tied weights count once, as stored.
    pub fn total_parameters(&self) -> u64 {
        self.tensors().map(|tensor| tensor.elements() as u64).sum()
    }

    /// Paths of the files that make up the input, sorted: configuration, tokenizer, processor and weight files with
    /// their index. This is the list to hash: other files of the folder (readmes, code, unread weights) are not in it.
    pub fn input_files(&self) -> Vec<PathBuf> {
        let side = self.files.present();
        let mut names: Vec<&str> = side.chain(self.weight_files.iter().map(String::as_str)).collect();
        names.sort_unstable();
        names.into_iter().map(|name| self.dir().join(name)).collect()
    }

    /// Names of weight files and weight indices in the folder that are *not* read, sorted, so that a caller can say
    /// so: copies in other formats, an index beside a single file, shards that no index names.
    pub fn unread_weights(&self) -> Vec<String> {
        let ends =
            [".safetensors", ".safetensors.index.json", ".bin", ".bin.index.json", ".pt", ".pth", ".gguf"];
        let mut names = self.files.entries();
        names.retain(|name| ends.iter().any(|end| name.ends_with(end)) && !self.weight_files.contains(name));
        names
    }
}

#[cfg(test)]
mod tests;
