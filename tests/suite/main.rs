//! Integration tests: the whole pipeline against golden outputs and real runtimes. One binary, so that the crate is linked once.
//! Judges in Python run in the virtual environment that `./test.sh` makes.

#[path = "../common/mod.rs"]
mod common;

mod cli;
mod goldens;
mod onnx;
mod trained;
