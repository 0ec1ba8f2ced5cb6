//! The fields of a SentencePiece model that are used, as `sentencepiece_model.proto` of google/sentencepiece numbers
//! them (proto2: absent fields have the defaults named there). Unknown fields are skipped.

/// Values of `SentencePiece.Type`.
pub mod piece_type {
    pub const NORMAL: i32 = 1;
    pub const UNKNOWN: i32 = 2;
    pub const CONTROL: i32 = 3;
    pub const USER_DEFINED: i32 = 4;
    pub const UNUSED: i32 = 5;
    pub const BYTE: i32 = 6;
}

/// `TrainerSpec.ModelType.BPE`.
pub const BPE: i32 = 2;

/// The names of `TrainerSpec.ModelType`, from 1.
pub const MODEL_TYPES: [&str; 4] = ["unigram", "BPE", "word", "character"];

/// `ModelProto`
#[derive(Clone, PartialEq, prost::Message)]
pub struct Model {
    #[prost(message, repeated, tag = "1")]
    pub pieces: Vec<Piece>,
    #[prost(message, optional, tag = "2")]
    pub trainer: Option<Trainer>,
    #[prost(message, optional, tag = "3")]
    pub normalizer: Option<Normalizer>,
}

/// `ModelProto.SentencePiece`; its id is its place in the list.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Piece {
    #[prost(string, optional, tag = "1")]
    pub piece: Option<String>,
    #[prost(float, optional, tag = "2")]
    pub score: Option<f32>,
    #[prost(int32, optional, tag = "3", default = "1")]
    pub kind: Option<i32>,
}

/// `TrainerSpec`
#[derive(Clone, PartialEq, prost::Message)]
pub struct Trainer {
    #[prost(int32, optional, tag = "3", default = "1")]
    pub model_type: Option<i32>,
    #[prost(bool, optional, tag = "24")]
    pub treat_whitespace_as_suffix: Option<bool>,
    #[prost(bool, optional, tag = "35")]
    pub byte_fallback: Option<bool>,
}

/// `NormalizerSpec`
#[derive(Clone, PartialEq, prost::Message)]
pub struct Normalizer {
    #[prost(string, optional, tag = "1")]
    pub name: Option<String>,
    #[prost(bytes = "vec", optional, tag = "2")]
    pub precompiled_charsmap: Option<Vec<u8>>,
    #[prost(bool, optional, tag = "3", default = "true")]
    pub add_dummy_prefix: Option<bool>,
    #[prost(bool, optional, tag = "4", default = "true")]
    pub remove_extra_whitespaces: Option<bool>,
    #[prost(bool, optional, tag = "5", default = "true")]
    pub escape_whitespaces: Option<bool>,
}
