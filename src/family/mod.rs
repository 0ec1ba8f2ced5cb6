//! Families: `converters/<family>.yaml` and a checkpoint in, a [`Resolved`] model description out. `schema` is the file format, `library`
//! finds the file that fits a checkpoint, `values` reads numbers from the checkpoint's JSON, `account` maps every tensor to a role or
//! a reason, `resolve` ties them together, `weights` serves the mapped tensors. No graph is built and no family is named here.

mod account;
mod error;
pub mod inputs;
mod library;
mod resolve;
pub mod schema;
mod values;
mod weights;

pub use account::{Binding, Ignored};
pub use error::{FamilyError, FamilyProblem};
pub use library::Library;
pub use resolve::{GenaiPlan, Resolved, resolve};
pub use weights::CheckpointWeights;
