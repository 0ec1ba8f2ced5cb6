//! Chat templates: the Jinja program a checkpoint ships, run as transformers runs it
//! (`utils/chat_template_utils.py`: blocks trimmed, Python string methods, `raise_exception`, `tojson`).
//!
//! What differs: `strftime_now` is not defined, since its output depends on the day; templates that ask `is defined`
//! take their fixed date, others fail with an error that names it. `{% generation %}` blocks are not known. Which
//! file the template comes from is the caller's business; tokenizing is in `crate::tokenizer`.

mod pyjson;

use minijinja::value::Kwargs;
use minijinja::{Environment, ErrorKind, Value};
use serde_json::json;

use super::dataset::{Content, Message};
use super::prompt::PromptError;

/// Name of the only template in the environment. No file ending, so nothing is escaped.
const NAME: &str = "chat_template";

/// A compiled chat template.
#[derive(Debug)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    special: SpecialTokens,
}

/// Special tokens that templates print by name.
#[derive(Clone, Debug, Default)]
pub struct SpecialTokens {
    /// `bos_token` of `tokenizer_config.json`; undefined in the template when `None`.
    pub bos: Option<String>,
    /// `eos_token` of `tokenizer_config.json`; undefined in the template when `None`.
    pub eos: Option<String>,
}

impl ChatTemplate {
    /// Compiles the template `source`.
    ///
    /// # Errors
    /// [`PromptError::TemplateSyntax`].
    pub fn new(source: &str, special: SpecialTokens) -> Result<Self, PromptError> {
        let mut environment = Environment::new();
        environment.set_trim_blocks(true);
        environment.set_lstrip_blocks(true);
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_function("raise_exception", |message: String| -> Result<Value, minijinja::Error> {
            Err(minijinja::Error::new(ErrorKind::InvalidOperation, message))
        });
        environment.add_filter("tojson", to_json);
        environment
            .add_template_owned(NAME, source.to_owned())
            .map_err(|e| PromptError::TemplateSyntax { source: Box::new(e) })?;
        Ok(Self { environment, special })
    }

    /// The text of a conversation; with `add_generation_prompt` it ends where the model is to write.
    ///
    /// # Errors
    /// [`PromptError::TemplateRender`]: the template refused the messages (`raise_exception`) or cannot be run.
    pub fn render(&self, messages: &[Message], add_generation_prompt: bool) -> Result<String, PromptError> {
        let failed = |e| PromptError::TemplateRender { source: Box::new(e) };
        let template = self.environment.get_template(NAME).map_err(failed)?;
        let mut context = json!({
            "messages": messages.iter().map(as_given).collect::<Vec<_>>(),
            "add_generation_prompt": add_generation_prompt,
        });
        for (name, token) in [("bos_token", &self.special.bos), ("eos_token", &self.special.eos)] {
            if let Some(token) = token {
                context[name] = json!(token);
            }
        }
        template.render(context).map_err(failed)
    }
}

/// The template in the `chat_template` value of `chat_template.json` or `tokenizer_config.json`: a string, or a list
/// of `{"name", "template"}` of which the one named `default` counts (the only one, if there is just one). `None`
/// when the value is absent.
///
/// # Errors
/// [`PromptError::TemplateShape`] when it is something else.
pub fn template_source(value: Option<&serde_json::Value>) -> Result<Option<String>, PromptError> {
    let wrong = || PromptError::TemplateShape { found: value.map(ToString::to_string).unwrap_or_default() };
    match value {
        None | Some(serde_json::Value::Null) => Ok(None),
        Some(serde_json::Value::String(text)) => Ok(Some(text.clone())),
        Some(serde_json::Value::Array(list)) => {
            let named = list.iter().find(|item| item["name"] == "default");
            let only = if let [item] = list.as_slice() { Some(item) } else { None };
            let text = named.or(only).and_then(|item| item["template"].as_str());
            Ok(Some(text.ok_or_else(wrong)?.to_owned()))
        }
        Some(_) => Err(wrong()),
    }
}

/// A message as transformers passes it to the template: in the form in which the data set gives it.
fn as_given(message: &Message) -> serde_json::Value {
    let content = match message.content.as_slice() {
        [Content::Text(text)] if message.plain => json!(text),
        pieces => pieces.iter().map(piece).collect(),
    };
    json!({ "role": message.role.name(), "content": content })
}

/// An image shows as a constant in the place of its path: a path would bind the prompt to the machine.
fn piece(content: &Content) -> serde_json::Value {
    match content {
        Content::Text(text) => json!({ "type": "text", "text": text }),
        Content::Image(_) => json!({ "type": "image", "image": "image" }),
    }
}

/// transformers' `tojson`: Python's `json.dumps(x, ensure_ascii=False, indent=indent)`. Other arguments are errors.
fn to_json(value: Value, arguments: Kwargs) -> Result<String, minijinja::Error> {
    let indent: Option<usize> = arguments.get("indent")?;
    arguments.assert_all_used()?;
    pyjson::dumps(&value, indent).map_err(|e| {
        minijinja::Error::new(ErrorKind::BadSerialization, "value cannot be written as JSON").with_source(e)
    })
}

#[cfg(test)]
mod tests;
