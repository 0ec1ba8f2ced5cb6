//! What a server says of itself, and whether its model is the artifact's.

use serde_json::{Value as Json, json};

use super::GgufFiles;
use super::http::Client;
use crate::export::gguf::GgufFile;
use crate::verify::runner::{RunnerError, RunnerKind};

/// A server with its model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Build of llama.cpp.
    pub version: String,
    /// What stands in a prompt for an image.
    pub marker: String,
    /// Tokens of the model.
    pub vocabulary: usize,
    /// The token that ends answers, if it is one.
    pub end: Option<i64>,
}

impl Identity {
    /// Asks the server and compares its model with the files: tokens of the vocabulary, parameters, bytes of tensors, and whether it sees images.
    pub fn of(client: &Client, files: &GgufFiles) -> Result<Self, RunnerError> {
        let name = files.text.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        let refused =
            |reason: String| RunnerError::Refused { kind: RunnerKind::LlamaCpp, file: name.clone(), reason };
        let file = GgufFile::open(&files.text).map_err(|e| refused(e.to_string()))?;
        let props = client.get("/props").map_err(|e| refused(e.to_string()))?;
        let models = client.get("/v1/models").map_err(|e| refused(e.to_string()))?;
        let meta = &models["data"][0]["meta"];
        let vocabulary = number(meta, "n_vocab").ok_or_else(|| {
            refused(format!("{} does not tell its model: is it a llama-server?", client.address()))
        })?;
        let parameters = file.tensors().iter().map(|t| t.info.dims.iter().product::<u64>()).sum::<u64>();
        let bytes = file.tensors().iter().map(|t| t.bytes).sum::<u64>();
        for (what, key, ours) in [("parameters", "n_params", parameters), ("bytes of tensors", "size", bytes)]
        {
            if let Some(theirs) = number(meta, key)
                && theirs != ours
            {
                let path = props["model_path"].as_str().unwrap_or("its model");
                return Err(refused(format!(
                    "the server at {} has another model: {path} has {theirs} {what}, the artifact {ours}\n\
                     hint: start llama-server with the artifact's files",
                    client.address()
                )));
            }
        }
        let sees = props["modalities"]["vision"].as_bool() == Some(true);
        if files.mmproj.is_some() && !sees {
            return Err(refused(format!(
                "the server at {} does not see images\nhint: start it with --mmproj and the artifact's projector file",
                client.address()
            )));
        }
        let end = client.post("/tokenize", &json!({ "content": props["eos_token"], "parse_special": true }));
        let end = end.map_err(|e| refused(e.to_string()))?;
        let end = end["tokens"].as_array().filter(|t| t.len() == 1).and_then(|t| t[0].as_i64());
        let text = |key: &str, otherwise: &str| props[key].as_str().unwrap_or(otherwise).to_string();
        Ok(Self {
            version: text("build_info", "of unknown version"),
            // Servers before the random marker have the library's default.
            marker: text("media_marker", "<__media__>"),
            vocabulary: usize::try_from(vocabulary).unwrap_or(usize::MAX),
            end,
        })
    }
}

fn number(meta: &Json, key: &str) -> Option<u64> {
    meta.get(key)?.as_u64()
}
