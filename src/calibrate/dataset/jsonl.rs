//! JSON lines of chats in the form that transformers' `apply_chat_template` takes: `{"messages": [{"role": "user",
//! "content": "text" | [{"type": "image", "image": "a.png"}, {"type": "text", "text": "..."}]}]}`.
//!
//! A last turn of the assistant is the expected answer and is taken off the messages; without one there is no answer.
//! `id`, `category` and `metric` are optional, other keys are tolerated, blank lines are skipped. A line with `conversations`
//! in the place of `messages` is a LLaVA record (see `llava`).

use serde_json::{Map, Value};

use super::error::{DatasetError, Place};
use super::fields::describe;
use super::llava;
use super::source::{Draft, Folder};
use super::{Content, Message, Role};

/// Reads at most `limit` samples.
pub(super) fn parse<'a>(
    folder: &Folder<'a>,
    text: &str,
    limit: usize,
) -> Result<Vec<Draft<'a>>, DatasetError> {
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    lines.take(limit).map(|(index, line)| parse_line(folder, Place::Line(index as u64 + 1), line)).collect()
}

fn parse_line<'a>(folder: &Folder<'a>, place: Place, line: &str) -> Result<Draft<'a>, DatasetError> {
    let at = folder.at(place);
    let value: Value = serde_json::from_str(line).map_err(|source| DatasetError::Json {
        path: folder.path.to_owned(),
        place,
        source,
    })?;
    let record = at.object("the line", &value)?;
    if record.contains_key("conversations") && !record.contains_key("messages") {
        return llava::record(folder, place, &value);
    }
    let turns = at.list("messages", record.get("messages"))?;
    let mut messages = turns
        .iter()
        .enumerate()
        .map(|(i, turn)| message(folder, place, &format!("messages[{i}]"), turn))
        .collect::<Result<Vec<_>, _>>()?;
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

/// Takes a last turn of the assistant off the messages. What is left must end with a turn of the user.
pub(super) fn take_answer(
    folder: &Folder<'_>,
    place: Place,
    messages: &mut Vec<Message>,
) -> Result<Option<String>, DatasetError> {
    let at = folder.at(place);
    let mut answer = None;
    if let Some(last) = messages.pop_if(|m| m.role == Role::Assistant) {
        let mut text = String::new();
        for content in last.content {
            match content {
                Content::Text(t) => text.push_str(&t),
                Content::Image(_) => {
                    return Err(at.wrong("the answer (last turn)", "text only", "an image".into()));
                }
            }
        }
        answer = Some(text);
    }
    match messages.last() {
        Some(Message { role: Role::User, .. }) => Ok(answer),
        other => {
            let found = other.map_or("no turn".into(), |m| format!("a turn of the {}", m.role.name()));
            Err(at.wrong("the last turn (before the answer, if any)", "a turn of the user", found))
        }
    }
}

fn message(folder: &Folder<'_>, place: Place, key: &str, turn: &Value) -> Result<Message, DatasetError> {
    let at = folder.at(place);
    let turn = at.object(key, turn)?;
    let role_key = format!("{key}.role");
    let name = at.string(&role_key, turn.get("role"))?;
    let role = Role::from_name(name)
        .ok_or_else(|| at.wrong(&role_key, "system, user or assistant", format!("'{name}'")))?;
    let key = format!("{key}.content");
    match turn.get("content") {
        Some(Value::String(text)) => {
            Ok(Message { role, content: vec![Content::Text(text.clone())], plain: true })
        }
        Some(Value::Array(items)) => {
            let piece = |(i, v): (usize, &Value)| {
                let key = format!("{key}[{i}]");
                content(folder, place, &key, at.object(&key, v)?)
            };
            let content = items.iter().enumerate().map(piece).collect::<Result<_, _>>()?;
            Ok(Message { role, content, plain: false })
        }
        other => Err(at.wrong(&key, "a string or a list", describe(other))),
    }
}

fn content(
    folder: &Folder<'_>,
    place: Place,
    key: &str,
    item: &Map<String, Value>,
) -> Result<Content, DatasetError> {
    let at = folder.at(place);
    let type_key = format!("{key}.type");
    match at.string(&type_key, item.get("type"))? {
        "text" => Ok(Content::Text(at.string(&format!("{key}.text"), item.get("text"))?.to_owned())),
        "image" => {
            let key = format!("{key}.image");
            Ok(Content::Image(folder.image(place, &key, at.string(&key, item.get("image"))?)?))
        }
        other => Err(at.wrong(&type_key, "text or image", format!("'{other}'"))),
    }
}
