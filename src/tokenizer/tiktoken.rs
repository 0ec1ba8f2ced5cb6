//! tiktoken's rank files. A line is a token's bytes in base64 and its rank, which is its id and also its priority:
//! of all neighbours whose concatenation is a token, the one of lowest rank is joined first, the leftmost if there are
//! several. Converted as transformers' `TikTokenConverter` does (`convert_slow_tokenizer.py`): a merge for every way
//! to cut a token into two tokens, in the order of the joined token's rank. The two rules can only differ where one
//! token can be cut in two ways at overlapping places (`aa|a` and `a|aa`); in trained vocabularies this was not seen.

use std::collections::HashMap;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::added::{self, AddedToken};
use super::describe::{Bpe, Description, numbered};
use super::format::SpecialToken;
use super::{Tokenizer, TokenizerError, read};

/// What a family file says beside the name of the rank file.
pub(super) struct Rules<'a> {
    pub pattern: &'a str,
    pub normalize_nfc: bool,
    pub special: &'a [SpecialToken],
}

/// Builds the tokenizer of the rank file `file` in `folder`.
pub(super) fn load(folder: &Path, file: &str, rules: &Rules<'_>) -> Result<Tokenizer, TokenizerError> {
    let path = folder.join(file);
    let tokens = parse(&path, &read(&path)?)?;
    let characters = byte_characters();
    let text = |token: &Vec<u8>| token.iter().map(|b| characters[usize::from(*b)]).collect();
    let texts: Vec<String> = tokens.iter().map(text).collect();
    let merges = merges(&tokens).into_iter();
    let merges = merges.map(|[a, b]| [texts[a].as_str(), texts[b].as_str()]).collect();
    let vocab = numbered(texts.iter().map(String::as_str)).map_err(|(a, b)| TokenizerError::Ranks {
        path: path.clone(),
        what: format!("ranks {a} and {b} are the same token"),
    })?;
    // With NFC the reference looks for special tokens in the normalized text, so they are marked as normalized.
    let special = rules.special.iter().flat_map(SpecialToken::texts);
    let special = special.zip(tokens.len() as u32..);
    let special =
        special.map(|(text, id)| AddedToken::new(id, &text, true, rules.normalize_nfc, &path)).collect();
    let added = added::join(added::tokens(folder, &added::config(folder)?)?, special);
    let model = Bpe { ignore_merges: true, ..Bpe::new(vocab, merges) };
    let description = Description::of_bytes(rules.pattern, rules.normalize_nfc, &added, model);
    Tokenizer::built(&path, &description, &added)
}

/// The tokens in the order of their ranks, which must be 0, 1, 2, ... Every byte must be a token: a text could not be
/// encoded otherwise.
fn parse(path: &Path, bytes: &[u8]) -> Result<Vec<Vec<u8>>, TokenizerError> {
    let mut lines: HashMap<u32, usize> = HashMap::new();
    let mut ranked: Vec<(u32, Vec<u8>)> = vec![];
    for (i, line) in bytes.split(|b| *b == b'\n').enumerate() {
        let line = line.trim_ascii();
        if line.is_empty() {
            continue;
        }
        let wrong = |what: String| TokenizerError::Rank { path: path.to_owned(), line: i + 1, what };
        let (rank, token) = entry(line).map_err(wrong)?;
        if let Some(first) = lines.insert(rank, i + 1) {
            return Err(wrong(format!("rank {rank} was given in line {first}; each token has its own")));
        }
        ranked.push((rank, token));
    }
    let wrong = |what: String| TokenizerError::Ranks { path: path.to_owned(), what };
    ranked.sort_unstable_by_key(|(rank, _)| *rank);
    if let Some((i, _)) = ranked.iter().enumerate().find(|(i, (rank, _))| *rank as usize != *i) {
        let last = ranked.len() - 1;
        return Err(wrong(format!(
            "no token has rank {i}; the ranks of {} tokens must be 0 to {last}",
            last + 1
        )));
    }
    let tokens: Vec<Vec<u8>> = ranked.into_iter().map(|(_, token)| token).collect();
    let single: Vec<u8> = tokens.iter().filter(|t| t.len() == 1).map(|t| t[0]).collect();
    if let Some(byte) = (0..=u8::MAX).find(|b| !single.contains(b)) {
        return Err(wrong(format!("no token is the single byte 0x{byte:02X}; each byte must be one")));
    }
    Ok(tokens)
}

/// A line: base64, spaces, number.
fn entry(line: &[u8]) -> Result<(u32, Vec<u8>), String> {
    let shown = || String::from_utf8_lossy(line).into_owned();
    let mut fields = line.split(u8::is_ascii_whitespace).filter(|f| !f.is_empty());
    let (Some(token), Some(rank), None) = (fields.next(), fields.next(), fields.next()) else {
        return Err(format!("expected a token in base64 and its rank, found '{}'", shown()));
    };
    let token =
        STANDARD.decode(token).map_err(|e| format!("the token of '{}' is not base64: {e}", shown()))?;
    let rank = std::str::from_utf8(rank).ok().and_then(|r| r.parse().ok());
    let rank =
        rank.ok_or_else(|| format!("the rank of '{}' is not a number from 0 to {}", shown(), u32::MAX))?;
    Ok((rank, token))
}

/// Every way to cut a token into two, as ranks: by rank of the token, then by the ranks of the halves.
fn merges(tokens: &[Vec<u8>]) -> Vec<[usize; 2]> {
    let ranks: HashMap<&[u8], usize> = tokens.iter().enumerate().map(|(i, t)| (t.as_slice(), i)).collect();
    let mut all = vec![];
    for token in tokens {
        let cut = |at: usize| Some([*ranks.get(&token[..at])?, *ranks.get(&token[at..])?]);
        let mut ways: Vec<[usize; 2]> = (1..token.len()).filter_map(cut).collect();
        ways.sort_unstable();
        all.extend(ways);
    }
    all
}

/// The characters that stand for bytes (`bytes_to_unicode` of GPT-2's `encoder.py`): printable bytes stand for
/// themselves, the others for U+0100 onwards in their order.
fn byte_characters() -> [char; 256] {
    let mut next = '\u{100}'..;
    std::array::from_fn(|byte| match u8::try_from(byte) {
        Ok(b @ (b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF)) => char::from(b),
        _ => next.next().unwrap_or(char::REPLACEMENT_CHARACTER),
    })
}
