//! Families: `converters/<family>.yaml` and a checkpoint in, a [`Resolved`] model out, or its [`Description`] alone where there are no weights. `schema` is the file format, `source`
//! joins a file with its parts and options, `library` finds the file that fits a checkpoint, `values` reads numbers from the checkpoint's JSON, `account` maps every tensor to a role (a `binding`)
//! or a reason, `resolve` ties them together, `weights` serves the mapped tensors. No graph is built and no family is named here.

mod account;
mod binding;
mod error;
mod gguf;
pub mod inputs;
mod library;
mod resolve;
pub mod schema;
mod source;
mod spec;
mod values;
mod weights;

pub use account::Ignored;
pub use binding::{Binding, RowSet};
pub use error::{FamilyError, FamilyProblem};
pub use gguf::{provenance, vocabulary_keys};
pub use library::Library;
pub use resolve::{Description, GenaiPlan, Resolved, describe, resolve};
pub use weights::CheckpointWeights;
