//! Precision of one linear as recipes write it.

use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::numeric::ggml::BlockType;
use crate::numeric::grid::Grid;

/// Precision of one linear.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Precision {
    /// Weights.
    pub weights: Weights,
    /// Activations.
    pub activations: Activations,
}

impl Precision {
    /// Nothing is rounded.
    pub const FLOAT: Self = Self { weights: Weights::Float, activations: Activations::Float };

    /// Whether the weights are codes, of a grid or in blocks. Half precision is no code: it is how floats are stored.
    pub fn is_quantized(self) -> bool {
        self.weights.are_quantized()
    }

    /// Whether the linear runs as an integer product.
    pub fn is_integer(self) -> bool {
        self.activations != Activations::Float
    }
}

/// Weight storage: `float`, `int8`, `int4`, `int3` or `int2` (one scale per output channel), or with a block such as `int4/128` (an integer multiplier
/// for every 128 inputs of a channel, besides its scale). For GGUF `f16`, `bf16` and the block types of ggml, `q8_0` to `q2_k`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Weights {
    /// `f32`.
    Float,
    /// Codes of a grid.
    Grid(Grid),
    /// A type of ggml; never [`BlockType::F32`], which is [`Weights::Float`].
    Blocks(BlockType),
}

impl Weights {
    /// Symmetric int8, one scale per output channel.
    pub const INT8: Self = Self::Grid(Grid { bits: 8, block: None });

    /// The grid, if there is one.
    pub fn grid(self) -> Option<Grid> {
        match self {
            Weights::Grid(grid) => Some(grid),
            Weights::Float | Weights::Blocks(_) => None,
        }
    }

    /// The type of ggml, if it is one other than `f32`.
    pub fn blocks(self) -> Option<BlockType> {
        match self {
            Weights::Blocks(kind) => Some(kind),
            Weights::Float | Weights::Grid(_) => None,
        }
    }

    /// Weights of a type of ggml.
    pub fn of(kind: BlockType) -> Self {
        if kind == BlockType::F32 { Weights::Float } else { Weights::Blocks(kind) }
    }

    /// The type of ggml that stores them in a GGUF file; none for a grid.
    pub fn stored(self) -> Option<BlockType> {
        match self {
            Weights::Float => Some(BlockType::F32),
            Weights::Blocks(kind) => Some(kind),
            Weights::Grid(_) => None,
        }
    }

    /// Whether they are codes, of a grid or in blocks.
    pub fn are_quantized(self) -> bool {
        match self {
            Weights::Float => false,
            Weights::Grid(_) => true,
            Weights::Blocks(kind) => kind.is_quantized(),
        }
    }

    /// Bits per weight, scales and multipliers included, in rows of `cols`.
    pub fn bits_per_weight(self, cols: usize) -> f64 {
        match self {
            Weights::Float => 32.0,
            Weights::Grid(grid) => grid.bits_per_weight(cols),
            Weights::Blocks(kind) => kind.bits_per_weight(),
        }
    }
}

/// Blocks that divide what kernels and file formats expect.
const BLOCKS: [usize; 5] = [16, 32, 64, 128, 256];

impl FromStr for Weights {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "float" {
            return Ok(Weights::Float);
        }
        // Names are spelled in one way, so that a recipe reads as it is written out.
        let kind = BlockType::of_name(text).filter(|kind| kind.name() == text && *kind != BlockType::F32);
        if let Some(kind) = kind {
            return Ok(Weights::Blocks(kind));
        }
        let (name, block) = match text.split_once('/') {
            Some((name, block)) => (name, Some(block)),
            None => (text, None),
        };
        let bits = match name {
            "int8" => 8,
            "int4" => 4,
            "int3" => 3,
            "int2" => 2,
            _ => return Err(unknown(text)),
        };
        let block = block.map(|b| b.parse().map_err(|_| unknown(text))).transpose()?;
        if block.is_some_and(|b| bits == 8 || !BLOCKS.contains(&b)) {
            return Err(unknown(text));
        }
        Ok(Weights::Grid(Grid { bits, block }))
    }
}

fn unknown(text: &str) -> String {
    format!(
        "weights {text:?} are not known; expected float, int8, int4, int3, int2, the last three also with a block of 16, 32, 64, 128 or 256 \
         such as int4/128, or a type of ggml: {}",
        block_names().join(", ")
    )
}

/// Names of the types of ggml that weights may have.
fn block_names() -> Vec<&'static str> {
    BlockType::all().filter(|kind| *kind != BlockType::F32).map(BlockType::name).collect()
}

impl TryFrom<String> for Weights {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Weights> for String {
    fn from(weights: Weights) -> String {
        weights.to_string()
    }
}

impl fmt::Display for Weights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Weights::Float => f.write_str("float"),
            Weights::Grid(Grid { bits, block: None }) => write!(f, "int{bits}"),
            Weights::Grid(Grid { bits, block: Some(block) }) => write!(f, "int{bits}/{block}"),
            Weights::Blocks(kind) => f.write_str(kind.name()),
        }
    }
}

impl JsonSchema for Weights {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Weights".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        let pattern = format!("^(float|int8|int[234](/(16|32|64|128|256))?|{})$", block_names().join("|"));
        schemars::json_schema!({
            "type": "string",
            "pattern": pattern,
            "description": "Weight storage: float, int8, int4, int3 or int2 (one scale per output channel), the last three also with a block, as in int4/128; for GGUF f16, bf16 and the block types of ggml",
        })
    }
}

/// Activation arithmetic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Activations {
    /// `f32`.
    Float,
    /// Static int8, one scale for all rows.
    Static,
    /// Static int8, one scale for visual and one for text rows.
    Msq,
    /// Int8 at a scale of each row's own, computed at run time.
    Dynamic,
}

impl Activations {
    /// Whether scales come from calibration data.
    pub fn are_static(self) -> bool {
        matches!(self, Activations::Static | Activations::Msq)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_grids_correspond() {
        for name in ["float", "int8", "int4", "int4/128", "int3/32", "int2/16", "bf16", "q4_0", "q6_k"] {
            assert_eq!(name.parse::<Weights>().unwrap().to_string(), name);
        }
        assert_eq!("int4/32".parse(), Ok(Weights::Grid(Grid { bits: 4, block: Some(32) })));
        assert_eq!("q4_k".parse(), Ok(Weights::Blocks(BlockType::Q4K)));
        for wrong in [
            "int5", "int4/", "int4/33", "int8/32", "Int8", "", "float/32", "int4/-32", "f32", "Q4_K",
            "q4_k_m",
        ] {
            let e = wrong.parse::<Weights>().unwrap_err();
            assert!(e.contains("int4/128") && e.contains("q4_0"), "{wrong}: {e}");
        }
    }
}
