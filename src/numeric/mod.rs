//! Numerics: tensors, scalar types, matrix products, quantization grids, statistics. Pure functions on slices and
//! tensors; nothing here knows a graph, a file or a model family.

pub mod bicubic;
pub mod gemm;
pub mod grid;
pub mod hadamard;
pub mod quantizer;
pub mod random;
mod real;
pub mod rotation;
mod special;
mod tensor;

pub use real::Real;
pub use special::erf;
pub use tensor::{ShapeError, Tensor};
