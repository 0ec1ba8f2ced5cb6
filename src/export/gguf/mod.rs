//! GGUF files (version 3): metadata and tensors in blocks of ggml, as an unmodified llama.cpp loads them.

mod cursor;
pub mod emit;
mod error;
mod header;
mod layout;
pub mod mquant;
pub mod name;
mod parse;
pub mod read;
mod shards;
#[cfg(test)]
mod tests;
mod value;
pub mod write;

pub use error::{GgufError, Problem, Problems};
pub use read::GgufFile;
pub use shards::is_later_shard;
pub use write::Blueprint;

use crate::numeric::ggml::BlockType;

/// A value of the metadata.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
#[serde(untagged)]
pub enum Value {
    /// `uint8`.
    U8(u8),
    /// `int8`.
    I8(i8),
    /// `uint16`.
    U16(u16),
    /// `int16`.
    I16(i16),
    /// `uint32`.
    U32(u32),
    /// `int32`.
    I32(i32),
    /// `float32`.
    F32(f32),
    /// `bool`.
    Bool(bool),
    /// `string`.
    String(String),
    /// `array`, of one type.
    Array(Array),
    /// `uint64`.
    U64(u64),
    /// `int64`.
    I64(i64),
    /// `float64`.
    F64(f64),
}

/// An array of the metadata.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
#[serde(untagged)]
pub enum Array {
    /// `uint8`.
    U8(Vec<u8>),
    /// `int8`.
    I8(Vec<i8>),
    /// `uint16`.
    U16(Vec<u16>),
    /// `int16`.
    I16(Vec<i16>),
    /// `uint32`.
    U32(Vec<u32>),
    /// `int32`.
    I32(Vec<i32>),
    /// `float32`.
    F32(Vec<f32>),
    /// `bool`.
    Bool(Vec<bool>),
    /// `string`.
    String(Vec<String>),
    /// `uint64`.
    U64(Vec<u64>),
    /// `int64`.
    I64(Vec<i64>),
    /// `float64`.
    F64(Vec<f64>),
}

/// Keys and values of a file, in the order they are written. Keys are unique.
pub type Metadata = Vec<(String, Value)>;

/// A tensor to be written or found in a file.
#[derive(Clone, Debug, PartialEq)]
pub struct TensorInfo {
    /// Name, at most 63 bytes.
    pub name: String,
    /// Sizes, the fastest running one first as ggml counts them: a matrix `[out, in]` has `[in, out]` here. One to four.
    pub dims: Vec<u64>,
    /// How values are stored.
    pub kind: BlockType,
}

/// How files are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GgufOptions {
    /// Most bytes of tensors per file of the text model; absent: one file, whatever its size. A projector is always one file.
    pub split: Option<u64>,
}
