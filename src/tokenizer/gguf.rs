//! A tokenizer as GGUF files hold it: texts, scores and types of all tokens, merges, and the name of the rule that cuts text, which
//! llama.cpp knows by name alone. What is written agrees with its `conversion/base.py` (`get_vocab_base`, `_set_vocab_qwen`) and
//! `conversion/qwen.py` (`bpe`); rules by name are those of `src/llama-vocab.cpp`.

use std::collections::HashMap;

use serde_json::Value;

use super::sentencepiece::{self, proto::piece_type};
use super::vocabulary::ONE_DIGIT_SPLIT;
use super::{Tokenizer, TokenizerError, TokenizerFormat};

/// Types of tokens (`enum llama_token_type` in `include/llama.h`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenType {
    /// Made by merges.
    Normal = 1,
    /// For what is in no other token.
    Unknown = 2,
    /// Special: never part of a text.
    Control = 3,
    /// Found in texts before anything else.
    UserDefined = 4,
    /// Stands for an id without a token.
    Unused = 5,
    /// A byte.
    Byte = 6,
}

/// The tokens of a model in the form of GGUF.
#[derive(Clone, Debug, PartialEq)]
pub struct Vocabulary {
    /// `tokenizer.ggml.model`: `gpt2` is byte-pair encoding of bytes, `llama` SentencePiece.
    pub model: &'static str,
    /// `tokenizer.ggml.pre`: the rule that cuts text.
    pub pre: &'static str,
    /// Text of each id.
    pub tokens: Vec<String>,
    /// Type of each id.
    pub types: Vec<TokenType>,
    /// Score of each id, for SentencePiece.
    pub scores: Option<Vec<f32>>,
    /// Merges in their order, halves with a space between; none for SentencePiece.
    pub merges: Vec<String>,
    /// Whether texts get a space in front, for SentencePiece.
    pub add_space_prefix: Option<bool>,
}

/// The split of GPT-2 (`ByteLevel` of the `tokenizers` library with `use_regex`).
const GPT2_SPLIT: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
/// The split of cl100k, with up to three digits together.
const CL100K_SPLIT: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// Regular expression, whether pieces that are tokens are left whole, name in llama.cpp.
const PRE_TOKENIZERS: [(&str, bool, &str); 4] = [
    (ONE_DIGIT_SPLIT, false, "qwen2"),
    (CL100K_SPLIT, false, "chatglm-bpe"),
    (CL100K_SPLIT, true, "llama-bpe"),
    (GPT2_SPLIT, false, "gpt-2"),
];

/// Score of a token that merges never make, below that of any piece.
const ADDED_SCORE: f32 = -1000.0;
/// Score of an id without a token.
const UNUSED_SCORE: f32 = -10000.0;

impl Tokenizer {
    /// The tokenizer in the form of GGUF, with `rows` tokens: ids beyond its own stand for nothing (`[PAD7]`). `format` is the one it was read from.
    ///
    /// # Errors
    /// [`TokenizerError::Gguf`] for a kind of tokenizer that llama.cpp has no name for, and for more tokens than `rows`; those of reading a
    /// SentencePiece model.
    pub fn vocabulary(&self, format: &TokenizerFormat, rows: usize) -> Result<Vocabulary, TokenizerError> {
        let json: Value = serde_json::from_str(&self.json)
            .map_err(|source| TokenizerError::Json { path: self.path.clone(), source })?;
        let added = Added::read(&json);
        match format {
            TokenizerFormat::Sentencepiece { .. } => self.pieces(&added, rows),
            TokenizerFormat::Tiktoken { .. } | TokenizerFormat::HuggingFace {} => {
                let ranks = matches!(format, TokenizerFormat::Tiktoken { .. });
                self.bytes(&json, &added, ranks, rows)
            }
        }
    }

