//! Precision of one linear as recipes write it.

use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

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

    /// Whether the weights are on a grid.
    pub fn is_quantized(self) -> bool {
        self.weights != Weights::Float
    }

    /// Whether the linear runs as an integer product.
    pub fn is_integer(self) -> bool {
        self.activations != Activations::Float
    }
}

/// Weight storage: `float`, `int8`, `int4`, `int3` or `int2` (one scale per output channel), or with a block such as `int4/128` (an integer multiplier
/// for every 128 inputs of a channel, besides its scale).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Weights {
    /// `f32`.
    Float,
    /// Codes of a grid.
    Grid(Grid),
}

impl Weights {
    /// Symmetric int8, one scale per output channel.
    pub const INT8: Self = Self::Grid(Grid { bits: 8, block: None });

    /// The grid, if there is one.
    pub fn grid(self) -> Option<Grid> {
        match self {
            Weights::Float => None,
            Weights::Grid(grid) => Some(grid),
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
        "weights {text:?} are not known; expected float, int8, int4, int3, int2, or the last three with a block of 16, 32, 64, 128 or 256 \
         such as int4/128"
    )
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
        }
    }
}

impl JsonSchema for Weights {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Weights".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "type": "string",
            "pattern": "^(float|int8|int[234](/(16|32|64|128|256))?)$",
            "description": "Weight storage: float, int8, int4, int3 or int2 (one scale per output channel), the last three also with a block, as in int4/128",
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
        for name in ["float", "int8", "int4", "int4/128", "int3/32", "int2/16"] {
            assert_eq!(name.parse::<Weights>().unwrap().to_string(), name);
        }
        assert_eq!("int4/32".parse(), Ok(Weights::Grid(Grid { bits: 4, block: Some(32) })));
        for wrong in ["int5", "int4/", "int4/33", "int8/32", "Int8", "", "float/32", "int4/-32"] {
            assert!(wrong.parse::<Weights>().unwrap_err().contains("int4/128"), "{wrong}");
        }
    }
}
