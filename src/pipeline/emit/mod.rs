//! The files that a runtime loads, one back-end per file.

pub(super) mod gguf;
pub(super) mod onnx;
