//! The sections `image` and `prompt` of family files.

use schemars::JsonSchema;
use serde::Deserialize;

use super::Num;

/// See [`crate::family::inputs::ImagePlan`].
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ImageDef {
    /// Sizes and tiles.
    pub views: ViewsDef,
    /// A key of `vectors`, three values.
    pub mean: String,
    /// A key of `vectors`, three values.
    pub std: String,
    /// Factor from 8-bit values.
    pub rescale: Num,
    /// Cut into rows.
    pub rows: PatchRowsDef,
}

/// See [`crate::family::inputs::Views`].
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
#[allow(missing_docs, reason = "fields are those of the plan type, documented there")]
pub enum ViewsDef {
    /// Sides to multiples of a factor, area within limits.
    Smart { factor: Num, min_pixels: Num, max_pixels: Num },
    /// A fixed size.
    Stretch { width: Num, height: Num },
    /// Square tiles; `thumbnail` is a key of `flags`.
    Tiles { size: Num, min_tiles: Num, max_tiles: Num, thumbnail: String },
    /// An overview and cells of the same area.
    Slices { resolution: Num, patch: Num, max_slices: Num },
}

/// See [`crate::family::inputs::PatchRows`].
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "fields are those of the plan type, documented there")]
pub struct PatchRowsDef {
    pub patch: Num,
    pub merge: Num,
    pub temporal: Num,
    pub channels: Num,
}

/// See [`crate::family::inputs::PromptPlan`].
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PromptDef {
    /// The chat template.
    pub template: TemplateDef,
    /// The form in which it sees messages.
    pub content: ContentDef,
    /// Text of the placeholder token.
    pub image_token: String,
    /// Its id; without it the tokenizer decides.
    #[serde(default)]
    pub image_token_id: Option<Num>,
    /// What the template writes for an image.
    pub marker: String,
    /// Jinja text of what takes its place.
    pub expansion: String,
    /// Decoder rows of a tile.
    pub tokens: TokensDef,
    /// Position ids.
    pub positions: PositionsDef,
    /// Tokens that end generation besides those that the checkpoint's JSON files name.
    #[serde(default)]
    pub stop_tokens: Vec<String>,
}

/// See [`crate::family::inputs::TemplateSource`].
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
pub enum TemplateDef {
    /// The checkpoint's own.
    Checkpoint,
    /// This one.
    Text(String),
}

/// See [`crate::family::inputs::ContentForm`].
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
#[allow(missing_docs, reason = "fields are those of the plan type, documented there")]
pub enum ContentDef {
    /// A list of parts.
    Parts,
    /// One string.
    Joined { separator: String, image: String },
}

/// See [`crate::family::inputs::TileTokens`].
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
#[allow(missing_docs, reason = "fields are those of the plan type, documented there")]
pub enum TokensDef {
    /// One per block of patches.
    Merged {
        merge: Num,
        #[serde(default)]
        extra: Option<Num>,
    },
    /// A fixed number.
    Fixed {
        rows: Num,
        #[serde(default)]
        extra: Option<Num>,
    },
}

/// See [`crate::family::inputs::PositionRule`].
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
#[allow(missing_docs, reason = "fields are those of the plan type, documented there")]
pub enum PositionsDef {
    /// M-RoPE over the merged grid.
    MropeGrid { merge: Num },
    /// 0, 1, 2, ...
    Sequential,
    /// Three positions for an image.
    SharedImage,
}
