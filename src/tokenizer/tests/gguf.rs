//! Vocabularies in the form of GGUF. That they equal the converter's is tested with the fixtures' files (`tests/suite/gguf_routes.rs`); here are
//! kinds that no fixture has, and what is refused.

use serde_json::json;

use super::*;

fn of_tokenizers(name: &str, format: &TokenizerFormat, rows: usize) -> Vocabulary {
    let tokenizer = Tokenizer::from_folder(&Path::new(TOKENIZERS).join(name), format).unwrap();
    tokenizer.vocabulary(format, rows).unwrap()
}

fn pieces() -> TokenizerFormat {
    TokenizerFormat::Sentencepiece { file: "tokenizer.model".into() }
}

/// The fixture's tokenizer with its description changed, in the form of GGUF.
fn changed(change: impl Fn(&mut Value), rows: usize) -> Result<Vocabulary, TokenizerError> {
    let mut json = read_json(&Path::new(FIXTURE).join("tokenizer.json")).unwrap();
    change(&mut json);
    let tokenizer = Tokenizer::from_bytes(Path::new("t.json"), json.to_string().as_bytes()).unwrap();
    tokenizer.vocabulary(&TokenizerFormat::HuggingFace {}, rows)
}

#[test]
fn pieces_keep_scores_and_kinds() {
    let v = of_tokenizers("dummy_prefix", &pieces(), 600);
    assert_eq!((v.model, v.pre, v.add_space_prefix), ("llama", "default", Some(true)));
    assert_eq!((v.tokens.len(), v.types.len(), v.merges.len()), (600, 600, 0));
    let unknown = v.tokens.iter().position(|t| t == "<unk>").unwrap();
    assert!(matches!(v.types[unknown], TokenType::Unknown | TokenType::Control));
    assert_eq!((v.tokens[599].as_str(), v.types[599]), ("[PAD599]", TokenType::Unused));
    assert_eq!(v.scores.unwrap()[599], -10000.0);
    let v = of_tokenizers("internvl2", &pieces(), 500);
    let start = v.tokens.iter().position(|t| t == "<|im_start|>").unwrap();
    assert_eq!((start, v.types[start], v.add_space_prefix), (399, TokenType::Control, Some(false)));
    let v = of_tokenizers("user_defined", &pieces(), 600);
    assert!(v.types.contains(&TokenType::UserDefined));
}

#[test]
fn ranks_become_one_merge_for_each_token_of_several_bytes() {
    let format = TokenizerFormat::Tiktoken {
        file: "tokenizer.model".into(),
        pattern: r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+".into(),
        normalize_nfc: false,
        special: vec![],
    };
    let v = of_tokenizers("glm_4v", &format, 600);
    assert_eq!((v.model, v.pre), ("gpt2", "chatglm-bpe"));
    let several =
        |(token, kind): &(&String, &TokenType)| **kind == TokenType::Normal && token.chars().count() > 1;
    let several: Vec<&String> = v.tokens.iter().zip(&v.types).filter(several).map(|(t, _)| t).collect();
    let joined: Vec<String> = v.merges.iter().map(|m| m.replace(' ', "")).collect();
    assert!(!several.is_empty() && joined.iter().eq(several));
}

#[test]
fn ids_without_a_token_are_filled_and_tokens_need_rows() {
    let v = changed(|_| {}, 360).unwrap();
    assert_eq!((v.pre, v.tokens[359].as_str(), v.types[359]), ("qwen2", "[PAD359]", TokenType::Unused));
    assert_eq!((v.types[0], v.types[330], v.scores), (TokenType::Normal, TokenType::Control, None));
    let e = changed(|_| {}, 340).unwrap_err().to_string();
    assert!(e.contains("t.json") && e.contains("340 rows"), "{e}");
}

#[test]
fn added_tokens_that_are_not_special_are_found_in_texts() {
    let add = |json: &mut Value, content: &str| {
        let flags = json!({"id": 350, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": false});
        json["added_tokens"].as_array_mut().unwrap().push(flags);
    };
    let id = |v: &Vocabulary, text: &str| v.tokens.iter().position(|t| t == text).unwrap();
    let v = changed(|j| add(j, "\u{2581}\u{2581}"), 360).unwrap();
    assert_eq!(v.types[id(&v, "  ")], TokenType::UserDefined);
    let v = changed(|j| add(j, "<|forgotten|>"), 360).unwrap();
    assert_eq!(v.types[id(&v, "<|forgotten|>")], TokenType::Control);
}

#[test]
fn kinds_that_llama_cpp_has_no_name_for_are_refused_with_the_known_ones() {
    let refused = |change: &dyn Fn(&mut Value)| changed(change, 360).unwrap_err().to_string();
    let e = refused(&|j| j["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = json!("\\S+"));
    assert!(e.contains("its pre_tokenizer is \\S+") && e.contains("qwen2, chatglm-bpe"), "{e}");
    let e = refused(&|j| j["model"]["ignore_merges"] = json!(true));
    assert!(e.contains("left whole"), "{e}");
    let e = refused(&|j| j["normalizer"] = json!({"type": "Lowercase"}));
    assert!(e.contains("its normalizer is Lowercase") && e.contains("NFC"), "{e}");
    let e = refused(&|j| j["model"]["byte_fallback"] = json!(true));
    assert!(e.contains("its model is BPE with byte fallback"), "{e}");
    let plain =
        json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true});
    assert_eq!(changed(|j| j["pre_tokenizer"] = plain.clone(), 360).unwrap().pre, "gpt-2");
}
