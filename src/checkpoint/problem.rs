//! The single problems a checkpoint can have, each with its subject and one line of text, and what to do next.
//! Found by `header.rs`, `layout.rs`, `index.rs` and `open.rs`; nothing is checked here.
//!
//! Tensor names come from the file and are printed quoted and escaped, so that they cannot drive a terminal.

use super::dtype::Dtype;
use super::error::FileError;

/// One thing that is wrong with a checkpoint. `file` and `shard` are plain names inside the checkpoint folder.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the message of each variant says what each field is")]
pub enum Problem {
    /// A file is missing or cannot be read.
    #[error(transparent)]
    File(#[from] FileError),

    /// There is nothing to read weights from.
    #[error("no weights: expected `model.safetensors` or `model.safetensors.index.json`, found {found}")]
    NoWeights { found: String },
    /// Weights in a format that can run code when loaded.
    #[error("{file}: weights in PyTorch's pickle format, only safetensors is read")]
    PickledWeights { file: String },
    /// A weight file or index without a single tensor.
    #[error("{file}: holds no tensors")]
    NoTensors { file: String },

    /// Too short for the 8 bytes of the header length.
    #[error("{file}: truncated: {len} bytes, a safetensors file starts with an 8-byte header length")]
    TooShort { file: String, len: u64 },
    /// The header length is beyond any sensible header.
    #[error("{file}: header length {len} bytes, at most {cap} are accepted")]
    HeaderTooLarge { file: String, len: u64, cap: u64 },
    /// The header does not fit into the file.
    #[error("{file}: truncated: header of {len} bytes expected, {found} bytes follow its length field")]
    HeaderPastEnd { file: String, len: u64, found: u64 },
    /// The header does not begin with `{`.
    #[error("{file}: header must start with `{{` (0x7b), found byte {found:#04x}")]
    HeaderStart { file: String, found: u8 },
    /// The header is not text.
    #[error("{file}: header is not UTF-8 at byte {offset} of the file, in `{near}`")]
    HeaderNotUtf8 { file: String, offset: usize, near: String },
    /// The header is text but not the JSON the format prescribes.
    #[error("{file}: header is not a safetensors header: {cause}")]
    HeaderJson { file: String, cause: serde_json::Error },
    /// A tensor is described twice in one header.
    #[error("{file}: tensor {tensor:?}: described twice in the header")]
    DuplicateTensor { file: String, tensor: String },
    /// An element type the format does not have.
    #[error("{file}: tensor {tensor:?}: unknown element type {dtype:?}")]
    UnknownDtype { file: String, tensor: String, dtype: String },
    /// The shape's product is beyond any memory.
    #[error(
        "{file}: tensor {tensor:?}: shape {shape:?} of {dtype} is not a whole number of bytes within 64 bits"
    )]
    BadShape { file: String, tensor: String, shape: Vec<u64>, dtype: Dtype },
    /// A byte range that ends before it begins.
    #[error("{file}: tensor {tensor:?}: byte range {begin}..{end} is reversed")]
    ReversedRange { file: String, tensor: String, begin: u64, end: u64 },
    /// Shape and byte range disagree.
    #[error(
        "{file}: tensor {tensor:?}: {dtype} {shape:?} needs {expected} bytes, its byte range holds {found}"
    )]
    WrongSize { file: String, tensor: String, dtype: Dtype, shape: Vec<u64>, expected: u64, found: u64 },
    /// Two tensors share bytes.
    #[error(
        "{file}: tensor {tensor:?}: byte range {begin}..{end} overlaps {other:?}, which ends at {other_end}"
    )]
    Overlap { file: String, tensor: String, begin: u64, end: u64, other: String, other_end: u64 },
    /// Bytes that belong to no tensor.
    #[error(
        "{file}: tensor {tensor:?}: starts at byte {found}, expected {expected} (unused bytes are not allowed)"
    )]
    Hole { file: String, tensor: String, expected: u64, found: u64 },
    /// The data ends before the tensors do.
    #[error(
        "{file}: truncated: header describes {expected} bytes of data, file has {found}; tensors cut off: \
        {count}, the first is {tensor:?}"
    )]
    Truncated { file: String, expected: u64, found: u64, count: usize, tensor: String },
    /// Bytes after the last tensor.
    #[error(
        "{file}: header describes {expected} bytes of data, file has {found} (unused bytes are not allowed)"
    )]
    TrailingBytes { file: String, expected: u64, found: u64 },

    /// The index describes a tensor twice.
    #[error("{index}: tensor {tensor:?}: listed twice")]
    DuplicateInIndex { index: String, tensor: String },
    /// The index names a shard by a path.
    #[error("{index}: tensor {tensor:?}: shard {shard:?} is not a plain file name in the checkpoint folder")]
    ShardName { index: String, tensor: String, shard: String },
    /// A shard named in the index is not there.
    #[error("{shard}: shard missing; tensors that {index} expects in it: {count}, the first is {tensor:?}")]
    MissingShard { shard: String, index: String, count: usize, tensor: String },
    /// The index promises a tensor its shard does not hold.
    #[error("{shard}: tensor {tensor:?}: missing; {index} says it is in this shard, found in {found}")]
    NotInShard { shard: String, tensor: String, index: String, found: String },
    /// A shard holds a tensor the index does not know.
    #[error("{shard}: tensor {tensor:?}: extra; not listed in {index}")]
    NotInIndex { shard: String, tensor: String, index: String },
    /// Two shards hold a tensor of the same name.
    #[error("{second}: tensor {tensor:?}: also in {first}, expected in one shard only")]
    InTwoShards { tensor: String, first: String, second: String },
}

