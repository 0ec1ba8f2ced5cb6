//! Integration tests: the whole pipeline against golden outputs and real runtimes. One binary, so that the crate is linked once.
//! Judges in Python run in the virtual environment that `./test.sh` makes.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

#[path = "../common/mod.rs"]
mod common;

mod aifs;
mod ci;
mod cli;
mod contradictions;
mod damaged;
mod determinism;
mod docs;
mod embedded;
mod families;
mod forms;
mod generate;
mod ggml;
mod gguf_accuracy;
mod gguf_file;
mod gguf_reference;
mod gguf_routes;
mod goldens;
mod layouts;
mod llama;
mod long_context;
mod memory;
mod online;
mod onnx;
mod ops;
mod page;
mod passes;
mod planted;
mod presets;
mod refusals;
mod rotation;
mod run;
mod runtimes;
mod schemas;
mod sizes;
mod trained;
mod verify;
mod w4a8;
