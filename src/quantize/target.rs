//! The format that a quantized model is for, as far as quantization depends on it.

/// What a quantized model is written as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// Graphs of our own: linears that read one value are merged, activations are rounded in the graph, the modality is a channel.
    Onnx,
    /// The graph is the runtime's: weights alone change, nothing is added or merged.
    Gguf(GgufGraph),
}

/// What llama.cpp's rules for types of tensors depend on besides sizes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GgufGraph {
    /// q, k and v of the decoder are one tensor in the file (`attn_qkv`), so they have one type: that of v.
    pub fused_qkv: bool,
    /// llama.cpp takes the model for one of 70 billion parameters (`LLM_TYPE_70B`: 80 layers in some architectures).
    pub is_70b: bool,
}

impl Target {
    /// GGUF with tensors of their own for q, k and v.
    pub const GGUF: Self = Self::Gguf(GgufGraph { fused_qkv: false, is_70b: false });

    /// Whether the graph is the runtime's, so that only weights may change.
    pub fn has_fixed_graph(self) -> bool {
        matches!(self, Self::Gguf(_))
    }

    /// Name in messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::Onnx => "ONNX",
            Self::Gguf(_) => "GGUF",
        }
    }
}
