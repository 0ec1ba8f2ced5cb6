//! Lowers a model to the tensors and the metadata of a GGUF file, by the plan of its family. Tensors are described first and computed one at
//! a time, so that one is in memory. Every weight of the model and every node is accounted for: what llama.cpp has no place for is refused.

mod account;
mod error;
mod metadata;
mod numbers;

pub use error::EmitError;

use super::{Metadata, TensorInfo, Value};
use crate::family::inputs::gguf::{GgufFile, GgufTensor, KeyValue, Provenance};
use crate::graph::{Component, Model, WeightSource};
use crate::numeric::ggml::BlockType;

/// How plain numbers are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FloatType {
    /// IEEE single precision.
    F32,
    /// IEEE half precision.
    F16,
    /// Upper half of single precision.
    Bf16,
}

impl FloatType {
    /// The type of ggml.
    pub fn kind(self) -> BlockType {
        match self {
            FloatType::F32 => BlockType::F32,
            FloatType::F16 => BlockType::F16,
            FloatType::Bf16 => BlockType::Bf16,
        }
    }
}

/// `enum llama_ftype` (`include/llama.h`) by the name of a mix or of the type of most weights; where there is none, the number for a guess.
pub fn file_type(encoding: &str) -> u32 {
    match encoding {
        "f32" => 0,
        "f16" => 1,
        "q4_0" => 2,
        "q4_1" => 3,
        "q8_0" => 7,
        "q5_0" => 8,
        "q5_1" => 9,
        "q2_k" => 10,
        "q3_k" | "q3_k_s" => 11,
        "q3_k_m" => 12,
        "q3_k_l" => 13,
        "q4_k" | "q4_k_s" => 14,
        "q4_k_m" => 15,
        "q5_k" | "q5_k_s" => 16,
        "q5_k_m" => 17,
        "q6_k" => 18,
        "bf16" => 32,
        _ => 1024,
    }
}

/// Which of a model's two files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileKind {
    /// Token table and decoder.
    Text,
    /// Vision tower and projector.
    Vision,
}

impl FileKind {
    /// The components it holds.
    pub fn components(self) -> [Component; 2] {
        match self {
            FileKind::Text => [Component::Embedding, Component::Decoder],
            FileKind::Vision => [Component::Vision, Component::Projector],
        }
    }

    /// `general.type`.
    pub fn name(self) -> &'static str {
        match self {
            FileKind::Text => "model",
            FileKind::Vision => "mmproj",
        }
    }
}

/// What the caller decides.
#[derive(Clone, Debug)]
pub struct Options<'a> {
    /// How weights without a block type are stored.
    pub float: FloatType,
    /// `general.file_type`: the number of llama.cpp's `enum llama_ftype` (`include/llama.h`).
    pub file_type: u32,
    /// Where the model comes from.
    pub provenance: &'a Provenance,
    /// `tokenizer.*`, for the text file. Keys that the plan has too are left out.
    pub vocabulary: &'a [(String, KeyValue)],
    /// Further metadata.
    pub extra: &'a [(String, Value)],
    /// The head's numbers are those of the token table, bit for bit: one tensor stands for both.
    pub tied_head: bool,
}

/// A file: its metadata, its tensors, and how the bytes of each are computed.
#[derive(Clone, Debug)]
pub struct Emission {
    /// All keys.
    pub metadata: Metadata,
    /// All tensors, in the order of the file.
    pub tensors: Vec<TensorInfo>,
    recipes: Vec<GgufTensor>,
}

/// Describes the file `kind` of `model` by its plan.
///
/// # Errors
/// [`EmitError::NoPlace`] with all weights and nodes that llama.cpp has no place for and all tensors without numbers; [`EmitError::Key`] for a key
/// given twice; [`EmitError::Build`] when the model's own spec cannot be built.
pub fn lower(
    model: &Model,
    plan: &GgufFile,
    kind: FileKind,
    options: &Options<'_>,
) -> Result<Emission, EmitError> {
    let (tensors, recipes) = account::account(model, plan, kind, options)?;
    let metadata = metadata::metadata(plan, kind, options, &tensors)?;
    Ok(Emission { metadata, tensors, recipes })
}

impl Emission {
    /// The bytes of tensor `index`, as its description says, with numbers from `source`.
    ///
    /// # Errors
    /// [`EmitError::Weight`] when a role cannot be read; [`EmitError::Numbers`] when its numbers are not what the model declares, or do not fit
    /// half precision.
    pub fn bytes(&self, index: usize, source: &dyn WeightSource) -> Result<Vec<u8>, EmitError> {
        match (self.tensors.get(index), self.recipes.get(index)) {
            (Some(info), Some(recipe)) => numbers::bytes(info, recipe, source),
            _ => Err(EmitError::Index { index, tensors: self.tensors.len() }),
        }
    }
}
