//! The format of family files: strict serde types; an unknown key is an error. The JSON schema in `schemas/family.schema.json` is
//! generated from these types and a test compares them.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value as Json;

use crate::graph::spec::{Activation, Norm, NormPlace, RotaryLayout};
use crate::tokenizer::TokenizerFormat;

mod gguf;
mod inputs;

pub use gguf::{
    ColumnDef, GgufDef, GgufFileDef, GgufRouteDef, GgufTensorDef, GgufVisionDef, KeyDef, NeedDef, RolesDef,
    SinCosDef, StoredDef,
};
pub use inputs::{
    ContentDef, ImageDef, PatchRowsDef, PositionsDef, PromptDef, TemplateDef, TokensDef, ViewsDef,
};

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
    /// Settings of which one value alone is supported.
    #[serde(default)]
    pub require: Vec<Requirement>,
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
    /// How the tokenizer is stored.
    pub tokenizer: TokenizerFormat,
    /// Image preprocessing.
    pub image: ImageDef,
    /// Prompt layout.
    pub prompt: PromptDef,
    /// Runtimes with a processor or type for this family.
    pub runtimes: RuntimesDef,
}

/// JSON schema of a family file as it is written: the keys of [`FamilyFile`], which parts and options may hold as well, so that only those that
/// every file has itself are required; `include` and `choose`.
pub fn file_schema() -> Json {
    let mut schema = schemars::schema_for!(FamilyFile).to_value();
    schema["required"] = serde_json::json!(["schema_version", "family", "title", "match"]);
    // The keys of a section may be spread over file, parts and options.
    for section in ["VisionDef", "DecoderDef", "ImageDef", "PromptDef"] {
        if let Some(def) = schema["$defs"][section].as_object_mut() {
            def.remove("required");
        }
    }
    let include = serde_json::json!({
        "description": "Parts that are merged into this file, by name.",
        "type": "array",
        "items": {"type": "string"},
    });
    let conditions = serde_json::json!({
        "description": "When this option is taken: all must hold.",
        "type": "array",
        "items": {"$ref": "#/$defs/Match"},
    });
    let mut option = schema["properties"].clone();
    option["include"] = include.clone();
    option["when"] = conditions;
    schema["properties"]["include"] = include;
    schema["properties"]["choose"] = serde_json::json!({
        "description": "Groups of options; the first of a group whose conditions hold is merged into this file.",
        "type": "array",
        "items": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": option,
                "required": ["when"],
                "additionalProperties": false,
            },
        },
    });
    schema
}

/// A condition on `config.json`: exactly one of `equals` and `present`. `null` counts as absent.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Match {
    /// JSON pointer.
    pub at: String,
    /// Accepted values.
    #[serde(default)]
    pub equals: Option<Vec<Json>>,
    /// What an absent key means, for `equals`.
    #[serde(default)]
    pub default: Option<Json>,
    /// Whether the key must exist.
    #[serde(default)]
    pub present: Option<bool>,
}

impl Match {
    /// Whether `config` fulfils the condition.
    pub fn holds(&self, config: &Json) -> bool {
        let value = config.pointer(&self.at).filter(|v| !v.is_null());
        match (&self.equals, self.present) {
            (Some(accepted), None) => {
                value.or(self.default.as_ref()).is_some_and(|v| accepted.iter().any(|a| same(a, v)))
            }
            (None, Some(present)) => value.is_some() == present,
            _ => false,
        }
    }

    /// What `config` says at this place.
    pub(super) fn found(&self, config: &Json) -> String {
        match config.pointer(&self.at).filter(|v| !v.is_null()) {
            Some(v) if v.is_object() || v.is_array() => format!("{} present", self.at),
            Some(v) => format!("{} = {v}", self.at),
            None => format!("{} absent", self.at),
        }
    }

    /// The condition as text.
    pub(super) fn wanted(&self) -> String {
        match (&self.equals, self.present) {
            (Some(accepted), _) => {
                let list: Vec<String> = accepted.iter().map(Json::to_string).collect();
                format!("{} = {}", self.at, list.join(" or "))
            }
            (None, Some(false)) => format!("{} absent", self.at),
            _ => format!("{} present", self.at),
        }
    }
}

/// Equal JSON values; numbers by value, however they are written.
fn same(a: &Json, b: &Json) -> bool {
    match (a.as_f64(), b.as_f64()) {
        (Some(a), Some(b)) => a == b,
        _ => a == b,
    }
}

/// A setting of `config.json` that must have one of few values, because nothing else is supported.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Requirement {
    /// JSON pointer.
    pub at: String,
    /// Accepted values.
    pub equals: Vec<Json>,
    /// What an absent key means; without it the key must exist.
    #[serde(default)]
    pub default: Option<Json>,
    /// What the setting changes.
    pub why: String,
}

/// Where a number comes from.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum NumberSource {
    /// The product of numbers.
    Product(ProductDef),
    /// The sum of numbers.
    Sum(SumDef),
    /// The quotient of two numbers.
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
    /// Whether the product is cut to a whole number (Python's `int`).
    #[serde(default)]
    pub truncate: bool,
}

/// `sum: [a, b, ...]`
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SumDef {
    /// Summands.
    pub sum: Vec<Num>,
}