    /// Byte-pair encoding of bytes; of `ranks`, the merges are those that encoding a token ends with.
    fn bytes(
        &self,
        json: &Value,
        added: &Added<'_>,
        ranks: bool,
        rows: usize,
    ) -> Result<Vocabulary, TokenizerError> {
        let model = &json["model"];
        let kind = model["type"].as_str().unwrap_or("missing");
        if kind != "BPE" || model["byte_fallback"] == true {
            let what = if kind == "BPE" { "BPE with byte fallback" } else { kind };
            return Err(self.unknown("model", what, "BPE of bytes, SentencePiece models of type BPE"));
        }
        let normalizer = json["normalizer"]["type"].as_str();
        if normalizer.is_some_and(|n| n != "NFC") {
            return Err(self.unknown("normalizer", normalizer.unwrap_or_default(), "none, NFC"));
        }
        // Ranks make a token of every piece that is one, with these merges too.
        let whole = model["ignore_merges"] == true && !ranks;
        let pre = self.pre_tokenizer(&json["pre_tokenizer"], whole)?;
        let mut texts: Vec<Option<&str>> = vec![None; rows];
        let of_model = model["vocab"].as_object().into_iter().flatten();
        let of_model = of_model.filter_map(|(text, id)| Some((text.as_str(), id.as_u64()?)));
        let of_added = added.tokens.iter().map(|(&id, token)| (token.0, id));
        for (text, id) in of_model.chain(of_added) {
            let slot = usize::try_from(id).ok().and_then(|i| texts.get_mut(i));
            *slot.ok_or_else(|| self.too_many(text, id, rows))? = Some(text);
        }
        let (tokens, types) = texts.iter().enumerate().map(|(id, text)| added.typed(id, *text)).unzip();
        let merges = if ranks { rank_merges(model) } else { listed_merges(model) };
        Ok(Vocabulary { model: "gpt2", pre, tokens, types, scores: None, merges, add_space_prefix: None })
    }

    /// Name of the rule that cuts text before byte-pair encoding.
    fn pre_tokenizer(&self, json: &Value, whole: bool) -> Result<&'static str, TokenizerError> {
        let steps: Vec<&Value> = match json["type"].as_str() {
            Some("Sequence") => json["pretokenizers"].as_array().into_iter().flatten().collect(),
            _ => vec![json],
        };
        let is = |step: &Value, kind: &str| step["type"] == *kind;
        // A space in front of the text would be another rule.
        let plain = |step: &Value| is(step, "ByteLevel") && step["add_prefix_space"] != true;
        let pattern = match steps.as_slice() {
            [one] if plain(one) && one["use_regex"] != false => Some(GPT2_SPLIT),
            [split, level] if is(split, "Split") && plain(level) && level["use_regex"] == false => {
                let isolated = split["behavior"] == "Isolated" && split["invert"] != true;
                split["pattern"]["Regex"].as_str().filter(|_| isolated)
            }
            _ => None,
        };
        let found = PRE_TOKENIZERS.iter().find(|(p, w, _)| Some(*p) == pattern && *w == whole);
        found.map(|(_, _, name)| *name).ok_or_else(|| {
            let names: Vec<&str> = PRE_TOKENIZERS.iter().map(|(_, _, name)| *name).collect();
            let pattern = pattern.map_or_else(|| json.to_string(), str::to_owned);
            let whole = if whole { " (pieces that are tokens are left whole)" } else { "" };
            self.unknown("pre_tokenizer", &format!("{pattern}{whole}"), &names.join(", "))
        })
    }

    /// The pieces of a SentencePiece model.
    fn pieces(&self, added: &Added<'_>, rows: usize) -> Result<Vocabulary, TokenizerError> {
        let model = sentencepiece::read_model(&self.path)?;
        let count = model.pieces.len().max(added.tokens.keys().max().map_or(0, |&id| id as usize + 1));
        if count > rows {
            return Err(self.too_many("the last", count as u64 - 1, rows));
        }
        let (mut tokens, mut types, mut scores) = (vec![], vec![], vec![]);
        for id in 0..rows {
            let piece = model.pieces.get(id);
            let (text, kind, score) = match (added.tokens.get(&(id as u64)), piece) {
                (Some(&(text, special)), _) => {
                    let kind = if special { TokenType::Control } else { TokenType::UserDefined };
                    (text.to_owned(), kind, ADDED_SCORE)
                }
                (_, Some(piece)) => (piece_text(piece.piece(), id), piece_kind(piece), piece.score()),
                (_, None) => (padding(id), TokenType::Unused, UNUSED_SCORE),
            };
            tokens.push(text);
            types.push(kind);
            scores.push(score);
        }
        let add_space_prefix = model.normalizer.as_ref().map(|n| n.add_dummy_prefix());
        let (model, pre, merges) = ("llama", "default", vec![]);
        Ok(Vocabulary { model, pre, tokens, types, scores: Some(scores), merges, add_space_prefix })
    }

    fn unknown(&self, part: &'static str, found: &str, known: &str) -> TokenizerError {
        let (found, known) = (found.to_owned(), known.to_owned());
        TokenizerError::Gguf { path: self.path.clone(), part, found, known }
    }

    fn too_many(&self, token: &str, id: u64, rows: usize) -> TokenizerError {
        let (found, known) =
            (format!("'{token}' with id {id}"), format!("ids below the {rows} rows of the token table"));
        TokenizerError::Gguf { path: self.path.clone(), part: "token", found, known }
    }
}

