//! Mixes: presets that give some tensors of a decoder more bits than others, with llama.cpp's meaning. The rules are those of
//! `llama_tensor_get_type_impl` in `src/llama-quant.cpp` of llama.cpp, for models without experts.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Weights;
use crate::numeric::ggml::BlockType;

/// A preset of llama.cpp. It decides the types of the decoder's linears, its head and the token table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs, reason = "the names are llama.cpp's; what they mean is a table of rules")]
pub enum Mix {
    F32,
    F16,
    Bf16,
    #[serde(rename = "q8_0")]
    Q8_0,
    #[serde(rename = "q6_k")]
    Q6K,
    #[serde(rename = "q5_k_m")]
    Q5KM,
    #[serde(rename = "q5_k_s")]
    Q5KS,
    #[serde(rename = "q5_0")]
    Q5_0,
    #[serde(rename = "q5_1")]
    Q5_1,
    #[serde(rename = "q4_k_m")]
    Q4KM,
    #[serde(rename = "q4_k_s")]
    Q4KS,
    #[serde(rename = "q4_0")]
    Q4_0,
    #[serde(rename = "q4_1")]
    Q4_1,
    #[serde(rename = "q3_k_l")]
    Q3KL,
    #[serde(rename = "q3_k_m")]
    Q3KM,
    #[serde(rename = "q3_k_s")]
    Q3KS,
    #[serde(rename = "q2_k")]
    Q2K,
}

/// All mixes, largest files first: name, and the type of tensors without a rule (`llama_ftype_get_default_type`).
const MIXES: [(Mix, &str, BlockType); 17] = [
    (Mix::F32, "f32", BlockType::F32),
    (Mix::F16, "f16", BlockType::F16),
    (Mix::Bf16, "bf16", BlockType::Bf16),
    (Mix::Q8_0, "q8_0", BlockType::Q8_0),
    (Mix::Q6K, "q6_k", BlockType::Q6K),
    (Mix::Q5KM, "q5_k_m", BlockType::Q5K),
    (Mix::Q5KS, "q5_k_s", BlockType::Q5K),
    (Mix::Q5_0, "q5_0", BlockType::Q5_0),
    (Mix::Q5_1, "q5_1", BlockType::Q5_1),
    (Mix::Q4KM, "q4_k_m", BlockType::Q4K),
    (Mix::Q4KS, "q4_k_s", BlockType::Q4K),
    (Mix::Q4_0, "q4_0", BlockType::Q4_0),
    (Mix::Q4_1, "q4_1", BlockType::Q4_1),
    (Mix::Q3KL, "q3_k_l", BlockType::Q3K),
    (Mix::Q3KM, "q3_k_m", BlockType::Q3K),
    (Mix::Q3KS, "q3_k_s", BlockType::Q3K),
    (Mix::Q2K, "q2_k", BlockType::Q2K),
];

/// What of a decoder the rules depend on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MixModel {
    /// Layers.
    pub layers: usize,
    /// Input channels of the head.
    pub width: usize,
    /// Query heads that share a value head.
    pub group: usize,
    /// The file has no head of its own: the token table is both.
    pub tied: bool,
    /// Weights are rounded by importance (llama.cpp: with an importance matrix).
    pub importance: bool,
    /// See [`GgufGraph::is_70b`](crate::quantize::GgufGraph).
    pub is_70b: bool,
}

/// A tensor by what the rules call it. Layers count from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MixTensor {
    /// The token table.
    Table,
    /// The head.
    Head,
    /// The values of attention, or queries, keys and values as one tensor.
    Value(usize),
    /// The linear behind attention.
    AttentionOutput,
    /// The down projection.
    Down(usize),
    /// Any other linear.
    Other,
}

impl MixTensor {
    /// The tensor of a decoder's role without `.weight`; `fused_qkv`: queries and keys are one tensor with the values.
    pub fn of_role(role: &str, fused_qkv: bool) -> Self {
        let words: Vec<&str> = role.split('.').collect();
        let layer = words.iter().find_map(|w| w.parse().ok()).unwrap_or(0);
        match words.as_slice() {
            ["embedding"] => Self::Table,
            [_, "head"] => Self::Head,
            [.., "attn", "v"] => Self::Value(layer),
            [.., "attn", "q" | "k"] if fused_qkv => Self::Value(layer),
            [.., "attn", "o"] => Self::AttentionOutput,
            [.., "mlp", "down"] => Self::Down(layer),
            _ => Self::Other,
        }
    }
}