/// `quotient: [a, b]`
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct QuotientDef {
    /// Dividend and divisor.
    pub quotient: [Num; 2],
    /// Whether a remainder is dropped (Python's `//`); otherwise it is an error.
    #[serde(default)]
    pub truncate: bool,
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
    pub patch_bias: bool,
    pub width: Num,
    pub depth: Num,
    pub heads: Num,
    pub mlp_width: Num,
    pub activation: Activation,
    pub norm: Norm,
    pub norm_place: NormPlace,
    pub eps: Num,
    pub qkv_bias: bool,
    pub qk_norm: bool,
    pub layer_scale: bool,
    pub class_token: bool,
    pub entry_norm: bool,
    pub exit_norm: bool,
    pub positions: VisionPositionsDef,
    pub merge: Num,
}

/// See [`crate::graph::spec::VisionPositions`].
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
#[allow(missing_docs, reason = "fields are those of the spec type, documented there")]
pub enum VisionPositionsDef {
    /// Two-dimensional rotary embedding.
    Rotary { theta: Num, layout: RotaryLayout },
    /// A learned square table, looked up by bucket.
    Table { side: Num },
}

/// See [`crate::graph::spec::ProjectorSpec`].
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
#[allow(missing_docs, reason = "fields are those of the spec type, documented there")]
pub enum ProjectorDef {
    /// Norm, merge of neighbouring patches, two-layer MLP.
    MergeMlp { eps: Num, hidden: Num, activation: Activation, norm_merged: bool },
    /// Strided convolution, linear, norm, gated MLP, rows around each image.
    MergeGlu {
        hidden: Num,
        eps: Num,
        activation: Activation,
        mlp_width: Num,
        gate: Activation,
        boundary_rows: bool,
        divide_by: Num,
    },
    /// Learned queries that attend to the patches of a tile.
    Resampler {
        queries: Num,
        width: Num,
        heads: Num,
        eps: Num,
        query_positions: bool,
        key_positions: KeyPositionsDef,
    },
}

/// See [`crate::graph::spec::KeyPositions`].
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
#[allow(missing_docs, reason = "fields are those of the spec type, documented there")]
pub enum KeyPositionsDef {
    /// A square table, one row per patch.
    Table { side: Num },
    /// Sines and cosines of column and row.
    SinCos { theta: Num },
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
    pub rope_dim: Num,
    /// A key of `vectors`; without it, every frequency follows the one position of a token.
    #[serde(default)]
    pub rope_sections: Option<String>,
    /// Without it, the base is the same for every length.
    #[serde(default)]
    pub rope_scaling: Option<RopeScalingDef>,
    /// Length from which queries grow with the logarithm of their position.
    #[serde(default)]
    pub log_scaled_queries: Option<Num>,
    pub max_positions: Num,
    /// A key of `flags`.
    pub tied_head: String,
}

/// See [`crate::graph::ops::RopeScaling`].
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
#[allow(missing_docs, reason = "fields are those of the spec type, documented there")]
pub enum RopeScalingDef {
    /// The base grows with the length so far.
    Dynamic { factor: Num, max_positions: Num },
    /// The base grows with the length of the prompt, by powers of two.
    DynamicPowers { train_length: Num },
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
    /// Order of the stored axes in the canonical weight, before flattening.
    #[serde(default)]
    pub permute: Option<Vec<usize>>,
    /// Shape to see the elements in, after `permute`.
    #[serde(default)]
    pub view: Option<Vec<Num>>,
    /// Role of the whole tensor.
    #[serde(default)]
    pub role: Option<String>,
    /// Roles of consecutive row ranges of a fused tensor.
    #[serde(default)]
    pub blocks: Option<Vec<BlockDef>>,
    /// How often the blocks follow one another (heads or groups of heads); a role's rows are those of its blocks in order.
    #[serde(default)]
    pub groups: Option<Num>,
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
    /// The rows are a square table and are resized to another one.
    #[serde(default)]
    pub resize: Option<ResizeTableDef>,
    /// Further roles of the same rows.
    #[serde(default)]
    pub also: Vec<AlsoDef>,
}

/// A further role of some rows.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AlsoDef {
    /// The role.
    pub role: String,
    /// See [`BlockDef::resize`].
    #[serde(default)]
    pub resize: Option<ResizeTableDef>,
}

/// A square table of rows, resized by the bicubic interpolation of PyTorch (`align_corners=False`, no antialiasing).
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ResizeTableDef {
    /// Side as stored.
    pub from: Num,
    /// Side in the model.
    pub to: Num,
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

/// What runtimes with processors of their own must be told, or why they cannot run the family.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RuntimesDef {
    /// ONNX Runtime GenAI.
    pub genai: GenaiDef,
    /// llama.cpp.
    pub gguf: GgufDef,
}

/// ONNX Runtime GenAI and the family.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
pub enum GenaiDef {
    /// It has a type that runs the family.
    Type(GenaiType),
    /// It has none: the reason, a sentence for people.
    None(String),
}

/// What ONNX Runtime GenAI needs to be told.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct GenaiType {
    /// `model.type` of `genai_config.json`.
    pub model_type: String,
    /// `processor.name` of `processor_config.json`.
    pub processor: String,
    /// Token before an image.
    pub vision_start_token_id: Num,
    /// Placeholder of video rows.
    pub video_token_id: Num,
}
