//! SentencePiece models: ids equal those of the sentencepiece library, and what is not supported is refused by name.

use prost::Message;

use super::*;
use crate::tokenizer::sentencepiece::proto::{Model, piece_type};

fn format() -> TokenizerFormat {
    TokenizerFormat::Sentencepiece { file: "tokenizer.model".into() }
}

fn read_model(name: &str) -> Vec<u8> {
    std::fs::read(Path::new(TOKENIZERS).join(name).join("tokenizer.model")).unwrap()
}

/// The error of the folder `name` whose model is changed.
fn refused_if(name: &str, change: impl Fn(&mut Model)) -> String {
    let mut model = Model::decode(read_model(name).as_slice()).unwrap();
    change(&mut model);
    let dir = copy(&Path::new(TOKENIZERS).join(name), &[("tokenizer.model", &model.encode_to_vec())]);
    refused(dir.path(), &format())
}

#[test]
fn ids_equal_sentencepieces() {
    equals_the_reference("internvl2", &format());
    equals_the_reference("dummy_prefix", &format());
    equals_the_reference("user_defined", &format());
}

#[test]
fn reserved_pieces_become_the_tokens_that_the_checkpoint_lists() {
    let tokenizer = Tokenizer::from_folder(&Path::new(TOKENIZERS).join("internvl2"), &format()).unwrap();
    assert_eq!(tokenizer.id_of("<|im_start|>"), Some(399));
    assert_eq!(tokenizer.id_of("[UNUSED_TOKEN_146]"), None);
    assert_eq!(tokenizer.id_of("<IMG_CONTEXT>"), Some(402));
    let ids = tokenizer.encode("<|im_start|>the<|im_end|>").unwrap();
    assert_eq!((ids[0], *ids.last().unwrap()), (399, 398));
    assert_eq!(tokenizer.decode(&ids, true).unwrap(), "the");
}

#[test]
fn added_tokens_json_is_read_without_a_list_in_the_configuration() {
    let from = Path::new(TOKENIZERS).join("internvl2");
    let dir = copy(&from, &[("tokenizer_config.json", b"{}")]);
    let tokenizer = Tokenizer::from_folder(dir.path(), &format()).unwrap();
    assert_eq!(tokenizer.id_of("<img>"), Some(400));
    assert_eq!(tokenizer.decode(&[400, 296], true).unwrap(), tokenizer.decode(&[296], true).unwrap());
}

#[test]
fn a_missing_model_is_named() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("tokenizer.json"), "{}").unwrap();
    let error = refused(dir.path(), &format());
    assert!(error.contains("cannot read tokenizer file") && error.contains("tokenizer.model"), "{error}");
}

#[test]
fn truncated_models_are_refused_at_every_length() {
    let bytes = read_model("internvl2");
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tokenizer.model");
    let mut damaged = 0;
    for cut in (0..bytes.len()).step_by(97).chain(bytes.len() - 40..bytes.len()) {
        std::fs::write(&path, &bytes[..cut]).unwrap();
        match Tokenizer::from_folder(dir.path(), &format()) {
            Err(TokenizerError::Protobuf { .. }) => damaged += 1,
            Err(TokenizerError::Model { what, .. }) => assert!(what.contains("incomplete"), "{cut}: {what}"),
            other => panic!("{cut} of {}: {other:?}", bytes.len()),
        }
    }
    assert!(damaged > 50);
    std::fs::write(&path, b"{\"version\": 1}").unwrap();
    assert!(refused(dir.path(), &format()).contains("is not a SentencePiece model"));
}

#[test]
fn other_models_are_refused() {
    let unigram = refused_if("internvl2", |m| m.trainer.as_mut().unwrap().model_type = Some(1));
    assert!(unigram.contains("tokenizer.model: a SentencePiece model of type unigram"), "{unigram}");
    let absent = refused_if("internvl2", |m| m.trainer.as_mut().unwrap().model_type = None);
    assert!(absent.contains("of type unigram"), "the default of the format: {absent}");
    let nfkc = refused_if("internvl2", |m| {
        let normalizer = m.normalizer.as_mut().unwrap();
        (normalizer.name, normalizer.precompiled_charsmap) = (Some("nmt_nfkc".into()), Some(vec![1]));
    });
    assert!(nfkc.contains("normalizes text by the rules 'nmt_nfkc'"), "{nfkc}");
    let suffix =
        refused_if("internvl2", |m| m.trainer.as_mut().unwrap().treat_whitespace_as_suffix = Some(true));
    assert!(suffix.contains("treat_whitespace_as_suffix"), "{suffix}");
    let spaces =
        refused_if("user_defined", |m| m.normalizer.as_mut().unwrap().remove_extra_whitespaces = None);
    assert!(spaces.contains("remove_extra_whitespaces"), "{spaces}");
}

#[test]
fn inconsistent_pieces_are_refused() {
    let twice = refused_if("internvl2", |m| m.pieces[300].piece = m.pieces[299].piece.clone());
    assert!(twice.contains("pieces 299 and 300 are both"), "{twice}");
    let unknown = refused_if("internvl2", |m| m.pieces[0].kind = Some(piece_type::NORMAL));
    assert!(unknown.contains("no piece has the type UNKNOWN"), "{unknown}");
    let two = refused_if("internvl2", |m| m.pieces[5].kind = Some(piece_type::UNKNOWN));
    assert!(two.contains("pieces 0 and 5 have the type UNKNOWN"), "{two}");
    let unused = refused_if("internvl2", |m| m.pieces[263].kind = Some(piece_type::UNUSED));
    assert!(unused.contains("is marked as unused but can be merged"), "{unused}");
}
