//! The format of family files: strict serde types; an unknown key is an error. The JSON schema in `schemas/family.schema.json` is
//! generated from these types and a test compares them.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;

use crate::graph::spec::{Activation, RotaryLayout};

/// Version of the format this program reads.
pub const SCHEMA_VERSION: u32 = 1;

/// One family as released: how a checkpoint of it maps to the canonical model.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FamilyFile {
    /// Format version of this file.
    pub schema_version: u32,
    /// Name of the family in reports and manifests.
    pub family: String,
    /// Name for people.
    pub title: String,
    /// What `config.json` must say; all must hold.
    #[serde(rename = "match")]
    pub matches: Vec<Match>,
    /// Named numbers.
    pub numbers: BTreeMap<String, NumberSource>,
    /// Named lists of numbers.
    pub vectors: BTreeMap<String, JsonSource<Vec<f64>>>,
    /// Named booleans.
    pub flags: BTreeMap<String, JsonSource<bool>>,
    /// The vision tower.
    pub vision: VisionDef,
    /// The projector.
    pub projector: ProjectorDef,
    /// The decoder.
    pub decoder: DecoderDef,
    /// Alternatives for the `{placeholders}` of tensor names.
    pub layouts: Vec<BTreeMap<String, String>>,
    /// All tensors of the checkpoint that carry weights.
    pub tensors: Vec<TensorDef>,
    /// Tensors that may be present and are not used.
    pub ignore: Vec<IgnoreDef>,
    /// Image preprocessing.
    pub image: ImageDef,
    /// Prompt layout.
    pub prompt: PromptDef,
    /// Runtimes with a processor or type for this family.
    pub runtimes: RuntimesDef,
}

/// A condition on `config.json`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Match {
    /// JSON pointer.
    pub at: String,
    /// Accepted strings.
    pub equals: Vec<String>,
}

/// Where a number comes from.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum NumberSource {
    /// The product of numbers.
    Product(ProductDef),
    /// The exact quotient of two numbers.
    Quotient(QuotientDef),
    /// A JSON file of the checkpoint.
    Json(JsonSource<f64>),
}

/// `product: [a, b, ...]`
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ProductDef {
    /// Factors.
    pub product: Vec<Num>,
}

/// `quotient: [a, b]`; a remainder is an error.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct QuotientDef {
    /// Dividend and divisor.
    pub quotient: [Num; 2],
}

/// A value in one of the checkpoint's JSON files: the first pointer that exists counts.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct JsonSource<T> {
    /// Pointers into `config.json`.
    #[serde(default)]
    pub config: Vec<String>,
    /// Pointers into `preprocessor_config.json`.
    #[serde(default)]
    pub preprocessor: Vec<String>,
    /// Value when no pointer exists; without it that is an error.
    pub default: Option<T>,
}

/// A number: a literal or the name of one.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Num {
    /// The number itself.
    Literal(f64),
    /// A key of `numbers`.
    Name(String),
}

/// See [`crate::graph::spec::VisionSpec`].
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "fields are those of the spec type, documented there")]
pub struct VisionDef {
    pub patch_features: Num,
    pub width: Num,
    pub depth: Num,
    pub heads: Num,
    pub mlp_width: Num,
    pub activation: Activation,
    pub eps: Num,
    pub rope_theta: Num,
    pub rope_layout: RotaryLayout,
    pub merge: Num,
}

/// See [`crate::graph::spec::ProjectorSpec`].
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "fields are those of the spec type, documented there")]
pub struct ProjectorDef {
    pub eps: Num,
    pub hidden: Num,
    pub activation: Activation,
}

/// See [`crate::graph::spec::DecoderSpec`].
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "fields are those of the spec type, documented there")]
pub struct DecoderDef {
    pub width: Num,
    pub layers: Num,
    pub heads: Num,
    pub kv_heads: Num,
    pub head_dim: Num,
    pub mlp_width: Num,
    pub vocab: Num,
    pub eps: Num,
    pub activation: Activation,
    pub qkv_bias: bool,
    pub rope_theta: Num,
    pub rope_layout: RotaryLayout,
    /// A key of `vectors`.
    pub rope_sections: String,
    pub max_positions: Num,
    /// A key of `flags`.
    pub tied_head: String,
}

/// A tensor of the checkpoint: exactly one of `role` and `blocks`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TensorDef {
    /// Name with `{placeholders}` of the layout and `{i}` of `repeat`.
    pub name: String,
    /// How many of them there are; `{i}` runs from 0.
    #[serde(default)]
    pub repeat: Option<Num>,
    /// Shape as stored. Axes after the first are flattened in the canonical weight.
    pub shape: Vec<Num>,
    /// Role of the whole tensor.
    #[serde(default)]
    pub role: Option<String>,
    /// Roles of consecutive row ranges of a fused tensor.
    #[serde(default)]
    pub blocks: Option<Vec<BlockDef>>,
    /// The tensor may be absent: its role is then another role's tensor.
    #[serde(default)]
    pub tied: Option<TiedDef>,
}

/// A row range of a fused tensor.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BlockDef {
    /// Rows in this block.
    pub rows: Num,
    /// Their role.
    pub role: String,
}

/// When a tensor is another one under a second role.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TiedDef {
    /// A key of `flags`.
    pub flag: String,
    /// The role whose tensor is shared.
    pub to: String,
}

/// Tensors that may be present and are not used.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct IgnoreDef {
    /// Name with layout placeholders; `*` stands for any run of characters.
    pub name: String,
    /// Why it is not used.
    pub reason: String,
}

/// See [`super::inputs::ImagePlan`].
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ImageDef {
    /// Target size.
    pub resize: ResizeDef,
    /// A key of `vectors`, three values.
    pub mean: String,
    /// A key of `vectors`, three values.
    pub std: String,
    /// Factor from 8-bit values.
    pub rescale: Num,
    /// Cut into rows.
    pub rows: PatchRowsDef,
}

/// See [`super::inputs::Resize`].
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
#[allow(missing_docs, reason = "fields are those of the plan type, documented there")]
pub enum ResizeDef {
    /// Sides to multiples of a factor, area within limits.
    Smart { factor: Num, min_pixels: Num, max_pixels: Num },
}

/// See [`super::inputs::PatchRows`].
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "fields are those of the plan type, documented there")]
pub struct PatchRowsDef {
    pub patch: Num,
    pub merge: Num,
    pub temporal: Num,
    pub channels: Num,
}

/// See [`super::inputs::PromptPlan`].
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PromptDef {
    /// Text of the placeholder token.
    pub image_token: String,
    /// Its id.
    pub image_token_id: Num,
    /// Position ids.
    pub positions: PositionsDef,
}

/// See [`super::inputs::PositionRule`].
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
#[allow(missing_docs, reason = "fields are those of the plan type, documented there")]
pub enum PositionsDef {
    /// M-RoPE over the merged grid.
    MropeGrid { merge: Num },
}

/// Runtimes that know the family.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RuntimesDef {
    /// ONNX Runtime GenAI.
    #[serde(default)]
    pub genai: Option<GenaiDef>,
}

/// What ONNX Runtime GenAI needs to be told.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct GenaiDef {
    /// `model.type` of `genai_config.json`.
    pub model_type: String,
    /// `processor.name` of `processor_config.json`.
    pub processor: String,
    /// Token before an image.
    pub vision_start_token_id: Num,
    /// Placeholder of video rows.
    pub video_token_id: Num,
}
