//! The metadata `tokenizer.*` of a model: its tokens, special ids and chat template, from the checkpoint's files.

use serde_json::Value as Json;

use super::super::error::FamilyError;
use super::super::inputs::gguf::KeyValue;
use super::super::resolve::Description;
use crate::checkpoint::SideFiles;

/// Keys of special ids by the name that configuration files have for them (`gguf-py/gguf/constants.py` of llama.cpp).
const SPECIAL: [(&str, &str); 4] = [
    ("bos", "tokenizer.ggml.bos_token_id"),
    ("eos", "tokenizer.ggml.eos_token_id"),
    ("unk", "tokenizer.ggml.unknown_token_id"),
    ("pad", "tokenizer.ggml.padding_token_id"),
];

/// The keys `tokenizer.*` of the model in `files`, whose description is `description`. The family file's own keys of these names come before them.
///
/// # Errors
/// [`FamilyError::Tokenizer`] for a tokenizer that llama.cpp has no form for; unreadable side files.
pub fn vocabulary_keys(
    description: &Description,
    files: &SideFiles,
) -> Result<Vec<(String, KeyValue)>, FamilyError> {
    let vocabulary =
        description.tokenizer.vocabulary(&description.tokenizer_format, description.spec.decoder.vocab)?;
    let config = files.json("tokenizer_config.json")?.unwrap_or(Json::Null);
    let bytes = vocabulary.scores.is_none();
    let mut keys: Vec<(String, KeyValue)> = vec![];
    let mut push = |key: &str, value: KeyValue| keys.push((key.to_string(), value));
    push("tokenizer.ggml.model", KeyValue::Text(vocabulary.model.into()));
    push("tokenizer.ggml.pre", KeyValue::Text(vocabulary.pre.into()));
    push("tokenizer.ggml.tokens", KeyValue::Texts(vocabulary.tokens));
    if let Some(scores) = vocabulary.scores {
        push("tokenizer.ggml.scores", KeyValue::F32s(scores));
    }
    let types = vocabulary.types.into_iter().map(|t| t as i32).collect();
    push("tokenizer.ggml.token_type", KeyValue::I32s(types));
    if !vocabulary.merges.is_empty() {
        push("tokenizer.ggml.merges", KeyValue::Texts(vocabulary.merges));
    }
    if let Some(prefix) = vocabulary.add_space_prefix {
        push("tokenizer.ggml.add_space_prefix", KeyValue::Bool(prefix));
    }
    for (name, key) in SPECIAL {
        if let Some(id) = special(description, files.config(), &config, name) {
            push(key, KeyValue::U32(id));
        }
    }
    for name in ["bos", "eos"] {
        // A tokenizer of bytes adds nothing by itself; one of pieces does what its configuration says.
        let said = config[format!("add_{name}_token")].as_bool();
        if let Some(adds) = said.or(bytes.then_some(false)) {
            push(&format!("tokenizer.ggml.add_{name}_token"), KeyValue::Bool(adds));
        }
    }
    if let Some(template) = chat_template(files, &config)? {
        push("tokenizer.chat_template", KeyValue::Text(template));
    }
    Ok(keys)
}

/// Id of a special token: that of the text in `tokenizer_config.json`, or the number in `config.json`.
fn special(description: &Description, config: &Json, tokenizer: &Json, name: &str) -> Option<u32> {
    let token = &tokenizer[format!("{name}_token")];
    let text = token.as_str().or_else(|| token["content"].as_str());
    let named = text.and_then(|t| description.tokenizer.id_of(t));
    let key = format!("{name}_token_id");
    let numbered =
        || [config, &config["text_config"], &config["llm_config"]].iter().find_map(|c| c[&key].as_i64());
    named.or_else(numbered).and_then(|id| u32::try_from(id).ok())
}

/// The checkpoint's own chat template: of a list, the one called `default`.
fn chat_template(files: &SideFiles, config: &Json) -> Result<Option<String>, FamilyError> {
    let of = |value: &Json| match value {
        Json::String(text) => Some(text.clone()),
        Json::Array(list) => {
            let named = list.iter().find(|t| t["name"] == "default");
            named.and_then(|t| t["template"].as_str()).map(str::to_owned)
        }
        _ => None,
    };
    if let Some(text) = of(&config["chat_template"]) {
        return Ok(Some(text));
    }
    if let Some(text) = files.text("chat_template.jinja")? {
        return Ok(Some(text));
    }
    let json = files.json("chat_template.json")?;
    Ok(json.and_then(|j| of(&j["chat_template"])))
}
