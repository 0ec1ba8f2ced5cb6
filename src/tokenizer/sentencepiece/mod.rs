//! SentencePiece models of byte-pair encoding with identity normalization. Converted as transformers' `LlamaConverter`
//! and `SentencePieceExtractor` do (`convert_slow_tokenizer.py`), in their legacy form: with `add_dummy_prefix` each
//! stretch of text between added tokens gets a space in front, as the slow tokenizer does, which gives SentencePiece
//! one stretch at a time.
//!
//! Where transformers' conversion and SentencePiece itself differ, this follows SentencePiece: extra spaces are
//! removed if the model says so, bytes and control pieces are never made by merges, and user defined pieces are looked
//! for in the normalized text. One difference is left: after a user defined piece, text gets the space of
//! `add_dummy_prefix` again, as in transformers.

pub(super) mod proto;

use std::collections::HashSet;
use std::path::Path;

use prost::Message;
use serde_json::{Value, json};

use super::added::{self, AddedToken};
use super::describe::{Bpe, Description, numbered};
use super::{Tokenizer, TokenizerError, read};
use proto::{Model, Normalizer, piece_type};

/// How SentencePiece writes a space (U+2581).
const SPACE: &str = "\u{2581}";

/// Builds the tokenizer of the model file `file` in `folder`.
pub(super) fn load(folder: &Path, file: &str) -> Result<Tokenizer, TokenizerError> {
    let path = folder.join(file);
    let model = read_model(&path)?;
    let wrong = |what: String| TokenizerError::Model { path: path.clone(), what };
    let (byte_fallback, normalizer) = supported(&model).map_err(wrong)?;
    let unknown = unknown(&model).map_err(wrong)?;

    let listed = added::tokens(folder, &added::config(folder)?)?;
    let texts = renamed(&model, &listed);
    let vocab = numbered(texts.iter().copied()).map_err(|(a, b)| {
        wrong(format!("pieces {a} and {b} are both '{}'; each must be unique", texts[a]))
    })?;
    let merges = merges(&model, &texts).map_err(wrong)?;
    let own = own_added(&model, &listed, normalizer, &path);
    let added = added::join(listed.clone(), own);
    let unk_token = Some(texts[unknown]);
    let model = Bpe { unk_token, fuse_unk: true, byte_fallback, ..Bpe::new(vocab, merges) };
    let description =
        Description::of_characters(&normalizers(normalizer), &decoders(normalizer), &added, model);
    Tokenizer::built(&path, &description, &added)
}

/// Reads a model file.
pub(super) fn read_model(path: &Path) -> Result<Model, TokenizerError> {
    let bytes = read(path)?;
    Model::decode(bytes.as_slice())
        .map_err(|source| TokenizerError::Protobuf { path: path.to_owned(), source })
}

/// Whether bytes stand for unknown characters, and the normalizer; what is not supported is refused here.
fn supported(model: &Model) -> Result<(bool, &Normalizer), String> {
    let incomplete =
        "the model has no trainer_spec or no normalizer_spec: the file is incomplete, copy it again";
    let (Some(trainer), Some(normalizer)) = (&model.trainer, &model.normalizer) else {
        return Err(incomplete.into());
    };
    let kind = trainer.model_type();
    if kind != proto::BPE {
        let name = usize::try_from(kind - 1).ok().and_then(|i| proto::MODEL_TYPES.get(i));
        let name = name.map_or_else(|| kind.to_string(), ToString::to_string);
        return Err(format!("a SentencePiece model of type {name}; only BPE models are supported"));
    }
    let named = normalizer.name();
    if !normalizer.precompiled_charsmap().is_empty() {
        return Err(format!(
            "the model normalizes text by the rules '{named}' (precompiled_charsmap); only identity normalization \
             is supported"
        ));
    }
    if !normalizer.escape_whitespaces() || trainer.treat_whitespace_as_suffix() {
        return Err("escape_whitespaces must be on and treat_whitespace_as_suffix off; the model has it \
                    otherwise, which is not supported"
            .into());
    }
    let user_defined = model.pieces.iter().any(|p| p.kind() == piece_type::USER_DEFINED);
    if user_defined && normalizer.remove_extra_whitespaces() {
        return Err(
            "the model has user defined pieces and removes extra spaces (remove_extra_whitespaces); the \
                    two together are not supported"
                .into(),
        );
    }
    Ok((trainer.byte_fallback(), normalizer))
}

/// Id of the piece for what is in no other piece.
fn unknown(model: &Model) -> Result<usize, String> {
    let mut ids = (0..model.pieces.len()).filter(|&i| model.pieces[i].kind() == piece_type::UNKNOWN);
    match (ids.next(), ids.next()) {
        (Some(id), None) => Ok(id),
        (None, _) => Err("no piece has the type UNKNOWN; exactly one must".into()),
        (Some(a), Some(b)) => Err(format!("pieces {a} and {b} have the type UNKNOWN; exactly one must")),
    }
}

