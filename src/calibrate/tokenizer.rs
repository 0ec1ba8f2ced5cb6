//! Text to token ids and back, by the checkpoint's own tokenizer. Special tokens are never added here: the chat
//! template has written those it wants. Where the files come from beyond their names is the caller's business.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

/// How Qwen2 cuts text before BPE (`PRETOKENIZE_REGEX` of transformers' `tokenization_qwen2.py`).
const QWEN2_SPLIT: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// Tokenizer classes that [`Tokenizer::from_vocabulary`] knows how to build.
const QWEN2_CLASSES: [&str; 2] = ["Qwen2Tokenizer", "Qwen2TokenizerFast"];

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
    /// Without `tokenizer.json`, only Qwen2 tokenizers can be built.
    #[error(
        "{}: tokenizer_class is {found}; without tokenizer.json only {} can be built from vocab.json and merges.txt",
        path.display(),
        QWEN2_CLASSES.join(" or ")
    )]
    Class {
        /// The `tokenizer_config.json`.
        path: PathBuf,
        /// The class it names.
        found: String,
    },
    /// An entry of `added_tokens_decoder` is malformed.
    #[error("{}: added_tokens_decoder entry '{id}' is not an id with a token's content", path.display())]
    AddedToken {
        /// The `tokenizer_config.json`.
        path: PathBuf,
        /// Key of the entry.
        id: String,
    },
    /// A token did not get the id its file gives it.
    #[error("{}: token '{token}' should have id {expected} but gets {found:?}", path.display())]
    AddedId {
        /// The file.
        path: PathBuf,
        /// Text of the token.
        token: String,
        /// Id in the file.
        expected: u32,
        /// Id in the tokenizer built from it.
        found: Option<u32>,
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

/// A tokenizer.
#[derive(Clone, Debug)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    path: PathBuf,
}

impl Tokenizer {
    /// Reads `tokenizer.json` of `folder`, or builds the tokenizer from `vocab.json`, `merges.txt` and
    /// `tokenizer_config.json` when there is none.
    ///
    /// # Errors
    /// Those of [`from_file`](Self::from_file) or [`from_vocabulary`](Self::from_vocabulary).
    pub fn from_folder(folder: &Path) -> Result<Self, TokenizerError> {
        let whole = folder.join("tokenizer.json");
        if whole.exists() { Self::from_file(&whole) } else { Self::from_vocabulary(folder) }
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
            Ok(inner) => Ok(Self { inner, path }),
            Err(source) => Err(TokenizerError::Parse { path, source }),
        }
    }

    /// Builds the byte-level BPE of Qwen2 from `vocab.json`, `merges.txt` and `tokenizer_config.json` (its
    /// `added_tokens_decoder`), as transformers' `Qwen2Tokenizer` does.
    ///
    /// # Errors
    /// Unreadable or malformed files, another tokenizer class, added tokens whose ids do not come out as given.
    pub fn from_vocabulary(folder: &Path) -> Result<Self, TokenizerError> {
        let vocab_path = folder.join("vocab.json");
        let config_path = folder.join("tokenizer_config.json");
        let vocab = read_json(&vocab_path)?;
        let merges = read_merges(&folder.join("merges.txt"))?;
        let config = read_json(&config_path)?;
        let class = config["tokenizer_class"].as_str().unwrap_or("missing");
        if !QWEN2_CLASSES.contains(&class) {
            return Err(TokenizerError::Class { path: config_path, found: class.to_owned() });
        }
        let added = added_tokens(&config_path, &config)?;
        let whole = qwen2_description(vocab, merges, &added).to_string();
        let built = Self::from_bytes(&vocab_path, whole.as_bytes())?;
        for AddedToken { id, content, .. } in added {
            let found = built.inner.token_to_id(&content);
            if found != Some(id) {
                let path = config_path;
                return Err(TokenizerError::AddedId { path, token: content, expected: id, found });
            }
        }
        Ok(built)
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

/// The pairs of `merges.txt` in order; a first line `#version: ...` is skipped.
fn read_merges(path: &Path) -> Result<Vec<[String; 2]>, TokenizerError> {
    let bytes = read(path)?;
    let text = String::from_utf8_lossy(&bytes);
    let lines =
        text.lines().enumerate().filter(|(i, l)| !(l.is_empty() || *i == 0 && l.starts_with("#version")));
    let pair = |(i, line): (usize, &str)| match line.split_once(' ') {
        Some((a, b)) if !b.contains(' ') => Ok([a.to_owned(), b.to_owned()]),
        _ => Err(TokenizerError::Merge { path: path.to_owned(), line: i + 1, found: line.to_owned() }),
    };
    lines.map(pair).collect()
}

/// An entry of `added_tokens_decoder`.
struct AddedToken {
    id: u32,
    content: String,
    fields: Map<String, Value>,
}

/// The added tokens of `tokenizer_config.json`, by id.
fn added_tokens(path: &Path, config: &Value) -> Result<Vec<AddedToken>, TokenizerError> {
    let mut added = Vec::new();
    for (id, token) in config["added_tokens_decoder"].as_object().into_iter().flatten() {
        match (id.parse(), token["content"].as_str(), token.as_object()) {
            (Ok(id), Some(content), Some(fields)) => {
                added.push(AddedToken { id, content: content.to_owned(), fields: fields.clone() });
            }
            _ => return Err(TokenizerError::AddedToken { path: path.to_owned(), id: id.clone() }),
        }
    }
    added.sort_by_key(|token| token.id);
    Ok(added)
}

/// The `tokenizer.json` that transformers' `Qwen2Tokenizer` would write.
fn qwen2_description(vocab: Value, merges: Vec<[String; 2]>, added: &[AddedToken]) -> Value {
    let describe = |token: &AddedToken| {
        let flag = |name: &str| token.fields.get(name).and_then(Value::as_bool).unwrap_or(false);
        json!({
            "id": token.id, "content": token.content, "single_word": flag("single_word"),
            "lstrip": flag("lstrip"), "rstrip": flag("rstrip"),
            "normalized": flag("normalized"), "special": flag("special"),
        })
    };
    let added_tokens: Vec<Value> = added.iter().map(describe).collect();
    let byte_level = json!({
        "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false,
    });
    let split = json!({
        "type": "Split", "pattern": { "Regex": QWEN2_SPLIT }, "behavior": "Isolated", "invert": false,
    });
    json!({
        "version": "1.0",
        "added_tokens": added_tokens,
        "normalizer": { "type": "NFC" },
        "pre_tokenizer": { "type": "Sequence", "pretokenizers": [split, byte_level.clone()] },
        "post_processor": byte_level,
        "decoder": byte_level,
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": "",
            "end_of_word_suffix": "", "fuse_unk": false, "byte_fallback": false, "vocab": vocab, "merges": merges,
        },
    })
}

#[cfg(test)]
mod tests;
