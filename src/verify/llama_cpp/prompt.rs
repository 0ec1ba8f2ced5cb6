//! A conversation as the server renders it, and whether its text has our tokens.

use std::io::Cursor;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use image::{DynamicImage, ImageFormat};
use serde_json::{Value as Json, json};

use super::http::{Client, HttpError};
use super::identity::Identity;
use super::{LlamaCpp, question};
use crate::calibrate::image::decode_bytes;
use crate::calibrate::{Content, ImageSource, Message, Sample};
use crate::verify::runner::{Question, RunnerError};

/// A conversation rendered by the model's chat template.
#[derive(Clone, Debug)]
pub struct Rendered {
    /// The text, with the server's marker for each image.
    text: String,
    marker: String,
    /// Files in base64, in the order of markers.
    images: Vec<String>,
}

impl Rendered {
    /// Renders a conversation and encodes its images.
    ///
    /// # Errors
    /// A sentence when an image cannot be read or the server refuses the messages.
    pub fn of(client: &Client, identity: &Identity, sample: &Sample) -> Result<Self, String> {
        let images = sample.images().map(encoded).collect::<Result<Vec<_>, _>>()?;
        let messages: Vec<Json> = sample.messages.iter().map(message).collect();
        let told =
            client.post("/apply-template", &json!({ "messages": messages })).map_err(|e| e.to_string())?;
        let text = told["prompt"].as_str().ok_or("/apply-template gives no prompt")?.to_string();
        let (found, expected) = (text.matches(&identity.marker).count(), images.len());
        if found != expected {
            return Err(format!(
                "the chat template in the file writes {found} image places for {expected} images: {text:?}"
            ));
        }
        Ok(Self { text, marker: identity.marker.clone(), images })
    }

    /// The prompt of a request, with text behind it.
    pub fn prompt(&self, behind: &str) -> Json {
        let text = format!("{}{behind}", self.text);
        if self.images.is_empty() {
            json!(text)
        } else {
            json!({ "prompt_string": text, "multimodal_data": self.images })
        }
    }

    /// Whether there are images in it.
    pub fn has_images(&self) -> bool {
        !self.images.is_empty()
    }

    /// Tokens of the texts before, between and behind images.
    fn pieces(&self, client: &Client) -> Result<Vec<Vec<i64>>, HttpError> {
        let piece = |(i, text): (usize, &str)| {
            let request = json!({ "content": text, "add_special": i == 0, "parse_special": true });
            let told = client.post("/tokenize", &request)?;
            Ok(told["tokens"].as_array().into_iter().flatten().filter_map(Json::as_i64).collect())
        };
        self.text.split(&self.marker).enumerate().map(piece).collect()
    }
}

impl LlamaCpp {
    /// The rendered prompt of a question, whose text has the question's tokens.
    pub(super) fn compared(&self, asked: &Question) -> Result<Rendered, RunnerError> {
        let id = &asked.sample.id;
        let rendered = self.rendered(&asked.sample)?;
        let pieces = rendered.pieces(&self.client).map_err(|e| self.failed(id, &e))?;
        difference(&pieces, &asked.prompt.input_ids).map_or(Ok(rendered), |what| Err(question(id, what)))
    }
}

