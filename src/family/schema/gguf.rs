//! The section `runtimes.gguf` of family files: metadata keys and tensors of the files that llama.cpp reads, or why there are none.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;

use super::Num;

/// llama.cpp and the family.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
pub enum GgufDef {
    /// It has graphs that compute what the family computes.
    Route(Box<GgufRouteDef>),
    /// It has none: the reason and what to do instead, sentences for people.
    None(String),
}

/// The files of a family.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct GgufRouteDef {
    /// Token table and decoder.
    pub text: GgufFileDef,
    /// Vision tower and projector.
    pub vision: GgufVisionDef,
    /// Where llama.cpp computes something else than the original: sentences for people.
    #[serde(default)]
    pub limits: Vec<String>,
}

/// The projector file of a family.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
pub enum GgufVisionDef {
    /// llama.cpp has a graph for tower and projector.
    File(GgufFileDef),
    /// It has none: the reason and what to do instead, sentences for people.
    None(String),
}

/// One file. `{arch}` in keys stands for the architecture.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct GgufFileDef {
    /// `general.architecture`.
    pub architecture: String,
    /// Numbers that the graph of llama.cpp takes for granted.
    #[serde(default)]
    pub needs: Vec<NeedDef>,
    /// Metadata beside `general.*` and the tokenizer's.
    pub keys: BTreeMap<String, KeyDef>,
    /// All tensors of the file.
    pub tensors: Vec<GgufTensorDef>,
    /// Number of layers by which llama.cpp takes a model of the architecture for one of 70 billion parameters (`LLM_TYPE_70B`), for which its mixes have
    /// rules of their own.
    #[serde(default)]
    pub layers_of_70b: Option<u32>,
}

/// A number that the graph of llama.cpp takes for granted.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NeedDef {
    /// The number in this model.
    pub value: Num,
    /// What it must be.
    pub equals: Num,
    /// What llama.cpp does with it.
    pub why: String,
}

/// A value of the metadata.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
pub enum KeyDef {
    /// `uint32`.
    U32(Num),
    /// `int32`.
    I32(Num),
    /// `float32`.
    F32(Num),
    /// `bool`.
    Bool(bool),
    /// `string`.
    Text(String),
    /// `uint32`: the id of a token, by its text.
    Token(String),
    /// Array of `float32`: a key of `vectors`.
    F32s(String),
    /// Array of `int32`.
    I32s {
        /// A key of `vectors`.
        vector: String,
        /// Values of the array; zeros are appended to the vector.
        length: Num,
    },
}

/// Tensors of a file: exactly one of `role` and `sin_cos`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct GgufTensorDef {
    /// Name in the file, with `{i}` of `repeat`.
    pub name: String,
    /// How many of them there are; `{i}` runs from 0. Neighbours in the list with one number are written block by block.
    #[serde(default)]
    pub repeat: Option<Num>,
    /// The role whose numbers it has, or the roles whose rows it stacks.
    #[serde(default)]
    pub role: Option<RolesDef>,
    /// A constant: sines and cosines of columns and rows.
    #[serde(default)]
    pub sin_cos: Option<SinCosDef>,
    /// Shape, the slowest axis first; without it, that of the role.
    #[serde(default)]
    pub shape: Option<Vec<Num>>,
    /// Rows of so many heads, each with the two members of a rotary pair half a head apart, are put in the order in which they are neighbours.
    #[serde(default)]
    pub rope_heads: Option<Num>,
    /// The columns of one index of an axis.
    #[serde(default)]
    pub column: Option<ColumnDef>,
    /// How floats are stored.
    #[serde(default)]
    pub stored: StoredDef,
    /// Left out where the model has no such weight, or no longer, because a pass folded it into others.
    #[serde(default)]
    pub optional: bool,
    /// Left out where the numbers are those of the token table.
    #[serde(default)]
    pub tied: bool,
}

/// One role or several.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum RolesDef {
    /// Its numbers.
    One(String),
    /// Their rows, one role's below another's.
    Stacked(Vec<String>),
}

/// A table of sines and cosines: row `r side + c` is `[sin(c w), cos(c w), sin(r w), cos(r w)]` with `width / 4` frequencies `w_k = theta^(-k / (width / 4))`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SinCosDef {
    /// Rows and columns of the grid.
    pub side: Num,
    /// Values per row of the table.
    pub width: Num,
    /// Base of the frequencies.
    pub theta: Num,
}

/// Columns of a matrix whose rows are seen in a shape: those with one index on one axis.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ColumnDef {
    /// The shape of a row, the slowest axis first.
    pub of: Vec<Num>,
    /// The axis that goes.
    pub axis: usize,
    /// The index that stays.
    pub at: usize,
}

/// How floats of a tensor are stored. Vectors are `float32` always.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum StoredDef {
    /// In the float type of the file.
    #[default]
    FloatType,
    /// `float32`: the graph adds it to `float32` rows.
    F32,
    /// A convolution kernel: `float16` in a file of that type, `float32` otherwise, for want of other kernels.
    Kernel,
}
