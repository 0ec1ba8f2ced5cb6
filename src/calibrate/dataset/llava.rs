//! LLaVA conversations: `[{"id", "image": "a.jpg" | ["a.jpg", ...], "conversations": [{"from": "human", "value":
//! "<image>\nWhat ..."}, {"from": "gpt", "value": "..."}]}]`.
//!
//! `<image>` markers in the turns stand for the record's images in order; their numbers must agree. One line break on
//! either side belongs to the marker, as the published Qwen2-VL fine-tuning code reads it. The last turn of the model
//! is the expected answer.

use serde_json::Value;

use super::error::{DatasetError, Place};
use super::fields::describe;
use super::jsonl::take_answer;
use super::source::{Draft, Folder};
use super::{Content, ImageSource, Message, Role};

/// Marks the place of an image in a turn.
const MARKER: &str = "<image>";

/// Reads at most `limit` samples of a JSON list.
pub(super) fn parse<'a>(
    folder: &Folder<'a>,
    text: &str,
    limit: usize,
) -> Result<Vec<Draft<'a>>, DatasetError> {
    let records: Vec<Value> = serde_json::from_str(text).map_err(|source| DatasetError::Json {
        path: folder.path.to_owned(),
        place: Place::Line(source.line() as u64),
        source,
    })?;
    records.iter().enumerate().take(limit).map(|(i, v)| record(folder, Place::Record(i), v)).collect()
}

/// Reads one record.
pub(super) fn record<'a>(
    folder: &Folder<'a>,
    place: Place,
    value: &Value,
) -> Result<Draft<'a>, DatasetError> {
    let at = folder.at(place);
    let record = at.object("the record", value)?;
    let turns = at.list("conversations", record.get("conversations"))?;
    let mut texts = Vec::with_capacity(turns.len());
    for (i, turn) in turns.iter().enumerate() {
        let key = format!("conversations[{i}]");
        let turn = at.object(&key, turn)?;
        let from_key = format!("{key}.from");
        let role = match at.string(&from_key, turn.get("from"))? {
            "human" | "user" => Role::User,
            "gpt" | "assistant" => Role::Assistant,
            "system" => Role::System,
            other => return Err(at.wrong(&from_key, "human, gpt or system", format!("'{other}'"))),
        };
        texts.push((role, at.string(&format!("{key}.value"), turn.get("value"))?));
    }
    let images = images(folder, place, record.get("image"))?;
    let markers = texts.iter().map(|(_, text)| text.matches(MARKER).count()).sum();
    if markers != images.len() {
        return Err(DatasetError::Markers {
            path: folder.path.to_owned(),
            place,
            markers,
            images: images.len(),
        });
    }
    let mut next = images.into_iter();
    let mut messages: Vec<Message> = texts
        .into_iter()
        .map(|(role, text)| Message { role, content: split(text, &mut next), plain: false })
        .collect();
    let answer = take_answer(folder, place, &mut messages)?;
    Ok(Draft {
        at,
        id: at.label("id", record.get("id"))?,
        messages,
        answer,
        category: at.label("category", record.get("category"))?,
        metric: at.label("metric", record.get("metric"))?,
    })
}

/// The images of a record: none, one path, or a list of paths.
fn images(
    folder: &Folder<'_>,
    place: Place,
    value: Option<&Value>,
) -> Result<Vec<ImageSource>, DatasetError> {
    match value {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::String(path)) => Ok(vec![folder.image(place, "image", path)?]),
        Some(Value::Array(paths)) => {
            let one = |(i, path): (usize, &Value)| {
                let key = format!("image[{i}]");
                folder.image(place, &key, folder.at(place).string(&key, Some(path))?)
            };
            paths.iter().enumerate().map(one).collect()
        }
        other => Err(folder.at(place).wrong("image", "a string or a list of strings", describe(other))),
    }
}

/// Cuts a turn at its markers. `images` holds at least as many images as there are markers.
fn split(text: &str, images: &mut impl Iterator<Item = ImageSource>) -> Vec<Content> {
    let mut pieces = Vec::new();
    let last = text.matches(MARKER).count();
    for (i, mut part) in text.split(MARKER).enumerate() {
        if i > 0 {
            pieces.extend(images.next().map(Content::Image));
            part = part.strip_prefix('\n').unwrap_or(part);
        }
        if i < last {
            part = part.strip_suffix('\n').unwrap_or(part);
        }
        if !part.is_empty() {
            pieces.push(Content::Text(part.to_owned()));
        }
    }
    pieces
}