const AGAIN: &str =
    "a download was probably interrupted: fetch the named files again and compare their sizes with the hub's";
const REVISIONS: &str = "index and shards do not belong together: fetch all of them from one revision, or save the model again \
    with save_pretrained";
const TEXT: &str = "correct the text file at the place named, or fetch it again";
const WRITER: &str =
    "the file breaks the safetensors format: fetch it again, or report it to whoever wrote it";
const HOSTILE: &str = "a checkpoint has no reason to point outside its folder: do not use it unless you trust its source; \
    copy the files in if you do";
const CONVERT: &str = "convert to safetensors first: load the model with transformers and call save_pretrained(dir, \
    safe_serialization=True)";
const WHOLE: &str = "give the folder of a complete Hugging Face checkpoint: config.json, tokenizer files and safetensors \
    weights";

impl Problem {
    /// What the user can do about it; `None` where the message says it all.
    pub fn hint(&self) -> Option<&'static str> {
        use Problem as P;
        match self {
            P::File(FileError::Missing { .. }) | P::NoWeights { .. } | P::NoTensors { .. } => Some(WHOLE),
            P::File(FileError::Dangling { .. }) => Some(AGAIN),
            P::File(FileError::Escapes { .. } | FileError::NotPlainName { .. }) => Some(HOSTILE),
            P::File(FileError::Json { .. } | FileError::NotUtf8 { .. }) => Some(TEXT),
            P::File(_) => None,
            P::PickledWeights { .. } => Some(CONVERT),
            P::TooShort { .. }
            | P::HeaderPastEnd { .. }
            | P::Truncated { .. }
            | P::MissingShard { .. }
            | P::TrailingBytes { .. } => Some(AGAIN),
            P::ShardName { .. } => Some(HOSTILE),
            P::DuplicateInIndex { .. }
            | P::NotInShard { .. }
            | P::NotInIndex { .. }
            | P::InTwoShards { .. } => Some(REVISIONS),
            P::HeaderTooLarge { .. }
            | P::HeaderStart { .. }
            | P::HeaderNotUtf8 { .. }
            | P::HeaderJson { .. }
            | P::DuplicateTensor { .. }
            | P::UnknownDtype { .. }
            | P::BadShape { .. }
            | P::ReversedRange { .. }
            | P::WrongSize { .. }
            | P::Overlap { .. }
            | P::Hole { .. } => Some(WRITER),
        }
    }
}
