//! `mquant-export` as a library: a compiler from Hugging Face checkpoints of multimodal models to quantized runtime files.
//!
//! ```text
//! checkpoint + family file          calibration data
//!          |                               |
//!          v                               v
//!   graph (float, canonical) ----> ranges per linear and modality
//!          |                               |
//!          +--------- quantize <-----------+--- recipe
//!                        |
//!                     passes (modality, merge)
//!                        |
//!                   export (ONNX)             exec: the float reference beside it all
//! ```
//!
//! | module | job |
//! |---|---|
//! | [`checkpoint`] | folder to lazy tensors and JSON |
//! | [`family`] | family file + checkpoint to a described model |
//! | [`graph`] | the intermediate representation, its builders and validator |
//! | [`exec`] | the reference executor, f32 and f64 |
//! | [`tokenizer`] | text to token ids, in every format checkpoints have |
//! | [`numeric`] | tensors, products, grids |
//! | [`calibrate`] | data sets, images, prompts, observers |
//! | [`passes`] | graph in, graph out |
//! | [`quantize`] | recipe to plan, calibration, quantized model |
//! | [`export`] | lowering and writing |
//! | [`verify`] | how close an artifact is to its model |
//! | [`pipeline`] | one export from start to finish |
//! | [`cli`] | the command line |

pub mod calibrate;
pub mod checkpoint;
pub mod cli;
pub mod exec;
pub mod export;
pub mod family;
pub mod graph;
pub mod numeric;
pub mod passes;
pub mod pipeline;
mod positioned;
pub mod quantize;
pub mod tokenizer;
pub mod verify;
