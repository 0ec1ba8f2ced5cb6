//! Back-ends: a model and its weights become files. Each folder lowers the graph to one format and can read its own files back for
//! `inspect`; `safetensors` writes plain tensors, such as a model's inputs. No family name is known here, and nothing here computes:
//! arithmetic is the executor's.

pub mod gguf;
pub mod onnx;
pub mod safetensors;