/// Added tokens by id: text and whether they are special.
struct Added<'a> {
    tokens: std::collections::BTreeMap<u64, (&'a str, bool)>,
}

impl<'a> Added<'a> {
    fn read(json: &'a Value) -> Self {
        let list = json["added_tokens"].as_array().into_iter().flatten();
        let one = |t: &'a Value| Some((t["id"].as_u64()?, (t["content"].as_str()?, t["special"] == true)));
        Self { tokens: list.filter_map(one).collect() }
    }

    /// Text and type of an id of a byte-pair encoding.
    fn typed(&self, id: usize, text: Option<&str>) -> (String, TokenType) {
        let Some(text) = text else { return (padding(id), TokenType::Unused) };
        match self.tokens.get(&(id as u64)) {
            None => (text.to_owned(), TokenType::Normal),
            Some((_, true)) => (text.to_owned(), TokenType::Control),
            // Some lists forget to mark them.
            Some(_) if text.starts_with("<|") && text.ends_with("|>") => {
                (text.to_owned(), TokenType::Control)
            }
            Some(_) => (text.replace('\u{2581}', " "), TokenType::UserDefined),
        }
    }
}

/// Stands for an id without a token.
fn padding(id: usize) -> String {
    format!("[PAD{id}]")
}

/// Text of a piece; llama.cpp takes U+0000 for an empty text and would warn.
fn piece_text(text: &str, id: usize) -> String {
    if text == "\0" { format!("[EMPTY_{id}]") } else { text.to_owned() }
}

fn piece_kind(piece: &sentencepiece::proto::Piece) -> TokenType {
    match piece.kind() {
        // Reserved for tokens to come.
        _ if piece.piece().starts_with("[UNUSED") => TokenType::Unused,
        piece_type::UNKNOWN => TokenType::Unknown,
        piece_type::CONTROL => TokenType::Control,
        piece_type::USER_DEFINED => TokenType::UserDefined,
        piece_type::UNUSED => TokenType::Unused,
        piece_type::BYTE => TokenType::Byte,
        _ => TokenType::Normal,
    }
}

/// Merges as the file lists them: `"a b"` or `["a", "b"]`.
fn listed_merges(model: &Value) -> Vec<String> {
    let one = |merge: &Value| match merge {
        Value::String(text) => Some(text.clone()),
        Value::Array(pair) => match pair.as_slice() {
            // A space inside a half would end it: written as the byte's character.
            [Value::String(a), Value::String(b)] => {
                Some(format!("{} {}", a.replace(' ', "\u{120}"), b.replace(' ', "\u{120}")))
            }
            _ => None,
        },
        _ => None,
    };
    model["merges"].as_array().into_iter().flatten().filter_map(one).collect()
}

/// For each token of several bytes, in the order of ranks, the two tokens that encoding it joins last.
fn rank_merges(model: &Value) -> Vec<String> {
    let vocab = model["vocab"].as_object().into_iter().flatten();
    let ranks: HashMap<&str, u64> = vocab.filter_map(|(t, id)| Some((t.as_str(), id.as_u64()?))).collect();
    let mut tokens: Vec<(&str, u64)> = ranks.iter().map(|(t, r)| (*t, *r)).collect();
    tokens.sort_unstable_by_key(|(_, rank)| *rank);
    tokens.into_iter().filter_map(|(token, rank)| last_merge(token, rank, &ranks)).collect()
}

/// Encodes `token` with the tokens of lower rank than its own, until two parts are left.
fn last_merge(token: &str, rank: u64, ranks: &HashMap<&str, u64>) -> Option<String> {
    // Byte offsets where parts begin, and the end.
    let mut cuts: Vec<usize> = token.char_indices().map(|(at, _)| at).chain([token.len()]).collect();
    while cuts.len() > 3 {
        let pairs = cuts.windows(3).enumerate();
        let joined = pairs.filter_map(|(i, w)| Some((*ranks.get(&token[w[0]..w[2]])?, i)));
        let (_, first) = joined.filter(|(r, _)| *r < rank).min()?;
        cuts.remove(first + 1);
    }
    let [start, middle, end] = cuts.as_slice() else { return None };
    Some(format!("{} {}", &token[*start..*middle], &token[*middle..*end]))
}
