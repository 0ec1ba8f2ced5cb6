//! What does not fit in memory between two steps of a quantization, in temporary files: activations between two blocks of the model
//! ([`ActivationStore`]) and weights that are quantized and not yet written ([`CodeStore`]). The files have no name while they are open (where the
//! system allows that), so nothing is left behind, however the program ends.

mod activations;
mod codes;
mod file;
#[cfg(test)]
mod tests;

use std::io;
use std::path::PathBuf;

pub use activations::{ActivationStore, Handle, Precision};
pub use codes::CodeStore;

/// Why something could not be put into a store or got from it.
#[derive(Debug, thiserror::Error)]
pub enum SpillError {
    /// The temporary file cannot be made.
    #[error("a temporary file cannot be made in {}: {cause}\nhint: the folder must exist and be writable", .dir.display())]
    Create {
        /// The folder.
        dir: PathBuf,
        /// What the system says.
        cause: io::Error,
    },
    /// The temporary file cannot be written.
    #[error("{bytes} bytes cannot be written to a temporary file in {}: {cause}\nhint: {hint}", .dir.display())]
    Write {
        /// The folder.
        dir: PathBuf,
        /// Length of what was to be written.
        bytes: u64,
        /// What the system says.
        cause: io::Error,
        /// What to do when the disk is full.
        hint: &'static str,
    },
    /// The temporary file cannot be read back.
    #[error("{bytes} bytes cannot be read back from a temporary file in {}: {cause}", .dir.display())]
    Read {
        /// The folder.
        dir: PathBuf,
        /// Length of what was to be read.
        bytes: u64,
        /// What the system says.
        cause: io::Error,
    },
    /// A handle of another store.
    #[error("internal: the handle of a stored tensor belongs to another store")]
    ForeignHandle,
    /// A role that was never put into the store.
    #[error("internal: no codes are stored for {role}")]
    UnknownRole {
        /// The role asked for.
        role: String,
    },
    /// A role that was put into the store before.
    #[error("internal: codes for {role} are stored already")]
    RoleTwice {
        /// The role.
        role: String,
    },
    /// A stored tensor's shape and values contradict each other.
    #[error("internal: a stored tensor has lost its shape")]
    Shape(#[from] crate::numeric::ShapeError),
}