/// How the tokens of texts around images differ from those of a whole prompt; `None` where they do not. The first text begins the prompt, the last
/// ends it, those between come in their order. What stands around images itself is the server's own and is not compared.
fn difference(pieces: &[Vec<i64>], ids: &[i64]) -> Option<String> {
    let (last, before) = pieces.split_last()?;
    let hint = "\nhint: the chat template or the tokenizer in the GGUF file is not the checkpoint's, or the server was started with another";
    let Some((first, between)) = before.split_first() else {
        let at = last.iter().zip(ids).take_while(|(a, b)| a == b).count();
        let (theirs, ours) = (last.get(at), ids.get(at));
        let same = last.len() == ids.len() && at == ids.len();
        return (!same).then(|| {
            let token = |t: Option<&i64>| t.map_or("nothing".to_string(), |t| format!("token {t}"));
            format!(
                "the prompt differs at token {at}: {} in llama.cpp, {} here{hint}",
                token(theirs),
                token(ours)
            )
        });
    };
    if !ids.starts_with(first) {
        return Some(format!(
            "the text before the first image has other tokens in llama.cpp: {first:?}{hint}"
        ));
    }
    let mut rest = &ids[first.len()..];
    if !rest.ends_with(last) {
        return Some(format!("the text behind the last image has other tokens in llama.cpp: {last:?}{hint}"));
    }
    rest = &rest[..rest.len() - last.len()];
    for piece in between.iter().filter(|p| !p.is_empty()) {
        match rest.windows(piece.len()).position(|w| w == piece) {
            Some(at) => rest = &rest[at + piece.len()..],
            None => {
                return Some(format!("a text between images has other tokens in llama.cpp: {piece:?}{hint}"));
            }
        }
    }
    None
}

/// A message in the form of the OpenAI interface. Images stand as places only: the template does not look at them.
fn message(message: &Message) -> Json {
    let part = |content: &Content| match content {
        Content::Text(text) => json!({ "type": "text", "text": text }),
        Content::Image(_) => {
            json!({ "type": "image_url", "image_url": { "url": "data:image/png;base64,AA==" } })
        }
    };
    let plain = match message.content.as_slice() {
        [Content::Text(text)] if message.plain => Some(json!(text)),
        _ => None,
    };
    let content = plain.unwrap_or_else(|| message.content.iter().map(part).collect());
    json!({ "role": message.role.name(), "content": content })
}

/// An image file in base64. The server reads PNG and JPEG; other formats are handed over as PNG with the same pixels.
fn encoded(source: &ImageSource) -> Result<String, String> {
    let (name, bytes) = match source {
        ImageSource::File(path) => {
            let name = path.display().to_string();
            let bytes = std::fs::read(path).map_err(|e| format!("{name}: {e}"))?;
            (name, bytes)
        }
        ImageSource::Bytes { name, bytes } => (name.clone(), bytes.to_vec()),
    };
    if matches!(image::guess_format(&bytes), Ok(ImageFormat::Png | ImageFormat::Jpeg)) {
        return Ok(STANDARD.encode(bytes));
    }
    let pixels = decode_bytes(&name, &bytes).map_err(|e| e.to_string())?;
    let mut png = Cursor::new(Vec::new());
    let written = DynamicImage::ImageRgb8(pixels).write_to(&mut png, ImageFormat::Png);
    written.map_err(|e| format!("{name}: {e}"))?;
    Ok(STANDARD.encode(png.into_inner()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_around_images_are_found_in_the_prompt() {
        let ids = [1, 2, 90, 91, 91, 92, 3, 4, 90, 91, 92, 5];
        let same = |pieces: &[&[i64]]| {
            let pieces: Vec<Vec<i64>> = pieces.iter().map(|p| p.to_vec()).collect();
            difference(&pieces, &ids)
        };
        assert_eq!(same(&[&[1, 2], &[3, 4], &[5]]), None);
        assert_eq!(same(&[&[1, 2], &[], &[5]]), None);
        assert!(same(&[&[1, 3], &[3, 4], &[5]]).unwrap().contains("before the first image"));
        assert!(same(&[&[1, 2], &[4, 3], &[5]]).unwrap().contains("between images"));
        assert!(same(&[&[1, 2], &[3, 4], &[6]]).unwrap().contains("behind the last image"));
        // Without images the tokens are all there is.
        assert_eq!(same(&[&ids]), None);
        assert!(same(&[&ids[..11]]).unwrap().contains("at token 11: nothing in llama.cpp, token 5 here"));
        assert!(same(&[&[1, 7]]).unwrap().contains("at token 1: token 7 in llama.cpp, token 2 here"));
    }
}
