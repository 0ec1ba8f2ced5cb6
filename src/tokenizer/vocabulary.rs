//! A byte-level vocabulary with merges (`vocab.json`, `merges.txt`) of the class that several families share.

use std::path::Path;

use serde_json::Value;

use super::describe::{Bpe, Description};
use super::{Tokenizer, TokenizerError, added, read, read_json};

/// How Qwen2 cuts text before BPE (`PRETOKENIZE_REGEX` of transformers' `tokenization_qwen2.py`).
pub(super) const ONE_DIGIT_SPLIT: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// Tokenizer classes that can be built here.
pub(super) const CLASSES: [&str; 2] = ["Qwen2Tokenizer", "Qwen2TokenizerFast"];

/// Builds the tokenizer as transformers' `Qwen2Tokenizer` does.
pub(super) fn load(folder: &Path) -> Result<Tokenizer, TokenizerError> {
    let vocab_path = folder.join("vocab.json");
    let config_path = folder.join("tokenizer_config.json");
    let vocab = read_json(&vocab_path)?;
    let merges = read_merges(&folder.join("merges.txt"))?;
    let config = read_json(&config_path)?;
    let class = config["tokenizer_class"].as_str().unwrap_or("missing");
    if !CLASSES.contains(&class) {
        return Err(TokenizerError::Class { path: config_path, found: class.to_owned() });
    }
    let added = added::tokens(folder, &config)?;
    let Value::Object(vocab) = vocab else {
        let source = serde::de::Error::custom("expected an object of tokens and ids");
        return Err(TokenizerError::Json { path: vocab_path, source });
    };
    let merges = merges.iter().map(|[a, b]| [a.as_str(), b.as_str()]).collect();
    // Empty affixes, not null ones: what transformers writes for this class.
    let (continuing_subword_prefix, end_of_word_suffix) = (Some(""), Some(""));
    let model = Bpe { continuing_subword_prefix, end_of_word_suffix, ..Bpe::new(vocab, merges) };
    Tokenizer::built(&vocab_path, &Description::of_bytes(ONE_DIGIT_SPLIT, true, &added, model), &added)
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
