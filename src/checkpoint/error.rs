//! What can go wrong with a checkpoint. Every variant names its subject (file, tensor) with what was expected and what
//! was found. No checks live here.
//!
//! Causes are part of the message (fields are called `cause`, not `source`): problems are printed as a list, one line
//! each, where a chained source would be lost.

use std::fmt;
use std::path::PathBuf;

use super::dtype::Dtype;
use super::problem::Problem;

/// Error of opening a checkpoint or of reading from an open one.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// The path given is not a folder that can be read.
    #[error(
        "{dir}: cannot be read as a checkpoint folder: {cause} (a folder on disk is expected; `hf download \
        <model> --local-dir <folder>` makes one)",
        dir = dir.display()
    )]
    Folder {
        /// The path as given.
        dir: PathBuf,
        /// Why it cannot be read.
        cause: std::io::Error,
    },
    /// The folder can be read, but is not a sound checkpoint. Holds *all* problems found.
    #[error("{}", Report { dir, problems })]
    Invalid {
        /// The checkpoint folder.
        dir: PathBuf,
        /// Everything that is wrong; never empty.
        problems: Vec<Problem>,
    },
    /// One file could not be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// A tensor of this element type cannot be read as `f32`.
    #[error(
        "{file}: tensor {tensor:?}: element type {dtype} cannot be read as float (F64, F32, F16 and BF16 \
        can)",
        file = file.display()
    )]
    NotFloat {
        /// The weight file.
        file: PathBuf,
        /// The tensor.
        tensor: String,
        /// Its stored type.
        dtype: Dtype,
    },
    /// A weight is NaN or infinite, which no quantization grid can hold.
    #[error(
        "{file}: tensor {tensor:?}: element {index} (row-major) is {value} as float32; weights must be \
        finite (is the file damaged, or the training run diverged?)",
        file = file.display()
    )]
    NonFinite {
        /// The weight file.
        file: PathBuf,
        /// The tensor.
        tensor: String,
        /// Row-major index of the first such element.
        index: usize,
        /// Its value (an F64 beyond the range of f32 shows as infinite).
        value: f32,
    },
    /// A weight file ends before the tensor's data, which it held when it was opened.
    #[error(
        "{file}: tensor {tensor:?}: the file ends at byte {found}, the tensor at {expected}; it was longer when it was \
        opened (is it being written? a checkpoint must not change while it is read)",
        file = file.display()
    )]
    CutShort {
        /// The weight file.
        file: PathBuf,
        /// The tensor.
        tensor: String,
        /// One past the tensor's last byte in the file.
        expected: u64,
        /// Length of the file now.
        found: u64,
    },
    /// The operating system refused to read a tensor's data.
    #[error("{file}: tensor {tensor:?}: cannot be read: {cause}", file = file.display())]
    Read {
        /// The weight file.
        file: PathBuf,
        /// The tensor.
        tensor: String,
        /// What the system said.
        cause: std::io::Error,
    },
    /// Elements beyond the end of a tensor were asked for.
    #[error(
        "{file}: tensor {tensor:?}: elements {start}..+{count} asked for, it has {elements}",
        file = file.display()
    )]
    Range {
        /// The weight file.
        file: PathBuf,
        /// The tensor.
        tensor: String,
        /// First element asked for.
        start: usize,
        /// Number of elements asked for.
        count: usize,
        /// Number of elements there are.
        elements: usize,
    },
}

/// One file of the checkpoint folder cannot be read as what it should be.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// A required file is not there.
    #[error("{file}: this file is required and missing", file = file.display())]
    Missing {
        /// Path of the file.
        file: PathBuf,
    },
    /// A file was asked for by something else than one plain name.
    #[error("{name:?}: not a plain file name (no folders, no `..`, no control characters)")]
    NotPlainName {
        /// The name.
        name: String,
    },
    /// A symbolic link whose target is gone (an interrupted or pruned hub download).
    #[error("{file}: symbolic link to a file that does not exist", file = file.display())]
    Dangling {
        /// Path of the link.
        file: PathBuf,
    },
    /// A symbolic link that leads out of the checkpoint (and is not a hub-cache blob link).
    #[error(
        "{file}: symbolic link to {target}, outside the checkpoint folder",
        file = file.display(),
        target = target.display()
    )]
    Escapes {
        /// Path of the link.
        file: PathBuf,
        /// Where it leads.
        target: PathBuf,
    },
    /// Something else than a regular file.
    #[error("{file}: not a regular file", file = file.display())]
    NotRegular {
        /// Path of the thing.
        file: PathBuf,
    },
    /// The operating system refused.
    #[error("{file}: cannot be read: {cause}", file = file.display())]
    Io {
        /// Path of the file.
        file: PathBuf,
        /// What the system said.
        cause: std::io::Error,
    },
    /// A text file larger than this tool is willing to hold in memory.
    #[error("{file}: {len} bytes, at most {cap} are accepted for a text file", file = file.display())]
    TooLarge {
        /// Path of the file.
        file: PathBuf,
        /// Its size in bytes.
        len: u64,
        /// The limit in bytes.
        cap: u64,
    },
    /// A text file that is not UTF-8.
    #[error("{file}: not UTF-8 (first bad byte at offset {offset})", file = file.display())]
    NotUtf8 {
        /// Path of the file.
        file: PathBuf,
        /// Offset of the first bad byte.
        offset: usize,
    },
    /// Not JSON, or JSON of another shape than required; the cause gives line and column.
    #[error("{file}: cannot be read as JSON: {cause}", file = file.display())]
    Json {
        /// Path of the file.
        file: PathBuf,
        /// What the parser said, with line and column.
        cause: serde_json::Error,
    },
}

/// Prints the list of problems, then each distinct hint once.
struct Report<'a> {
    dir: &'a PathBuf,
    problems: &'a [Problem],
}

impl fmt::Display for Report<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let n = self.problems.len();
        let noun = if n == 1 { "problem" } else { "problems" };
        write!(f, "{}: not a usable checkpoint, {n} {noun}:", self.dir.display())?;
        for problem in self.problems {
            write!(f, "\n  - {problem}")?;
        }
        let mut hints = Vec::new();
        for hint in self.problems.iter().filter_map(Problem::hint) {
            if !hints.contains(&hint) {
                hints.push(hint);
                write!(f, "\nhint: {hint}")?;
            }
        }
        Ok(())
    }
}
