//! The one description all formats are converted to: Hugging Face's `tokenizer.json` of a byte-pair encoding.

use serde::Serialize;
use serde_json::{Map, Value, json};

use super::added::AddedToken;

/// A whole `tokenizer.json`.
#[derive(Serialize)]
pub(super) struct Description<'a> {
    version: &'static str,
    truncation: Option<()>,
    padding: Option<()>,
    added_tokens: &'a [AddedToken],
    normalizer: Value,
    pre_tokenizer: Value,
    post_processor: Value,
    decoder: Value,
    model: Bpe<'a>,
}

/// A byte-pair encoding. Merges stand in the order in which they are applied.
#[derive(Serialize)]
pub(super) struct Bpe<'a> {
    #[serde(rename = "type")]
    pub kind: &'static str,
    pub dropout: Option<f32>,
    /// Text of the token for what is in no vocabulary.
    pub unk_token: Option<&'a str>,
    pub continuing_subword_prefix: Option<&'static str>,
    pub end_of_word_suffix: Option<&'static str>,
    /// A run of unknown characters is one unknown token.
    pub fuse_unk: bool,
    /// Unknown characters become tokens `<0x..>` of their bytes.
    pub byte_fallback: bool,
    /// A piece that is a token becomes that token, whatever the merges say.
    pub ignore_merges: bool,
    /// Texts with their ids.
    pub vocab: Map<String, Value>,
    pub merges: Vec<[&'a str; 2]>,
}

impl<'a> Bpe<'a> {
    /// An encoding with all options off.
    pub fn new(vocab: Map<String, Value>, merges: Vec<[&'a str; 2]>) -> Self {
        Self {
            kind: "BPE",
            dropout: None,
            unk_token: None,
            continuing_subword_prefix: None,
            end_of_word_suffix: None,
            fuse_unk: false,
            byte_fallback: false,
            ignore_merges: false,
            vocab,
            merges,
        }
    }
}

impl<'a> Description<'a> {
    /// An encoding of bytes: `pattern` cuts the text, NFC first if `nfc`.
    pub fn of_bytes(pattern: &str, nfc: bool, added_tokens: &'a [AddedToken], model: Bpe<'a>) -> Self {
        let byte_level = json!({
            "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false,
        });
        let split = json!({
            "type": "Split", "pattern": { "Regex": pattern }, "behavior": "Isolated", "invert": false,
        });
        Self {
            version: "1.0",
            truncation: None,
            padding: None,
            added_tokens,
            normalizer: if nfc { json!({ "type": "NFC" }) } else { Value::Null },
            pre_tokenizer: json!({ "type": "Sequence", "pretokenizers": [split, byte_level.clone()] }),
            post_processor: byte_level.clone(),
            decoder: byte_level,
            model,
        }
    }

    /// An encoding of characters, after these normalizers; the text is not cut. Decoders run over the decoded tokens.
    pub fn of_characters(
        normalizers: &[Value],
        decoders: &[Value],
        added_tokens: &'a [AddedToken],
        model: Bpe<'a>,
    ) -> Self {
        Self {
            version: "1.0",
            truncation: None,
            padding: None,
            added_tokens,
            normalizer: json!({ "type": "Sequence", "normalizers": normalizers }),
            pre_tokenizer: Value::Null,
            post_processor: Value::Null,
            decoder: json!({ "type": "Sequence", "decoders": decoders }),
            model,
        }
    }
}

/// The vocabulary in which token `i` has id `i`; the two ids of a text that is there twice if there is one.
pub(super) fn numbered<'a>(
    tokens: impl Iterator<Item = &'a str>,
) -> Result<Map<String, Value>, (usize, usize)> {
    let mut vocab = Map::new();
    for (id, token) in tokens.enumerate() {
        if let Some(first) = vocab.insert(token.to_owned(), id.into()) {
            return Err((first.as_u64().unwrap_or_default() as usize, id));
        }
    }
    Ok(vocab)
}
