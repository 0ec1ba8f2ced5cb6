//! How close an exported artifact is to the model it was made from: the files themselves are run, by the runtime that users have or by the
//! reference executor on what the files hold, and compared with the float model on samples with images.
//!
//! A [`runner::Runner`] answers [`runner::Question`]s; [`report`] is what is told in the end. Which folder is an artifact, what its manifest says and
//! where files lie is the business of [`crate::pipeline`].

pub mod markdown;
pub mod page;
pub mod report;
pub mod runner;
pub mod words;
