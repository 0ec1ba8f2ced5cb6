//! The resolved description of one model: sizes and kinds, no tensor names and no JSON. Builders turn it into graphs.
//! A new family that is made of known kinds is a new `ModelSpec`, not new code.

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

/// A pre-norm vision transformer over patch rows.
#[derive(Clone, Debug, PartialEq)]
pub struct VisionSpec {
    /// Values per patch row.
    pub patch_features: usize,
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
    /// LayerNorm epsilon.
    pub eps: f64,
    /// Base of the two-dimensional rotary embedding.
    pub rope_theta: f64,
    /// Placement of rotary pairs.
    pub rope_layout: RotaryLayout,
    /// Merge block side in patches; patch rows come in merge-block order.
    pub merge: usize,
}

/// LayerNorm per patch, merge of neighbouring patches, two-layer MLP.
#[derive(Clone, Debug, PartialEq)]
pub struct ProjectorSpec {
    /// LayerNorm epsilon.
    pub eps: f64,
    /// Width between the two linears.
    pub hidden: usize,
    /// Non-linearity between them.
    pub activation: Activation,
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
    /// M-RoPE: frequencies taken from the time, height and width positions, in this order.
    pub rope_sections: Vec<usize>,
    /// Longest sequence the model was made for.
    pub max_positions: usize,
    /// Whether the head is the token table.
    pub tied_head: bool,
}
