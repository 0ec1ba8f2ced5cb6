//! Tests of Hugging Face's formats against the files of the fixture, and what the tests of the others share.

mod gguf;
mod sentencepiece;
mod tiktoken;

use std::collections::BTreeMap;

use super::*;

const FIXTURE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/qwen2_vl");

/// Small tokenizers in other formats, with the ids that the reference implementations give.
const TOKENIZERS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/tokenizers");

fn hugging_face(folder: &Path) -> Result<Tokenizer, TokenizerError> {
    Tokenizer::from_folder(folder, &TokenizerFormat::HuggingFace {})
}

/// A folder with a copy of the files of `from`, some of them replaced or added.
fn copy(from: &Path, replace: &[(&str, &[u8])]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
        if entry.file_type().unwrap().is_file() && entry.metadata().unwrap().len() < 20_000 {
            std::fs::write(dir.path().join(entry.file_name()), std::fs::read(entry.path()).unwrap()).unwrap();
        }
    }
    for (name, bytes) in replace {
        std::fs::write(dir.path().join(name), bytes).unwrap();
    }
    dir
}

/// A text of `vectors.json` with what the references make of it.
#[derive(serde::Deserialize)]
struct Vector {
    text: String,
    ids: BTreeMap<String, Vec<i64>>,
    /// Text of the ids where it is not `text`; null where the reference has none.
    decoded: BTreeMap<String, Option<String>>,
}

/// The tokenizer agrees with the reference on every text, and so does the one read from its description.
fn equals_the_reference(name: &str, format: &TokenizerFormat) {
    let tokenizer = Tokenizer::from_folder(&Path::new(TOKENIZERS).join(name), format).unwrap();
    let again = Tokenizer::from_bytes(Path::new("again"), tokenizer.json().as_bytes()).unwrap();
    let vectors = std::fs::read(Path::new(TOKENIZERS).join("vectors.json")).unwrap();
    let vectors: Vec<Vector> = serde_json::from_slice(&vectors).unwrap();
    assert!(vectors.len() > 40);
    for Vector { text, ids, decoded } in &vectors {
        assert_eq!(tokenizer.encode(text).unwrap(), ids[name], "{text:?}");
        assert_eq!(again.encode(text).unwrap(), ids[name], "{text:?} by the description");
        if let Some(expected) = decoded.get(name).unwrap_or(&Some(text.clone())) {
            assert_eq!(&tokenizer.decode(&ids[name], false).unwrap(), expected);
        }
    }
}

/// The error of a folder whose tokenizer must be refused, with its sources.
fn refused(folder: &Path, format: &TokenizerFormat) -> String {
    let error = Tokenizer::from_folder(folder, format).unwrap_err();
    let source = std::error::Error::source(&error).map(|s| format!(": {s}")).unwrap_or_default();
    format!("{error}{source}")
}

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
    let whole = hugging_face(Path::new(FIXTURE)).unwrap();
    let dir = folder(&[]);
    let built = hugging_face(dir.path()).unwrap();
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
    let given = std::fs::read_to_string(Path::new(FIXTURE).join("tokenizer.json")).unwrap();
    assert_eq!(whole.json(), given);
    assert!(Tokenizer::from_bytes(Path::new("built"), built.json().as_bytes()).is_ok());
}

#[test]
fn decoding_skips_special_tokens_on_request() {
    let tokenizer = hugging_face(Path::new(FIXTURE)).unwrap();
    let ids = tokenizer.encode("The 图片<|im_end|>").unwrap();
    assert_eq!(ids.last(), Some(&330));
    assert_eq!(tokenizer.decode(&ids, true).unwrap(), "The 图片");
    assert_eq!(tokenizer.decode(&ids, false).unwrap(), "The 图片<|im_end|>");
}

