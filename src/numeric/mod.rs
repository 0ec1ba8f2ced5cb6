//! Numerics: tensors, scalar types, matrix products, quantization grids, statistics. Pure functions on slices and
//! tensors; nothing here knows a graph, a file or a model family.

pub mod bicubic;
mod cholesky;
mod factor;
pub mod gemm;
pub mod ggml;
mod gptq;
pub mod grid;
pub mod hadamard;
mod hessian;
mod lattice;
pub mod quantizer;
pub mod random;
mod real;
pub mod rotation;
pub mod rounding;
mod special;
pub mod suppression;
mod tensor;
mod triangle;

pub use factor::{Factor, FactorError, FactorOptions, LARGEST_DAMPING};
pub use gptq::{gptq, row_errors};
pub use hessian::Hessian;
pub use lattice::Lattice;
pub use real::Real;
pub use special::erf;
pub use tensor::{ShapeError, Tensor};
