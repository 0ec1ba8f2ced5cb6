//! Text to token ids and back, by the checkpoint's own tokenizer. Special tokens are never added here: the chat
//! template has written those it wants.
//!
//! A tokenizer comes in one of the formats of [`TokenizerFormat`]. Each is converted at load to one description,
//! Hugging Face's `tokenizer.json`, which the `tokenizers` crate runs and [`Tokenizer::json`] gives to whoever needs the
//! file. The tests compare each with the reference implementation of its format. What stands in which family's
//! folder is said by family files, not here.

mod added;
mod describe;
mod error;
mod format;
mod gguf;
mod sentencepiece;
mod tiktoken;
mod vocabulary;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::Value;

pub use error::TokenizerError;
pub use format::{RepeatedToken, SpecialToken, TokenizerFormat};
pub use gguf::{TokenType, Vocabulary};

use added::AddedToken;
use describe::Description;

/// A tokenizer.
#[derive(Clone, Debug)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    json: Arc<str>,
    path: PathBuf,
}

impl Tokenizer {
    /// Reads the tokenizer of the checkpoint `folder`, which has it in `format`.
    ///
    /// For the formats other than Hugging Face's, a `tokenizer.json` in the folder is not read: the reference code of
    /// such a checkpoint does not read it either. Their special tokens beyond those of the format come from
    /// `added_tokens_decoder` of `tokenizer_config.json`, or `added_tokens.json` where there is no such key.
    ///
    /// # Errors
    /// Unreadable, malformed or unsupported files; added tokens whose ids do not come out as given. All name the file.
    pub fn from_folder(folder: &Path, format: &TokenizerFormat) -> Result<Self, TokenizerError> {
        match format {
            TokenizerFormat::HuggingFace {} => {
                let whole = folder.join("tokenizer.json");
                if whole.exists() { Self::from_file(&whole) } else { vocabulary::load(folder) }
            }
            TokenizerFormat::Tiktoken { file, pattern, normalize_nfc, special } => {
                let normalize_nfc = *normalize_nfc;
                tiktoken::load(folder, file, &tiktoken::Rules { pattern, normalize_nfc, special })
            }
            TokenizerFormat::Sentencepiece { file } => sentencepiece::load(folder, file),
        }
    }

    /// Reads a `tokenizer.json`.
    ///
    /// # Errors
    /// [`TokenizerError::Read`], [`TokenizerError::Parse`].
    pub fn from_file(path: &Path) -> Result<Self, TokenizerError> {
        Self::from_bytes(path, &read(path)?)
    }

    /// Takes the content of a `tokenizer.json`; `path` stands for it in errors.
    ///
    /// # Errors
    /// [`TokenizerError::Parse`].
    pub fn from_bytes(path: &Path, bytes: &[u8]) -> Result<Self, TokenizerError> {
        let path = path.to_owned();
        match tokenizers::Tokenizer::from_bytes(bytes) {
            Ok(inner) => Ok(Self { inner, json: String::from_utf8_lossy(bytes).into(), path }),
            Err(source) => Err(TokenizerError::Parse { path, source }),
        }
    }

    /// The tokenizer that `description` describes, made from the file `path`; each of `added` must get its id.
    fn built(
        path: &Path,
        description: &Description<'_>,
        added: &[AddedToken],
    ) -> Result<Self, TokenizerError> {
        let text = serde_json::to_string(description)
            .map_err(|source| TokenizerError::Describe { path: path.to_owned(), source })?;
        let built = Self::from_bytes(path, text.as_bytes())?;
        for AddedToken { id, content, from, .. } in added {
            let found = built.inner.token_to_id(content);
            if found != Some(*id) {
                let (path, token) = (from.clone(), content.clone());
                return Err(TokenizerError::AddedId { path, token, expected: *id, found });
            }
        }
        Ok(built)
    }

    /// The `tokenizer.json` of this tokenizer: the checkpoint's own text, or the description made from its files.
    pub fn json(&self) -> &str {
        &self.json
    }

    /// Ids of `text`, nothing added. Special tokens written in the text become their ids.
    ///
    /// # Errors
    /// [`TokenizerError::Run`].
    pub fn encode(&self, text: &str) -> Result<Vec<i64>, TokenizerError> {
        let encoding = self.inner.encode_fast(text, false).map_err(|source| self.failed(source))?;
        Ok(encoding.get_ids().iter().copied().map(i64::from).collect())
    }

    /// Text of `ids`, without special tokens if `skip_special`. Ids the tokenizer does not have are left out.
    ///
    /// # Errors
    /// [`TokenizerError::Run`].
    pub fn decode(&self, ids: &[i64], skip_special: bool) -> Result<String, TokenizerError> {
        let ids: Vec<u32> = ids.iter().filter_map(|&id| u32::try_from(id).ok()).collect();
        self.inner.decode(&ids, skip_special).map_err(|source| self.failed(source))
    }

    /// Id of a token by its exact text.
    pub fn id_of(&self, token: &str) -> Option<i64> {
        self.inner.token_to_id(token).map(i64::from)
    }

    fn failed(&self, source: tokenizers::Error) -> TokenizerError {
        TokenizerError::Run { path: self.path.clone(), source }
    }
}

fn read(path: &Path) -> Result<Vec<u8>, TokenizerError> {
    std::fs::read(path).map_err(|source| TokenizerError::Read { path: path.to_owned(), source })
}

fn read_json(path: &Path) -> Result<Value, TokenizerError> {
    serde_json::from_slice(&read(path)?)
        .map_err(|source| TokenizerError::Json { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests;