/// The texts of the pieces by id. An added token with the id of a piece takes its place: so reserved pieces
/// (`[UNUSED_TOKEN_n]`) become special tokens.
fn renamed<'a>(model: &'a Model, added: &'a [AddedToken]) -> Vec<&'a str> {
    let mut texts: Vec<&str> = model.pieces.iter().map(|p| p.piece()).collect();
    for token in added {
        if let Some(text) = texts.get_mut(token.id as usize) {
            *text = &token.content;
        }
    }
    texts
}

/// Control and user defined pieces that the checkpoint does not list itself.
fn own_added(model: &Model, listed: &[AddedToken], normalizer: &Normalizer, path: &Path) -> Vec<AddedToken> {
    let known = |id: u32| listed.iter().any(|t| t.id == id);
    // The description's normalizer puts the prefix before the text of the piece too, which then is not found.
    let normalized = !normalizer.add_dummy_prefix();
    let own = model.pieces.iter().zip(0..).filter(|(_, id)| !known(*id));
    own.filter_map(|(piece, id)| match piece.kind() {
        piece_type::CONTROL => Some(AddedToken::new(id, piece.piece(), true, false, path)),
        piece_type::USER_DEFINED => Some(AddedToken::new(id, piece.piece(), false, normalized, path)),
        _ => None,
    })
    .collect()
}

/// A piece cut into two.
struct Cut<'a> {
    score: f32,
    halves: [&'a str; 2],
    /// Length of the halves in characters.
    lengths: [usize; 2],
    id: usize,
}

/// Every way to cut a piece into two: higher scores first, then longer halves, as transformers' `generate_merges` sorts
/// them. SentencePiece itself joins the neighbours whose piece has the highest score, the leftmost of equal ones. Training
/// gives different scores, so both choose the same; pieces added by hand with equal scores can come out otherwise, in
/// transformers too (measured, see `fixtures/tokenizers/README.md`). `texts` are the pieces, some renamed.
fn merges<'a>(model: &Model, texts: &[&'a str]) -> Result<Vec<[&'a str; 2]>, String> {
    let joinable = [piece_type::NORMAL, piece_type::USER_DEFINED, piece_type::UNUSED];
    let pieces = model.pieces.iter().zip(texts).enumerate();
    let pieces = pieces.filter(|(_, (p, text))| joinable.contains(&p.kind()) && p.piece() == **text);
    let pieces: Vec<(usize, &str, f32)> = pieces.map(|(id, (p, text))| (id, *text, p.score())).collect();
    let known: HashSet<&str> = pieces.iter().map(|(_, text, _)| *text).collect();
    let mut cuts = vec![];
    for (id, text, score) in pieces {
        let before = cuts.len();
        let characters = text.chars().count();
        for (left, (at, _)) in text.char_indices().enumerate().skip(1) {
            let (a, b) = text.split_at(at);
            if known.contains(a) && known.contains(b) {
                let lengths = [left, characters - left];
                // Adding zero makes one zero of the two, as comparing does.
                cuts.push(Cut { score: score + 0.0, halves: [a, b], lengths, id });
            }
        }
        if model.pieces[id].kind() == piece_type::UNUSED && cuts.len() > before {
            return Err(format!("piece {id} '{text}' is marked as unused but can be merged; not supported"));
        }
    }
    let order =
        |x: &Cut<'_>, y: &Cut<'_>| y.score.total_cmp(&x.score).then_with(|| y.lengths.cmp(&x.lengths));
    cuts.sort_by(|x, y| order(x, y).then_with(|| x.id.cmp(&y.id)));
    Ok(cuts.into_iter().map(|cut| cut.halves).collect())
}

/// What happens to text before pieces are looked for.
fn normalizers(spec: &Normalizer) -> Vec<Value> {
    let regex = |pattern: &str, content: &str| json!({ "type": "Replace", "pattern": { "Regex": pattern }, "content": content });
    let mut list = vec![];
    if spec.remove_extra_whitespaces() {
        // Only U+0020 counts as a space; at the end also what is written as one.
        list.extend([regex(r"\A +", ""), regex("[ \u{2581}]+\\z", ""), regex(" {2,}", " ")]);
    }
    if spec.add_dummy_prefix() {
        list.push(json!({ "type": "Prepend", "prepend": SPACE }));
    }
    list.push(json!({ "type": "Replace", "pattern": { "String": " " }, "content": SPACE }));
    list
}

/// What happens to the texts of tokens when they are joined.
fn decoders(spec: &Normalizer) -> Vec<Value> {
    let space = json!({ "type": "Replace", "pattern": { "String": SPACE }, "content": " " });
    let mut list = vec![space, json!({ "type": "ByteFallback" }), json!({ "type": "Fuse" })];
    if spec.add_dummy_prefix() {
        list.push(json!({ "type": "Strip", "content": " ", "start": 1, "stop": 0 }));
    }
    list
}
