//! Back-ends: a model and its weights become files. Each folder lowers the graph to one format and can read its own files back for
//! `inspect`. No family name is known here, and nothing here computes: arithmetic is the executor's.

pub mod onnx;
