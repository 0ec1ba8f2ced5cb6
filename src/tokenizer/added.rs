//! Added tokens: those a checkpoint lists beside its vocabulary, with explicit ids, as transformers reads them.

use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::Value;

use super::{TokenizerError, read_json};

/// A token beside the vocabulary, as `tokenizer.json` has it.
#[derive(Clone, Debug, Serialize)]
pub(super) struct AddedToken {
    /// Its id.
    pub id: u32,
    /// Its text.
    pub content: String,
    /// Only found between spaces.
    pub single_word: bool,
    /// Takes spaces on its left with it.
    pub lstrip: bool,
    /// Takes spaces on its right with it.
    pub rstrip: bool,
    /// Looked for in the normalized text, not in the text as given.
    pub normalized: bool,
    /// Left out of decoded text on request.
    pub special: bool,
    /// The file that lists it.
    #[serde(skip)]
    pub from: PathBuf,
}

impl AddedToken {
    /// A token without conditions, listed in `from`.
    pub fn new(id: u32, content: &str, special: bool, normalized: bool, from: &Path) -> Self {
        let (content, from) = (content.to_owned(), from.to_owned());
        Self { id, content, single_word: false, lstrip: false, rstrip: false, normalized, special, from }
    }
}

/// What `tokenizer_config.json` of a checkpoint says. Special tokens stand there, and every released checkpoint has it: a folder without it
/// lost a file, and texts would get other ids without a word.
pub(super) fn config(folder: &Path) -> Result<Value, TokenizerError> {
    read_json(&folder.join("tokenizer_config.json"))
}

/// The added tokens of a checkpoint by id: `added_tokens_decoder` of its `tokenizer_config.json` (given as `config`),
/// or `added_tokens.json` when the configuration has no such key. That is transformers' order, which ignores
/// the second where there is the first.
pub(super) fn tokens(folder: &Path, config: &Value) -> Result<Vec<AddedToken>, TokenizerError> {
    let mut added = match config.get("added_tokens_decoder") {
        Some(list) => from_decoder(&folder.join("tokenizer_config.json"), list)?,
        None => from_encoder(folder, config)?,
    };
    added.sort_by_key(|token| token.id);
    Ok(added)
}

/// Joins lists of added tokens, sorted by id; of a token that is in both with the same id, the one in `first` is kept.
pub(super) fn join(first: Vec<AddedToken>, second: Vec<AddedToken>) -> Vec<AddedToken> {
    let known: std::collections::HashSet<(u32, String)> =
        first.iter().map(|t| (t.id, t.content.clone())).collect();
    let mut all = first;
    all.extend(second.into_iter().filter(|t| !known.contains(&(t.id, t.content.clone()))));
    all.sort_by_key(|token| token.id);
    all
}

/// `{"12": {"content": "<a>", "special": true, ...}, ...}`
fn from_decoder(path: &Path, list: &Value) -> Result<Vec<AddedToken>, TokenizerError> {
    let one = |(id, token): (&String, &Value)| {
        let flag = |name: &str| token[name].as_bool().unwrap_or(false);
        let (Ok(number), Some(content)) = (id.parse(), token["content"].as_str()) else {
            return Err(TokenizerError::AddedToken { path: path.to_owned(), entry: id.clone() });
        };
        let added = AddedToken::new(number, content, flag("special"), flag("normalized"), path);
        let (single_word, lstrip, rstrip) = (flag("single_word"), flag("lstrip"), flag("rstrip"));
        Ok(AddedToken { single_word, lstrip, rstrip, ..added })
    };
    list.as_object().into_iter().flatten().map(one).collect()
}

/// `{"<a>": 12, ...}`; special are those that a configuration file names as such.
fn from_encoder(folder: &Path, config: &Value) -> Result<Vec<AddedToken>, TokenizerError> {
    let path = folder.join("added_tokens.json");
    if !path.exists() {
        return Ok(vec![]);
    }
    let map = folder.join("special_tokens_map.json");
    let map = if map.exists() { read_json(&map)? } else { Value::Null };
    let special: Vec<&str> = [config, &map].into_iter().flat_map(named_special).collect();
    let one = |(content, id): (&String, &Value)| {
        let Some(id) = id.as_u64().and_then(|id| u32::try_from(id).ok()) else {
            return Err(TokenizerError::AddedToken { path: path.clone(), entry: content.clone() });
        };
        let special = special.contains(&content.as_str());
        Ok(AddedToken::new(id, content, special, !special, &path))
    };
    read_json(&path)?.as_object().into_iter().flatten().map(one).collect()
}

/// Texts of `bos_token`, `eos_token` and the like, and of `additional_special_tokens`.
fn named_special(config: &Value) -> Vec<&str> {
    let mut found = vec![];
    for (key, value) in config.as_object().into_iter().flatten() {
        if key == "additional_special_tokens" {
            found.extend(value.as_array().into_iter().flatten().filter_map(token_text));
        } else if key.ends_with("_token") {
            found.extend(token_text(value));
        }
    }
    found
}

/// A token as configuration files write it: its text, or an object with the text under `content`.
fn token_text(value: &Value) -> Option<&str> {
    value.as_str().or_else(|| value["content"].as_str())
}
