//! What can go wrong with a GGUF file, written or read. Problems of a header are collected and told together, each with its key or tensor.

use std::fmt;
use std::io;
use std::path::PathBuf;

/// Most problems that a message lists: one mistake in a header tends to spoil every tensor behind it.
const LISTED: usize = 20;

/// One thing that is wrong with a header, or with what is to be written as one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The key, the tensor or the part of the file.
    pub subject: String,
    /// What was expected and what was found.
    pub what: String,
}

impl Problem {
    /// About any part of a file.
    pub(super) fn new(subject: impl Into<String>, what: impl Into<String>) -> Self {
        Self { subject: subject.into(), what: what.into() }
    }

    /// About a key of the metadata.
    pub(super) fn key(key: &str, what: impl Into<String>) -> Self {
        Self::new(format!("key {key:?}"), what)
    }

    /// About a tensor.
    pub(super) fn tensor(name: &str, what: impl Into<String>) -> Self {
        Self::new(format!("tensor {name:?}"), what)
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.subject, self.what)
    }
}

/// Why a GGUF file could not be written or read.
#[derive(Debug, thiserror::Error)]
pub enum GgufError {
    /// A file could not be created or written (no space, no permission).
    #[error("{} could not be written", .path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Cause.
        source: io::Error,
    },
    /// What is to be written is not what a GGUF file can hold.
    #[error("{stem}.gguf cannot be written{}", .problems)]
    Blueprint {
        /// Name of the file without its ending.
        stem: String,
        /// Everything that is wrong; never empty.
        problems: Problems,
    },
    /// A tensor was given in another number of bytes than its sizes and type take.
    #[error("tensor {tensor:?}: {expected} bytes are declared, {found} were given")]
    TensorBytes {
        /// The tensor.
        tensor: String,
        /// Bytes of its sizes and type.
        expected: u64,
        /// Bytes given.
        found: u64,
    },
    /// A file could not be opened or read.
    #[error("{} could not be read", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Cause.
        source: io::Error,
    },
    /// A file is no GGUF file, or a damaged one.
    #[error("{}: not a usable GGUF file{}", .path.display(), .problems)]
    Invalid {
        /// The file, of several shards the one that is wrong.
        path: PathBuf,
        /// Everything that is wrong; never empty.
        problems: Problems,
    },
    /// A tensor that the file does not have was asked for.
    #[error("{}: no tensor is named {tensor:?}; `inspect --json` lists those there are", .path.display())]
    NoTensor {
        /// The file.
        path: PathBuf,
        /// The name asked for.
        tensor: String,
    },
    /// A tensor does not fit into memory.
    #[error("{}: tensor {tensor:?}: no memory for {bytes} bytes", .path.display())]
    Memory {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// Bytes that were needed.
        bytes: u64,
    },
}

impl GgufError {
    /// Whether the user can mend it: files and disks, not what the program itself was about to write.
    pub fn is_user_error(&self) -> bool {
        !matches!(self, Self::Blueprint { .. } | Self::TensorBytes { .. })
    }
}

/// Problems, of which the first are kept: memory must not grow with what is wrong.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Problems {
    first: Vec<Problem>,
    count: usize,
}

impl Problems {
    /// Adds one.
    pub(super) fn push(&mut self, problem: Problem) {
        self.count += 1;
        if self.first.len() < LISTED {
            self.first.push(problem);
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.count
    }

    /// The first of them.
    pub fn first(&self) -> &[Problem] {
        &self.first
    }

    /// `value` if there are none.
    pub(super) fn or<T>(self, value: T) -> Result<T, Self> {
        if self.is_empty() { Ok(value) } else { Err(self) }
    }
}

impl From<Problem> for Problems {
    fn from(problem: Problem) -> Self {
        Self { first: vec![problem], count: 1 }
    }
}

impl Extend<Problem> for Problems {
    fn extend<I: IntoIterator<Item = Problem>>(&mut self, problems: I) {
        problems.into_iter().for_each(|p| self.push(p));
    }
}

/// The end of a message: one problem on the same line, several as a list.
impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let ([problem], 1) = (self.first.as_slice(), self.count) {
            return write!(f, ": {problem}");
        }
        write!(f, ", {} problems:", self.count)?;
        self.first.iter().try_for_each(|p| write!(f, "\n  - {p}"))?;
        match self.count - self.first.len() {
            0 => Ok(()),
            more => write!(f, "\n  - and {more} more"),
        }
    }
}