#[test]
fn every_bad_file_is_named() {
    let missing = hugging_face(Path::new("/nonexistent")).unwrap_err();
    assert!(
        matches!(&missing, TokenizerError::Read { path, .. } if path.ends_with("vocab.json")),
        "{missing}"
    );
    let error = Tokenizer::from_bytes(Path::new("x/tokenizer.json"), b"{}").unwrap_err();
    assert!(error.to_string().contains("x/tokenizer.json"), "{error}");
    let error = |(name, text): (&str, &str)| hugging_face(folder(&[(name, text)]).path()).unwrap_err();
    assert!(matches!(error(("vocab.json", "{")), TokenizerError::Json { .. }));
    assert!(matches!(error(("vocab.json", "[]")), TokenizerError::Json { .. }));
    let merge = error(("merges.txt", "#version: 0.2\na b\nabc\n"));
    assert!(matches!(&merge, TokenizerError::Merge { line: 3, .. }), "{merge}");
    let class = error(("tokenizer_config.json", r#"{"tokenizer_class": "LlamaTokenizer"}"#));
    assert!(matches!(&class, TokenizerError::Class { found, .. } if found == "LlamaTokenizer"), "{class}");
    let added = |entry: &str| {
        format!(r#"{{"tokenizer_class": "Qwen2Tokenizer", "added_tokens_decoder": {{{entry}}}}}"#)
    };
    let broken = error(("tokenizer_config.json", &added(r#""x": {"content": "<a>"}"#)));
    assert!(matches!(&broken, TokenizerError::AddedToken { entry, .. } if entry == "x"), "{broken}");
    let shifted = error(("tokenizer_config.json", &added(r#""400": {"content": "<a>", "special": true}"#)));
    assert!(matches!(shifted, TokenizerError::AddedId { expected: 400, found: Some(328), .. }), "{shifted}");
}

#[test]
fn added_tokens_json_counts_where_the_configuration_lists_none() {
    let class = r#"{"tokenizer_class": "Qwen2Tokenizer", "eos_token": "<b>"}"#;
    let added = ("added_tokens.json", r#"{"<b>": 329, "<a>": 328}"#);
    let dir = folder(&[("tokenizer_config.json", class), added]);
    let tokenizer = hugging_face(dir.path()).unwrap();
    assert_eq!(tokenizer.encode("<a><b>").unwrap(), [328, 329]);
    assert_eq!(tokenizer.decode(&[328, 329], true).unwrap(), "<a>");
    let ignored = hugging_face(folder(&[added]).path()).unwrap();
    assert_eq!(ignored.id_of("<a>"), None);
    let bad = folder(&[("tokenizer_config.json", class), ("added_tokens.json", r#"{"<a>": "x"}"#)]);
    assert!(
        refused(bad.path(), &TokenizerFormat::HuggingFace {})
            .contains("added_tokens.json: added token '<a>'")
    );
}

#[test]
fn formats_are_read_strictly() {
    let read = |yaml: &str| -> Result<TokenizerFormat, String> {
        let yaml = serde_norway::Deserializer::from_str(yaml);
        serde_norway::with::singleton_map_recursive::deserialize(yaml).map_err(|e| e.to_string())
    };
    assert_eq!(read("huggingface: {}").unwrap(), TokenizerFormat::HuggingFace {});
    let yaml =
        "tiktoken:\n  file: a.tiktoken\n  pattern: '\\s+'\n  special: ['<a>', {text: '<{i}>', repeat: 2}]\n";
    let TokenizerFormat::Tiktoken { file, pattern, normalize_nfc, special } = read(yaml).unwrap() else {
        panic!("another format")
    };
    assert_eq!((file.as_str(), pattern.as_str(), normalize_nfc), ("a.tiktoken", r"\s+", false));
    let texts: Vec<String> = special.iter().flat_map(SpecialToken::texts).collect();
    assert_eq!(texts, ["<a>", "<0>", "<1>"]);
    for bad in ["huggingface: {file: x}", "sentencepiece: {}", "sentencepiece: {file: x, y: 1}", "other: {}"]
    {
        assert!(read(bad).is_err(), "{bad}");
    }
}
