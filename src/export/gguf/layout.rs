//! Fixed numbers of the format and the rules for single tensors, the same for writer and reader. Source: `docs/gguf.md` of ggml and
//! `ggml/src/gguf.cpp` of llama.cpp, which refuses what breaks them.

use super::error::Problem;
use super::value::ValueType;
use super::{Metadata, TensorInfo, Value};
use crate::numeric::ggml::BlockType;

/// First bytes of a file.
pub const MAGIC: [u8; 4] = *b"GGUF";
/// Version that is written.
pub const VERSION: u32 = 3;
/// Bytes that tensor data begins at a multiple of, unless [`ALIGNMENT_KEY`] says otherwise.
pub const DEFAULT_ALIGNMENT: u64 = 32;
/// `uint32`, a power of two.
pub const ALIGNMENT_KEY: &str = "general.alignment";
/// Longest name of a tensor in bytes (`GGML_MAX_NAME` counts a final zero).
pub const MAX_NAME: usize = 63;
/// Most sizes of a tensor (`GGML_MAX_DIMS`).
pub const MAX_DIMS: usize = 4;

impl TensorInfo {
    /// Values of the tensor; None where ggml's 64-bit signed integers cannot count them.
    pub fn elements(&self) -> Option<u64> {
        let count = self.dims.iter().try_fold(1u64, |n, d| n.checked_mul(*d))?;
        i64::try_from(count).is_ok().then_some(count)
    }

    /// Bytes of the tensor, of whole blocks.
    ///
    /// # Errors
    /// The [`Problem`] of a tensor that no GGUF file may have: its name is empty or longer than 63 bytes, it has not one to four sizes, one of them is
    /// zero, its values or bytes exceed 63 bits, or its blocks do not divide its rows.
    pub fn bytes(&self) -> Result<u64, Problem> {
        let wrong = |what: String| Err(Problem::tensor(&self.name, what));
        if self.name.is_empty() || self.name.len() > MAX_NAME {
            return wrong(format!("its name has {} bytes; 1 to {MAX_NAME} are allowed", self.name.len()));
        }
        let &[cols, ..] = self.dims.as_slice() else {
            return wrong(format!("it has no sizes; 1 to {MAX_DIMS} are expected"));
        };
        if self.dims.len() > MAX_DIMS {
            return wrong(format!("it has {} sizes; 1 to {MAX_DIMS} are expected", self.dims.len()));
        }
        if self.dims.contains(&0) {
            return wrong(format!("one of its sizes {:?} is zero", self.dims));
        }
        let (values, bytes) = (self.kind.values() as u64, self.kind.bytes() as u64);
        let size = self.elements().and_then(|n| (n / values).checked_mul(bytes));
        let Some(size) = size.filter(|n| i64::try_from(*n).is_ok()) else {
            return wrong(format!("its sizes {:?} overflow 63 bits", self.dims));
        };
        if !cols.is_multiple_of(values) {
            let kind = self.kind.name();
            return wrong(format!("rows of {cols} values are not made of {kind} blocks of {values}"));
        }
        Ok(size)
    }
}

/// Alignment of tensor data in bytes as the metadata says.
///
/// # Errors
/// The [`Problem`] of a value that is no `uint32` or no power of two.
pub fn alignment(metadata: &Metadata) -> Result<u64, Problem> {
    match find(metadata, ALIGNMENT_KEY) {
        None => Ok(DEFAULT_ALIGNMENT),
        Some(Value::U32(n)) if n.is_power_of_two() => Ok(u64::from(*n)),
        Some(Value::U32(n)) => Err(Problem::key(ALIGNMENT_KEY, format!("{n} is not a power of two"))),
        Some(other) => Err(wrong_type(ALIGNMENT_KEY, ValueType::U32, other)),
    }
}

/// The value of a key.
pub fn find<'a>(metadata: &'a Metadata, key: &str) -> Option<&'a Value> {
    metadata.iter().find(|(k, _)| k == key).map(|(_, value)| value)
}

/// A value of another type than its key has.
pub fn wrong_type(key: &str, expected: ValueType, found: &Value) -> Problem {
    Problem::key(
        key,
        format!("a value of type {} is expected, found {}", expected.name(), found.value_type().name()),
    )
}

/// Names of the types of `enum ggml_type` (`ggml/include/ggml.h`) that are not in [`BlockType`], so that a file that has one can be told
/// from a damaged one.
const OTHER_TYPES: [(u32, &str); 22] = [
    (9, "q8_1"),
    (15, "q8_k"),
    (16, "iq2_xxs"),
    (17, "iq2_xs"),
    (18, "iq3_xxs"),
    (19, "iq1_s"),
    (20, "iq4_nl"),
    (21, "iq3_s"),
    (22, "iq2_s"),
    (23, "iq4_xs"),
    (24, "i8"),
    (25, "i16"),
    (26, "i32"),
    (27, "i64"),
    (28, "f64"),
    (29, "iq1_m"),
    (34, "tq1_0"),
    (35, "tq2_0"),
    (39, "mxfp4"),
    (40, "nvfp4"),
    (41, "q1_0"),
    (42, "q2_0"),
];

/// The type of a tensor's values.
///
/// # Errors
/// The [`Problem`] of a number that ggml does not know, or that is not read here.
pub fn block_type(tensor: &str, id: u32) -> Result<BlockType, Problem> {
    BlockType::of_id(id).ok_or_else(|| {
        let what = match OTHER_TYPES.iter().find(|(other, _)| *other == id) {
            Some((_, name)) => format!("values of type {id} ({name}) cannot be read by this program"),
            None => format!("there is no type {id} of values"),
        };
        let known: Vec<&str> = BlockType::all().map(BlockType::name).collect();
        Problem::tensor(tensor, format!("{what}; known types are {}", known.join(", ")))
    })
}