impl Mix {
    /// All mixes, largest files first.
    pub fn all() -> impl Iterator<Item = Self> {
        MIXES.iter().map(|(mix, ..)| *mix)
    }

    /// The mix of a name such as `q4_k_m`.
    pub fn of_name(name: &str) -> Option<Self> {
        MIXES.iter().find(|(_, n, _)| *n == name).map(|(mix, ..)| *mix)
    }

    /// Name in recipes.
    pub fn name(self) -> &'static str {
        MIXES[self as usize].1
    }

    /// Type of the tensors that no rule treats apart.
    pub fn base(self) -> BlockType {
        MIXES[self as usize].2
    }

    /// Weights of a tensor. Whether its rows are made of whole blocks is not asked here.
    pub fn weights(self, tensor: MixTensor, of: &MixModel) -> Weights {
        let base = self.base();
        if !base.is_quantized() {
            return Weights::of(base);
        }
        Weights::of(match tensor {
            MixTensor::Head => head(base, of.width),
            MixTensor::Table if of.tied => head(base, of.width),
            MixTensor::Value(layer) => self.value(layer, of),
            MixTensor::AttentionOutput => self.attention_output(),
            MixTensor::Down(layer) => self.down(layer, of),
            MixTensor::Table | MixTensor::Other => base,
        })
    }

    fn value(self, layer: usize, of: &MixModel) -> BlockType {
        let kind = match self {
            Mix::Q2K if of.group >= 4 => BlockType::Q4K,
            Mix::Q2K => BlockType::Q3K,
            Mix::Q3KM if layer < 2 => BlockType::Q5K,
            Mix::Q3KM => BlockType::Q4K,
            Mix::Q3KL => BlockType::Q5K,
            Mix::Q4KM | Mix::Q5KM if more_bits(layer, of.layers) => BlockType::Q6K,
            Mix::Q4KS if layer < 4 => BlockType::Q5K,
            _ => self.base(),
        };
        match kind {
            BlockType::Q3K | BlockType::Q4K if of.is_70b => BlockType::Q5K,
            kind => kind,
        }
    }

    fn attention_output(self) -> BlockType {
        match self {
            Mix::Q2K => BlockType::Q3K,
            Mix::Q3KM => BlockType::Q4K,
            Mix::Q3KL => BlockType::Q5K,
            _ => self.base(),
        }
    }

    fn down(self, layer: usize, of: &MixModel) -> BlockType {
        let first_eighth = layer < of.layers / 8;
        match self {
            Mix::Q2K => BlockType::Q3K,
            Mix::Q3KM if layer < of.layers / 16 => BlockType::Q5K,
            Mix::Q3KM => BlockType::Q4K,
            Mix::Q3KL => BlockType::Q5K,
            Mix::Q4KM | Mix::Q5KM if more_bits(layer, of.layers) => BlockType::Q6K,
            Mix::Q4KS if first_eighth => BlockType::Q5K,
            Mix::Q4_0 if of.importance && first_eighth => BlockType::Q4_1,
            Mix::Q5_0 if of.importance && first_eighth => BlockType::Q5_1,
            _ => self.base(),
        }
    }
}

/// The head of a quantized model of type `base`.
fn head(base: BlockType, width: usize) -> BlockType {
    if base == BlockType::Q8_0 || !base.divides(width) { BlockType::Q8_0 } else { BlockType::Q6K }
}

/// `use_more_bits`: the first and the last eighth of the layers, and every third between them.
fn more_bits(layer: usize, layers: usize) -> bool {
    let eighth = layers / 8;
    layer < eighth || layer >= 7 * layers / 8 || (layer - eighth) % 3 == 2
}

/// The type that stores rows of `cols` values where whole blocks of `kind` do not (`tensor_type_fallback`): one with blocks of 32 and no fewer bits, or
/// half precision.
pub fn fallback(kind: BlockType, cols: usize) -> BlockType {
    if kind.divides(cols) {
        return kind;
    }
    let smaller = match kind {
        BlockType::Q2K | BlockType::Q3K => BlockType::Q4_0,
        BlockType::Q4K => BlockType::Q5_0,
        BlockType::Q5K => BlockType::Q5_1,
        BlockType::Q6K => BlockType::Q8_0,
        other => other,
    };
    if smaller.divides(cols) { smaller } else { BlockType::F16 }
}

#[cfg(test)]
mod tests;
