//! How close an exported artifact is to the model it was made from: the files themselves are run, by the runtime that users have or by the
//! reference executor on what the files hold, and compared with the float model on samples with images.
//!
//! A [`runner::Runner`] answers [`runner::Question`]s; [`report`] is what is told in the end. Which folder is an artifact, what its manifest says and
//! where files lie is the business of [`crate::pipeline`].

pub mod attribution;
pub mod bootstrap;
pub mod checks;
pub mod compare;
pub mod coordinates;
pub mod distribution;
pub mod gaps;
pub mod gguf;
pub mod llama_cpp;
pub mod markdown;
pub mod model;
pub mod onnx;
pub mod onnxruntime;
pub mod page;
pub mod report;
pub mod runner;
pub mod score;
pub mod select;
pub mod thumbnail;
pub mod trace;
pub mod words;
