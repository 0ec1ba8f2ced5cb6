//! A verification from start to finish: the files are those that were exported, the float model answers, the artifact is asked the same, the difference is measured, checked and
//! attributed.

mod answers;
mod artifact;
mod configuration;
mod data;
mod request;
mod run;
mod summary;

pub use request::VerifyRequest;
pub use run::verify;
