//! A Hugging Face checkpoint folder as lazy tensors and small JSON files. The only module that reads model inputs from
//! disk; it knows files and formats, and nothing about model families (`family`) or arithmetic (`numeric`).
//!
//! Opening checks everything that can be known without reading weights (headers, byte ranges, index against shards) and
//! reports all problems at once. Weights stay in their files, so a checkpoint larger than memory is fine; a tensor is
//! read and decoded block by block when it is asked for, and NaN or infinite weights are refused then. Files are read
//! by position and not mapped: resident pages of a map count as memory of the process and grow with the model, at the
//! same speed (float export of 227 MB in 3.2 s: peak 246 MB mapped, 28 MB read), and a file cut short meanwhile would
//! end the process instead of the read.

mod dtype;
mod error;
mod folder;
pub mod header;
mod index;
mod layout;
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

use crate::positioned::PositionedFile;

/// An open checkpoint. `Send + Sync`: tensors may be read from many threads.
#[derive(Debug)]
pub struct Checkpoint {
    files: SideFiles,
    shards: Vec<Shard>,
    /// Names of the weight files read, and of the index if one led to them.
    weight_files: Vec<String>,
    tensors: BTreeMap<String, Location>,
}

/// One open weight file.
#[derive(Debug)]
struct Shard {
    path: PathBuf,
    file: PositionedFile,
}

/// Where a tensor is: `bytes` was inside the file of `shards[shard]` when it was opened (checked by `layout.rs`).
#[derive(Debug)]
struct Location {
    shard: usize,
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Range<u64>,
}

impl Checkpoint {
    /// Opens the folder `dir`: reads `config.json` and the header of every weight file, no weights.
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
            path: &shard.path,
            data: &shard.file,
            begin: location.bytes.start,
            end: location.bytes.end,
            dtype: location.dtype,
            shape: &location.shape,
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
