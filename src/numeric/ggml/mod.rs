//! Block types of ggml: which values the weights of a row may take in a GGUF file, and their bytes. Layouts and reference rounding follow
//! `ggml/src/ggml-common.h` and `ggml/src/ggml-quants.c` of llama.cpp. Pure functions on slices.
//!
//! Every value of a quantized type is `step * code + offset`, with step and offset shared by a group of neighbours ([`Lattice`](super::Lattice)).
//! A type is one file with its codec (where codes and scales stand in a block, and ggml's rounding) and one line in `dispatch`.

mod bits;
mod codec;
mod codes;
mod fit;
mod float;
mod matrix;
mod q2_k;
mod q3_k;
mod q4_0;
mod q4_1;
mod q4_k;
mod q5_0;
mod q5_1;
mod q5_k;
mod q6_k;
mod q8_0;
mod search;
mod super_block;

pub(in crate::numeric) use fit::fitted;
pub use matrix::{BlockError, BlockMatrix, reference};

/// Calls a function for the codec of a type, or gives the value for floats.
macro_rules! dispatch {
    ($kind:expr, $function:ident $arguments:tt, $float:expr) => {
        match $kind {
            BlockType::F32 | BlockType::F16 | BlockType::Bf16 => $float,
            BlockType::Q4_0 => $function::<super::q4_0::Q4_0> $arguments,
            BlockType::Q4_1 => $function::<super::q4_1::Q4_1> $arguments,
            BlockType::Q5_0 => $function::<super::q5_0::Q5_0> $arguments,
            BlockType::Q5_1 => $function::<super::q5_1::Q5_1> $arguments,
            BlockType::Q8_0 => $function::<super::q8_0::Q8_0> $arguments,
            BlockType::Q2K => $function::<super::q2_k::Q2K> $arguments,
            BlockType::Q3K => $function::<super::q3_k::Q3K> $arguments,
            BlockType::Q4K => $function::<super::q4_k::Q4K> $arguments,
            BlockType::Q5K => $function::<super::q5_k::Q5K> $arguments,
            BlockType::Q6K => $function::<super::q6_k::Q6K> $arguments,
        }
    };
}
use dispatch;

/// Floats where codes are needed.
fn float_error(kind: BlockType) -> BlockError {
    BlockError::Float { kind }
}

/// How ggml stores the values of a row. Rows are made of blocks of [`values`](Self::values) neighbours that take [`bytes`](Self::bytes) each.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    serde::Serialize,
    serde::Deserialize,
    schemars::JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum BlockType {
    /// IEEE single precision.
    F32,
    /// IEEE half precision.
    F16,
    /// Upper half of single precision.
    Bf16,
    /// 32 codes of 4 bits, a scale.
    #[serde(rename = "q4_0")]
    Q4_0,
    /// 32 codes of 4 bits, a scale, a minimum.
    #[serde(rename = "q4_1")]
    Q4_1,
    /// 32 codes of 5 bits, a scale.
    #[serde(rename = "q5_0")]
    Q5_0,
    /// 32 codes of 5 bits, a scale, a minimum.
    #[serde(rename = "q5_1")]
    Q5_1,
    /// 32 codes of 8 bits, a scale.
    #[serde(rename = "q8_0")]
    Q8_0,
    /// 256 codes of 2 bits; 16 sub-blocks with 4-bit scales and minimums.
    #[serde(rename = "q2_k")]
    Q2K,
    /// 256 codes of 3 bits; 16 sub-blocks with 6-bit scales.
    #[serde(rename = "q3_k")]
    Q3K,
    /// 256 codes of 4 bits; 8 sub-blocks with 6-bit scales and minimums.
    #[serde(rename = "q4_k")]
    Q4K,
    /// 256 codes of 5 bits; 8 sub-blocks with 6-bit scales and minimums.
    #[serde(rename = "q5_k")]
    Q5K,
    /// 256 codes of 6 bits; 16 sub-blocks with 8-bit scales.
    #[serde(rename = "q6_k")]
    Q6K,
}

/// What is the same for all blocks of a type.
struct Layout {
    kind: BlockType,
    name: &'static str,
    /// `enum ggml_type`.
    id: u32,
    values: usize,
    bytes: usize,
}

const fn layout(kind: BlockType, name: &'static str, id: u32, values: usize, bytes: usize) -> Layout {
    Layout { kind, name, id, values, bytes }
}

/// In the order of the enum.
const LAYOUTS: [Layout; 13] = [
    layout(BlockType::F32, "f32", 0, 1, 4),
    layout(BlockType::F16, "f16", 1, 1, 2),
    layout(BlockType::Bf16, "bf16", 30, 1, 2),
    layout(BlockType::Q4_0, "q4_0", 2, 32, 18),
    layout(BlockType::Q4_1, "q4_1", 3, 32, 20),
    layout(BlockType::Q5_0, "q5_0", 6, 32, 22),
    layout(BlockType::Q5_1, "q5_1", 7, 32, 24),
    layout(BlockType::Q8_0, "q8_0", 8, 32, 34),
    layout(BlockType::Q2K, "q2_k", 10, 256, 84),
    layout(BlockType::Q3K, "q3_k", 11, 256, 110),
    layout(BlockType::Q4K, "q4_k", 12, 256, 144),
    layout(BlockType::Q5K, "q5_k", 13, 256, 176),
    layout(BlockType::Q6K, "q6_k", 14, 256, 210),
];

impl BlockType {
    /// All types.
    pub fn all() -> impl Iterator<Item = Self> {
        LAYOUTS.iter().map(|l| l.kind)
    }

    /// The type of a name such as `q4_k`, in any case.
    pub fn of_name(name: &str) -> Option<Self> {
        LAYOUTS.iter().find(|l| l.name.eq_ignore_ascii_case(name)).map(|l| l.kind)
    }

    /// The type of a number in files (`enum ggml_type`).
    pub fn of_id(id: u32) -> Option<Self> {
        LAYOUTS.iter().find(|l| l.id == id).map(|l| l.kind)
    }

    fn layout(self) -> &'static Layout {
        &LAYOUTS[self as usize]
    }

    /// Name in recipes and reports, such as `q4_k`.
    pub fn name(self) -> &'static str {
        self.layout().name
    }

    /// Number in files (`enum ggml_type`).
    pub fn id(self) -> u32 {
        self.layout().id
    }

    /// Values of a block; 1 for floats.
    pub fn values(self) -> usize {
        self.layout().values
    }

    /// Bytes of a block.
    pub fn bytes(self) -> usize {
        self.layout().bytes
    }

    /// Whether values are codes of a block with scales, not floats.
    pub fn is_quantized(self) -> bool {
        self.values() > 1
    }

    /// Whether rows of `cols` values are made of whole blocks.
    pub fn divides(self, cols: usize) -> bool {
        cols.is_multiple_of(self.values())
    }

    /// Bytes of `count` values, a number of whole blocks.
    pub fn size_of(self, count: usize) -> usize {
        count / self.values() * self.bytes()
    }

    /// Bits per value, scales included.
    pub fn bits_per_weight(self) -> f64 {
        8.0 * self.bytes() as f64 / self.values() as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layouts_stand_at_their_type() {
        for (i, l) in LAYOUTS.iter().enumerate() {
            assert_eq!(l.kind as usize, i);
            assert_eq!((BlockType::of_name(l.name), BlockType::of_id(l.id)), (Some(l.kind), Some(l.kind)));
        }
    }
}
