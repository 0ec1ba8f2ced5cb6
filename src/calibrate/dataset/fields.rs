//! Typed access to JSON values with errors that name file, place and key. Keys that are not asked for are tolerated:
//! published data sets carry many of their own.

use std::path::Path;

use serde_json::{Map, Value};

use super::error::{DatasetError, Place};

/// Longest piece of a value that an error shows, in characters.
const SHOWN: usize = 40;

/// A place in a data set file, to say it in errors.
#[derive(Clone, Copy, Debug)]
pub(super) struct At<'a> {
    pub path: &'a Path,
    pub place: Place,
}

impl At<'_> {
    /// The error for a value that is not what it should be.
    pub fn wrong(&self, key: &str, expected: &'static str, found: String) -> DatasetError {
        DatasetError::Field {
            path: self.path.to_owned(),
            place: self.place,
            key: key.to_owned(),
            expected,
            found,
        }
    }

    /// `value` as an object.
    pub fn object<'v>(&self, key: &str, value: &'v Value) -> Result<&'v Map<String, Value>, DatasetError> {
        value.as_object().ok_or_else(|| self.wrong(key, "an object", describe(Some(value))))
    }

    /// `value` as a list.
    pub fn list<'v>(&self, key: &str, value: Option<&'v Value>) -> Result<&'v [Value], DatasetError> {
        value
            .and_then(Value::as_array)
            .map(Vec::as_slice)
            .ok_or_else(|| self.wrong(key, "a list", describe(value)))
    }

    /// `value` as text.
    pub fn string<'v>(&self, key: &str, value: Option<&'v Value>) -> Result<&'v str, DatasetError> {
        value.and_then(Value::as_str).ok_or_else(|| self.wrong(key, "a string", describe(value)))
    }

    /// `value` as text or a whole number, `None` when absent or null.
    pub fn label(&self, key: &str, value: Option<&Value>) -> Result<Option<String>, DatasetError> {
        match value {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(s)) => Ok(Some(s.clone())),
            Some(Value::Number(n)) if !n.is_f64() => Ok(Some(n.to_string())),
            Some(_) => Err(self.wrong(key, "a string or a whole number", describe(value))),
        }
    }
}

/// A value in the words of an error.
pub(super) fn describe(value: Option<&Value>) -> String {
    match value {
        None => "nothing".into(),
        Some(Value::Null) => "null".into(),
        Some(Value::Bool(b)) => b.to_string(),
        Some(Value::Number(n)) => format!("the number {n}"),
        Some(Value::String(s)) => format!("the string '{}'", clip(s)),
        Some(Value::Array(a)) => format!("a list of {}", a.len()),
        Some(Value::Object(o)) => {
            format!("an object with the keys {:?}", o.keys().take(8).collect::<Vec<_>>())
        }
    }
}

/// The start of a text.
pub(super) fn clip(text: &str) -> String {
    let mut chars = text.chars();
    let start: String = chars.by_ref().take(SHOWN).collect();
    if chars.next().is_some() { format!("{start}...") } else { start }
}
