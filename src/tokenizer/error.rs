//! Why a tokenizer could not be made or used: every variant names the file.

use std::path::PathBuf;

/// Why a tokenizer could not be made or used.
#[derive(Debug, thiserror::Error)]
pub enum TokenizerError {
    /// A file could not be read.
    #[error("cannot read tokenizer file {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file is not what the `tokenizers` library understands.
    #[error("cannot use tokenizer file {}", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// What the library said.
        source: tokenizers::Error,
    },
    /// A file is not JSON.
    #[error("tokenizer file {} is not valid JSON", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// What the parser said.
        source: serde_json::Error,
    },
    /// A description could not be written as JSON.
    #[error("cannot describe the tokenizer of {} as JSON", path.display())]
    Describe {
        /// The file it was made from.
        path: PathBuf,
        /// What the writer said.
        source: serde_json::Error,
    },
    /// A line of `merges.txt` is not two symbols.
    #[error("{}, line {line}: expected two symbols with a space between them, found '{found}'", path.display())]
    Merge {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// The line.
        found: String,
    },
    /// A line of a rank file is not a token and its rank, or repeats one.
    #[error("{}, line {line}: {what}", path.display())]
    Rank {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// What was expected and found.
        what: String,
    },
    /// The ranks of a file do not make a vocabulary.
    #[error("{}: {what}", path.display())]
    Ranks {
        /// The file.
        path: PathBuf,
        /// What was expected and found.
        what: String,
    },
    /// A file is not a protobuf message of the expected kind.
    #[error("{} is not a SentencePiece model, or a damaged one", path.display())]
    Protobuf {
        /// The file.
        path: PathBuf,
        /// What the decoder said.
        source: prost::DecodeError,
    },
    /// A SentencePiece model is damaged, or of a kind that is not supported.
    #[error("{}: {what}", path.display())]
    Model {
        /// The file.
        path: PathBuf,
        /// What was expected and found.
        what: String,
    },
    /// Only one class of tokenizers can be built from `vocab.json`.
    #[error(
        "{}: tokenizer_class is {found}; without tokenizer.json only {} can be built from vocab.json and merges.txt",
        path.display(),
        super::vocabulary::CLASSES.join(" or ")
    )]
    Class {
        /// The `tokenizer_config.json`.
        path: PathBuf,
        /// The class it names.
        found: String,
    },
    /// An entry of a list of added tokens is malformed.
    #[error("{}: added token '{entry}' is not an id with a token's content", path.display())]
    AddedToken {
        /// The `tokenizer_config.json` or `added_tokens.json`.
        path: PathBuf,
        /// Key of the entry.
        entry: String,
    },
    /// A token did not get the id its file gives it.
    #[error(
        "{}: token '{token}' should have id {expected} but gets {found:?}; ids of added tokens must be unique and \
         follow the vocabulary without a gap",
        path.display()
    )]
    AddedId {
        /// The file that lists the token.
        path: PathBuf,
        /// Text of the token.
        token: String,
        /// Id in the file.
        expected: u32,
        /// Id in the tokenizer built from it.
        found: Option<u32>,
    },
    /// llama.cpp has no form for a part of the tokenizer.
    #[error("the tokenizer of {} cannot be written as GGUF: its {part} is {found}; known: {known}", path.display())]
    Gguf {
        /// File the tokenizer came from.
        path: PathBuf,
        /// What is in the way.
        part: &'static str,
        /// As it is.
        found: String,
        /// What can be written.
        known: String,
    },
    /// The tokenizer failed on a text or on ids.
    #[error("the tokenizer of {} failed", path.display())]
    Run {
        /// File the tokenizer came from.
        path: PathBuf,
        /// What the library said.
        source: tokenizers::Error,
    },
}
