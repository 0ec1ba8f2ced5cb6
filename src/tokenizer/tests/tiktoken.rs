//! Rank files: ids equal tiktoken's, and malformed files are refused by name.

use std::time::Instant;

use super::*;

const CUT: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

fn text(text: &str) -> SpecialToken {
    SpecialToken::Text(text.into())
}

/// Special tokens from the family file, numbers of one digit, NFC.
fn composed() -> TokenizerFormat {
    let mut special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"].map(text).to_vec();
    special.push(SpecialToken::Repeated(RepeatedToken { text: "<|extra_{i}|>".into(), repeat: 205 }));
    let image = ["<ref>", "</ref>", "<box>", "</box>", "<quad>", "</quad>", "<img>", "</img>", "<imgpad>"];
    special.extend(image.map(text));
    let (file, pattern) = ("qwen.tiktoken".into(), CUT.into());
    TokenizerFormat::Tiktoken { file, pattern, normalize_nfc: true, special }
}

/// Special tokens from the checkpoint, numbers of three digits.
fn as_given() -> TokenizerFormat {
    let (file, pattern) = ("tokenizer.model".into(), CUT.replace(r"|\p{N}|", r"|\p{N}{1,3}|"));
    TokenizerFormat::Tiktoken { file, pattern, normalize_nfc: false, special: vec![] }
}

/// The tokenizer of a file with these lines, or the error.
fn of_lines(lines: &str) -> Result<Tokenizer, String> {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("tokenizer.model"), lines).unwrap();
    std::fs::write(dir.path().join("tokenizer_config.json"), "{}").unwrap();
    Tokenizer::from_folder(dir.path(), &as_given()).map_err(|_| refused(dir.path(), &as_given()))
}

/// Lines of all single bytes, ranks 0 to 255, then of these tokens.
fn lines(more: &[Vec<u8>]) -> String {
    use base64::{Engine, engine::general_purpose::STANDARD};
    let tokens = (0..=u8::MAX).map(|b| vec![b]).chain(more.iter().cloned());
    tokens.enumerate().map(|(rank, token)| format!("{} {rank}\n", STANDARD.encode(token))).collect()
}

#[test]
fn ids_equal_tiktokens() {
    equals_the_reference("qwen_vl", &composed());
    equals_the_reference("glm_4v", &as_given());
}

#[test]
fn special_tokens_get_their_ids() {
    let composed = Tokenizer::from_folder(&Path::new(TOKENIZERS).join("qwen_vl"), &composed()).unwrap();
    assert_eq!(composed.id_of("<|endoftext|>"), Some(280));
    assert_eq!(composed.id_of("<|extra_204|>"), Some(487));
    assert_eq!(composed.id_of("<imgpad>"), Some(496));
    assert_eq!(composed.decode(&[281, 64, 282], true).unwrap(), "a");
    let given = Tokenizer::from_folder(&Path::new(TOKENIZERS).join("glm_4v"), &as_given()).unwrap();
    assert_eq!(given.id_of("<|end_of_video|>"), Some(329));
}

#[test]
fn a_tokenizer_json_beside_the_ranks_is_not_read() {
    let from = Path::new(TOKENIZERS).join("glm_4v");
    let dir = copy(&from, &[("tokenizer.json", b"not json")]);
    assert!(Tokenizer::from_folder(dir.path(), &as_given()).is_ok());
    std::fs::remove_file(dir.path().join("tokenizer.model")).unwrap();
    assert!(refused(dir.path(), &as_given()).contains("tokenizer.model"));
}

#[test]
fn the_whole_piece_is_looked_up_before_merging() {
    // Merges cannot make 'abcd': 'bc' comes first.
    let tokenizer = of_lines(&lines(&[b"bc".into(), b"ab".into(), b"cd".into(), b"abcd".into()])).unwrap();
    assert_eq!(tokenizer.encode("abcd").unwrap(), [259]);
    assert_eq!(tokenizer.encode("xabcd").unwrap(), [120, 97, 256, 100]);
}

#[test]
fn malformed_files_are_refused_by_name() {
    let cases = [
        ("YWJj 256 7\n", "tokenizer.model, line 257: expected a token in base64 and its rank"),
        ("Y!! 256\n", "line 257: the token of 'Y!! 256' is not base64"),
        ("YWJj -1\n", "line 257: the rank of 'YWJj -1' is not a number"),
        ("YWJj 5\n", "line 257: rank 5 was given in line 6"),
        ("YWI= 256\nYWI= 257\n", "tokenizer.model: ranks 256 and 257 are the same token"),
        ("YWI= 258\n", "tokenizer.model: no token has rank 256; the ranks of 257 tokens must be 0 to 256"),
    ];
    for (tail, expected) in cases {
        let error = of_lines(&(lines(&[]) + tail)).unwrap_err();
        assert!(error.contains(expected), "{error}");
    }
    assert!(of_lines("").unwrap_err().contains("no token is the single byte 0x00"));
    let without = lines(&[]).replace("QQ== 65\n", "QUE= 65\n");
    assert!(of_lines(&without).unwrap_err().contains("no token is the single byte 0x41"));
}

#[test]
fn special_tokens_that_collide_are_refused() {
    let mut format = composed();
    let TokenizerFormat::Tiktoken { special, .. } = &mut format else { panic!("another format") };
    special.push(text("<ref>"));
    let error = refused(&Path::new(TOKENIZERS).join("qwen_vl"), &format);
    assert!(error.contains("qwen.tiktoken: token '<ref>' should have id 497 but gets Some(488)"), "{error}");
    let config = br#"{"added_tokens_decoder": {"400": {"content": "<a>"}}}"#;
    let dir = copy(&Path::new(TOKENIZERS).join("glm_4v"), &[("tokenizer_config.json", config)]);
    let error = refused(dir.path(), &as_given());
    let expected = "tokenizer_config.json: token '<a>' should have id 400 but gets Some(316)";
    assert!(error.contains(expected), "{error}");
}

/// Prints how long a vocabulary of the size of released ones takes. No limit is tested: machines differ.
#[test]
fn a_vocabulary_of_150_000_ranks_loads() {
    // Every token is an earlier one and a letter; many can be cut in several ways.
    let mut tokens: Vec<Vec<u8>> = (0..=u8::MAX).map(|b| vec![b]).collect();
    let mut known: std::collections::HashSet<Vec<u8>> = tokens.iter().cloned().collect();
    let mut state = 1_u64;
    let mut random = |n: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % n
    };
    while tokens.len() < 150_000 {
        let (a, b) = (random(tokens.len()), 97 + random(26));
        let joined = [tokens[a].as_slice(), &[b as u8]].concat();
        if joined.len() < 16 && known.insert(joined.clone()) {
            tokens.push(joined);
        }
    }
    let lines = lines(&tokens[256..]);
    let start = Instant::now();
    let tokenizer = of_lines(&lines).unwrap();
    println!("150000 ranks: {:.2?}, description of {} bytes", start.elapsed(), tokenizer.json().len());
    let text = String::from_utf8_lossy(&tokens[149_000][1..]).into_owned();
    let ids = tokenizer.encode(&text).unwrap();
    assert_eq!(tokenizer.decode(&ids, false).unwrap(), text);
}
