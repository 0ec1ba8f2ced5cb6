//! The resolved description of one model: sizes and kinds, no tensor names and no JSON. Builders turn it into graphs.
//! A new family that is made of known kinds is a new `ModelSpec`, not new code.

use super::ops::RopeScaling;

/// Everything the builders need to know.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelSpec {
    /// Vision tower.
    pub vision: VisionSpec,
    /// Vision rows to decoder rows.
    pub projector: ProjectorSpec,
    /// Language model.
    pub decoder: DecoderSpec,
    /// Id of the token whose rows image features replace.
    pub image_token_id: i64,
}

/// Element-wise non-linearity. Each is a distinct function: erf and tanh GELU differ by 5e-4, erf and quick GELU by 2e-2.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// `x * sigmoid(1.702 x)`.
    QuickGelu,
    /// `x * (1 + erf(x / sqrt 2)) / 2`.
    GeluErf,
    /// `x * (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2`.
    GeluTanh,
    /// `x * sigmoid(x)`.
    Silu,
}

/// How the two members of a rotary pair are placed in the first `rotary_dim` channels of a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RotaryLayout {
    /// Pair `k` is `(k, k + rotary_dim / 2)`.
    Half,
    /// Pair `k` is `(2k, 2k + 1)`.
    Interleaved,
}

/// Row-wise normalisation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Norm {
    /// Mean removed, with gain and bias.
    LayerNorm,
    /// Root mean square, with gain.
    RmsNorm,
}

/// Where the norms of a block stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum NormPlace {
    /// Before attention and MLP: `x + f(norm(x))`.
    Before,
    /// On what the branch adds: `x + norm(f(x))`. The residual is read without any norm.
    OnBranch,
}

/// How a vision tower knows where a patch is.
#[derive(Clone, Debug, PartialEq)]
pub enum VisionPositions {
    /// Rotary embedding of queries and keys: the first half of a head's frequencies follows the row, the second the column.
    Rotary {
        /// Base of the frequencies.
        theta: f64,
        /// Placement of rotary pairs.
        layout: RotaryLayout,
    },
    /// A learned table of `side x side` rows added to the patches. A patch at row `r` of `h` takes table row `floor(side r / h)`,
    /// columns alike: a grid of the table's own size takes each row once.
    Table {
        /// Rows and columns of the table.
        side: usize,
    },
}

/// A vision transformer over patch rows.
#[derive(Clone, Debug, PartialEq)]
pub struct VisionSpec {
    /// Values per patch row.
    pub patch_features: usize,
    /// Whether the patch projection has a bias.
    pub patch_bias: bool,
    /// Residual width.
    pub width: usize,
    /// Blocks.
    pub depth: usize,
    /// Attention heads.
    pub heads: usize,
    /// Hidden width of the MLP.
    pub mlp_width: usize,
    /// MLP non-linearity.
    pub activation: Activation,
    /// Kind of the norms.
    pub norm: Norm,
    /// Place of the block norms.
    pub norm_place: NormPlace,
    /// Epsilon of all norms.
    pub eps: f64,
    /// Whether q, k and v have biases. All other linears of a block have one.
    pub qkv_bias: bool,
    /// Whether q and k are RMS-normalised over all heads together.
    pub qk_norm: bool,
    /// Whether what a branch adds is multiplied by a gain per channel.
    pub layer_scale: bool,
    /// Whether each tile begins with a class token, which is dropped after the last block. It has a position of its own.
    pub class_token: bool,
    /// Whether there is a norm between positions and blocks.
    pub entry_norm: bool,
    /// Whether there is a norm after the last block.
    pub exit_norm: bool,
    /// Positions of patches.
    pub positions: VisionPositions,
    /// Merge block side in patches; patch rows come in merge-block order.
    pub merge: usize,
}

/// From the rows of the vision tower to rows of the decoder.
#[derive(Clone, Debug, PartialEq)]
pub enum ProjectorSpec {
    /// LayerNorm, merge of neighbouring patches, two-layer MLP with biases.
    MergeMlp {
        /// LayerNorm epsilon.
        eps: f64,
        /// Width between the two linears.
        hidden: usize,
        /// Non-linearity between them.
        activation: Activation,
        /// Whether the norm is over merged patches, not over each one.
        norm_merged: bool,
    },
    /// A strided convolution (merge and linear with bias), a linear, LayerNorm, non-linearity and a gated MLP without biases.
    MergeGlu {
        /// Width of convolution and linear.
        hidden: usize,
        /// LayerNorm epsilon.
        eps: f64,
        /// Non-linearity after the norm.
        activation: Activation,
        /// Hidden width of the gated MLP.
        mlp_width: usize,
        /// Gate non-linearity.
        gate: Activation,
        /// Whether a learned row stands before and one behind the rows of each image.
        boundary_rows: bool,
        /// Divisor of all rows.
        divide_by: f64,
    },
    /// Learned queries attend to the patches of each tile; then LayerNorm and a linear without bias.
    Resampler {
        /// Rows per tile.
        queries: usize,
        /// Width of queries, keys and values.
        width: usize,
        /// Attention heads.
        heads: usize,
        /// LayerNorm epsilon.
        eps: f64,
        /// Whether the queries have learned positions, added after their norm.
        query_positions: bool,
        /// Positions added to the normalised patches where keys are made.
        key_positions: KeyPositions,
    },
}

/// Positions of a resampler's keys.
#[derive(Clone, Debug, PartialEq)]
pub enum KeyPositions {
    /// A table of `side x side` rows, looked up as [`VisionPositions::Table`].
    Table {
        /// Rows and columns of the table.
        side: usize,
    },
    /// `[sin(column w), cos(column w), sin(row w), cos(row w)]`, each with `width / 4` frequencies `w_k = theta^(-k / (width / 4))`.
    SinCos {
        /// Base of the frequencies.
        theta: f64,
    },
}

/// A pre-norm decoder with grouped-query attention and a gated MLP.
#[derive(Clone, Debug, PartialEq)]
pub struct DecoderSpec {
    /// Residual width.
    pub width: usize,
    /// Layers.
    pub layers: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads.
    pub kv_heads: usize,
    /// Channels per head.
    pub head_dim: usize,
    /// Hidden width of the MLP.
    pub mlp_width: usize,
    /// Rows of the token table and of the head.
    pub vocab: usize,
    /// RMSNorm epsilon.
    pub eps: f64,
    /// Gate non-linearity.
    pub activation: Activation,
    /// Whether q, k and v have biases.
    pub qkv_bias: bool,
    /// Rotary base.
    pub rope_theta: f64,
    /// Placement of rotary pairs.
    pub rope_layout: RotaryLayout,
    /// Channels of a head that are rotated, from the first on.
    pub rope_dim: usize,
    /// M-RoPE: frequencies taken from the time, height and width positions, in this order. Empty: one position per token.
    pub rope_sections: Vec<usize>,
    /// How the rotary base depends on the length of the text.
    pub rope_scaling: Option<RopeScaling>,
    /// Queries at positions `p` beyond this length are multiplied by `ln(p + 1) / ln(length)`.
    pub log_scaled_queries: Option<usize>,
    /// Longest sequence the model was made for.
    pub max_positions: usize,
    /// Whether the head is the token table.
    pub tied_head: bool,
}

impl DecoderSpec {
    /// Rows of position ids per token: one, or one per M-RoPE section.
    pub fn position_axes(&self) -> usize {
        self.rope_sections.len().max(1)
    }
}
