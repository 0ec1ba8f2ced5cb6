//! Tests of the tokenizer against the files of the fixture.

use super::*;

const FIXTURE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/qwen2_vl");

/// A folder with the fixture's vocabulary files, some of them replaced.
fn folder(replace: &[(&str, &str)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for name in ["vocab.json", "merges.txt", "tokenizer_config.json"] {
        std::fs::copy(Path::new(FIXTURE).join(name), dir.path().join(name)).unwrap();
    }
    for (name, text) in replace {
        std::fs::write(dir.path().join(name), text).unwrap();
    }
    dir
}

#[test]
fn the_tokenizer_built_from_the_vocabulary_gives_the_same_ids() {
    let whole = Tokenizer::from_folder(Path::new(FIXTURE), &TokenizerFormat::HuggingFace {}).unwrap();
    let dir = folder(&[]);
    let built = Tokenizer::from_folder(dir.path(), &TokenizerFormat::HuggingFace {}).unwrap();
    let texts = [
        "<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>What is shown in the picture?<|im_end|>\n",
        "描述这张图片。 What's he'll I'M  3456\r\n\r\n  tabs\t\tand   spaces   ",
        "cafe\u{301} é \u{1f600} <|im_end <|endoftext|>\n\n\nThe 图片",
        "",
    ];
    for text in texts {
        let ids = whole.encode(text).unwrap();
        assert_eq!(ids, built.encode(text).unwrap(), "{text:?}");
        assert_eq!(whole.decode(&ids, true).unwrap(), built.decode(&ids, true).unwrap());
    }
    assert_eq!(built.id_of("<|image_pad|>"), Some(340));
}

#[test]
fn decoding_skips_special_tokens_on_request() {
    let tokenizer = Tokenizer::from_folder(Path::new(FIXTURE), &TokenizerFormat::HuggingFace {}).unwrap();
    let ids = tokenizer.encode("The 图片<|im_end|>").unwrap();
    assert_eq!(ids.last(), Some(&330));
    assert_eq!(tokenizer.decode(&ids, true).unwrap(), "The 图片");
    assert_eq!(tokenizer.decode(&ids, false).unwrap(), "The 图片<|im_end|>");
}

#[test]
fn every_bad_file_is_named() {
    let missing =
        Tokenizer::from_folder(Path::new("/nonexistent"), &TokenizerFormat::HuggingFace {}).unwrap_err();
    assert!(
        matches!(&missing, TokenizerError::Read { path, .. } if path.ends_with("vocab.json")),
        "{missing}"
    );
    let error = Tokenizer::from_bytes(Path::new("x/tokenizer.json"), b"{}").unwrap_err();
    assert!(error.to_string().contains("x/tokenizer.json"), "{error}");
    let error = |(name, text): (&str, &str)| {
        Tokenizer::from_folder(folder(&[(name, text)]).path(), &TokenizerFormat::HuggingFace {}).unwrap_err()
    };
    assert!(matches!(error(("vocab.json", "{")), TokenizerError::Json { .. }));
    let merge = error(("merges.txt", "#version: 0.2\na b\nabc\n"));
    assert!(matches!(&merge, TokenizerError::Merge { line: 3, .. }), "{merge}");
    let class = error(("tokenizer_config.json", r#"{"tokenizer_class": "LlamaTokenizer"}"#));
    assert!(matches!(&class, TokenizerError::Class { found, .. } if found == "LlamaTokenizer"), "{class}");
    let added = |entry: &str| {
        format!(r#"{{"tokenizer_class": "Qwen2Tokenizer", "added_tokens_decoder": {{{entry}}}}}"#)
    };
    let broken = error(("tokenizer_config.json", &added(r#""x": {"content": "<a>"}"#)));
    assert!(matches!(&broken, TokenizerError::AddedToken { id, .. } if id == "x"), "{broken}");
    let shifted = error(("tokenizer_config.json", &added(r#""400": {"content": "<a>", "special": true}"#)));
    assert!(matches!(shifted, TokenizerError::AddedId { expected: 400, found: Some(328), .. }), "{shifted}");
}
